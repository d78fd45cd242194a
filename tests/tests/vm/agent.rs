//! A device and a hub: what the agent may do, and what it brings.

use crate::{built_fleet, life};
use anyhow::{Context, Result, ensure};
use kedge_image_build::files;
use kedge_revision::Timestamp;
#[cfg(feature = "all-boards")]
use kedge_tests::disk::Disk;
use kedge_tests::fleet::{Fleet, PULLED};
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::hub::Hub;
use kedge_tests::trials::{committed, failure, pid, running, update};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn vm_a_confined_agent_brings_an_update() -> Result<()> {
    let (fleet, disk) = built_fleet()?;
    let guest = fleet.start(&disk)?;
    confined_agent(&fleet, guest)
}

/// The agent on a device that has just started: its confinement, and an update that it brings without being refused a call.
pub(crate) fn confined_agent(fleet: &Fleet, mut guest: Guest) -> Result<()> {
    let mut checks = Checks::default();
    checks.run("it may do what it must, and no more", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        let agent = guest.wait("the agent runs", BOOT, |guest| {
            let status = guest.status()?;
            let all = status.get("processes").and_then(Value::as_array);
            let all = all.context("no processes are told")?;
            let agent = all.iter().find(|process| text(process, "name") == "agent");
            // Its first moments are PID 1's child's.
            Ok(agent
                .map(|agent| text(agent, "confinement").to_owned())
                .filter(|is| is.contains("Seccomp:2")))
        })?;
        for fact in [
            "Uid:64000 ",
            "CapPrm:0000000000000000 ",
            "NoNewPrivs:1 ",
            "Seccomp:2 ",
            "Root:/run/kedge/agent",
        ] {
            ensure!(agent.contains(fact), "{agent} lacks {fact}");
        }
        Ok(())
    });
    checks.run(
        "it enrols, and an update is committed",
        &mut guest,
        |guest| {
            fleet.project.app("started", &["sleep", "second"], "")?;
            let revision = fleet.publish(&["--assign", "all", "--yes"])?;
            fleet.wait(guest, "the device has enrolled", |device| {
                (device.get("report")?.as_u64()? > 0).then_some(())
            })?;
            // It may have enrolled after all were assigned.
            fleet
                .project
                .kedge
                .ask(&["assign", "all", &revision, "--yes"])?;
            fleet.wait_for_commit(guest, &revision)?;
            let refused: Vec<String> = guest
                .logs("kedge")?
                .into_iter()
                .map(|line| line.text)
                .filter(|text| text.contains("not permitted"))
                .collect();
            ensure!(refused.is_empty(), "{refused:?}");
            Ok(())
        },
    );
    checks.run("idle memory, the poll held", &mut guest, |guest| {
        life::idle_memory(guest, fleet.board())
    });
    checks.finish()
}

/// A hub's updates that take a slot and a reboot: one that holds, one whose kernel panics, and a power cut behind both.
/// What panics before its modules are loaded is known to have panicked by our own kernels alone.
#[cfg(feature = "all-boards")]
pub(crate) fn other_slots(fleet: &Fleet, disk: &Disk) -> Result<()> {
    let mut guest = fleet.start_flashed(disk)?;
    let mut checks = Checks::default();
    let mut good = String::new();
    let known = fleet.project.has_own_kernel()?;
    let why = if known {
        "kernel-panic"
    } else {
        "tries-exhausted"
    };
    checks.run("another slot is committed", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        fleet.wait_for_enrolment(guest)?;
        fleet.project.kernel_arguments("tests.kedge=hub")?;
        good = fleet.publish(&["--assign", "all", "--yes"])?;
        fleet.wait_for_commit(guest, &good)?;
        ensure!(guest.boots() == 2, "{} boots", guest.boots());
        runs(guest, &good)
    });
    let mut bad = String::new();
    checks.run("a panic is rolled back, and told", &mut guest, |guest| {
        fleet.project.kernel_arguments("rdinit=/nowhere")?;
        if !known {
            // What crashes in silence is tried three times over.
            fleet.project.tries(1)?;
        }
        bad = fleet.publish(&["--assign", "all", "--yes"])?;
        let heard = "the hub hears of the failure";
        let reason = fleet.wait_within(crate::slots::EXHAUSTED, guest, heard, |device| {
            let failed = device.get("failed")?;
            (text(failed, "revision") == bad).then(|| text(failed, "reason").to_owned())
        })?;
        ensure!(reason == why, "the reason is {reason}");
        runs(guest, &good)
    });
    guest.cut_power()?;
    checks.finish()?;
    let mut guest = Guest::with(fleet.machine(disk)?)?;
    let mut checks = Checks::default();
    checks.run("it is where it was", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        guest.wait_for_state("app", "running", BOOT)?;
        ensure!(failure(guest)? == why, "another failure is told");
        runs(guest, &good)
    });
    checks.finish()
}

/// This revision is committed, and runs from slot b.
#[cfg(feature = "all-boards")]
fn runs(guest: &Guest, revision: &str) -> Result<()> {
    ensure!(committed(guest)? == revision, "another one is committed");
    let status = guest.status()?;
    ensure!(text(&status, "slot") == "b", "{status}");
    Ok(())
}

/// What a device's clock shows when it starts says nothing: neither who is believed nor what is installed hangs on it.
#[test]
fn vm_a_clock_that_is_wrong_is_set_and_keeps_nobody_out() -> Result<()> {
    let (fleet, disk) = built_fleet()?;
    // Before anything was made, and after every certificate has run out.
    for (date, word) in [
        ("1970-01-01T00:00:00", "early"),
        ("2099-06-01T12:00:00", "late"),
    ] {
        let mut config = fleet.machine(&disk)?;
        config.provision = Some(fleet.provision.clone());
        config.date = Some(date.to_owned());
        let mut guest = Guest::with(config)?;
        let mut checks = Checks::default();
        checks.run(word, &mut guest, |guest| {
            guest.wait_for_control(BOOT)?;
            let set = "the clock is set to ";
            let line = guest.wait_for_log("kedge", set, PULLED)?.text;
            let (_, time) = line.split_once(set).context("no time")?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            let off = now.abs_diff(time.parse::<Timestamp>()?.unix());
            ensure!(off < 600, "{line}");
            fleet.project.app("started", &["sleep", word], "")?;
            let revision = fleet.publish(&[])?;
            fleet.wait_for_enrolment(guest)?;
            fleet
                .project
                .kedge
                .ask(&["assign", "all", &revision, "--yes"])?;
            fleet.wait_for_commit(guest, &revision)?;
            let failed = failure(guest)?;
            ensure!(failed.is_empty(), "{failed}");
            Ok(())
        });
        guest.cut_power()?;
        checks.finish()?;
    }
    Ok(())
}

/// A container holds updates back: until an operator says apply, and until it ends.
#[test]
fn vm_a_container_holds_updates_back() -> Result<()> {
    let (fleet, _) = built_fleet()?;
    let project = &fleet.project;
    project.set("press", "app", "started", &["lock", "3600"], "")?;
    project.grant("press", "lock")?;
    let disk = project.build()?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    checks.run("it takes the lock", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        guest.wait_for_log("press", "lock 200 {\"seconds\":3", BOOT)?;
        ensure!(locks(guest)? == ["press"]);
        fleet.wait_for_enrolment(guest)
    });
    checks.run(
        "the update waits for it, and the hub knows",
        &mut guest,
        |guest| {
            project.app("started", &["sleep", "second"], "")?;
            fleet.publish(&["--assign", "all", "--yes"])?;
            wait_for_lock(&fleet, guest)?;
            let device = fleet.device()?;
            let why = project.kedge.ask(&["device", "why", text(&device, "id")])?;
            ensure!(why.to_string().contains("update lock"), "{why}");
            let update = update(guest)?;
            ensure!(update.get("trial").is_none(), "{update}");
            Ok(())
        },
    );
    checks.run("an operator's apply overrides it", &mut guest, |guest| {
        let device = fleet.device()?;
        project
            .kedge
            .ask(&["device", "apply", text(&device, "id")])?;
        let desired = device.pointer("/desired/revision");
        let desired = desired.and_then(Value::as_str).context("nothing desired")?;
        fleet.wait_for_commit(guest, desired)?;
        ensure!(locks(guest)? == ["press"], "the lock has gone");
        Ok(())
    });
    checks.run("the next one waits until it ends", &mut guest, |guest| {
        project.set("press", "app", "started", &["sleep"], "")?;
        let revision = fleet.publish(&["--assign", "all", "--yes"])?;
        wait_for_lock(&fleet, guest)?;
        guest.post("/v1/containers/press/stop")?;
        fleet.wait_for_commit(guest, &revision)?;
        ensure!(locks(guest)?.is_empty());
        Ok(())
    });
    checks.finish()
}

/// From the operator's file to the container's, and in clear nowhere between.
#[test]
fn vm_a_secret_reaches_its_container_and_nobody_else() -> Result<()> {
    let (fleet, disk) = built_fleet()?;
    let project = &fleet.project;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    let give = |value: &str| {
        let path = fleet.write("password", &format!("{value}\n"))?;
        let device = fleet.device()?;
        let file = format!("password={path}");
        let words = ["parameters", text(&device, "id"), "--secret-file", &file];
        project.kedge.ask(&words)
    };
    let arrives = |guest: &Guest, value: &str| {
        let backwards: String = value.chars().rev().collect();
        guest.wait_for_log("app", &format!("password {backwards}"), PULLED)
    };
    checks.run(
        "it comes with the revision that declares it",
        &mut guest,
        |guest| {
            guest.wait_for_control(BOOT)?;
            fleet.wait_for_enrolment(guest)?;
            give("correct-horse")?;
            let declared =
                "\n[parameters.password]\ntype = \"string\"\nsecret = true\n\n[parameters.site]";
            project.edit("\n[parameters.site]", declared)?;
            let read = ["reverse", "/dev/kedge/secrets/password"];
            project.app("started", &read, "secrets = [\"password\"]\n")?;
            let revision = fleet.publish(&["--assign", "all", "--yes"])?;
            arrives(guest, "correct-horse")?;
            fleet.wait_for_commit(guest, &revision)
        },
    );
    checks.run(
        "another value is another trial of its container",
        &mut guest,
        |guest| {
            let keeper = running(guest, "keeper")?;
            give("battery-staple")?;
            arrives(guest, "battery-staple")?;
            ensure!(pid(guest, "keeper")? == keeper, "keeper was restarted");
            Ok(())
        },
    );
    checks.run("in clear it is refused, and nowhere", &mut guest, |guest| {
        let device = fleet.device()?;
        let words = ["parameters", text(&device, "id"), "password=in-clear"];
        let (said, _) = project.kedge.refuse(&words)?;
        ensure!(
            said.contains("sealed") && !said.contains("in-clear"),
            "{said}"
        );
        let (events, _) = project.kedge.try_ask(&["events"])?;
        let logs = guest.logs("kedge")?;
        let status = guest.status()?.to_string();
        let shown = project
            .kedge
            .ask(&["device", "show", text(&device, "id")])?;
        for value in ["correct-horse", "battery-staple", "in-clear"] {
            let held = fleet.hub_files_with(value.as_bytes())?;
            ensure!(held.is_empty(), "{value} is in {held:?}");
            ensure!(!events.contains(value) && !status.contains(value));
            ensure!(!shown.to_string().contains(value));
            ensure!(!logs.iter().any(|line| line.text.contains(value)));
        }
        Ok(())
    });
    checks.finish()
}

/// Its revision names no hub, and nobody provisions it twice: the hub that took it in is asked. Of two hubs that it was
/// provisioned with, the first was not there.
#[test]
fn vm_a_device_remembers_who_took_it_in() -> Result<()> {
    let (fleet, _) = built_fleet()?;
    let address = fleet.device_address()?;
    let hubs = format!("hubs = [\"{address}\"]");
    fleet.project.edit(&hubs, "hubs = []")?;
    let disk = fleet.project.build()?;
    let provision = files::read_text(&fleet.provision)?;
    let two = format!("[\"https://10.0.2.2:1\",\"{address}\"]");
    let one = format!("[\"{address}\"]");
    ensure!(provision.contains(&one), "{provision}");
    let mut provision: Value = serde_json::from_str(&provision.replace(&one, &two))?;
    provision["parameters"] = serde_json::json!({"site": "hall-7", "colour": "of no revision"});
    files::write(&fleet.provision, provision.to_string())?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    checks.run(
        "it enrols at the second hub, with its own values",
        &mut guest,
        |guest| {
            guest.wait_for_control(BOOT)?;
            guest.wait_for_log("site", "env-SITE hall-7", BOOT)?;
            fleet.wait_for_enrolment(guest)
        },
    );
    checks.run("it goes down in order", &mut guest, |guest| {
        guest.post("/v1/poweroff")?;
        guest.wait_for_end(BOOT).map(drop)
    });
    checks.finish()?;
    let kept = disk.debugfs("stat /device/agent\n")?;
    ensure!(kept.contains("Project: 64000"), "{kept}");
    let limits = disk.debugfs("list_quota project\n")?;
    let bound = limits.lines().find(|line| line.trim().starts_with("64000"));
    let bound = bound.with_context(|| format!("nothing bounds the agent's files: {limits}"))?;
    ensure!(
        bound.contains("12582912") || bound.contains("12288"),
        "{bound}"
    );
    let mut guest = Guest::with(fleet.machine(&disk)?)?;
    let mut checks = Checks::default();
    checks.run(
        "it asks the same one, and keeps its values",
        &mut guest,
        |guest| {
            guest.wait_for_control(BOOT)?;
            guest.wait_for_log("site", "env-SITE hall-7", BOOT)?;
            fleet.project.app("started", &["sleep", "again"], "")?;
            let revision = fleet.publish(&["--assign", "all", "--yes"])?;
            fleet.wait_for_commit(guest, &revision)
        },
    );
    checks.finish()
}

/// The next root names another hub, too: the device takes it, and what was signed under it.
#[test]
fn vm_a_device_follows_its_product_to_the_next_root() -> Result<()> {
    let (fleet, disk) = built_fleet()?;
    let kedge = &fleet.project.kedge;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    checks.run("it enrols under root 1", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        fleet.wait_for_enrolment(guest)
    });
    let folder = tempfile::tempdir()?;
    let other = Hub::start(env!("CARGO_BIN_EXE_test-hub"), folder.path())?;
    let mut revision = String::new();
    checks.run(
        "root 2 reaches it, and what it signed",
        &mut guest,
        |guest| {
            kedge.ask(&[
                "login",
                other.url(),
                "--token-file",
                &other.token(),
                "--yes",
            ])?;
            let (_, port) = other.url().rsplit_once(':').context("no port")?;
            let devices = format!("https://10.0.2.2:{port}");
            let trusted =
                kedge.ask(&["key", "trust-hub", other.url(), "--device-hub", &devices])?;
            ensure!(trusted.get("root") == Some(&2.into()), "{trusted}");
            revision = fleet.publish(&["--assign", "all", "--yes"])?;
            guest.wait_for_log("kedge", "root 2 is trusted", PULLED)?;
            fleet.wait_for_commit(guest, &revision)
        },
    );
    checks.run("root 2 is there after a cut", &mut guest, |guest| {
        guest.cut_power()?;
        *guest = fleet.start(&disk)?;
        let status = guest.wait_for_control(BOOT)?;
        ensure!(text(&status, "phase") == "running", "{status}");
        ensure!(committed(guest)? == revision);
        Ok(())
    });
    checks.finish()
}

/// Its containers run well: that it has lost its hub is what ends the trial.
#[test]
fn vm_a_revision_that_loses_the_hub_is_rolled_back() -> Result<()> {
    let (fleet, disk) = built_fleet()?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    let mut before = String::new();
    checks.run("it enrols", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        fleet.wait_for_enrolment(guest)?;
        before = committed(guest)?;
        Ok(())
    });
    checks.run("the trial fails for its hub's sake", &mut guest, |guest| {
        // 15 minutes, else.
        fleet
            .project
            .edit("[commit]\n", "[commit]\nhub-wait = \"30s\"\n")?;
        // A network that nobody else is in.
        fleet.project.edit(
            "[configuration.network]\n",
            "[configuration.network.interfaces.eth0]\naddresses = [\"10.9.9.15/24\"]\ngateways = [\"10.9.9.2\"]\n\n\
             [configuration.network]\n",
        )?;
        let revision = fleet.publish(&["--assign", "all", "--yes"])?;
        let reason = guest.wait("the trial has failed", PULLED, |guest| {
            let reason = failure(guest)?;
            Ok((!reason.is_empty()).then_some(reason))
        })?;
        ensure!(reason == "hub-lost", "the reason is {reason}");
        ensure!(committed(guest)? == before, "something else is committed");
        fleet.wait(guest, "the hub hears why", |device| {
            let failed = device.get("failed")?;
            let told = text(failed, "reason") == "hub-lost" && text(failed, "revision") == revision;
            told.then_some(())
        })
    });
    checks.finish()
}

/// Eight boots did not hold: nothing but PID 1 and its helpers runs, and that is enough.
#[test]
fn vm_a_device_in_repair_mode_is_mended_by_its_hub() -> Result<()> {
    let (fleet, disk) = built_fleet()?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    checks.run("it enrols", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        fleet.wait_for_enrolment(guest)
    });
    guest.cut_power()?;
    checks.finish()?;
    disk.set_unsettled(8)?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    checks.run(
        "the hub knows that it is in repair mode",
        &mut guest,
        |guest| {
            let status = guest.wait_for_control(BOOT)?;
            ensure!(text(&status, "phase").starts_with("repair"), "{status}");
            fleet.wait(guest, "repair mode is told", |device| {
                let phase = device.get("phase")?;
                let why = text(phase, "reason").contains("did not hold their goals");
                (text(phase, "name") == "repair" && why).then_some(())
            })?;
            // With the end of the console, which lists leave out.
            let id = text(&fleet.device()?, "id").to_owned();
            let shown = fleet.project.kedge.ask(&["device", "show", &id])?;
            ensure!(!text(&shown, "console").is_empty(), "{shown}");
            Ok(())
        },
    );
    checks.run("an update mends it", &mut guest, |guest| {
        fleet.project.app("started", &["sleep", "mended"], "")?;
        let revision = fleet.publish(&["--assign", "all", "--yes"])?;
        fleet.wait_for_commit(guest, &revision)?;
        guest.wait_for_state("app", "running", BOOT)?;
        ensure!(text(&guest.status()?, "phase") == "running");
        Ok(())
    });
    checks.finish()
}

/// Which containers hold updates back.
fn locks(guest: &Guest) -> Result<Vec<String>> {
    let update = update(guest)?;
    let locks = update.get("locks").and_then(Value::as_array);
    let names = locks.into_iter().flatten();
    Ok(names
        .map(|lock| text(lock, "container").to_owned())
        .collect())
}

fn wait_for_lock(fleet: &Fleet, guest: &Guest) -> Result<()> {
    fleet.wait(guest, "the device waits for the lock", |device| {
        let phase = device.get("phase")?;
        (text(phase, "name") == "waiting" && text(phase, "for-what") == "lock").then_some(())
    })
}
