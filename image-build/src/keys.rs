//! Signing keys in files, under a passphrase.
//!
//! A key file is TOML with mode 0600:
//! ```toml
//! spec = "kedge.key/1"
//! role = "release"                   # what it is for; checked by nobody, the trust root decides
//! public = "<64 hex>"                # ed25519 public key (RFC 8032)
//!
//! [encrypted]
//! memory-kib = 65536                 # argon2id (RFC 9106), version 0x13, 32 bytes out
//! passes = 3
//! lanes = 1
//! salt = "<32 hex>"
//! nonce = "<48 hex>"                 # XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03)
//! sealed = "<96 hex>"                # the 32-byte seed and a 16-byte tag
//! ```
//! The associated data of the seal is `kedge.key/1 <role> <public>\n`, so that no line of one file can be moved to another.
//! A development key that its owner chose to leave open has `plain = "<64 hex>"` in place of `[encrypted]`; one that is kept in a
//! token has `token = "pkcs11:…"` (RFC 7512), and no secret stands in the file.
//!
//! This module makes, writes and opens keys. Which key may sign what is the trust root's business.

mod passphrase;
mod signer;
mod token;

pub use passphrase::Passphrase;
pub use signer::Signer;
pub(crate) use token::Uri;

use crate::files;
use anyhow::{Context, Result, bail, ensure};
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use ed25519_dalek::SigningKey;
use kedge_revision::id::hex;
use kedge_revision::{Mode, PublicKey};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Format and version.
const SPEC: &str = "kedge.key/1";
/// Cost of a new key file: RFC 9106's second recommendation (64 MiB, 3 passes) in one lane, about 0.2 s.
const COST: Cost = Cost {
    memory_kib: 64 * 1024,
    passes: 3,
    lanes: 1,
};
/// The cost a file may ask for: a hostile one must not exhaust the machine.
const MOST: Cost = Cost {
    memory_kib: 1024 * 1024,
    passes: 16,
    lanes: 8,
};

#[derive(Debug, Clone, Copy)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// A key file as it stands on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    spec: String,
    role: String,
    public: PublicKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plain: Option<Hex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encrypted: Option<Encrypted>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Encrypted {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: Hex,
    nonce: Hex,
    sealed: Hex,
}

/// Bytes as lower-case hexadecimal; never shown by `Debug`.
#[derive(Clone)]
struct Hex(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(hex(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                let digits = std::str::from_utf8(pair)
                    .ok()
                    .filter(|d| d.len() == 2 && !d.starts_with('+'))?;
                u8::from_str_radix(digits, 16).ok()
            })
            .collect();
        // The words do not repeat the value: it may be a secret.
        bytes
            .map(|b| Self(Zeroizing::new(b)))
            .ok_or_else(|| serde::de::Error::custom("is no hexadecimal text"))
    }
}

/// A key file that was read; the secret in it is still closed.
#[derive(Debug, Clone)]
pub struct KeyFile {
    path: PathBuf,
    document: Document,
}

/// How a new key is kept.
#[derive(Debug, Clone, Copy)]
pub enum Protection<'a> {
    /// Under this passphrase.
    Passphrase(&'a str),
    /// Open: whoever reads the file can sign. For development only.
    Plain,
}

/// A fresh key from the kernel's random source.
///
/// # Errors
/// The kernel gives no random bytes.
pub fn generate() -> Result<SigningKey> {
    Ok(SigningKey::from_bytes(&*random::<32>()?))
}

/// The public half.
#[must_use]
pub fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

/// Writes a key to a new file, or over an older one, with mode 0600.
///
/// # Errors
/// The file cannot be written, or the passphrase is shorter than eight characters.
pub fn write(path: &Path, role: &str, key: &SigningKey, protection: Protection<'_>) -> Result<()> {
    let public = public(key);
    let mut document = Document {
        spec: SPEC.to_owned(),
        role: role.to_owned(),
        public,
        plain: None,
        token: None,
        encrypted: None,
    };
    match protection {
        Protection::Plain => document.plain = Some(Hex(Zeroizing::new(key.to_bytes().to_vec()))),
        Protection::Passphrase(passphrase) => {
            document.encrypted = Some(seal(&document, key, passphrase)?);
        }
    }
    let text = Zeroizing::new(toml::to_string(&document).context("cannot write the key as TOML")?);
    let text = Zeroizing::new(format!("{}{}", header(&document), *text));
    files::write_private(path, text.as_bytes())
}

/// Notes a key that is kept in a token.
///
/// # Errors
/// The file cannot be written.
pub fn note(path: &Path, role: &str, public: PublicKey, uri: &str) -> Result<()> {
    let document = Document {
        spec: SPEC.to_owned(),
        role: role.to_owned(),
        public,
        plain: None,
        token: Some(uri.to_owned()),
        encrypted: None,
    };
    let text = toml::to_string(&document).context("cannot write the key as TOML")?;
    files::write_private(path, format!("{}{text}", header(&document)).as_bytes())
}

/// Only its owner may read a key's file.
///
/// # Errors
/// It is not there, or others may read it.
pub(crate) fn closed_to_others(path: &Path) -> Result<()> {
    let mode = std::fs::metadata(path)
        .with_context(|| format!("cannot read the key {}", path.display()))?
        .permissions();
    ensure!(
        mode.mode() & 0o077 == 0,
        "others may read {}; close it with: chmod 600 {0}, and think about whether it was copied",
        path.display()
    );
    Ok(())
}

/// A key without a passphrase is for development.
///
/// # Errors
/// The project is one for production.
pub(crate) fn may_be_open(mode: Mode) -> Result<()> {
    ensure!(
        mode == Mode::Development,
        "keys of a production project are kept under a passphrase"
    );
    Ok(())
}

/// A new passphrase keeps somebody busy who has the file.
///
/// # Errors
/// It has less than eight characters.
pub(crate) fn long_enough(passphrase: &str) -> Result<()> {
    ensure!(
        passphrase.chars().count() >= 8,
        "the passphrase is too short: take at least 8 characters, better four words"
    );
    Ok(())
}

impl KeyFile {
    /// Reads a key file; the secret stays closed.
    ///
    /// # Errors
    /// It cannot be read, is no key file, or is readable by others.
    pub fn read(path: &Path) -> Result<Self> {
        closed_to_others(path)?;
        let text = Zeroizing::new(files::read_text(path)?);
        // The parser's error shows the line, which may hold the secret: only its words are passed on.
        let document: Document = toml::from_str(&text).map_err(|error| {
            anyhow::anyhow!("{} is no key file: {}", path.display(), error.message())
        })?;
        ensure!(
            document.spec == SPEC,
            "{} is `{}`, this kedge reads `{SPEC}`",
            path.display(),
            document.spec
        );
        let kept = [
            document.plain.is_some(),
            document.encrypted.is_some(),
            document.token.is_some(),
        ];
        ensure!(
            kept.iter().filter(|there| **there).count() == 1,
            "{} needs one of `plain`, `token` and `[encrypted]`",
            path.display()
        );
        Ok(Self {
            path: path.to_owned(),
            document,
        })
    }

    /// Where it stands.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is for, in its maker's word.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.document.role
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.document.public
    }

    /// Whether a passphrase protects it.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.document.encrypted.is_some()
    }

    /// The token that it is kept in, if it is.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.document.token.as_deref()
    }

    /// The key, ready to sign, wherever it is kept; `passphrase` gives a token's PIN.
    ///
    /// # Errors
    /// As [`KeyFile::open`] and [`Signer::named`]; the token has another key.
    pub fn signer(&self, passphrase: &Passphrase) -> Result<Signer> {
        let Some(uri) = self.token() else {
            return Ok(Signer::Held(self.open(passphrase)?));
        };
        let signer = Signer::in_token(uri, passphrase)
            .with_context(|| format!("cannot use the key that {} names", self.path.display()))?;
        ensure!(
            signer.public() == self.public(),
            "{} names a key of a token whose public half is another one: {}",
            self.path.display(),
            signer.public()
        );
        Ok(signer)
    }

    /// Opens the secret; `passphrase` is asked only if there is one.
    ///
    /// # Errors
    /// The passphrase is wrong or cannot be had, or the file was changed.
    pub fn open(&self, passphrase: &Passphrase) -> Result<SigningKey> {
        let seed = match (&self.document.plain, &self.document.encrypted) {
            (Some(plain), _) => Zeroizing::new(plain.0.to_vec()),
            (None, Some(encrypted)) => {
                let passphrase = passphrase.existing(&format!(
                    "the {} key {}",
                    self.role(),
                    self.path.display()
                ))?;
                unseal(&self.document, encrypted, &passphrase)
                    .with_context(|| format!("cannot open {}", self.path.display()))?
            }
            (None, None) => bail!(
                "the secret of {} is in a token, and stays there",
                self.path.display()
            ),
        };
        let seed: Zeroizing<[u8; 32]> = match <[u8; 32]>::try_from(seed.as_slice()) {
            Ok(seed) => Zeroizing::new(seed),
            Err(_) => bail!(
                "{} holds a secret of {} bytes, not 32",
                self.path.display(),
                seed.len()
            ),
        };
        let key = SigningKey::from_bytes(&seed);
        ensure!(
            public(&key) == self.document.public,
            "{}: the secret does not belong to the public key beside it",
            self.path.display()
        );
        Ok(key)
    }
}

fn header(document: &Document) -> String {
    let care = if document.token.is_some() {
        "It is kept in a token; here is its name. Without the token it is lost."
    } else if document.plain.is_some() {
        "It is NOT protected by a passphrase: whoever reads it can sign. Protect it with `kedge key passphrase`."
    } else {
        "It is protected by a passphrase; without that it is lost. Change it with `kedge key passphrase`."
    };
    format!(
        "# A signing key of a Kedge project. Keep it out of version control, keep a copy in a safe place.\n# {care}\n"
    )
}

fn associated(document: &Document) -> String {
    format!("{SPEC} {} {}\n", document.role, document.public)
}

fn seal(document: &Document, key: &SigningKey, passphrase: &str) -> Result<Encrypted> {
    long_enough(passphrase)?;
    let (salt, nonce) = (random::<16>()?, random::<24>()?);
    let wrap = derive(COST, &*salt, passphrase)?;
    let associated = associated(document);
    let seed = Zeroizing::new(key.to_bytes());
    let sealed = XChaCha20Poly1305::new((&*wrap).into())
        .encrypt(
            XNonce::from_slice(&*nonce),
            Payload {
                msg: &*seed,
                aad: associated.as_bytes(),
            },
        )
        .map_err(|_| anyhow::anyhow!("cannot seal the key"))?;
    let hex = |bytes: &[u8]| Hex(Zeroizing::new(bytes.to_vec()));
    Ok(Encrypted {
        memory_kib: COST.memory_kib,
        passes: COST.passes,
        lanes: COST.lanes,
        salt: hex(&*salt),
        nonce: hex(&*nonce),
        sealed: hex(&sealed),
    })
}

fn unseal(
    document: &Document,
    encrypted: &Encrypted,
    passphrase: &str,
) -> Result<Zeroizing<Vec<u8>>> {
    let cost = Cost {
        memory_kib: encrypted.memory_kib,
        passes: encrypted.passes,
        lanes: encrypted.lanes,
    };
    ensure!(
        cost.memory_kib <= MOST.memory_kib
            && cost.passes <= MOST.passes
            && cost.lanes <= MOST.lanes,
        "it asks for more work than {} MiB, {} passes and {} lanes",
        MOST.memory_kib / 1024,
        MOST.passes,
        MOST.lanes
    );
    ensure!(
        encrypted.nonce.0.len() == 24,
        "its nonce has {} bytes, not 24",
        encrypted.nonce.0.len()
    );
    let wrap = derive(cost, &encrypted.salt.0, passphrase)?;
    let associated = associated(document);
    XChaCha20Poly1305::new((&*wrap).into())
        .decrypt(
            XNonce::from_slice(&encrypted.nonce.0),
            Payload {
                msg: &encrypted.sealed.0,
                aad: associated.as_bytes(),
            },
        )
        .map(Zeroizing::new)
        .map_err(|_| anyhow::anyhow!("the passphrase is wrong, or the file was changed"))
}

fn derive(cost: Cost, salt: &[u8], passphrase: &str) -> Result<Zeroizing<[u8; 32]>> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|error| anyhow::anyhow!("the key file's cost is not usable: {error}"))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|error| anyhow::anyhow!("cannot derive a key from the passphrase: {error}"))?;
    Ok(key)
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut *bytes)
        .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(passphrase: &str) -> Passphrase {
        Passphrase::given(passphrase)
    }

    fn written(protection: Protection<'_>) -> (tempfile::TempDir, PathBuf, SigningKey) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("release.toml");
        let key = generate().unwrap();
        write(&path, "release", &key, protection).unwrap();
        (folder, path, key)
    }

    #[test]
    fn a_key_comes_back_under_its_passphrase_only() {
        let (_folder, path, key) = written(Protection::Passphrase("four words are best"));
        let file = KeyFile::read(&path).unwrap();
        assert!(file.is_encrypted());
        assert_eq!(
            file.open(&with("four words are best")).unwrap().to_bytes(),
            key.to_bytes()
        );
        let error = format!("{:#}", file.open(&with("four words are good")).unwrap_err());
        assert!(error.contains("passphrase is wrong"), "{error}");
        let text = files::read_text(&path).unwrap();
        assert!(!text.contains(&hex(&key.to_bytes())));
    }

    #[test]
    fn a_plain_key_says_so_and_asks_for_nothing() {
        let (_folder, path, key) = written(Protection::Plain);
        assert!(files::read_text(&path).unwrap().contains("NOT protected"));
        assert_eq!(
            KeyFile::read(&path)
                .unwrap()
                .open(&Passphrase::Never)
                .unwrap()
                .to_bytes(),
            key.to_bytes()
        );
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let (_folder, path, _) = written(Protection::Plain);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(
            KeyFile::read(&path)
                .unwrap_err()
                .to_string()
                .contains("chmod 600")
        );
    }

    #[test]
    fn a_moved_line_or_another_role_does_not_open() {
        let (_folder, path, _) = written(Protection::Passphrase("four words are best"));
        let text = files::read_text(&path)
            .unwrap()
            .replace("role = \"release\"", "role = \"root\"");
        files::write_private(&path, text.as_bytes()).unwrap();
        KeyFile::read(&path)
            .unwrap()
            .open(&with("four words are best"))
            .unwrap_err();
    }

    #[test]
    fn a_cost_that_would_exhaust_the_machine_is_refused() {
        let (_folder, path, _) = written(Protection::Passphrase("four words are best"));
        let text = files::read_text(&path)
            .unwrap()
            .replace("memory-kib = 65536", "memory-kib = 4000000000");
        files::write_private(&path, text.as_bytes()).unwrap();
        let error = KeyFile::read(&path)
            .unwrap()
            .open(&with("four words are best"))
            .unwrap_err();
        assert!(format!("{error:#}").contains("more work"), "{error:#}");
    }

    #[test]
    fn a_short_passphrase_is_refused_and_damage_does_not_show_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.toml");
        let key = generate().unwrap();
        write(&path, "root", &key, Protection::Passphrase("short")).unwrap_err();
        write(&path, "root", &key, Protection::Plain).unwrap();
        let secret = hex(&key.to_bytes());
        let text = files::read_text(&path)
            .unwrap()
            .replace(&secret, &format!("{secret}z"));
        files::write_private(&path, text.as_bytes()).unwrap();
        let error = format!("{:?}", KeyFile::read(&path).unwrap_err());
        assert!(!error.contains(&secret), "{error}");
    }
}
