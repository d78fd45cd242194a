//! The entries of one layer, sorted, with every directory above them.
//!
//! Invariants: every key's ancestors are keys and directories; hard links are the same `Rc`. Replacing follows what Docker and
//! containerd do when they unpack: the last entry of a name holds, a directory over a directory keeps the children, and anything
//! else removes what was there, also what lower layers have (so a directory that replaces something is opaque).

use std::collections::BTreeMap;
use std::rc::Rc;

use super::spool::Content;
use crate::archive::Mtime;

/// Mode bits, owner, time and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u16,
    pub(crate) uid: u16,
    pub(crate) gid: u16,
    pub(crate) mtime: Mtime,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    /// What a directory has that no layer lists.
    pub(crate) fn implied() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            xattrs: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeafKind {
    File(Content),
    Symlink(Vec<u8>),
    Fifo,
    Character(u32, u32),
    Block(u32, u32),
}

/// Anything but a directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) meta: Meta,
    pub(crate) kind: LeafKind,
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
    Directory { meta: Meta, opaque: bool },
    Leaf(Rc<Leaf>),
    Whiteout,
}

pub(crate) type Nodes = BTreeMap<Vec<u8>, Node>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: Nodes,
}

impl Tree {
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    pub(crate) fn nodes_mut(&mut self) -> &mut Nodes {
        &mut self.nodes
    }

    pub(crate) fn into_nodes(self) -> Nodes {
        self.nodes
    }

    /// Puts a node at a path whose directories are there.
    pub(crate) fn insert(&mut self, path: Vec<u8>, mut node: Node) {
        match (self.nodes.get_mut(&path), &mut node) {
            (Some(Node::Directory { opaque: old, .. }), Node::Directory { opaque, .. }) => {
                *opaque |= *old;
            }
            (Some(Node::Directory { opaque, .. }), Node::Whiteout) => {
                // A whiteout concerns lower layers only, never its own.
                *opaque = true;
                return;
            }
            (Some(Node::Directory { .. }), Node::Leaf(_)) => remove_below(&mut self.nodes, &path),
            (Some(Node::Leaf(_)), Node::Whiteout) => return,
            (Some(Node::Leaf(_) | Node::Whiteout), Node::Directory { opaque, .. }) => {
                *opaque = true;
            }
            (Some(Node::Leaf(_) | Node::Whiteout), Node::Leaf(_))
            | (Some(Node::Whiteout), Node::Whiteout)
            | (None, _) => {}
        }
        self.nodes.insert(path, node);
    }
}

/// Removes everything below a path, not the path itself.
pub(crate) fn remove_below(nodes: &mut Nodes, path: &[u8]) {
    if path.is_empty() {
        nodes.retain(|p, _| p.is_empty());
        return;
    }
    // `0` follows `/`: the range holds exactly what starts with `path/`.
    let (mut from, mut to) = (path.to_vec(), path.to_vec());
    from.push(b'/');
    to.push(b'0');
    let below: Vec<_> = nodes.range(from..to).map(|(p, _)| p.clone()).collect();
    for path in below {
        nodes.remove(&path);
    }
}
