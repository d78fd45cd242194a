//! `kedge new`: a project folder with fresh keys and its trust root.

use super::{PassphraseArguments, Scene};
use crate::keys::{self, Protection};
use crate::project::template;
use crate::{files, project};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ed25519_dalek::SigningKey;
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::{Mode, Name, Role, Root, SignatureSet};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Make a project folder: kedge.toml, fresh signing keys, the trust root of its devices.
///
/// Two keys are made: `root` (may replace keys; keep it offline) and `release` (signs revisions). Both are kept under a
/// passphrase. Devices built from the project trust these keys and no others.
#[derive(Debug, Args)]
pub(super) struct New {
    /// The product's name; also the folder's unless --path says otherwise.
    name: Name,
    /// The kind of machine.
    #[arg(long, default_value = "qemu-x86-64")]
    board: Name,
    /// A production project: no development access on its devices. Cannot be changed later.
    #[arg(long)]
    production: bool,
    /// Keep the keys without a passphrase; development projects only.
    #[arg(long, conflicts_with_all = ["production", "passphrase_file", "passphrase_fd"])]
    no_passphrase: bool,
    /// Where to make the folder.
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArguments,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Made {
    path: PathBuf,
    product: Name,
    board: Name,
    mode: Mode,
    root_key: String,
    release_key: String,
    encrypted: bool,
}

impl New {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let folder = self
            .path
            .clone()
            .unwrap_or_else(|| PathBuf::from(self.name.as_str()));
        ensure!(
            !folder.exists(),
            "{} exists already; nothing was changed",
            folder.display()
        );
        kedge_board_support::boards::find(self.board.as_str())?;
        let (root, release) = (keys::generate()?, keys::generate()?);
        let new = files::temporary(&folder);
        let made = self
            .fill(&new, &root, &release)
            .and_then(|()| files::publish(&new, &folder));
        if let Err(error) = made {
            // The first error is the one to report.
            files::remove_folder(&new).ok();
            return Err(error);
        }
        let made = Made {
            path: folder.clone(),
            product: self.name.clone(),
            board: self.board.clone(),
            mode: self.mode(),
            root_key: keys::public(&root).id().to_string(),
            release_key: keys::public(&release).id().to_string(),
            encrypted: !self.no_passphrase,
        };
        scene.output.result(self.words(&folder), &made);
        Ok(())
    }

    fn mode(&self) -> Mode {
        if self.production {
            Mode::Production
        } else {
            Mode::Development
        }
    }

    fn fill(&self, folder: &Path, root: &SigningKey, release: &SigningKey) -> Result<()> {
        let passphrase = if self.no_passphrase {
            None
        } else {
            Some(self.ask()?)
        };
        let protection = passphrase
            .as_ref()
            .map_or(Protection::Plain, |text| Protection::Passphrase(text));
        files::write(
            &folder.join(project::MANIFEST),
            template::manifest(&self.name, &self.board, self.mode()),
        )?;
        files::write(&folder.join(".gitignore"), template::GITIGNORE)?;
        files::make_folder(&folder.join("containers"))?;
        keys::write(&folder.join("keys/root.toml"), "root", root, protection)?;
        keys::write(
            &folder.join("keys/release.toml"),
            "release",
            release,
            protection,
        )?;
        let (document, signatures) = first_root(self.mode(), root, release)?;
        files::write(&folder.join("roots/1.json"), document)?;
        files::write(&folder.join("roots/1.sig"), signatures)
    }

    fn ask(&self) -> Result<zeroize::Zeroizing<String>> {
        let source = self.passphrase.source()?;
        let asked = source.new_one("the signing keys of the project");
        if self.production {
            return asked;
        }
        asked.context(
            "no passphrase for the signing keys; a development project may use --no-passphrase",
        )
    }

    fn words(&self, folder: &Path) -> String {
        let care = match (self.no_passphrase, self.production) {
            (true, _) => {
                "Its keys in keys/ have NO passphrase: for development only. Protect them with `kedge key passphrase`."
            }
            (false, true) => {
                "Its keys are in keys/, under your passphrase. Move root.toml to a safe place, and keep copies of both."
            }
            (false, false) => "Its keys are in keys/, under your passphrase.",
        };
        format!(
            "Made the project {} for {} in {}.\n{care}\nNext:\n  cd {}\n  kedge add IMAGE --name NAME\n  kedge build",
            self.name,
            self.board,
            folder.display(),
            folder.display()
        )
    }
}

/// The first root: one root key, one release key, no hub.
fn first_root(mode: Mode, root: &SigningKey, release: &SigningKey) -> Result<(Vec<u8>, Vec<u8>)> {
    let publics = [keys::public(root), keys::public(release)];
    let [root_id, release_id] = publics.map(|key| key.id());
    if root_id == release_id {
        bail!("the two fresh keys are equal: the random source of this machine cannot be trusted");
    }
    let role = |id| Role {
        keys: vec![id],
        threshold: 1,
    };
    let roles = Roles {
        root: role(root_id),
        release: role(release_id),
        hub: Role {
            keys: Vec::new(),
            threshold: 0,
        },
    };
    let document = Root::new(1, mode, &publics, roles)
        .and_then(|root| root.encode())
        .context("cannot make the trust root")?;
    let mut set = SignatureSet::default();
    set.sign(Kind::Root, &document, root);
    let signatures = set
        .encode()
        .context("cannot encode the root's signatures")?;
    Ok((document, signatures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Output;
    use crate::project::Project;

    fn new(folder: &Path, production: bool) -> New {
        let passphrase_file = production.then(|| folder.join("passphrase"));
        New {
            name: "gateway".parse().unwrap(),
            board: "qemu-x86-64".parse().unwrap(),
            production,
            no_passphrase: !production,
            path: Some(folder.join("gateway")),
            passphrase: PassphraseArguments {
                passphrase_file,
                passphrase_fd: None,
            },
        }
    }

    #[test]
    fn a_new_project_opens_and_trusts_its_keys() {
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene {
            output: Output::new(true),
            project: folder.path().to_owned(),
        };
        new(folder.path(), false).run(&scene).unwrap();
        let project = Project::open(&folder.path().join("gateway")).unwrap();
        let root = project.trust_root().unwrap().root;
        assert_eq!(root.mode, Mode::Development);
        let key = keys::KeyFile::read(&project.key_path("release")).unwrap();
        assert_eq!(root.roles.release.keys, [key.public().id()]);
        let again = new(folder.path(), false)
            .run(&scene)
            .unwrap_err()
            .to_string();
        assert!(again.contains("exists already"), "{again}");
    }

    #[test]
    fn a_production_project_has_its_keys_under_a_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene {
            output: Output::new(true),
            project: folder.path().to_owned(),
        };
        files::write(&folder.path().join("passphrase"), "short\n").unwrap();
        new(folder.path(), true).run(&scene).unwrap_err();
        assert_eq!(files::list(folder.path()).unwrap().len(), 1);
        files::write(&folder.path().join("passphrase"), "four words are best\n").unwrap();
        new(folder.path(), true).run(&scene).unwrap();
        let project = Project::open(&folder.path().join("gateway")).unwrap();
        assert!(
            keys::KeyFile::read(&project.key_path("root"))
                .unwrap()
                .is_encrypted()
        );
        assert_eq!(project.trust_root().unwrap().root.mode, Mode::Production);
    }
}
