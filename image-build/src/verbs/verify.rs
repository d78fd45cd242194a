//! `kedge verify`: what a device would check, on the host.

use super::Scene;
use super::disk::Disk;
use crate::payload::Payload;
use crate::project::units::human;
use crate::{bundle, compose, files};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use kedge_board_support::statement;
use kedge_revision::{
    Envelope, Floor, Mode, ObjectId, Policy, Product, Root, SignatureSet, Verified, json, revision,
};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Check revisions, bundles and disk images as a device would: signatures, form, and every object's bytes.
///
/// A revision is judged by the project's trust root, or by the one that --root names. The signatures of a revision.json
/// stand beside it, ending in .sig; a bundle has them inside. Objects are read in pieces, however large they are.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Revisions (revision.json), bundles (.kedge) and disk images.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The trust root to judge by, for what belongs to no project at hand.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Good {
    path: PathBuf,
    revision: ObjectId,
    product: String,
    board: String,
    counter: u64,
    version: String,
    /// The counter of the parameters in a bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects_checked: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_checked: Option<u64>,
}

#[derive(Serialize)]
struct AllGood {
    verified: Vec<Good>,
}

/// By what a revision is judged.
struct Judge {
    root: Root,
    /// The project's identity; without one, the revision's own is taken, so that only product and board stay unjudged.
    product: Option<Product>,
}

impl Verify {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let judge = self.judge(scene)?;
        let mut verified = Vec::new();
        for path in &self.files {
            let good = match Disk::open(path)? {
                Some(disk) => verify_disk(&judge, path, &disk),
                None if bundle::is_bundle(path)? => verify_bundle(scene, &judge, path),
                None => verify_file(&judge, path),
            };
            verified.push(good.with_context(|| format!("{} is NOT good", path.display()))?);
        }
        let lines: Vec<String> = verified.iter().map(line).collect();
        scene.output.result(lines.join("\n"), &AllGood { verified })
    }

    fn judge(&self, scene: &Scene) -> Result<Judge> {
        if let Some(path) = &self.root {
            let root = Root::parse(&files::read(path)?)
                .with_context(|| format!("{} is no trust root", path.display()))?;
            return Ok(Judge {
                root,
                product: None,
            });
        }
        let project = scene
            .project()
            .context("name a trust root with --root, or be in a project")?;
        Ok(Judge {
            root: project.trust_root()?.root,
            product: Some(project.product()),
        })
    }
}

impl Judge {
    fn revision(&self, document: &[u8], signatures: &[u8]) -> Result<Verified> {
        let set = SignatureSet::parse(signatures).context("its signatures cannot be read")?;
        let product = match &self.product {
            Some(product) => product.clone(),
            None => {
                let envelope: Envelope = json::parse("revision", revision::CAP, document)?;
                Product::new(envelope.product, envelope.board, Mode::Production)
            }
        };
        let policy = Policy {
            product: &product,
            floor: Floor::default(),
        };
        let verified = Verified::verify(document, &set, &self.root, &policy)?;
        verified.content().context("its content would be refused")?;
        Ok(verified)
    }
}

fn verify_file(judge: &Judge, path: &Path) -> Result<Good> {
    let signatures = path.with_extension("sig");
    ensure!(
        signatures.exists(),
        "it is not signed: there is no {}",
        signatures.display()
    );
    let verified = judge.revision(&files::read(path)?, &files::read(&signatures)?)?;
    Ok(good(path, &verified, None))
}

/// Documents first, since they say which bytes the objects must have.
fn verify_bundle(scene: &Scene, judge: &Judge, path: &Path) -> Result<Good> {
    let payload = Payload::open(path)?;
    let head = payload.head();
    let verified = judge.revision(&head.revision, &head.signatures)?;
    let parameters = payload.parameters()?;
    if let Some(parameters) = &parameters {
        parameters
            .check(&verified.content()?.parameters)
            .context("its parameters would be refused")?;
    }
    let bar = scene.output.bytes("checking", payload.bundle_size());
    let checked = payload.check(&mut |count| bar.inc(count));
    bar.finish_and_clear();
    let mut good = good(path, &verified, Some(checked?));
    good.parameters = parameters.map(|parameters| parameters.counter);
    Ok(good)
}

fn verify_disk(judge: &Judge, path: &Path, disk: &Disk) -> Result<Good> {
    let revisions = disk.revisions()?;
    let [id] = revisions.as_slice() else {
        bail!(
            "its store holds {} revisions, not the one that an image is born with",
            revisions.len()
        );
    };
    let document = disk.document(&format!("/revisions/{id}/revision.json"))?;
    let signatures = disk.document(&format!("/revisions/{id}/revision.sig"))?;
    let verified = judge.revision(&document, &signatures)?;
    ensure!(
        verified.id().hex() == *id,
        "its revision stands under the name of another one"
    );
    let folder = files::temporary_beside(path)?;
    let boot = &verified.envelope().boot;
    let (mut count, mut bytes) = (0_usize, 0_u64);
    for id in verified.envelope().objects.keys() {
        let to = folder.path().join(id.hex());
        let in_slot = [
            ("kernel", Some(boot.kernel)),
            ("initramfs", Some(boot.initramfs)),
            (statement::FILE, boot.statement),
        ];
        let others = boot.files.iter();
        let mut in_slot = in_slot
            .into_iter()
            .chain(others.map(|(name, id)| (name.as_str(), Some(*id))));
        if let Some((name, _)) = in_slot.find(|(_, place)| *place == Some(*id)) {
            let slot = crate::image::gpt::find(&disk.partitions, "slot-a")?;
            crate::image::fat::extract(path, slot.offset, name, &to)?;
        } else {
            disk.copy_object(*id, &to)?;
        }
        let (found, size) = compose::measure(&to)?;
        ensure!(
            found == *id,
            "object {id} is damaged: its bytes measure {found}"
        );
        std::fs::remove_file(&to).with_context(|| format!("cannot remove {}", to.display()))?;
        count = count.saturating_add(1);
        bytes = bytes.saturating_add(size);
    }
    Ok(good(path, &verified, Some((count, bytes))))
}

fn good(path: &Path, verified: &Verified, checked: Option<(usize, u64)>) -> Good {
    let envelope = verified.envelope();
    Good {
        path: path.to_owned(),
        revision: verified.id(),
        product: envelope.product.to_string(),
        board: envelope.board.to_string(),
        counter: envelope.counter,
        version: envelope.version.clone(),
        parameters: None,
        objects_checked: checked.map(|(count, _)| count),
        bytes_checked: checked.map(|(_, bytes)| bytes),
    }
}

fn line(good: &Good) -> String {
    let checked = match (good.objects_checked, good.bytes_checked) {
        (Some(count), Some(bytes)) => format!("; {count} objects, {}, all intact", human(bytes)),
        _ => String::new(),
    };
    let parameters = match good.parameters {
        Some(counter) => format!(", with parameters {counter}"),
        None => String::new(),
    };
    format!(
        "{}: good: revision {} of {} for {}, version {}{parameters}{checked}",
        good.path.display(),
        good.counter,
        good.product,
        good.board,
        good.version
    )
}
