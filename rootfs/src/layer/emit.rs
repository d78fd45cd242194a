//! A tree as a tar: the same tree gives the same bytes.
//!
//! Entries sorted by path; the root first, as `./`, because mkfs.erofs makes a root or parent that is not listed world-writable.
//! An opaque mark stands directly after its directory. Of files with several names the first is the file, the others link to it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::rc::Rc;

use super::path;
use super::spool::Spool;
use super::tree::{Leaf, LeafKind, Meta, Node, Tree};
use crate::archive::{Fields, Kind, Mtime, TarWriter};

/// Writes the tar.
pub(crate) fn write(tree: &Tree, spool: &Spool, sink: impl Write) -> io::Result<()> {
    let mut tar = TarWriter::new(sink);
    let root = Node::Directory {
        meta: Meta::implied(),
        opaque: false,
    };
    if tree.get(&[]).is_none() {
        node(&mut tar, spool, &mut BTreeMap::new(), &[], &root)?;
    }
    let mut first_names = BTreeMap::new();
    for (path, n) in tree.nodes() {
        node(&mut tar, spool, &mut first_names, path, n)?;
    }
    tar.finish().map(drop)
}

/// The latest time in the tree: `SOURCE_DATE_EPOCH` must not be before it, or mkfs.erofs clamps times to it.
pub(crate) fn latest(tree: &Tree) -> u64 {
    let time = |node: &Node| match node {
        Node::Directory { meta, .. } => meta.mtime.seconds,
        Node::Leaf(leaf) => leaf.meta.mtime.seconds,
        Node::Whiteout => 0,
    };
    // One more, so that nothing with a fraction of a second lies behind it.
    tree.nodes()
        .values()
        .map(time)
        .max()
        .unwrap_or(0)
        .saturating_add(1)
}

type FirstNames<'t> = BTreeMap<*const Leaf, &'t [u8]>;

fn node<'t, W: Write>(
    tar: &mut TarWriter<W>,
    spool: &Spool,
    first_names: &mut FirstNames<'t>,
    path: &'t [u8],
    node: &Node,
) -> io::Result<()> {
    match node {
        Node::Directory { meta, opaque } => {
            let name = if path.is_empty() {
                b"./".to_vec()
            } else {
                [path, b"/"].concat()
            };
            tar.member(&fields(&name, &Kind::Directory, meta, 0), &mut io::empty())?;
            if *opaque {
                mark(tar, &path::join(path, path::OPAQUE))?;
            }
            Ok(())
        }
        Node::Whiteout => {
            let (directory, name) = path::split(path);
            mark(
                tar,
                &path::join(directory, &[path::WHITEOUT, name].concat()),
            )
        }
        Node::Leaf(leaf) => {
            let (kind, size) = match &leaf.kind {
                LeafKind::File(content) => match first_names.get(&Rc::as_ptr(leaf)) {
                    Some(first) => (Kind::HardLink(first.to_vec()), 0),
                    None => (Kind::Regular, content.size),
                },
                LeafKind::Symlink(target) => (Kind::Symlink(target.clone()), 0),
                LeafKind::Fifo => (Kind::Fifo, 0),
                LeafKind::Character(major, minor) => (Kind::Character(*major, *minor), 0),
                LeafKind::Block(major, minor) => (Kind::Block(*major, *minor), 0),
            };
            first_names.entry(Rc::as_ptr(leaf)).or_insert(path);
            let mut content: Box<dyn Read> = match &leaf.kind {
                LeafKind::File(content) => Box::new(spool.reader(*content)),
                LeafKind::Symlink(_)
                | LeafKind::Fifo
                | LeafKind::Character(..)
                | LeafKind::Block(..) => Box::new(io::empty()),
            };
            let mut fields = fields(path, &kind, &leaf.meta, size);
            if matches!(kind, Kind::HardLink(_)) {
                // They are the inode's, and said once.
                fields.xattrs = &[];
            }
            tar.member(&fields, &mut content)
        }
    }
}

fn fields<'f>(path: &'f [u8], kind: &'f Kind, meta: &'f Meta, size: u64) -> Fields<'f> {
    Fields {
        path,
        kind,
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        xattrs: &meta.xattrs,
        size,
    }
}

/// An empty file of a name that means a whiteout.
fn mark<W: Write>(tar: &mut TarWriter<W>, name: &[u8]) -> io::Result<()> {
    let fields = Fields {
        path: name,
        kind: &Kind::Regular,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Mtime::default(),
        xattrs: &[],
        size: 0,
    };
    tar.member(&fields, &mut io::empty())
}
