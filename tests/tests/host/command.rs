//! The command `kedge` end to end, as a user runs it: results, and refusals that teach.

use anyhow::{Context, Result, ensure};
use kedge_image_build::cache::Cache;
use kedge_image_build::platform::Platform;
use kedge_image_build::toolchain::Crate;
use kedge_image_build::{debian, files, process};
use kedge_tests::disk::Disk;
use kedge_tests::kedge::Kedge;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const KEDGE: &str = env!("CARGO_BIN_EXE_kedge");

/// A platform whose parts are no programs: nothing boots in this tier, and none has to be compiled for it.
pub(crate) fn platform(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("platform");
    files::write(&path.join("vmlinuz"), b"kernel".repeat(10_000))?;
    files::write(&path.join("init"), b"init".repeat(10_000))?;
    let platform = Platform {
        device_trees: Vec::new(),
        firmware: Vec::new(),
        named_by: String::new(),
        loader: None,
        board: "qemu-x86-64".into(),
        kernel: "vmlinuz".into(),
        init: "init".into(),
        modules: Vec::new(),
        pool_modules: Vec::new(),
        kernel_version: "6.12".into(),
        crates: vec![Crate {
            name: "serde".into(),
            version: "1.0.228".into(),
            licence: "MIT OR Apache-2.0".into(),
        }],
    };
    files::write(
        &path.join("platform.json"),
        serde_json::to_string(&platform)?,
    )?;
    Ok(path)
}

/// A folder in the cache: images are large, and /tmp is memory on many machines.
pub(crate) fn workshop() -> Result<tempfile::TempDir> {
    let place = Cache::open()?.folder("tests")?;
    tempfile::Builder::new()
        .prefix("host-")
        .tempdir_in(place)
        .context("no folder")
}

/// A project with one container of one layer.
pub(crate) fn project(folder: &Path) -> Result<Kedge> {
    let kedge = Kedge::new(KEDGE, &folder.join("gateway"));
    kedge.create("gateway", "qemu-x86-64")?;
    let root = folder.join("web");
    for name in ["dev", "proc", "sys", "tmp"] {
        files::make_folder(&root.join(name))?;
    }
    files::write_executable(&root.join("server"), b"\x7fELF not really")?;
    let image = format!("dir:{}", root.display());
    kedge.ask(&["add", &image, "--name", "web", "--command", "/server"])?;
    Ok(kedge)
}

fn build(kedge: &Kedge, platform: &Path) -> Result<(Value, PathBuf)> {
    let built = kedge.ask(&["build", "--platform", &platform.display().to_string()])?;
    let image = built
        .pointer("/image/path")
        .and_then(Value::as_str)
        .context("no image")?;
    let image = kedge.folder().join(image);
    Ok((built, image))
}

#[test]
fn host_a_project_builds_twice_to_the_same_bytes_and_verifies() -> Result<()> {
    debian::require(&["gdisk"], "verify a partition table")?;
    let folder = workshop()?;
    let platform = platform(folder.path())?;
    let kedge = project(folder.path())?;
    let (first, image) = build(&kedge, &platform)?;
    let kept = folder.path().join("kept");
    process::run(
        Command::new("cp")
            .arg("--sparse=always")
            .arg(&image)
            .arg(&kept),
    )?;
    let (second, _) = build(&kedge, &platform)?;
    ensure!(second.get("unchanged") == Some(&json!(true)), "{second}");
    ensure!(
        first.get("revision") == second.get("revision"),
        "{first} {second}"
    );
    process::run(Command::new("cmp").arg(&kept).arg(&image))?;
    // build/ can be made again, whole.
    files::remove_folder(&kedge.folder().join("build"))?;
    build(&kedge, &platform)?;
    process::run(Command::new("cmp").arg(&kept).arg(&image))?;

    let table = process::text(Command::new("sgdisk").arg("--verify").arg(&image))?;
    ensure!(table.contains("No problems found"), "{table}");
    Disk::copy_of(&image)?.check_data()?;

    let image = image.display().to_string();
    let revision = kedge
        .folder()
        .join("build/revision.json")
        .display()
        .to_string();
    let verified = kedge.ask(&["verify", &image, &revision])?;
    let good = verified
        .get("verified")
        .and_then(Value::as_array)
        .context("nothing verified")?;
    ensure!(good.len() == 2, "{verified}");
    for (path, kind) in [(&image, "disk-image"), (&revision, "revision")] {
        let shown = kedge.ask(&["inspect", path])?;
        ensure!(shown.get("kind") == Some(&json!(kind)), "{shown}");
    }
    Ok(())
}

#[test]
fn host_a_change_takes_the_next_counter() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?;
    let kedge = project(folder.path())?;
    let words = [
        "build",
        "--revision-only",
        "--platform",
        &platform.display().to_string(),
    ];
    let first = kedge.ask(&words)?;
    let path = kedge.folder().join("containers/web.toml");
    let text = files::read_text(&path)?.replacen("pids-max = 512", "pids-max = 100", 1);
    files::write(&path, text)?;
    let second = kedge.ask(&words)?;
    let counter = |built: &Value| built.get("counter").and_then(Value::as_u64).unwrap_or(0);
    ensure!(counter(&second) == counter(&first) + 1, "{first} {second}");
    Ok(())
}

#[test]
fn host_a_flipped_bit_in_an_image_is_found_by_verify() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?;
    let kedge = project(folder.path())?;
    let (_, image) = build(&kedge, &platform)?;
    let disk = Disk::copy_of(&image)?;
    // The layer's superblock is at 1024; its directory blocks follow. The file's content begins a block.
    disk.flip_bit_in(b"\x7fELF not really")?;
    let (words, status) = kedge.refuse(&["verify", &disk.path().display().to_string()])?;
    ensure!(status == Some(1) && words.contains("damaged"), "{words}");
    Ok(())
}

#[test]
fn host_mistakes_are_refused_with_place_and_remedy() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?.display().to_string();
    let kedge = project(folder.path())?;
    let file = kedge.folder().join("containers/web.toml");
    let good = files::read_text(&file)?;
    for (from, to, wanted) in [
        ("network = ", "netwrok = ", "netwrok"),
        ("pids-max = 512", "pids-max = 0", "pids-max"),
        ("arguments = [\"/server\"]", "arguments = []", "arguments"),
        ("group = \"app\"", "group = \"nowhere\"", "nowhere"),
    ] {
        let bad = good.replacen(from, to, 1);
        ensure!(
            bad != good,
            "{from:?} is not in the file that kedge add wrote"
        );
        files::write(&file, bad)?;
        let (words, status) =
            kedge.refuse(&["build", "--revision-only", "--platform", &platform])?;
        ensure!(status == Some(1), "{status:?}");
        ensure!(
            words.contains("web.toml:") && words.contains(wanted),
            "for {to}: {words}"
        );
    }
    files::write(&file, &good)?;

    let (words, _) = kedge.refuse(&["build", "--platform", "/nonexistent"])?;
    ensure!(words.contains("cargo xtask image"), "{words}");
    let (words, _) = kedge.refuse(&["add", "/nonexistent", "--name", "other"])?;
    ensure!(
        words.contains("/nonexistent") && words.contains("help"),
        "{words}"
    );
    let web = format!("dir:{}", folder.path().join("web").display());
    let (words, _) = kedge.refuse(&["add", &web, "--name", "other"])?;
    ensure!(
        words.contains("--command"),
        "an image without entrypoint: {words}"
    );
    let (words, _) = kedge.refuse(&["add", &web, "--name", "web", "--command", "/server"])?;
    ensure!(words.contains("--update"), "{words}");
    let (words, status) = kedge.refuse(&["frobnicate"])?;
    ensure!(status == Some(2), "{status:?} {words}");
    Ok(())
}

#[test]
fn host_a_container_is_added_to_a_pool_with_its_ports() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?;
    let kedge = project(folder.path())?;
    let web = format!("dir:{}", folder.path().join("web").display());
    let add = |name: &'static str, more: &[&'static str]| {
        let words = ["add", &web, "--name", name].map(str::to_owned);
        let all = words.iter().map(String::as_str).chain(more.iter().copied());
        let all = all.chain(["--command", "/server"]);
        all.map(str::to_owned).collect::<Vec<_>>()
    };
    let refuse = |words: Vec<String>, why: &str| -> Result<()> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (said, _) = kedge.refuse(&words)?;
        ensure!(said.contains(why), "{words:?}: {said}");
        Ok(())
    };
    let front = ["--pool", "front", "--publish", "8080:80"];
    refuse(add("api", &front), "[configuration.networks.front]")?;
    let manifest = kedge.folder().join("kedge.toml");
    let mut text = files::read_text(&manifest)?;
    text.push_str("\n[configuration.networks.front]\nprefix = \"10.88.0.0/24\"\n");
    files::write(&manifest, text)?;
    refuse(add("api", &["--pool", "back"]), "it has: front")?;
    refuse(add("api", &["--publish", "8080:80"]), "--pool")?;
    refuse(
        add("api", &["--pool", "front", "--publish", "8080"]),
        "--publish",
    )?;
    refuse(
        add("api", &["--pool", "front", "--network", "host"]),
        "--network",
    )?;
    let words = add("api", &[&front[..], &["--publish", "53:53/udp"]].concat());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    kedge.ask(&words)?;
    let written = files::read_text(&kedge.folder().join("containers/api.toml"))?;
    ensure!(
        written.contains("network = { pool = \"front\" }")
            && written.contains("ports = [\"8080:80\", \"53:53/udp\"]"),
        "{written}"
    );
    // As a build would say it, and before anything is written.
    refuse(add("other", &front), "does not go with")?;
    ensure!(!kedge.folder().join("containers/other.toml").exists());
    let platform = platform.display().to_string();
    kedge.ask(&["build", "--platform", &platform, "--revision-only"])?;
    Ok(())
}

#[test]
fn host_an_image_of_another_architecture_is_refused() -> Result<()> {
    let folder = workshop()?;
    let kedge = project(folder.path())?;
    let layout = folder.path().join("layout");
    let image = kedge_rootfs::LayoutImage {
        architecture: "riscv64".into(),
        ..kedge_rootfs::LayoutImage::default()
    };
    let tar = tar::Builder::new(Vec::new()).into_inner()?;
    let mut reader: &[u8] = &tar;
    kedge_rootfs::write_layout(&layout, &image, &mut [&mut reader])?;
    let name = format!("oci:{}", layout.display());
    let (words, _) = kedge.refuse(&["add", &name, "--name", "other", "--command", "/x"])?;
    ensure!(
        words.contains("riscv64") && words.contains("amd64"),
        "{words}"
    );
    Ok(())
}

/// A root file system says nothing of its processor; its programs do.
#[test]
fn host_programs_of_another_architecture_are_refused() -> Result<()> {
    let folder = workshop()?;
    let place = folder.path().join("made");
    let kedge = Kedge::new(KEDGE, &place);
    kedge.create("made", "qemu-riscv64")?;
    let root = folder.path().join("root");
    files::make_folder(&root)?;
    let own = files::read(&std::env::current_exe()?)?;
    files::write_executable(&root.join("server"), own.get(..64).context("no head")?)?;
    let image = format!("dir:{}", root.display());
    let add = ["add", &image, "--name", "web", "--command", "/server"];
    let (words, _) = kedge.refuse(&add)?;
    ensure!(
        words.contains("riscv64") && words.contains("server is for"),
        "{words}"
    );
    ensure!(!place.join("containers/web.toml").exists(), "it was added");
    // As data it may be there.
    files::write(&root.join("sample"), own.get(..64).context("no head")?)?;
    files::write_executable(&root.join("server"), b"#!/bin/sh\n")?;
    kedge.ask(&add).map(drop)
}

#[test]
fn host_a_production_project_needs_a_passphrase() -> Result<()> {
    let folder = workshop()?;
    let path = folder.path().join("made").display().to_string();
    let kedge = Kedge::new(KEDGE, folder.path());
    let (words, status) = kedge.refuse(&[
        "new",
        "made",
        "--production",
        "--no-passphrase",
        "--path",
        &path,
    ])?;
    ensure!(
        status == Some(2) && words.contains("--no-passphrase"),
        "{words}"
    );
    ensure!(!folder.path().join("made").exists(), "something was made");
    Ok(())
}

#[test]
fn host_a_diff_tells_when_an_update_takes_a_reboot() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?;
    let kedge = project(folder.path())?;
    build(&kedge, &platform)?;
    let definition = kedge.folder().join("containers/web.toml");
    let new = kedge.folder().join("build/revision.json");
    let new = new.display().to_string();
    let manifest = kedge.folder().join("kedge.toml");
    let text = files::read_text(&manifest)?;
    files::write(
        &manifest,
        text.replace(
            "[[groups]]\nname = \"app\"\n",
            "[[groups]]\nname = \"apps\"\n",
        ),
    )?;
    let text = files::read_text(&definition)?;
    files::write(
        &definition,
        text.replace("group = \"app\"", "group = \"apps\""),
    )?;
    let before = folder.path().join("before.json");
    files::write(&before, files::read(std::path::Path::new(&new))?)?;
    build(&kedge, &platform)?;
    let moved = kedge.ask(&["diff", &before.display().to_string(), &new])?;
    ensure!(
        moved.pointer("/costs/cost") == Some(&json!("reboot"))
            && moved.pointer("/costs/why") == Some(&json!("the groups differ"))
            && moved.pointer("/costs/tries") == Some(&json!(3)),
        "{moved}"
    );
    Ok(())
}

#[test]
fn host_a_diff_tells_what_is_widened_and_what_travels() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?;
    let kedge = project(folder.path())?;
    let (_, image) = build(&kedge, &platform)?;
    let old = folder.path().join("old.img");
    files::publish(&image, &old)?;
    let definition = kedge.folder().join("containers/web.toml");
    let text = files::read_text(&definition)?;
    let hosts = text.replacen("network = \"none\"", "network = \"host\"", 1);
    ensure!(hosts != text, "{text}");
    files::write(&definition, hosts)?;
    files::write_executable(&folder.path().join("web/server"), b"\x7fELF neither")?;
    let root = format!("dir:{}", folder.path().join("web").display());
    kedge.ask(&["add", &root, "--name", "web", "--update"])?;
    build(&kedge, &platform)?;
    let (old, new) = (old.display().to_string(), "build/revision.json");
    let new = kedge.folder().join(new).display().to_string();
    let found = kedge.ask(&["diff", &old, &new])?;
    let first = found.pointer("/differences/0/widened");
    ensure!(
        first == Some(&json!("sees the device's own network")),
        "{found}"
    );
    ensure!(
        found.pointer("/travels/objects") == Some(&json!(1)),
        "{found}"
    );
    // `web` is in the group that changes by a restart, and nothing that boots differs.
    let costs = found.get("costs");
    ensure!(
        costs.and_then(|costs| costs.get("cost")) == Some(&json!("restart"))
            && costs.and_then(|costs| costs.get("restarted")) == Some(&json!(["web"])),
        "{found}"
    );
    let strict = kedge.fails(&["diff", &old, &new, "--fail-if-widened"])?;
    ensure!(strict == found, "{strict}");
    let back = kedge.ask(&["diff", &new, &old, "--fail-if-widened"])?;
    ensure!(
        back.pointer("/differences/0/widened").is_none(),
        "less is no widening: {back}"
    );
    let same = kedge.ask(&["diff", &new, &new])?;
    ensure!(same.get("differences") == Some(&json!([])), "{same}");
    ensure!(
        same.pointer("/costs/cost") == Some(&json!("nothing")),
        "{same}"
    );
    let (said, _) = kedge.refuse(&["diff", &definition.display().to_string(), &new])?;
    ensure!(said.contains("holds no revision"), "{said}");
    Ok(())
}
