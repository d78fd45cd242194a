//! Which certificates a hub is to be known by: what ties its TLS to the trust root.
//!
//! ```json
//! {"spec":"kedge.authority/1","certificates":["<hex of DER>"]}
//! ```
//! A device has no certificate authority built in. It asks its hub for this document before it judges any
//! certificate, and believes it because the hub's online key signed it, which the trust root names. From then on
//! only a server whose certificate one of these issued is the hub. Two are listed while one replaces the other.

use crate::error::Error;
use crate::id::{hex, parse_hex};
use crate::json;
use crate::root::Root;
use crate::signing::{Kind, SignatureSet};
use serde::{Deserialize, Serialize};

/// The document, its certificates not yet parsed: that is TLS's work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Authority {
    spec: String,
    certificates: Vec<String>,
}

impl Authority {
    /// Format and version.
    pub const SPEC: &'static str = "kedge.authority/1";
    /// Largest document, bytes.
    pub const CAP: usize = 16 * 1024;
    /// Most certificates.
    pub const MOST: usize = 4;

    /// Of certificates in DER (X.690), the current one first.
    #[must_use]
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self {
            spec: Self::SPEC.to_owned(),
            certificates: certificates.into_iter().map(hex).collect(),
        }
    }

    /// The certificates in DER, none of them judged.
    #[must_use]
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        self.certificates
            .iter()
            .filter_map(|text| bytes(text))
            .collect()
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`json::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        json::encode("authority", self)
    }

    /// Judges a document: signed by the hub's keys under `root`.
    ///
    /// # Errors
    /// As [`SignatureSet::verify`] and [`json::parse`]; [`Error::Spec`]; [`Error::Invalid`] without a certificate,
    /// with too many, and for one that is no hexadecimal text.
    pub fn verify(bytes: &[u8], signatures: &SignatureSet, root: &Root) -> Result<Self, Error> {
        if bytes.len() > Self::CAP {
            return Err(Error::TooLarge {
                kind: "authority",
                size: bytes.len(),
                cap: Self::CAP,
            });
        }
        root.verify_hub_as(Kind::Authority, bytes, signatures)?;
        let authority: Self = json::parse("authority", Self::CAP, bytes)?;
        if authority.spec != Self::SPEC {
            return Err(Error::Spec {
                expected: Self::SPEC,
                found: authority.spec,
            });
        }
        let count = authority.certificates.len();
        if count == 0 || count > Self::MOST || authority.certificates().len() != count {
            return Err(Error::invalid(
                "certificates",
                "are not 1 to 4 hexadecimal texts",
            ));
        }
        Ok(authority)
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; text.len() / 2];
    (!bytes.is_empty() && parse_hex(text, &mut bytes)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::Mode;
    use crate::root::{Role, Roles};
    use crate::signing::PublicKey;
    use ed25519_dalek::SigningKey;

    fn root(hub: &SigningKey) -> Root {
        let key = PublicKey::from_bytes(hub.verifying_key().to_bytes());
        let role = Role {
            keys: vec![key.id()],
            threshold: 1,
        };
        let roles = Roles {
            root: role.clone(),
            release: role.clone(),
            hub: role,
        };
        Root::new(1, Mode::Development, &[key], roles).unwrap()
    }

    #[test]
    fn only_what_the_hubs_key_signed_as_this_kind_is_believed() {
        let hub = SigningKey::from_bytes(&[1; 32]);
        let root = root(&hub);
        let document = Authority::new([&b"\x30\x03"[..], b"\x30\x04"])
            .encode()
            .unwrap();
        let mut signatures = SignatureSet::default();
        signatures.sign(Kind::Authority, &document, &hub);
        let authority = Authority::verify(&document, &signatures, &root).unwrap();
        assert_eq!(authority.certificates(), [[0x30, 3], [0x30, 4]]);

        let mut other_kind = SignatureSet::default();
        other_kind.sign(Kind::Fresh, &document, &hub);
        Authority::verify(&document, &other_kind, &root).unwrap_err();
        let mut stranger = SignatureSet::default();
        stranger.sign(
            Kind::Authority,
            &document,
            &SigningKey::from_bytes(&[2; 32]),
        );
        Authority::verify(&document, &stranger, &root).unwrap_err();
    }

    #[test]
    fn an_authority_without_a_certificate_is_none() {
        let hub = SigningKey::from_bytes(&[1; 32]);
        let root = root(&hub);
        for certificates in [
            "",
            "\"\"",
            "\"3\"",
            "\"zz\"",
            "\"00\",\"00\",\"00\",\"00\",\"00\"",
        ] {
            let document =
                format!(r#"{{"spec":"kedge.authority/1","certificates":[{certificates}]}}"#);
            let mut signatures = SignatureSet::default();
            signatures.sign(Kind::Authority, document.as_bytes(), &hub);
            let judged = Authority::verify(document.as_bytes(), &signatures, &root);
            assert!(
                matches!(judged, Err(Error::Invalid { .. })),
                "{certificates}"
            );
        }
    }
}
