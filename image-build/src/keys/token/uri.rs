//! Names of keys in tokens: `pkcs11:` URIs (RFC 7512), as far as they name a key.
//!
//! `pkcs11:token=release;object=gateway?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/keys/pin`

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Longest name, bytes.
const LONGEST: usize = 2048;
const SCHEME: &str = "pkcs11:";

/// A key's name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Uri {
    pub(super) token: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) model: Option<String>,
    /// The key's label.
    pub(super) object: Option<String>,
    /// Its `CKA_ID`.
    pub(super) id: Option<Vec<u8>>,
    module: Option<PathBuf>,
    /// The file whose first line is the PIN.
    pub(super) pin_source: Option<PathBuf>,
}

impl Uri {
    /// Whether a text would be one, and no file's name.
    pub(crate) fn is_one(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Parses a name; an attribute that is unknown is refused, since it would name another key than was meant.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let rest = text
            .strip_prefix(SCHEME)
            .filter(|_| text.len() <= LONGEST)
            .with_context(|| format!("a key in a token is named by `{SCHEME}…` (RFC 7512)"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        for attribute in path.split(';').filter(|part| !part.is_empty()) {
            let (name, value) = pair(attribute)?;
            uri.take(name, value)?;
        }
        for attribute in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = pair(attribute)?;
            uri.take_query(name, value)?;
        }
        Ok(uri)
    }

    fn take(&mut self, name: &str, value: Vec<u8>) -> Result<()> {
        if name == "id" {
            return once(&mut self.id, name, value);
        }
        let value = text(name, value)?;
        match name {
            "token" => once(&mut self.token, name, value),
            "serial" => once(&mut self.serial, name, value),
            "manufacturer" => once(&mut self.manufacturer, name, value),
            "model" => once(&mut self.model, name, value),
            "object" => once(&mut self.object, name, value),
            "type" => {
                ensure!(value == "private", "type={value} is no key that can sign");
                Ok(())
            }
            other => bail!(
                "`{other}` is no attribute of a key that kedge knows: token, serial, manufacturer, model, object, id"
            ),
        }
    }

    fn take_query(&mut self, name: &str, value: Vec<u8>) -> Result<()> {
        ensure!(
            name != "pin-value",
            "a PIN in a key's name can be read by other processes, and stays in the shell's history: use pin-source=FILE, \
             --passphrase-file or --passphrase-fd"
        );
        let value = text(name, value)?;
        let path = || -> Result<PathBuf> {
            let path = Path::new(value.strip_prefix("file:").unwrap_or(&value));
            ensure!(path.is_absolute(), "{name}={value} is no absolute path");
            Ok(path.to_owned())
        };
        match name {
            "module-path" => once(&mut self.module, name, path()?),
            "pin-source" => once(&mut self.pin_source, name, path()?),
            other => {
                bail!("`{other}` is no query of a key that kedge knows: module-path, pin-source")
            }
        }
    }

    /// The shared library through which the token is reached.
    pub(super) fn module(&self) -> Result<&Path> {
        self.module.as_deref().context(
            "the key's name does not say through which library its token is reached: add \
             ?module-path=/usr/lib/…/….so, the PKCS#11 module of the token's maker",
        )
    }

    /// The same key as the project keeps it: without where a PIN was on the day that it was made.
    pub(crate) fn kept(&self) -> String {
        let mut path = Vec::new();
        for (name, value) in [
            ("token", &self.token),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
            ("serial", &self.serial),
            ("object", &self.object),
        ] {
            path.extend(
                value
                    .as_ref()
                    .map(|value| format!("{name}={}", escaped(value.as_bytes()))),
            );
        }
        path.extend(self.id.as_ref().map(|id| format!("id={}", escaped(id))));
        let module = self
            .module
            .as_deref()
            .map(|path| path.as_os_str().as_encoded_bytes());
        let module = module.map_or_else(String::new, |path| {
            format!("?module-path={}", escaped(path))
        });
        format!("{SCHEME}{}{module}", path.join(";"))
    }
}

fn pair(attribute: &str) -> Result<(&str, Vec<u8>)> {
    let (name, value) = attribute
        .split_once('=')
        .with_context(|| format!("`{attribute}` in the key's name is not NAME=VALUE"))?;
    let value = unescaped(value)
        .with_context(|| format!("the value of {name} in the key's name is not well escaped"))?;
    Ok((name, value))
}

fn once<T>(place: &mut Option<T>, name: &str, value: T) -> Result<()> {
    ensure!(place.is_none(), "{name} stands twice in the key's name");
    *place = Some(value);
    Ok(())
}

fn text(name: &str, value: Vec<u8>) -> Result<String> {
    let text = String::from_utf8(value).ok();
    let plain = text.filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
    plain.with_context(|| format!("the value of {name} in the key's name is no text"))
}

/// Percent-decodes (RFC 3986, section 2.1).
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

fn escaped(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let piece = |byte: &u8| {
        if plain(*byte) {
            char::from(*byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    bytes.iter().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_without_its_pin() {
        let text = "pkcs11:token=My%20Token;serial=0f;object=release%3b1;id=%01%ff;type=private\
                    ?module-path=/usr/lib/x.so&pin-source=file:/run/pin";
        let uri = Uri::parse(text).unwrap();
        assert_eq!(uri.token.as_deref(), Some("My Token"));
        assert_eq!(uri.object.as_deref(), Some("release;1"));
        assert_eq!(uri.id.as_deref(), Some(&[1, 0xff][..]));
        assert_eq!(uri.pin_source.as_deref(), Some(Path::new("/run/pin")));
        assert_eq!(uri.module().unwrap(), Path::new("/usr/lib/x.so"));
        let kept = uri.kept();
        assert!(!kept.contains("pin"), "{kept}");
        let again = Uri::parse(&kept).unwrap();
        let without = Uri {
            pin_source: None,
            ..uri
        };
        assert_eq!(again, without);
    }

    #[test]
    fn what_names_no_key_says_why() {
        for (text, why) in [
            ("keys/release.toml", "pkcs11:"),
            ("pkcs11:token", "NAME=VALUE"),
            ("pkcs11:token=a;token=b", "twice"),
            ("pkcs11:tokn=a", "no attribute"),
            ("pkcs11:token=%g0", "escaped"),
            ("pkcs11:token=", "no text"),
            ("pkcs11:token=%0a", "no text"),
            ("pkcs11:type=public", "can sign"),
            ("pkcs11:?pin-value=1234", "pin-source"),
            ("pkcs11:?pin-source=|cat", "absolute"),
            ("pkcs11:?module-path=x.so", "absolute"),
            ("pkcs11:?module-name=x", "no query"),
        ] {
            let error = format!("{:#}", Uri::parse(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("1234"));
        }
        let error = Uri::parse("pkcs11:token=a").unwrap().module().unwrap_err();
        assert!(error.to_string().contains("module-path"));
    }
}
