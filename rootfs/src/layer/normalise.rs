//! Judges the entries of one layer and builds its tree.
//!
//! Names are resolved as containerd and Docker do: an entry `lib/x` over a lower layer whose `lib` is a symbolic link to `usr/lib` lands in
//! `usr/lib/x`; links are followed inside the image's root only. A link of the *same* layer is never followed: no ordinary
//! tool writes through one, and every escape does.

use std::collections::VecDeque;
use std::rc::Rc;

use super::merged::Merged;
use super::path::{self, Unclean};
use super::spool::{Content, Spool};
use super::tree::{Leaf, LeafKind, Meta, Node, Tree};
use super::xattr;
use crate::archive::{Kind, Member};
use crate::bounds::{Bounds, Limit, Used, check, len};
use crate::error::{EntryFault, Error};
use crate::note::{Note, Notes};
use crate::options::{Devices, Owners, Policy, SetId};

/// As many links as Linux follows (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// What all layers of one image share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) bounds: Bounds,
    pub(crate) policy: Policy,
    pub(crate) spool: Spool,
    pub(crate) used: Used,
    pub(crate) notes: Notes,
    pub(crate) merged: Merged,
}

/// Whether names may mean whiteouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whiteouts {
    /// A layer: `.wh.` names are whiteouts.
    Meant,
    /// A root file system: such a name is an error, because mkfs.erofs would take it for one.
    Refused,
}

/// Builds the tree of one layer.
#[derive(Debug)]
pub(crate) struct Normaliser<'a> {
    shared: &'a mut Shared,
    layer: usize,
    whiteouts: Whiteouts,
    tree: Tree,
}

impl<'a> Normaliser<'a> {
    pub(crate) fn new(shared: &'a mut Shared, layer: usize, whiteouts: Whiteouts) -> Self {
        Self {
            shared,
            layer,
            whiteouts,
            tree: Tree::default(),
        }
    }

    /// Judges a member and puts it in its place. For a regular file, returns where its content is to be written.
    pub(crate) fn add(&mut self, member: &Member) -> Result<Option<Content>, Error> {
        let at = format!("layer {}, entry {}", self.layer, path::show(&member.path));
        self.place(member, &at).map_err(|e| match e {
            Unclean::Bound(error) => error,
            Unclean::Fault(fault) => Error::Entry {
                layer: self.layer,
                path: path::show(&member.path),
                fault,
            },
        })
    }

    /// Writes a piece of the content of a file that `add` placed.
    pub(crate) fn write(&self, content: Content, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.shared.spool.write(content, at, bytes)
    }

    /// The tree, with whiteouts of nothing taken out.
    pub(crate) fn finish(mut self) -> Tree {
        self.spread_opaque_root();
        let mut tree = std::mem::take(&mut self.tree);
        let hidden: Vec<_> = tree
            .nodes()
            .iter()
            .filter(|(p, n)| {
                matches!(n, Node::Whiteout) && below(&tree, &self.shared.merged, p).is_none()
            })
            .map(|(p, _)| p.clone())
            .collect();
        for path in hidden {
            tree.nodes_mut().remove(&path);
        }
        for (path, node) in tree.nodes_mut() {
            if let Node::Directory { opaque, .. } = node {
                *opaque &= matches!(self.shared.merged.get(path), Some(Node::Directory { .. }));
            }
        }
        tree
    }

    /// overlayfs merges the layers' roots without looking at their marks: what an opaque root hides is hidden name by name.
    fn spread_opaque_root(&mut self) {
        if !matches!(
            self.tree.get(&[]),
            Some(Node::Directory { opaque: true, .. })
        ) {
            return;
        }
        if let Some(Node::Directory { opaque, .. }) = self.tree.nodes_mut().get_mut(&[][..]) {
            *opaque = false;
        }
        for name in self.shared.merged.top_level() {
            self.tree.insert(name.clone(), Node::Whiteout);
        }
    }

    fn place(&mut self, member: &Member, at: &str) -> Result<Option<Content>, Unclean> {
        let bounds = self.shared.bounds;
        let clean = path::clean(&member.path, &bounds, at)?;
        let (directory, name) = path::split(&clean);
        let judged = xattr::judge(&member.xattrs, &bounds, at)?;
        let metadata = clean.len()
            + judged
                .kept
                .iter()
                .map(|(n, v)| n.len() + v.len())
                .sum::<usize>();
        self.shared
            .used
            .take(&bounds, len(metadata), member.size, at)?;
        if name.is_empty() {
            return self.root(member, judged).map(|()| None);
        }
        if path::components(directory).any(|c| c.starts_with(path::AUFS)) {
            self.leave_out(&clean);
            return Ok(None);
        }
        if name.starts_with(path::WHITEOUT) {
            return self.whiteout(directory, name, at).map(|()| None);
        }
        if member.kind == Kind::Character(0, 0) {
            // A whiteout as overlayfs has it.
            check(
                len(name.len() + path::WHITEOUT.len()),
                len(bounds.name),
                Limit::Name,
                at,
            )?;
            return self
                .whiteout(directory, &[path::WHITEOUT, name].concat(), at)
                .map(|()| None);
        }
        let directory = self.directory(directory, at)?;
        let target = path::join(&directory, name);
        let (node, content) = self.node(member, judged, &target, at)?;
        self.tree.insert(target, node);
        Ok(content)
    }

    fn root(&mut self, member: &Member, judged: xattr::Judged) -> Result<(), Unclean> {
        if member.kind != Kind::Directory {
            return Err(EntryFault::Root.into());
        }
        let meta = self.meta(member, judged, &[])?;
        self.tree.insert(
            Vec::new(),
            Node::Directory {
                meta,
                opaque: false,
            },
        );
        Ok(())
    }

    fn whiteout(&mut self, directory: &[u8], name: &[u8], at: &str) -> Result<(), Unclean> {
        if self.whiteouts == Whiteouts::Refused {
            return Err(EntryFault::ReservedName.into());
        }
        let directory = self.directory(directory, at)?;
        if name == path::OPAQUE {
            if let Some(Node::Directory { opaque, .. }) = self.tree.nodes_mut().get_mut(&directory)
            {
                *opaque = true;
            }
            return Ok(());
        }
        if name.starts_with(path::AUFS) {
            self.leave_out(&path::join(&directory, name));
            return Ok(());
        }
        match name.strip_prefix(path::WHITEOUT) {
            None | Some(b"" | b"." | b"..") => Err(EntryFault::Whiteout.into()),
            Some(hidden) => {
                self.tree
                    .insert(path::join(&directory, hidden), Node::Whiteout);
                Ok(())
            }
        }
    }

    fn leave_out(&mut self, path: &[u8]) {
        let path = path::show(path);
        self.shared.notes.add(Note::LeftOut {
            layer: self.layer,
            path,
        });
    }

    /// The node of a member, and for a new file its place in the spool.
    fn node(
        &mut self,
        member: &Member,
        judged: xattr::Judged,
        target: &[u8],
        at: &str,
    ) -> Result<(Node, Option<Content>), Unclean> {
        if let Kind::HardLink(link) = &member.kind {
            return Ok((Node::Leaf(self.hard_link(link, target, at)?), None));
        }
        let meta = self.meta(member, judged, target)?;
        let kind = match &member.kind {
            Kind::Directory => {
                return Ok((
                    Node::Directory {
                        meta,
                        opaque: false,
                    },
                    None,
                ));
            }
            Kind::Regular => LeafKind::File(self.shared.spool.reserve(member.size)?),
            Kind::Symlink(link) => LeafKind::Symlink(self.link_target(link, at)?),
            Kind::Fifo => LeafKind::Fifo,
            Kind::Character(major, minor) if self.shared.policy.devices == Devices::Keep => {
                LeafKind::Character(*major, *minor)
            }
            Kind::Block(major, minor) if self.shared.policy.devices == Devices::Keep => {
                LeafKind::Block(*major, *minor)
            }
            Kind::Character(..) | Kind::Block(..) => return Err(EntryFault::Device.into()),
            Kind::HardLink(link) => return Err(EntryFault::HardLinkAbsent(path::show(link)).into()),
        };
        let content = if let LeafKind::File(content) = kind {
            Some(content)
        } else {
            None
        };
        Ok((Node::Leaf(Rc::new(Leaf { meta, kind })), content))
    }

    fn link_target(&mut self, link: &[u8], at: &str) -> Result<Vec<u8>, Unclean> {
        check(
            len(link.len()),
            len(self.shared.bounds.link),
            Limit::Link,
            at,
        )?;
        if link.is_empty() {
            return Err(EntryFault::EmptyTarget.into());
        }
        if link.contains(&0) {
            return Err(EntryFault::NulByte.into());
        }
        let bounds = self.shared.bounds;
        self.shared.used.hold(&bounds, len(link.len()), at)?;
        Ok(link.to_vec())
    }

    fn hard_link(&mut self, link: &[u8], own: &[u8], at: &str) -> Result<Rc<Leaf>, Unclean> {
        let outside = |fault| match fault {
            Unclean::Fault(EntryFault::AbsolutePath | EntryFault::DotDot) => {
                Unclean::Fault(EntryFault::HardLinkOutside(path::show(link)))
            }
            Unclean::Fault(EntryFault::EmptyName) => {
                Unclean::Fault(EntryFault::HardLinkAbsent(String::new()))
            }
            Unclean::Fault(_) | Unclean::Bound(_) => fault,
        };
        let clean = path::clean(link, &self.shared.bounds, at).map_err(outside)?;
        let (directory, name) = path::split(&clean);
        let target = path::join(&self.resolve(directory)?, name);
        match self.tree.get(&target) {
            Some(Node::Leaf(leaf)) => return Ok(Rc::clone(leaf)),
            Some(Node::Directory { .. }) => {
                return Err(EntryFault::HardLinkDirectory(path::show(&target)).into());
            }
            Some(Node::Whiteout) => {
                return Err(EntryFault::HardLinkAbsent(path::show(&target)).into());
            }
            None => {}
        }
        let leaf = match below(&self.tree, &self.shared.merged, &target) {
            Some(Node::Leaf(leaf)) => Rc::clone(leaf),
            Some(Node::Directory { .. }) => {
                return Err(EntryFault::HardLinkDirectory(path::show(&target)).into());
            }
            Some(Node::Whiteout) | None => {
                return Err(EntryFault::HardLinkAbsent(path::show(&target)).into());
            }
        };
        if let LeafKind::File(content) = &leaf.kind {
            // The copy takes room in this layer as well.
            let bounds = self.shared.bounds;
            self.shared.used.copy(&bounds, content.size, at)?;
        }
        self.shared.notes.add(Note::HardLinkCopied {
            layer: self.layer,
            path: path::show(own),
            target: path::show(&target),
        });
        Ok(leaf)
    }

    fn meta(
        &mut self,
        member: &Member,
        judged: xattr::Judged,
        target: &[u8],
    ) -> Result<Meta, Unclean> {
        let (layer, path) = (self.layer, || path::show(target));
        for name in judged.dropped {
            self.shared.notes.add(Note::XattrDropped {
                layer,
                path: path(),
                name,
            });
        }
        if judged.kept.iter().any(|(n, _)| n == b"security.capability") {
            self.shared.notes.add(Note::Capability {
                layer,
                path: path(),
            });
        }
        let mut mode = u16::try_from(member.mode & 0o7777).unwrap_or(0);
        let set_id = if member.kind == Kind::Regular {
            mode & 0o6000
        } else {
            0
        };
        if set_id != 0 {
            match self.shared.policy.set_id {
                SetId::Keep => self.shared.notes.add(Note::SetId {
                    layer,
                    path: path(),
                    mode,
                }),
                SetId::Strip => {
                    mode &= !set_id;
                    self.shared.notes.add(Note::SetIdStripped {
                        layer,
                        path: path(),
                    });
                }
            }
        }
        if matches!(member.kind, Kind::Symlink(_)) {
            // Linux shows links with all bits whatever an archive says.
            mode = 0o777;
        }
        let (uid, gid) = match self.shared.policy.owners {
            Owners::Keep => (id(member.uid)?, id(member.gid)?),
            Owners::Root => (0, 0),
        };
        Ok(Meta {
            mode,
            uid,
            gid,
            mtime: member.mtime,
            xattrs: judged.kept,
        })
    }

    /// Resolves a directory and makes sure that it and everything above it are in the tree.
    fn directory(&mut self, directory: &[u8], at: &str) -> Result<Vec<u8>, Unclean> {
        let resolved = self.resolve(directory)?;
        if matches!(self.tree.get(&resolved), Some(Node::Directory { .. })) {
            return Ok(resolved);
        }
        let missing: Vec<_> = path::ancestors(&resolved)
            .chain([&resolved[..]])
            .map(<[u8]>::to_vec)
            .collect();
        for path in missing {
            if matches!(self.tree.get(&path), Some(Node::Directory { .. })) {
                continue;
            }
            let replaces = self.tree.get(&path).is_some();
            let meta = match below(&self.tree, &self.shared.merged, &path) {
                Some(Node::Directory { meta, .. }) if !replaces => meta.clone(),
                Some(_) | None => Meta::implied(),
            };
            let bounds = self.shared.bounds;
            self.shared.used.take(&bounds, len(path.len()), 0, at)?;
            self.tree.insert(
                path,
                Node::Directory {
                    meta,
                    opaque: false,
                },
            );
        }
        Ok(resolved)
    }

    /// Where a directory's name leads in this layer over the lower ones; what is missing leads where it says.
    fn resolve(&self, directory: &[u8]) -> Result<Vec<u8>, Unclean> {
        if matches!(self.tree.get(directory), Some(Node::Directory { .. })) {
            return Ok(directory.to_vec());
        }
        let mut rest: VecDeque<Vec<u8>> = path::components(directory).map(<[u8]>::to_vec).collect();
        let mut current = Vec::new();
        let mut links = 0;
        while let Some(component) = rest.pop_front() {
            if component == b".." {
                // Only a lower link's target has these; above the root is the root.
                current = path::split(&current).0.to_vec();
                continue;
            }
            let next = path::join(&current, &component);
            match self.tree.get(&next) {
                Some(Node::Directory { .. } | Node::Whiteout) => current = next,
                Some(Node::Leaf(leaf)) => return Err(in_the_way(leaf, &next).into()),
                None => match below(&self.tree, &self.shared.merged, &next) {
                    Some(Node::Directory { .. } | Node::Whiteout) | None => current = next,
                    Some(Node::Leaf(leaf)) => {
                        let LeafKind::Symlink(target) = &leaf.kind else {
                            return Err(in_the_way(leaf, &next).into());
                        };
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(EntryFault::SymlinkLoop.into());
                        }
                        if target.starts_with(b"/") {
                            current.clear();
                        }
                        for component in path::components(target).rev() {
                            rest.push_front(component.to_vec());
                        }
                    }
                },
            }
        }
        self.fits(&current)?;
        if path::components(&current).any(|c| c.starts_with(path::WHITEOUT)) {
            // mkfs.erofs would take it for a whiteout with something inside.
            return Err(EntryFault::Whiteout.into());
        }
        Ok(current)
    }

    /// Links can lead deeper than any stated name.
    fn fits(&self, path: &[u8]) -> Result<(), Unclean> {
        let (bounds, at) = (
            self.shared.bounds,
            path::show(path.get(..256).unwrap_or(path)),
        );
        check(len(path.len()), len(bounds.path), Limit::Path, &at)?;
        check(
            len(path::components(path).count()),
            len(bounds.depth),
            Limit::Depth,
            &at,
        )?;
        Ok(())
    }
}

fn in_the_way(leaf: &Leaf, path: &[u8]) -> EntryFault {
    match leaf.kind {
        LeafKind::Symlink(_) => EntryFault::SymlinkParent(path::show(path)),
        LeafKind::File(_) | LeafKind::Fifo | LeafKind::Character(..) | LeafKind::Block(..) => {
            EntryFault::FileParent(path::show(path))
        }
    }
}

/// What lower layers have at a path, unless this layer hides it.
fn below<'m>(tree: &Tree, merged: &'m Merged, path: &[u8]) -> Option<&'m Node> {
    for above in path::ancestors(path) {
        match tree.get(above) {
            None => break,
            Some(Node::Directory { opaque: false, .. }) => {}
            Some(Node::Directory { opaque: true, .. } | Node::Leaf(_) | Node::Whiteout) => {
                return None;
            }
        }
    }
    merged.get(path)
}

fn id(id: u64) -> Result<u16, Unclean> {
    u16::try_from(id).map_err(|_| EntryFault::Id(id).into())
}
