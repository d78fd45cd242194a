//! The partition table of a disk that is larger than the image that was written onto it: the data partition takes the rest.
//!
//! Pure: what is written, and in which order. The device does so before it mounts anything of that disk.
//!
//! Power may go between any two of these writes, and within one. The second copy of the table comes first, at the disk's real
//! end, where it is looked for by whoever finds the first one damaged: loaders of ours, U-Boot and UEFI firmware, and the kernel
//! with its argument `gpt`, without which a disk is left as it is. So the first copy may be torn after that: a copy counts only
//! with the checksums of both its parts, and the next boot goes on. A processor's own code that reads a table before any of
//! them may know the first copy alone: that one is therefore a single write, of 17 KiB, made once in a device's life.
//! Source: UEFI Specification 2.10, 5.3; sectors of 512 bytes, as for every loader of ours.

use crate::loading::gpt::{Header, SECTOR};
use crate::record::crc32;

/// The partition that grows: it must be the disk's last.
const DATA: &str = "data";
/// Sectors of a mebibyte, at which partitions end.
const ALIGNED: u64 = 2048;
/// The first copy's header; its entries follow.
const FIRST: u64 = 1;
const ENTRIES: u64 = 2;

/// A copy of the table whose checksums hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its header.
    pub header: [u8; SECTOR],
    /// Its entries.
    pub entries: Vec<u8>,
}

impl Table {
    /// Reads the copy whose header is in the sector `here`; nothing if it is damaged. `read` answers so many bytes from a
    /// sector on.
    pub fn read(here: u64, mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<Self> {
        let header: [u8; SECTOR] = read(here, SECTOR)?.try_into().ok()?;
        let parsed = Header::parse(&header, here)?;
        let entries = read(parsed.entries, parsed.length)?;
        let is_whole = parsed.partitions(&entries).is_some();
        is_whole.then_some(Self { header, entries })
    }
}

/// Whether a first copy, header and entries, is what [`growth`] would write: it speaks of a disk that ends where this one does, and
/// `data` goes that far. Both are asked: some tools move the second copy to the disk's end, and no partition with it. The
/// entries' checksum is not: that is half a millisecond of every boot, and of what it guards the kernel has judged all.
#[must_use]
pub fn is_grown(header: &[u8; SECTOR], entries: &[u8], sectors: u64) -> bool {
    let grown = || {
        let ends = Ends::of(entries.len(), sectors)?;
        let (_, _, last) = data(header, entries)?;
        Some(
            Header::parse(header, FIRST).is_some()
                && number(header, 32)? == ends.last
                && number(header, 48)? == ends.usable
                && last >= ends.data,
        )
    };
    grown().unwrap_or(false)
}

/// Where things end on a disk.
struct Ends {
    /// The second header.
    last: u64,
    /// Where its entries begin.
    second: u64,
    /// The last sector that a partition may have.
    usable: u64,
    /// Where `data` ends, unless it goes further already.
    data: u64,
}

impl Ends {
    fn of(entries: usize, sectors: u64) -> Option<Self> {
        let sector = u64::try_from(SECTOR).ok()?;
        let last = sectors.checked_sub(1)?;
        let length = u64::try_from(entries).ok()?.div_ceil(sector);
        let second = last.checked_sub(length)?;
        let usable = second.checked_sub(1)?;
        let data = ((usable + 1) / ALIGNED * ALIGNED).checked_sub(1)?;
        Some(Self {
            last,
            second,
            usable,
            data,
        })
    }
}

/// What makes the table fit the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The second copy, entries and header: what is written to which sector, in this order.
    pub second: [(u64, Vec<u8>); 2],
    /// The first copy, in one write, once the disk gives the second one back.
    pub first_copy: (u64, Vec<u8>),
    /// The data partition's number.
    pub number: u16,
    /// Its first sector, as before.
    pub first: u64,
    /// How many it has then.
    pub sectors: u64,
}

/// What a disk of so many sectors needs whose whole copy of the table is `table`; nothing if it ends before its partitions do,
/// or if another partition than `data` is the last one.
///
/// The protective MBR stays, though it speaks of a smaller disk: no loader and no kernel asks it for more than its kind, and
/// some start nothing from a disk whose first sector is torn.
#[must_use]
pub fn growth(table: &Table, sectors: u64) -> Option<Growth> {
    let Ends {
        last,
        second,
        usable,
        data: whole,
    } = Ends::of(table.entries.len(), sectors)?;
    let (index, first, former) = data(&table.header, &table.entries)?;
    let end = whole.max(former);
    if end > usable {
        return None;
    }
    let mut entries = table.entries.clone();
    let at = index.checked_mul(each(&table.header)?)?.checked_add(40)?;
    let place = entries.get_mut(at..at.checked_add(8)?)?;
    place.copy_from_slice(&end.to_le_bytes());
    let sum = crc32(&entries);
    let header = |here: u64, other: u64, place: u64| {
        let fields = [(24, here), (32, other), (48, usable), (72, place)];
        sealed(&table.header, &fields, sum)
    };
    let mut first_copy = header(FIRST, last, ENTRIES)?;
    first_copy.extend_from_slice(&entries);
    Some(Growth {
        second: [(second, entries), (last, header(last, FIRST, second)?)],
        first_copy: (FIRST, first_copy),
        number: u16::try_from(index + 1).ok()?,
        first,
        sectors: end.checked_sub(first)?.checked_add(1)?,
    })
}

/// Bytes of an entry.
fn each(header: &[u8; SECTOR]) -> Option<usize> {
    let bytes = header.get(84..88)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// The data partition: its place among the entries, its first sector and its last; nothing unless all others stand before it.
fn data(header: &[u8; SECTOR], entries: &[u8]) -> Option<(usize, u64, u64)> {
    let mut name = [0; 72];
    for (place, unit) in name
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(DATA.encode_utf16())
    {
        *place = unit.to_le_bytes();
    }
    let each = each(header).filter(|each| *each > 0)?;
    let mut found = None;
    let mut end = 0;
    for (place, entry) in entries.chunks_exact(each).enumerate() {
        if entry.iter().take(16).all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (number(entry, 32)?, number(entry, 40)?);
        if found.is_none() && entry.get(56..128) == Some(name.as_slice()) {
            found = Some((place, first, last));
        } else {
            end = end.max(last);
        }
    }
    found.filter(|(_, first, last)| *first > end && last >= first)
}

/// A header with these fields and this sum of its entries, and with its own.
fn sealed(header: &[u8; SECTOR], fields: &[(usize, u64)], entries: u32) -> Option<Vec<u8>> {
    let mut sector = header.to_vec();
    for (at, value) in fields {
        let place = sector.get_mut(*at..at.checked_add(8)?)?;
        place.copy_from_slice(&value.to_le_bytes());
    }
    sector
        .get_mut(88..92)?
        .copy_from_slice(&entries.to_le_bytes());
    sector.get_mut(16..20)?.fill(0);
    let size = usize::try_from(u32::from_le_bytes(*sector.get(12..16)?.first_chunk()?)).ok()?;
    // What is behind it is reserved, and no checksum is about it.
    sector.get_mut(size..)?.fill(0);
    let sum = crc32(sector.get(..size)?);
    sector.get_mut(16..20)?.copy_from_slice(&sum.to_le_bytes());
    Some(sector)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["bootenv", "slot-a", DATA];
    /// Sectors of the image, and of the card that it was written onto.
    const IMAGE: u64 = 5 * ALIGNED;
    const CARD: u64 = 40 * ALIGNED + 77;

    /// A disk in memory.
    #[derive(Clone, PartialEq)]
    struct Disk(Vec<u8>);

    impl Disk {
        fn read(&self, at: u64, length: usize) -> Option<Vec<u8>> {
            let at = usize::try_from(at).ok()?.checked_mul(SECTOR)?;
            Some(self.0.get(at..at.checked_add(length)?)?.to_vec())
        }

        fn write(&mut self, at: u64, bytes: &[u8]) {
            let at = usize::try_from(at).unwrap() * SECTOR;
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn sectors(&self) -> u64 {
            (self.0.len() / SECTOR) as u64
        }

        /// The copy that counts, as every reader decides.
        fn table(&self) -> Option<Table> {
            [FIRST, self.sectors() - 1]
                .into_iter()
                .find_map(|here| Table::read(here, |at, length| self.read(at, length)))
        }

        fn growth(&self) -> Option<Growth> {
            growth(&self.table()?, self.sectors())
        }

        /// First and last sector of each partition, by what counts.
        fn partitions(&self) -> Vec<(u64, u64)> {
            let table = self.table().expect("a table");
            let used = table
                .entries
                .chunks_exact(128)
                .filter(|entry| entry[0] != 0);
            let number =
                |entry: &[u8], at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            used.map(|entry| (number(entry, 32), number(entry, 40)))
                .collect()
        }
    }

    /// An image with three partitions of a mebibyte each, on a card.
    fn card() -> Disk {
        let mut entries = vec![0; 128 * 128];
        for (place, name) in NAMES.iter().enumerate() {
            let entry = &mut entries[place * 128..][..128];
            entry[..32].fill(7);
            let first = (place as u64 + 1) * ALIGNED;
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&(first + ALIGNED - 1).to_le_bytes());
            for (to, unit) in entry[56..].chunks_exact_mut(2).zip(name.encode_utf16()) {
                to.copy_from_slice(&unit.to_le_bytes());
            }
        }
        let mut plain = [0; SECTOR];
        plain[..12].copy_from_slice(b"EFI PART\0\0\x01\0");
        for (at, value) in [(12, 92_u32), (80, 128), (84, 128)] {
            plain[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let header = |here: u64, other: u64, place: u64| {
            let fields = [
                (24, here),
                (32, other),
                (40, 34),
                (48, IMAGE - 34),
                (72, place),
            ];
            sealed(&plain, &fields, crc32(&entries)).unwrap()
        };
        let mut disk = Disk(vec![0; usize::try_from(CARD).unwrap() * SECTOR]);
        disk.write(FIRST, &header(FIRST, IMAGE - 1, ENTRIES));
        disk.write(ENTRIES, &entries);
        disk.write(IMAGE - 33, &entries);
        disk.write(IMAGE - 1, &header(IMAGE - 1, FIRST, IMAGE - 33));
        disk
    }

    fn grown(mut disk: Disk) -> Disk {
        for (at, bytes) in writes(disk.growth().expect("a table")) {
            disk.write(at, &bytes);
        }
        disk
    }

    /// All writes in their order.
    fn writes(growth: Growth) -> Vec<(u64, Vec<u8>)> {
        let [entries, header] = growth.second;
        vec![entries, header, growth.first_copy]
    }

    fn asked(disk: &Disk) -> bool {
        let header = disk.read(FIRST, SECTOR).unwrap().try_into().unwrap();
        let entries = disk.read(ENTRIES, 128 * 128).unwrap();
        is_grown(&header, &entries, disk.sectors())
    }

    #[test]
    fn the_last_partition_takes_the_rest_and_both_copies_say_so() {
        let disk = card();
        assert!(!asked(&disk));
        let growth = disk.growth().unwrap();
        assert_eq!((growth.number, growth.first), (3, 3 * ALIGNED));
        let before = disk.partitions();
        let disk = grown(disk);
        let after = disk.partitions();
        assert_eq!(after[..2], before[..2]);
        assert_eq!(after[2], (3 * ALIGNED, 40 * ALIGNED - 1));
        assert_eq!(growth.sectors, 37 * ALIGNED);
        for here in [FIRST, CARD - 1] {
            let table = Table::read(here, |at, length| disk.read(at, length));
            assert!(table.is_some(), "the copy at {here}");
        }
        assert!(asked(&disk));
        assert!(grown(disk.clone()) == disk, "it is not the same twice");
    }

    /// The power goes within any sector of any write, and the rest of that sector is whatever it was, or rubbish.
    #[test]
    fn a_cut_at_any_moment_leaves_a_table_and_the_next_boot_goes_on() {
        let done = grown(card());
        let writes = writes(card().growth().unwrap());
        for (number, (at, bytes)) in writes.iter().enumerate() {
            for cut in (0..=bytes.len()).step_by(SECTOR / 2) {
                let mut disk = card();
                for (at, bytes) in &writes[..number] {
                    disk.write(*at, bytes);
                }
                let place = usize::try_from(*at).unwrap() * SECTOR;
                disk.0[place..place + cut].copy_from_slice(&bytes[..cut]);
                if !cut.is_multiple_of(SECTOR) {
                    disk.0[place + cut..place + cut + SECTOR / 2].fill(0xa5);
                }
                let found = disk.partitions();
                let is_one = found == card().partitions() || found == done.partitions();
                assert!(is_one, "write {number}, cut at {cut}: {found:?}");
                assert!(grown(disk) == done, "write {number}, cut at {cut}");
            }
        }
    }

    /// Windows does so when a card is plugged in, and partition editors when they are asked to mend a table.
    #[test]
    fn a_second_copy_that_another_tool_has_moved_stops_nothing() {
        let mut disk = card();
        let table = disk.table().unwrap();
        let last = CARD - 1;
        let header = |here: u64, other: u64, place: u64| {
            let usable = CARD - 34;
            let fields = [(24, here), (32, other), (48, usable), (72, place)];
            sealed(&table.header, &fields, crc32(&table.entries)).unwrap()
        };
        disk.write(CARD - 33, &table.entries);
        disk.write(last, &header(last, FIRST, CARD - 33));
        disk.write(FIRST, &header(FIRST, last, ENTRIES));
        assert_eq!(disk.partitions(), card().partitions());
        assert!(!asked(&disk));
        let mut done = grown(card());
        let mut disk = grown(disk);
        assert!(asked(&disk));
        // Of the table that the image had its copy is left behind, in the middle of what is `data` now.
        for at in IMAGE - 33..IMAGE {
            for disk in [&mut disk, &mut done] {
                disk.write(at, &[0; SECTOR]);
            }
        }
        assert!(disk == done);
    }

    #[test]
    fn what_does_not_fit_or_is_not_ours_stays() {
        let image = |sectors: u64| {
            let mut disk = card();
            disk.0.truncate(usize::try_from(sectors).unwrap() * SECTOR);
            disk.growth()
        };
        assert_eq!(image(4 * ALIGNED), None, "smaller than its partitions");
        let same = image(IMAGE).unwrap();
        assert_eq!(same.sectors, ALIGNED, "as large as its image");
        let whole = card().table().unwrap();
        let mut table = whole.clone();
        table.entries[2 * 128 + 56] = b'x';
        assert_eq!(growth(&table, CARD), None, "no data");
        let mut table = whole;
        table.entries[128 + 40..128 + 48].copy_from_slice(&(9 * ALIGNED).to_le_bytes());
        assert_eq!(growth(&table, CARD), None, "not the last");
    }
}
