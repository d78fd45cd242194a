//! Who one is at a registry: a login that was given, else what docker, podman and skopeo keep.
//!
//! Passwords are wiped when they are dropped, and appear in no message.

use super::reference::Reference;
use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// Largest file of logins, and largest answer of a helper.
const LARGEST: u64 = 1024 * 1024;
/// What docker calls its own registry in its files.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// The user name by which helpers and files mark an identity token.
const TOKEN_USER: &str = "<token>";

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    name: String,
    password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Login {
    /// A name and a password.
    ///
    /// # Errors
    /// The name has a colon or a control character, or the password is empty.
    pub fn new(name: &str, password: Zeroizing<String>) -> Result<Self> {
        ensure!(
            !name.is_empty() && !name.contains(|c: char| c == ':' || c.is_control()),
            "a user's name at a registry has neither colons nor control characters"
        );
        ensure!(!password.is_empty(), "the password of {name} is empty");
        Ok(Self {
            name: name.to_owned(),
            password,
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of the field `Authorization`.
    #[must_use]
    pub(super) fn basic(&self) -> Zeroizing<String> {
        let mut plain = Zeroizing::new(String::with_capacity(
            self.name
                .len()
                .saturating_add(self.password.len())
                .saturating_add(1),
        ));
        plain.push_str(&self.name);
        plain.push(':');
        plain.push_str(&self.password);
        let mut value = Zeroizing::new(String::with_capacity(
            plain.len().saturating_mul(2).saturating_add(16),
        ));
        value.push_str("Basic ");
        STANDARD.encode_string(plain.as_bytes(), &mut value);
        value
    }
}

/// A file of docker's or of the containers tools.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Auth {
    auth: Option<Zeroizing<String>>,
    username: Option<String>,
    password: Option<Zeroizing<String>>,
    identitytoken: Option<Zeroizing<String>>,
}

/// What a credential helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: Zeroizing<String>,
}

/// The login that the user's own files have for an image.
///
/// # Errors
/// A file cannot be read or is damaged, or a helper fails.
pub fn find(reference: &Reference) -> Result<Option<Login>> {
    for path in places(|name| std::env::var_os(name)) {
        if !path.is_file() {
            continue;
        }
        let kept = read(&path)?;
        let found = kept.login(reference).with_context(|| {
            format!(
                "the login for {} in {}",
                reference.registry(),
                path.display()
            )
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Where logins are kept: containers-auth.json(5), then docker.
fn places(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = set("REGISTRY_AUTH_FILE") {
        return vec![path];
    }
    let home = set("HOME");
    let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let configuration = set("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
    let docker = set("DOCKER_CONFIG").or_else(|| below_home(".docker"));
    [
        set("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
        configuration.map(|folder| folder.join("containers/auth.json")),
        docker.map(|folder| folder.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read(path: &Path) -> Result<Kept> {
    let wrong = || format!("cannot read the logins in {}", path.display());
    let file = std::fs::File::open(path).with_context(wrong)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(LARGEST.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(wrong)?;
    ensure!(
        u64::try_from(bytes.len()).is_ok_and(|length| length <= LARGEST),
        "{} is over {LARGEST} bytes",
        path.display()
    );
    parse(&bytes).with_context(wrong)
}

fn parse(bytes: &[u8]) -> Result<Kept> {
    // What the parser says of a mistake may show a piece of the text; where it is will do.
    serde_json::from_slice(bytes).map_err(|error| {
        anyhow::anyhow!(
            "it is not of the form that it should have (line {}, column {})",
            error.line(),
            error.column()
        )
    })
}

impl Kept {
    fn login(&self, reference: &Reference) -> Result<Option<Login>> {
        let registry = reference.registry();
        if let Some(helper) = self.cred_helpers.get(registry) {
            return helped(helper, &key_of(registry));
        }
        let names = names(reference);
        let mut found = names.iter().filter_map(|name| {
            let mut all = self.auths.iter();
            all.find(|(key, _)| plain(key) == *name)
                .map(|(_, auth)| auth)
        });
        if let Some(auth) = found.find(|auth| !auth.is_empty()) {
            return auth.login().map(Some);
        }
        match &self.creds_store {
            Some(helper) => helped(helper, &key_of(registry)),
            None => Ok(None),
        }
    }
}

impl Auth {
    /// With a helper, docker writes the registry's name and nothing behind it.
    fn is_empty(&self) -> bool {
        let empty =
            |text: &Option<Zeroizing<String>>| text.as_ref().is_none_or(|text| text.is_empty());
        empty(&self.auth) && empty(&self.password) && empty(&self.identitytoken)
    }

    fn login(&self) -> Result<Login> {
        if self
            .identitytoken
            .as_ref()
            .is_some_and(|token| !token.is_empty())
        {
            bail!(
                "it is an identity token, which Kedge cannot use: give --username and --password-stdin"
            );
        }
        if let (Some(name), Some(password)) = (&self.username, &self.password) {
            return Login::new(name, password.clone());
        }
        let text = self.auth.as_ref().map_or("", |text| text.trim());
        let plain = STANDARD.decode(text).map(Zeroizing::new);
        let plain = plain.ok().context("it is not base64")?;
        let plain = std::str::from_utf8(&plain)
            .ok()
            .context("it is not UTF-8")?;
        let (name, password) = plain.split_once(':').context("it has no colon")?;
        // Some tools fill the password up with NULs.
        Login::new(
            name,
            Zeroizing::new(password.trim_end_matches('\0').to_owned()),
        )
    }
}

/// The names that a login may be kept under, the narrowest first: `host/a/b`, `host/a`, `host`.
fn names(reference: &Reference) -> Vec<String> {
    let whole = format!("{}/{}", reference.registry(), reference.repository());
    let mut names = vec![whole.clone()];
    let mut rest = whole.as_str();
    while let Some((shorter, _)) = rest.rsplit_once('/') {
        names.push(shorter.to_owned());
        rest = shorter;
    }
    names
}

/// A key of `auths` without what older versions of docker wrote around it.
fn plain(key: &str) -> String {
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let bare = bare.trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v1")
        .or_else(|| bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    match bare {
        "index.docker.io" => "docker.io".to_owned(),
        bare => bare.to_owned(),
    }
}

fn key_of(registry: &str) -> String {
    if registry == "docker.io" {
        DOCKER_KEY.to_owned()
    } else {
        registry.to_owned()
    }
}

/// Asks `docker-credential-NAME`.
fn helped(helper: &str, registry: &str) -> Result<Option<Login>> {
    let proper = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ensure!(
        !helper.is_empty() && helper.bytes().all(proper),
        "the name of its credential helper has characters that none has"
    );
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start the credential helper {program}"))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read says so by its answer.
        input.write_all(registry.as_bytes()).ok();
    }
    let mut said = Zeroizing::new(Vec::new());
    if let Some(output) = child.stdout.take() {
        output
            .take(LARGEST)
            .read_to_end(&mut said)
            .with_context(|| format!("cannot read from {program}"))?;
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {program}"))?;
    if !status.success() {
        // The protocol's own word for "there is none" (docker-credential-helpers, credentials/error.go).
        let none = String::from_utf8_lossy(&said).contains("credentials not found");
        ensure!(none, "{program} ended with {status}");
        return Ok(None);
    }
    let helped: Helped = serde_json::from_slice(&said)
        .map_err(|_| anyhow::anyhow!("{program} answers with something else than a login"))?;
    ensure!(
        helped.username != TOKEN_USER,
        "{program} gives an identity token, which Kedge cannot use: give --username and --password-stdin"
    );
    Login::new(&helped.username, helped.secret).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, image: &str) -> Result<Option<(String, String)>> {
        let login = parse(text.as_bytes())?.login(&image.parse().unwrap())?;
        Ok(login.map(|login| (login.name, login.password.to_string())))
    }

    fn pair(name: &str, password: &str) -> Option<(String, String)> {
        Some((name.into(), password.into()))
    }

    #[test]
    fn the_narrowest_login_is_taken_and_never_anothers() {
        let text = r#"{"auths":{
            "h.example":{"auth":"YTpvbmU="}, "h.example/team":{"auth":"YjphOnR3bw=="},
            "https://index.docker.io/v1/":{"username":"c","password":"three"}, "other.example:5000":{"auth":"eDp4"}},
            "HttpHeaders":{"User-Agent":"x"}}"#;
        for (image, wanted) in [
            ("h.example/x", pair("a", "one")),
            ("h.example/team/x", pair("b", "a:two")),
            ("h.example/teams/x", pair("a", "one")),
            ("docker://nginx", pair("c", "three")),
            ("other.example/x", None),
            ("h.example:5000/x", None),
            ("sub.h.example/x", None),
        ] {
            assert_eq!(found(text, image).unwrap(), wanted, "{image}");
        }
    }

    #[test]
    fn damaged_logins_are_refused_without_being_shown() {
        for bad in [
            r#"{"auths":{"h.example":{"auth":"c2VjcmV0"}}}"#,
            r#"{"auths":{"h.example":{"auth":"c2VjcmV0!"}}}"#,
            r#"{"auths":{"h.example":{"auth":12, "c2VjcmV0": "secret"}}}"#,
            r#"{"auths":{"h.example":{"identitytoken":"secret"}}}"#,
            r#"{"credHelpers":{"h.example":"../secret"}}"#,
        ] {
            let error = format!("{:#}", found(bad, "h.example/x").unwrap_err());
            assert!(
                !error.contains("secret") && !error.contains("c2Vj"),
                "{error}"
            );
        }
        let login = Login::new("a", Zeroizing::new("secret".into())).unwrap();
        assert!(!format!("{login:?}").contains("secret"));
        assert_eq!(*login.basic(), "Basic YTpzZWNyZXQ=");
    }

    #[test]
    fn files_are_looked_for_where_the_tools_keep_them() {
        let places = |pairs: &[(&str, &str)]| {
            let all = places(|name| {
                let mut found = pairs.iter().filter(|(other, _)| *other == name);
                found.next().map(|(_, value)| OsString::from(value))
            });
            all.iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            places(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]),
            [
                "/r/containers/auth.json",
                "/h/.config/containers/auth.json",
                "/h/.docker/config.json"
            ]
        );
        assert_eq!(
            places(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a")]),
            ["/a"]
        );
    }
}
