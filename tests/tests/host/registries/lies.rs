//! Registries that lie: whatever they say costs an error with words, bounded bytes, and no secret.

use super::{hex, scene, workshop};
use anyhow::{Result, ensure};
use kedge_image_build::files;
use kedge_tests::kedge::Kedge;
use kedge_tests::registry::{Liar, Reply};
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MANIFEST: &str = "content-type: application/vnd.oci.image.manifest.v1+json\r\n";
const SECRET: &str = "hunter2-do-not-show";
/// What a client may read of something endless before it stops: its bound, and what the sockets hold.
const MOST: u64 = 32 << 20;

/// A small image, as a registry would send it.
#[derive(Debug, Clone)]
struct Image {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Image {
    fn new() -> Result<Self> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        header.set_mode(0o755);
        tar.append_data(&mut header, "server", &b"ELF"[..])?;
        let layer = tar.into_inner()?;
        let config =
            json!({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/server"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]}})
            .to_string()
            .into_bytes();
        let mut image = Self {
            manifest: Vec::new(),
            config,
            layer,
        };
        image.describe(image.layer.len());
        Ok(image)
    }

    /// Writes the manifest, with this size of the layer.
    fn describe(&mut self, size: usize) {
        let descriptor = |kind: &str, bytes: &[u8], size: usize| json!({"mediaType": kind, "digest": format!("sha256:{}", hex(bytes)), "size": size});
        let config = descriptor(
            "application/vnd.oci.image.config.v1+json",
            &self.config,
            self.config.len(),
        );
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar", &self.layer, size);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        self.manifest = manifest.to_string().into_bytes();
    }

    /// The honest answer.
    fn answer(&self, head: &str) -> Reply {
        if head.contains("/manifests/") {
            Reply::whole(200, MANIFEST, &self.manifest)
        } else if head.contains(&hex(&self.config)) {
            Reply::whole(200, "", &self.config)
        } else {
            Reply::whole(200, "", &self.layer)
        }
    }
}

fn endless(head: &str) -> Reply {
    let head = format!("HTTP/1.1 200 x\r\n{MANIFEST}{head}\r\n");
    let piece = if head.contains("chunked") {
        [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat()
    } else {
        vec![b' '; 0x10000]
    };
    Reply::Endless(head.into_bytes(), piece)
}

/// What answers a request's head.
type Answer = Box<dyn Fn(&str) -> Reply + Send + Sync>;
/// A lie by its name, what answers, and the words that must be told.
type Lie = (&'static str, Answer, &'static str);

/// Honest but for the layer.
fn on_layer(image: &Image, lie: fn(&Image) -> Reply) -> Answer {
    let image = image.clone();
    Box::new(move |head: &str| {
        let is_layer = head.contains(&hex(&image.layer));
        if is_layer {
            lie(&image)
        } else {
            image.answer(head)
        }
    })
}

fn always(reply: Reply) -> Answer {
    Box::new(move |_| reply.clone())
}

fn of_layers(image: &Image) -> Vec<Lie> {
    vec![
        (
            "a layer of other bytes",
            on_layer(image, |image| {
                Reply::whole(200, "", &vec![7; image.layer.len()])
            }),
            "not to be trusted",
        ),
        (
            "an endless layer",
            on_layer(image, |_| endless("")),
            "more of",
        ),
        (
            "an endless layer in chunks",
            on_layer(image, |_| endless("transfer-encoding: chunked\r\n")),
            "more of",
        ),
        (
            "a layer that states another length",
            on_layer(image, |_| Reply::whole(200, "", b"short")),
            "5 bytes",
        ),
    ]
}

fn of_manifests(image: &Image) -> Vec<Lie> {
    let stated = format!(
        "{MANIFEST}docker-content-digest: sha256:{}\r\n",
        hex(b"another")
    );
    let with_size = |size| {
        let mut large = image.clone();
        large.describe(size);
        Reply::whole(200, MANIFEST, &large.manifest)
    };
    let layers: Vec<_> = (0..129)
        .map(|_| json!({"digest": format!("sha256:{}", hex(b"x")), "size": 1}))
        .collect();
    let many = json!({"schemaVersion": 2, "config": layers.first(), "layers": layers}).to_string();
    vec![
        ("an endless manifest", always(endless("")), "4194304"),
        (
            "an endless manifest in chunks",
            always(endless("transfer-encoding: chunked\r\n")),
            "4194304",
        ),
        (
            "a manifest that states a terabyte",
            always(endless("content-length: 1099511627776\r\n")),
            "4194304",
        ),
        (
            "another digest beside a manifest",
            always(Reply::whole(200, &stated, &image.manifest)),
            "not to be trusted",
        ),
        (
            "layers of more than the disk",
            always(with_size(1 << 50)),
            "at most",
        ),
        (
            "layers whose sum overflows",
            always(with_size(usize::MAX)),
            "at most",
        ),
        (
            "too many layers",
            always(Reply::whole(200, MANIFEST, many.as_bytes())),
            "129 layers",
        ),
        (
            "a manifest that is none",
            always(Reply::whole(200, MANIFEST, b"<html>")),
            "no manifest",
        ),
    ]
}

fn of_answers() -> Vec<Lie> {
    vec![
        (
            "redirects in a circle",
            always(Reply::whole(307, "location: /v2/x/manifests/1\r\n", b"")),
            "more than 5 times",
        ),
        (
            "a redirect to a file",
            always(Reply::whole(307, "location: file:///etc/passwd\r\n", b"")),
            "no address",
        ),
        (
            "a login of an unknown kind",
            always(Reply::whole(401, "www-authenticate: Negotiate\r\n", b"")),
            "Negotiate",
        ),
        (
            "a refusal with control characters",
            always(Reply::whole(
                403,
                "",
                br#"{"errors":[{"code":"\u001b[2JX","message":"no"}]}"#,
            )),
            "[2JX: no",
        ),
        (
            "a pause of a day",
            always(Reply::whole(429, "retry-after: 86400\r\n", b"")),
            "86400 s",
        ),
    ]
}

#[test]
fn host_a_registrys_lies_are_bounded_and_told() -> Result<()> {
    let folder = workshop()?;
    let (kedge, cache) = scene(folder.path(), "gateway")?;
    let image = Image::new()?;
    let lies = of_layers(&image)
        .into_iter()
        .chain(of_manifests(&image))
        .chain(of_answers());
    for (name, answer, wanted) in lies {
        let liar = Liar::start(answer)?;
        let named = format!("docker://{}/x:1", liar.address());
        let begin = Instant::now();
        let (said, status) =
            kedge.refuse(&["add", &named, "--name", "web", "--insecure", "http"])?;
        ensure!(status == Some(1) && said.contains(wanted), "{name}: {said}");
        ensure!(!said.contains('\u{1b}'), "{name}: {said:?}");
        ensure!(
            liar.sent() < MOST,
            "{name}: {} bytes were read",
            liar.sent()
        );
        ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "{name}: {:?}",
            begin.elapsed()
        );
        ensure!(
            !kedge.folder().join("containers/web.toml").exists(),
            "{name}: a file is left"
        );
        let kept = files::list(&cache.join("registry/blobs/sha256"))?;
        ensure!(
            !kept.iter().any(|path| path.ends_with(hex(&image.layer))),
            "{name}: it was kept"
        );
    }
    // By its digest, another manifest is not taken.
    let liar = Liar::start(move |head| image.answer(head))?;
    let named = format!("docker://{}/x@sha256:{}", liar.address(), hex(b"another"));
    let (said, _) = kedge.refuse(&["add", &named, "--name", "web", "--insecure", "http"])?;
    ensure!(said.contains("not to be trusted"), "{said}");
    // And the honest answer is good, or nothing was shown above.
    let named = format!("docker://{}/x:1", liar.address());
    kedge.ask(&["add", &named, "--name", "web", "--insecure", "http"])?;
    Ok(())
}

/// A project, and what adds an image to it with a login.
fn with_login(folder: &Path) -> Result<(Kedge, impl Fn(&Liar, &str) -> Vec<String>)> {
    let (kedge, _) = scene(folder, "gateway")?;
    let path = folder.join("password");
    files::write_private(&path, SECRET.as_bytes())?;
    let words = move |registry: &Liar, repository: &str| {
        let named = format!("docker://{}/{repository}:1", registry.address());
        let rest = "--name web --insecure http --username u --password-file";
        let mut words = vec!["add".to_owned(), named];
        words.extend(rest.split(' ').map(str::to_owned));
        words.push(path.display().to_string());
        words
    };
    Ok((kedge, words))
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn authorized(heads: &[String]) -> usize {
    let is = |head: &&String| head.to_ascii_lowercase().contains("\r\nauthorization:");
    heads.iter().filter(is).count()
}

#[test]
fn host_a_registrys_login_does_not_go_to_its_storage() -> Result<()> {
    let folder = workshop()?;
    let (kedge, add) = with_login(folder.path())?;
    let image = Image::new()?;
    let storage = Liar::start({
        let image = image.clone();
        move |head| image.answer(head)
    })?;
    let place = storage.address();
    let registry = Liar::start(move |head| {
        if !head.to_ascii_lowercase().contains("authorization: basic ") {
            return Reply::whole(401, "www-authenticate: Basic realm=\"r\"\r\n", b"");
        }
        if head.contains("/manifests/") {
            return image.answer(head);
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        Reply::whole(307, &format!("location: http://{place}{path}\r\n"), b"")
    })?;
    kedge.ask(&borrowed(&add(&registry, "x")))?;
    let asked = storage.asked();
    ensure!(asked.len() == 2 && authorized(&asked) == 0, "{asked:?}");
    ensure!(authorized(&registry.asked()) >= 3, "{:?}", registry.asked());
    Ok(())
}

#[test]
fn host_a_registrys_login_does_not_go_to_a_token_server_of_somebody_else() -> Result<()> {
    let folder = workshop()?;
    let (kedge, add) = with_login(folder.path())?;
    let thief = Liar::start(|_| Reply::whole(200, "", br#"{"token":"t"}"#))?;
    let field = format!(
        "www-authenticate: Bearer realm=\"http://localhost:{}/token\",service=\"s\"\r\n",
        thief.address().port()
    );
    let registry = Liar::start(move |_| Reply::whole(401, &field, b""))?;
    let (said, _) = kedge.refuse(&borrowed(&add(&registry, "x")))?;
    ensure!(
        said.contains("nothing was sent") && !said.contains(SECRET),
        "{said}"
    );
    ensure!(
        thief.asked().is_empty() && authorized(&registry.asked()) == 0,
        "{:?}",
        thief.asked()
    );
    Ok(())
}

/// Wants a token of `team/x` for everything, and another one for the layer; is busy twice.
fn with_tokens(image: Image) -> Result<Liar> {
    let (count, tokens) = (AtomicUsize::new(0), AtomicUsize::new(0));
    Liar::start(move |head| {
        let lower = head.to_ascii_lowercase();
        let mut fields = lower.lines();
        let host = fields.find_map(|line| line.strip_prefix("host: "));
        let host = host.unwrap_or_default();
        if head.starts_with("GET /token?") {
            let target = head.split(' ').nth(1).unwrap_or_default();
            let proper = target
                .split(['?', '&'])
                .any(|one| one == "scope=repository:team/x:pull");
            if !proper || !lower.contains("authorization: basic ") {
                return Reply::whole(403, "", b"");
            }
            let number = tokens.fetch_add(1, Ordering::Relaxed);
            let token = format!(r#"{{"access_token":"token-{number}"}}"#);
            return Reply::whole(200, "", token.as_bytes());
        }
        // The first token ends before the layer: another one is asked for.
        let number = u8::from(head.contains(&hex(&image.layer)));
        if !lower.contains(&format!("authorization: bearer token-{number}\r\n")) {
            let field = format!(
                "www-authenticate: Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:other:pull,push\"\r\n"
            );
            return Reply::whole(401, &field, b"");
        }
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::whole(429, "retry-after: 1\r\n", b""),
            1 => Reply::whole(503, "", b""),
            _ => image.answer(head),
        }
    })
}

#[test]
fn host_a_registrys_token_is_asked_for_and_busy_ones_are_asked_again() -> Result<()> {
    let folder = workshop()?;
    let (kedge, add) = with_login(folder.path())?;
    let registry = with_tokens(Image::new()?)?;
    let begin = Instant::now();
    kedge.ask(&borrowed(&add(&registry, "team/x")))?;
    ensure!(
        begin.elapsed() >= Duration::from_secs(2),
        "it did not wait: {:?}",
        begin.elapsed()
    );
    let asked = registry.asked();
    let basic = asked
        .iter()
        .filter(|head| head.to_ascii_lowercase().contains("authorization: basic"));
    ensure!(basic.clone().count() == 2, "{asked:?}");
    let elsewhere = basic.filter(|head| !head.starts_with("GET /token?"));
    ensure!(
        elsewhere.count() == 0,
        "the password went to more than the token server: {asked:?}"
    );
    Ok(())
}
