//! `kedge import`: files of others become a project that builds.

use super::command::{platform, workshop};
use anyhow::{Context, Result, ensure};
use kedge_image_build::project::Project;
use kedge_image_build::{files, process, tools};
use kedge_rootfs::{Healthcheck, ImageProcess, LayoutImage, write_layout};
use kedge_tests::kedge::Kedge;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

const KEDGE: &str = env!("CARGO_BIN_EXE_kedge");

const COMPOSE: &str = r#"
services:
  web:
    image: example/web:${TAG:-1}
    command: ["--port", "${PORT}"]
    environment: { MODE: fast }
    ports: ["8080:8080"]
    user: web
    volumes: ["data:/srv/data", "./site:/srv/site:ro"]
    depends_on: { db: { condition: service_healthy } }
    secrets: [token]
    restart: unless-stopped
  db:
    image: example/db
    mem_limit: 64m
volumes: { data: {} }
secrets: { token: { environment: TOKEN } }
"#;

/// An OCI layout of one layer with a user.
fn layout(folder: &Path, process: ImageProcess) -> Result<()> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in [
        ("server", &b"\x7fELF not really"[..]),
        ("etc/passwd", b"root:x:0:0::/:\nweb:x:33:34::/:\n"),
        ("etc/group", b"root:x:0:\nweb:x:34:\n"),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(bytes.len())?);
        header.set_mode(0o755);
        header.set_mtime(0);
        tar.append_data(&mut header, path, bytes)?;
    }
    let tar = tar.into_inner()?;
    let image = LayoutImage {
        architecture: "amd64".into(),
        process,
        reference: None,
    };
    write_layout(folder, &image, &mut [&mut tar.as_slice()])?;
    Ok(())
}

fn images(folder: &Path) -> Result<()> {
    let process = |healthcheck| ImageProcess {
        entrypoint: vec!["/server".into()],
        cmd: vec!["--default".into()],
        env: vec!["PATH=/bin".into(), "MODE=slow".into()],
        healthcheck,
        ..ImageProcess::default()
    };
    layout(&folder.join("web"), process(None))?;
    let check = Healthcheck {
        test: vec!["CMD".into(), "/server".into(), "--check".into()],
        ..Healthcheck::default()
    };
    layout(&folder.join("db"), process(Some(check)))
}

#[test]
fn host_a_compose_file_becomes_an_image() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?;
    let kedge = Kedge::new(KEDGE, &folder.path().join("gateway"));
    kedge.create("gateway", "qemu-x86-64")?;
    images(folder.path())?;
    let file = folder.path().join("compose.yaml");
    files::write(&file, COMPOSE)?;
    files::write(&folder.path().join(".env"), "PORT=8080\n")?;
    let file = file.display().to_string();

    // Without images it says what is missing, and what is there does not build.
    let first = kedge.ask(&["import", "compose", &file])?;
    ensure!(
        first.pointer("/containers/0/missing-image") == Some(&json!("example/db")),
        "{first}"
    );
    let at = |name: &str| format!("{name}=oci:{}", folder.path().join(name).display());
    let (web, db) = (at("web"), at("db"));
    let all = ["import", "compose", &file, "--image", &web, "--image", &db];
    let (said, _) = kedge.refuse(&all)?;
    ensure!(said.contains("--replace writes it anew"), "{said}");
    let all = [&all[..], &["--replace"]].concat();
    let imported = kedge.ask(&all)?;
    let left = imported.get("left").and_then(Value::as_array);
    let paths: Vec<&str> = left
        .context("no list")?
        .iter()
        .filter_map(|one| one.get("path")?.as_str())
        .collect();
    let expected = [
        "secrets.token.environment",
        "services.web.volumes",
        "services.web.secrets",
    ];
    ensure!(paths == expected, "{imported}");
    kedge.fails(&[&all[..], &["--strict"]].concat())?;

    let built = kedge.ask(&["build", "--platform", &platform.display().to_string()])?;
    ensure!(built.pointer("/image/path").is_some(), "{built}");
    let document = files::read(&kedge.folder().join("build/revision.json"))?;
    let document: Value = serde_json::from_slice(&document)?;
    let container = |name: &str, field: &str| {
        let path = format!("/content/containers/{name}/{field}");
        document.pointer(&path).cloned().unwrap_or_default()
    };
    for (name, field, value) in [
        (
            "web",
            "process/arguments",
            json!(["/server", "--port", "8080"]),
        ),
        (
            "web",
            "process/environment",
            json!(["PATH=/bin", "MODE=fast"]),
        ),
        ("web", "process/user", json!({"uid": 33, "gid": 34})),
        ("web", "process/secrets", json!(["token"])),
        ("web", "after", json!(["db"])),
        ("web", "network", json!("host")),
        ("web", "restart/policy", json!("always")),
        ("web", "volumes/data/lifetime", json!("permanent")),
        ("db", "process/arguments", json!(["/server", "--default"])),
        ("db", "goal", json!("ready")),
        ("db", "health/check/command", json!(["/server", "--check"])),
        ("db", "limits/memory-max", json!(64 << 20)),
    ] {
        let found = container(name, field);
        ensure!(found == value, "{name}.{field} is {found}");
    }
    Ok(())
}

#[test]
fn host_a_bad_compose_file_writes_nothing() -> Result<()> {
    let folder = workshop()?;
    let kedge = Kedge::new(KEDGE, &folder.path().join("gateway"));
    kedge.create("gateway", "qemu-x86-64")?;
    let file = folder.path().join("compose.yaml");
    for (text, words) in [
        (
            "services:\n  a: { image: x, depends_on: [a] }\n",
            "goes round: a → a",
        ),
        (
            "services:\n  a: { image: x, working_dir: srv }\n",
            "working-directory",
        ),
        ("a: &a [1]\nb: &b [*a, *a]\nservices: *c\n", "line 3"),
    ] {
        files::write(&file, text)?;
        let (said, status) = kedge.refuse(&["import", "compose", &file.display().to_string()])?;
        ensure!(status == Some(1) && said.contains(words), "{said}");
    }
    let containers = kedge.folder().join("containers");
    let none = !containers.exists() || files::list(&containers)?.is_empty();
    ensure!(none, "something was written");
    Ok(())
}

/// A squashfs with a file of another owner, as bytes.
fn squashfs(folder: &Path) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, uid) in [("app", 0o755, 0), ("data/key", 0o640, 33)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(34);
        header.set_mtime(0);
        tar.append_data(&mut header, path, &b"\x7fELF"[..])?;
    }
    let (from, to) = (folder.join("root.tar"), folder.join("root.squashfs"));
    files::write(&from, tar.into_inner()?)?;
    let input = std::fs::File::open(&from)?;
    let tool = tools::tar2sqfs()?;
    let mut command = tool.command();
    let done = command.arg("--quiet").arg(&to).stdin(input).status()?;
    ensure!(done.success(), "tar2sqfs ended with {done}");
    files::read(&to)
}

/// A checkout: `.pvr/json` and `.pvr/objects`.
fn checkout(folder: &Path, root: &[u8]) -> Result<()> {
    let hash = |bytes: &[u8]| kedge_revision::id::hex(&Sha256::digest(bytes));
    let conf = b"lxc.init.cmd = /app --serve\nlxc.namespace.keep = user net\nlxc.mount.entry = /volumes/app/docker--data data none bind,rw,create=dir 0 0\n";
    for bytes in [root, &conf[..]] {
        files::write(&folder.join(".pvr/objects").join(hash(bytes)), bytes)?;
    }
    let state = json!({
        "#spec": "pantavisor-service-system@1",
        "app/lxc.container.conf": hash(conf),
        "app/root.squashfs": hash(root),
        "app/run.json": {
            "#spec": "service-manifest-run@1", "name": "app", "type": "lxc", "config": "lxc.container.conf",
            "root-volume": "root.squashfs", "group": "platform", "volumes": [],
            "storage": {"docker--data": {"persistence": "permanent"}, "lxc-overlay": {"persistence": "revision"}},
        },
    });
    files::write(&folder.join(".pvr/json"), state.to_string())
}

#[test]
fn host_a_pantavisor_state_becomes_an_image() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?;
    let root = squashfs(folder.path())?;
    let state = folder.path().join("state");
    checkout(&state, &root)?;
    // The same state as an export.
    let export = folder.path().join("export.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&export)?);
    tar.append_dir_all(".", state.join(".pvr"))?;
    tar.finish()?;

    let mut revisions = Vec::new();
    for (name, source) in [("one", &state), ("two", &export)] {
        let kedge = Kedge::new(KEDGE, &folder.path().join(name));
        kedge.create("gateway", "qemu-x86-64")?;
        let imported = kedge.ask(&["import", "pantavisor", &source.display().to_string()])?;
        let left = imported.get("left").and_then(Value::as_array);
        ensure!(left.is_some_and(|left| left.len() == 1), "{imported}");
        kedge.ask(&["build", "--platform", &platform.display().to_string()])?;
        let document = files::read(&kedge.folder().join("build/revision.json"))?;
        let document: Value = serde_json::from_slice(&document)?;
        let app = document
            .pointer("/content/containers/app")
            .cloned()
            .context("no container")?;
        for (field, value) in [
            ("/process/arguments", json!(["/app", "--serve"])),
            ("/volumes/data/path", json!("/data")),
            ("/network", json!("host")),
            ("/root", json!("revision")),
            ("/group", json!("platform")),
        ] {
            ensure!(app.pointer(field) == Some(&value), "{field}: {app}");
        }
        let groups = document.pointer("/content/groups").cloned();
        ensure!(
            groups == Some(json!([{"name": "platform", "change": "reboot"}])),
            "{groups:?}"
        );
        let layer = app.pointer("/layers/0").and_then(Value::as_str);
        let layer: kedge_revision::ObjectId = layer.context("no layer")?.parse()?;
        let project = Project::open(kedge.folder())?;
        let stat = process::text(
            tools::dump_erofs()?
                .command()
                .arg("--path=/data/key")
                .arg(project.object_path(layer)),
        )?;
        ensure!(
            stat.contains("0640") && stat.contains("33") && stat.contains("34"),
            "{stat}"
        );
        revisions.push(app);
    }
    ensure!(revisions.first() == revisions.last(), "{revisions:?}");

    // An object that is not what its name says.
    let kedge = Kedge::new(KEDGE, &folder.path().join("three"));
    kedge.create("gateway", "qemu-x86-64")?;
    let hash = kedge_revision::id::hex(&Sha256::digest(&root));
    files::write(&state.join(".pvr/objects").join(hash), b"something else")?;
    let (said, _) = kedge.refuse(&["import", "pantavisor", &state.display().to_string()])?;
    ensure!(said.contains("another SHA-256"), "{said}");
    Ok(())
}
