//! A device's ordinary life: boot, what containers get and are refused, restarts, limits, control, reboot, power off.

use crate::{confined, escapes, exec, fresh_disk, hostile, limits, operator};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::qemu::Ending;
use kedge_tests::guest::{BOOT, Checks, Guest, LogLine, text};
use serde_json::Value;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
#[test]
fn vm_a_device_lives() -> Result<()> {
    let disk = fresh_disk()?;
    let mut guest = Guest::start(&disk, &[8080, 8081])?;
    let mut checks = Checks::default();
    checks.run("boots", &mut guest, boots);
    checks.run("groups start in order", &mut guest, groups_in_order);
    checks.run("status", &mut guest, status);
    checks.run("confinement", &mut guest, confined::confinement);
    checks.run(
        "what is widened, and no more",
        &mut guest,
        confined::widened,
    );
    checks.run(
        "user, environment, working directory",
        &mut guest,
        confined::someone,
    );
    checks.run("host network", &mut guest, confined::host_network);
    checks.run("restarts with back-off, then leaves", &mut guest, crasher);
    checks.run("a killed server comes back", &mut guest, comes_back);
    checks.run("an ill container is restarted", &mut guest, ill);
    checks.run("memory limit", &mut guest, memory);
    checks.run("limit of processes", &mut guest, threads);
    checks.run("volumes, first boot", &mut guest, |guest| {
        volumes(guest, 1, 1, 1)
    });
    by_command(&mut checks, &mut guest);
    checks.run("stop signal and grace", &mut guest, stopping);
    checks.run("start, restart, refusals", &mut guest, control);
    checks.run("a flood of output is bounded", &mut guest, flood);
    let first = guest
        .status()
        .map(|status| text(&status, "boot-id").to_owned());
    checks.run("orderly reboot", &mut guest, |guest| {
        guest.post("/v1/reboot")?;
        guest.wait_for_boot(2, SOON)?;
        let status = guest.wait_for_control(BOOT)?;
        let before = first.context("the first boot had no id")?;
        ensure!(
            text(&status, "boot-id") != before,
            "the boot id is the same"
        );
        Ok(())
    });
    checks.run("logs of the boot before", &mut guest, operator::earlier);
    checks.run("volumes, second boot", &mut guest, |guest| {
        volumes(guest, 2, 2, 1)
    });
    checks.run("power off", &mut guest, power_off);
    checks.run("logs of both boots are on disk", &mut guest, |_| {
        let mut text = String::new();
        for name in disk.list("/logs")? {
            text.push_str(&String::from_utf8_lossy(
                &disk.read(&format!("/logs/{name}"))?,
            ));
        }
        let boots = text.matches("\"boot-id\"").count();
        ensure!(boots >= 2, "{boots} boots in the logs on disk");
        let said = text.matches("said READY=1").count();
        ensure!(
            said == 3,
            "READY=1 was said {said} times, by the logs on disk"
        );
        Ok(())
    });
    checks.run("the file system is clean", &mut guest, |_| {
        escapes::was_inside(&disk)?;
        disk.check_data()
    });
    checks.finish()
}

/// What is seen by commands in containers, and by an operator's.
fn by_command(checks: &mut Checks, guest: &mut Guest) {
    checks.run("ways out, by name", guest, escapes::refused);
    checks.run("a link in the place of a volume", guest, escapes::astray);
    checks.run("what is written has a bound", guest, exec::filled);
    checks.run("a full volume", guest, limits::full_volume);
    checks.run("limit of a processor", guest, limits::processor);
    checks.run("memory that slows down", guest, limits::memory_high);
    checks.run("limit of a disk", guest, limits::disk);
    checks.run("a limit by its file", guest, limits::unified);
    checks.run("a fork bomb", guest, limits::bomb);
    checks.run("descriptors for PID 1", guest, hostile::given);
    checks.run("what a check leaves", guest, hostile::checked);
    checks.run("commands in containers", guest, exec::commands);
    checks.run("commands are confined", guest, exec::confined);
    checks.run("a command's terminal", guest, exec::terminal);
    checks.run("a terminal at both ends", guest, operator::terminal);
    checks.run("logs as they come", guest, operator::logs_follow);
    checks.run("ends of commands", guest, exec::ends);
    checks.run("what a container is", guest, exec::inspected);
    checks.run("what containers use", guest, exec::used);
    checks.run("logs from a time on", guest, exec::logs_since);
}

pub(super) fn boots(guest: &mut Guest) -> Result<()> {
    guest.wait_for_control(BOOT)?;
    guest.wait("web is ready", SOON, |guest| {
        let web = guest.container("web")?;
        Ok(web
            .get("ready")
            .and_then(Value::as_bool)
            .unwrap_or(false)
            .then_some(()))
    })
}

/// What is ours in memory, ten seconds after all containers run and nothing happens, is within the board's budget.
pub(super) fn idle_memory(guest: &mut Guest, board: &str) -> Result<()> {
    let budget = boards::find(board)?.budgets.idle_memory;
    let budget = budget.context("the board has no budget for idle memory")?;
    let uptime = |status: &Value| {
        let time = status.get("uptime-ms").and_then(Value::as_u64);
        time.context("a status without its uptime")
    };
    let quiet = uptime(&guest.status()?)?.saturating_add(10_000);
    let status = guest.wait("ten seconds later", SOON, |guest| {
        let status = guest.status()?;
        Ok((uptime(&status)? >= quiet).then_some(status))
    })?;
    let processes = status.get("processes").and_then(Value::as_array);
    let sizes = processes.into_iter().flatten().map(|process| {
        let size = process.get("pss").and_then(Value::as_u64);
        size.with_context(|| format!("a process without its memory: {process}"))
    });
    let sizes = sizes.collect::<Result<Vec<u64>>>()?;
    ensure!(sizes.len() >= 3, "PID 1 and two helpers at least: {status}");
    let sum: u64 = sizes.iter().sum();
    ensure!(
        sum <= budget,
        "{sum} bytes, over the board's budget of {budget}: {status}"
    );
    Ok(())
}

fn groups_in_order(guest: &mut Guest) -> Result<()> {
    let ready = guest.wait_for_log("first", "said READY=1", SOON)?;
    let served = guest.wait_for_log("web", "listening", SOON)?;
    ensure!(
        ready.time_ms <= served.time_ms,
        "app ({}) began before platform was ready ({})",
        served.time_ms,
        ready.time_ms
    );
    guest.wait_for_state("setup", "finished", SOON)?;
    guest.wait_for_state("clock", "finished", SOON)?;
    guest.wait_for_state("later", "running", SOON)?;
    Ok(())
}

fn status(guest: &mut Guest) -> Result<()> {
    let status = guest.status()?;
    for (field, expected) in [
        ("product", "harness"),
        ("board", "qemu-x86-64"),
        ("slot", "a"),
        ("phase", "running"),
        ("trial", "committed"),
    ] {
        ensure!(text(&status, field) == expected, "{field}: {status}");
    }
    // `apart` is ready with a check that comes after `web` has its socket.
    guest.wait("nobody's goal is missing but theirs", SOON, |guest| {
        let status = guest.status()?;
        let missing = status.get("goals-missing").and_then(Value::as_array);
        let missing = missing.context("no goals-missing")?;
        let mut names = missing.iter().map(|goal| text(goal, "container"));
        Ok(names
            .all(|name| ["crasher", "eater"].contains(&name))
            .then_some(()))
    })
}

fn crasher(guest: &mut Guest) -> Result<()> {
    let crasher = guest.wait_for_state("crasher", "failed", SOON)?;
    ensure!(
        crasher.get("restarts") == Some(&Value::from(3)),
        "{crasher}"
    );
    ensure!(
        crasher.pointer("/last-exit/code") == Some(&Value::from(3)),
        "{crasher}"
    );
    let times: Vec<u64> = guest
        .logs("crasher")?
        .iter()
        .filter(|line| line.text.starts_with("starting"))
        .map(|line| line.time_ms)
        .collect();
    let gaps: Vec<u64> = times
        .windows(2)
        .filter_map(|pair| Some(pair.last()?.saturating_sub(*pair.first()?)))
        .collect();
    // 300, 600, 1200 ms and what a start takes.
    let enough = gaps
        .iter()
        .zip([300, 600, 1200])
        .all(|(gap, least)| *gap >= least);
    ensure!(
        gaps.len() == 3 && enough,
        "gaps of {gaps:?} ms between starts"
    );
    Ok(())
}

/// The first process ends with an error; what is asked is that the service is there again, as a new process.
fn comes_back(guest: &mut Guest) -> Result<()> {
    let before = guest.get(8080, "/starts")?.body;
    guest.get(8080, "/exit/7")?;
    guest.wait("web answers as a new process", SOON, |guest| {
        let now = guest.get(8080, "/starts")?.body;
        Ok((!now.is_empty() && now != before).then_some(()))
    })?;
    let web = guest.container("web")?;
    ensure!(web.get("restarts") == Some(&Value::from(1)), "{web}");
    ensure!(
        web.pointer("/last-exit/code") == Some(&Value::from(7)),
        "{web}"
    );
    Ok(())
}

fn ill(guest: &mut Guest) -> Result<()> {
    guest.wait("ill is ready", SOON, |guest| {
        let ill = guest.container("ill")?;
        Ok((ill.get("ready") == Some(&Value::from(true))).then_some(()))
    })?;
    let before = guest.get(8081, "/starts")?.body;
    guest.get(8081, "/sick")?;
    guest.wait("ill was restarted and is ready", SOON, |guest| {
        let ill = guest.container("ill")?;
        let restarted = ill.get("restarts").and_then(Value::as_u64).unwrap_or(0) >= 1;
        let ready = ill.get("ready") == Some(&Value::from(true));
        Ok((restarted && ready).then_some(()))
    })?;
    ensure!(
        guest.get(8081, "/starts")?.body != before,
        "the same process still answers"
    );
    Ok(())
}

pub(super) fn memory(guest: &mut Guest) -> Result<()> {
    let eater = guest.wait_for_state("eater", "failed", SOON)?;
    ensure!(eater.get("restarts") == Some(&Value::from(0)), "{eater}");
    guest.wait("the others live", SOON, |guest| {
        Ok((guest.get(8080, "/health")?.status == 200).then_some(()))
    })?;
    let kernel = guest.logs("kernel")?;
    ensure!(
        kernel.iter().any(|line| line.text.contains("oom")),
        "the kernel's log does not tell of the kill"
    );
    Ok(())
}

fn threads(guest: &mut Guest) -> Result<()> {
    let line = guest.wait_for_log("threads", "refused", SOON)?.text;
    let count: u32 = line
        .split(' ')
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(999);
    // 16 with the process itself; EAGAIN is 11.
    ensure!(
        (10..16).contains(&count) && line.ends_with("refused 11"),
        "{line}"
    );
    Ok(())
}

/// Two megabytes as fast as they are taken: the container is never kept waiting, PID 1 answers, memory is bounded, and what others
/// said is all there.
fn flood(guest: &mut Guest) -> Result<()> {
    let others = ["kedge", "kernel", "first", "setup", "confined"];
    let mut before = Vec::new();
    for other in others {
        let last = guest.logs(other)?.pop();
        before.push(last.with_context(|| format!("{other} has said nothing"))?);
    }
    let begun = Instant::now();
    ensure!(
        guest.get(8080, "/flood/20000")?.status == 200,
        "the flood was cut"
    );
    let took = begun.elapsed();
    ensure!(
        took < Duration::from_secs(9),
        "writing 20000 lines took {took:?}"
    );
    let begun = Instant::now();
    guest.status()?;
    ensure!(
        begun.elapsed() < Duration::from_secs(5),
        "PID 1 took {:?} to answer",
        begun.elapsed()
    );
    let kept = guest.logs("web")?;
    let bytes: usize = kept.iter().map(|line| line.text.len()).sum();
    ensure!(
        kept.iter().any(|line| line.text.contains("xxxxxxxx")),
        "nothing of the flood is there"
    );
    ensure!(
        bytes <= 128 << 10,
        "{bytes} bytes of the flood are kept in memory"
    );
    ensure!(
        guest.get(8080, "/health")?.status == 200,
        "the flooding container is ill"
    );
    // Over and over, as long as it takes to drive out what is kept of anybody at that rate.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        guest.get(8080, "/flood/2000")?;
    }
    for (other, last) in others.iter().zip(before) {
        let is_there = |line: &LogLine| (line.time_ms, &line.text) == (last.time_ms, &last.text);
        ensure!(
            guest.logs(other)?.iter().any(is_there),
            "the flood drove out what {other} had said: {last:?}"
        );
    }
    Ok(())
}

pub(super) fn volumes(guest: &mut Guest, keep: u32, revision: u32, boot: u32) -> Result<()> {
    for (path, count) in [("/keep", keep), ("/rev", revision), ("/boot", boot)] {
        guest.wait_for_log("volumes", &format!("volume {path} {count}"), SOON)?;
    }
    guest.wait_for_log("owned-volume", &format!("volume /keep {keep}"), SOON)?;
    Ok(())
}

fn stopping(guest: &mut Guest) -> Result<()> {
    guest.wait_for_log("polite", "waiting politely", SOON)?;
    guest.post("/v1/containers/polite/stop")?;
    let polite = guest.wait_for_state("polite", "stopped", SOON)?;
    // SIGUSR1 is 10.
    guest.wait_for_log("polite", "asked to stop by signal 10", SOON)?;
    ensure!(
        polite.pointer("/last-exit/code") == Some(&Value::from(0)),
        "{polite}"
    );
    guest.wait_for_log("stubborn", "stubborn", SOON)?;
    let begun = Instant::now();
    guest.post("/v1/containers/stubborn/stop")?;
    let stubborn = guest.wait_for_state("stubborn", "stopped", SOON)?;
    let took = begun.elapsed();
    ensure!(
        stubborn.pointer("/last-exit/signal") == Some(&Value::from(9)),
        "{stubborn}"
    );
    ensure!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(9),
        "killed after {took:?}, its grace is 1 s"
    );
    Ok(())
}

fn control(guest: &mut Guest) -> Result<()> {
    guest.post("/v1/containers/polite/start")?;
    let first = guest.wait_for_state("polite", "running", SOON)?;
    guest.post("/v1/containers/polite/restart")?;
    guest.wait("polite runs as another process", SOON, |guest| {
        let now = guest.container("polite")?;
        Ok((text(&now, "state") == "running" && now.get("pid") != first.get("pid")).then_some(()))
    })?;
    for (method, target, status) in [
        ("POST", "/v1/containers/nobody/start", 404),
        ("POST", "/v1/status", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/logs?colour=red", 400),
    ] {
        let answer = guest.control(method, target)?;
        ensure!(answer.status == status, "{method} {target}: {answer:?}");
    }
    Ok(())
}

pub(super) fn power_off(guest: &mut Guest) -> Result<()> {
    guest.post("/v1/poweroff")?;
    let ending = guest.wait_for_end(Duration::from_secs(60))?;
    ensure!(matches!(ending, Ending::PoweredOff), "{ending:?}");
    Ok(())
}
