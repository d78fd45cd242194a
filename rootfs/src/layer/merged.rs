//! What the layers so far amount to: the view into which the next layer is resolved.
//!
//! The same that overlayfs shows for them. Whiteouts and opaque marks are applied and not kept.

use super::tree::{Node, Nodes, Tree, remove_below};

#[derive(Debug, Default)]
pub(crate) struct Merged {
    nodes: Nodes,
}

impl Merged {
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Names directly below the root.
    pub(crate) fn top_level(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.nodes
            .keys()
            .filter(|p| !p.is_empty() && !p.contains(&b'/'))
    }

    /// Lays a layer over.
    pub(crate) fn apply(&mut self, layer: Tree) {
        for (path, node) in layer.into_nodes() {
            let clears = match &node {
                Node::Directory { opaque, .. } => {
                    *opaque || !matches!(self.nodes.get(&path), Some(Node::Directory { .. }))
                }
                Node::Leaf(_) | Node::Whiteout => true,
            };
            if clears && self.nodes.contains_key(&path) {
                remove_below(&mut self.nodes, &path);
            }
            match node {
                Node::Directory { meta, .. } => {
                    self.nodes.insert(
                        path,
                        Node::Directory {
                            meta,
                            opaque: false,
                        },
                    );
                }
                Node::Leaf(leaf) => {
                    self.nodes.insert(path, Node::Leaf(leaf));
                }
                Node::Whiteout => {
                    self.nodes.remove(&path);
                }
            }
        }
    }
}
