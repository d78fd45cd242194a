//! Trials in the slot that runs: what changes is exchanged while the device goes on, judged, and kept or undone.

use crate::{built_trials, exec};
use anyhow::{Context, Result, ensure};
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::trials::{JUDGED, Project, committed, failure, pid, running, update};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A device that runs, and its project.
fn start() -> Result<(Project, Disk, Guest)> {
    let (project, disk) = built_trials()?;
    let mut guest = Guest::start(&disk, &[])?;
    guest.wait_for_control(BOOT)?;
    let runs = guest.wait_for_state("app", "running", SOON);
    runs.map_err(|error| error.context(guest.tail()))?;
    Ok((project, disk, guest))
}

/// A trial that must fail for this reason, without a reboot, while the others go on.
fn fails(project: &Project, guest: &mut Guest, reason: &str) -> Result<()> {
    let boots = guest.boots();
    let before = committed(guest)?;
    let keeper = running(guest, "keeper")?;
    let pushed = project.push(guest, &[])?;
    ensure!(!pushed.committed, "it was committed: {}", pushed.said);
    let told = text(&pushed.said, "reason").to_owned();
    ensure!(told == reason, "kedge push tells {told:?}: {}", pushed.said);
    let failed = failure(guest)?;
    ensure!(failed == reason, "the device tells {failed:?}");
    ensure!(committed(guest)? == before, "something else is committed");
    guest.wait_for_state("app", "running", SOON)?;
    ensure!(pid(guest, "keeper")? == keeper, "keeper is another process");
    ensure!(guest.boots() == boots, "the device was restarted");
    let update = update(guest)?;
    ensure!(update.get("trial").is_none(), "a trial is left: {update}");
    Ok(())
}

#[test]
fn vm_trials_without_a_reboot() -> Result<()> {
    let (project, disk, mut guest) = start()?;
    let mut checks = Checks::default();
    checks.run("the console tells the state", &mut guest, boot_is_told);
    checks.run("a changed container is exchanged", &mut guest, |guest| {
        good(&project, guest)
    });
    checks.run("the same again changes nothing", &mut guest, |guest| {
        let pushed = project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        Ok(())
    });
    bad_containers(&project, &mut guest, &mut checks);
    checks.run("an operator rolls back", &mut guest, |guest| {
        operator(&project, guest)
    });
    checks.run(
        "an operator rolls back before the trial's containers came",
        &mut guest,
        |guest| while_retiring(&project, guest),
    );
    checks.run("parameters are tried", &mut guest, |guest| {
        parameters(&project, guest)
    });
    checks.run("volumes come back", &mut guest, |guest| {
        volumes(&project, guest)
    });
    checks.run("memory ends with what had it", &mut guest, |guest| {
        memory(&project, guest)
    });
    checks.run("below the floor", &mut guest, |guest| {
        floor(&project, guest)
    });
    checks.run("history", &mut guest, history);
    checks.run("power off", &mut guest, |guest| {
        guest.post("/v1/poweroff")?;
        guest.wait_for_end(Duration::from_secs(60)).map(drop)
    });
    checks.run("the file system is clean", &mut guest, |_| {
        disk.check_data()
    });
    checks.finish()
}

/// Every way in which a container can fail a trial.
fn bad_containers(project: &Project, guest: &mut Guest, checks: &mut Checks) {
    checks.run("never ready", guest, |guest| {
        project.app(
            "ready",
            &["sleep"],
            "[health]\nnotify = true\nstart-period = \"1min\"\n",
        )?;
        fails(project, guest, "goal-missed(app, ready)")
    });
    checks.run("crash loop", guest, |guest| {
        let restart = "[restart]\npolicy = \"always\"\ndelay = \"200ms\"\n";
        project.app("started", &["crash", "50", "3"], restart)?;
        fails(project, guest, "crash-loop(app, exit 3)")
    });
    checks.run("finished with an error", guest, |guest| {
        project.app("finished", &["finish", "4"], "[restart]\npolicy = \"no\"\n")?;
        fails(project, guest, "goal-missed(app, finished, exit 4)")
    });
    checks.run("out of memory", guest, |guest| {
        let rest = "[restart]\npolicy = \"no\"\n[limits]\nmemory-max = \"16MiB\"\n";
        project.app("started", &["eat"], rest)?;
        fails(project, guest, "out-of-memory(app)")
    });
    checks.run("more memory than there is", guest, |guest| {
        let rest = "[restart]\npolicy = \"no\"\n[limits]\nmemory-min = \"64GiB\"\n";
        project.app("started", &["sleep"], rest)?;
        fails(project, guest, "goal-missed(app, started, exit 127)")?;
        let line = guest.wait_for_log("kedge", "limits.memory-min: 68719476736 bytes", SOON)?;
        ensure!(line.text.contains("app"), "{}", line.text);
        Ok(())
    });
    checks.run("a container asks for a roll back", guest, |guest| {
        let rest = "[restart]\npolicy = \"on-failure\"\ndelay = \"100ms\"\nmax-retries = 1\nthen = \"roll-back\"\n";
        project.app("started", &["crash", "50", "5"], rest)?;
        fails(project, guest, "goal-missed(app, started, exit 5)")
    });
    checks.run("a new program that cannot be executed", guest, |guest| {
        project.set(
            "app",
            "app",
            "started",
            &["sleep"],
            "working-directory = \"/nowhere\"\n[restart]\npolicy = \"no\"\n",
        )?;
        fails(project, guest, "goal-missed(app, started, exit 127)")
    });
}

fn good(project: &Project, guest: &mut Guest) -> Result<()> {
    let before = committed(guest)?;
    let (keeper, base, app) = (
        running(guest, "keeper")?,
        running(guest, "base")?,
        running(guest, "app")?,
    );
    project.app("started", &["sleep", "another"], "")?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    ensure!(committed(guest)? != before, "the old revision is committed");
    ensure!(pid(guest, "keeper")? == keeper, "keeper is another process");
    ensure!(pid(guest, "base")? == base, "base is another process");
    ensure!(pid(guest, "app")? != app, "app is the same process");
    ensure!(guest.boots() == 1, "the device was restarted");
    let status = guest.status()?;
    ensure!(text(&status, "trial") == "committed", "{status}");
    let missing = status.get("goals-missing").and_then(Value::as_array);
    ensure!(missing.is_some_and(Vec::is_empty), "{status}");
    let states = guest.expect_state("good", SOON)?;
    let end = states.split_at(states.len().saturating_sub(4)).1;
    ensure!(end == ["good", "updating", "trial", "good"], "{states:?}");
    Ok(())
}

/// From the boot on to a device that runs what it should, as a person at the console sees it, and a program by the status.
fn boot_is_told(guest: &mut Guest) -> Result<()> {
    let states = guest.expect_state("good", SOON)?;
    ensure!(
        states.first().is_some_and(|word| word == "booting"),
        "{states:?}"
    );
    // Whether the network or the disk is waited for is the machine's to say; nothing is wrong, and nothing is said twice.
    let way = ["booting", "growing", "no-network", "good"];
    let strange = states.iter().find(|word| !way.contains(&word.as_str()));
    ensure!(strange.is_none(), "{states:?}");
    let once = |word: &str| states.iter().filter(|told| *told == word).count() == 1;
    ensure!(once("booting") && once("good"), "{states:?}");
    let mut dry = states.clone();
    dry.dedup();
    ensure!(dry == states, "{states:?}");
    let line = guest.expect("kedge: state good: ", SOON)?;
    ensure!(line.contains("10.0.2.15"), "no address: {line}");
    let status = guest.status()?;
    let state = status.get("state").context("no state in the status")?;
    ensure!(text(state, "word") == "good", "{status}");
    ensure!(text(state, "text") == "it runs what it should", "{status}");
    Ok(())
}

fn operator(project: &Project, guest: &mut Guest) -> Result<()> {
    ensure!(guest.control("POST", "/v1/update/rollback")?.status == 409);
    let before = committed(guest)?;
    project.app("started", &["sleep", "unwanted"], "")?;
    let pushed = project.push(guest, &["--detach"])?;
    ensure!(pushed.committed, "{}", pushed.said);
    guest.wait("the trial runs", JUDGED, |guest| {
        let status = guest.status()?;
        Ok(status.pointer("/trial/trying").map(drop))
    })?;
    guest.post("/v1/update/rollback")?;
    guest.wait("the trial is over", JUDGED, |guest| {
        Ok((failure(guest)? == "operator").then_some(()))
    })?;
    ensure!(committed(guest)? == before, "something else is committed");
    guest.wait_for_state("app", "running", SOON).map(drop)
}

/// The container that is exchanged hears no signal, so that it is surely still there when the trial is given up.
fn while_retiring(project: &Project, guest: &mut Guest) -> Result<()> {
    let grace = "stop-grace = \"20s\"\n";
    project.app("started", &["stubborn"], grace)?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    let before = committed(guest)?;
    let boots = guest.boots();
    let (keeper, app) = (running(guest, "keeper")?, running(guest, "app")?);
    project.app("started", &["stubborn", "unwanted"], grace)?;
    let pushed = project.push(guest, &["--detach"])?;
    ensure!(pushed.committed, "{}", pushed.said);
    let stopping = update(guest)?;
    let phase = stopping.pointer("/staging/phase").and_then(Value::as_str);
    ensure!(phase == Some("stopping what changes"), "{stopping}");
    guest.post("/v1/update/rollback")?;
    let over = update(guest)?;
    ensure!(over.get("trial").is_none(), "a trial is left: {over}");
    ensure!(failure(guest)? == "operator", "{over}");
    ensure!(committed(guest)? == before, "something else is committed");
    guest.wait("the exchange is over", JUDGED, |guest| {
        Ok(update(guest)?.get("staging").is_none().then_some(()))
    })?;
    guest.wait_for_state("app", "running", SOON)?;
    ensure!(pid(guest, "app")? != app, "app was not stopped");
    ensure!(pid(guest, "keeper")? == keeper, "keeper is another process");
    ensure!(guest.boots() == boots, "the device was restarted");
    // What was given up is none of what runs: the next trial finds nothing in its way.
    let status = guest.status()?;
    ensure!(text(&status, "trial") == "committed", "{status}");
    Ok(())
}

/// The site that the newest process of `site` has shown.
pub(crate) fn site(guest: &Guest, wanted: &str) -> Result<()> {
    guest.wait(&format!("site shows {wanted}"), SOON, |guest| {
        let lines = guest.logs("site")?;
        let shown = lines
            .iter()
            .rev()
            .find_map(|line| line.text.strip_prefix("fact env-SITE "));
        Ok((shown == Some(wanted)).then_some(()))
    })
}

fn parameters(project: &Project, guest: &mut Guest) -> Result<()> {
    site(guest, "nowhere")?;
    project.app("started", &["sleep", "another"], "")?;
    let file = project.kedge.folder().join("site.toml");
    kedge_image_build::files::write(&file, "site = \"berlin\"\n")?;
    let file = file.display().to_string();
    let keeper = running(guest, "keeper")?;
    let with = ["--parameters", &file, "--parameters-counter", "7"];
    let pushed = project.push(guest, &with)?;
    ensure!(pushed.committed, "{}", pushed.said);
    site(guest, "berlin")?;
    let counter = update(guest)?
        .pointer("/committed/parameters")
        .and_then(Value::as_u64);
    ensure!(counter == Some(7), "parameters {counter:?} are committed");
    ensure!(pid(guest, "keeper")? == keeper, "keeper is another process");
    // Values that fail their trial go with it.
    kedge_image_build::files::write(
        &project.kedge.folder().join("site.toml"),
        "site = \"paris\"\n",
    )?;
    project.app("finished", &["finish", "1"], "[restart]\npolicy = \"no\"\n")?;
    let with = ["--parameters", &file, "--parameters-counter", "8"];
    let pushed = project.push(guest, &with)?;
    ensure!(!pushed.committed, "{}", pushed.said);
    site(guest, "berlin")?;
    let counter = update(guest)?
        .pointer("/committed/parameters")
        .and_then(Value::as_u64);
    ensure!(counter == Some(7), "parameters {counter:?} are committed");
    // Values that a revision no longer takes stay behind, and are in nobody's way.
    project.app("started", &["sleep", "third"], "")?;
    let (wide, narrow) = (
        "max-length = 20\ndefault = \"nowhere\"",
        "max-length = 5\ndefault = \"none\"",
    );
    project.edit(wide, narrow)?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    site(guest, "none")?;
    project.edit(narrow, wide)?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    site(guest, "nowhere")?;
    let counter = pushed.said.get("parameters");
    ensure!(counter == Some(&7.into()), "{}", pushed.said);
    Ok(())
}

/// How often `data` says that it was started.
fn starts(guest: &Guest) -> Result<u64> {
    let count = |guest: &Guest| -> Result<Option<u64>> {
        let lines = guest.logs("data")?;
        let last = lines
            .iter()
            .rev()
            .find_map(|line| line.text.strip_prefix("volume /keep "));
        Ok(last.and_then(|count| count.parse().ok()))
    };
    guest.wait("data counts its starts", SOON, count)
}

fn volumes(project: &Project, guest: &mut Guest) -> Result<()> {
    let before = starts(guest)?;
    // Another `data` writes into the volume on trial; `app` fails the trial a while later.
    let keep = "[volumes.keep]\npath = \"/keep\"\nlifetime = \"permanent\"\nsize = \"2MiB\"\nsnapshot = \"on-trial\"\nsnapshot-max = \"1MiB\"\n";
    let changed = format!("environment = [\"NEW=1\"]\n{keep}");
    project.set("data", "app", "started", &["volumes", "/keep"], &changed)?;
    project.app(
        "finished",
        &["crash", "3000", "2"],
        "[restart]\npolicy = \"no\"\n",
    )?;
    let pushed = project.push(guest, &[])?;
    ensure!(!pushed.committed, "{}", pushed.said);
    // Start n, the trial's start n + 1, and after the roll back n + 1 again: what the trial wrote is gone. The verdict comes
    // before the way back, and the trial's `data` may still run then.
    let wanted = [before + 1, before + 1];
    guest.wait(&format!("data says {wanted:?}"), SOON, |guest| {
        let lines = guest.logs("data")?;
        let said = lines
            .iter()
            .filter_map(|line| line.text.strip_prefix("volume /keep ")?.parse().ok());
        let said: Vec<u64> = said.collect();
        let tail = said.get(said.len().saturating_sub(2)..).unwrap_or_default();
        Ok((tail == wanted).then_some(()))
    })?;
    // What came back is another folder, and has the volume's limit.
    let found = exec::ask(guest, "/v1/containers/data")?;
    let most = found.pointer("/volumes/0/bytes-max");
    ensure!(most == Some(&Value::from(2 << 20)), "{found}");
    project.set("data", "app", "started", &["volumes", "/keep"], keep)
}

/// What a program wrote into a root in memory would hide what an update brings, so it ends with the definition; a volume goes on.
/// What ended is mounted nowhere.
fn memory(project: &Project, guest: &mut Guest) -> Result<()> {
    let mounts = |guest: &Guest| -> Result<Option<u64>> {
        let usage = exec::ask(guest, "/v1/usage")?;
        Ok(usage.pointer("/held/mounts").and_then(Value::as_u64))
    };
    let push = |guest: &mut Guest| {
        let pushed = project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        Ok(())
    };
    project.app("started", &["sleep", "before"], "")?;
    push(guest)?;
    let before = mounts(guest)?.context("nothing is said of mounts")?;
    for run in 1..=2 {
        let rest = format!(
            "environment = [\"RUN={run}\"]\n[volumes.cache]\npath = \"/keep\"\nlifetime = \"boot\"\n"
        );
        project.app("started", &["volumes", "/", "/keep"], &rest)?;
        project.add_line("app", "root = \"boot\"")?;
        push(guest)?;
        let wanted = ["volume / 1".to_owned(), format!("volume /keep {run}")];
        guest.wait(&format!("app says {wanted:?}"), SOON, |guest| {
            let lines = guest.logs("app")?;
            let said = lines.iter().map(|line| &line.text);
            let said: Vec<_> = said.filter(|text| text.starts_with("volume ")).collect();
            let last = said.split_at(said.len().saturating_sub(2)).1;
            Ok((last == wanted.each_ref()).then_some(()))
        })?;
        ensure!(
            mounts(guest)? == Some(before + 2),
            "{:?} mounts, {before} before: one for the root, one for the volume",
            mounts(guest)?
        );
    }
    project.app("started", &["sleep", "after"], "")?;
    push(guest)?;
    let after = mounts(guest)?;
    ensure!(after == Some(before), "{before} mounts, then {after:?}");
    // One that comes as another goes has its place, and nothing that was its.
    let containers = project.kedge.folder().join("containers");
    for (name, goes) in [("one", None), ("other", Some("one"))] {
        let rest = "[volumes.cache]\npath = \"/keep\"\nlifetime = \"boot\"\n";
        project.set(name, "app", "started", &["sleep"], rest)?;
        project.add_line(name, "root = \"boot\"")?;
        if let Some(goes) = goes {
            std::fs::remove_file(containers.join(format!("{goes}.toml")))?;
        }
        push(guest)?;
        let now = mounts(guest)?;
        ensure!(
            now == Some(before + 2),
            "{before} mounts before {name}, then {now:?}"
        );
    }
    std::fs::remove_file(containers.join("other.toml"))?;
    push(guest)?;
    let end = mounts(guest)?;
    ensure!(end == Some(before), "{before} mounts, at the end {end:?}");
    Ok(())
}

fn floor(project: &Project, guest: &mut Guest) -> Result<()> {
    project.app("started", &["sleep", "old"], "")?;
    let old = project.bundle("old.kedge")?;
    let now = update(guest)?;
    project.app("started", &["sleep", "new"], "")?;
    let counter = kedge_image_build::files::read_text(&project.kedge.folder().join("kedge.lock"))?;
    let counter: u64 = counter
        .lines()
        .find_map(|line| line.strip_prefix("counter = "))
        .and_then(|text| text.parse().ok())
        .context("no counter in kedge.lock")?;
    project.edit("floor = 0", &format!("floor = {}", counter + 1))?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    let after = update(guest)?;
    ensure!(text(&now, "floor") == "1.0", "before the commit: {now}");
    let expected = format!("1.{}", counter + 1);
    ensure!(
        text(&after, "floor") == expected,
        "after the commit: {after}"
    );
    let refused = project.push_bundle(guest, &old)?;
    ensure!(!refused.committed, "below the floor: {}", refused.said);
    ensure!(
        refused.said.to_string().contains("floor"),
        "the refusal does not name the floor: {}",
        refused.said
    );
    ensure!(update(guest)? == after, "the refusal left something");
    Ok(())
}

fn history(guest: &mut Guest) -> Result<()> {
    let answer = guest.control("GET", "/v1/history")?;
    ensure!(answer.status == 200, "{}", answer.body);
    let events: Vec<Value> = answer
        .body
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| answer.body.clone())?;
    let count = |name: &str| {
        events
            .iter()
            .filter(|event| text(event, "event") == name)
            .count()
    };
    for (name, least) in [
        ("booted", 1),
        ("trial-begun", 8),
        ("committed", 3),
        ("rolled-back", 8),
    ] {
        ensure!(
            count(name) >= least,
            "{} {name}: {}",
            count(name),
            answer.body
        );
    }
    let reasons: Vec<&str> = events.iter().map(|event| text(event, "reason")).collect();
    ensure!(reasons.contains(&"operator"), "{reasons:?}");
    ensure!(reasons.contains(&"crash-loop(app, exit 3)"), "{reasons:?}");
    Ok(())
}
