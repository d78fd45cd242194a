//! How a device becomes one of a hub's: what it was provisioned with, and its request to be taken in.
//!
//! The provisioning, `device/provision.json` on the data partition, or given by QEMU (`fw_cfg`, `opt/kedge/provision`),
//! written by a person's tool and used once:
//! ```json
//! {"spec":"kedge.provision/1","hubs":["https://hub.example:8443"],"token":"…","parameters":{"site-ip":"dhcp"}}
//! ```
//! The request, signed by the device's own key, so that nobody asks with a key that is not theirs:
//! ```json
//! {"spec":"kedge.enrolment/1","key":"<64 hex>","product":"gateway","board":"qemu-x86-64","root":1,"nonce":"<64 hex>","token":"…"}
//! ```
//! Without a token the hub keeps the request until an operator types the claim code that the device shows.

use crate::error::Error;
use crate::fresh::Nonce;
use crate::id::Name;
use crate::json;
use crate::signing::{Kind, PublicKey, SignatureSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest join token, bytes.
pub const MAX_TOKEN: usize = 128;

/// What a device is given before it is ever online.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Provision {
    spec: String,
    /// Addresses of hubs, `https://…`, before those that the revision names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hubs: Vec<String>,
    /// A join token; without one the device waits for its claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Values of parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<Name, String>,
}

impl Provision {
    /// Format and version.
    pub const SPEC: &'static str = "kedge.provision/1";
    /// Largest document, bytes.
    pub const CAP: usize = 64 * 1024;

    /// A provisioning of these.
    #[must_use]
    pub fn new(
        hubs: Vec<String>,
        token: Option<String>,
        parameters: BTreeMap<Name, String>,
    ) -> Self {
        Self {
            spec: Self::SPEC.to_owned(),
            hubs,
            token,
            parameters,
        }
    }

    /// Parses a provisioning. It is written by hand too, so its form need not be canonical.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Json`], [`Error::Spec`], [`Error::Invalid`] for an address or token that is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > Self::CAP {
            return Err(Error::TooLarge {
                kind: "provision",
                size: bytes.len(),
                cap: Self::CAP,
            });
        }
        let provision: Self = crate::json::read(bytes).map_err(|source| Error::Json {
            kind: "provision",
            source,
        })?;
        if provision.spec != Self::SPEC {
            return Err(Error::Spec {
                expected: Self::SPEC,
                found: provision.spec,
            });
        }
        crate::configuration::check_hubs(&provision.hubs, "hubs")?;
        check_token(provision.token.as_deref())?;
        Ok(provision)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`json::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        json::encode("provision", self)
    }
}

/// A device's request to be taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Enrolment {
    spec: String,
    /// The device's own key; its id is the device's.
    pub key: PublicKey,
    /// The product that it is.
    pub product: Name,
    /// The board that it is.
    pub board: Name,
    /// The version of its newest root.
    pub root: u32,
    /// Fresh for each request: one that was overheard is another's to no use, and a hub tells a repeat.
    pub nonce: Nonce,
    /// The join token that it was provisioned with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Enrolment {
    /// Format and version.
    pub const SPEC: &'static str = "kedge.enrolment/1";
    /// Largest document, bytes.
    pub const CAP: usize = 2048;

    /// A request.
    #[must_use]
    pub fn new(
        key: PublicKey,
        (product, board): (Name, Name),
        root: u32,
        nonce: Nonce,
        token: Option<String>,
    ) -> Self {
        Self {
            spec: Self::SPEC.to_owned(),
            key,
            product,
            board,
            root,
            nonce,
            token,
        }
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`json::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        json::encode("enrolment", self)
    }

    /// Parses a request and checks that the key in it signed it.
    ///
    /// # Errors
    /// As [`json::parse`] and [`SignatureSet::verify`]; [`Error::Spec`]; [`Error::BadKey`]; [`Error::Invalid`].
    pub fn verify(bytes: &[u8], signatures: &SignatureSet) -> Result<Self, Error> {
        let request: Self = json::parse("enrolment", Self::CAP, bytes)?;
        if request.spec != Self::SPEC {
            return Err(Error::Spec {
                expected: Self::SPEC,
                found: request.spec,
            });
        }
        request.key.check()?;
        check_token(request.token.as_deref())?;
        let keys = [(request.key.id(), request.key)];
        signatures.verify(Kind::Enrolment, bytes, "device", &keys, 1)?;
        Ok(request)
    }
}

fn check_token(token: Option<&str>) -> Result<(), Error> {
    let good = token.is_none_or(|token| {
        (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
    });
    if good {
        Ok(())
    } else {
        // Never with the value: it is a secret.
        Err(Error::invalid(
            "token",
            "is not 1 to 128 printable characters without spaces",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn request(key: &SigningKey) -> Enrolment {
        let names = ("gateway".parse().unwrap(), "qemu-x86-64".parse().unwrap());
        let public = PublicKey::from_bytes(key.verifying_key().to_bytes());
        let nonce = Nonce::from_bytes([5; 32]);
        Enrolment::new(public, names, 1, nonce, Some("join-me".to_owned()))
    }

    #[test]
    fn a_request_is_its_own_keys() {
        let (own, other) = (
            SigningKey::from_bytes(&[1; 32]),
            SigningKey::from_bytes(&[2; 32]),
        );
        let bytes = request(&own).encode().unwrap();
        let mut signatures = SignatureSet::default();
        signatures.sign(Kind::Enrolment, &bytes, &own);
        let verified = Enrolment::verify(&bytes, &signatures).unwrap();
        assert_eq!(verified, request(&own));
        let mut foreign = SignatureSet::default();
        foreign.sign(Kind::Enrolment, &bytes, &other);
        assert!(matches!(
            Enrolment::verify(&bytes, &foreign),
            Err(Error::Threshold { .. })
        ));
        let stolen = request(&other).encode().unwrap();
        Enrolment::verify(&stolen, &signatures).unwrap_err();
    }

    #[test]
    fn a_provisioning_is_checked_and_its_errors_keep_the_token() {
        let good =
            r#"{ "spec": "kedge.provision/1", "hubs": ["https://hub:8443"], "token": "abc" }"#;
        let parsed = Provision::parse(good.as_bytes()).unwrap();
        assert_eq!(Provision::parse(&parsed.encode().unwrap()).unwrap(), parsed);
        for bad in [
            good.replace("https://hub:8443", "http://hub"),
            good.replace("\"abc\"", "\"a bc\""),
            good.replace("\"abc\"", "\"\""),
            good.replace("provision/1", "provision/2"),
            good.replace("token", "tokens"),
        ] {
            let error = Provision::parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("a bc"), "{error}");
        }
    }
}
