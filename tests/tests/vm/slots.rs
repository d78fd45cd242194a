//! Trials of the other slot: a new kernel, initramfs or arguments, and every way in which a boot can fail.

use crate::{built_trials_for, mend};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::toolchain;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::product::BOARD;
use kedge_tests::trials::{Project, committed, failure, pid, update};
use serde_json::Value;
use std::time::Duration;

/// A trial may take three boots, and the committed revision one more.
const BOOTS: Duration = Duration::from_secs(300);
/// The same where tries that ran out are given twice more, each time after a longer wait.
pub(crate) const EXHAUSTED: Duration = Duration::from_secs(600);

fn slot(guest: &Guest) -> Result<String> {
    Ok(text(&guest.status()?, "slot").to_owned())
}

/// Pushes without waiting, and lets the boots begin; the revision that is tried.
pub(crate) fn push(project: &Project, guest: &Guest) -> Result<String> {
    let pushed = project.push(guest, &["--detach"])?;
    ensure!(pushed.committed, "refused: {}", pushed.said);
    Ok(text(&pushed.said, "revision").to_owned())
}

/// The trial of `tried` has failed for this reason, and the device is back on what was committed, in its slot.
pub(crate) fn back(
    guest: &mut Guest,
    tried: &str,
    before: &str,
    slot_before: &str,
    reason: &str,
) -> Result<()> {
    back_within(BOOTS, guest, tried, before, slot_before, reason)
}

/// [`back`], at the latest after `patience`.
fn back_within(
    patience: Duration,
    guest: &mut Guest,
    tried: &str,
    before: &str,
    slot_before: &str,
    reason: &str,
) -> Result<()> {
    guest.wait("the trial has failed", patience, |guest| {
        let update = update(guest)?;
        let failed = update.get("failed").map(|failed| text(failed, "revision"));
        Ok((update.get("trial").is_none() && failed == Some(tried)).then_some(()))
    })?;
    let failed = failure(guest)?;
    ensure!(failed == reason, "the reason is {failed}");
    ensure!(committed(guest)? == before, "another revision is committed");
    ensure!(slot(guest)? == slot_before, "another slot runs");
    guest.wait_for_state("app", "running", BOOT)?;
    Ok(())
}

fn history(guest: &Guest) -> Result<Vec<Value>> {
    let body = guest.control("GET", "/v1/history")?.body;
    let lines = body.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .with_context(|| body.clone())
}

#[test]
fn vm_trials_of_a_slot() -> Result<()> {
    trials_of_a_slot(BOARD)
}

/// The same on any board.
pub(crate) fn trials_of_a_slot(board: &str) -> Result<()> {
    let (mut project, disk) = built_trials_for(board)?;
    let platform = project.platform().to_owned();
    let mut guest = Guest::start_on(board, &disk, &[])?;
    guest.wait_for_control(BOOT)?;
    let mut checks = Checks::default();
    checks.run(
        "new arguments are committed in slot b",
        &mut guest,
        |guest| good(&project, guest),
    );
    checks.run(
        "a change in the group platform takes a reboot",
        &mut guest,
        |guest| reboot(&project, guest),
    );
    let before = committed(&guest)?;
    checks.run(
        "a committed slot that is lost comes back",
        &mut guest,
        |guest| mend::slot_b_comes_back(&disk, guest),
    );
    checks.run(
        "a kernel that panics before its init",
        &mut guest,
        |guest| panics(&project, guest, &before),
    );
    checks.run("an init that exits", &mut guest, |guest| {
        exits(board, &mut project, guest, &before)
    });
    checks.run(
        "an init that hangs is reset by the watchdog",
        &mut guest,
        |guest| hangs(board, &project, guest, &before),
    );
    project.use_platform(&platform);
    checks.run(
        "a kernel without what the revision requires",
        &mut guest,
        |guest| lacks(&project, guest, &before),
    );
    checks.run("a container that never gets ready", &mut guest, |guest| {
        never_ready(&project, guest, &before)
    });
    checks.run(
        "one power cut in the first try does not roll back",
        &mut guest,
        |guest| cut(&project, guest),
    );
    let mut guest = Guest::start_on(board, &disk, &[])?;
    checks.run("… and the next try is committed", &mut guest, |guest| {
        guest.wait("the trial is committed", BOOTS, |guest| {
            Ok((committed(guest)? != before).then_some(()))
        })?;
        ensure!(slot(guest)? == "a", "slot {}", slot(guest)?);
        ensure!(guest.boots() == 1, "{} boots", guest.boots());
        Ok(())
    });
    checks.run(
        "an orderly reboot gives its try back, twice",
        &mut guest,
        |guest| give_back(&project, guest),
    );
    checks.run("power off", &mut guest, |guest| {
        guest.post("/v1/poweroff")?;
        guest.wait_for_end(Duration::from_secs(60)).map(drop)
    });
    checks.run("the file system is clean", &mut guest, |_| {
        disk.check_data()
    });
    checks.finish()
}

fn cut(project: &Project, guest: &mut Guest) -> Result<()> {
    project.app("started", &["sleep"], "")?;
    project.kernel_arguments("tests.kedge=4")?;
    let boots = guest.boots();
    push(project, guest)?;
    guest.wait_for_boot(boots + 1, BOOT)?;
    guest.wait_for_control(BOOT)?;
    guest.cut_power()
}

fn good(project: &Project, guest: &mut Guest) -> Result<()> {
    project.kernel_arguments("tests.kedge=1")?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    ensure!(slot(guest)? == "b", "slot {}", slot(guest)?);
    ensure!(guest.boots() == 2, "{} boots", guest.boots());
    ensure!(update(guest)?.pointer("/committed/slot") == Some(&Value::from("b")));
    Ok(())
}

fn reboot(project: &Project, guest: &mut Guest) -> Result<()> {
    let boots = guest.boots();
    project.set("base", "platform", "started", &["sleep", "two"], "")?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    let more = guest.boots() - boots;
    ensure!(more == 1, "{more} boots more");
    ensure!(slot(guest)? == "b", "slot {}", slot(guest)?);
    Ok(())
}

/// The history has the text of a panic that says so, at the latest when the device had the time to keep it: events reach
/// the disk some time after they happen.
pub(crate) fn told(guest: &mut Guest, words: &str) -> Result<()> {
    let what = format!("the history has a panic with {words:?}");
    let told = guest.wait(&what, BOOT, |guest| {
        let told = history(guest)?
            .iter()
            .any(|event| text(event, "event") == "panic" && text(event, "text").contains(words));
        Ok(told.then_some(()))
    });
    told.with_context(|| format!("the history is {:?}", history(guest)))
}

/// What is left of a crash for the boot after it, with this board's drivers in the kernel of this project's platform.
struct Trace {
    /// The reason of the failed trial.
    reason: &'static str,
    /// What the history has of the panic's text.
    text: Option<&'static str>,
}

impl Trace {
    const fn panic(text: &'static str) -> Self {
        Self {
            reason: "kernel-panic",
            text: Some(text),
        }
    }

    /// Nothing: a silent crash looks like a power cut.
    const NONE: Self = Self {
        reason: "tries-exhausted",
        text: None,
    };
}

/// Pushes what crashes in each of its boots, and sees the device come back and know why.
fn crashes(project: &Project, guest: &mut Guest, before: &str, trace: &Trace) -> Result<()> {
    let boots = guest.boots();
    if trace.reason == Trace::NONE.reason {
        // It is tried three times over, here with one try each.
        project.tries(1)?;
        let tried = push(project, guest)?;
        back_within(EXHAUSTED, guest, &tried, before, "b", trace.reason)?;
        let more = guest.boots() - boots;
        ensure!(more == 6, "{more} boots");
        return project.tries(3);
    }
    let tried = push(project, guest)?;
    back(guest, &tried, before, "b", trace.reason)?;
    // Three tries, and the boot of what is committed.
    let more = guest.boots() - boots;
    ensure!(more == 4, "{more} boots");
    trace.text.map_or(Ok(()), |text| told(guest, text))
}

fn panics(project: &Project, guest: &mut Guest, before: &str) -> Result<()> {
    project.kernel_arguments("rdinit=/nowhere")?;
    // Modules are not there yet: what keeps the text must be built in.
    let trace = if project.has_own_kernel()? {
        Trace::panic("Unable to mount root fs")
    } else {
        Trace::NONE
    };
    crashes(project, guest, before, &trace)
}

fn exits(board: &str, project: &mut Project, guest: &mut Guest, before: &str) -> Result<()> {
    project.kernel_arguments("-- leave")?;
    let board = boards::find(board)?;
    project.replace_init(&toolchain::build_program(&board, "kedge-probe", "probe")?)?;
    let trace = if project.has_driver("ramoops")? {
        Trace::panic("Attempted to kill init")
    } else {
        Trace::NONE
    };
    crashes(project, guest, before, &trace)
}

fn hangs(board: &str, project: &Project, guest: &mut Guest, before: &str) -> Result<()> {
    project.kernel_arguments("-- hang")?;
    let board = boards::find(board)?;
    let trace = if board.boot.arguments.contains("softdog.soft_panic=1") {
        Trace::panic("Software Watchdog Timer expired")
    } else if board.watchdog.driver != "softdog" && project.has_driver(&board.watchdog.driver)? {
        // Its status register says so after the reset.
        Trace {
            reason: "watchdog",
            text: None,
        }
    } else {
        // `softdog` resets, and nothing keeps that.
        Trace::NONE
    };
    crashes(project, guest, before, &trace)
}

/// Refused by PID 1 itself, in the first try, and not by containers that do not start.
fn lacks(project: &Project, guest: &mut Guest, before: &str) -> Result<()> {
    let boots = guest.boots();
    project.kernel_arguments("sysctl.user.max_user_namespaces=0")?;
    let tried = push(project, guest)?;
    back(guest, &tried, before, "b", "refused")?;
    let more = guest.boots() - boots;
    ensure!(more == 2, "{more} boots more");
    let says = |line: &String| line.contains("and this kernel has no user namespaces");
    ensure!(
        guest.before_boot(boots + 2).iter().any(says),
        "the trial does not say what is missing"
    );
    Ok(())
}

fn never_ready(project: &Project, guest: &mut Guest, before: &str) -> Result<()> {
    project.kernel_arguments("tests.kedge=3")?;
    let health = "[health]\nnotify = true\nstart-period = \"1min\"\n";
    project.app("ready", &["sleep"], health)?;
    let pushed = project.push(guest, &[])?;
    ensure!(!pushed.committed, "{}", pushed.said);
    let tried = text(&pushed.said, "revision").to_owned();
    back(guest, &tried, before, "b", "goal-missed(app, ready)")
}

/// Tries left of the trial that runs.
fn tries_left(guest: &Guest) -> Result<Option<u64>> {
    let status = guest.status()?;
    Ok(status
        .pointer("/trial/trying/tries-left")
        .and_then(Value::as_u64))
}

fn give_back(project: &Project, guest: &mut Guest) -> Result<()> {
    project.window("10min")?;
    project.kernel_arguments("tests.kedge=5")?;
    push(project, guest)?;
    let mut seen = Vec::new();
    for round in 0..3 {
        let left = guest.wait("the trial runs", BOOTS, tries_left)?;
        seen.push(left);
        if round < 2 {
            let boots = guest.boots();
            guest.post("/v1/reboot")?;
            guest.wait_for_boot(boots + 1, BOOT)?;
            guest.wait_for_control(BOOT)?;
        }
    }
    ensure!(seen == [2, 2, 2], "tries left: {seen:?}");
    // The third orderly reboot costs its try.
    let boots = guest.boots();
    guest.post("/v1/reboot")?;
    guest.wait_for_boot(boots + 1, BOOT)?;
    guest.wait_for_control(BOOT)?;
    let left = guest.wait("the trial runs", BOOTS, tries_left)?;
    ensure!(left == 1, "{left} tries left");
    guest.post("/v1/update/rollback")?;
    guest.wait("the operator's word counts", BOOTS, |guest| {
        Ok((failure(guest)? == "operator").then_some(()))
    })?;
    guest.wait_for_state("app", "running", BOOT)?;
    pid(guest, "keeper").map(drop)
}
