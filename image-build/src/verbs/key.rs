//! `kedge key`: list, make and protect signing keys, and say which hub's key devices trust.

mod change;
mod next_root;
mod secure_boot;
mod trust_hub;

use super::{PassphraseArguments, Scene};
use crate::files;
use crate::keys::{self, KeyFile, Protection, Signer, Uri};
use crate::project::Project;
use anyhow::{Context, Result, ensure};
use change::Change;
use clap::{Args, Subcommand};
use kedge_revision::signing::Kind;
use kedge_revision::{KeyId, Name, PublicKey, Root, SignatureSet};
use secure_boot::SecureBoot;
use serde::Serialize;
use std::path::{Path, PathBuf};
use trust_hub::TrustHub;

/// List, make and protect signing keys.
#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the project's key files and what the trust root lets them do.
    List,
    /// Make a key. The trust root does not know it until a new root names it.
    New {
        /// A word for what it is for; the file is keys/WORD.toml.
        role: Name,
        /// Keep it without a passphrase; development projects only.
        #[arg(long, conflicts_with_all = ["passphrase_file", "passphrase_fd"])]
        no_passphrase: bool,
        /// Make it in a token, which it never leaves: pkcs11:token=T;object=NAME?module-path=/….so (RFC 7512).
        #[arg(long, value_name = "URI", conflicts_with = "no_passphrase")]
        pkcs11: Option<String>,
        /// The key is in the token already: only note it.
        #[arg(long, requires = "pkcs11")]
        existing: bool,
        #[command(flatten)]
        passphrase: PassphraseArguments,
    },
    Change(Change),
    TrustHub(TrustHub),
    SecureBoot(SecureBoot),
    /// Change, or set, the passphrase of a key file.
    Passphrase {
        /// The key file.
        file: PathBuf,
        /// Take the new passphrase from the first line of a file.
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        #[command(flatten)]
        passphrase: PassphraseArguments,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Listed {
    path: PathBuf,
    role: String,
    id: KeyId,
    public: PublicKey,
    encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    may: Vec<&'static str>,
}

#[derive(Serialize)]
struct List {
    keys: Vec<Listed>,
}

impl Key {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        match &self.action {
            Action::List => list(scene),
            Action::Change(verb) => verb.run(scene),
            Action::TrustHub(verb) => verb.run(scene),
            Action::SecureBoot(verb) => verb.run(scene),
            Action::New {
                role,
                no_passphrase,
                pkcs11,
                existing,
                passphrase,
            } => match pkcs11 {
                Some(uri) => in_token(scene, role, uri, *existing, passphrase),
                None => new(scene, role, *no_passphrase, passphrase),
            },
            Action::Passphrase {
                file,
                new_passphrase_file,
                passphrase,
            } => protect(scene, file, new_passphrase_file.as_deref(), passphrase),
        }
    }
}

fn list(scene: &Scene) -> Result<()> {
    let project = scene.project()?;
    let root = project.trust_root()?.root;
    let files = key_files(&project)?;
    let listed: Vec<Listed> = files.iter().map(|file| describe(file, &root)).collect();
    let mut lines: Vec<String> = listed.iter().map(line).collect();
    if lines.is_empty() {
        let folder = project.folder().join("keys");
        lines.push(format!("There are no key files in {}.", folder.display()));
    }
    scene
        .output
        .result(lines.join("\n"), &List { keys: listed })
}

/// The key files of the project's own folder.
fn key_files(project: &Project) -> Result<Vec<KeyFile>> {
    let folder = project.folder().join("keys");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let is_toml = |path: &PathBuf| path.extension().is_some_and(|end| end == "toml");
    let paths = files::list(&folder)?;
    paths
        .iter()
        .filter(|path| is_toml(path))
        .map(|path| KeyFile::read(path))
        .collect()
}

fn describe(file: &KeyFile, root: &Root) -> Listed {
    let id = file.public().id();
    let roles = &root.roles;
    let may = [
        ("root", &roles.root),
        ("release", &roles.release),
        ("hub", &roles.hub),
    ];
    let may = may
        .into_iter()
        .filter(|(_, role)| role.keys.contains(&id))
        .map(|(word, _)| word)
        .collect();
    Listed {
        path: file.path().to_owned(),
        role: file.role().to_owned(),
        id,
        public: file.public(),
        encrypted: file.is_encrypted(),
        token: file.token().map(str::to_owned),
        may,
    }
}

fn line(key: &Listed) -> String {
    let kept = if key.token.is_some() {
        "in a token"
    } else if key.encrypted {
        "passphrase"
    } else {
        "NO passphrase"
    };
    let may = if key.may.is_empty() {
        "unknown to the trust root".to_owned()
    } else {
        format!("may: {}", key.may.join(", "))
    };
    format!("{}  {}  {kept}, {may}", key.id, key.path.display())
}

/// The place of a new key's file, where none is yet.
fn free(project: &Project, role: &Name) -> Result<PathBuf> {
    let path = project.key_path(role.as_str());
    ensure!(
        !path.exists(),
        "{} exists already; nothing was changed",
        path.display()
    );
    Ok(path)
}

/// Makes a key in a token, or finds the one that is there, and notes its name.
fn in_token(
    scene: &Scene,
    role: &Name,
    uri: &str,
    existing: bool,
    passphrase: &PassphraseArguments,
) -> Result<()> {
    let project = scene.project()?;
    let path = free(&project, role)?;
    let pin = passphrase.source()?;
    let signer = if existing {
        Signer::in_token(uri, &pin)?
    } else {
        Signer::make_in_token(uri, &pin)?
    };
    // Before anything relies on it, it signs once, and that is verified.
    signer.sign(&mut SignatureSet::default(), Kind::Root, b"")?;
    if let Some(folder) = path.parent() {
        files::make_folder(folder)?;
    }
    keys::note(
        &path,
        role.as_str(),
        signer.public(),
        &Uri::parse(uri)?.kept(),
    )?;
    report(scene, &project, &path)
}

fn new(scene: &Scene, role: &Name, open: bool, passphrase: &PassphraseArguments) -> Result<()> {
    let project = scene.project()?;
    let path = free(&project, role)?;
    if open {
        keys::may_be_open(project.manifest().mode)?;
    }
    let key = keys::generate()?;
    let text = if open {
        None
    } else {
        Some(passphrase.source()?.new_one(&format!("the key {role}"))?)
    };
    let protection = text
        .as_ref()
        .map_or(Protection::Plain, |text| Protection::Passphrase(text));
    keys::write(&path, role.as_str(), &key, protection)?;
    report(scene, &project, &path)
}

fn protect(
    scene: &Scene,
    path: &Path,
    new: Option<&Path>,
    passphrase: &PassphraseArguments,
) -> Result<()> {
    let file = KeyFile::read(path)?;
    let key = file.open(&passphrase.source()?)?;
    let source = new.map_or(keys::Passphrase::Prompt, |path| {
        keys::Passphrase::File(path.to_owned())
    });
    let text = source
        .new_one(&format!("the {} key", file.role()))
        .context("nothing was changed")?;
    keys::write(path, file.role(), &key, Protection::Passphrase(&text))?;
    scene.output.result(
        format!("{} has its new passphrase.", path.display()),
        &serde_json::json!({ "path": path, "encrypted": true }),
    )?;
    Ok(())
}

fn report(scene: &Scene, project: &Project, path: &Path) -> Result<()> {
    let listed = describe(&KeyFile::read(path)?, &project.trust_root()?.root);
    scene.output.result(line(&listed), &listed)
}
