//! What travels to a device: a revision's documents and its objects, wherever those are: in a project's folder or in a
//! bundle. An object is read in pieces and never held as a whole; its tree is, at less than a hundredth of it.
//!
//! Signatures are not judged here: `kedge verify` does that, and the device.

use crate::compose::Composition;
use anyhow::{Context, Result, bail, ensure};
use kedge_revision::bundle::{DIGEST, Event, Fault, HEADER, Head, Kind, Parser};
use kedge_revision::parameters::Parameters;
use kedge_revision::verity::{self, BLOCK, Sealed, Tree, tree_size};
use kedge_revision::{Content, Envelope, Error, ObjectId};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const PIECE: usize = 256 * 1024;

/// A revision with its objects.
#[derive(Debug)]
pub struct Payload {
    head: Head,
    envelope: Envelope,
    id: ObjectId,
    places: BTreeMap<ObjectId, Place>,
}

/// Where an object is.
#[derive(Debug)]
enum Place {
    /// It is this file.
    File(PathBuf),
    /// In a bundle: where its tree and where its bytes begin.
    Bundle {
        path: PathBuf,
        tree: u64,
        bytes: u64,
    },
}

impl Payload {
    /// What was composed from a project.
    #[must_use]
    pub fn of(composition: &Composition) -> Self {
        let places = &composition.objects;
        Self {
            head: Head {
                revision: composition.document.clone(),
                signatures: composition.signatures.clone(),
                parameters: None,
            },
            envelope: composition.verified.envelope().clone(),
            id: composition.id,
            places: places
                .iter()
                .map(|(id, path)| (*id, Place::File(path.clone())))
                .collect(),
        }
    }

    /// Opens a bundle: its form is held to, its objects are passed over.
    ///
    /// # Errors
    /// It cannot be read, or is no bundle.
    pub fn open(path: &Path) -> Result<Self> {
        read_bundle(path).with_context(|| format!("{} cannot be used", path.display()))
    }

    /// The documents.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The revision as it is written; it is not judged.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The revision's id.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        self.id
    }

    /// What the revision says beside its envelope.
    ///
    /// # Errors
    /// It needs a newer `kedge` to be understood.
    pub fn content(&self) -> Result<Content> {
        self.envelope
            .content()
            .context("this kedge does not understand the revision's content")
    }

    /// The parameters that travel along.
    ///
    /// # Errors
    /// They are no document of their kind.
    pub fn parameters(&self) -> Result<Option<Parameters>> {
        let parse = |bytes: &Vec<u8>| Parameters::parse(bytes);
        let parameters = self.head.parameters.as_ref().map(parse).transpose();
        parameters.context("its parameters cannot be read")
    }

    /// Lets parameters travel along, in place of others.
    ///
    /// # Errors
    /// The revision does not declare them so.
    pub fn set_parameters(&mut self, parameters: &Parameters) -> Result<()> {
        parameters
            .check(&self.content()?.parameters)
            .context("the revision does not take these parameters")?;
        let document = parameters.encode().context("cannot encode them")?;
        ensure!(
            document.len() <= Parameters::CAP,
            "the parameters have {} bytes, over the cap of {}",
            document.len(),
            Parameters::CAP
        );
        self.head.parameters = Some(document);
        Ok(())
    }

    /// Size of an object that the revision lists, bytes.
    ///
    /// # Errors
    /// It lists no such object.
    pub fn size(&self, id: ObjectId) -> Result<u64> {
        let object = self.envelope.objects.get(&id);
        object
            .map(|object| object.size)
            .with_context(|| format!("the revision lists no object {id}"))
    }

    /// Bytes of the bundle that it makes.
    #[must_use]
    pub fn bundle_size(&self) -> u64 {
        let around = as_u64(2 * (HEADER + DIGEST));
        let objects = self.envelope.objects.values().map(|object| {
            let with_tree = object.size.saturating_add(tree_size(object.size));
            with_tree.saturating_add(around)
        });
        let ends = as_u64(self.head.encode().len()).saturating_add(as_u64(HEADER));
        objects.fold(ends, u64::saturating_add)
    }

    /// The Merkle tree of an object.
    ///
    /// # Errors
    /// It cannot be read, or is not the object's.
    pub fn tree(&self, id: ObjectId) -> Result<Vec<u8>> {
        let size = self.size(id)?;
        match self.place(id)? {
            Place::File(path) => {
                let sealed = measure(path)?;
                ensure!(
                    sealed.id == id,
                    "{} is damaged: it measures {}\nhelp: remove it; `kedge build` makes it again",
                    path.display(),
                    sealed.id
                );
                Ok(sealed.tree)
            }
            Place::Bundle { path, tree, .. } => {
                let length = usize::try_from(tree_size(size)).context("an object is too large")?;
                let mut bytes = vec![0; length];
                at(path, *tree)?
                    .read_exact(&mut bytes)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                Tree::open(id, size, &bytes).with_context(|| damaged(path))?;
                Ok(bytes)
            }
        }
    }

    /// The bytes of an object from `offset` on. In a bundle others follow them: the reader counts.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn reader(&self, id: ObjectId, offset: u64) -> Result<File> {
        match self.place(id)? {
            Place::File(path) => at(path, offset),
            Place::Bundle { path, bytes, .. } => at(path, bytes.saturating_add(offset)),
        }
    }

    /// Hands every block of an object to `take` once it is judged by the tree.
    ///
    /// # Errors
    /// It cannot be read, a block is not the object's, or whatever `take` says.
    pub fn blocks(
        &self,
        id: ObjectId,
        tree: &[u8],
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let size = self.size(id)?;
        let place = match self.place(id)? {
            Place::File(path) | Place::Bundle { path, .. } => path,
        };
        let tree = Tree::open(id, size, tree).with_context(|| damaged(place))?;
        let mut reader = BufReader::with_capacity(PIECE, self.reader(id, 0)?);
        let mut block = vec![0; BLOCK];
        for number in 0..tree.blocks() {
            let before = number.saturating_mul(as_u64(BLOCK));
            let length = usize::try_from(size.saturating_sub(before)).unwrap_or(BLOCK);
            let bytes = block.get_mut(..length.min(BLOCK)).unwrap_or_default();
            reader
                .read_exact(bytes)
                .with_context(|| format!("cannot read {}", place.display()))?;
            tree.check(number, bytes).with_context(|| damaged(place))?;
            take(bytes)?;
        }
        Ok(())
    }

    /// Judges every block of every object; `progress` is told how many bytes were good. Returns objects and bytes.
    ///
    /// # Errors
    /// As [`Payload::blocks`].
    pub fn check(&self, progress: &mut dyn FnMut(u64)) -> Result<(usize, u64)> {
        let mut total = 0_u64;
        for id in self.envelope.objects.keys() {
            self.blocks(*id, &self.tree(*id)?, &mut |block| {
                let count = as_u64(block.len());
                total = total.saturating_add(count);
                progress(count);
                Ok(())
            })?;
        }
        Ok((self.envelope.objects.len(), total))
    }

    fn place(&self, id: ObjectId) -> Result<&Place> {
        let place = self.places.get(&id);
        place.with_context(|| format!("object {id} is not at hand"))
    }
}

fn damaged(path: &Path) -> String {
    format!("{} is damaged", path.display())
}

fn at(path: &Path, offset: u64) -> Result<File> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    file.seek(SeekFrom::Start(offset)).with_context(cannot)?;
    Ok(file)
}

/// Id, size and tree of a file, read in pieces.
fn measure(path: &Path) -> Result<Sealed> {
    let mut file = at(path, 0)?;
    let mut builder = verity::Builder::new();
    let mut buffer = vec![0; PIECE];
    loop {
        let count = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        match buffer.get(..count) {
            Some(bytes) if count > 0 => builder.update(bytes),
            Some(_) | None => return Ok(builder.finish()),
        }
    }
}

/// The documents of a bundle and where its objects are.
fn read_bundle(path: &Path) -> Result<Payload> {
    let file = at(path, 0)?;
    let length = file.metadata().context("cannot look at it")?.len();
    // Small reads: between objects there are some dozen bytes.
    let mut reader = BufReader::with_capacity(4096, file);
    let mut parser = Parser::new();
    let mut places = BTreeMap::new();
    let mut trees = BTreeMap::new();
    loop {
        let input = reader.fill_buf().context("cannot read it")?;
        let mut rest = input;
        let begun = match parser.next(&mut rest)? {
            Event::More if input.is_empty() => break,
            Event::More | Event::Head | Event::End => None,
            Event::Tree(id, _) => Some((Kind::Tree, id)),
            Event::Object(id, _) => Some((Kind::Object, id)),
            Event::Bytes(_) => bail!("a section that was passed over has bytes"),
        };
        let used = input.len().saturating_sub(rest.len());
        reader.consume(used);
        let Some((kind, id)) = begun else { continue };
        let start = reader.stream_position().context("cannot read it")?;
        let skipped = parser.skip();
        if start.saturating_add(skipped) > length {
            return Err(Error::Bundle(Fault::Truncated(kind.word())).into());
        }
        let skipped = i64::try_from(skipped).context("an object is too large")?;
        reader.seek_relative(skipped).context("cannot read it")?;
        if kind == Kind::Tree {
            trees.insert(id, start);
        } else if let Some(tree) = trees.get(&id).copied() {
            let place = Place::Bundle {
                path: path.to_owned(),
                tree,
                bytes: start,
            };
            places.insert(id, place);
        }
    }
    parser.finish()?;
    let head = parser.head().clone();
    let envelope = parser.envelope().context("it holds no revision")?.clone();
    Ok(Payload {
        id: verity::digest(&head.revision),
        head,
        envelope,
        places,
    })
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
