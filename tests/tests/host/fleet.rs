//! The operator's verbs against a hub: from login to an update that is assigned.

use crate::command::{platform, workshop};
use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use kedge_api::Signed;
use kedge_api::device::Enrolled;
use kedge_image_build::files;
use kedge_image_build::hub::{Client, unhex};
use kedge_revision::enrolment::{Enrolment, Provision};
use kedge_revision::fresh::Nonce;
use kedge_revision::signing::Kind;
use kedge_revision::{PublicKey, SignatureSet};
use kedge_tests::hub::Hub;
use kedge_tests::kedge::Kedge;
use kedge_tests::proxy::{Break, Cable};
use serde_json::{Value, json};
use std::path::Path;

const KEDGE: &str = env!("CARGO_BIN_EXE_kedge");
const HUB: &str = env!("CARGO_BIN_EXE_test-hub");

/// A device that has nothing but its key.
fn enrol(client: &Client, seed: u8, token: Option<String>) -> Result<Enrolled> {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = PublicKey::from_bytes(key.verifying_key().to_bytes());
    let names = ("gateway".parse()?, "qemu-x86-64".parse()?);
    let nonce = Nonce::from_bytes([seed; 32]);
    let document = Enrolment::new(public, names, 1, nonce, token).encode()?;
    let mut signatures = SignatureSet::default();
    signatures.sign(Kind::Enrolment, &document, &key);
    let signed = Signed::new(&document, &signatures).context("no text")?;
    client.send("POST", "/v1/enroll", &signed)
}

fn number(value: &Value, name: &str) -> Result<u64> {
    let number = value.get(name).and_then(Value::as_u64);
    number.with_context(|| format!("no {name} in {value}"))
}

fn text(value: &Value, pointer: &str) -> Result<String> {
    let text = value.pointer(pointer).and_then(Value::as_str);
    let text = text.with_context(|| format!("no {pointer} in {value}"))?;
    Ok(text.to_owned())
}

/// Logs in, by the pin and not without one.
fn login(kedge: &Kedge, hub: &Hub) -> Result<Value> {
    let token = hub.token();
    let words = ["login", hub.url(), "--token-file", &token];
    let (said, _) = kedge.refuse(&[&words[..], &["--fingerprint", "00ff"]].concat())?;
    ensure!(said.contains("not\n  00ff"), "{said}");
    let done = kedge.ask(&[&words[..], &["--yes"]].concat())?;
    // From now on the pin is asked for, and nobody.
    kedge.ask(&words)?;
    Ok(done)
}

/// A project that trusts the hub, with one container.
fn project(kedge: &Kedge, folder: &Path, server: &[u8]) -> Result<()> {
    let path = kedge.folder().display().to_string();
    kedge.ask(&[
        "new",
        "gateway",
        "--no-passphrase",
        "--path",
        &path,
        "--hub",
        "127.0.0.1",
        "--device-hub",
        "https://10.0.2.2:8443",
    ])?;
    let manifest = files::read_text(&kedge.folder().join("kedge.toml"))?;
    ensure!(manifest.contains("hubs = [\"https://10.0.2.2:8443\"]"));
    add(kedge, folder, server)
}

fn add(kedge: &Kedge, folder: &Path, server: &[u8]) -> Result<()> {
    let root = folder.join("web");
    for name in ["dev", "proc", "sys", "tmp"] {
        files::make_folder(&root.join(name))?;
    }
    files::write_executable(&root.join("server"), server)?;
    let image = format!("dir:{}", root.display());
    let definition = kedge.folder().join("containers/web.toml");
    if definition.exists() {
        std::fs::remove_file(&definition)?;
    }
    kedge.ask(&["add", &image, "--name", "web", "--command", "/server"])?;
    Ok(())
}

/// Publishes twice; what the hub has is not sent again.
fn publish(kedge: &Kedge, folder: &Path) -> Result<String> {
    let platform = platform(folder)?.display().to_string();
    let publish = ["publish", "--platform", &platform];
    let first = kedge.ask(&publish)?;
    let size = number(&first, "size")?;
    ensure!(number(&first, "bytes-sent")? == size, "{first}");
    let again = kedge.ask(&publish)?;
    ensure!(number(&again, "bytes-sent")? == 0, "{again}");
    add(kedge, folder, b"\x7fELF neither")?;
    let second = kedge.ask(&publish)?;
    ensure!(number(&second, "objects-sent")? == 1, "{second}");
    let sent = number(&second, "bytes-sent")?;
    ensure!(sent > 0 && sent < size / 4, "{second}");
    ensure!(second.get("revision") != first.get("revision"));
    text(&second, "/revision")
}

#[test]
fn host_an_operator_brings_a_revision_to_devices_through_a_hub() -> Result<()> {
    let folder = workshop()?;
    let hub = Hub::start(HUB, folder.path())?;
    let config = folder.path().join("config");
    let kedge = Kedge::new(KEDGE, &folder.path().join("gateway")).with("XDG_CONFIG_HOME", &config);
    let (said, _) = kedge.refuse(&["devices"])?;
    ensure!(said.contains("kedge login"), "{said}");
    login(&kedge, &hub)?;
    project(&kedge, folder.path(), b"\x7fELF not really")?;
    let revision = publish(&kedge, folder.path())?;
    let authority = Client::unjudged(hub.url().parse()?)?.hub()?.authority;
    let authority = unhex(&authority).context("no authority")?;
    let stranger = Client::judged(hub.url().parse()?, &authority, None)?;
    devices(&kedge, &stranger, folder.path())?;
    published_and_assigned(&kedge, folder.path())?;
    assignments(&kedge, &revision)?;
    removals(&kedge, &revision)?;
    let (events, _) = kedge.try_ask(&["events"])?;
    for what in ["published", "enrolled", "assigned", "removed"] {
        ensure!(events.contains(&format!("\"what\":\"{what}\"")), "{events}");
    }
    kedge.ask(&["logout"])?;
    let (said, _) = kedge.refuse(&["devices"])?;
    ensure!(said.contains("no hub is known"), "{said}");
    Ok(())
}

/// One device comes with a join token, one by its claim.
fn devices(kedge: &Kedge, stranger: &Client, folder: &Path) -> Result<()> {
    let path = folder.join("provision.json");
    let out = path.display().to_string();
    let made = kedge.ask(&["join-token", "new", "--tag", "name=hall-1", "--out", &out])?;
    ensure!(made.get("token").is_none(), "a token was shown: {made}");
    let provision = Provision::parse(&files::read(&path)?)?;
    let enrolled = enrol(stranger, 1, provision.token)?;
    ensure!(matches!(enrolled, Enrolled::Accepted { .. }));
    let Enrolled::Waiting { claim, .. } = enrol(stranger, 2, None)? else {
        anyhow::bail!("a device came in without a token");
    };
    let waiting = kedge.ask(&["devices", "--waiting"])?;
    ensure!(waiting.pointer("/waiting/0/id").is_some(), "{waiting}");
    let words: Vec<&str> = claim.split('-').collect();
    kedge.ask(&[&["claim"][..], &words, &["--tag", "name=hall-2"]].concat())?;
    kedge.ask(&["tag", "hall-2", "site=berlin"])?;
    let found = kedge.ask(&["devices", "--query", "tag:site=berlin and name=hall-2"])?;
    let found = found.get("devices").and_then(Value::as_array);
    ensure!(found.is_some_and(|found| found.len() == 1));
    let list = kedge.ask(&["join-token", "list"])?;
    let spent = list
        .pointer("/join-tokens")
        .and_then(Value::as_array)
        .context("no list")?;
    for token in spent {
        kedge.ask(&["join-token", "delete", &text(token, "/id")?])?;
    }
    Ok(())
}

/// What was published is published again, and would be assigned as `kedge assign` does it.
fn published_and_assigned(kedge: &Kedge, folder: &Path) -> Result<()> {
    let platform = platform(folder)?.display().to_string();
    let publish = ["publish", "--platform", &platform, "--assign"];
    let how = ["--window", "02:00+2h", "--rate", "200KiB"];
    let dry = [&publish[..], &["all", "--dry-run"], &how].concat();
    let dry = kedge.ask(&dry)?;
    let meant = dry.pointer("/assigned/devices");
    ensure!(
        meant.and_then(Value::as_array).map(Vec::len) == Some(2),
        "{dry}"
    );
    let shown = kedge.ask(&["device", "show", "hall-1"])?;
    ensure!(shown.get("desired").is_none(), "{shown}");
    let (said, _) = kedge.refuse(&["publish", "--window", "02:00+2h"])?;
    ensure!(said.contains("--assign"), "{said}");
    Ok(())
}

fn assignments(kedge: &Kedge, revision: &str) -> Result<()> {
    let dry = kedge.ask(&["assign", "all", "latest", "--dry-run"])?;
    let count = |value: &Value| {
        value
            .pointer("/devices")
            .and_then(Value::as_array)
            .map(Vec::len)
    };
    ensure!(count(&dry) == Some(2), "{dry}");
    let shown = kedge.ask(&["device", "show", "hall-1"])?;
    ensure!(shown.get("desired").is_none(), "{shown}");
    let words = [
        "assign",
        "name=hall-1",
        "latest",
        "--window",
        "02:00+2h",
        "--rate",
        "200KiB",
    ];
    let assigned = kedge.ask(&words)?;
    ensure!(count(&assigned) == Some(1), "{assigned}");
    let shown = kedge.ask(&["device", "show", "hall-1"])?;
    ensure!(text(&shown, "/desired/revision")? == revision, "{shown}");
    let why = kedge.ask(&["device", "why", "hall-1"])?;
    ensure!(why.get("up-to-date") == Some(&json!(false)), "{why}");
    kedge.ask(&["device", "reboot", "hall-1"])?;
    kedge.ask(&["device", "apply", "hall-1"])?;
    let (said, _) = kedge.refuse(&["parameters", "hall-1", "Colour=blue"])?;
    ensure!(said.contains("`Colour`"), "{said}");
    // Which of them a revision declares is for when one is assigned; others are kept for the next.
    let set = kedge.ask(&["parameters", "hall-1", "colour=blue"])?;
    ensure!(number(&set, "counter")? == 1, "{set}");
    for words in [
        &["device", "revoke", "hall-2"][..],
        &["device", "remove", "hall-2"],
        &["assign", "all", "latest"],
        &["publish", "--assign", "all"],
    ] {
        let said = kedge.refuse_alone(words)?;
        ensure!(said.contains("--yes"), "{said}");
    }
    let shown = kedge.ask(&["device", "show", "hall-2"])?;
    ensure!(
        shown.get("desired").is_none() && shown.get("revoked") != Some(&json!(true)),
        "{shown}"
    );
    kedge.ask(&["device", "revoke", "hall-2", "--yes"])?;
    let (said, _) = kedge.refuse(&["device", "show", "hall-9"])?;
    ensure!(said.contains("404"), "{said}");
    Ok(())
}

/// What a device is assigned stays, and what is older goes with the objects that it alone has; a device goes with one word.
fn removals(kedge: &Kedge, revision: &str) -> Result<()> {
    let published = kedge.ask(&["revisions"])?;
    let published = published.get("revisions").and_then(Value::as_array);
    ensure!(published.map(Vec::len) == Some(2), "{published:?}");
    let would = kedge.ask(&["collect", "--keep", "1", "--dry-run"])?;
    let older = text(&would, "/revisions/0/id")?;
    ensure!(
        older != revision && would.pointer("/revisions/1").is_none(),
        "{would}"
    );
    ensure!(number(&would, "objects")? > 0, "{would}");
    // Three of each board stay unless fewer are asked for.
    let usual = kedge.ask(&["collect"])?;
    ensure!(usual.get("revisions") == Some(&json!([])), "{usual}");
    let did = kedge.ask(&["collect", "--keep", "1"])?;
    ensure!(did == would, "{did} is not {would}");
    let left = kedge.ask(&["revisions"])?;
    ensure!(text(&left, "/revisions/0/id")? == revision, "{left}");
    kedge.ask(&["device", "remove", "hall-2", "--yes"])?;
    let (said, _) = kedge.refuse(&["device", "show", "hall-2"])?;
    ensure!(said.contains("404"), "{said}");
    Ok(())
}

/// A publish whose connection breaks again and again goes on where it was, without being asked to.
#[test]
fn host_a_publish_that_is_cut_again_and_again_goes_on_where_it_was() -> Result<()> {
    let folder = workshop()?;
    let hub = Hub::start(HUB, folder.path())?;
    let address = hub.url().strip_prefix("https://").context("no address")?;
    let cable = Cable::new(address.parse()?)?;
    let config = folder.path().join("config");
    let kedge = Kedge::new(KEDGE, &folder.path().join("gateway")).with("XDG_CONFIG_HOME", &config);
    let (url, token) = (cable.url(), hub.token());
    kedge.ask(&["login", &url, "--token-file", &token, "--yes"])?;
    project(&kedge, folder.path(), &noise(3_000_000))?;
    let platform = platform(folder.path())?.display().to_string();
    // Few enough that what else is asked, the head among it, comes through.
    let cut = 400_000;
    cable.breaks(vec![Break::CutSent(cut); 60]);
    let before = cable.connections();
    let published = kedge.ask(&["publish", "--platform", &platform])?;
    let (sent, size) = (
        number(&published, "bytes-sent")?,
        number(&published, "size")?,
    );
    let connections = u64::try_from(cable.connections() - before)?;
    ensure!(connections > size / cut, "{connections} connections");
    // What is lost with a connection is not counted.
    ensure!(
        sent == size,
        "{sent} of {size} in {connections} connections"
    );
    cable.breaks([]);
    let again = kedge.ask(&["publish", "--platform", &platform])?;
    ensure!(number(&again, "bytes-sent")? == 0, "{again}");
    ensure!(again.get("revision") == published.get("revision"));
    Ok(())
}

/// A program that no compression makes small.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut bytes = b"\x7fELF".to_vec();
    bytes.extend(
        std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .take(size),
    );
    bytes
}
