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

use super::unhex;
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

    /// The hub that is named by its address or host; without a name the default one.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn hub(&self, name: Option<&str>) -> Result<&Known> {
        let Some(name) = name.or(self.default.as_deref()) else {
            bail!("no hub is known\nhelp: `kedge login https://HOST:PORT` makes one known");
        };
        let known = self.hubs.iter().find(|known| is(known, name));
        known.with_context(|| {
            let others: Vec<&str> = self.hubs.iter().map(|known| known.url.as_str()).collect();
            let others = if others.is_empty() {
                String::new()
            } else {
                format!("; known: {}", others.join(", "))
            };
            format!("the hub {name} is not known{others}\nhelp: kedge login {name}")
        })
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

/// Whether a hub is meant by an address, or by its host with or without the port.
fn is(known: &Known, name: &str) -> bool {
    let Ok(address) = known.url.parse::<super::Address>() else {
        return false;
    };
    name == known.url
        || name == address.host()
        || name == address.authority()
        || name
            .parse()
            .is_ok_and(|named: super::Address| named == address)
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
