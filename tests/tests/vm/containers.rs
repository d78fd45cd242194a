//! What limits of one container mean for another, each by its effect: who is served first, who waits, who is spared and who
//! is killed. A boot of its own, since it takes all the memory that there is.
//!
//! Ratios, counts of the kernel and least times alone, as in `limits.rs`. `memory-swap-max` has no effect on a device, which
//! has no swap: that it is written is seen here, what it does in `oci.rs`, on the same kernel.

use crate::built_trials;
use crate::exec::{begin_beside, end_beside, run};
use crate::limits::{load, numbers};
use anyhow::{Context, Result, ensure};
use kedge_image_build::progress::say;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::trials::Project;
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// MiB of a file that the kernel may forget, and that it keeps for one of two.
const HELD: u64 = 12;

const FREE: &str = "[volumes.free]\npath = \"/free\"\nlifetime = \"revision\"\n";

/// The containers, beside those of the trials: name, arguments, what comes behind `[process]`.
fn containers() -> [(&'static str, &'static [&'static str], String); 8] {
    let limited = |limits: &str| format!("{FREE}[limits]\n{limits}");
    let one = "[limits.unified]\n\"cpuset.cpus\" = \"0\"\n";
    [
        (
            "light",
            &["sleep"],
            limited(&format!("cpu-weight = 50\n{one}")),
        ),
        (
            "heavy",
            &["sleep"],
            limited(&format!("cpu-weight = 200\n{one}")),
        ),
        (
            "slow",
            &["sleep"],
            limited(
                "io-read-max = \"1MiB\"\nio-reads-max = 20\nio-writes-max = 20\nmemory-swap-max = \"64KiB\"\n",
            ),
        ),
        ("quick", &["sleep"], FREE.to_owned()),
        (
            "kept",
            &["hold", "12", "/free"],
            limited("memory-min = \"20MiB\"\n"),
        ),
        ("bare", &["hold", "12", "/free"], FREE.to_owned()),
        (
            "eager",
            &["sleep"],
            "[limits.unified]\n\"memory.oom.group\" = \"0\"\n".to_owned(),
        ),
        (
            "whole",
            &["sleep"],
            "[restart]\npolicy = \"no\"\n[limits]\nmemory-max = \"24MiB\"\n".to_owned(),
        ),
    ]
}

/// A project with all of them.
fn fill(project: &Project) -> Result<()> {
    for (name, arguments, rest) in containers() {
        project.set(name, "app", "started", arguments, &rest)?;
    }
    let check = "[health]\ntcp = 9090\ninterval = \"1s\"\nretries = 2\n[restart]\npolicy = \"always\"\ndelay = \"200ms\"\n";
    project.set(
        "hearing",
        "app",
        "ready",
        &["listen", "9090", "3600000"],
        check,
    )?;
    project.set("deaf", "app", "ready", &["listen", "9090", "8000"], check)
}

#[test]
fn vm_limits_between_containers() -> Result<()> {
    let (project, _) = built_trials()?;
    fill(&project)?;
    let disk = project.build()?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("boots", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        guest.wait_for_state("whole", "running", BOOT).map(drop)
    });
    checks.run("a check by TCP", &mut guest, checked);
    checks.run("limits are those of the definition", &mut guest, written);
    checks.run("what the kernel counts for a user", &mut guest, counted);
    checks.run("a processor by weight", &mut guest, weighed);
    checks.run("bytes that are read", &mut guest, |guest| {
        // 4 MiB at 1 MiB a second, of which the first half second is not waited for.
        waited(guest, ["read-disk", "4"], 4 << 20, 3000)
    });
    checks.run("reads", &mut guest, |guest| {
        waited(guest, ["seek", "80"], 80, 3000)
    });
    checks.run("writes", &mut guest, |guest| {
        waited(guest, ["sync", "80"], 80, 3000)
    });
    checks.run("a lack of memory ends all of it", &mut guest, together);
    checks.run("memory that is kept", &mut guest, kept);
    checks.finish()
}

/// What files of a container's cgroup say: all numbers behind a name.
fn shown(guest: &Guest, container: &str, file: &str, name: &str) -> Result<u64> {
    let output = run(guest, &["exec", container, "/probe", "show", file], b"")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let start = format!("{file} {name}");
    let found = said.lines().find_map(|line| {
        let rest = line.strip_prefix(start.as_str())?;
        numbers(rest).first().copied()
    });
    found.with_context(|| format!("{container}: no {name:?} in {said}"))
}

fn written(guest: &mut Guest) -> Result<()> {
    for (container, file, name, expected) in [
        ("light", "cpu.weight", "", 50),
        ("heavy", "cpu.weight", "", 200),
        ("slow", "memory.swap.max", "", 64 << 10),
        ("kept", "memory.min", "", 20 << 20),
        ("bare", "memory.min", "", 0),
        ("whole", "memory.max", "", 24 << 20),
        ("whole", "memory.oom.group", "", 1),
        ("eager", "memory.oom.group", "", 0),
    ] {
        let file = format!("/sys/fs/cgroup/{file}");
        let found = shown(guest, container, &file, name)?;
        ensure!(
            found == expected,
            "{container}: {file} is {found}, not {expected}"
        );
    }
    Ok(())
}

/// Ready as long as its port is open; ill, and restarted, when it is not.
fn checked(guest: &mut Guest) -> Result<()> {
    let restarts = |container: &Value| container.get("restarts").and_then(Value::as_u64);
    let ready = |container: &Value| container.get("ready") == Some(&Value::from(true));
    guest.wait("who listens is ready", SOON, |guest| {
        Ok(ready(&guest.container("hearing")?).then_some(()))
    })?;
    guest.wait_for_log("deaf", "listening", SOON)?;
    guest.wait(
        "who is deaf is ready as long as it listens",
        SOON,
        |guest| {
            let line = guest.wait_for_log("kedge", "deaf: running, ready", SOON)?;
            Ok(Some(line))
        },
    )?;
    guest.wait("who is deaf is restarted, and ready again", SOON, |guest| {
        let deaf = guest.container("deaf")?;
        Ok((restarts(&deaf) >= Some(1) && ready(&deaf)).then_some(()))
    })?;
    let hearing = guest.container("hearing")?;
    ensure!(restarts(&hearing) == Some(0), "{hearing}");
    Ok(())
}

/// To the kernel all containers are one user's. What it counts for users, here things that watch files, of which it gives one 128,
/// one of them does not take from the others.
fn counted(guest: &mut Guest) -> Result<()> {
    begin_beside(guest, "light", "hoard", 300)?;
    let said = end_beside(guest, "light", "gathered")?;
    ensure!(said == "gathered 300 refused 0\n", "{said}");
    let others = load(guest, "heavy", &["gather", "300"])?;
    ensure!(others == [300, 0], "the other: {others:?}");
    for limit in ["Max pending signals", "Max msgqueue size"] {
        let words = ["exec", "heavy", "/probe", "show", "/proc/self/limits"];
        let said = run(guest, &words, b"")?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let line = said.lines().find(|line| line.contains(limit));
        let is_free = line.is_some_and(|line| line.matches("unlimited").count() == 2);
        ensure!(is_free, "{limit}: {said}");
    }
    Ok(())
}

/// What one gets of a processor, in thousandths, while the other takes all that it gets.
fn share(guest: &Guest, one: &str, other: &str) -> Result<u64> {
    begin_beside(guest, other, "spin", 20)?;
    let got = load(guest, one, &["spin", "4"])?;
    let said = run(guest, &["exec", other, "/probe", "said"], b"")?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(!said.contains("spun"), "{other} was done before: {said}");
    end_beside(guest, other, "spun")?;
    got.first().copied().context("no share")
}

/// Four times the weight, four times the time; a half more or less for what the machine itself does meanwhile.
fn weighed(guest: &mut Guest) -> Result<()> {
    let heavy = share(guest, "heavy", "light")?;
    let light = share(guest, "light", "heavy")?;
    say(format_args!(
        "      weights of 200 and 50: {heavy} and {light} thousandths of a processor"
    ));
    ensure!(
        (2 * light..6 * light).contains(&heavy) && light > 50,
        "weights of 200 and 50 gave {heavy} and {light} thousandths"
    );
    Ok(())
}

/// What has a bound takes at least as long as this asks for, and longer than the same without one.
fn waited(guest: &Guest, [word, count]: [&str; 2], expected: u64, least: u64) -> Result<()> {
    let of = |container: &str| {
        let got = load(guest, container, &[word, count, "/free"])?;
        let numbers: Result<[u64; 2], _> = got.try_into();
        numbers.map_err(|got| anyhow::anyhow!("{container}: {word}: {got:?}"))
    };
    let ([done, took], [free, alone]) = (of("slow")?, of("quick")?);
    say(format_args!(
        "      {word} {count}: {took} ms with a bound, {alone} ms without"
    ));
    ensure!(
        done == expected && free == expected,
        "{done} and {free} of {expected}"
    );
    ensure!(
        took >= least && alone < took,
        "{word}: {took} ms with a bound, at least {least}; {alone} ms without"
    );
    Ok(())
}

/// A command that takes more memory than its container may have takes the container with it, whose own process took none.
fn together(guest: &mut Guest) -> Result<()> {
    let before = guest.container("whole")?;
    ensure!(text(&before, "state") == "running", "{before}");
    let output = run(guest, &["exec", "whole", "/probe", "eat"], b"")?;
    ensure!(output.status.code() == Some(137), "{output:?}");
    let told = "whole: failed, out of memory";
    guest.wait_for_log("kedge", told, SOON).map(drop)?;
    let whole = guest.container("whole")?;
    ensure!(
        text(&whole, "state") == "failed" && whole.get("pid").is_none(),
        "{whole}"
    );
    Ok(())
}

/// Bytes of files that a container has in memory.
fn cached(guest: &Guest, container: &str) -> Result<u64> {
    shown(guest, container, "/sys/fs/cgroup/memory.stat", "file ")
}

/// One that takes all the memory there is leaves of two others' files those that are to be kept.
fn kept(guest: &mut Guest) -> Result<()> {
    for container in ["kept", "bare"] {
        guest.wait_for_log(container, "holds ", SOON)?;
        let before = cached(guest, container)?;
        ensure!(before >= HELD << 20, "{container}: {before} bytes");
    }
    let before = guest.container("eager")?;
    let output = run(guest, &["exec", "eager", "/probe", "eat"], b"")?;
    ensure!(output.status.code() == Some(137), "{output:?}");
    let (kept, bare) = (cached(guest, "kept")?, cached(guest, "bare")?);
    say(format_args!(
        "      of {HELD} MiB: {kept} bytes kept, {bare} without"
    ));
    ensure!(kept >= HELD << 20, "{kept} of {HELD} MiB were kept");
    ensure!(
        bare < HELD << 19,
        "{bare} of {HELD} MiB were left without a word: there was no pressure"
    );
    let after = guest.container("eager")?;
    ensure!(
        before.get("pid") == after.get("pid"),
        "{before}, then {after}"
    );
    Ok(())
}
