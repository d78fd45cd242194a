//! `kedge build`: the project as a signed revision and a disk image.

use super::Scene;
use super::composing::{Composed, Composing};
use crate::compose::Composition;
use crate::image::{self, ImagePlan, ImageReport, RootDocument};
use crate::project::Project;
use crate::project::units::human;
use anyhow::{Context, Result};
use clap::Args;
use kedge_board_support::boards::Board;
use kedge_revision::ObjectId;
use kedge_revision::revision::{Object, ObjectKind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Make the project's signed revision and a disk image that boots it.
///
/// The revision goes to build/revision.json with its signatures beside it, the image to build/PRODUCT-BOARD.img. An
/// unchanged project gives the same bytes; a change takes the next counter (kedge.lock). The store in the image is born
/// sealed: its objects carry fs-verity from the first boot on.
#[derive(Debug, Args)]
pub(super) struct Build {
    /// Where to put the disk image.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Stop at the signed revision; make no disk image.
    #[arg(long, conflicts_with = "out")]
    revision_only: bool,
    #[command(flatten)]
    composing: Composing,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Built {
    revision: ObjectId,
    counter: u64,
    version: String,
    created: String,
    unchanged: bool,
    revision_path: PathBuf,
    objects: BTreeMap<ObjectId, Object>,
    sizes: Sizes,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageReport>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Sizes {
    device_binary: u64,
    kernel: u64,
    initramfs: u64,
    layers: u64,
}

impl Build {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let Composed {
            project,
            board,
            composition,
        } = self.composing.compose(scene)?;
        let image = if self.revision_only {
            None
        } else {
            let out = self.out.clone().unwrap_or_else(|| project.image_path());
            Some(make_image(scene, &composition, &board, &out)?)
        };
        let built = built(&project, &composition, image);
        scene.output.result(words(&built, &board), &built);
        Ok(())
    }
}

fn make_image(
    scene: &Scene,
    composition: &Composition,
    board: &Board,
    out: &Path,
) -> Result<ImageReport> {
    let newest = (
        composition.root.document.as_slice(),
        composition.root.signatures.as_slice(),
    );
    let older = composition
        .root
        .older
        .iter()
        .map(|(document, signatures)| (document.as_slice(), signatures.as_slice()));
    let roots: Vec<RootDocument<'_>> = (1_u32..)
        .zip(older.chain([newest]))
        .map(|(version, (document, signatures))| RootDocument {
            version,
            document,
            signatures,
        })
        .collect();
    let plan = ImagePlan {
        board,
        revision: &composition.verified,
        document: &composition.document,
        signatures: &composition.signatures,
        roots: &roots,
        objects: &composition.objects,
        loader: composition.loader.as_deref(),
        firmware: &composition.firmware,
        signer: composition.signer.as_deref(),
    };
    let bar = scene.output.spinner("making the disk image");
    let report = image::build(&plan, out, &mut |step| bar.set_message(step.to_owned()));
    bar.finish_and_clear();
    report.with_context(|| format!("cannot make the disk image {}", out.display()))
}

fn built(project: &Project, composition: &Composition, image: Option<ImageReport>) -> Built {
    let size = |kind| {
        composition
            .kinds
            .values()
            .filter(|object| object.kind == kind)
            .map(|object| object.size)
            .sum()
    };
    Built {
        revision: composition.id,
        counter: composition.lock.counter,
        version: project.manifest().version.clone(),
        created: composition.lock.created.to_string(),
        unchanged: composition.unchanged,
        revision_path: project.build_folder().join("revision.json"),
        objects: composition.kinds.clone(),
        sizes: Sizes {
            device_binary: composition.device_binary,
            kernel: size(ObjectKind::Kernel),
            initramfs: size(ObjectKind::Initramfs),
            layers: size(ObjectKind::Layer),
        },
        image,
    }
}

fn words(built: &Built, board: &Board) -> String {
    let same = if built.unchanged { " (unchanged)" } else { "" };
    let sizes = &built.sizes;
    let row = |name: &str, size: u64, most: u64| {
        format!("  {name:<14} {:>9}  of {}", human(size), human(most))
    };
    let mut lines = vec![
        format!("Revision {} version {}{same}", built.counter, built.version),
        format!("  {}", built.revision),
        row(
            "device binary",
            sizes.device_binary,
            board.budgets.device_binary,
        ),
        row("initramfs", sizes.initramfs, board.budgets.initramfs),
        row("kernel", sizes.kernel, board.budgets.kernel),
        format!("  {:<14} {:>9}", "layers", human(sizes.layers)),
    ];
    if let Some(image) = &built.image {
        lines.push(row("image on disk", image.allocated, board.budgets.image));
        let next = match board.qemu {
            Some(_) => "Boot it: kedge run",
            None => "Write it onto a card: kedge flash",
        };
        lines.push(format!("Image: {}\n{next}", image.path.display()));
    }
    lines.join("\n")
}
