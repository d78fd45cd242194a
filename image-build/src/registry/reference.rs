//! What an image in a registry is called: `docker://HOST[:PORT]/REPOSITORY[:TAG][@sha256:…]`, as containers' tools write it.
//!
//! A name is kept whole: what is left out when it is read (the registry of Docker, `library/`, the tag `latest`) stands
//! there when it is written, and what is written reads as the same name. A registry is told from the first part of a
//! repository by a dot, a colon, or by being `localhost`; by capitals it is not, since hosts are written small and would
//! then be read as something else.

use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// What may stand in front of a name, so that it is no file's.
const SCHEME: &str = "docker://";
/// The registry of names without one.
const DOCKER: &str = "docker.io";
/// The tag of names that have neither tag nor digest.
const LATEST: &str = "latest";
/// Longest host and longest repository; the first is DNS's limit, the second the specification's.
const LONGEST: usize = 255;
/// Longest tag (OCI distribution specification 1.1, "Pulling manifests").
const LONGEST_TAG: usize = 128;

/// SHA-256 of something in a registry: `sha256:` and 64 small hexadecimal digits. Other algorithms are not read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_hash(&sha2::Sha256::digest(bytes))
    }

    /// The digest that a hash came to.
    #[must_use]
    pub fn from_hash(hash: &[u8]) -> Self {
        Self(kedge_revision::id::hex(hash))
    }

    /// The 64 digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = text
            .strip_prefix("sha256:")
            .with_context(|| format!("the digest `{}` is not sha256:…", shown(text)))?;
        let proper = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ensure!(
            proper,
            "the digest `{}` is not 64 small hexadecimal digits",
            shown(text)
        );
        Ok(Self(hex.to_owned()))
    }
}

/// A name of an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Whether a text says by itself that it names a registry's image: `docker://` stands in front.
    #[must_use]
    pub fn is_marked(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Whether a text without `docker://` begins with what can only be a registry: a host with a dot, a port, or `localhost`.
    #[must_use]
    pub fn names_registry(text: &str) -> bool {
        text.split_once('/')
            .is_some_and(|(first, _)| is_host(first) && host(first).is_ok())
            && text.parse::<Self>().is_ok()
    }

    /// Host and port as they were written.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest, if it has one.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a manifest is asked for by: the digest, else the tag.
    #[must_use]
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => LATEST.to_owned(),
        }
    }

    /// The same name with the digest that it came to.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// Where the registry answers. Docker's own has its interface under another name than its images.
    #[must_use]
    pub fn address(&self) -> &str {
        if self.registry == DOCKER {
            "index.docker.io"
        } else {
            &self.registry
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).with_context(|| {
            format!(
                "`{}` is no image of a registry\nhelp: write docker://HOST[:PORT]/REPOSITORY[:TAG][@sha256:…]",
                shown(text)
            )
        })
    }
}

fn parse(text: &str) -> Result<Reference> {
    let text = text.strip_prefix(SCHEME).unwrap_or(text);
    let (registry, rest) = match text.split_once('/') {
        Some((first, rest)) if is_host(first) => (host(first)?, rest),
        Some((first, _)) if first.bytes().any(|byte| byte.is_ascii_uppercase()) => bail!(
            "`{}` may be a host or a part of a repository: write a host's port, too, as in {}:443/…",
            shown(first),
            shown(&first.to_ascii_lowercase())
        ),
        Some(_) | None => (DOCKER.to_owned(), text),
    };
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse()?)),
        None => (rest, None),
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag.to_owned())),
        None if digest.is_some() => (rest, None),
        None => (rest, Some(LATEST.to_owned())),
    };
    let repository = if registry == DOCKER && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    check_repository(&repository)?;
    if let Some(tag) = &tag {
        check_tag(tag)?;
    }
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

/// Whether the part before the first slash is a host and not the first part of a repository of Docker's.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// A host with its port, in its one spelling.
fn host(text: &str) -> Result<String> {
    let wrong = || format!("`{}` is no host with a port", shown(text));
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').with_context(wrong)?;
            let address: Ipv6Addr = name.parse().with_context(wrong)?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').with_context(wrong)?),
            };
            (format!("[{address}]"), port)
        }
        None => match text.split_once(':') {
            Some((name, port)) => (dns_name(name).with_context(wrong)?, Some(port)),
            None => (dns_name(text).with_context(wrong)?, None),
        },
    };
    let name = match name.as_str() {
        "index.docker.io" if port.is_none() => DOCKER.to_owned(),
        _ => name,
    };
    let Some(port) = port else {
        return Ok(name);
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = port.parse().with_context(wrong)?;
    ensure!(digits && port > 0, wrong());
    Ok(format!("{name}:{port}"))
}

fn dns_name(text: &str) -> Result<String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    ensure!(
        text.len() <= LONGEST && text.split('.').all(label),
        "it is no name of a host"
    );
    Ok(text.to_ascii_lowercase())
}

/// Parts of small letters and digits, joined by `.`, `_`, `__` or hyphens (distribution specification 1.1).
fn check_repository(repository: &str) -> Result<()> {
    ensure!(
        repository.len() <= LONGEST,
        "a repository's name has at most {LONGEST} characters"
    );
    for part in repository.split('/') {
        let mut rest = part;
        loop {
            let word = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
            ensure!(
                word != Some(0) && !rest.is_empty(),
                "the repository's part `{}` is not of small letters and digits, with . _ or - between them",
                shown(part)
            );
            let Some(end) = word else { break };
            rest = rest.get(end..).unwrap_or_default();
            let hyphens = rest
                .len()
                .saturating_sub(rest.trim_start_matches('-').len());
            let between = match hyphens {
                0 if rest.starts_with("__") => 2,
                0 if rest.starts_with(['.', '_']) => 1,
                count => count,
            };
            ensure!(
                between > 0,
                "the repository's part `{}` has a character that none may have",
                shown(part)
            );
            rest = rest.get(between..).unwrap_or_default();
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<()> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let proper = tag.bytes().next().is_some_and(word)
        && tag
            .bytes()
            .all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
    ensure!(
        proper && tag.len() <= LONGEST_TAG,
        "the tag `{}` is not of at most {LONGEST_TAG} letters, digits, . _ and -",
        shown(tag)
    );
    Ok(())
}

/// A text of somebody else's, for a message: without control characters, and not too long.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 300;
    let mut shown: String = text
        .chars()
        .take(MOST)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_have_one_spelling_that_reads_as_itself() {
        for (text, one) in [
            ("docker://nginx", "docker://docker.io/library/nginx:latest"),
            ("docker://a/b:1", "docker://docker.io/a/b:1"),
            (
                "index.docker.io/nginx",
                "docker://docker.io/library/nginx:latest",
            ),
            ("localhost/x", "docker://localhost/x:latest"),
            (
                "Hub.Example:5000/a/b_c__d--e.f:V1.2-x",
                "docker://hub.example:5000/a/b_c__d--e.f:V1.2-x",
            ),
            ("[::0:1]:05000/x", "docker://[::1]:5000/x:latest"),
            ("quay.io/x/y", "docker://quay.io/x/y:latest"),
        ] {
            let read: Reference = text.parse().unwrap();
            assert_eq!(read.to_string(), one);
            assert_eq!(one.parse::<Reference>().unwrap(), read);
        }
        let pinned = format!("docker://h.example/x:1@sha256:{HEX}");
        let read: Reference = pinned.parse().unwrap();
        assert_eq!(
            (read.to_string(), read.version()),
            (pinned, format!("sha256:{HEX}"))
        );
        let untagged: Reference = format!("h.example/x@sha256:{HEX}").parse().unwrap();
        assert_eq!(
            untagged.to_string(),
            format!("docker://h.example/x@sha256:{HEX}")
        );
    }

    #[test]
    fn a_host_that_only_a_capital_tells_is_not_guessed() {
        let error = format!("{:#}", "Server/x".parse::<Reference>().unwrap_err());
        assert!(error.contains("server:443/"), "{error}");
        assert_eq!(
            "Server:443/x".parse::<Reference>().unwrap().registry(),
            "server:443"
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "docker://",
            "h.example/",
            "h.example//x",
            "h.example/X",
            "h.example/x:",
            "h.example/x:-a",
            "h.example/../x",
            "h.example/x@sha256:12",
            "h.example/x@md5:1",
            "h.example:0/x",
            "h.example:99999/x",
            "h.example:+5/x",
            "-h.example/x",
            "u@h.example/x",
            "h.example/x y",
            "[::1/x",
            "[x]/x",
            "h..e/x",
            "h.example/a_-b",
            "h.example/a___b",
            "h.example/a.",
            "h.example/x?y",
            "h.example/x\r\ny",
            "https://h.example/x",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_not_taken_for_registries() {
        for file in [
            "web.tar",
            "oci:images/web",
            "./h.example/x",
            "../x",
            "/x/y",
            "images/web",
            "a.b",
        ] {
            assert!(!Reference::names_registry(file), "{file}");
        }
        for image in ["h.example/x", "localhost/x", "127.0.0.1:5000/x:1"] {
            assert!(Reference::names_registry(image), "{image}");
        }
    }
}
