//! `kedge new`: a project folder with fresh keys and its trust root.

use super::composing::warnings;
use super::{PassphraseArguments, Scene};
use crate::hub::{Address, Settings};
use crate::keys::{self, Protection};
use crate::project::template;
use crate::{files, project};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ed25519_dalek::SigningKey;
use kedge_revision::configuration::Sticks;
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::{Mode, Name, PublicKey, Role, Root, SignatureSet};
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
    /// Let its devices trust this hub: its key goes into the trust root, its address into kedge.toml. It must be known by
    /// `kedge login`.
    #[arg(long, value_name = "HUB")]
    hub: Option<String>,
    /// The hub's address as devices reach it, where it is not the operator's.
    #[arg(long, value_name = "URL", requires = "hub")]
    device_hub: Option<Address>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<Trusted>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'static str>,
}

/// A hub that the project's devices trust.
#[derive(Debug, Clone, Serialize)]
struct Trusted {
    url: String,
    key: PublicKey,
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
        let hub = self.trusted()?;
        let (root, release) = (keys::generate()?, keys::generate()?);
        let new = files::temporary(&folder);
        let made = self
            .fill(&new, &root, &release, hub.as_ref())
            .and_then(|root| files::publish(&new, &folder).map(|()| root));
        let trusted = match made {
            Ok(root) => root,
            Err(error) => {
                // The first error is the one to report.
                files::remove_folder(&new).ok();
                return Err(error);
            }
        };
        let warnings = warnings(&trusted, Sticks::default(), &[]);
        let made = Made {
            path: folder.clone(),
            product: self.name.clone(),
            board: self.board.clone(),
            mode: self.mode(),
            root_key: keys::public(&root).id().to_string(),
            release_key: keys::public(&release).id().to_string(),
            encrypted: !self.no_passphrase,
            hub,
            warnings,
        };
        scene.output.warn(&made.warnings);
        scene
            .output
            .result(self.words(&folder, made.hub.as_ref()), &made)
    }

    /// The hub that devices will trust: its key as `kedge login` pinned it, its address as devices reach it.
    fn trusted(&self) -> Result<Option<Trusted>> {
        let Some(name) = &self.hub else {
            return Ok(None);
        };
        let settings = Settings::open()?;
        let known = settings.hub(Some(name))?;
        let device = self.device_hub.as_ref().map(Address::to_string);
        Ok(Some(Trusted {
            url: device.unwrap_or_else(|| known.url.clone()),
            key: known.key,
        }))
    }

    fn mode(&self) -> Mode {
        if self.production {
            Mode::Production
        } else {
            Mode::Development
        }
    }

    fn fill(
        &self,
        folder: &Path,
        root: &SigningKey,
        release: &SigningKey,
        hub: Option<&Trusted>,
    ) -> Result<Root> {
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
            template::manifest(
                &self.name,
                &self.board,
                self.mode(),
                hub.map(|hub| hub.url.as_str()),
            ),
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
        let (document, signatures) =
            first_root(self.mode(), root, release, hub.map(|hub| hub.key))?;
        let trusted = Root::parse(&document).context("cannot read the trust root")?;
        files::write(&folder.join("roots/1.json"), document)?;
        files::write(&folder.join("roots/1.sig"), signatures)?;
        Ok(trusted)
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

    fn words(&self, folder: &Path, hub: Option<&Trusted>) -> String {
        let care = match (self.no_passphrase, self.production) {
            (true, _) => {
                "Its keys in keys/ have NO passphrase: for development only. Protect them with `kedge key passphrase`."
            }
            (false, true) => {
                "Its keys are in keys/, under your passphrase. Move root.toml to a safe place, and keep copies of both."
            }
            (false, false) => "Its keys are in keys/, under your passphrase.",
        };
        let (trusts, last) = match hub {
            Some(hub) => (
                format!("Its devices trust the hub {}.\n", hub.url),
                "\n  kedge publish",
            ),
            None => (String::new(), ""),
        };
        format!(
            "Made the project {} for {} in {}.\n{care}\n{trusts}Next:\n  cd {}\n  kedge add IMAGE --name NAME\n  kedge build{last}",
            self.name,
            self.board,
            folder.display(),
            folder.display()
        )
    }
}

/// The first root: one root key, one release key, and the hub's if there is one.
fn first_root(
    mode: Mode,
    root: &SigningKey,
    release: &SigningKey,
    hub: Option<PublicKey>,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut publics = vec![keys::public(root), keys::public(release)];
    publics.extend(hub);
    let (root_id, release_id) = (keys::public(root).id(), keys::public(release).id());
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
            keys: hub.iter().map(PublicKey::id).collect(),
            threshold: u32::from(hub.is_some()),
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
            hub: None,
            device_hub: None,
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
    fn a_hub_that_is_trusted_signs_with_its_role() {
        let (root, release) = (keys::generate().unwrap(), keys::generate().unwrap());
        let hub = keys::public(&keys::generate().unwrap());
        let (document, _) = first_root(Mode::Production, &root, &release, Some(hub)).unwrap();
        let root = Root::parse(&document).unwrap();
        assert_eq!(root.roles.hub.keys, [hub.id()]);
        assert_eq!(root.roles.hub.threshold, 1);
    }

    #[test]
    fn a_product_that_nothing_can_change_is_warned_of() {
        use crate::verbs::composing::ALONE;
        use kedge_revision::ControlRole::{Exec, Lock, Observe, Operate};
        let (root, release) = (keys::generate().unwrap(), keys::generate().unwrap());
        let hub = keys::public(&keys::generate().unwrap());
        let of = |mode, hub| {
            let (document, _) = first_root(mode, &root, &release, hub).unwrap();
            Root::parse(&document).unwrap()
        };
        let alone = of(Mode::Production, None);
        assert_eq!(warnings(&alone, Sticks::Ignore, &[]), [ALONE]);
        assert_eq!(warnings(&alone, Sticks::Ignore, &[Observe, Lock]), [ALONE]);
        let none: [&str; 0] = [];
        for role in [Operate, Exec] {
            assert_eq!(warnings(&alone, Sticks::Ignore, &[role]), none);
        }
        assert_eq!(warnings(&alone, Sticks::Accept, &[]), none);
        let with_hub = of(Mode::Production, Some(hub));
        assert_eq!(warnings(&with_hub, Sticks::Ignore, &[]), none);
        assert_eq!(
            warnings(&of(Mode::Development, None), Sticks::Ignore, &[]),
            none
        );
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
