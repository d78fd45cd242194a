//! Where the command `kedge` writes to: what it never replaces, what it says when it cannot write, and who else is building.

use super::command::{KEDGE, platform, project, workshop};
use anyhow::{Context, Result, ensure};
use kedge_image_build::project::lock::{self, Lock};
use kedge_image_build::{files, process};
use kedge_tests::kedge::Kedge;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::process::{Command, Stdio};

/// A FIFO stands for a device node, which only root could make.
#[test]
fn host_what_is_no_file_is_not_replaced_and_takes_no_counter() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?.display().to_string();
    let kedge = project(folder.path())?;
    kedge.ask(&["build", "--revision-only", "--platform", &platform])?;
    let before = Lock::read(kedge.folder())?;
    let definition = kedge.folder().join("containers/web.toml");
    let text = files::read_text(&definition)?.replacen("pids-max = 512", "pids-max = 9", 1);
    files::write(&definition, text)?;
    let fifo = folder.path().join("fifo");
    process::run(Command::new("mkfifo").arg(&fifo))?;
    let place = fifo.display().to_string();
    for words in [
        &["build", "--platform", &platform, "--out", &place][..],
        &["build", "--platform", &platform, "--out", "-"],
        &["bundle", "--platform", &platform, "--out", &place],
        &["sbom", "--output", &place],
        &["sbom", "--output", "-"],
    ] {
        let (said, status) = kedge.refuse(words)?;
        ensure!(
            status == Some(1) && said.contains("no file"),
            "{words:?}: {said}"
        );
    }
    ensure!(fifo.symlink_metadata()?.file_type().is_fifo(), "it is gone");
    ensure!(Lock::read(kedge.folder())? == before, "a counter was taken");
    Ok(())
}

#[test]
fn host_a_linked_file_stays_a_link() -> Result<()> {
    let folder = workshop()?;
    let kedge = project(folder.path())?;
    let link = kedge.folder().join("containers/web.toml");
    let real = folder.path().join("web.toml");
    files::publish(&link, &real)?;
    std::os::unix::fs::symlink(&real, &link)?;
    files::write_executable(&folder.path().join("web/server"), b"\x7fELF new")?;
    let root = format!("dir:{}", folder.path().join("web").display());
    let before = files::read_text(&real)?;
    let updated = kedge.ask(&["add", &root, "--name", "web", "--update"])?;
    ensure!(updated.get("updated") == Some(&json!(true)), "{updated}");
    ensure!(link.is_symlink(), "the link was replaced");
    ensure!(
        files::read_text(&real)? != before,
        "the layers are the old ones"
    );
    Ok(())
}

#[test]
fn host_an_update_takes_nothing_that_it_would_pass_over() -> Result<()> {
    let folder = workshop()?;
    let kedge = project(folder.path())?;
    let root = format!("dir:{}", folder.path().join("web").display());
    let add = ["add", &root, "--name", "web", "--update"];
    for more in [
        &["--env", "A=b"][..],
        &["--volume", "data=/data"],
        &["--user", "1:1"],
        &["--health-tcp", "80"],
        &["--memory", "64MiB"],
        &["--root", "boot"],
        &["--group", "app"],
        &["--goal", "started"],
        &["--network", "none"],
        &["--command", "/server"],
    ] {
        let (said, status) = kedge.refuse(&[&add[..], more].concat())?;
        ensure!(
            status == Some(2) && said.contains(more[0]),
            "{more:?}: {said}"
        );
    }
    Ok(())
}

#[test]
fn host_a_result_that_cannot_be_written_is_a_failure() -> Result<()> {
    for words in [
        &["completions", "bash"][..],
        &["--json", "completions", "bash"],
    ] {
        let full = File::options().write(true).open("/dev/full")?;
        let done = Command::new(KEDGE).args(words).stdout(full).output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.code() == Some(1), "{words:?}: {}", done.status);
        ensure!(said.contains("standard output"), "{words:?}: {said}");
    }
    // Whoever reads no further is content.
    let mut child = Command::new(KEDGE)
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    ensure!(child.wait()?.success(), "a reader went away");
    Ok(())
}

#[test]
fn host_wrong_usage_and_mistakes_are_json_for_programs() -> Result<()> {
    let folder = workshop()?;
    let kedge = project(folder.path())?;
    let (said, status) = kedge.try_ask(&["events", "--last", "x"])?;
    let failure: Value = serde_json::from_str(&said).context("no JSON")?;
    let message = failure.pointer("/error/message").and_then(Value::as_str);
    ensure!(status == Some(2), "{status:?}");
    ensure!(
        message.is_some_and(|text| text.contains("--last") && text.contains("this is no number")),
        "{failure}"
    );
    let (said, _) = kedge.refuse(&["events", "--last", "x"])?;
    ensure!(said.contains("this is no number"), "{said}");
    // Behind `--` are others' words: a person reads.
    let done = Command::new(KEDGE)
        .args(["ctl", "nonsense", "--", "--json"])
        .output()?;
    ensure!(
        done.stdout.is_empty() && done.status.code() == Some(2),
        "{done:?}"
    );
    let manifest = kedge.folder().join("kedge.toml");
    let text = files::read_text(&manifest)?;
    files::write(&manifest, text.replacen("tries = 3", "tries = 300", 1))?;
    let failure = kedge.fails(&["key", "list"])?;
    let at = |name: &str| failure.pointer(&format!("/error/{name}"));
    ensure!(
        at("path") == Some(&json!(manifest.canonicalize()?)),
        "{failure}"
    );
    ensure!(at("line").is_some_and(Value::is_u64), "{failure}");
    ensure!(at("column") == Some(&json!(9)), "{failure}");
    Ok(())
}

#[test]
fn host_two_builds_at_once_give_two_counters() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?.display().to_string();
    let kedge = project(folder.path())?;
    let held = lock::hold(&kedge.folder().join("build"))?;
    let mut other = Command::new(KEDGE)
        .arg("--project")
        .arg(kedge.folder())
        .args(["build", "--revision-only", "--platform", &platform])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let said = other.stderr.take().context("no standard error")?;
    let mut lines = BufReader::new(said).lines();
    let waits = lines.any(|line| line.is_ok_and(|line| line.contains("another build")));
    ensure!(waits, "it did not wait");
    // What the build that holds it gives its counter.
    Lock {
        counter: 41,
        created: kedge_revision::Timestamp::from_unix(1),
        fingerprint: "another".to_owned(),
    }
    .write(kedge.folder())?;
    drop(held);
    ensure!(other.wait()?.success(), "it failed");
    let given = Lock::read(kedge.folder())?.map(|lock| lock.counter);
    ensure!(given == Some(42), "{given:?}");
    Ok(())
}

#[test]
fn host_a_push_that_reaches_nobody_takes_no_counter() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?.display().to_string();
    let kedge = project(folder.path())?;
    let socket = folder.path().join("nobody").display().to_string();
    let (said, _) = kedge.refuse(&["push", "--platform", &platform, "--socket", &socket])?;
    ensure!(said.contains("kedge run"), "{said}");
    ensure!(Lock::read(kedge.folder())?.is_none(), "a counter was taken");
    Ok(())
}

/// What a build was killed at is gone after the next one, and what another process is at stays.
#[test]
fn host_a_build_removes_what_killed_ones_left() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?.display().to_string();
    let kedge = project(folder.path())?;
    let build = kedge.folder().join("build");
    // No process has an id above 2^22; that of this test is of one that lives.
    let (gone, here) = (1 << 30, std::process::id());
    let names = |id: u32| {
        let names = [
            format!(".import-{id}"),
            format!(".run-{id}.img"),
            format!(".flash-{id}-x"),
        ];
        names.map(|name| build.join(name))
    };
    for place in [names(gone), names(here)].iter().flatten() {
        files::write(place, "x")?;
    }
    kedge.ask(&["build", "--revision-only", "--platform", &platform])?;
    ensure!(!names(gone).iter().any(|place| place.exists()));
    ensure!(names(here).iter().all(|place| place.exists()));
    Ok(())
}

#[test]
fn host_a_relative_image_outside_of_the_project_stays_relative() -> Result<()> {
    let folder = workshop()?;
    let kedge = Kedge::new(KEDGE, &folder.path().join("gateway"));
    kedge.create("gateway", "qemu-x86-64")?;
    let root = folder.path().join("hello");
    files::write_executable(&root.join("server"), b"#!/bin/sh\n")?;
    let add = |image: &str| -> Result<Value> {
        let done = Command::new(KEDGE)
            .current_dir(kedge.folder())
            .args(["--json", "add", image, "--name", "web", "--replace"])
            .args(["--command", "/server"])
            .output()?;
        serde_json::from_slice(&done.stdout).with_context(|| format!("{done:?}"))
    };
    let added = add("dir:../hello")?;
    ensure!(
        added.get("image") == Some(&json!("dir:../hello")),
        "{added}"
    );
    let notes = added.get("notes").map(Value::to_string);
    ensure!(
        notes.is_some_and(|notes| notes.contains("outside the project")),
        "{added}"
    );
    let absolute = format!("dir:{}", root.canonicalize()?.display());
    ensure!(add(&absolute)?.get("image") == Some(&json!(absolute)));
    Ok(())
}

/// Without a platform, with a key that is away, and with nothing taken.
#[test]
fn host_a_check_judges_as_a_build_would_and_takes_nothing() -> Result<()> {
    let folder = workshop()?;
    let kedge = project(folder.path())?;
    let key = kedge.folder().join("keys/release.toml");
    files::publish(&key, &folder.path().join("away"))?;
    let checked = kedge.ask(&["check"])?;
    ensure!(
        checked.get("containers") == Some(&json!(["web"])),
        "{checked}"
    );
    ensure!(Lock::read(kedge.folder())?.is_none(), "a counter was taken");
    ensure!(!kedge.folder().join("build/revision.json").exists());
    let definition = kedge.folder().join("containers/web.toml");
    let good = files::read_text(&definition)?;
    for (more, wanted) in [
        (
            "[volumes.a]\npath = \"/\"\nlifetime = \"boot\"\n",
            "volumes.a.path",
        ),
        (
            "[volumes.a]\npath = \"/x/\"\nlifetime = \"boot\"\n",
            "volumes.a.path",
        ),
        (
            "[volumes.a]\npath = \"/x\"\nlifetime = \"boot\"\nsize = \"0B\"\n",
            "volumes.a.size",
        ),
        (
            "[volumes.a]\npath = \"/x\"\nlifetime = \"boot\"\nsize = 8\n",
            "\"64MiB\"",
        ),
    ] {
        files::write(&definition, format!("{good}\n{more}"))?;
        let (said, status) = kedge.refuse(&["check"])?;
        ensure!(
            status == Some(1) && said.contains("web.toml:") && said.contains(wanted),
            "{more}: {said}"
        );
    }
    files::write(&definition, good)?;
    let manifest = kedge.folder().join("kedge.toml");
    let text = files::read_text(&manifest)?;
    files::write(&manifest, text.replacen("floor = 0", "floor = 7", 1))?;
    let (said, _) = kedge.refuse(&["check"])?;
    ensure!(
        said.contains("kedge.toml:") && said.contains("floor"),
        "{said}"
    );
    Ok(())
}

#[test]
fn host_boards_are_listed_with_what_they_are() -> Result<()> {
    let folder = workshop()?;
    let listed = Kedge::new(KEDGE, folder.path()).ask(&["boards"])?;
    let boards = listed.get("boards").and_then(Value::as_array);
    let boards = boards.context("no list")?;
    let named = |name: &str| {
        boards
            .iter()
            .find(|board| board.get("name") == Some(&json!(name)))
    };
    let qemu = named("qemu-x86-64").context("no qemu-x86-64")?;
    for (key, value) in [
        ("architecture", json!("x86-64")),
        ("backend", json!("direct")),
        ("emulated", json!(true)),
    ] {
        ensure!(qemu.get(key) == Some(&value), "{qemu}");
    }
    let pi = named("raspberry-pi-4").and_then(|board| board.get("about"));
    let pi = pi.and_then(Value::as_str).context("no raspberry-pi-4")?;
    ensure!(pi.starts_with("Raspberry Pi 4 B"), "{pi}");
    Ok(())
}

/// On a terminal of its own (`script` of util-linux, which every Debian has).
#[test]
fn host_a_prompt_that_is_interrupted_leaves_the_terminal_its_echo() -> Result<()> {
    let folder = workshop()?;
    let kedge = project(folder.path())?;
    let shell = format!(
        "{KEDGE} --project {} key new other; echo ended with $?; stty -a",
        kedge.folder().display()
    );
    let mut child = Command::new("script")
        .args(["--quiet", "--command", &shell, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start script")?;
    let mut keys = child.stdin.take().context("no keyboard")?;
    let mut screen = child.stdout.take().context("no screen")?;
    let mut said = Vec::new();
    while !said.ends_with(b": ") {
        let mut byte = [0];
        ensure!(
            screen.read(&mut byte)? == 1,
            "it asked for nothing: {}",
            String::from_utf8_lossy(&said)
        );
        said.extend(byte);
    }
    // Some of it was typed already; the third is Ctrl-C.
    keys.write_all(b"ab\x03")?;
    let mut rest = String::new();
    screen.read_to_string(&mut rest)?;
    child.wait()?;
    ensure!(rest.contains("interrupted"), "{rest}");
    ensure!(rest.contains("ended with 1"), "{rest}");
    let modes: Vec<&str> = rest.split_whitespace().collect();
    ensure!(modes.contains(&"echo") && modes.contains(&"isig"), "{rest}");
    ensure!(!kedge.folder().join("keys/other.toml").exists());
    Ok(())
}
