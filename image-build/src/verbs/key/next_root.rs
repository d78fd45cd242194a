//! The project's next trust root: signed by the root keys that are at hand, and written behind the ones before.

use super::key_files;
use crate::files;
use crate::keys::{KeyFile, Passphrase, Signer, Uri};
use crate::project::Project;
use anyhow::{Context, Result, ensure};
use kedge_revision::signing::Kind;
use kedge_revision::{KeyId, Role, Root, SignatureSet};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A root key that is at hand.
enum Found {
    /// Not opened yet: nothing is asked before all that is needed is here.
    File(KeyFile),
    Ready(Signer),
}

/// Root keys at hand, as many as the present root asks for and as the next one does: those that are named, then those in keys/.
pub(super) fn signers(
    project: &Project,
    (old, next): (&Root, &Root),
    named: &[PathBuf],
    passphrase: &Passphrase,
) -> Result<Vec<Signer>> {
    let roles = [&old.roles.root, &next.roles.root];
    let mut found = BTreeMap::new();
    for name in named {
        let (id, key) = match name.to_str().filter(|text| Uri::is_one(text)) {
            Some(uri) => {
                let signer = Signer::in_token(uri, passphrase)?;
                (signer.public().id(), Found::Ready(signer))
            }
            None => {
                let file = KeyFile::read(name)?;
                (file.public().id(), Found::File(file))
            }
        };
        ensure!(
            roles.iter().any(|role| role.keys.contains(&id)),
            "{} is no root key of this project: its id is {id}",
            name.display()
        );
        found.insert(id, key);
    }
    let files = key_files(project)?;
    for role in roles {
        for file in &files {
            let id = file.public().id();
            if lacks(role, &found) > 0 && role.keys.contains(&id) {
                found.entry(id).or_insert_with(|| Found::File(file.clone()));
            }
        }
    }
    for role in roles {
        let (wanted, lacks) = (role.threshold, lacks(role, &found));
        ensure!(
            lacks == 0,
            "a new root takes the signatures of {wanted} root keys, and {lacks} of them are not here\nhelp: bring the missing ones to keys/, or name them with --key; they are {}",
            missing(&role.keys, &found)
        );
    }
    let open = |key| match key {
        Found::File(file) => file.signer(passphrase),
        Found::Ready(signer) => Ok(signer),
    };
    found.into_values().map(open).collect()
}

/// How many keys of a role are missing to its threshold.
fn lacks(role: &Role, found: &BTreeMap<KeyId, Found>) -> usize {
    let here = role.keys.iter().filter(|key| found.contains_key(key));
    let wanted = usize::try_from(role.threshold).unwrap_or(usize::MAX);
    wanted.saturating_sub(here.count())
}

fn missing(keys: &[KeyId], found: &BTreeMap<KeyId, Found>) -> String {
    let missing = keys.iter().filter(|key| !found.contains_key(key));
    let missing: Vec<String> = missing.map(KeyId::to_string).collect();
    missing.join(", ")
}

/// Signs the root and puts it behind the old one, after the check that every device makes.
pub(super) fn write(project: &Project, old: &Root, next: &Root, signers: &[Signer]) -> Result<()> {
    let document = next.encode().context("cannot write the trust root")?;
    let mut set = SignatureSet::default();
    for key in signers {
        key.sign(&mut set, Kind::Root, &document)?;
    }
    old.replace(&document, &set)
        .context("devices would not take the new root")?;
    let path = |end: &str| -> PathBuf {
        let name = format!("roots/{}.{end}", next.version);
        Path::new(project.folder()).join(name)
    };
    let signatures = set.encode().context("cannot encode the signatures")?;
    // The document comes last: where it is, its signatures are.
    files::write(&path("sig"), signatures)?;
    files::write(&path("json"), document)
}
