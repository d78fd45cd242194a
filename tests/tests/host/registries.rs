//! `kedge add` from registries: Debian's `docker-registry`, filled by Debian's `skopeo`, whole and over a cable that breaks.

mod lies;

use super::command::{platform, workshop};
use anyhow::{Context, Result, ensure};
use base64::Engine;
use kedge_image_build::cache::Cache;
use kedge_image_build::{files, tools};
use kedge_rootfs::{ImageProcess, LayoutImage, write_layout};
use kedge_tests::kedge::Kedge;
use kedge_tests::proxy::{Break, Cable};
use kedge_tests::registry::{Guard, PASSWORD, Registry, USER};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const KEDGE: &str = env!("CARGO_BIN_EXE_kedge");

/// A project with a cache that has the tools of the real one, and nothing that was pulled before; nobody's logins.
fn scene(folder: &Path, name: &str) -> Result<(Kedge, PathBuf)> {
    tools::mkfs_erofs()?;
    let cache = folder.join(format!("cache-{name}"));
    files::make_folder(&cache)?;
    std::os::unix::fs::symlink(Cache::open()?.root().join("tools"), cache.join("tools"))?;
    let home = folder.join("home");
    files::make_folder(&home)?;
    let kedge = Kedge::new(KEDGE, &folder.join(name))
        .with("KEDGE_CACHE", &cache)
        .with("HOME", &home)
        .with("XDG_CONFIG_HOME", &home.join(".config"))
        .with("XDG_RUNTIME_DIR", &home)
        .with("DOCKER_CONFIG", &home.join("docker"))
        .with("NO_PROXY", Path::new("127.0.0.1"));
    kedge.create("gateway", "qemu-x86-64")?;
    Ok((kedge, cache))
}

/// Bytes that do not compress and are the same each time.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let blocks =
        (0_u32..).map(|number| Sha256::digest([seed.to_le_bytes(), number.to_le_bytes()].concat()));
    blocks.flatten().take(length).collect()
}

/// An OCI layout with an image of one layer for each architecture; more than one stand behind an index.
fn layout(folder: &Path, architectures: &[&str], content: &[u8]) -> Result<()> {
    let mut manifests = Vec::new();
    for architecture in architectures {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in [
            ("server", &b"\x7fELF not really"[..]),
            ("content", content),
            ("machine", architecture.as_bytes()),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_size(u64::try_from(bytes.len())?);
            header.set_mode(0o755);
            header.set_mtime(0);
            tar.append_data(&mut header, path, bytes)?;
        }
        let tar = tar.into_inner()?;
        let image = LayoutImage {
            architecture: (*architecture).into(),
            process: ImageProcess {
                entrypoint: vec!["/server".into()],
                ..ImageProcess::default()
            },
            reference: None,
        };
        write_layout(folder, &image, &mut [&mut tar.as_slice()])?;
        let index: Value = serde_json::from_slice(&files::read(&folder.join("index.json"))?)?;
        let mut manifest = index
            .pointer("/manifests/0")
            .context("no manifest")?
            .clone();
        let fields = manifest.as_object_mut().context("no object")?;
        fields.insert(
            "platform".into(),
            json!({"os": "linux", "architecture": architecture}),
        );
        manifests.push(manifest);
    }
    if architectures.len() < 2 {
        return Ok(());
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let inner = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).to_string();
    let hex = hex(inner.as_bytes());
    files::write(&folder.join("blobs/sha256").join(&hex), &inner)?;
    let outer = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": kind, "digest": format!("sha256:{hex}"), "size": inner.len()}
    ]});
    files::write(&folder.join("index.json"), outer.to_string())
}

fn hex(bytes: &[u8]) -> String {
    kedge_revision::id::hex(&Sha256::digest(bytes))
}

fn text<'a>(object: &'a Value, name: &str) -> Result<&'a str> {
    let found = object.get(name).and_then(Value::as_str);
    found.with_context(|| format!("no {name} in {object}"))
}

#[test]
fn host_a_registrys_image_is_pinned_and_made_again_without_it() -> Result<()> {
    let folder = workshop()?;
    let (kedge, _) = scene(folder.path(), "gateway")?;
    let registry = Registry::start(folder.path(), Guard::default())?;
    let layouts = ["one", "two"].map(|name| folder.path().join(name));
    for (layout_folder, content) in layouts.iter().zip(["one", "two"]) {
        layout(layout_folder, &["arm64", "amd64"], content.as_bytes())?;
    }
    let [one, two] = &layouts;
    registry.fill(one, "shop/web:1")?;
    let image = format!("docker://{}/shop/web:1", registry.address());
    let added = kedge.ask(&["add", &image, "--name", "web", "--insecure", "http"])?;
    let pinned = text(&added, "image")?.to_owned();
    ensure!(pinned.starts_with(&format!("{image}@sha256:")), "{added}");
    // The same as from the files, for the board's architecture.
    let files_added = kedge.ask(&["add", &format!("oci:{}", one.display()), "--name", "other"])?;
    ensure!(
        added.get("layers") == files_added.get("layers"),
        "{added} {files_added}"
    );
    let definition = kedge.folder().join("containers/web.toml");
    ensure!(
        files::read_text(&definition)?.contains(&pinned),
        "not written down"
    );
    std::fs::remove_file(kedge.folder().join("containers/other.toml"))?;

    // The tag moves on; the project does not, also when all that it built is gone.
    registry.fill(two, "shop/web:1")?;
    let platform = platform(folder.path())?.display().to_string();
    let build = ["build", "--revision-only", "--platform", &platform];
    kedge.ask(&build)?;
    files::remove_folder(&kedge.folder().join("build"))?;
    let again = kedge.ask(&build)?;
    ensure!(again.get("unchanged") == Some(&json!(true)), "{again}");
    // By the pinned name it is the old one, by the tag the new one; no `docker://` is needed before an address.
    let update = |image: &str| {
        kedge.ask(&[
            "add",
            image,
            "--name",
            "web",
            "--insecure",
            "http",
            "--update",
        ])
    };
    let old = update(&pinned)?;
    ensure!(
        old.get("layers") == added.get("layers") && text(&old, "image")? == pinned,
        "{old}"
    );
    let new = update(image.trim_start_matches("docker://"))?;
    ensure!(new.get("layers") != added.get("layers"), "{new}");
    // Without its registry, what is in the cache is still good.
    drop(registry);
    files::remove_folder(&kedge.folder().join("build"))?;
    kedge.ask(&build)?;
    Ok(())
}

#[test]
fn host_a_registrys_refusals_say_what_to_do() -> Result<()> {
    let folder = workshop()?;
    let (kedge, _) = scene(folder.path(), "gateway")?;
    let registry = Registry::start(folder.path(), Guard::default())?;
    let (many, single) = (folder.path().join("many"), folder.path().join("single"));
    layout(&many, &["arm64", "riscv64"], b"x")?;
    layout(&single, &["arm64"], b"x")?;
    registry.fill(&many, "many:1")?;
    registry.fill(&single, "single:1")?;
    let host = registry.address();
    let http: &[&str] = &["--insecure", "http"];
    for (image, more, wanted) in [
        (
            format!("docker://{host}/many:1"),
            http,
            &["linux/amd64", "linux/arm64, linux/riscv64"][..],
        ),
        (
            format!("docker://{host}/single:1"),
            http,
            &["linux/amd64", "linux/arm64"],
        ),
        (
            format!("docker://{host}/single:2"),
            http,
            &["404", "single", "help"],
        ),
        (
            format!("docker://{host}/absent"),
            http,
            &["404", "absent", "latest", "help"],
        ),
        (
            format!("docker://{host}/single:1"),
            &[],
            &["--insecure http"],
        ),
        (
            format!("docker://{host}/Single:1"),
            http,
            &["Single", "small letters"],
        ),
        ("docker://Server/x".to_owned(), http, &["server:443"]),
        (
            format!("{}/nothing.tar", folder.path().display()),
            &[],
            &["nothing.tar", "docker://"],
        ),
        (format!("oci:{}", single.display()), http, &["is a file"]),
    ] {
        let words = [&["add", image.as_str(), "--name", "web"], more].concat();
        let (said, status) = kedge.refuse(&words)?;
        ensure!(status == Some(1), "{said}");
        for word in wanted {
            ensure!(said.contains(word), "{image}: no {word:?} in {said}");
        }
        ensure!(
            !kedge.folder().join("containers/web.toml").exists(),
            "{image} left a file"
        );
    }
    Ok(())
}

#[test]
fn host_a_registrys_login_is_given_or_found_and_never_shown() -> Result<()> {
    let folder = workshop()?;
    let (kedge, _) = scene(folder.path(), "gateway")?;
    let guard = Guard {
        login: true,
        tls: false,
    };
    let registry = Registry::start(folder.path(), guard)?;
    let image_folder = folder.path().join("image");
    layout(&image_folder, &["amd64"], b"x")?;
    registry.fill(&image_folder, "shop/web:1")?;
    let image = format!("docker://{}/shop/web:1", registry.address());
    let add = [
        "add",
        &image,
        "--name",
        "web",
        "--insecure",
        "http",
        "--replace",
    ];
    let (said, _) = kedge.refuse(&add)?;
    ensure!(
        said.contains("401") && said.contains("--password-stdin"),
        "{said}"
    );

    let file = folder.path().join("password");
    let path = file.display().to_string();
    let with = [&add[..], &["--username", USER, "--password-file", &path]].concat();
    files::write_private(&file, b"wrong-one\n")?;
    let (said, _) = kedge.refuse(&with)?;
    ensure!(
        said.contains("401") && said.contains(USER) && !said.contains("wrong-one"),
        "{said}"
    );
    files::write_private(&file, format!("{PASSWORD}\n").as_bytes())?;
    kedge.ask(&with)?;
    let (said, status) = kedge.refuse(&[&add[..], &["--username", USER]].concat())?;
    ensure!(
        status == Some(1) && said.contains("--password-file"),
        "{said}"
    );

    // As `docker login` and `podman login` keep it; in a cache of its own, so that it has to be pulled.
    let (other, _) = scene(folder.path(), "other")?;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let kept = json!({"auths": {registry.address().to_string(): {"auth": auth}}});
    let config = folder.path().join("home/docker/config.json");
    files::write_private(&config, kept.to_string().as_bytes())?;
    other.ask(&add)?;
    let wrong = json!({"auths": {"127.0.0.1:1": {"auth": auth}}});
    files::write_private(&config, wrong.to_string().as_bytes())?;
    let (third, _) = scene(folder.path(), "third")?;
    third.refuse(&add)?;
    let written = files::read_text(&other.folder().join("containers/web.toml"))?;
    ensure!(
        !written.contains(PASSWORD) && !written.contains(&auth),
        "{written}"
    );
    Ok(())
}

#[test]
fn host_a_registrys_own_authority_is_believed_when_it_is_named() -> Result<()> {
    let folder = workshop()?;
    let (kedge, cache) = scene(folder.path(), "gateway")?;
    let guard = Guard {
        login: false,
        tls: true,
    };
    let registry = Registry::start(folder.path(), guard)?;
    let image_folder = folder.path().join("image");
    layout(&image_folder, &["amd64"], b"x")?;
    registry.fill(&image_folder, "shop/web:1")?;
    let image = format!("docker://{}/shop/web:1", registry.address());
    let authority = registry.authority().display().to_string();
    let add = |more: &[&'static str]| {
        [&["add", image.as_str(), "--name", "web", "--replace"], more].concat()
    };
    let (said, _) = kedge.refuse(&add(&[]))?;
    ensure!(
        said.contains("certificate") && said.contains("--ca-file"),
        "{said}"
    );
    let (said, _) = kedge.refuse(&add(&["--insecure", "http"]))?;
    ensure!(said.contains(&registry.address().to_string()), "{said}");
    kedge.ask(&[&add(&[])[..], &["--ca-file", &authority]].concat())?;
    files::remove_folder(&cache.join("registry"))?;
    kedge.ask(&add(&["--insecure", "unverified-tls"]))?;

    // Where podman looks for it, `kedge build` and `kedge import` find it, too.
    files::remove_folder(&cache.join("registry"))?;
    files::remove_folder(&kedge.folder().join("build"))?;
    let platform = platform(folder.path())?.display().to_string();
    let build = ["build", "--revision-only", "--platform", &platform];
    let (said, _) = kedge.refuse(&build)?;
    ensure!(
        said.contains("--update") && said.contains("web.toml"),
        "{said}"
    );
    let known = folder
        .path()
        .join("home/.config/containers/certs.d")
        .join(registry.address().to_string());
    files::copy(&registry.authority(), &known.join("ca.crt"))?;
    kedge.ask(&build)?;
    let compose = folder.path().join("compose.yaml");
    files::write(
        &compose,
        format!(
            "services:\n  front: {{ image: {}/shop/web:1 }}\n  built: {{ build: . }}\n",
            registry.address()
        ),
    )?;
    let imported = kedge.ask(&[
        "import",
        "compose",
        &compose.display().to_string(),
        "--pull",
    ])?;
    let containers = imported
        .get("containers")
        .and_then(Value::as_array)
        .context("none")?;
    let missing: Vec<&str> = containers
        .iter()
        .filter(|one| one.get("missing-image").is_some())
        .filter_map(|one| one.get("name")?.as_str())
        .collect();
    ensure!(missing == ["built"], "{imported}");
    let front = files::read_text(&kedge.folder().join("containers/front.toml"))?;
    ensure!(front.contains(&format!("{image}@sha256:")), "{front}");
    Ok(())
}

/// A registry with one image of a large layer, behind a cable, and what adds that image.
struct Remote {
    registry: Registry,
    cable: Cable,
    image: String,
}

/// Bytes of its layer's one large file.
const LENGTH: usize = 3_000_000;

impl Remote {
    fn new(folder: &Path) -> Result<Self> {
        let registry = Registry::start(folder, Guard::default())?;
        let image = folder.join("image");
        layout(&image, &["amd64"], &noise(LENGTH, 1))?;
        registry.fill(&image, "web:1")?;
        let cable = Cable::new(registry.address())?;
        let place = cable.url();
        let image = format!("docker://{}/web:1", place.trim_start_matches("https://"));
        Ok(Self {
            registry,
            cable,
            image,
        })
    }

    fn add(&self) -> Vec<&str> {
        let mut words = vec!["add", &self.image];
        words.extend("--name web --insecure http --replace".split(' '));
        words
    }

    /// Answers with the rest of a layer so far.
    fn rests(&self) -> Result<usize> {
        let log = self.registry.log()?;
        let rests = log
            .lines()
            .filter(|line| line.contains("GET /v2/web/blobs/") && line.contains("\" 206 "));
        Ok(rests.count())
    }
}

#[test]
fn host_a_registrys_layer_goes_on_where_it_was_cut() -> Result<()> {
    let folder = workshop()?;
    let (kedge, cache) = scene(folder.path(), "gateway")?;
    let remote = Remote::new(folder.path())?;
    // The first connection carries manifest, configuration, and the layer: it ends in the middle of it.
    remote.cable.breaks([
        Break::Cut(LENGTH / 2),
        Break::Refused,
        Break::Cut(LENGTH / 4),
    ]);
    let added = kedge.ask(&remote.add())?;
    let left = remote.cable.left();
    ensure!(left == 0, "{left} breaks did not happen");
    ensure!(
        remote.rests()? == 2,
        "{} rests:\n{}",
        remote.rests()?,
        remote.registry.log()?
    );

    // Also when the process is killed; another one goes on.
    files::remove_folder(&cache.join("registry"))?;
    remote
        .cable
        .breaks([Break::Slow(Duration::from_millis(15))]);
    let coming = kedge.follow(&remote.add())?;
    let end = Instant::now() + Duration::from_secs(60);
    let partial = cache.join("registry/partial");
    let there = || -> u64 {
        let files = files::list(&partial).unwrap_or_default();
        let sizes = files.iter().filter_map(|path| path.metadata().ok());
        sizes.map(|one| one.len()).max().unwrap_or_default()
    };
    while there() < 400_000 {
        ensure!(Instant::now() < end, "nothing comes");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(coming);
    let again = kedge.ask(&remote.add())?;
    ensure!(again.get("layers") == added.get("layers"), "{again}");
    ensure!(
        remote.rests()? == 3,
        "{} rests:\n{}",
        remote.rests()?,
        remote.registry.log()?
    );
    ensure!(files::list(&partial)?.is_empty(), "something is left over");
    Ok(())
}

#[test]
fn host_a_registrys_damaged_layer_comes_again() -> Result<()> {
    let folder = workshop()?;
    let (kedge, cache) = scene(folder.path(), "gateway")?;
    let remote = Remote::new(folder.path())?;
    // A flipped bit is found, and what is damaged is not gone on with.
    remote.cable.breaks([Break::Flip(LENGTH / 2)]);
    let (said, _) = kedge.refuse(&remote.add())?;
    ensure!(said.contains("damaged"), "{said}");
    let added = kedge.ask(&remote.add())?;
    ensure!(remote.rests()? == 0, "{}", remote.registry.log()?);
    // Damage in the cache itself is mended.
    for blob in files::list(&cache.join("registry/blobs/sha256"))? {
        let mut bytes = files::read(&blob)?;
        *bytes.last_mut().context("empty")? ^= 1;
        files::write(&blob, bytes)?;
    }
    let again = kedge.ask(&remote.add())?;
    ensure!(again.get("layers") == added.get("layers"), "{again}");
    Ok(())
}
