//! From an opened source to layers on disk.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use kedge_revision::ObjectId;

use crate::archive::TarReader;
use crate::bounds::{Bounds, Used};
use crate::config::ImageProcess;
use crate::error::Error;
use crate::layer::emit;
use crate::layer::erofs;
use crate::layer::machine::Programs;
use crate::layer::merged::Merged;
use crate::layer::normalise::{Normaliser, Shared, Whiteouts};
use crate::layer::spool::Spool;
use crate::layer::tree::Tree;
use crate::note::{Note, Notes};
use crate::options::{ImportOptions, Policy};
use crate::source::{LayerRef, Source, SourceKind, Store, walk};
use crate::stream::{self, Tallied};

/// A layer as an EROFS image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// The image, in the directory that was given.
    pub path: PathBuf,
    /// Its size, bytes.
    pub size: u64,
    /// Its fs-verity digest.
    pub id: ObjectId,
}

/// An imported image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Layers, lowest first. Layers without entries are left out.
    pub layers: Vec<LayerFile>,
    /// What to run.
    pub process: ImageProcess,
    /// OCI's word; `None` for a root file system, which does not say.
    pub architecture: Option<String>,
    /// What the user should see.
    pub notes: Vec<Note>,
}

/// Where an import stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Reading and judging layer `index` of `count`.
    Reading {
        /// From zero.
        index: usize,
        /// All of them.
        count: usize,
    },
    /// Writing its EROFS image.
    Writing {
        /// From zero.
        index: usize,
        /// All of them.
        count: usize,
    },
}

/// Imports an image: chooses the manifest for the board, checks every digest, judges every entry, and writes each layer as
/// `layer-<n>.erofs` into `out_dir`, which must exist. The same source and options give the same bytes.
///
/// `mkfs` is the command for mkfs.erofs 1.8.6, program first. Disk: the unpacked image once, as an unnamed file in `out_dir`, and the layers.
///
/// # Errors
/// Every variant of [`Error`] but `Initramfs`; `out_dir` may then hold layers that are to be thrown away.
pub fn import(
    source: &Source,
    options: &ImportOptions,
    mkfs: &[OsString],
    out_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image, Error> {
    let resolved = source.resolve(options)?;
    let (process, architecture) = match &resolved {
        Some(resolved) => (
            ImageProcess::parse(&resolved.config)?,
            Some(architecture(&resolved.config)?),
        ),
        None => (ImageProcess::default(), None),
    };
    // Before the long part: whoever forgot --command learns it at once.
    let process = process.with_command(options.command.as_deref())?;
    let mut import = Import {
        shared: shared(options.bounds, options.policy, out_dir)?,
        mkfs,
        out_dir,
        layers: Vec::new(),
        programs: Programs::default(),
    };
    match (source.kind(), &resolved) {
        (SourceKind::Layout(store) | SourceKind::Docker(store), Some(resolved)) => {
            let count = resolved.layers.len();
            for (index, layer) in resolved.layers.iter().enumerate() {
                progress(Progress::Reading { index, count });
                let tree = blob(store, layer, index, &mut import.shared)?;
                progress(Progress::Writing { index, count });
                import.write(tree)?;
            }
        }
        (kind, _) => {
            progress(Progress::Reading { index: 0, count: 1 });
            let tree = root_file_system(kind, &mut import.shared)?;
            progress(Progress::Writing { index: 0, count: 1 });
            import.write(tree)?;
        }
    }
    import.programs.judge(options.architecture.as_deref())?;
    if import.layers.is_empty() {
        // An image of nothing is an image: its one layer has a root.
        import.write_always(Tree::default())?;
    }
    Ok(Image {
        layers: import.layers,
        process,
        architecture,
        notes: import.shared.notes.into_vec(),
    })
}

/// Writes the normalised tar of one layer over nothing: sorted, every parent listed, the same bytes for the same entries.
/// A temporary file in `spool_dir` holds the contents meanwhile.
///
/// # Errors
/// As [`import`], for one layer.
pub fn normalise(
    layer: impl std::io::Read,
    bounds: Bounds,
    policy: Policy,
    spool_dir: &Path,
    out: &mut dyn Write,
) -> Result<Vec<Note>, Error> {
    let mut shared = shared(bounds, policy, spool_dir)?;
    let tree = read_tar(layer, 0, &mut shared)?;
    emit::write(&tree, &shared.spool, out).map_err(Error::io("write the tar from", spool_dir))?;
    Ok(shared.notes.into_vec())
}

/// Writes a directory as such a tar, for instance one into which packages were unpacked.
///
/// # Errors
/// As [`import`], for a directory.
pub fn normalise_directory(
    directory: &Path,
    bounds: Bounds,
    policy: Policy,
    spool_dir: &Path,
    out: &mut dyn Write,
) -> Result<Vec<Note>, Error> {
    let mut shared = shared(bounds, policy, spool_dir)?;
    let tree = walk::tree(directory, &mut shared)?;
    emit::write(&tree, &shared.spool, out).map_err(Error::io("write the tar from", spool_dir))?;
    Ok(shared.notes.into_vec())
}

struct Import<'a> {
    shared: Shared,
    mkfs: &'a [OsString],
    out_dir: &'a Path,
    layers: Vec<LayerFile>,
    programs: Programs,
}

impl Import<'_> {
    fn write(&mut self, tree: Tree) -> Result<(), Error> {
        if tree.nodes().is_empty() {
            return Ok(());
        }
        self.write_always(tree)
    }

    fn write_always(&mut self, tree: Tree) -> Result<(), Error> {
        let path = self
            .out_dir
            .join(format!("layer-{}.erofs", self.layers.len()));
        self.programs
            .look(&tree, &self.shared.spool, self.out_dir)?;
        erofs::make(self.mkfs, &tree, &self.shared.spool, &path)?;
        let (size, id) = erofs::measure(&path)?;
        self.layers.push(LayerFile { path, size, id });
        self.shared.merged.apply(tree);
        Ok(())
    }
}

fn shared(bounds: Bounds, policy: Policy, spool_dir: &Path) -> Result<Shared, Error> {
    Ok(Shared {
        bounds,
        policy,
        spool: Spool::new(spool_dir)?,
        used: Used::default(),
        notes: Notes::default(),
        merged: Merged::default(),
    })
}

fn architecture(config: &[u8]) -> Result<String, Error> {
    let parsed: oci_spec::image::ImageConfiguration =
        serde_json::from_slice(config).map_err(|e| Error::Document {
            name: "the image configuration".to_owned(),
            why: e.to_string(),
        })?;
    Ok(parsed.architecture().to_string())
}

/// The tree of one layer of an image, its size and both digests checked.
fn blob(store: &Store, layer: &LayerRef, index: usize, shared: &mut Shared) -> Result<Tree, Error> {
    let wanted_by = format!("layer {index} of the manifest");
    let (reader, size) = store.open(&layer.name, &wanted_by)?;
    if let Some((_, stated)) = &layer.stated
        && *stated != size
    {
        return Err(Error::Size {
            name: layer.name.clone(),
            stated: *stated,
            found: size,
        });
    }
    if !layer.diff_id.starts_with("sha256:") {
        return Err(Error::DigestAlgorithm {
            digest: layer.diff_id.clone(),
        });
    }
    let at = format!("layer {index}");
    let plain = stream::decompress(reader, shared.bounds, &at)?;
    let (tallied, output) = Tallied::new(plain.reader);
    match read_tar(tallied, index, shared) {
        Ok(tree) => {
            if let Some((stated, _)) = &layer.stated {
                same(&layer.name, stated, plain.input.digest())?;
            }
            same(
                &format!("{} (diff_id)", layer.name),
                &layer.diff_id,
                output.digest(),
            )?;
            Ok(tree)
        }
        // Damage shows first as whatever the damaged bytes mean; the digest says what it is.
        Err(error @ (Error::Tar { .. } | Error::Decompress { .. })) => {
            let (reader, _) = store.open(&layer.name, &wanted_by)?;
            let (mut tallied, input) = Tallied::new(reader);
            stream::drain(&mut tallied, &at)?;
            if let Some((stated, _)) = &layer.stated {
                same(&layer.name, stated, input.digest())?;
            }
            Err(error)
        }
        Err(error) => Err(error),
    }
}

fn same(name: &str, stated: &str, found: String) -> Result<(), Error> {
    if stated == found {
        return Ok(());
    }
    Err(Error::Digest {
        name: name.to_owned(),
        stated: stated.to_owned(),
        found,
    })
}

fn root_file_system(kind: &SourceKind, shared: &mut Shared) -> Result<Tree, Error> {
    match kind {
        SourceKind::Directory(path) => walk::tree(path, shared),
        SourceKind::Tar(path) => {
            let file = File::open(path).map_err(Error::io("open", path))?;
            let plain = stream::decompress(file, shared.bounds, "layer 0")?;
            read_tar(plain.reader, 0, shared)
        }
        // These always resolve to a manifest; as a root file system they have nothing.
        SourceKind::Layout(_) | SourceKind::Docker(_) => Ok(Tree::default()),
    }
}

/// Reads a layer's tar to the end of its stream.
fn read_tar(layer: impl std::io::Read, index: usize, shared: &mut Shared) -> Result<Tree, Error> {
    let at = format!("layer {index}");
    let mut reader = TarReader::new(layer, shared.bounds, &at);
    let mut normaliser = Normaliser::new(shared, index, Whiteouts::Meant);
    while let Some(member) = reader.next()? {
        if let Some(content) = normaliser.add(&member)? {
            reader.content(&member, &mut |offset, bytes| {
                normaliser.write(content, offset, bytes)
            })?;
        }
    }
    stream::drain(&mut reader.into_inner(), &at)?;
    Ok(normaliser.finish())
}
