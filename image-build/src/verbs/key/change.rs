//! `kedge key change`: the project's next trust root, with other keys or thresholds.

use super::super::{PassphraseArguments, Scene};
use super::next_root;
use crate::keys::KeyFile;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use kedge_revision::root::Roles;
use kedge_revision::{KeyId, PublicKey, Role, Root};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Change which keys may sign, and how many must: add, remove, replace keys of a role, or change its threshold.
///
/// Makes the next trust root, signed by as many of the project's root keys as the present one asks for. Devices follow it with the
/// next revision, which is signed by keys of the new root; what keys of older roots sign is then no update any more.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge key new release-2
  kedge key change --add release=keys/release-2.toml --remove release=keys/release.toml
  kedge key change --threshold root=2 --add root=keys/b.toml --add root=keys/c.toml
  kedge key change --remove root=ID-OF-THE-LOST-ONE --add root=keys/d.toml --key /media/stick/b.toml")]
pub(super) struct Change {
    /// A key that may sign from now on: root=FILE or release=FILE; may be given again.
    #[arg(long, value_name = "ROLE=FILE")]
    add: Vec<Keyed>,
    /// A key that may not any more, by its file or id; may be given again.
    #[arg(long, value_name = "ROLE=FILE|ID")]
    remove: Vec<Keyed>,
    /// How many keys of a role must sign; may be given again.
    #[arg(long, value_name = "ROLE=N")]
    threshold: Vec<Keyed>,
    /// A root key that is kept elsewhere, or in a token; may be given again. Those in keys/ are used by themselves.
    #[arg(long, value_name = "FILE|URI")]
    key: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArguments,
}

/// A role that a person may change here; hubs have `kedge key trust-hub`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Root,
    Release,
}

/// Something of a role.
#[derive(Debug, Clone)]
struct Keyed {
    role: Which,
    value: String,
}

impl FromStr for Keyed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (role, value) = text.split_once('=').unwrap_or((text, ""));
        let role = match role {
            "root" => Which::Root,
            "release" => Which::Release,
            "hub" => return Err("hubs are trusted with `kedge key trust-hub`".to_owned()),
            other => return Err(format!("`{other}` is no role: root or release")),
        };
        if value.is_empty() {
            return Err("it is written ROLE=VALUE".to_owned());
        }
        Ok(Self {
            role,
            value: value.to_owned(),
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Changed {
    root: u32,
    root_keys: Vec<KeyId>,
    root_threshold: u32,
    release_keys: Vec<KeyId>,
    release_threshold: u32,
}

impl Change {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let project = scene.project()?;
        let old = project.trust_root()?.root;
        let next = self.next(&old)?;
        let passphrase = self.passphrase.source()?;
        let signers = next_root::signers(&project, (&old, &next), &self.key, &passphrase)?;
        next_root::write(&project, &old, &next, &signers)?;
        let changed = Changed {
            root: next.version,
            root_keys: next.roles.root.keys.clone(),
            root_threshold: next.roles.root.threshold,
            release_keys: next.roles.release.keys.clone(),
            release_threshold: next.roles.release.threshold,
        };
        let text = format!(
            "Made root {}: {} of {} root keys, {} of {} release keys.\nNext:\n  kedge build      # a revision under it\n  kedge publish    # devices follow the root, then the revision",
            changed.root,
            changed.root_threshold,
            changed.root_keys.len(),
            changed.release_threshold,
            changed.release_keys.len()
        );
        scene.output.result(text, &changed)
    }

    /// The root after this one.
    fn next(&self, old: &Root) -> Result<Root> {
        let mut roles = old.roles.clone();
        let mut keys: Vec<PublicKey> = old.keys.values().copied().collect();
        for removed in &self.remove {
            let id = id_of(&removed.value)?;
            let role = of(&mut roles, removed.role);
            let before = role.keys.len();
            role.keys.retain(|key| *key != id);
            ensure!(role.keys.len() < before, "{id} is no key of that role");
        }
        for added in &self.add {
            let public = KeyFile::read(Path::new(&added.value))?.public();
            let role = of(&mut roles, added.role);
            ensure!(
                !role.keys.contains(&public.id()),
                "{} is a key of that role already",
                added.value
            );
            role.keys.push(public.id());
            role.keys.sort();
            keys.push(public);
        }
        for threshold in &self.threshold {
            let number = threshold.value.parse();
            let number = number.with_context(|| format!("{} is no number", threshold.value))?;
            of(&mut roles, threshold.role).threshold = number;
        }
        ensure!(
            roles != old.roles,
            "that is what root {} says already",
            old.version
        );
        for (word, role) in [("root", &roles.root), ("release", &roles.release)] {
            let (keys, threshold) = (role.keys.len(), role.threshold);
            ensure!(
                keys > 0,
                "no {word} key would be left: add another with --add {word}=FILE"
            );
            ensure!(
                threshold > 0,
                "a threshold of 0 would let anybody sign: the least is --threshold {word}=1"
            );
            ensure!(
                usize::try_from(threshold)? <= keys,
                "{threshold} of {keys} {word} keys could never sign: lower --threshold {word}=N along with them, or add keys"
            );
        }
        let used = |key: &KeyId| {
            [&roles.root, &roles.release, &roles.hub]
                .iter()
                .any(|role| role.keys.contains(key))
        };
        keys.retain(|key| used(&key.id()));
        let version = old.version.checked_add(1).context("no more roots")?;
        Root::new(version, old.mode, &keys, roles.clone())
            .context("the next trust root would not be one")
    }
}

const fn of(roles: &mut Roles, which: Which) -> &mut Role {
    match which {
        Which::Root => &mut roles.root,
        Which::Release => &mut roles.release,
    }
}

/// A key by its id, or by its file.
fn id_of(text: &str) -> Result<KeyId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let path = Path::new(text);
    if !path.exists() {
        bail!("{text} is neither a key's id nor a key file that is there");
    }
    Ok(KeyFile::read(path)?.public().id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{self, Protection};
    use kedge_revision::Mode;

    fn change(add: &[String], remove: &[String], threshold: &[&str]) -> Change {
        let keyed = |text: &str| text.parse::<Keyed>().unwrap();
        Change {
            add: add.iter().map(|text| keyed(text)).collect(),
            remove: remove.iter().map(|text| keyed(text)).collect(),
            threshold: threshold.iter().map(|text| keyed(text)).collect(),
            key: Vec::new(),
            passphrase: PassphraseArguments {
                passphrase_file: None,
                passphrase_fd: None,
            },
        }
    }

    #[test]
    fn keys_come_and_go_and_a_role_stays_one_that_can_sign() {
        let folder = tempfile::tempdir().unwrap();
        let (key, other) = (keys::generate().unwrap(), keys::generate().unwrap());
        let path = folder.path().join("other.toml");
        keys::write(&path, "release", &other, Protection::Plain).unwrap();
        let public = keys::public(&key);
        let one = Role {
            keys: vec![public.id()],
            threshold: 1,
        };
        let roles = Roles {
            root: one.clone(),
            release: one,
            hub: Role {
                keys: Vec::new(),
                threshold: 0,
            },
        };
        let old = Root::new(1, Mode::Development, &[public], roles).unwrap();
        let add = [format!("release={}", path.display())];
        let remove = [format!("release={}", public.id())];
        let next = change(&add, &remove, &[]).next(&old).unwrap();
        assert_eq!(next.roles.release.keys, [keys::public(&other).id()]);
        assert_eq!(next.roles.root, old.roles.root);
        assert_eq!((next.version, next.keys.len()), (2, 2));
        let next = change(&add, &[], &["release=2"]).next(&old).unwrap();
        assert_eq!(
            (next.roles.release.keys.len(), next.roles.release.threshold),
            (2, 2)
        );
        for (add, remove, threshold, why) in [
            (&[][..], &[][..], &[][..], "already"),
            (&[], &remove, &[], "no release key would be left"),
            (&add, &[], &["release=3"], "could never sign"),
            (&[], &[], &["root=0"], "anybody"),
            (&[], &[], &["root=x"], "no number"),
            (
                &[],
                &[format!("release={}", keys::public(&other).id())],
                &[],
                "no key of that role",
            ),
            (&[], &["root=nowhere.toml".to_owned()], &[], "neither"),
        ] {
            let refused = change(add, remove, threshold).next(&old).unwrap_err();
            assert!(format!("{refused:#}").contains(why), "{refused:#}");
        }
        for text in ["hub=x", "root", "release=", "owner=x"] {
            assert!(text.parse::<Keyed>().is_err(), "{text}");
        }
    }
}
