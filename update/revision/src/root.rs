//! The trust root: which keys may sign what, and how it is replaced.
//!
//! ```json
//! {"spec":"kedge.root/1","version":1,"mode":"development",
//!  "keys":{"<key id>":"<public key>"},
//!  "roles":{"root":{"keys":["<key id>"],"threshold":1},"release":{…},"hub":{…}}}
//! ```
//! (shown on several lines; the canonical form is compact). A new root is signed by the threshold
//! of the old root's root keys *and* of its own, and its version is the old one plus one
//! (The Update Framework, specification §5.3).

use crate::error::Error;
use crate::id::KeyId;
use crate::json;
use crate::product::Mode;
use crate::signing::{Kind, PublicKey, SignatureSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Keys of one role and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Role {
    /// Ids of the role's keys, sorted, each listed under [`Root::keys`].
    pub keys: Vec<KeyId>,
    /// How many distinct keys must sign, from 1 to the number of keys.
    pub threshold: u32,
}

/// The three roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Roles {
    /// May replace the root; offline.
    pub root: Role,
    /// May sign revisions; offline.
    pub release: Role,
    /// May say which of the signed revisions to run, and what time it is; online. May be without keys: then no hub is trusted.
    pub hub: Role,
}

/// A trust root whose contents are consistent. Whether it is *trusted* is for [`Root::replace`] or for whoever built it into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Root {
    spec: String,
    /// Counts up by one with each replacement; the first is 1.
    pub version: u32,
    /// A development root is refused by a production hub.
    pub mode: Mode,
    /// Every key by its id.
    pub keys: BTreeMap<KeyId, PublicKey>,
    /// Who may do what.
    pub roles: Roles,
}

impl Root {
    /// Format and version.
    pub const SPEC: &'static str = "kedge.root/1";
    /// Largest document, bytes.
    pub const CAP: usize = 16 * 1024;
    /// Most keys of a root.
    pub const MAX_KEYS: usize = 64;

    /// A root of these keys.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::BadKey`] as for a parsed one.
    pub fn new(version: u32, mode: Mode, keys: &[PublicKey], roles: Roles) -> Result<Self, Error> {
        let root = Self {
            spec: Self::SPEC.to_owned(),
            version,
            mode,
            keys: keys.iter().map(|key| (key.id(), *key)).collect(),
            roles,
        };
        root.check()?;
        Ok(root)
    }

    /// Parses a root and checks that it is consistent.
    ///
    /// # Errors
    /// As [`json::parse`]; [`Error::Spec`], [`Error::Invalid`], [`Error::BadKey`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let root: Self = json::parse("root", Self::CAP, bytes)?;
        if root.spec != Self::SPEC {
            return Err(Error::Spec {
                expected: Self::SPEC,
                found: root.spec,
            });
        }
        root.check()?;
        Ok(root)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`json::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        json::encode("root", self)
    }

    fn check(&self) -> Result<(), Error> {
        if self.version == 0 {
            return Err(Error::invalid("version", "begins at 1"));
        }
        if self.keys.len() > Self::MAX_KEYS {
            return Err(Error::invalid("keys", "are more than 64"));
        }
        for (id, key) in &self.keys {
            if key.id() != *id {
                return Err(Error::BadKey {
                    key: id.to_string(),
                });
            }
        }
        self.check_role("roles.root", &self.roles.root)?;
        self.check_role("roles.release", &self.roles.release)?;
        if self.roles.hub.keys.is_empty() && self.roles.hub.threshold == 0 {
            return Ok(());
        }
        self.check_role("roles.hub", &self.roles.hub)
    }

    fn check_role(&self, field: &str, role: &Role) -> Result<(), Error> {
        let keys = u32::try_from(role.keys.len()).unwrap_or(u32::MAX);
        if role.threshold == 0 || role.threshold > keys {
            return Err(Error::invalid(
                format!("{field}.threshold"),
                "is not between 1 and the number of keys",
            ));
        }
        if !role.keys.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid(
                format!("{field}.keys"),
                "are not sorted, or one stands twice",
            ));
        }
        if role.keys.iter().all(|id| self.keys.contains_key(id)) {
            Ok(())
        } else {
            Err(Error::invalid(
                format!("{field}.keys"),
                "name a key that keys does not list",
            ))
        }
    }

    /// Checks that a role of this root signed a document.
    fn verify(
        &self,
        kind: Kind,
        role: &Role,
        word: &'static str,
        document: &[u8],
        signatures: &SignatureSet,
    ) -> Result<(), Error> {
        let keys: Vec<_> = role
            .keys
            .iter()
            .filter_map(|id| self.keys.get(id).map(|key| (*id, *key)))
            .collect();
        signatures.verify(kind, document, word, &keys, role.threshold)
    }

    /// Checks that the release keys signed a revision's bytes.
    ///
    /// # Errors
    /// As [`SignatureSet::verify`].
    pub fn verify_release(&self, document: &[u8], signatures: &SignatureSet) -> Result<(), Error> {
        let role = &self.roles.release;
        self.verify(Kind::Revision, role, "release", document, signatures)
    }

    /// Checks that the hub's keys signed an answer's bytes.
    ///
    /// # Errors
    /// As [`SignatureSet::verify`]; a root without hub keys trusts no answer.
    pub fn verify_hub(&self, document: &[u8], signatures: &SignatureSet) -> Result<(), Error> {
        self.verify_hub_as(Kind::Fresh, document, signatures)
    }

    /// As [`Root::verify_hub`], for another kind of document.
    pub(crate) fn verify_hub_as(
        &self,
        kind: Kind,
        document: &[u8],
        signatures: &SignatureSet,
    ) -> Result<(), Error> {
        self.verify(kind, &self.roles.hub, "hub", document, signatures)
    }

    /// The root that follows this one, if `document` is it.
    ///
    /// # Errors
    /// As [`Root::parse`] and [`SignatureSet::verify`]; [`Error::RootVersion`];
    /// [`Error::Invalid`] if a production root would become a development one.
    pub fn replace(&self, document: &[u8], signatures: &SignatureSet) -> Result<Self, Error> {
        if document.len() > Self::CAP {
            return Err(Error::TooLarge {
                kind: "root",
                size: document.len(),
                cap: Self::CAP,
            });
        }
        let role = &self.roles.root;
        self.verify(Kind::Root, role, "root", document, signatures)?;
        let next = Self::parse(document)?;
        if Some(next.version) != self.version.checked_add(1) {
            return Err(Error::RootVersion {
                expected: self.version.saturating_add(1),
                found: next.version,
            });
        }
        if self.mode == Mode::Production && next.mode == Mode::Development {
            return Err(Error::invalid("mode", "of a production root stays so"));
        }
        next.verify(Kind::Root, &next.roles.root, "root", document, signatures)?;
        Ok(next)
    }

    /// Checks that a root was signed by its own root keys, as the first one of an image is.
    ///
    /// # Errors
    /// As [`SignatureSet::verify`].
    pub fn verify_self(&self, document: &[u8], signatures: &SignatureSet) -> Result<(), Error> {
        let role = &self.roles.root;
        self.verify(Kind::Root, role, "root", document, signatures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn public(key: &SigningKey) -> PublicKey {
        PublicKey::from_bytes(key.verifying_key().to_bytes())
    }

    fn role(keys: &[&SigningKey], threshold: u32) -> Role {
        let mut keys: Vec<_> = keys.iter().map(|key| public(key).id()).collect();
        keys.sort();
        Role { keys, threshold }
    }

    fn root(version: u32, keys: &[&SigningKey], threshold: u32) -> Root {
        let publics: Vec<_> = keys.iter().map(|key| public(key)).collect();
        let roles = Roles {
            root: role(keys, threshold),
            release: role(keys, threshold),
            hub: Role {
                keys: vec![],
                threshold: 0,
            },
        };
        Root::new(version, Mode::Production, &publics, roles).unwrap()
    }

    fn signed(root: &Root, keys: &[&SigningKey]) -> (Vec<u8>, SignatureSet) {
        let bytes = root.encode().unwrap();
        let mut set = SignatureSet::default();
        for key in keys {
            set.sign(Kind::Root, &bytes, key);
        }
        (bytes, set)
    }

    #[test]
    fn rotation_needs_old_and_new_keys() {
        let (a, b) = (
            SigningKey::from_bytes(&[1; 32]),
            SigningKey::from_bytes(&[2; 32]),
        );
        let old = root(1, &[&a], 1);
        let new = root(2, &[&b], 1);
        let (bytes, set) = signed(&new, &[&a, &b]);
        assert_eq!(old.replace(&bytes, &set).unwrap(), new);
        for only in [&a, &b] {
            let (bytes, set) = signed(&new, &[only]);
            assert!(matches!(
                old.replace(&bytes, &set),
                Err(Error::Threshold { .. })
            ));
        }
    }

    #[test]
    fn versions_follow_one_by_one() {
        let a = SigningKey::from_bytes(&[1; 32]);
        let old = root(2, &[&a], 1);
        for version in [1, 2, 4] {
            let (bytes, set) = signed(&root(version, &[&a], 1), &[&a]);
            assert!(matches!(
                old.replace(&bytes, &set),
                Err(Error::RootVersion { expected: 3, .. })
            ));
        }
    }

    #[test]
    fn losing_one_of_three_keys_still_rotates() {
        let keys = [1, 2, 3].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        let [a, b, lost] = &keys;
        let old = root(1, &[a, b, lost], 2);
        let fresh = SigningKey::from_bytes(&[4; 32]);
        let (bytes, set) = signed(&root(2, &[a, b, &fresh], 2), &[a, b]);
        assert_eq!(old.replace(&bytes, &set).unwrap().version, 2);
    }

    #[test]
    fn thresholds_and_key_lists_are_checked() {
        let a = SigningKey::from_bytes(&[1; 32]);
        let good = root(1, &[&a], 1);
        let mut none = good.clone();
        none.roles.release.threshold = 0;
        let mut many = good.clone();
        many.roles.release.threshold = 2;
        let mut unknown = good.clone();
        unknown.keys.clear();
        let mut twice = good.clone();
        twice.roles.root.keys = vec![public(&a).id(), public(&a).id()];
        twice.roles.root.threshold = 2;
        for bad in [none, many, unknown, twice] {
            let bytes = bad.encode().unwrap();
            assert!(
                matches!(Root::parse(&bytes), Err(Error::Invalid { .. })),
                "{bad:?}"
            );
        }
    }
}
