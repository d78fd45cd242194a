//! `kedge build`: the project as a signed revision and a disk image.

use super::Scene;
use super::composing::{Composed, Composing, warnings};
use crate::compose::Composition;
use crate::files;
use crate::image::packed::{self, Packed};
use crate::image::ram::{self, RamReport};
use crate::image::{self, ImagePlan, ImageReport, RootDocument};
use crate::project::Project;
use crate::project::units::human;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use kedge_board_support::boards::{Board, OwnBudgets};
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
#[command(after_help = "Examples:
  kedge build
  kedge build --output ram                           # build/PRODUCT-BOARD.ram: kernel and initramfs for PXE; docs/memory.md
  kedge build --output raw.zst                       # also IMAGE.zst, and IMAGE.bmap for `bmaptool copy IMAGE.zst /dev/sdb`
  kedge build --revision-only --json")]
pub(super) struct Build {
    /// Where to put the disk image, or the folder of --output ram.
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// What to make.
    #[arg(long, value_enum, default_value_t = Output::Raw)]
    output: Output,
    /// Stop at the signed revision; make no disk image.
    #[arg(long, conflicts_with_all = ["out", "output"])]
    revision_only: bool,
    #[command(flatten)]
    composing: Composing,
}

/// The form that the image leaves in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The disk image, with holes.
    Raw,
    /// The disk image, and beside it the same packed with zstd, with its block map.
    #[value(name = "raw.zst")]
    RawZst,
    /// Kernel and initramfs that boot without a disk, in a folder.
    Ram,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'static str>,
    #[serde(flatten)]
    made: Made,
}

/// What was made of the revision.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packed: Option<Packed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ram: Option<RamReport>,
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
        let out = self.target()?;
        let Composed {
            project,
            board,
            composition,
            own_kernel,
        } = self.composing.compose(scene)?;
        let plan = Plan::of(&composition, &board, own_kernel);
        let made = if self.revision_only {
            Made::default()
        } else {
            self.make(scene, &project, &plan, out)?
        };
        let mut built = built(&project, &composition, made);
        let content = composition.verified.content()?;
        let containers = content.containers.values();
        let roles: Vec<_> = containers.flat_map(|c| c.roles.clone()).collect();
        let sticks = content.configuration.sticks;
        built.warnings = warnings(&composition.root.root, sticks, &roles);
        scene.output.warn(&built.warnings);
        let has_pools = !project.manifest().configuration.networks.is_empty();
        let boot = board.budgets.boot_of(own_kernel, has_pools);
        scene.output.result(words(&built, &board, boot), &built)
    }

    /// Where the image goes, if it is said, judged before anything takes a counter.
    fn target(&self) -> Result<Option<PathBuf>> {
        let Some(out) = &self.out else {
            return Ok(None);
        };
        match self.output {
            Output::Ram => Ok(Some(out.clone())),
            Output::Raw | Output::RawZst => files::target(out).map(Some),
        }
    }

    fn make(
        &self,
        scene: &Scene,
        project: &Project,
        plan: &Plan<'_>,
        out: Option<PathBuf>,
    ) -> Result<Made> {
        let out = |own: PathBuf| out.unwrap_or(own);
        let mut made = Made::default();
        match self.output {
            Output::Ram => made.ram = Some(make_ram(scene, plan, &out(project.ram_path()))?),
            Output::Raw | Output::RawZst => {
                let out = out(project.image_path());
                made.image = Some(make_image(scene, plan, &out)?);
                if self.output == Output::RawZst {
                    made.packed = Some(pack(scene, &out)?);
                }
            }
        }
        Ok(made)
    }
}

/// What images are made from.
struct Plan<'a> {
    composition: &'a Composition,
    board: &'a Board,
    own_kernel: bool,
    roots: Vec<RootDocument<'a>>,
}

impl<'a> Plan<'a> {
    fn of(composition: &'a Composition, board: &'a Board, own_kernel: bool) -> Self {
        let newest = (
            composition.root.document.as_slice(),
            composition.root.signatures.as_slice(),
        );
        let older = composition
            .root
            .older
            .iter()
            .map(|(document, signatures)| (document.as_slice(), signatures.as_slice()));
        Self {
            composition,
            board,
            own_kernel,
            roots: (1_u32..)
                .zip(older.chain([newest]))
                .map(|(version, (document, signatures))| RootDocument {
                    version,
                    document,
                    signatures,
                })
                .collect(),
        }
    }

    fn image(&self) -> ImagePlan<'_> {
        let composition = self.composition;
        ImagePlan {
            board: self.board,
            revision: &composition.verified,
            document: &composition.document,
            signatures: &composition.signatures,
            roots: &self.roots,
            objects: &composition.objects,
            loader: composition.loader.as_deref(),
            firmware: &composition.firmware,
            signer: composition.signer.as_deref(),
        }
    }
}

fn make_image(scene: &Scene, plan: &Plan<'_>, out: &Path) -> Result<ImageReport> {
    let bar = scene.output.spinner("making the disk image");
    let report = image::build(&plan.image(), out, &mut |step| {
        bar.set_message(step.to_owned());
    });
    bar.finish_and_clear();
    report.with_context(|| format!("cannot make the disk image {}", out.display()))
}

fn make_ram(scene: &Scene, plan: &Plan<'_>, out: &Path) -> Result<RamReport> {
    let bar = scene.output.spinner("making a kernel and an initramfs");
    let report = ram::build(&plan.image(), plan.own_kernel, out, &mut |step| {
        bar.set_message(step.to_owned());
    });
    bar.finish_and_clear();
    report.with_context(|| format!("cannot make {}", out.display()))
}

fn pack(scene: &Scene, image: &Path) -> Result<Packed> {
    let bar = scene.output.spinner("packing the disk image");
    let packed = packed::pack(image);
    bar.finish_and_clear();
    packed
}

fn built(project: &Project, composition: &Composition, made: Made) -> Built {
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
        warnings: Vec::new(),
        made,
    }
}

fn words(built: &Built, board: &Board, boot: OwnBudgets) -> String {
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
        row("initramfs", sizes.initramfs, boot.initramfs),
        row("kernel", sizes.kernel, boot.kernel),
        format!("  {:<14} {:>9}", "layers", human(sizes.layers)),
    ];
    if let Some(image) = &built.made.image {
        lines.push(row("rest of image", image.base, board.budgets.image));
        let next = match board.qemu {
            Some(_) => "Boot it: kedge run",
            None => "Write it onto a card: kedge flash",
        };
        lines.push(format!("Image: {}\n{next}", image.path.display()));
    }
    if let Some(ram) = &built.made.ram {
        let next = match board.qemu {
            Some(_) => "Boot them: kedge run --ram",
            None => "What a loader does with them: docs/memory.md",
        };
        lines.push(format!(
            "  {:<14} {:>9}  in memory; a device needs {}\nKernel, initramfs, arguments and what lies beside: {}\n{next}",
            "disk",
            human(ram.disk),
            human(ram.memory),
            ram.path.display()
        ));
    }
    if let Some(packed) = &built.made.packed {
        lines.push(format!(
            "Packed: {}, {}\nBlock map: {}, {} to be written",
            packed.path.display(),
            human(packed.size),
            packed.map.display(),
            human(packed.mapped)
        ));
    }
    lines.join("\n")
}
