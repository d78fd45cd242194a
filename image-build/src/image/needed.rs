//! Which blocks of a disk image have to come onto a medium, and which may keep what is there.
//!
//! Holes are no answer: a file system trusts that its empty tables are zero, and on a card that was used before they are
//! not, unless somebody writes the zeros. So a block is left out only if its own file system calls it free: ext4 by its
//! bitmaps, FAT by its table. Whatever else there is, partition tables, gaps, the boot record, is needed.

use super::gpt::{self, Partition};
use crate::bmap::{BLOCK, Map, Range};
use crate::{process, tools};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Partitions with a file system whose free blocks are known.
const EXT4: &str = "data";
const FAT: [&str; 2] = ["slot-a", "slot-b"];

/// The block map of a disk image of ours.
///
/// # Errors
/// It cannot be read, has no partitions, or holds a file system that cannot be understood.
pub fn map(disk: &Path) -> Result<Map> {
    let file = File::open(disk).with_context(|| format!("cannot open {}", disk.display()))?;
    let partitions = gpt::read(&file)?;
    let size = file.metadata().context("cannot look at it")?.len();
    let mut needed = vec![true; usize::try_from(size.div_ceil(BLOCK))?];
    for partition in &partitions {
        let name = partition.name.as_str();
        let free = if name == EXT4 {
            free_of_ext4(disk, partition)
        } else if FAT.contains(&name) {
            free_of_fat(&file, partition)
        } else {
            continue;
        };
        for range in free.with_context(|| format!("cannot tell what is free of {name}"))? {
            leave_out(&mut needed, partition, &range);
        }
    }
    let mut ranges = Vec::new();
    let mut at = 0;
    for run in needed.chunk_by(|one, other| one == other) {
        let length = u64::try_from(run.len())?;
        if run.first() == Some(&true) {
            let last = at + length - 1;
            let end = (last + 1).saturating_mul(BLOCK).min(size);
            ranges.push(Range {
                first: at,
                last,
                sum: sum(&file, at.saturating_mul(BLOCK)..end)
                    .with_context(|| format!("cannot read {}", disk.display()))?,
            });
        }
        at += length;
    }
    Map::new(size, BLOCK, ranges)
}

/// Marks the blocks that lie in `free`, bytes of the partition, and in it, as a whole.
fn leave_out(needed: &mut [bool], partition: &Partition, free: &std::ops::Range<u64>) {
    let place = |offset: u64| partition.offset.saturating_add(offset.min(partition.size));
    let blocks = place(free.start).div_ceil(BLOCK)..place(free.end) / BLOCK;
    let number = |block| usize::try_from(block).unwrap_or(usize::MAX);
    let blocks = number(blocks.start)..number(blocks.end);
    needed.get_mut(blocks).unwrap_or_default().fill(false);
}

fn sum(file: &File, bytes: std::ops::Range<u64>) -> std::io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = bytes.start;
    while at < bytes.end {
        let length = usize::try_from(bytes.end - at).unwrap_or(usize::MAX);
        let length = length.min(buffer.len());
        let piece = buffer.get_mut(..length).unwrap_or_default();
        file.read_exact_at(piece, at)?;
        hash.update(piece);
        at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
    Ok(hash.finalize().into())
}

/// Blocks that the bitmaps call free, bytes of the partition; debugfs reads them.
fn free_of_ext4(disk: &Path, partition: &Partition) -> Result<Vec<std::ops::Range<u64>>> {
    let place = format!("{}?offset={}", disk.display(), partition.offset);
    let ask = |request: &str| {
        let mut debugfs = tools::debugfs()?.command();
        process::text(debugfs.args(["-R", request]).arg(&place))
    };
    let head = ask("stats -h")?;
    let number = |name: &str| {
        let value = head.lines().find_map(|line| line.strip_prefix(name));
        let value = value.and_then(|value| value.trim().parse::<u64>().ok());
        value.with_context(|| format!("debugfs does not say the {name}"))
    };
    let (count, size) = (number("Block count:")?, number("Block size:")?);
    // Block 0 it does not tell: the first superblock is in it. `Block 17 not in use`, or `marked in use`.
    let said = ask(&format!("testb 1 {}", count.saturating_sub(1)))?;
    let lines = said.lines().zip(1..count);
    let mut free = Vec::new();
    for (line, number) in lines {
        let what = line
            .strip_prefix("Block ")
            .and_then(|rest| rest.split_once(' '));
        match what {
            Some((block, "not in use")) if block == number.to_string() => {
                let at = number.saturating_mul(size);
                free.push(at..at.saturating_add(size));
            }
            Some((block, "marked in use")) if block == number.to_string() => {}
            Some(_) | None => bail!("debugfs says of block {number}: {line}"),
        }
    }
    Ok(joined(free))
}

/// Ranges that follow one another as one.
fn joined(ranges: Vec<std::ops::Range<u64>>) -> Vec<std::ops::Range<u64>> {
    let mut joined: Vec<std::ops::Range<u64>> = Vec::new();
    for next in ranges {
        match joined.last_mut().filter(|last| last.end == next.start) {
            Some(last) => last.end = next.end,
            None => joined.push(next),
        }
    }
    joined
}

/// Clusters that a FAT16 calls free, bytes of the partition (Microsoft, "FAT: General Overview of On-Disk Format", 1.03).
fn free_of_fat(file: &File, partition: &Partition) -> Result<Vec<std::ops::Range<u64>>> {
    let mut head = [0; 64];
    file.read_exact_at(&mut head, partition.offset)
        .context("cannot read its first sector")?;
    let byte = |at: usize| u64::from(head.get(at).copied().unwrap_or_default());
    let word = |at: usize| byte(at) | (byte(at + 1) << 8);
    let (sector, per_cluster) = (word(11), byte(13));
    let (reserved, tables, entries, table) = (word(14), byte(16), word(17), word(22));
    let is_fat16 = head.get(54..59) == Some(b"FAT16");
    ensure!(
        is_fat16 && sector.is_power_of_two() && per_cluster.is_power_of_two() && table > 0,
        "it is no FAT with entries of 16 bits"
    );
    let first = (reserved + tables * table) * sector + (entries * 32).next_multiple_of(sector);
    let cluster = sector * per_cluster;
    let mut list = vec![0; usize::try_from(table * sector)?];
    file.read_exact_at(&mut list, partition.offset + reserved * sector)
        .context("cannot read its table")?;
    // The first two entries are of no cluster; behind the last cluster the table has room left.
    let count = partition.size.saturating_sub(first) / cluster;
    let clusters = list.chunks_exact(2).skip(2).zip(0..count);
    let free = clusters.filter(|(entry, _)| *entry == [0, 0]);
    let free = free.map(|(_, number)| {
        let at = first + number * cluster;
        at..at + cluster
    });
    Ok(joined(free.collect()))
}
