//! `kedge sign`: one more signature for a revision.

use super::{PassphraseArguments, Scene};
use crate::compose;
use crate::files;
use crate::keys::Signer;
use crate::project::source::Source;
use anyhow::{Context, Result, ensure};
use clap::Args;
use kedge_revision::signing::Kind;
use kedge_revision::{Envelope, KeyId, ObjectId, SignatureSet, json, revision, verity};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Sign a revision with a release key; other keys' signatures are kept.
///
/// `kedge build` signs by itself with keys/release.toml. This is for a second key, a key that is kept elsewhere, or a
/// revision made on another machine.
#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The revision, as in build/revision.json.
    revision: PathBuf,
    /// The key file, or a key in a token as pkcs11: URI; the project's keys/release.toml if absent.
    #[arg(long, value_name = "FILE|URI")]
    key: Option<PathBuf>,
    /// The signatures' file; beside the revision, ending in .sig, if absent.
    #[arg(long, value_name = "FILE")]
    signatures: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArguments,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Signed {
    revision: ObjectId,
    product: String,
    counter: u64,
    version: String,
    key: KeyId,
    signatures: PathBuf,
    keys: Vec<KeyId>,
    /// Whether the key is a release key of the project's trust root; absent outside of the product's project.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<bool>,
}

impl Sign {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let document = files::read(&self.revision)?;
        // Whoever signs must be able to read what it is: anything but a revision in its canonical form is refused.
        let envelope: Envelope = json::parse("revision", revision::CAP, &document)
            .with_context(|| format!("{} is no revision", self.revision.display()))?;
        let path = self
            .signatures
            .clone()
            .unwrap_or_else(|| self.revision.with_extension("sig"));
        let mut set = existing(&path)?;
        let key = self.key(scene)?;
        key.sign(&mut set, Kind::Revision, &document)?;
        files::write(&path, set.encode().context("cannot encode the signatures")?)?;
        let signed = Signed {
            revision: verity::digest(&document),
            product: envelope.product.to_string(),
            counter: envelope.counter,
            version: envelope.version.clone(),
            key: key.public().id(),
            signatures: path,
            keys: set.keys().collect(),
            counts: counts(scene, &envelope, key.public().id()),
        };
        let mut text = format!(
            "Signed revision {} ({}, version {}) with key {}.\n{} holds signatures of {} keys.",
            signed.counter,
            signed.product,
            signed.version,
            signed.key,
            signed.signatures.display(),
            signed.keys.len()
        );
        if !signed.counts.unwrap_or(true) {
            text.push_str(
                "\nThat key is no release key of this project's trust root: no device counts its signature.",
            );
        }
        scene.output.result(text, &signed)
    }

    fn key(&self, scene: &Scene) -> Result<Signer> {
        let passphrase = self.passphrase.source()?;
        match &self.key {
            Some(path) => Signer::named(path, &passphrase),
            None => {
                let project = scene
                    .project()
                    .context("name a key with --key, or be in a project")?;
                compose::release_key(
                    &project,
                    &project.trust_root()?.root.roles.release,
                    &passphrase,
                )
            }
        }
    }
}

/// Whether the trust root of the project here counts the key; none if the revision is not of its product.
fn counts(scene: &Scene, envelope: &Envelope, key: KeyId) -> Option<bool> {
    let project = scene.project().ok()?;
    let ours = project.manifest().product == envelope.product;
    let root = project.trust_root().ok().filter(|_| ours)?;
    Some(root.root.roles.release.keys.contains(&key))
}

fn existing(path: &Path) -> Result<SignatureSet> {
    if !path.exists() {
        return Ok(SignatureSet::default());
    }
    let bytes = files::read(path)?;
    ensure!(
        bytes.len() <= SignatureSet::CAP,
        "{} is too large for signatures",
        path.display()
    );
    SignatureSet::parse(&bytes).with_context(|| format!("cannot use {}", path.display()))
}

/// A TOML key file, if the text is one: for telling a person who tries to inspect or verify it.
pub(super) fn is_key_file(path: &Path, text: &str) -> bool {
    Source::new(path, text.to_owned())
        .parse::<toml::Table>()
        .is_ok_and(|table| {
            table
                .get("spec")
                .and_then(toml::Value::as_str)
                .is_some_and(|spec| spec.starts_with("kedge.key/"))
        })
}
