//! The owner's key for Secure Boot: RSA, in a PEM file as OpenSSL writes it, with a certificate beside it. `sbsign` and `sbverify`
//! take both as they are.

use crate::keys::{Passphrase, closed_to_others, long_enough};
use crate::{debian, files, process};
use anyhow::{Context, Result, bail, ensure};
use pkcs8::LineEnding;
use pkcs8::der::{DecodePem, Encode, pem};
use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo, SecretDocument};
use ring::rand::SystemRandom;
use ring::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use x509_cert::Certificate as X509;
use zeroize::Zeroizing;

/// What a firmware is told of its owner: the platform key, which says who may change the next; the key exchange key, which says who
/// may change the last; and the one that programs are signed with.
pub const ROLES: [&str; 3] = ["PK", "KEK", "db"];

/// What is made of each.
const SUFFIXES: [&str; 3] = ["pem", "cer", "key"];

/// What certificates say beside their keys: they sign programs, and PK and KEK what a firmware is told to trust; none is an
/// authority over others (RFC 5280, 4.2.1.3 and 4.2.1.9). Firmware looks at none of it.
const CONFIGURATION: &str = "\
[req]
distinguished_name = name
x509_extensions = certificate
string_mask = utf8only

[name]

[certificate]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
";

/// What a PEM file with a passphrase says it is (RFC 7468, 11).
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// A certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    inner: X509,
    path: PathBuf,
}

/// A key with its certificate.
pub struct Signer {
    key: RsaKeyPair,
    certificate: Certificate,
    protected: bool,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.certificate.path.display())
    }
}

impl Certificate {
    /// Reads a PEM file.
    ///
    /// # Errors
    /// It cannot be read, or holds no certificate of an RSA key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path)?;
        let inner = X509::from_pem(&text)
            .with_context(|| format!("{} is no certificate in PEM", path.display()))?;
        Ok(Self {
            inner,
            path: path.to_owned(),
        })
    }

    pub(super) const fn inner(&self) -> &X509 {
        &self.inner
    }

    /// Whom it names.
    #[must_use]
    pub fn subject(&self) -> String {
        self.inner.tbs_certificate.subject.to_string()
    }

    /// Its bytes in DER, as menus of firmware read it.
    ///
    /// # Errors
    /// Never, of what was read.
    pub fn der(&self) -> Result<Vec<u8>> {
        Ok(self.inner.to_der()?)
    }

    /// The public key's modulus and exponent in DER (RFC 8017, A.1.1).
    fn public_key(&self) -> Option<&[u8]> {
        let key = &self.inner.tbs_certificate.subject_public_key_info;
        key.subject_public_key.as_bytes()
    }
}

impl Signer {
    /// Opens a key; `passphrase` is asked only for a key that has one.
    ///
    /// # Errors
    /// A file cannot be read, others may read the key, the passphrase is wrong, the key is no RSA key of 2048 to 4096 bits, or the
    /// certificate is another key's.
    pub fn open(key: &Path, certificate: &Path, passphrase: &Passphrase) -> Result<Self> {
        let certificate = Certificate::read(certificate)?;
        closed_to_others(key)?;
        let text = Zeroizing::new(files::read_text(key)?);
        let (pair, protected) = parse(&text, key, passphrase)?;
        ensure!(
            certificate.public_key() == Some(pair.public_key().as_ref()),
            "the certificate {} is not that of the key {}",
            certificate.path.display(),
            key.display()
        );
        Ok(Self {
            key: pair,
            certificate,
            protected,
        })
    }

    /// Its certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whether its file is under a passphrase.
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.protected
    }

    /// Signs with RSASSA-PKCS1-v1_5 and SHA-256, the one that every firmware knows: the same bytes give the same signature.
    pub(super) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut signature = vec![0; self.key.public_key().modulus_len()];
        let signed = self.key.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            bytes,
            &mut signature,
        );
        signed.map_err(|_| anyhow::anyhow!("the key for Secure Boot cannot sign"))?;
        Ok(signature)
    }
}

/// The key of a PEM file: PKCS #8, with or without a passphrase, or OpenSSL's older form without one; and whether it had one.
fn parse(text: &str, path: &Path, passphrase: &Passphrase) -> Result<(RsaKeyPair, bool)> {
    let label = pem::decode_label(text.as_bytes());
    let label = label.map_err(|_| anyhow::anyhow!("{} is no key in PEM", path.display()))?;
    let refused = |why| anyhow::anyhow!("cannot use the key {}: {why}", path.display());
    let document = || {
        let (_, document) =
            SecretDocument::from_pem(text).map_err(|error| refused(error.to_string()))?;
        anyhow::Ok(document)
    };
    let pair = match label {
        "PRIVATE KEY" => RsaKeyPair::from_pkcs8(document()?.as_bytes()),
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(document()?.as_bytes()),
        ENCRYPTED => {
            let document = document()?;
            let sealed = EncryptedPrivateKeyInfo::try_from(document.as_bytes())
                .map_err(|error| refused(error.to_string()))?;
            let phrase = passphrase.existing(&path.display().to_string())?;
            let open = sealed.decrypt(phrase.as_bytes()).map_err(|_| {
                refused(
                    "the passphrase is wrong, or its encryption is none of PBES2 with AES"
                        .to_owned(),
                )
            })?;
            RsaKeyPair::from_pkcs8(open.as_bytes())
        }
        other => bail!("{} holds a {other:?}, not a private key", path.display()),
    };
    let pair = pair.map_err(|error| refused(error.to_string()))?;
    Ok((pair, label == ENCRYPTED))
}

/// Makes a key and its certificate for each of [`ROLES`] in a folder: `ROLE.key`, `ROLE.pem`, and `ROLE.cer` for menus of firmware.
/// All of them, or none.
///
/// # Errors
/// One of them is there already, the passphrase is shorter than eight characters, or OpenSSL cannot make it.
pub fn make(folder: &Path, owner: &str, phrase: Option<&str>) -> Result<()> {
    debian::require(&["openssl"], "make RSA keys")?;
    if let Some(phrase) = phrase {
        long_enough(phrase)?;
    }
    // Keys last: where one is, all certificates are.
    let names = SUFFIXES.map(|suffix| ROLES.map(|role| format!("{role}.{suffix}")));
    for name in names.as_flattened() {
        let path = folder.join(name);
        ensure!(!path.exists(), "there is {} already", path.display());
    }
    files::make_folder(folder)?;
    let new = files::temporary(&folder.join("keys"));
    let made = make_in(&new, owner, phrase).and_then(|()| {
        let publish = |name| files::publish(&new.join(name), &folder.join(name));
        let published = names.as_flattened().iter().try_for_each(publish);
        if published.is_err() {
            for name in names.as_flattened() {
                // Those that were not published yet are not there.
                std::fs::remove_file(folder.join(name)).ok();
            }
        }
        published
    });
    files::remove_folder(&new)?;
    made
}

fn make_in(folder: &Path, owner: &str, phrase: Option<&str>) -> Result<()> {
    let configuration = folder.join("openssl.cnf");
    files::write(&configuration, CONFIGURATION)?;
    for role in ROLES {
        let size = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        let key = [&["genpkey", "-quiet"], &size[..]].concat();
        let key = Zeroizing::new(openssl(&configuration, &key, &[])?);
        // Firmware does not look at the time; people and tools may.
        let subject = format!("/CN={owner} Secure Boot {role}/");
        let request = ["req", "-new", "-x509", "-sha256", "-days", "7300"];
        let request = [&request[..], &["-key", "/dev/stdin", "-subj", &subject]].concat();
        let certificate = openssl(&configuration, &request, &key)?;
        let text = match phrase {
            Some(phrase) => sealed(&key, phrase)?,
            None => Zeroizing::new(String::from_utf8(key.to_vec())?),
        };
        let path = |suffix: &str| folder.join(format!("{role}.{suffix}"));
        files::write(&path("pem"), certificate)?;
        files::write(&path("cer"), Certificate::read(&path("pem"))?.der()?)?;
        files::write_private(&path("key"), text.as_bytes())?;
    }
    Ok(())
}

/// A key as PEM under a passphrase.
fn sealed(key: &[u8], phrase: &str) -> Result<Zeroizing<String>> {
    /// As OWASP asks for in 2023.
    const ROUNDS: u32 = 600_000;
    let (_, document) = SecretDocument::from_pem(std::str::from_utf8(key)?)?;
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|error| anyhow::anyhow!("cannot have random bytes: {error}"))?;
    let (salt, vector) = random.split_at(16);
    let vector = vector.try_into()?;
    let parameters = Parameters::pbkdf2_sha256_aes256cbc(ROUNDS, salt, vector);
    let parameters =
        parameters.map_err(|error| anyhow::anyhow!("cannot encrypt a key: {error}"))?;
    let sealed = PrivateKeyInfo::try_from(document.as_bytes())
        .and_then(|info| info.encrypt_with_params(parameters, phrase))
        .map_err(|error| anyhow::anyhow!("cannot encrypt a key: {error}"))?;
    Ok(sealed.to_pem(ENCRYPTED, LineEnding::LF)?)
}

/// What OpenSSL makes of this, with this configuration and no other: not that of the machine or of whoever calls.
fn openssl(configuration: &Path, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new("openssl");
    // The library reads one, too, before any program of it looks at its arguments.
    command.env("OPENSSL_CONF", configuration);
    command.args(arguments).arg("-config").arg(configuration);
    let line = process::line(&command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {line}"))?;
    // Where it ends before it has read all, what it says tells more than a broken pipe.
    let fed = child.stdin.take().map(|mut pipe| pipe.write_all(input));
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for {line}"))?;
    ensure!(
        output.status.success(),
        "{line} failed\n{}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    fed.transpose()
        .with_context(|| format!("cannot feed {line}"))?;
    Ok(output.stdout)
}

#[cfg(test)]
mod tests;
