//! A disk's partition table, as far as a loader needs it: where a partition of some name is.
//!
//! A table has a header of one sector and entries; both have a checksum, and both stand twice: the header at sector 1 and at
//! the disk's last one. Whoever reads it takes the second where the first is damaged. Source: UEFI Specification 2.10,
//! chapter 5. Sectors of 512 bytes.

use crate::crc32;
use crate::fields::{u32_at, u64_at};
use core::fmt;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Most bytes of entries that are read: four times what every tool makes.
pub const MOST: usize = 64 * 1024;

/// What a disk is called: of our images derived from product and board, so that disks of one product share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid([u8; 16]);

/// In which order its bytes on disk are written out: three numbers of little endian, then bytes as they come (UEFI
/// Specification 2.10, appendix A).
const WRITTEN: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/// Whether a hyphen stands before the byte of this place.
const fn is_group(place: usize) -> bool {
    matches!(place, 4 | 6 | 8 | 10)
}

impl Guid {
    /// From its bytes on disk.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes on disk.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads what [`Guid`]'s `Display` writes; capital digits are taken, too.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut guid = [0; 16];
        let mut rest = text;
        for (place, index) in WRITTEN.into_iter().enumerate() {
            if is_group(place) {
                rest = rest.strip_prefix('-')?;
            }
            let (digits, more) = rest.split_at_checked(2)?;
            // A sign is a number's, too.
            let digits = Some(digits).filter(|digits| !digits.starts_with('+'))?;
            *guid.get_mut(index)? = u8::from_str_radix(digits, 16).ok()?;
            rest = more;
        }
        rest.is_empty().then_some(Self(guid))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, index) in WRITTEN.into_iter().enumerate() {
            if is_group(place) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0.get(index).copied().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// A table's header whose checksum holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The sector where the entries begin.
    pub entries: u64,
    /// Bytes of all entries, at most [`MOST`].
    pub length: usize,
    /// The disk's.
    pub disk: Guid,
    each: usize,
    checksum: u32,
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition<'a> {
    /// Its first sector.
    pub first: u64,
    /// How many it has.
    pub sectors: u64,
    name: &'a [u8],
}

impl Header {
    /// Reads the sector `here`; nothing if it is no header, is damaged, or belongs elsewhere.
    #[must_use]
    pub fn parse(sector: &[u8; SECTOR], here: u64) -> Option<Self> {
        let size = usize::try_from(u32_at(sector, 12)?).ok()?;
        let whole = sector.get(..size).filter(|whole| whole.len() >= 92)?;
        let mut unsummed = *sector;
        unsummed.get_mut(16..20)?.fill(0);
        let sum = crc32(unsummed.get(..whole.len())?);
        if !sector.starts_with(b"EFI PART")
            || sum != u32_at(sector, 16)?
            || u64_at(sector, 24)? != here
        {
            return None;
        }
        let count = usize::try_from(u32_at(sector, 80)?).ok()?;
        let each = usize::try_from(u32_at(sector, 84)?).ok()?;
        let length = count.checked_mul(each)?;
        let known = each >= 128 && each.is_multiple_of(8) && length <= MOST;
        known.then_some(Self {
            entries: u64_at(sector, 72)?,
            length,
            disk: Guid(*sector.get(56..)?.first_chunk()?),
            each,
            checksum: u32_at(sector, 88)?,
        })
    }

    /// The partitions in these bytes of entries; nothing if they are not those that the header speaks of.
    #[must_use]
    pub fn partitions<'a>(&self, entries: &'a [u8]) -> Option<impl Iterator<Item = Partition<'a>>> {
        let entries = entries.get(..self.length)?;
        let used = |entry: &&[u8]| entry.iter().take(16).any(|byte| *byte != 0);
        let found = entries
            .chunks_exact(self.each)
            .filter(used)
            .filter_map(partition);
        (crc32(entries) == self.checksum).then_some(found)
    }
}

fn partition(entry: &[u8]) -> Option<Partition<'_>> {
    let first = u64_at(entry, 32)?;
    let sectors = u64_at(entry, 40)?.checked_sub(first)?.checked_add(1)?;
    Some(Partition {
        first,
        sectors,
        name: entry.get(56..128)?,
    })
}

impl Partition<'_> {
    /// The units of its name, UTF-16.
    pub fn name(&self) -> impl Iterator<Item = u16> {
        let units = self.name.as_chunks::<2>().0.iter();
        units
            .map(|unit| u16::from_le_bytes(*unit))
            .take_while(|unit| *unit != 0)
    }

    /// Whether that is its name.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name().eq(name.encode_utf16())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn entries() -> Vec<u8> {
        let mut entries = vec![0; 128 * 128];
        entries[128..144].fill(7);
        entries[160..168].copy_from_slice(&2048_u64.to_le_bytes());
        entries[168..176].copy_from_slice(&4095_u64.to_le_bytes());
        for (place, unit) in entries[184..]
            .chunks_exact_mut(2)
            .zip("bootenv".encode_utf16())
        {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        entries
    }

    fn header(entries: &[u8], count: u32) -> [u8; SECTOR] {
        let mut sector = [0; SECTOR];
        sector[..12].copy_from_slice(b"EFI PART\0\0\x01\0");
        let fields: [(usize, u32); 6] = [
            (12, 92),
            (24, 1),
            (72, 2),
            (80, count),
            (84, 128),
            (88, crc32(entries)),
        ];
        for (at, value) in fields {
            sector[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let sum = crc32(&sector[..92]);
        sector[16..20].copy_from_slice(&sum.to_le_bytes());
        sector
    }

    #[test]
    fn a_disk_is_called_as_every_tool_calls_it() {
        // The GUID of an EFI system partition, as it stands on disk and as the specification writes it.
        let bytes = [
            0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e,
            0xc9, 0x3b,
        ];
        let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        let entries = entries();
        let mut sector = header(&entries, 128);
        sector[56..72].copy_from_slice(&bytes);
        sector[16..20].fill(0);
        let sum = crc32(&sector[..92]);
        sector[16..20].copy_from_slice(&sum.to_le_bytes());
        let found = Header::parse(&sector, 1).unwrap().disk;
        assert_eq!(std::string::ToString::to_string(&found), text);
        assert_eq!(Guid::parse(text), Some(found));
        assert_eq!(Guid::parse(&text.to_uppercase()), Some(found));
        for wrong in [
            "",
            "c12a7328-f81f-11d2-ba4b-00a0c93ec93",
            "c12a7328-f81f-11d2-ba4b-00a0c93ec93b0",
            "c12a7328f81f-11d2-ba4b-00a0c93ec93b",
            "+12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            "c12a7328-f81f-11d2-ba4b-00a0c93ec93\u{e4}",
        ] {
            assert_eq!(Guid::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_partition_is_found_by_its_name() {
        let entries = entries();
        let header = Header::parse(&header(&entries, 128), 1).unwrap();
        let found: Vec<_> = header.partitions(&entries).unwrap().collect();
        let [only] = found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((only.first, only.sectors), (2048, 2048));
        assert!(only.is("bootenv") && !only.is("boot") && !only.is("bootenv2"));
    }

    #[test]
    fn every_flipped_bit_of_a_table_is_noticed() {
        let entries = entries();
        let good = header(&entries, 128);
        for bit in 0..92 * 8 {
            let mut flipped = good;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&flipped, 1), None, "bit {bit}");
        }
        let header = Header::parse(&good, 1).unwrap();
        for bit in (0..entries.len() * 8).step_by(97) {
            let mut flipped = entries.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(header.partitions(&flipped).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_of_another_place_or_of_endless_entries_is_none() {
        let entries = entries();
        assert_eq!(Header::parse(&header(&entries, 128), 9), None);
        assert_eq!(Header::parse(&header(&entries, u32::MAX), 1), None);
        let longer = Header::parse(&header(&entries, 129), 1).unwrap();
        assert!(longer.partitions(&entries).is_none());
    }
}
