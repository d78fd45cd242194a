//! `autoboot.txt`, the loader record of a Raspberry Pi's firmware: which partition it starts, and which one once, after a
//! restart with the word `tryboot`.
//!
//! It is the only file of the partition `boot`, whose file system is laid out as that of a slot ([`crate::slot`]). So where it
//! is follows from the partition's size, nothing is looked up on disk, and the file is exchanged by writing one sector in
//! place: no folder, no table of the file system, no length changes with it. Two texts are possible, one for each default:
//!
//! ```text
//! [all]
//! tryboot_a_b=1
//! boot_partition=2
//! [tryboot]
//! boot_partition=3
//! ```
//!
//! and empty lines up to [`LENGTH`]. Whatever else is found there, in the file or in the tables of the file system, is
//! damage. What is damaged is written anew; where tables are, all of it, and the boot sector once the rest is on disk.
//!
//! It is pure; [`crate::bootenv`] reads and writes it, and its order is model-checked with that of the other records. Source:
//! Raspberry Pi documentation, "autoboot.txt": at most 512 bytes, partitions count from 1, `[tryboot]` passes after a
//! restart with that word, and `tryboot_a_b=1` has the other partition's `config.txt` read as it is.

use crate::Error;
use crate::record::{Loader, Slot};
use crate::slot::{File, Layout, Piece, SECTOR};

/// Bytes of the file. Half of what the firmware takes, so that no terminator of its own is in the way.
pub const LENGTH: usize = 256;
/// The file.
pub const NAME: &str = "autoboot.txt";
/// The file system's number: every disk may have the same.
const SERIAL: u32 = 0x4b45_4447;

/// How the partition `boot` of one disk looks, with either default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autoboot {
    layout: Layout,
    /// Numbers of the partitions of slot a and slot b.
    slots: [u32; 2],
}

impl Autoboot {
    /// For a partition of `size` bytes, on a disk whose slots have these numbers.
    ///
    /// # Errors
    /// [`Error::SlotSize`]: it is too small.
    pub fn new(size: u64, slots: [u32; 2]) -> Result<Self, Error> {
        let length = u64::try_from(LENGTH).unwrap_or(u64::MAX);
        let layout = Layout::new(size, SERIAL, &[File { name: NAME, length }])?;
        Ok(Self { layout, slots })
    }

    /// The slot of a partition's number.
    #[must_use]
    pub fn slot(&self, number: u32) -> Option<Slot> {
        let [a, b] = self.slots;
        match number {
            _ if number == a => Some(Slot::A),
            _ if number == b => Some(Slot::B),
            _ => None,
        }
    }

    /// The sector of the file: its text, and zeros behind it. None: numbers so long that it does not fit.
    #[must_use]
    pub fn sector(&self, default: Slot) -> Option<[u8; SECTOR]> {
        let [a, b] = self.slots;
        let (default, other) = match default {
            Slot::A => (a, b),
            Slot::B => (b, a),
        };
        let text = format!(
            "[all]\ntryboot_a_b=1\nboot_partition={default}\n[tryboot]\nboot_partition={other}\n"
        );
        let mut sector = [0; SECTOR];
        let file = sector.get_mut(..LENGTH)?;
        file.fill(b'\n');
        file.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(sector)
    }

    /// The record in the file's sector; none if it is neither text.
    #[must_use]
    pub fn parse(&self, sector: &[u8]) -> Option<Loader> {
        let is = |slot: &Slot| self.sector(*slot).is_some_and(|text| text == sector);
        [Slot::A, Slot::B].into_iter().find(is).map(Loader::starts)
    }

    /// Where the file is, bytes from the partition's beginning.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.layout.pieces().find_map(|piece| match piece {
            Piece::File { offset, .. } => Some(offset),
            Piece::Bytes { .. } => None,
        })
    }

    /// The rest of the file system; the boot sector is the last.
    pub fn tables(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let tables = self.layout.pieces().filter_map(|piece| match piece {
            Piece::Bytes { offset, bytes } => Some((offset, bytes)),
            Piece::File { .. } => None,
        });
        tables.chain([(0, &self.layout.boot_sector()[..])])
    }

    /// How the whole file system is written, with a file that has this sector. The boot sector comes once all that it speaks
    /// of is on the disk: without it there is no file system, and with it a whole one.
    ///
    /// # Errors
    /// [`Error::NoAutoboot`]: the layout has no file.
    pub fn anew<'a>(&'a self, sector: &'a [u8; SECTOR]) -> Result<Vec<Step<'a>>, Error> {
        let write = |(offset, bytes)| Step::Write { offset, bytes };
        let file = (self.offset().ok_or(Error::NoAutoboot)?, &sector[..]);
        let boot = (0, &self.layout.boot_sector()[..]);
        let before = self.tables().filter(|(offset, _)| *offset != 0);
        let before = before.chain([file]).map(write);
        Ok(before.chain([Step::Flush, write(boot)]).collect())
    }
}

/// A step of writing the file system anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// These bytes.
    Write {
        /// Where, bytes from the partition's beginning.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// What was written before is on the disk once it returns.
    Flush,
}

/// What the firmware says in the device tree, under `/proc/device-tree/chosen/bootloader`.
///
/// Source: Raspberry Pi documentation, "Device trees, overlays, and parameters", "Firmware parameters": 32-bit numbers, which
/// as all of a device tree begin with the highest byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootloader {
    /// `tryboot`: the restart had the word.
    pub tried: bool,
    /// `partition`: number of the partition that was started; 0 from a firmware that does not tell.
    pub partition: u32,
}

impl Bootloader {
    /// Reads both properties; none if they are not numbers.
    #[must_use]
    pub fn parse(tryboot: &[u8], partition: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
        Some(Self {
            tried: number(tryboot)? != 0,
            partition: number(partition)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 4 << 20;

    #[test]
    fn the_file_is_that_of_the_documentation() {
        let autoboot = Autoboot::new(SIZE, [2, 3]).unwrap();
        let sector = autoboot.sector(Slot::A).unwrap();
        let text = std::str::from_utf8(&sector[..LENGTH]).unwrap();
        let expected = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";
        assert_eq!(text.trim_end_matches('\n'), expected.trim_end());
        assert!(sector[LENGTH..].iter().all(|byte| *byte == 0));
        let other = autoboot.sector(Slot::B).unwrap();
        let text = std::str::from_utf8(&other[..LENGTH]).unwrap();
        assert!(text.contains("\nboot_partition=3\n[tryboot]\nboot_partition=2\n"));
    }

    #[test]
    fn only_the_two_texts_are_read() {
        let autoboot = Autoboot::new(SIZE, [2, 3]).unwrap();
        for slot in [Slot::A, Slot::B] {
            let sector = autoboot.sector(slot).unwrap();
            assert_eq!(autoboot.parse(&sector), Some(Loader::starts(slot)));
            for byte in 0..SECTOR {
                let mut damaged = sector;
                damaged[byte] ^= 1;
                let read = autoboot.parse(&damaged);
                // The numbers differ in one bit: two flips away from the other text.
                assert_eq!(read, None, "byte {byte}");
            }
        }
        assert_eq!(autoboot.parse(&[0; SECTOR]), None);
        assert_eq!(autoboot.parse(b"[all]\n"), None);
        let elsewhere = Autoboot::new(SIZE, [3, 4]).unwrap();
        assert_eq!(elsewhere.parse(&autoboot.sector(Slot::A).unwrap()), None);
        assert_eq!(elsewhere.slot(4), Some(Slot::B));
        assert_eq!(elsewhere.slot(2), None);
    }

    #[test]
    fn the_file_has_a_sector_of_its_own_on_a_boundary_of_4_kib() {
        let autoboot = Autoboot::new(SIZE, [2, 3]).unwrap();
        let at = autoboot.offset().unwrap();
        assert_eq!(at % 4096, 0);
        for (offset, bytes) in autoboot.tables() {
            assert!(offset + bytes.len() as u64 <= at, "{offset}");
        }
        assert_eq!(autoboot.tables().last().unwrap().0, 0);
        let small = Autoboot::new(1 << 20, [2, 3]);
        assert_eq!(small, Err(Error::SlotSize { size: 1 << 20 }));
    }

    #[test]
    fn the_boot_sector_is_written_once_the_rest_is_on_the_disk() {
        let autoboot = Autoboot::new(SIZE, [2, 3]).unwrap();
        let sector = autoboot.sector(Slot::B).unwrap();
        let steps = autoboot.anew(&sector).unwrap();
        let boot = autoboot.tables().last().unwrap();
        let [before @ .., Step::Flush, Step::Write { offset: 0, bytes }] = &steps[..] else {
            panic!("{} steps", steps.len());
        };
        assert_eq!((0, *bytes), boot);
        let mut missing: Vec<_> = autoboot.tables().filter(|table| *table != boot).collect();
        missing.push((autoboot.offset().unwrap(), &sector));
        for step in before {
            let Step::Write { offset, bytes } = *step else {
                panic!("{step:?}");
            };
            missing.retain(|piece| *piece != (offset, bytes));
        }
        assert_eq!((before.len(), missing.len()), (4, 0));
    }

    #[test]
    fn device_tree_numbers_begin_with_the_highest_byte() {
        let read = Bootloader::parse(&[0, 0, 0, 1], &[0, 0, 0, 3]);
        let tried = Bootloader {
            tried: true,
            partition: 3,
        };
        assert_eq!(read, Some(tried));
        for bad in [&[][..], &[0, 0, 1], &[0, 0, 0, 0, 1]] {
            assert_eq!(Bootloader::parse(bad, &[0; 4]), None);
            assert_eq!(Bootloader::parse(&[0; 4], bad), None);
        }
    }
}
