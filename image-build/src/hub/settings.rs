//! The hubs that `kedge login` made known: `$XDG_CONFIG_HOME/kedge/hubs.toml`, for its owner's eyes alone.
//!
//! ```toml
//! default = "https://hub.example:8443"
//! [[hubs]]
//! url = "https://hub.example:8443"
//! key = "…"
//! authority = "…"
//! token = "…"
//! ```

use super::{Address, unhex};
use crate::files;
use anyhow::{Context, Result, bail, ensure};
use kedge_revision::PublicKey;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const HEADER: &str =
    "# Hubs that `kedge login` made known, with the tokens for them. Keep it to yourself.\n";

/// A hub, its pin and the token for it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Known {
    /// Its address.
    pub url: String,
    /// Its online key.
    pub key: PublicKey,
    /// Its authority, DER in hexadecimal.
    authority: String,
    /// The operator's token.
    #[serde(with = "secret")]
    pub token: Zeroizing<String>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Known({})", self.url)
    }
}

mod secret {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(
        token: &Zeroizing<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(token)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

impl Known {
    /// A hub that was just logged in to.
    #[must_use]
    pub fn new(url: String, key: PublicKey, authority: &[u8], token: Zeroizing<String>) -> Self {
        Self {
            url,
            key,
            authority: kedge_revision::id::hex(authority),
            token,
        }
    }

    /// Its authority, DER.
    ///
    /// # Errors
    /// What is kept is no hexadecimal text.
    pub fn authority(&self) -> Result<Vec<u8>> {
        unhex(&self.authority).with_context(|| {
            format!(
                "the authority kept for {} is spoilt\nhelp: log in again",
                self.url
            )
        })
    }
}

/// All hubs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The one that is meant when nobody names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// All.
    #[serde(default)]
    pub hubs: Vec<Known>,
}

impl Settings {
    /// Where they are kept.
    ///
    /// # Errors
    /// There is no home.
    pub fn path() -> Result<PathBuf> {
        let absolute = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let base = absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".config")))
            .context("neither XDG_CONFIG_HOME nor HOME says where settings are kept")?;
        Ok(base.join("kedge/hubs.toml"))
    }

    /// Those of this user.
    ///
    /// # Errors
    /// The file cannot be read, is open to others, or has a mistake.
    pub fn open() -> Result<Self> {
        Self::read(&Self::path()?)
    }

    fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let metadata = path.metadata();
        let metadata = metadata.with_context(|| format!("cannot look at {}", path.display()))?;
        ensure!(
            metadata.permissions().mode() & 0o077 == 0,
            "others may read {}, which holds tokens; close it with: chmod 600 {0}, and think about whether they were copied",
            path.display()
        );
        let text = Zeroizing::new(files::read_text(path)?);
        // The parser's error shows the line, which may hold a token: only its words are passed on.
        toml::from_str(&text).map_err(|error| {
            anyhow::anyhow!("{} has a mistake: {}", path.display(), error.message())
        })
    }

    /// Keeps them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self) -> Result<()> {
        self.write(&Self::path()?)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = Zeroizing::new(toml::to_string(self).context("cannot write the hubs as TOML")?);
        let text = Zeroizing::new(format!("{HEADER}{}", *text));
        files::write_private(path, text.as_bytes())
    }

    /// The hub that is named by its address, or by its host if no other is there; without a name the default one.
    ///
    /// # Errors
    /// There is none of that name, or several.
    pub fn hub(&self, name: Option<&str>) -> Result<&Known> {
        let Some(name) = name.or(self.default.as_deref()) else {
            bail!("no hub is known\nhelp: `kedge login https://HOST:PORT` makes one known");
        };
        if let Some(known) = self.hubs.iter().find(|known| is(known, name)) {
            return Ok(known);
        }
        let there: Vec<&Known> = self
            .hubs
            .iter()
            .filter(|known| is_at(known, name))
            .collect();
        match there.as_slice() {
            [known] => Ok(known),
            [] => {
                let others = match urls(&self.hubs) {
                    known if known.is_empty() => String::new(),
                    known => format!("; known: {known}"),
                };
                bail!("the hub {name} is not known{others}\nhelp: kedge login {name}")
            }
            several => bail!(
                "{name} has several hubs that are known: {}\nhelp: name the one that is meant with its port",
                urls(several.iter().copied())
            ),
        }
    }

    /// Makes a hub known, in place of what was known of it. The first one becomes the default.
    pub fn add(&mut self, known: Known) {
        self.hubs.retain(|other| other.url != known.url);
        if self.default.is_none() {
            self.default = Some(known.url.clone());
        }
        self.hubs.push(known);
        self.hubs.sort_by(|a, b| a.url.cmp(&b.url));
    }

    /// Forgets a hub; of what is left the first becomes the default.
    pub fn remove(&mut self, url: &str) {
        self.hubs.retain(|known| known.url != url);
        if self.default.as_deref() == Some(url) {
            self.default = self.hubs.first().map(|known| known.url.clone());
        }
    }
}

fn urls<'a>(hubs: impl IntoIterator<Item = &'a Known>) -> String {
    let urls: Vec<&str> = hubs.into_iter().map(|known| known.url.as_str()).collect();
    urls.join(", ")
}

/// Whether a hub is meant by an address, or by its host with the port: no other one can be.
fn is(known: &Known, name: &str) -> bool {
    if name == known.url {
        return true;
    }
    // An IPv6 address without brackets has colons, too, and no port.
    let has_port = |(host, _): &(&str, &str)| host.ends_with(']') || !host.contains(':');
    let with_port = name.rsplit_once(':').filter(has_port);
    let named = name
        .parse()
        .ok()
        .or_else(|| with_port.and_then(|_| format!("https://{name}").parse().ok()));
    named.is_some_and(|named: Address| known.url.parse().is_ok_and(|own: Address| own == named))
}

/// Whether a hub is at a host.
fn is_at(known: &Known, name: &str) -> bool {
    let host = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = host.unwrap_or(name);
    known
        .url
        .parse()
        .is_ok_and(|address: Address| address.host().eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(url: &str) -> Known {
        let key = PublicKey::from_bytes([7; 32]);
        let token = Zeroizing::new("id.secret".to_owned());
        Known::new(url.to_owned(), key, &[1, 2], token)
    }

    #[test]
    fn hubs_come_back_and_the_first_is_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kedge/hubs.toml");
        let mut settings = Settings::read(&path).unwrap();
        let none = settings.hub(None).unwrap_err().to_string();
        assert!(none.contains("kedge login"), "{none}");
        settings.add(known("https://b:8443"));
        settings.add(known("https://a:8443"));
        settings.write(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut settings = Settings::read(&path).unwrap();
        assert_eq!(settings.hub(None).unwrap().url, "https://b:8443");
        for name in ["a", "a:8443", "https://a:8443/"] {
            assert_eq!(settings.hub(Some(name)).unwrap().url, "https://a:8443");
        }
        settings.hub(Some("c")).unwrap_err();
        settings.remove("https://b:8443");
        assert_eq!(settings.hub(None).unwrap().url, "https://a:8443");
        assert_eq!(settings.hub(None).unwrap().authority().unwrap(), [1, 2]);
    }

    #[test]
    fn a_host_with_several_hubs_names_none_of_them() {
        let mut settings = Settings::default();
        for url in [
            "https://a",
            "https://a:8443",
            "https://b:8443",
            "https://[fd00::1]:8443",
            "https://[fd00::1]:8444",
        ] {
            settings.add(known(url));
        }
        let url = |name: &str| settings.hub(Some(name)).map(|known| known.url.clone());
        for (name, meant) in [
            ("b", "https://b:8443"),
            ("B", "https://b:8443"),
            ("a:443", "https://a"),
            ("https://a", "https://a"),
            ("A:8443", "https://a:8443"),
            ("[fd00::1]:8444", "https://[fd00::1]:8444"),
        ] {
            assert_eq!(url(name).unwrap(), meant, "{name}");
        }
        let error = url("a").unwrap_err().to_string();
        assert!(error.contains("https://a, https://a:8443\n"), "{error}");
        for several in ["fd00::1", "[fd00::1]"] {
            let error = url(several).unwrap_err().to_string();
            assert!(error.contains("several"), "{error}");
        }
        for none in ["c", "b:8444", "fd00::1:8443", "https://b"] {
            let error = url(none).unwrap_err().to_string();
            assert!(error.contains("is not known; known: "), "{error}");
        }
    }

    #[test]
    fn no_error_and_no_debug_shows_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hubs.toml");
        assert!(!format!("{:?}", known("https://a")).contains("secret"));
        files::write_private(
            &path,
            b"[[hubs]]\ntoken = \"id.secret\"\ntoken = \"id.secret\"\n",
        )
        .unwrap();
        let error = format!("{:?}", Settings::read(&path).unwrap_err());
        assert!(!error.contains("secret"), "{error}");
    }
}
