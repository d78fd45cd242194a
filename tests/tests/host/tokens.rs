//! Signing keys in a token, as a user has them: the command `kedge` and a real PKCS#11 module.

use super::command::{platform, project, workshop};
use anyhow::{Context, Result, ensure};
use kedge_image_build::files;
use kedge_revision::signing::SignatureSet;
use kedge_tests::kedge::Kedge;
use kedge_tests::token::{PIN, Tokens};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A project and a token that is plugged in.
struct Bench {
    tokens: Tokens,
    kedge: Kedge,
    platform: PathBuf,
    pin: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        let folder = workshop()?;
        let tokens = Tokens::new(folder.path())?;
        tokens.make("vault")?;
        let kedge = project(folder.path())?
            .with("SOFTHSM2_CONF", &tokens.configuration)
            .with("LD_LIBRARY_PATH", &tokens.libraries());
        let pin = folder.path().join("pin");
        files::write_private(&pin, PIN.as_bytes())?;
        Ok(Self {
            platform: platform(folder.path())?,
            tokens,
            kedge,
            pin,
            _folder: folder,
        })
    }

    fn pin(&self) -> &str {
        self.pin.to_str().unwrap_or_default()
    }

    fn new_key(&self, role: &str, object: &str) -> Result<Value> {
        let uri = self.tokens.uri("vault", object);
        let words = [
            "key",
            "new",
            role,
            "--pkcs11",
            &uri,
            "--passphrase-file",
            self.pin(),
        ];
        self.kedge.ask(&words)
    }

    fn build(&self) -> Result<Value> {
        let platform = self.platform.to_str().unwrap_or_default();
        self.kedge.ask(&["build", "--platform", platform])
    }

    /// Why a signature with this key is refused.
    fn refused(&self, uri: &str, pin: &Path) -> Result<String> {
        let revision = self.kedge.folder().join("build/revision.json");
        let words = [
            "sign",
            revision.to_str().unwrap_or_default(),
            "--key",
            uri,
            "--passphrase-file",
            pin.to_str().unwrap_or_default(),
        ];
        let (said, status) = self.kedge.refuse(&words)?;
        ensure!(status == Some(1), "{status:?}: {said}");
        ensure!(!said.contains(PIN), "the PIN is shown: {said}");
        Ok(said)
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("no {field} in {value}"))
}

/// A private key as PEM (RFC 7468).
fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |group: &[u8]| -> String {
        let bits = (0..3).fold(0_usize, |sum, at| {
            sum << 8 | usize::from(group.get(at).copied().unwrap_or(0))
        });
        let digit = |at: usize| match at {
            at if at <= group.len() => {
                let digit = DIGITS.get(bits >> (18 - at * 6) & 63);
                digit.copied().map_or('=', char::from)
            }
            _ => '=',
        };
        (0..4).map(digit).collect()
    };
    let text: String = der.chunks(3).map(digits).collect();
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    let (begin, end) = ["BEGIN", "END"]
        .map(|word| format!("-----{word} PRIVATE KEY-----"))
        .into();
    format!("{begin}\n{}\n{end}\n", lines.join("\n"))
}

fn signers(path: &Path) -> Result<Vec<String>> {
    let set = SignatureSet::parse(&files::read(path)?)?;
    Ok(set.keys().map(|key| key.to_string()).collect())
}

#[test]
fn host_a_key_of_a_token_is_made_there_and_signs() -> Result<()> {
    let bench = Bench::new()?;
    bench.build()?;
    let made = bench.new_key("second", "release 2")?;
    let id = text(&made, "id")?;
    // Its file names it, and holds no secret and no PIN.
    let file = bench.kedge.folder().join("keys/second.toml");
    let noted = files::read_text(&file)?;
    ensure!(noted.contains("object=release%202"), "{noted}");
    ensure!(
        !noted.contains("plain") && !noted.contains("pin"),
        "{noted}"
    );
    let listed = bench.kedge.ask(&["key", "list"])?.to_string();
    ensure!(
        listed.contains("pkcs11:") && listed.contains(id),
        "{listed}"
    );
    let revision = bench.kedge.folder().join("build/revision.json");
    let revision = revision.to_str().context("a path is not UTF-8")?;
    let signatures = bench.kedge.folder().join("build/revision.sig");
    let before = signers(&signatures)?;
    ensure!(before.len() == 1 && before[0] != id, "{before:?}");
    // By its file, and by its name with the place of the PIN in it.
    let uri = bench.tokens.uri("vault", "release%202");
    let with_pin = format!("{uri}&pin-source=file:{}", bench.pin());
    for name in [file.to_str().context("a path is not UTF-8")?, &with_pin] {
        let words = [
            "sign",
            revision,
            "--key",
            name,
            "--passphrase-file",
            bench.pin(),
        ];
        let signed = bench.kedge.ask(&words)?;
        ensure!(text(&signed, "key")? == id, "{signed}");
        ensure!(signers(&signatures)?.len() == 2);
    }
    // A second key of that name is not made.
    let again = [
        "key",
        "new",
        "third",
        "--pkcs11",
        &uri,
        "--passphrase-file",
        bench.pin(),
    ];
    let (said, _) = bench.kedge.refuse(&again)?;
    ensure!(said.contains("already"), "{said}");
    ensure!(!bench.kedge.folder().join("keys/third.toml").exists());
    // The one that is there is noted.
    let noted = bench.kedge.ask(&[&again[..], &["--existing"]].concat())?;
    ensure!(text(&noted, "id")? == id, "{noted}");
    Ok(())
}

#[test]
fn host_a_token_refuses_in_words() -> Result<()> {
    let bench = Bench::new()?;
    bench.build()?;
    let wrong = bench.pin.with_file_name("wrong");
    files::write_private(&wrong, b"000000")?;
    let uri = |token: &str, object: &str| bench.tokens.uri(token, object);
    let none = uri("vault", "release");
    ensure!(
        bench
            .refused(&none, &bench.pin)?
            .contains("no key that its user may use")
    );
    bench.new_key("second", "mine")?;
    let said = bench.refused(&none, &bench.pin)?;
    ensure!(said.contains("no key") && said.contains("mine"), "{said}");
    let said = bench.refused(&uri("safe", "mine"), &bench.pin)?;
    ensure!(
        said.contains("no token") && said.contains("vault"),
        "{said}"
    );
    let said = bench.refused(
        "pkcs11:token=vault;object=mine?module-path=/no/such.so",
        &bench.pin,
    )?;
    ensure!(
        said.contains("/no/such.so") && said.contains("there is no PKCS#11 module"),
        "{said}"
    );
    let no_module = bench.pin.to_str().context("a path is not UTF-8")?;
    let name = format!("pkcs11:token=vault;object=mine?module-path={no_module}");
    ensure!(
        bench
            .refused(&name, &bench.pin)?
            .contains("is no PKCS#11 module")
    );
    let said = bench.refused("pkcs11:token=vault;object=mine?pin-value=1", &bench.pin)?;
    ensure!(said.contains("pin-source"), "{said}");
    // A wrong PIN is tried once, and the right one is good afterwards.
    let said = bench.refused(&uri("vault", "mine"), &wrong)?;
    ensure!(
        said.contains("the PIN is wrong; it was tried once"),
        "{said}"
    );
    // A key of another kind: ECDSA, as rcgen makes it.
    let other = pem(&rcgen::KeyPair::generate()?.serialize_der());
    let pem = bench.pin.with_file_name("ecdsa.pem");
    files::write_private(&pem, other.as_bytes())?;
    bench.tokens.import("vault", "ecdsa", &pem)?;
    let said = bench.refused(&uri("vault", "ecdsa"), &bench.pin)?;
    ensure!(said.contains("not of Ed25519"), "{said}");
    let signatures = bench.kedge.folder().join("build/revision.sig");
    ensure!(signers(&signatures)?.len() == 1, "something was signed");
    Ok(())
}

#[test]
fn host_a_projects_own_keys_may_be_in_a_token() -> Result<()> {
    let bench = Bench::new()?;
    // The token's key in the place of the one that the root trusts is refused before its PIN is asked for.
    let release = bench.kedge.folder().join("keys/release.toml");
    let kept = bench.pin.with_file_name("release.toml");
    files::publish(&release, &kept)?;
    bench.new_key("release", "release")?;
    let platform = bench.platform.to_str().context("a path is not UTF-8")?;
    let (said, _) = bench.kedge.refuse(&["build", "--platform", platform])?;
    ensure!(
        said.contains("the trust root does not know the key"),
        "{said}"
    );
    // A file that names another key of the token than it says.
    bench.new_key("other", "other")?;
    let other = bench.kedge.folder().join("keys/other.toml");
    let swapped = files::read_text(&other)?.replace("object=other", "object=release");
    files::write_private(&other, swapped.as_bytes())?;
    let said = bench.kedge.ask(&["key", "list"])?.to_string();
    ensure!(said.contains("other"), "{said}");
    files::publish(&kept, &release)?;
    bench.build()?;
    let name = other.to_str().context("a path is not UTF-8")?;
    let said = bench.refused(name, &bench.pin)?;
    ensure!(said.contains("whose public half is another one"), "{said}");
    Ok(())
}
