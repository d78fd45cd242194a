//! A device and its hub: taken in by its claim, updated, told what to do, asked what it said.
//!
//! The project exists before its hub does, as with anybody who tries Kedge alone first.

use crate::exec::run;
use crate::limits::numbers;
use crate::{built_trials, life};
use anyhow::{Context, Result, ensure};
use kedge_image_build::image::gpt;
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::hub::Hub;
use kedge_tests::kedge::{Following, Kedge};
use kedge_tests::product::BOARD;
use kedge_tests::trials::{JUDGED, Project, committed, failure, pid, running};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const HUB: &str = env!("CARGO_BIN_EXE_test-hub");
/// How long a device may take to hear of something, try it and tell: pauses of its agent, and a trial.
const HEARD: Duration = Duration::from_secs(120);
/// The device's name at the hub.
const NAME: &str = "hall-1";

/// A hub that an operator has logged in to, and that the project's devices trust from now on.
fn hub(project: &mut Project, folder: &std::path::Path) -> Result<Hub> {
    let hub = Hub::start(HUB, folder)?;
    project.kedge = project.kedge.clone().with("XDG_CONFIG_HOME", folder);
    let kedge = &project.kedge;
    kedge.ask(&["login", hub.url(), "--token-file", &hub.token(), "--yes"])?;
    let (_, port) = hub.url().rsplit_once(':').context("a hub without a port")?;
    // QEMU's user network leads this address to the machine's loopback.
    let devices = format!("https://10.0.2.2:{port}");
    let trusted = kedge.ask(&["key", "trust-hub", "--device-hub", &devices])?;
    ensure!(trusted.get("root") == Some(&2.into()), "{trusted}");
    let again = kedge.ask(&["key", "trust-hub", "--device-hub", &devices])?;
    ensure!(again.get("changed") == Some(&false.into()), "{again}");
    Ok(hub)
}

/// What the hub knows of the device.
fn known(kedge: &Kedge) -> Result<Value> {
    kedge.ask(&["device", "show", NAME])
}

/// Waits until what the hub knows is as it is wanted.
fn at_hub(
    guest: &Guest,
    kedge: &Kedge,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    guest.wait(what, HEARD, |_| {
        let known = known(kedge)?;
        ensure!(wanted(&known), "the hub knows {known}");
        Ok(Some(known))
    })
}

fn runs(known: &Value, revision: &str) -> bool {
    known.pointer("/committed/revision").and_then(Value::as_str) == Some(revision)
}

/// Publishes the project, for the one device; the revision's id.
fn publish(project: &Project) -> Result<String> {
    let platform = project.platform().display().to_string();
    let query = format!("name={NAME}");
    let words = ["publish", "--platform", &platform, "--assign", &query];
    let published = project.kedge.ask(&words)?;
    Ok(text(&published, "revision").to_owned())
}

/// The claim stands on the console; an operator types it.
fn claimed(guest: &mut Guest, kedge: &Kedge) -> Result<()> {
    let line = guest.expect("kedge claim ", BOOT)?;
    let (_, claim) = line.split_once("kedge claim ").context("no claim")?;
    let (said, _) = kedge.refuse(&["claim", "wrong-wrong-wrong"])?;
    ensure!(said.contains("claim"), "{said}");
    let tag = format!("name={NAME}");
    let words: Vec<&str> = claim.trim().split('-').collect();
    kedge.ask(&[&["claim"], &words[..], &["--tag", &tag]].concat())?;
    at_hub(guest, kedge, "the device has reported", |known| {
        known.get("phase").is_some()
    })?;
    Ok(())
}

/// With what a device reports it tells what its containers use.
fn used(guest: &Guest, kedge: &Kedge) -> Result<()> {
    let container = |known: &Value| -> Option<Value> {
        let containers = known.pointer("/usage/containers")?.as_array()?;
        let is_keeper = |one: &&Value| text(one, "name") == "keeper";
        containers.iter().find(is_keeper).cloned()
    };
    let memory = |known: &Value| container(known)?.get("memory")?.as_u64();
    let known = at_hub(guest, kedge, "the hub knows keeper's memory", |known| {
        memory(known).is_some_and(|bytes| bytes > 0)
    })?;
    let keeper = container(&known).context("no keeper")?;
    let peak = keeper.get("memory-peak").and_then(Value::as_u64);
    ensure!(peak >= memory(&known), "{keeper}");
    let free = known.pointer("/usage/data-free").and_then(Value::as_u64);
    ensure!(free.is_some_and(|bytes| bytes > 0), "{known}");
    ensure!(!text(&known, "usage-time").is_empty(), "{known}");
    Ok(())
}

fn updated(guest: &Guest, project: &Project) -> Result<()> {
    let keeper = running(guest, "keeper")?;
    project.app("started", &["sleep", "from the hub"], "")?;
    let revision = publish(project)?;
    at_hub(
        guest,
        &project.kedge,
        "the hub's revision is committed",
        |known| runs(known, &revision),
    )?;
    ensure!(committed(guest)? == revision, "the device knows better");
    ensure!(pid(guest, "keeper")? == keeper, "keeper is another process");
    Ok(())
}

/// What the hub sets is tried like a revision.
fn parameters(guest: &Guest, kedge: &Kedge) -> Result<()> {
    let (said, _) = kedge.refuse(&["parameters", NAME, "site=a name that is much too long"])?;
    ensure!(said.contains("site"), "{said}");
    kedge.ask(&["parameters", NAME, "site=berlin"])?;
    guest.wait_for_log("site", "env-SITE berlin", HEARD)?;
    at_hub(guest, kedge, "the parameters are committed", |known| {
        known.pointer("/committed/parameters") == Some(&1.into())
    })?;
    Ok(())
}

/// Logs come when they are asked for.
fn logs(guest: &Guest, kedge: &Kedge) -> Result<()> {
    kedge.ask(&["device", "collect-logs", NAME])?;
    guest.wait("the hub has the logs", HEARD, |_| {
        let (said, _) = kedge.try_ask(&["device", "logs", NAME, "site"])?;
        let line = said.lines().find(|line| line.contains("env-SITE berlin"));
        Ok(line.map(str::to_owned))
    })?;
    let (said, _) = kedge.try_ask(&["device", "logs", NAME, "kedge"])?;
    for line in said.lines() {
        let entry: Value = serde_json::from_str(line).context("a line of the logs")?;
        ensure!(text(&entry, "source") == "kedge", "{entry}");
    }
    ensure!(said.contains("keeper: running"), "{said}");
    Ok(())
}

/// Whoever looks on sees what comes, without asking for it.
fn watched(guest: &Guest, kedge: &Kedge) -> Result<()> {
    let mut looking = kedge.follow(&["device", "logs", NAME, "site", "--follow"])?;
    looking.expect("env-SITE berlin", HEARD)?;
    let mut seen = looking.count("env-SITE berlin");
    for _ in 0..2 {
        guest.post("/v1/containers/site/restart")?;
        looking.expect_more("env-SITE berlin", seen, HEARD)?;
        seen = looking.count("env-SITE berlin");
    }
    Ok(())
}

/// A bad revision goes, and is not tried again until somebody asks for it.
fn failed_and_retried(guest: &Guest, project: &Project) -> Result<()> {
    let before = committed(guest)?;
    project.app("finished", &["finish", "3"], "")?;
    let bad = publish(project)?;
    let known = at_hub(
        guest,
        &project.kedge,
        "the hub knows of the failure",
        |known| known.pointer("/failed/revision").and_then(Value::as_str) == Some(&bad),
    )?;
    let reason = known.pointer("/failed/reason").and_then(Value::as_str);
    ensure!(reason == Some(&failure(guest)?), "{known}");
    ensure!(committed(guest)? == before, "another revision is committed");
    let why = project.kedge.ask(&["device", "why", NAME])?;
    ensure!(text(&why, "summary").contains("exit"), "{why}");
    let begun = |guest: &Guest| -> Result<usize> {
        let history = guest.control("GET", "/v1/history")?.body;
        Ok(history.matches("\"event\":\"trial-begun\"").count())
    };
    let trials = begun(guest)?;
    project.kedge.ask(&["device", "retry", NAME])?;
    guest.wait("it is tried again", HEARD, |guest| {
        Ok((begun(guest)? > trials).then_some(()))
    })
}

/// What an operator asks a device to do.
fn asked(guest: &mut Guest, project: &Project) -> Result<()> {
    let kedge = &project.kedge;
    kedge.ask(&["device", "identify", NAME])?;
    guest.wait_for_log("kedge", "the device that you look for", HEARD)?;
    guest.wait("the trial is over", JUDGED, |guest| {
        let update = kedge_tests::trials::update(guest)?;
        Ok(update.get("trial").is_none().then_some(()))
    })?;
    let boots = guest.boots();
    kedge.ask(&["device", "reboot", NAME])?;
    guest.wait_for_boot(boots + 1, HEARD)?;
    guest.wait_for_control(BOOT)?;
    project.app("started", &["sleep", "another"], "")?;
    let revision = publish(project)?;
    at_hub(guest, kedge, "one more is committed", |known| {
        runs(known, &revision)
    })?;
    Ok(())
}

/// A hub that knows the product, and a provisioning with which one device joins it.
fn joinable(project: &mut Project, folder: &std::path::Path) -> Result<(Hub, String)> {
    let hub = hub(project, folder)?;
    let kedge = &project.kedge;
    let platform = project.platform().display().to_string();
    kedge.ask(&["publish", "--platform", &platform])?;
    let path = folder.join("provision.json").display().to_string();
    let tag = format!("name={NAME}");
    let words = ["join-token", "new", "--uses", "1", "--for", "1h"];
    kedge.ask(&[&words[..], &["--tag", &tag, "--out", &path]].concat())?;
    Ok((hub, path))
}

/// As a newcomer does it: a token, `kedge run`, and the device is there.
#[test]
fn vm_a_device_that_kedge_run_provisions() -> Result<()> {
    let (mut project, _) = built_trials()?;
    let folder = tempfile::tempdir()?;
    let (_hub, path) = joinable(&mut project, folder.path())?;
    let kedge = &project.kedge;
    let platform = project.platform().display().to_string();
    kedge.ask(&["build", "--platform", &platform])?;
    let mut device = kedge.follow(&["run", "--provision", &path])?;
    device.expect("a hub has taken this device in", HEARD)?;
    let end = Instant::now() + HEARD;
    while known(kedge)?.get("phase").is_none() {
        ensure!(Instant::now() < end, "it has not reported");
        std::thread::sleep(Duration::from_millis(300));
    }
    let waiting = kedge.ask(&["devices", "--waiting"])?;
    let waiting = waiting.get("waiting").and_then(Value::as_array);
    ensure!(waiting.is_some_and(Vec::is_empty), "it waits for a claim");
    kedge.ask(&["ctl", "poweroff"])?;
    device.expect("powered-off", HEARD)?;
    // A machine ends with whoever runs it, also when that is killed.
    let mut device = kedge.follow(&["run"])?;
    device.expect("keeper: running", HEARD)?;
    kedge.ask(&["ctl", "status"])?;
    drop(device);
    let end = Instant::now() + HEARD;
    while kedge.try_ask(&["ctl", "status"])?.1 == Some(0) {
        ensure!(Instant::now() < end, "the machine goes on");
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// An image on a card, with a token: what a board in the field is given.
#[test]
fn vm_a_card_that_was_flashed_and_provisioned() -> Result<()> {
    let (mut project, _) = built_trials()?;
    let folder = tempfile::tempdir()?;
    let (_hub, provision) = joinable(&mut project, folder.path())?;
    let kedge = &project.kedge;
    let volume = "[volumes.keep]\npath = \"/keep\"\nlifetime = \"permanent\"\n";
    project.set("reader", "app", "started", &["sleep"], volume)?;
    let image = project.build()?;
    let card = image.folder().join("card");
    // A card is larger than the image, and was used before.
    let size = image.path().metadata()?.len() + (64 << 20);
    let file = std::fs::File::create(&card)?;
    file.set_len(size)?;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xaa; 1 << 20], size / 2)?;
    drop(file);
    let (from, to) = (
        image.path().display().to_string(),
        card.display().to_string(),
    );
    let words = ["flash", &to, "--image", &from, "--provision", &provision];
    let (said, _) = kedge.refuse(&words)?;
    ensure!(said.contains("--yes"), "{said}");
    let done = kedge.ask(&[&words[..], &["--yes"]].concat())?;
    ensure!(done.get("compared") == Some(&true.into()), "{done}");
    let disk = Disk::copy_of(&card)?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    let mut files = 0;
    checks.run("it joins its hub", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        at_hub(guest, kedge, "the device has reported", |known| {
            known.get("phase").is_some()
        })?;
        // Its volume was there before the disk grew.
        guest.expect("has grown from", BOOT)?;
        guest.wait_for_state("reader", "running", BOOT)?;
        let said = run(guest, &["exec", "reader", "/probe", "room", "/keep"], b"")?;
        let said_of = numbers(&String::from_utf8_lossy(&said.stdout));
        files = *said_of.get(1).with_context(|| format!("{said:?}"))?;
        guest.post("/v1/poweroff")?;
        guest.wait_for_end(BOOT).map(drop)
    });
    checks.run("the token is gone from the card", &mut guest, |_| {
        let listing = disk.debugfs("ls /device\n")?;
        ensure!(!listing.contains("provision.json"), "{listing}");
        ensure!(listing.contains("agent"), "{listing}");
        disk.check_data()
    });
    checks.run("the rest of the card is its own", &mut guest, |_| {
        is_grown(image.path(), &disk, files)?;
        // As after a cut in the middle of writing the table.
        let file = std::fs::File::options().write(true).open(disk.path())?;
        Ok(std::os::unix::fs::FileExt::write_all_at(
            &file,
            &[0xa5; 512],
            512,
        )?)
    });
    let mut guest = Guest::start(&disk, &[])?;
    checks.run("a torn table is written anew", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        guest.post("/v1/poweroff")?;
        guest.wait_for_end(BOOT)?;
        let [before, after] = [image.path(), disk.path()].map(data_size);
        ensure!(after? == before? + (64 << 20), "another size");
        Ok(())
    });
    checks.finish()
}

/// The file system has the rest of the disk, of which a volume without a size has its share of `files`.
fn is_grown(image: &Path, disk: &Disk, files: u64) -> Result<()> {
    let [before, after] = [image, disk.path()].map(data_size);
    let (before, after) = (before?, after?);
    ensure!(
        after == before + (64 << 20),
        "{before} and then {after} bytes"
    );
    let stats = disk.debugfs("stats\n")?;
    let count = |name: &str| -> Result<u64> {
        let found = stats.lines().find_map(|line| line.strip_prefix(name));
        Ok(found.context(name.to_owned())?.trim().parse()?)
    };
    let blocks = count("Block count:")?;
    ensure!(blocks * 4096 == after, "{blocks} blocks of {after} bytes");
    let share = count("Inode count:")? / 4 * 3;
    ensure!(files == share, "a volume has {files} files of {share}");
    let kept = count("Reserved block count:")?;
    ensure!(kept * 10 >= blocks, "{kept} of {blocks} are the system's");
    Ok(())
}

/// Bytes of a disk's data partition, by the first copy of its table.
fn data_size(disk: &Path) -> Result<u64> {
    let partitions = gpt::read_copy(&std::fs::File::open(disk)?, 1)?;
    Ok(gpt::find(&partitions, "data")?.size)
}

#[test]
fn vm_a_device_and_its_hub() -> Result<()> {
    let (mut project, _) = built_trials()?;
    let folder = tempfile::tempdir()?;
    let hub = hub(&mut project, folder.path())?;
    let disk = project.build()?;
    // The hub learns of the product with its first revision; who comes before is told so.
    let platform = project.platform().display().to_string();
    project.kedge.ask(&["publish", "--platform", &platform])?;
    let mut events = project.kedge.follow(&["events", "--follow"])?;
    let mut guest = Guest::start(&disk, &[])?;
    let kedge = project.kedge.clone();
    type Check<'a> = (&'static str, &'a mut dyn FnMut(&mut Guest) -> Result<()>);
    let steps: [Check<'_>; 10] = [
        ("it is taken in by its claim", &mut |guest| {
            guest.wait_for_control(BOOT)?;
            claimed(guest, &kedge)
        }),
        ("what a container uses is told", &mut |guest| {
            used(guest, &kedge)
        }),
        ("idle memory, the poll held", &mut |guest| {
            life::idle_memory(guest, BOARD)
        }),
        ("a revision is pulled", &mut |guest| {
            updated(guest, &project)
        }),
        ("parameters are tried", &mut |guest| {
            parameters(guest, &kedge)
        }),
        ("logs are collected", &mut |guest| logs(guest, &kedge)),
        ("logs come while somebody looks on", &mut |guest| {
            watched(guest, &kedge)
        }),
        (
            "a failure is told, and tried again when asked",
            &mut |guest| failed_and_retried(guest, &project),
        ),
        ("it does what it is asked", &mut |guest| {
            asked(guest, &project)
        }),
        ("whoever follows has heard of all", &mut |_| {
            heard(&mut events)
        }),
    ];
    let mut checks = Checks::default();
    for (name, check) in steps {
        checks.run(name, &mut guest, check);
        if !checks.passed() {
            // Each builds on what the one before has left.
            break;
        }
    }
    drop(hub);
    checks.finish()
}

fn heard(events: &mut Following) -> Result<()> {
    for what in ["enrolled", "assigned", "committed", "rolled-back"] {
        events.expect(&format!("\"what\":\"{what}\""), HEARD)?;
    }
    Ok(())
}
