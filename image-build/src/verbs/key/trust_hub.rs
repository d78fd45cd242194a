//! `kedge key trust-hub`: the project's next trust root, which names a hub's key.

use super::super::{PassphraseArguments, Scene};
use super::next_root;
use crate::hub::{Address, Settings};
use crate::project::Project;
use crate::project::template::list;
use crate::{files, project};
use anyhow::{Context, Result};
use clap::Args;
use kedge_revision::{KeyId, PublicKey, Root};
use serde::Serialize;
use std::path::PathBuf;

/// Let a hub speak for this project's devices: which revision each should run, with which parameters, at what time it is.
///
/// Makes the next trust root, signed by the project's root keys, with the hub's key as `kedge login` pinned it, and puts the
/// hub's address into kedge.toml. A hub can never make a revision: release keys sign those. Devices learn of a new root with
/// the next revision.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge login https://hub.example:8443
  kedge key trust-hub
  kedge key trust-hub --instead --key /media/stick/root.toml   # the former hub's key is no good any more")]
pub(super) struct TrustHub {
    /// The hub, by its address or host; the default one of `kedge login` if absent.
    hub: Option<String>,
    /// The hub's address as devices reach it, where it is not the operator's.
    #[arg(long, value_name = "URL")]
    device_hub: Option<Address>,
    /// Trust this hub instead of those that were trusted: their keys and addresses go.
    #[arg(long)]
    instead: bool,
    /// A root key that is kept elsewhere, or in a token; may be given again. Those in keys/ are used by themselves.
    #[arg(long, value_name = "FILE|URI")]
    key: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArguments,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Trusted {
    hub: String,
    key: KeyId,
    root: u32,
    changed: bool,
    hubs: Vec<String>,
}

impl TrustHub {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let project = scene.project()?;
        let settings = Settings::open()?;
        let known = settings.hub(self.hub.as_deref())?;
        let device = self.device_hub.as_ref().map(Address::to_string);
        let address = device.unwrap_or_else(|| known.url.clone());
        let old = project.trust_root()?.root;
        let next = with_hub(&old, known.key, self.instead)?;
        // Before there is a root: a second run would find one that trusts the hub, and a kedge.toml that does not name it.
        let (hubs, text) = self.name_hub(&project, &address)?;
        if let Some(next) = &next {
            let signers = next_root::signers(
                &project,
                (&old, next),
                &self.key,
                &self.passphrase.source()?,
            )?;
            next_root::write(&project, &old, next, &signers)?;
        }
        if let Some(text) = text {
            files::write(&project.folder().join(project::MANIFEST), text)?;
        }
        let trusted = Trusted {
            key: known.key.id(),
            root: next.as_ref().unwrap_or(&old).version,
            changed: next.is_some(),
            hub: address,
            hubs,
        };
        let what = if trusted.changed {
            format!("Made root {}, which trusts", trusted.root)
        } else {
            format!("Root {} trusts already", trusted.root)
        };
        let text = format!(
            "{what} the hub's key {}.\nDevices ask {}.\nNext:\n  kedge build      # an image whose devices know the hub\n  kedge publish    # a revision, with the new root, for devices that ask it already",
            trusted.key,
            trusted.hubs.join(", ")
        );
        scene.output.result(text, &trusted)
    }

    /// All addresses of `kedge.toml` with this one, and its text with them, if it must change.
    fn name_hub(&self, project: &Project, address: &str) -> Result<(Vec<String>, Option<String>)> {
        let before = &project.manifest().configuration.hubs;
        let mut hubs = if self.instead {
            Vec::new()
        } else {
            before.clone()
        };
        if !hubs.iter().any(|hub| hub == address) {
            hubs.push(address.to_owned());
        }
        if hubs == *before {
            return Ok((hubs, None));
        }
        let keys = ["configuration", "hubs"];
        let text = project.source().with_value(&keys, &list(&hubs))?;
        Ok((hubs, Some(text)))
    }
}

/// The root after this one, in which the hub's key may speak for hubs; none if it may already.
fn with_hub(old: &Root, key: PublicKey, instead: bool) -> Result<Option<Root>> {
    let id = key.id();
    let mut roles = old.roles.clone();
    if instead {
        roles.hub.keys.clear();
    }
    if !roles.hub.keys.contains(&id) {
        roles.hub.keys.push(id);
        roles.hub.keys.sort();
    }
    // What a hub signs has the one signature that it can make.
    roles.hub.threshold = 1;
    if roles.hub == old.roles.hub {
        return Ok(None);
    }
    let version = old.version.checked_add(1).context("no more roots")?;
    let used = |key: &KeyId| {
        [&roles.root, &roles.release, &roles.hub]
            .iter()
            .any(|role| role.keys.contains(key))
    };
    let mut keys: Vec<PublicKey> = old.keys.values().copied().chain([key]).collect();
    keys.retain(|key| used(&key.id()));
    let next = Root::new(version, old.mode, &keys, roles.clone())
        .context("the next trust root would not be one")?;
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{self, Signer};
    use ed25519_dalek::SigningKey;
    use kedge_revision::root::Roles;
    use kedge_revision::{Mode, Role, SignatureSet};

    fn key() -> (SigningKey, PublicKey) {
        let key = keys::generate().unwrap();
        let public = keys::public(&key);
        (key, public)
    }

    fn root(publics: &[PublicKey], threshold: u32) -> Root {
        let mut ids: Vec<KeyId> = publics.iter().map(PublicKey::id).collect();
        ids.sort();
        let one = |threshold| Role {
            keys: ids.clone(),
            threshold,
        };
        let roles = Roles {
            root: one(threshold),
            release: one(1),
            hub: Role {
                keys: Vec::new(),
                threshold: 0,
            },
        };
        Root::new(1, Mode::Production, publics, roles).unwrap()
    }

    #[test]
    fn a_hubs_key_comes_beside_or_instead_of_others() {
        let (first, second) = (key().1, key().1);
        let old = root(&[key().1], 1);
        let one = with_hub(&old, first, false).unwrap().unwrap();
        assert_eq!((one.version, one.mode), (2, Mode::Production));
        assert_eq!(one.roles.hub.keys, [first.id()]);
        assert_eq!(one.roles.hub.threshold, 1);
        assert_eq!(with_hub(&one, first, false).unwrap(), None);
        assert_eq!(with_hub(&one, first, true).unwrap(), None);
        let two = with_hub(&one, second, false).unwrap().unwrap();
        assert_eq!(two.roles.hub.keys.len(), 2);
        let other = with_hub(&two, second, true).unwrap().unwrap();
        assert_eq!(other.roles.hub.keys, [second.id()]);
        assert!(
            !other.keys.contains_key(&first.id()),
            "a key that may do nothing is left"
        );
        assert_eq!(other.version, 4);
    }

    #[test]
    fn a_root_is_written_only_if_devices_would_take_it() {
        let folder = tempfile::tempdir().unwrap();
        let ((one, public), (other, second)) = (key(), key());
        let old = root(&[public, second], 2);
        let next = with_hub(&old, key().1, false).unwrap().unwrap();
        let manifest = crate::project::template::manifest(
            &"p".parse().unwrap(),
            &"qemu-x86-64".parse().unwrap(),
            Mode::Production,
            None,
        );
        files::write(&folder.path().join(project::MANIFEST), manifest).unwrap();
        let project = Project::open(folder.path()).unwrap();
        let (one, other) = (Signer::Held(one), Signer::Held(other));
        next_root::write(&project, &old, &next, std::slice::from_ref(&one)).unwrap_err();
        assert!(!folder.path().join("roots").exists());
        next_root::write(&project, &old, &next, &[one, other]).unwrap();
        let document = files::read(&folder.path().join("roots/2.json")).unwrap();
        let signatures = files::read(&folder.path().join("roots/2.sig")).unwrap();
        let set = SignatureSet::parse(&signatures).unwrap();
        assert_eq!(old.replace(&document, &set).unwrap(), next);
    }
}
