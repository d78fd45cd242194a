//! How a slot's file system is laid out: FAT16 with a handful of files in the root folder, each in one piece.
//!
//! ```text
//! 0            boot sector: sizes of everything
//!              reserved, so that files begin on a multiple of 4 KiB
//!              two copies of the FAT: chains of clusters
//!              root folder, 512 entries
//!              clusters 2, 3, …: the files, one behind the other
//! ```
//! A name of at most 8 and 3 lower-case characters is a short name with the flags that say so; any other has
//! entries of long names before its own. Loaders, Linux and mtools read both. All times are 1980-01-01: the same
//! files give the same bytes.
//!
//! It is pure: sizes in, a list of what goes where out. Whoever writes it writes the boot sector last, for without
//! one there is no file system. Source: Microsoft, "FAT: General Overview of On-Disk Format", version 1.03; the flags
//! of short names: Linux `fs/fat/fat.h`, `CASE_LOWER_BASE` and `CASE_LOWER_EXT`.

use crate::Error;
use crate::loading::gpt::Guid;
use crate::record::Slot;

/// The word by which a slot's own line says where it was written: `kedge.written-to=a`.
pub const WRITTEN_TO: &str = "kedge.written-to";
/// The word by which a loader, or a slot's own line, says on which disk it lies: `kedge.disk=GUID`.
pub const DISK: &str = "kedge.disk";
/// Bytes of a sector: those of every disk that FAT16 is read from.
pub const SECTOR: usize = 512;
/// Most files of a slot: those that every slot has, a statement, and those of a revision's `boot.files`.
pub const MOST_FILES: usize = 4 + kedge_revision::revision::MAX_BOOT_FILES;

const SECTOR_BYTES: u64 = 512;
/// Files begin on a multiple of this, the block of every disk that we meet.
const ALIGNMENT_SECTORS: u64 = 8;
/// Entries of the root folder, as mkfs.vfat makes it, and its sectors.
const ROOT_ENTRIES: u16 = 512;
const ROOT_SECTORS: u64 = 32;
const ENTRY: usize = 32;
/// With fewer clusters it would be a FAT12, with more a FAT32; a few to spare, since implementations differ by some.
const CLUSTERS: std::ops::Range<u64> = 4101..65_509;
/// Most sectors that are used: what 32 KiB a cluster can address, the largest that everything reads.
const MOST_SECTORS: u64 = 65_000 * 64;
/// End of a chain.
const END: u16 = 0xffff;
/// 1980-01-01, the first day that FAT knows.
const DATE: u16 = 0x21;

/// Who tells PID 1 which slot was started, and from which disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teller {
    /// The loader, on the kernel's command line.
    Loader,
    /// The slot itself, for the firmware hands its line over as it is, and may have started another one than it says. It is on
    /// this disk; none: whoever writes it cannot tell.
    Slot(Option<Guid>),
}

/// What `cmdline.txt` of a slot holds. The slot's own words come before the revision's, since of each word the first counts.
#[must_use]
pub fn line(arguments: &str, slot: Slot, teller: Teller) -> String {
    match teller {
        Teller::Loader => format!("{arguments}\n"),
        Teller::Slot(disk) => {
            let disk = disk.map_or_else(String::new, |disk| format!("{DISK}={disk} "));
            let line = format!("{WRITTEN_TO}={} {disk}{arguments}", slot.letter());
            format!("{}\n", line.trim_end())
        }
    }
}

/// A file that a slot is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File<'a> {
    /// Its name: 1 to 64 of `a-z`, `0-9`, `-`, `_` and `.`, beginning with a letter.
    pub name: &'a str,
    /// Its length, bytes.
    pub length: u64,
}

/// Something to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// These bytes.
    Bytes {
        /// Where, bytes from the partition's beginning.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// A file of the list, whole.
    File {
        /// Where.
        offset: u64,
        /// Its place in the list.
        number: usize,
    },
}

/// A slot's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    boot: [u8; SECTOR],
    fat: Vec<u8>,
    root: Vec<u8>,
    geometry: Geometry,
    /// Where each file is, bytes.
    files: Vec<u64>,
}

/// Sectors of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Geometry {
    total: u64,
    reserved: u64,
    fat: u64,
    per_cluster: u64,
    clusters: u64,
}

impl Geometry {
    /// Clusters of 4 KiB if there are neither too few nor too many of them.
    fn new(partition: u64) -> Result<Self, Error> {
        let total = (partition / SECTOR_BYTES).min(MOST_SECTORS);
        [8, 4, 2, 1, 16, 32, 64]
            .into_iter()
            .filter_map(|per_cluster| Self::with(total, per_cluster))
            .find(|geometry| CLUSTERS.contains(&geometry.clusters))
            .ok_or(Error::SlotSize { size: partition })
    }

    fn with(total: u64, per_cluster: u64) -> Option<Self> {
        // Too many by those that the FATs themselves take: they may have entries for more.
        let most = total.checked_div(per_cluster)?.checked_add(2)?;
        let fat = most.checked_mul(2)?.div_ceil(SECTOR_BYTES);
        let tables = fat.checked_mul(2)?.checked_add(ROOT_SECTORS)?;
        let data = tables.checked_add(1)?.next_multiple_of(ALIGNMENT_SECTORS);
        Some(Self {
            total,
            reserved: data.checked_sub(tables)?,
            fat,
            per_cluster,
            clusters: total.checked_sub(data)?.checked_div(per_cluster)?,
        })
    }

    const fn cluster_bytes(&self) -> u64 {
        self.per_cluster.saturating_mul(SECTOR_BYTES)
    }

    /// Offsets of both FATs, the root folder and the first cluster.
    fn offsets(&self) -> [u64; 4] {
        let fat = self.fat.saturating_mul(SECTOR_BYTES);
        let first = self.reserved.saturating_mul(SECTOR_BYTES);
        let second = first.saturating_add(fat);
        let root = second.saturating_add(fat);
        [
            first,
            second,
            root,
            root.saturating_add(ROOT_SECTORS.saturating_mul(SECTOR_BYTES)),
        ]
    }
}

impl Layout {
    /// Lays a partition of `partition` bytes out for these files; `serial` is the file system's number.
    ///
    /// # Errors
    /// [`Error::SlotSize`], [`Error::SlotFull`], [`Error::SlotFile`].
    pub fn new(partition: u64, serial: u32, files: &[File<'_>]) -> Result<Self, Error> {
        let geometry = Geometry::new(partition)?;
        let cluster = geometry.cluster_bytes();
        let taken = |length: u64| length.div_ceil(cluster);
        let needed: u64 = files.iter().map(|file| taken(file.length)).sum();
        if needed > geometry.clusters {
            return Err(Error::SlotFull {
                needed: needed.saturating_mul(cluster),
                free: geometry.clusters.saturating_mul(cluster),
            });
        }
        let [.., data] = geometry.offsets();
        let mut layout = Self {
            boot: boot_sector(&geometry, serial)?,
            fat: [0xfff8_u16, END].map(u16::to_le_bytes).concat(),
            root: Vec::new(),
            geometry,
            files: Vec::new(),
        };
        let mut next = 0_u64;
        for (number, file) in files.iter().enumerate() {
            let bad = || Error::SlotFile { number };
            let clusters = taken(file.length);
            let first = u16::try_from(next.saturating_add(2)).map_err(|_| bad())?;
            layout.chain(first, clusters).ok_or_else(bad)?;
            let first = if clusters == 0 { 0 } else { first };
            let entries = entries(file, first, number).ok_or_else(bad)?;
            layout.root.extend_from_slice(&entries);
            layout
                .files
                .push(data.saturating_add(next.saturating_mul(cluster)));
            next = next.saturating_add(clusters);
        }
        // What a table does not use is zero: something else stood there.
        pad(&mut layout.fat, geometry.fat)?;
        pad(&mut layout.root, ROOT_SECTORS)?;
        Ok(layout)
    }

    /// Appends a chain of so many clusters, one behind the other.
    fn chain(&mut self, first: u16, clusters: u64) -> Option<()> {
        let clusters = u16::try_from(clusters).ok()?;
        let mut next = first;
        for left in (0..clusters).rev() {
            next = next.checked_add(1)?;
            let entry = if left == 0 { END } else { next };
            self.fat.extend_from_slice(&entry.to_le_bytes());
        }
        Some(())
    }

    /// The boot sector, which goes to the partition's first bytes after everything else.
    #[must_use]
    pub const fn boot_sector(&self) -> &[u8; SECTOR] {
        &self.boot
    }

    /// Everything else, in ascending order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let [first, second, root, _] = self.geometry.offsets();
        let tables = [(first, &self.fat), (second, &self.fat), (root, &self.root)];
        let tables = tables
            .into_iter()
            .map(|(offset, bytes)| Piece::Bytes { offset, bytes });
        let files = self.files.iter().enumerate();
        tables.chain(files.map(|(number, offset)| Piece::File {
            offset: *offset,
            number,
        }))
    }
}

/// Fills a table up to so many sectors.
fn pad(table: &mut Vec<u8>, sectors: u64) -> Result<(), Error> {
    let size = sectors.saturating_mul(SECTOR_BYTES);
    let size = usize::try_from(size).map_err(|_| Error::SlotSize { size })?;
    table.resize(size, 0);
    Ok(())
}

fn boot_sector(geometry: &Geometry, serial: u32) -> Result<[u8; SECTOR], Error> {
    let size = geometry.total.saturating_mul(SECTOR_BYTES);
    let word = |value: u64| u16::try_from(value).map_err(|_| Error::SlotSize { size });
    let per_cluster = u8::try_from(geometry.per_cluster).map_err(|_| Error::SlotSize { size })?;
    let wide = u32::try_from(geometry.total).map_err(|_| Error::SlotSize { size })?;
    // One of both is 0.
    let (short, wide) = match u16::try_from(wide) {
        Ok(short) => (short, 0),
        Err(_) => (0, wide),
    };
    let mut sector = [0; SECTOR];
    let fields: [&[u8]; 20] = [
        // A jump to nothing, as every reader wants one; then who made it.
        &[0xeb, 0x3c, 0x90],
        b"KEDGE   ",
        &512_u16.to_le_bytes(),
        &[per_cluster],
        &word(geometry.reserved)?.to_le_bytes(),
        &[2],
        &ROOT_ENTRIES.to_le_bytes(),
        &short.to_le_bytes(),
        // A fixed disk.
        &[0xf8],
        &word(geometry.fat)?.to_le_bytes(),
        // Sectors a track and heads, which nobody asks for; sectors before the partition, which nobody needs.
        &32_u16.to_le_bytes(),
        &64_u16.to_le_bytes(),
        &[0; 4],
        &wide.to_le_bytes(),
        &[0x80, 0, 0x29],
        &serial.to_le_bytes(),
        b"NO NAME    ",
        b"FAT16   ",
        &[0; 448],
        &[0x55, 0xaa],
    ];
    for (to, from) in sector.iter_mut().zip(fields.iter().copied().flatten()) {
        *to = *from;
    }
    Ok(sector)
}

/// The entries of a file in the root folder; `None`: it can have none.
fn entries(file: &File<'_>, first: u16, number: usize) -> Option<Vec<u8>> {
    let length = u32::try_from(file.length).ok()?;
    let name = file.name.as_bytes();
    let known = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(b);
    let good = (1..=64).contains(&name.len())
        && name.first().is_some_and(u8::is_ascii_lowercase)
        && name.last() != Some(&b'.')
        && name.iter().all(known);
    if !good || number >= MOST_FILES {
        return None;
    }
    let mut entries = Vec::new();
    let (short, lower) = match short_name(name) {
        Some(short) => (short, 0x18),
        None => {
            let short = alias(name, number.checked_add(1)?);
            long_entries(&mut entries, name, &short)?;
            (short, 0)
        }
    };
    let fields: [&[u8]; 9] = [
        &short,
        // To be archived, as every file that was written; whether the short name is lower-case.
        &[0x20, lower],
        // Times of the day are 0; made, read and written on the same day.
        &[0; 3],
        &DATE.to_le_bytes(),
        &DATE.to_le_bytes(),
        &[0; 4],
        &DATE.to_le_bytes(),
        &first.to_le_bytes(),
        &length.to_le_bytes(),
    ];
    entries.extend(fields.iter().copied().flatten());
    Some(entries)
}

/// The name in the form of 8 and 3 characters, if it has it.
fn short_name(name: &[u8]) -> Option<[u8; 11]> {
    let mut parts = name.split(|b| *b == b'.');
    let (base, extension) = (parts.next()?, parts.next().unwrap_or_default());
    let fits = parts.next().is_none() && base.len() <= 8 && extension.len() <= 3;
    fits.then(|| padded(base, extension))
}

/// A short name for one that is too long, told from the others by its number.
fn alias(name: &[u8], number: usize) -> [u8; 11] {
    let mut parts = name.rsplitn(2, |b| *b == b'.');
    let (last, before) = (parts.next().unwrap_or_default(), parts.next());
    let (base, extension) = before.map_or((last, &b""[..]), |before| (before, last));
    let number = number.to_string();
    let room = 7_usize.saturating_sub(number.len());
    let base = base.iter().copied().filter(|b| *b != b'.').take(room);
    let base: Vec<u8> = base.chain([b'~']).chain(number.bytes()).collect();
    padded(&base, extension)
}

/// In upper case, filled with blanks, and cut at 8 and 3.
fn padded(base: &[u8], extension: &[u8]) -> [u8; 11] {
    let mut short = [b' '; 11];
    let (to_base, to_extension) = short.split_at_mut(8);
    for (to, from) in [(to_base, base), (to_extension, extension)] {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.to_ascii_uppercase();
        }
    }
    short
}

/// Entries of the long name, the last part first.
fn long_entries(entries: &mut Vec<u8>, name: &[u8], short: &[u8; 11]) -> Option<()> {
    /// Characters of one entry, and where each stands in it.
    const PLACES: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
    const LAST: u8 = 0x40;
    let checksum = short
        .iter()
        .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let parts: Vec<&[u8]> = name.chunks(PLACES.len()).collect();
    for (index, part) in parts.iter().enumerate().rev() {
        let mut entry = [0xff_u8; ENTRY];
        let sequence = u8::try_from(index.checked_add(1)?).ok()?;
        let last = if index.checked_add(1) == Some(parts.len()) {
            LAST
        } else {
            0
        };
        let head: [(usize, u8); 5] = [
            (0, sequence | last),
            (11, 0x0f),
            (12, 0),
            (13, checksum),
            (26, 0),
        ];
        for (place, byte) in head.into_iter().chain([(27, 0)]) {
            *entry.get_mut(place)? = byte;
        }
        // A zero ends the name where it does not fill the entry, and ones fill that.
        let characters = part.iter().copied().map(u16::from).chain([0]);
        for (place, character) in PLACES.into_iter().zip(characters) {
            entry
                .get_mut(place..place.checked_add(2)?)?
                .copy_from_slice(&character.to_le_bytes());
        }
        entries.extend_from_slice(&entry);
    }
    Some(())
}

#[cfg(test)]
mod tests;
