//! Who the hub is: its online key, its certificate authority, and the certificates that this issues.
//!
//! ```text
//! keys/hub.key         seed of the ed25519 key that signs fresh answers and the authority
//! keys/authority.key   key of the authority, ed25519, PKCS #8
//! keys/authority.der   its certificate
//! ```
//! All are for their owner's eyes alone and are made at the first start. The server's certificate is not kept: it is made
//! anew at each start and while the hub runs, since devices know the authority and not the certificate. All of it is ed25519:
//! a device has that curve for its revisions, and another one would be a tenth of its binary.

use crate::certificate::Certificate;
use crate::error::Error;
use crate::{clock, random};
use ed25519_dalek::SigningKey;
use kedge_revision::id::hex;
use kedge_revision::signing::Kind;
use kedge_revision::{PublicKey, SignatureSet, Timestamp};
use kedge_store::durable;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SerialNumber,
    SignatureAlgorithm, date_time_ymd,
};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;

const DAY: u64 = 86_400;
/// A clock that went back a little must not make a certificate that was just issued one of the future.
const BACKDATED: u64 = DAY;
/// The authority outlives devices; two may be listed while one replaces the other.
const AUTHORITY_LASTS: u64 = 30 * 365 * DAY;
/// Devices renew at half of it; one that was away longer renews with the expired one.
const DEVICE_LASTS: u64 = 90 * DAY;
/// Made anew long before: see [`SERVER_RENEWED`].
const SERVER_LASTS: u64 = 90 * DAY;
/// How often a running hub makes itself a new certificate.
const SERVER_RENEWED: u64 = 30 * DAY;

/// Whether the hub's own certificate, made at the time `made`, should be made anew at `now`: it is old, or the clock was put
/// back behind the day from which it holds.
pub(crate) const fn server_is_due(made: u64, now: u64) -> bool {
    now.saturating_add(BACKDATED) < made || now.saturating_sub(made) >= SERVER_RENEWED
}

/// The hub's keys.
pub(crate) struct Identity {
    key: SigningKey,
    issuer: Issuer<'static, KeyPair>,
    authority: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.public()).finish()
    }
}

/// A certificate for a device.
pub(crate) struct Issued {
    pub(crate) der: Vec<u8>,
    pub(crate) renew_after: Timestamp,
}

/// A certificate with its key, for the hub's own side of TLS.
pub(crate) struct ServerCertificate {
    pub(crate) der: Vec<u8>,
    /// PKCS #8.
    pub(crate) key: Vec<u8>,
}

impl Identity {
    /// The keys in `data`, which are made if there are none.
    pub(crate) fn open(data: &Path) -> Result<Self, Error> {
        let directory = data.join("keys");
        durable::make_directory(&directory)?;
        durable::sweep(&directory)?;
        let path = directory.join("hub.key");
        let seed = kept(&path, || random::bytes::<32>().map(|seed| seed.to_vec()))?;
        let seed = seed.try_into().map_err(|_| Error::Spoilt {
            path,
            why: "does not hold the 32 bytes of a key",
        })?;
        let key = SigningKey::from_bytes(&seed);
        let path = directory.join("authority.key");
        let pair = kept(&path, || Ok(new_key()?.serialize_der()))?;
        let pair = KeyPair::try_from(pair).map_err(Error::Certificate)?;
        if pair.algorithm() != &PKCS_ED25519 {
            return Err(Error::Spoilt {
                path,
                why: "is not a key for ed25519, and devices take no other since hubs make such: move it and authority.der \
                      away, and the hub makes new ones, which devices learn and enrol with",
            });
        }
        let params = authority(&PublicKey::from_bytes(key.verifying_key().to_bytes()));
        let certificate = kept(&directory.join("authority.der"), || {
            let made = params.self_signed(&pair).map_err(Error::Certificate)?;
            Ok(made.der().to_vec())
        })?;
        let own = Certificate::read(&certificate).and_then(|read| read.key);
        if own.is_none_or(|key| key.bytes() != pair.der_bytes()) {
            return Err(Error::Spoilt {
                path: directory.join("authority.der"),
                why: "is not the certificate of authority.key beside it: bring both from a backup, or move both away, and the hub \
                      makes new ones, which devices learn and enrol with",
            });
        }
        Ok(Self {
            key,
            issuer: Issuer::new(params, pair),
            authority: certificate,
        })
    }

    /// The online key.
    pub(crate) fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.key.verifying_key().to_bytes())
    }

    /// The authority's certificate, DER.
    pub(crate) fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// What people compare it by: the certificate's SHA-256.
    pub(crate) fn fingerprint(&self) -> String {
        hex(&Sha256::digest(&self.authority))
    }

    /// Signs a document with the online key.
    pub(crate) fn sign(&self, kind: Kind, document: &[u8]) -> SignatureSet {
        let mut signatures = SignatureSet::default();
        signatures.sign(kind, document, &self.key);
        signatures
    }

    /// A certificate for a device's key.
    pub(crate) fn issue(&self, key: &PublicKey) -> Result<Issued, Error> {
        let now = clock::unix();
        let mut params = params(&key.id().to_string(), now, DEVICE_LASTS)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let made = params
            .signed_by(&DeviceKey(key), &self.issuer)
            .map_err(Error::Certificate)?;
        Ok(Issued {
            der: made.der().to_vec(),
            renew_after: Timestamp::from_unix(now + DEVICE_LASTS / 2),
        })
    }

    /// A certificate for the hub under these names and addresses, with a new key.
    pub(crate) fn server(&self, names: &[String]) -> Result<ServerCertificate, Error> {
        let name = names.first().map_or("kedge-hub", String::as_str);
        let mut params = params(name, clock::unix(), SERVER_LASTS)?;
        params.subject_alt_names = CertificateParams::new(names)
            .map_err(Error::Certificate)?
            .subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = new_key()?;
        let made = params
            .signed_by(&key, &self.issuer)
            .map_err(Error::Certificate)?;
        Ok(ServerCertificate {
            der: made.der().to_vec(),
            key: key.serialize_der(),
        })
    }
}

/// A key that only the device has the secret half of.
struct DeviceKey<'a>(&'a PublicKey);

impl PublicKeyData for DeviceKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ED25519).map_err(Error::Certificate)
}

/// What the authority's certificate says. Made anew at each start: certificates that it issues repeat its name.
fn authority(key: &PublicKey) -> CertificateParams {
    let mut params = CertificateParams::default();
    let id = key.id().to_string();
    let name = format!("Kedge hub {}", id.get(..16).unwrap_or_default());
    params.distinguished_name = named(&name);
    hold(&mut params, clock::unix(), AUTHORITY_LASTS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn params(name: &str, now: u64, lasts: u64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    hold(&mut params, now, lasts);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from(random::bytes::<16>()?.to_vec()));
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// From a little before `now` until `lasts` seconds after it.
fn hold(params: &mut CertificateParams, now: u64, lasts: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(BACKDATED));
    params.not_after = epoch + Duration::from_secs(now.saturating_add(lasts));
}

/// Reads a file; one that is not there is made first.
fn kept(path: &Path, make: impl FnOnce() -> Result<Vec<u8>, Error>) -> Result<Vec<u8>, Error> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let bytes = make()?;
            durable::write(path, &bytes)?;
            Ok(bytes)
        }
        other => other.map_err(Error::file("read", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_hubs_certificate_is_made_anew_when_it_is_old_or_of_another_time() {
        let made = 1_800_000_000;
        assert!(!server_is_due(made, made));
        assert!(!server_is_due(made, made - BACKDATED));
        assert!(server_is_due(made, made - BACKDATED - 1));
        assert!(!server_is_due(made, made + SERVER_RENEWED - 1));
        assert!(server_is_due(made, made + SERVER_RENEWED));
    }

    #[test]
    fn keys_stay_and_are_their_owners_alone() {
        let data = tempfile::tempdir().unwrap();
        let first = Identity::open(data.path()).unwrap();
        let again = Identity::open(data.path()).unwrap();
        assert_eq!(first.public(), again.public());
        assert_eq!(first.authority(), again.authority());
        for name in ["hub.key", "authority.key", "authority.der"] {
            let path = data.path().join("keys").join(name);
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn an_authority_that_devices_cannot_judge_is_told() {
        let data = tempfile::tempdir().unwrap();
        Identity::open(data.path()).unwrap();
        let path = data.path().join("keys/authority.key");
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        durable::write(&path, &other.serialize_der()).unwrap();
        let refused = Identity::open(data.path()).unwrap_err().to_string();
        assert!(
            refused.contains("authority.key is not a key for ed25519"),
            "{refused}"
        );
        // Only one of the two was moved away.
        std::fs::remove_file(&path).unwrap();
        let refused = Identity::open(data.path()).unwrap_err().to_string();
        assert!(
            refused.contains("authority.der is not the certificate of authority.key"),
            "{refused}"
        );
    }

    #[test]
    fn a_key_that_is_torn_is_not_replaced() {
        let data = tempfile::tempdir().unwrap();
        Identity::open(data.path()).unwrap();
        let path = data.path().join("keys/hub.key");
        durable::write(&path, b"short").unwrap();
        assert!(matches!(
            Identity::open(data.path()),
            Err(Error::Spoilt { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }
}
