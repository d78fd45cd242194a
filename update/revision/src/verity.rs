//! fs-verity digests and Merkle trees, computed and checked in user space.
//!
//! One digest serves three checks: blocks while they download, the kernel on each later read, and
//! a boot that measures a whole revision. Parameters are fixed: SHA-256, 4 KiB blocks, no salt.
//!
//! **Tree.** A level is the concatenation of the 32-byte hashes of the blocks below it, cut into
//! blocks of 4 KiB and padded with zeros. Levels repeat until one block is left; its hash is the
//! root hash. In a file the levels stand from the root's down to the leaves'. A file of at most
//! one block has no levels: its root hash is the hash of that block, padded; an empty file's is zero.
//!
//! **Digest.** SHA-256 of a 256-byte descriptor: version 1, algorithm 1, log2 of the block size,
//! salt size 0, four zero bytes, size (u64 LE), root hash (64 bytes, zero padded), zeros.
//!
//! Source: Linux `Documentation/filesystems/fsverity.rst`, `include/uapi/linux/fsverity.h`.

use crate::error::Error;
use crate::id::ObjectId;
use sha2::{Digest, Sha256};

/// Bytes of a data block and of a tree block.
pub const BLOCK: usize = 4096;
/// Bytes of a hash.
const HASH: usize = 32;
/// Hashes that one tree block holds.
const HASHES_PER_BLOCK: u64 = 128;
/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 256;

type Hash = [u8; HASH];

/// Hash of one block, shorter ones padded with zeros.
fn hash_block(block: &[u8]) -> Hash {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let mut hasher = Sha256::new();
    hasher.update(block);
    hasher.update(ZEROS.get(block.len()..).unwrap_or_default());
    hasher.finalize().into()
}

/// The descriptor of an object of `size` bytes with this root hash.
#[must_use]
pub fn descriptor(size: u64, root_hash: &[u8; 32]) -> [u8; DESCRIPTOR] {
    let mut bytes = [0_u8; DESCRIPTOR];
    let fields: [&[u8]; 4] = [&[1, 1, 12, 0], &[0; 4], &size.to_le_bytes(), root_hash];
    for (to, from) in bytes.iter_mut().zip(fields.iter().copied().flatten()) {
        *to = *from;
    }
    bytes
}

/// The id that a descriptor gives.
fn id_of(size: u64, root_hash: &Hash) -> ObjectId {
    ObjectId::from_digest(Sha256::digest(descriptor(size, root_hash)).into())
}

/// The id of bytes that are at hand.
#[must_use]
pub fn digest(bytes: &[u8]) -> ObjectId {
    let mut builder = Builder::new();
    builder.update(bytes);
    builder.finish().id
}

/// Bytes of the Merkle tree of an object of `size` bytes.
#[must_use]
pub fn tree_size(size: u64) -> u64 {
    let block = u64::try_from(BLOCK).unwrap_or(u64::MAX);
    let mut blocks = size.div_ceil(block);
    let mut total = 0_u64;
    while blocks > 1 {
        blocks = blocks.div_ceil(HASHES_PER_BLOCK);
        total = total.saturating_add(blocks.saturating_mul(block));
    }
    total
}

/// Everything that sealing or serving an object needs beside its bytes.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The object's id.
    pub id: ObjectId,
    /// Its size, bytes.
    pub size: u64,
    /// Its Merkle tree, root level first; empty for an object of at most one block.
    pub tree: Vec<u8>,
    /// Its descriptor.
    pub descriptor: [u8; DESCRIPTOR],
}

/// Computes id and tree of an object from its bytes as they come.
///
/// Memory: one block, and 1/127 of the bytes seen for the tree.
#[derive(Debug)]
pub struct Builder {
    block: Vec<u8>,
    /// Hashes of each level, leaves first, without padding.
    levels: Vec<Vec<u8>>,
    size: u64,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// For an object of which no byte has been seen.
    #[must_use]
    pub fn new() -> Self {
        Self {
            block: Vec::with_capacity(BLOCK),
            levels: vec![Vec::new()],
            size: 0,
        }
    }

    /// Takes the next bytes, any number of them.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.size = self
            .size
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.block.is_empty() {
            // Whole blocks are hashed where they are.
            while let Some((block, rest)) = bytes.split_at_checked(BLOCK) {
                self.leaf(&hash_block(block));
                bytes = rest;
            }
        }
        while !bytes.is_empty() {
            let room = BLOCK.saturating_sub(self.block.len());
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            bytes = rest;
            if self.block.len() == BLOCK {
                let hash = hash_block(&self.block);
                self.leaf(&hash);
                self.block.clear();
            }
        }
    }

    fn leaf(&mut self, hash: &Hash) {
        if let Some(leaves) = self.levels.first_mut() {
            leaves.extend_from_slice(hash);
        }
    }

    /// The id, tree and descriptor of what was seen.
    #[must_use]
    pub fn finish(mut self) -> Sealed {
        if !self.block.is_empty() {
            let hash = hash_block(&self.block);
            self.leaf(&hash);
        }
        let mut root = [0_u8; HASH];
        while let Some(last) = self.levels.last() {
            if last.len() <= HASH {
                if let Ok(only) = Hash::try_from(last.as_slice()) {
                    root = only;
                }
                break;
            }
            let above = last.chunks(BLOCK).flat_map(hash_block).collect();
            self.levels.push(above);
        }
        // The last level is the root hash itself, which is no part of the tree.
        self.levels.pop();
        let mut tree = Vec::new();
        for level in self.levels.iter().rev() {
            tree.extend_from_slice(level);
            tree.resize(tree.len().next_multiple_of(BLOCK), 0);
        }
        Sealed {
            id: id_of(self.size, &root),
            size: self.size,
            tree,
            descriptor: descriptor(self.size, &root),
        }
    }
}

/// The Merkle tree of an object, checked against its id and size: judges each block on arrival.
#[derive(Debug)]
pub struct Tree {
    id: ObjectId,
    size: u64,
    /// Hashes of the data blocks, with the padding of the last tree block.
    leaves: Vec<u8>,
}

impl Tree {
    /// Checks `tree` (as [`Sealed::tree`] has it) from the root down.
    ///
    /// # Errors
    /// [`Error::Tree`] if it is not the tree of the object `id` of `size` bytes. An object of at most
    /// one block has an empty tree; its one block is then judged by the id alone, and an empty one here.
    pub fn open(id: ObjectId, size: u64, tree: &[u8]) -> Result<Self, Error> {
        let bad = || Error::Tree { id };
        if u64::try_from(tree.len()).ok() != Some(tree_size(size)) {
            return Err(bad());
        }
        let mut above: Option<&[u8]> = None;
        let mut rest = tree;
        for blocks in level_blocks(size) {
            let length = usize::try_from(blocks)
                .ok()
                .and_then(|blocks| blocks.checked_mul(BLOCK))
                .ok_or_else(bad)?;
            let (level, below) = rest.split_at_checked(length).ok_or_else(bad)?;
            let mut hashes = level.chunks(BLOCK).map(hash_block);
            let good = match above {
                None => hashes.next().is_some_and(|root| id_of(size, &root) == id),
                Some(expected) => hashes
                    .zip(expected.chunks(HASH))
                    .all(|(hash, expected)| hash == expected),
            };
            if !good {
                return Err(bad());
            }
            above = Some(level);
            rest = below;
        }
        // No block of an empty object will ever be checked: its id is judged now or never.
        if size == 0 && id_of(0, &[0; HASH]) != id {
            return Err(bad());
        }
        Ok(Self {
            id,
            size,
            leaves: above.unwrap_or_default().to_vec(),
        })
    }

    /// Number of data blocks of the object.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(u64::try_from(BLOCK).unwrap_or(u64::MAX))
    }

    /// Checks data block `block`: 4096 bytes, or what is left of the object for the last one.
    ///
    /// # Errors
    /// [`Error::Block`] if the bytes are not that block's.
    pub fn check(&self, block: u64, bytes: &[u8]) -> Result<(), Error> {
        let start = block.saturating_mul(u64::try_from(BLOCK).unwrap_or(u64::MAX));
        let expected_length = self
            .size
            .saturating_sub(start)
            .min(u64::try_from(BLOCK).unwrap_or(u64::MAX));
        let good = u64::try_from(bytes.len()).ok() == Some(expected_length)
            && expected_length > 0
            && if self.leaves.is_empty() {
                id_of(self.size, &hash_block(bytes)) == self.id
            } else {
                usize::try_from(block)
                    .ok()
                    .and_then(|block| self.leaves.chunks(HASH).nth(block))
                    .is_some_and(|expected| hash_block(bytes) == expected)
            };
        if good {
            Ok(())
        } else {
            Err(Error::Block { id: self.id, block })
        }
    }
}

/// Blocks of each level, from the root's (one) down to the leaves'.
fn level_blocks(size: u64) -> Vec<u64> {
    let mut blocks = size.div_ceil(u64::try_from(BLOCK).unwrap_or(u64::MAX));
    let mut levels = Vec::new();
    while blocks > 1 {
        blocks = blocks.div_ceil(HASHES_PER_BLOCK);
        levels.push(blocks);
    }
    levels.reverse();
    levels
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes without a period of a block's length, so that swapped blocks are noticed.
    fn sample(size: usize) -> Vec<u8> {
        (0..size)
            .map(|i| u8::try_from((i * 7 + i / 4096 * 13) % 256).unwrap())
            .collect()
    }

    #[test]
    fn digests_are_those_of_the_fsverity_tool() {
        // `fsverity digest FILE` of fsverity-utils 1.5 on files of zeros.
        for (size, expected) in [
            (
                0,
                "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
            ),
            (
                1,
                "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551",
            ),
            (
                4096,
                "babc284ee4ffe7f449377fbf6692715b43aec7bc39c094a95878904d34bac97e",
            ),
            (
                4097,
                "093756e4ea9683329106d4a16982682ed182c14bf076463a9e7f97305cbac743",
            ),
            (
                1_000_000,
                "5829f7f4451bf83dd61618787a0dfc11d5eaab032ae8b26d2d98945a06a69c9e",
            ),
        ] {
            assert_eq!(digest(&vec![0; size]).hex(), expected, "{size} zeros");
        }
    }

    #[test]
    fn every_block_is_judged_and_none_passes_for_another() {
        for size in [
            1,
            4095,
            4096,
            4097,
            8192,
            128 * 4096,
            128 * 4096 + 1,
            300 * 4096 + 5,
        ] {
            let bytes = sample(size);
            let mut builder = Builder::new();
            builder.update(&bytes);
            let sealed = builder.finish();
            assert_eq!(tree_size(sealed.size), sealed.tree.len() as u64);
            let tree = Tree::open(sealed.id, sealed.size, &sealed.tree).unwrap();
            for (n, block) in bytes.chunks(BLOCK).enumerate() {
                tree.check(n as u64, block).unwrap();
                assert!(tree.check(n as u64 + 1, block).is_err());
                let mut flipped = block.to_vec();
                flipped[block.len() / 2] ^= 1;
                assert!(tree.check(n as u64, &flipped).is_err());
                assert!(tree.check(n as u64, &block[1..]).is_err());
            }
        }
    }

    #[test]
    fn a_lying_tree_is_refused() {
        let mut builder = Builder::new();
        builder.update(&sample(300 * 4096));
        let sealed = builder.finish();
        for at in (0..sealed.tree.len()).step_by(997) {
            let mut tree = sealed.tree.clone();
            tree[at] ^= 0x80;
            assert!(
                Tree::open(sealed.id, sealed.size, &tree).is_err(),
                "byte {at}"
            );
        }
        assert!(Tree::open(sealed.id, sealed.size + 1, &sealed.tree).is_err());
        assert!(Tree::open(sealed.id, sealed.size, &sealed.tree[4096..]).is_err());
        assert!(Tree::open(sealed.id, u64::MAX, &sealed.tree).is_err());
    }

    #[test]
    fn an_empty_object_passes_for_no_other() {
        Tree::open(digest(b""), 0, &[]).unwrap();
        Tree::open(digest(b"x"), 0, &[]).unwrap_err();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_id_does_not_depend_on_how_bytes_come(
            size in 0_usize..40_000,
            cuts in prop::collection::vec(1_usize..9000, 1..20),
        ) {
            let bytes = sample(size);
            let mut builder = Builder::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                builder.update(now);
                rest = later;
            }
            prop_assert_eq!(builder.finish().id, digest(&bytes));
        }
    }
}
