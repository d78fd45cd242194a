//! Signatures: ed25519 over the exact bytes of a document, and thresholds of distinct keys.
//!
//! What is signed is `"kedge " kind " v1\n"`, the length of the document (u64 LE), then the
//! document: a signature of one kind of document is none of another. Verification is strict
//! (`verify_strict`): no weak keys, no malleable signatures (RFC 8032; "Taming the many EdDSAs", 2020).
//!
//! A signature set is a document beside the one it signs:
//! `{"spec":"kedge.signatures/1","signatures":{"<key id>":"<128 hex>"}}`, at most 4 KiB.

use crate::error::Error;
use crate::id::{KeyId, hex, parse_hex, serde_as_text};
use crate::json;
use core::fmt;
use core::str::FromStr;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What a signature is about; part of the signed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A trust root.
    Root,
    /// A revision.
    Revision,
    /// A hub's answer.
    Fresh,
    /// Which certificates a hub is to be known by.
    Authority,
    /// A device asks a hub to take it in; signed by the device's own key.
    Enrolment,
}

impl Kind {
    /// The word in the signed bytes and in errors.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Revision => "revision",
            Self::Fresh => "fresh",
            Self::Authority => "authority",
            Self::Enrolment => "enrolment",
        }
    }
}

/// The bytes that are signed for a document: for a key that signs elsewhere, as one in a token does.
#[must_use]
pub fn message(kind: Kind, document: &[u8]) -> Vec<u8> {
    let length = u64::try_from(document.len()).unwrap_or(u64::MAX);
    let mut bytes = Vec::with_capacity(document.len().saturating_add(32));
    bytes.extend_from_slice(b"kedge ");
    bytes.extend_from_slice(kind.word().as_bytes());
    bytes.extend_from_slice(b" v1\n");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(document);
    bytes
}

/// An ed25519 public key, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From the 32 bytes of RFC 8032. Whether they are a usable point is judged by [`PublicKey::check`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key's id: SHA-256 of its bytes.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::from_digest(Sha256::digest(self.0).into())
    }

    /// Refuses what is no point of the curve, and points of small order.
    ///
    /// # Errors
    /// [`Error::BadKey`].
    pub fn check(&self) -> Result<(), Error> {
        self.verifying_key().map(|_| ())
    }

    fn verifying_key(&self) -> Result<VerifyingKey, Error> {
        VerifyingKey::from_bytes(&self.0)
            .ok()
            .filter(|key| !key.is_weak())
            .ok_or_else(|| Error::BadKey {
                key: self.id().to_string(),
            })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut bytes = [0; 32];
        if parse_hex(text, &mut bytes) {
            Ok(Self(bytes))
        } else {
            Err(Error::invalid("public key", "is not 64 hexadecimal digits"))
        }
    }
}
serde_as_text!(
    PublicKey,
    "an ed25519 public key, 64 hexadecimal digits",
    "^[0-9a-f]{64}$"
);

/// The 64 bytes of a signature, written as 128 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignatureBytes([u8; 64]);

impl fmt::Display for SignatureBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for SignatureBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SignatureBytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut bytes = [0; 64];
        if parse_hex(text, &mut bytes) {
            Ok(Self(bytes))
        } else {
            Err(Error::invalid("signature", "is not 128 hexadecimal digits"))
        }
    }
}
serde_as_text!(
    SignatureBytes,
    "a signature, 128 hexadecimal digits",
    "^[0-9a-f]{128}$"
);

/// The signatures of one document, at most one a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SignatureSet {
    spec: String,
    signatures: BTreeMap<KeyId, SignatureBytes>,
}

impl Default for SignatureSet {
    fn default() -> Self {
        Self {
            spec: Self::SPEC.to_owned(),
            signatures: BTreeMap::new(),
        }
    }
}

impl SignatureSet {
    /// Format and version.
    pub const SPEC: &'static str = "kedge.signatures/1";
    /// Largest set, bytes: about twenty signatures.
    pub const CAP: usize = 4096;

    /// Parses a set.
    ///
    /// # Errors
    /// As [`json::parse`], and [`Error::Spec`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let set: Self = json::parse("signatures", Self::CAP, bytes)?;
        if set.spec == Self::SPEC {
            Ok(set)
        } else {
            Err(Error::Spec {
                expected: Self::SPEC,
                found: set.spec,
            })
        }
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`json::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        json::encode("signatures", self)
    }

    /// Adds the signature of `key` over `document`, replacing an older one of the same key.
    pub fn sign(&mut self, kind: Kind, document: &[u8], key: &SigningKey) {
        let public = PublicKey(key.verifying_key().to_bytes());
        let signature = key.sign(&message(kind, document));
        self.signatures
            .insert(public.id(), SignatureBytes(signature.to_bytes()));
    }

    /// Adds a signature that was made elsewhere, if it is one: of `key` over [`message`].
    ///
    /// # Errors
    /// [`Error::BadSignature`], [`Error::BadKey`].
    pub fn insert(
        &mut self,
        kind: Kind,
        document: &[u8],
        key: PublicKey,
        signature: [u8; 64],
    ) -> Result<(), Error> {
        key.verifying_key()?
            .verify_strict(&message(kind, document), &Signature::from_bytes(&signature))
            .map_err(|_| Error::BadSignature { key: key.id() })?;
        self.signatures.insert(key.id(), SignatureBytes(signature));
        Ok(())
    }

    /// The keys that are said to have signed; nothing is verified.
    pub fn keys(&self) -> impl Iterator<Item = KeyId> {
        self.signatures.keys().copied()
    }

    /// Checks that at least `threshold` of `keys` signed `document`.
    ///
    /// Signatures of keys that are not among `keys` are passed over: a document may be signed for
    /// an older and a newer root at once. One that *is* among them and does not verify is an error,
    /// since it can only be damage or an attack.
    ///
    /// # Errors
    /// [`Error::BadSignature`], [`Error::BadKey`], [`Error::Threshold`].
    pub fn verify(
        &self,
        kind: Kind,
        document: &[u8],
        role: &'static str,
        keys: &[(KeyId, PublicKey)],
        threshold: u32,
    ) -> Result<(), Error> {
        let message = message(kind, document);
        let mut valid = 0_u32;
        for (id, signature) in &self.signatures {
            let Some((_, key)) = keys.iter().find(|(known, _)| known == id) else {
                continue;
            };
            key.verifying_key()?
                .verify_strict(&message, &Signature::from_bytes(&signature.0))
                .map_err(|_| Error::BadSignature { key: *id })?;
            valid = valid.saturating_add(1);
            if valid >= threshold && threshold > 0 {
                return Ok(());
            }
        }
        Err(Error::Threshold {
            role,
            valid,
            threshold,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> (SigningKey, (KeyId, PublicKey)) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = PublicKey(key.verifying_key().to_bytes());
        (key, (public.id(), public))
    }

    #[test]
    fn a_threshold_needs_distinct_known_keys() {
        let (a, a_public) = key(1);
        let (b, b_public) = key(2);
        let (stranger, _) = key(3);
        let keys = [a_public, b_public];
        let mut set = SignatureSet::default();
        set.sign(Kind::Revision, b"text", &a);
        set.sign(Kind::Revision, b"text", &a);
        set.sign(Kind::Revision, b"text", &stranger);
        assert!(matches!(
            set.verify(Kind::Revision, b"text", "release", &keys, 2),
            Err(Error::Threshold { valid: 1, .. })
        ));
        set.sign(Kind::Revision, b"text", &b);
        set.verify(Kind::Revision, b"text", "release", &keys, 2)
            .unwrap();
        let again = SignatureSet::parse(&set.encode().unwrap()).unwrap();
        again
            .verify(Kind::Revision, b"text", "release", &keys, 2)
            .unwrap();
    }

    #[test]
    fn a_signature_is_of_one_kind_and_one_text() {
        let (a, a_public) = key(1);
        let mut set = SignatureSet::default();
        set.sign(Kind::Revision, b"text", &a);
        for (kind, text) in [
            (Kind::Root, &b"text"[..]),
            (Kind::Fresh, b"text"),
            (Kind::Revision, b"texu"),
            (Kind::Revision, b"text "),
        ] {
            assert!(matches!(
                set.verify(kind, text, "release", &[a_public], 1),
                Err(Error::BadSignature { .. })
            ));
        }
    }

    #[test]
    fn a_signature_that_was_made_elsewhere_is_verified_first() {
        let (a, (id, public)) = key(1);
        let (b, _) = key(2);
        let mut set = SignatureSet::default();
        for (signer, kind) in [(&b, Kind::Revision), (&a, Kind::Root)] {
            let signature = signer.sign(&message(kind, b"text")).to_bytes();
            let refused = set.insert(Kind::Revision, b"text", public, signature);
            assert!(matches!(refused, Err(Error::BadSignature { key }) if key == id));
        }
        assert_eq!(set.keys().count(), 0);
        let signature = a.sign(&message(Kind::Revision, b"text")).to_bytes();
        set.insert(Kind::Revision, b"text", public, signature)
            .unwrap();
        let mut plain = SignatureSet::default();
        plain.sign(Kind::Revision, b"text", &a);
        assert_eq!(set, plain);
    }

    #[test]
    fn a_threshold_of_zero_never_passes() {
        assert!(
            SignatureSet::default()
                .verify(Kind::Revision, b"", "release", &[], 0)
                .is_err()
        );
    }

    #[test]
    fn weak_keys_are_refused() {
        // The point of order one verifies any message under a lax check.
        let mut one = [0; 32];
        one[0] = 1;
        assert!(PublicKey::from_bytes(one).check().is_err());
        // 2 is the y of no point of the curve.
        let mut two = [0; 32];
        two[0] = 2;
        assert!(PublicKey::from_bytes(two).check().is_err());
    }
}
