//! Bundles and pushes: from a project to a device that judges signatures and blocks as a real one does.

use crate::command::{platform, project, workshop};
use anyhow::{Context, Result, ensure};
use kedge_image_build::files;
use kedge_image_build::payload::Payload;
use kedge_image_build::push::{self, Change, Device, News, Outcome, Verdict, Waits};
use kedge_revision::ObjectId;
use kedge_tests::kedge::Kedge;
use kedge_tests::updates::{Script, Updates};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A project with a declared parameter and a secret one, a platform, and a folder for a device.
struct Scene {
    kedge: Kedge,
    platform: String,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Result<Self> {
        let folder = workshop()?;
        let platform = platform(folder.path())?.display().to_string();
        let kedge = project(folder.path())?;
        let path = kedge.folder().join("kedge.toml");
        let text = files::read_text(&path)?
            + "\n[parameters.site]\ntype = \"string\"\ndefault = \"nowhere\"\n\n[parameters.password]\ntype = \"string\"\nsecret = true\n";
        files::write(&path, text)?;
        Ok(Self {
            kedge,
            platform,
            folder,
        })
    }

    fn device(&self, script: Script) -> Result<Updates> {
        Updates::start(self.folder.path(), self.kedge.folder(), script)
    }

    /// A verb that composes the project.
    fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [words, &["--platform", &self.platform]].concat()
    }

    fn bundle(&self) -> Result<PathBuf> {
        let made = self.kedge.ask(&self.words(&["bundle"]))?;
        let path = made.get("path").and_then(Value::as_str);
        Ok(self.kedge.folder().join(path.context("no path")?))
    }

    fn payload(&self) -> Result<Payload> {
        Payload::open(&self.bundle()?)
    }

    /// Another file for a change of the revision.
    fn change(&self) -> Result<()> {
        let path = self.kedge.folder().join("containers/web.toml");
        let text = files::read_text(&path)?.replacen("pids-max = 512", "pids-max = 100", 1);
        files::write(&path, text)
    }

    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.path().join(name);
        files::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

/// A push of a payload by a host without patience.
fn push(device: &Updates, payload: &Payload) -> Result<(Outcome, Vec<String>)> {
    let waits = Waits {
        answer: Duration::from_secs(5),
        work: Duration::from_secs(5),
        pause: Duration::from_millis(40),
        silence: Duration::from_secs(5),
    };
    let mut seen = Vec::new();
    let reached = Device::new(Path::new(&device.socket()), waits);
    let outcome = push::push(&reached, payload, false, &mut |news| match news {
        News::Offered(offer) => seen.push(format!("offered {}", offer.missing.len())),
        News::Interrupted(error) => seen.push(format!("cut off: {error:#}")),
        News::Begun(change) => seen.push(format!("begun: {change}")),
        News::Trial(words) => seen.push(words.to_owned()),
        News::Object(_) | News::Bytes(_) => {}
    })?;
    Ok((outcome, seen))
}

fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn host_a_bundle_has_the_same_bytes_twice_and_verifies() -> Result<()> {
    let scene = Scene::new()?;
    let path = scene.bundle()?;
    let first = files::read(&path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ensure!(name == "gateway-qemu-x86-64-0.1.0-1.kedge", "{name}");
    ensure!(files::read(&scene.bundle()?)? == first, "other bytes");
    let shown = path.display().to_string();
    let verified = scene.kedge.ask(&["verify", &shown])?;
    let checked = verified.pointer("/verified/0/objects-checked");
    ensure!(checked == Some(&json!(3)), "{verified}");
    let inspected = scene.kedge.ask(&["inspect", &shown])?;
    ensure!(text(&inspected, "/kind") == "bundle", "{inspected}");
    ensure!(
        inspected.pointer("/document/revision/document/counter") == Some(&json!(1)),
        "{inspected}"
    );
    let folder = scene.kedge.folder().join("build");
    let left = files::list(&folder)?;
    ensure!(
        !left
            .iter()
            .any(|path| path.display().to_string().contains(".new-")),
        "{left:?}"
    );
    Ok(())
}

#[test]
fn host_a_damaged_bundle_is_found_by_verify() -> Result<()> {
    let scene = Scene::new()?;
    let path = scene.bundle()?;
    let good = files::read(&path)?;
    let at = good
        .windows(12)
        .position(|window| window == b"kernelkernel")
        .context("the kernel is not in the bundle")?;
    let shown = path.display().to_string();
    let mut cases: Vec<(Vec<u8>, &str)> = Vec::new();
    let mut flipped = good.clone();
    if let Some(byte) = flipped.get_mut(at + 9000) {
        *byte ^= 4;
    }
    cases.push((flipped, "damaged"));
    let mut tree = good.clone();
    // The kernel's tree is the block before header and digest of its bytes.
    if let Some(byte) = tree.get_mut(at - 48 - 4000) {
        *byte ^= 4;
    }
    cases.push((tree, "damaged"));
    let mut document = good.clone();
    if let Some(byte) = document.get_mut(60) {
        *byte ^= 4;
    }
    cases.push((document, "NOT good"));
    for length in [16, 200, good.len() / 2, good.len() - 1] {
        let torn = good.get(..length).unwrap_or_default().to_vec();
        cases.push((torn, "ends inside"));
    }
    let mut longer = good.clone();
    longer.push(0);
    cases.push((longer, "follows the end"));
    for (bytes, wanted) in cases {
        files::write(&path, bytes)?;
        let (words, status) = scene.kedge.refuse(&["verify", &shown])?;
        ensure!(
            status == Some(1) && words.contains(wanted),
            "{wanted}: {words}"
        );
    }
    Ok(())
}

#[test]
fn host_a_bundle_of_somebody_else_is_refused_by_verify_and_by_the_device() -> Result<()> {
    let scene = Scene::new()?;
    let other = Scene::new()?;
    let device = scene.device(Script::default())?;
    let bundle = other.bundle()?.display().to_string();
    let (words, _) = scene.kedge.refuse(&["verify", &bundle])?;
    ensure!(words.contains("signatures of release keys"), "{words}");
    let (words, status) = scene
        .kedge
        .refuse(&["push", &bundle, "--socket", &device.socket()])?;
    ensure!(
        status == Some(1)
            && words.contains("signatures of release keys")
            && words.contains("help:"),
        "{words}"
    );
    ensure!(
        device.taken() == 0 && device.count("offer") == 1,
        "{:?}",
        device.asked()
    );
    Ok(())
}

#[test]
fn host_a_push_sends_what_is_missing_and_waits_for_the_verdict() -> Result<()> {
    let scene = Scene::new()?;
    let device = scene.device(Script::default())?;
    let socket = device.socket();
    let words = scene.words(&["push", "--socket", &socket]);
    let outcome = scene.kedge.ask(&words)?;
    ensure!(text(&outcome, "/verdict") == "committed", "{outcome}");
    ensure!(outcome.get("objects-sent") == Some(&json!(3)), "{outcome}");
    // Who gives no parameters leaves the device those that it has.
    ensure!(outcome.get("parameters") == Some(&json!(3)), "{outcome}");
    ensure!(device.objects()?.len() == 3, "{:?}", device.objects()?);
    let (committed, _) = device.committed();
    ensure!(
        text(&outcome, "/revision") == committed.to_string(),
        "{outcome}"
    );

    // Nothing has changed, so nothing is tried.
    let outcome = scene.kedge.ask(&words)?;
    ensure!(text(&outcome, "/verdict") == "nothing", "{outcome}");
    ensure!(device.count("apply") == 1, "{:?}", device.asked());

    // A change of the revision alone needs no object again.
    let taken = device.taken();
    scene.change()?;
    let outcome = scene.kedge.ask(&words)?;
    ensure!(text(&outcome, "/verdict") == "committed", "{outcome}");
    ensure!(device.taken() == taken, "{:?}", device.asked());
    Ok(())
}

#[test]
fn host_a_push_that_was_cut_off_goes_on_where_it_was() -> Result<()> {
    let scene = Scene::new()?;
    let script = Script {
        cuts: vec![30_000, 0, 20_000],
        busy: 1,
        loses_apply: true,
        ..Script::default()
    };
    let device = scene.device(script)?;
    let payload = scene.payload()?;
    let (outcome, seen) = push(&device, &payload)?;
    ensure!(outcome.verdict == Verdict::Committed, "{outcome:?}");
    ensure!(device.count("/objects/") == 6, "{:?}", device.asked());
    let asked = device.asked();
    let offsets: Vec<&String> = asked
        .iter()
        .map(|(line, _)| line)
        .filter(|line| line.contains("offset="))
        .collect();
    ensure!(
        offsets.iter().any(|line| !line.ends_with("offset=0")),
        "everything was sent from its beginning: {offsets:?}"
    );
    // What was cut costs a block, a tree and what was on its way; not the object again.
    let whole: u64 = payload
        .envelope()
        .objects
        .values()
        .map(|object| object.size)
        .sum();
    ensure!(
        device.taken() < whole + 6 * 8192,
        "{} of {whole}",
        device.taken()
    );
    ensure!(seen.iter().any(|line| line.contains("cut off")), "{seen:?}");
    Ok(())
}

#[test]
fn host_an_offer_that_is_answered_in_parts_is_made_again() -> Result<()> {
    let scene = Scene::new()?;
    let script = Script {
        lists: Some(1),
        ..Script::default()
    };
    let device = scene.device(script.clone())?;
    let (outcome, seen) = push(&device, &scene.payload()?)?;
    ensure!(outcome.verdict == Verdict::Committed, "{outcome:?}");
    ensure!(
        device.count("offer") == 3 && device.count("/objects/") == 3,
        "{seen:?}"
    );

    drop(device);
    let other = Scene::new()?;
    let device = other.device(script)?;
    let bundle = other.bundle()?.display().to_string();
    ensure!(
        on_the_device(&device.socket(), &["apply", &bundle]),
        "{:?}",
        device.asked()
    );
    ensure!(
        device.count("offer") == 3 && device.count("/objects/") == 3,
        "{:?}",
        device.asked()
    );
    Ok(())
}

#[test]
fn host_a_block_that_arrives_damaged_is_sent_again() -> Result<()> {
    let scene = Scene::new()?;
    let script = Script {
        bad_block: true,
        ..Script::default()
    };
    let device = scene.device(script)?;
    let (outcome, seen) = push(&device, &scene.payload()?)?;
    ensure!(outcome.verdict == Verdict::Committed, "{outcome:?}");
    ensure!(seen.iter().any(|line| line.contains("block 0")), "{seen:?}");
    Ok(())
}

#[test]
fn host_an_object_that_is_damaged_here_is_not_sent() -> Result<()> {
    let scene = Scene::new()?;
    let path = scene.bundle()?;
    let mut bytes = files::read(&path)?;
    let at = bytes
        .windows(12)
        .position(|window| window == b"kernelkernel");
    if let Some(byte) = bytes.get_mut(at.context("no kernel")? + 20_000) {
        *byte ^= 1;
    }
    files::write(&path, bytes)?;
    let device = scene.device(Script::default())?;
    let error = push(&device, &Payload::open(&path)?)
        .err()
        .context("it was sent")?;
    ensure!(format!("{error:#}").contains("is damaged"), "{error:#}");
    ensure!(device.count("apply") == 0, "{:?}", device.asked());
    Ok(())
}

#[test]
fn host_a_verdict_is_waited_for_over_the_devices_boots() -> Result<()> {
    let scene = Scene::new()?;
    let script = Script {
        boots: 2,
        ..Script::default()
    };
    let device = scene.device(script)?;
    let (outcome, seen) = push(&device, &scene.payload()?)?;
    ensure!(outcome.verdict == Verdict::Committed, "{outcome:?}");
    let silent = seen.iter().filter(|line| line.contains("silent")).count();
    ensure!(silent == 2, "{seen:?}");
    ensure!(outcome.change == Some(Change::Slot), "{outcome:?}");
    Ok(())
}

#[test]
fn host_a_trial_that_does_not_hold_is_told_with_its_reason() -> Result<()> {
    let scene = Scene::new()?;
    let reason = "goal-missed(web, ready)";
    let script = Script {
        rolls_back: Some(reason),
        ..Script::default()
    };
    let device = scene.device(script)?;
    let socket = device.socket();
    let words = scene.words(&["push", "--socket", &socket]);
    // Twice: the second time, the first one's failure stands in the status from the beginning.
    for _ in 0..2 {
        let outcome = scene.kedge.fails(&words)?;
        ensure!(text(&outcome, "/verdict") == "rolled-back", "{outcome}");
        ensure!(text(&outcome, "/reason") == reason, "{outcome}");
    }
    ensure!(device.count("apply") == 2, "{:?}", device.asked());
    let status = scene.kedge.ask(&["ctl", "--socket", &socket, "status"])?;
    ensure!(text(&status, "/update/failed/reason") == reason, "{status}");

    // The same once more, and this time it holds.
    device.play(Script::default());
    let outcome = scene.kedge.ask(&words)?;
    ensure!(text(&outcome, "/verdict") == "committed", "{outcome}");
    Ok(())
}

#[test]
fn host_what_does_not_fit_is_refused_with_what_to_do() -> Result<()> {
    let scene = Scene::new()?;
    let script = Script {
        room: Some(1000),
        ..Script::default()
    };
    let device = scene.device(script)?;
    let socket = device.socket();
    let (words, status) = scene
        .kedge
        .refuse(&scene.words(&["push", "--socket", &socket]))?;
    ensure!(
        status == Some(1) && words.contains("bytes are missing") && words.contains("make room"),
        "{words}"
    );
    let (words, status) =
        scene
            .kedge
            .refuse(&scene.words(&["push", "--socket", "/nonexistent"]))?;
    ensure!(status == Some(1) && words.contains("kedge run"), "{words}");
    Ok(())
}

#[test]
fn host_parameters_are_checked_before_anything_is_sent_and_never_shown() -> Result<()> {
    let scene = Scene::new()?;
    let device = scene.device(Script::default())?;
    let socket = device.socket();
    for (name, content, wanted) in [
        ("a.toml", "site = \"hunter2\"\nsiet = \"hunter2\"\n", "siet"),
        ("b.json", "{\"password\": \"hunter2\\u0007\"}", "password"),
        ("c.toml", "password = hunter2", "line 1"),
    ] {
        let file = scene.file(name, content)?;
        let words = scene.words(&["push", "--socket", &socket, "--parameters", &file]);
        let (words, status) = scene.kedge.refuse(&words)?;
        ensure!(status == Some(1) && words.contains(wanted), "{words}");
        ensure!(!words.contains("hunter2"), "{words}");
    }
    // It was asked whether it is there, and told nothing.
    let asked = device.asked();
    ensure!(
        asked.iter().all(|(request, _)| request == "GET /v1/status"),
        "{asked:?}"
    );

    let file = scene.file("good.toml", "site = \"berlin\"\npassword = \"hunter2\"\n")?;
    let given = ["--parameters", &file, "--parameters-counter", "9"];
    let words = [&scene.words(&["push", "--socket", &socket])[..], &given].concat();
    let outcome = scene.kedge.ask(&words)?;
    ensure!(outcome.get("parameters") == Some(&json!(9)), "{outcome}");
    ensure!(device.committed().1 == 9, "{:?}", device.committed());

    let words = [&scene.words(&["bundle"])[..], &given].concat();
    let made = scene.kedge.ask(&words)?;
    let path = scene.kedge.folder().join(text(&made, "/path"));
    ensure!(
        text(&made, "/path").ends_with("-with-parameters.kedge"),
        "{made}"
    );
    let mode = path.metadata()?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    let path = path.display().to_string();
    let verified = scene.kedge.ask(&["verify", &path])?;
    ensure!(
        verified.pointer("/verified/0/parameters") == Some(&json!(9)),
        "{verified}"
    );
    let inspected = scene.kedge.ask(&["inspect", &path])?;
    let names = inspected.pointer("/document/parameters/names");
    ensure!(names == Some(&json!(["password", "site"])), "{inspected}");
    ensure!(!inspected.to_string().contains("hunter2"), "{inspected}");
    Ok(())
}

#[test]
fn host_ctl_applies_a_bundle_and_tells_what_became_of_it() -> Result<()> {
    let scene = Scene::new()?;
    let script = Script {
        boots: 20,
        ..Script::default()
    };
    let device = scene.device(script)?;
    let socket = device.socket();
    let bundle = scene.bundle()?.display().to_string();
    let ctl = |words: &[&str]| {
        scene
            .kedge
            .ask(&[&["ctl", "--socket", &socket], words].concat())
    };
    let outcome = ctl(&["apply", &bundle])?;
    ensure!(text(&outcome, "/verdict") == "begun", "{outcome}");
    // It may be about to boot.
    let mut ended = ctl(&["rollback"]);
    for _ in 0..20 {
        if ended.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        ended = ctl(&["rollback"]);
    }
    ended?;
    let status = ctl(&["status"])?;
    ensure!(
        text(&status, "/update/failed/reason") == "operator",
        "{status}"
    );
    let (words, status) = scene
        .kedge
        .refuse(&["ctl", "--socket", &socket, "rollback"])?;
    ensure!(
        status == Some(1) && words.contains("no trial is running"),
        "{words}"
    );
    let event = ctl(&["history"])?;
    ensure!(text(&event, "/event") == "trial-begun", "{event}");
    Ok(())
}

/// `ctl` as it runs on the device.
fn on_the_device(socket: &str, words: &[&str]) -> bool {
    let words = [&["--socket", socket], words].concat();
    let code = kedge_init::ctl::run(words.iter().map(OsString::from));
    code == std::process::ExitCode::SUCCESS
}

#[test]
fn host_the_devices_own_ctl_applies_a_bundle() -> Result<()> {
    let scene = Scene::new()?;
    let file = scene.file("good.toml", "site = \"berlin\"\n")?;
    let words = scene.words(&["bundle", "--parameters", &file, "--parameters-counter", "9"]);
    let made = scene.kedge.ask(&words)?;
    let id: ObjectId = text(&made, "/revision").parse()?;
    let with = scene
        .kedge
        .folder()
        .join(text(&made, "/path"))
        .display()
        .to_string();
    let without = scene.bundle()?.display().to_string();
    let script = Script {
        cuts: vec![30_000],
        ..Script::default()
    };
    let device = scene.device(script)?;
    let socket = device.socket();
    ensure!(
        !on_the_device(&socket, &["apply", &without]),
        "it was cut off"
    );
    ensure!(
        on_the_device(&socket, &["apply", &without]),
        "{:?}",
        device.asked()
    );
    let asked = device.asked();
    ensure!(
        asked
            .iter()
            .any(|(line, _)| line.contains("offset=") && !line.ends_with("offset=0")),
        "{asked:?}"
    );
    // A trial runs: another is refused.
    ensure!(!on_the_device(&socket, &["apply", &with]), "two trials");
    std::thread::sleep(Duration::from_millis(700));
    ensure!(device.committed() == (id, 3), "{:?}", device.committed());
    ensure!(
        on_the_device(&socket, &["apply", &with]),
        "{:?}",
        device.asked()
    );
    ensure!(on_the_device(&socket, &["history"]), "no history");
    ensure!(on_the_device(&socket, &["rollback"]), "no rollback");
    ensure!(
        !on_the_device(&socket, &["rollback"]),
        "nothing to roll back"
    );
    let torn = scene.file("torn.kedge", "kedge.bundle/1\n")?;
    ensure!(!on_the_device(&socket, &["apply", &torn]), "a torn bundle");
    Ok(())
}
