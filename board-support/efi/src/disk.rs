//! The disk that this program came from: its partitions, and the loader record on it.
//!
//! The firmware names partitions of a disk by where they are; their names it may not tell (`EFI_PARTITION_INFO` is not
//! everywhere), so the table is read here. Nothing is opened exclusively: that would take the disk from the drivers that
//! read its file systems.

use crate::{About, Error};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use kedge_loading::gpt::{self, Guid, Header, SECTOR};
use kedge_loading::plan::Take;
use kedge_loading::{COPY, Loader, Side};
use uefi::Handle;
use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol};
use uefi::proto::ProtocolPointer;
use uefi::proto::device_path::{DevicePath, DeviceSubType, DeviceType};
use uefi::proto::loaded_image::LoadedImage;
use uefi::proto::media::block::BlockIO;

/// Sectors of a copy of the record.
const COPY_SECTORS: u64 = 8;

/// A buffer that any controller can transfer to.
#[repr(C, align(4096))]
struct Page([u8; COPY]);

/// The disk.
pub(crate) struct Disk {
    /// Its device path, without an end.
    path: Vec<u8>,
    block: ScopedProtocol<BlockIO>,
    entries: Vec<u8>,
    header: Header,
}

/// A protocol as it is, beside whoever else uses it.
pub(crate) fn shared<P: ProtocolPointer + ?Sized>(
    handle: Handle,
) -> uefi::Result<ScopedProtocol<P>> {
    let agent = boot::image_handle();
    let params = OpenProtocolParams {
        handle,
        agent,
        controller: None,
    };
    // SAFETY: no driver is stopped and no handle goes away while this program runs: it asks for neither.
    unsafe { boot::open_protocol(params, OpenProtocolAttributes::GetProtocol) }
}

/// The device path of a handle, without its end.
pub(crate) fn path(handle: Handle) -> uefi::Result<Vec<u8>> {
    let path = shared::<DevicePath>(handle)?;
    Ok(bytes(&path, |_| true))
}

fn bytes(path: &DevicePath, wanted: impl Fn((DeviceType, DeviceSubType)) -> bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for node in path.node_iter().take_while(|node| wanted(node.full_type())) {
        let (DeviceType(kind), DeviceSubType(sub)) = node.full_type();
        bytes.extend([kind, sub]);
        bytes.extend(node.length().to_le_bytes());
        bytes.extend(node.data());
    }
    bytes
}

impl Disk {
    /// The disk with the partition that the firmware has loaded this program from.
    pub(crate) fn own() -> Result<Self, Error> {
        let image =
            shared::<LoadedImage>(boot::image_handle()).about("this program's own image")?;
        let partition = image
            .device()
            .ok_or_else(|| Error("this program came from no device".into()))?;
        let own = shared::<DevicePath>(partition).about("the path of this program's partition")?;
        let path = bytes(&own, |kind| {
            kind != (DeviceType::MEDIA, DeviceSubType::MEDIA_HARD_DRIVE)
        });
        let handles = boot::find_handles::<BlockIO>().about("the machine's disks")?;
        let disk = handles
            .into_iter()
            .find(|handle| self::path(*handle).is_ok_and(|found| found == path))
            .ok_or_else(|| Error("the disk of this program's partition is not there".into()))?;
        let mut block = shared::<BlockIO>(disk).about("the disk")?;
        let size = block.media().block_size();
        if usize::try_from(size) != Ok(SECTOR) {
            return Err(Error(format!(
                "the disk has blocks of {size} bytes, not of {SECTOR}"
            )));
        }
        let last = block.media().last_block();
        let table = [1, last]
            .into_iter()
            .find_map(|at| table(&mut block, at).transpose());
        let (header, entries) = table
            .ok_or_else(|| Error("both copies of the partition table are damaged".into()))??;
        Ok(Self {
            path,
            block,
            entries,
            header,
        })
    }

    /// What it is called: another one with partitions of the same names is not this system's.
    pub(crate) const fn guid(&self) -> Guid {
        self.header.disk
    }

    /// First sector and number of sectors of a partition.
    pub(crate) fn partition(&self, name: &str) -> Result<(u64, u64), Error> {
        let mut partitions = self.header.partitions(&self.entries).into_iter().flatten();
        let found = partitions.find(|partition| partition.is(name));
        found
            .map(|partition| (partition.first, partition.sectors))
            .ok_or_else(|| Error(format!("the disk has no partition {name}")))
    }

    /// Whether a handle is that of the partition which begins there.
    pub(crate) fn is_partition(&self, handle: Handle, first: u64) -> bool {
        let Ok(path) = path(handle) else { return false };
        let Some(node) = path.strip_prefix(self.path.as_slice()) else {
            return false;
        };
        // A hard drive's node: type, subtype, length, number, first sector, ….
        let start = node.get(8..16).and_then(<[u8]>::first_chunk);
        node.starts_with(&[DeviceType::MEDIA.0, DeviceSubType::MEDIA_HARD_DRIVE.0])
            && start.is_some_and(|start| u64::from_le_bytes(*start) == first)
    }

    /// Both copies of the loader record, as far as each is whole. A copy that cannot be read is not.
    pub(crate) fn record(&mut self) -> Result<[Option<Loader>; 2], Error> {
        let mut copies = [None; 2];
        for (side, copy) in [Side::First, Side::Second].into_iter().zip(&mut copies) {
            *copy = self
                .copy(side)?
                .and_then(|page| Loader::parse(&page.0).ok());
        }
        Ok(copies)
    }

    /// Takes a try off: both copies are on the disk, and were read back, when this returns.
    pub(crate) fn take(&mut self, take: Take) -> Result<(), Error> {
        let Take { record, first } = take;
        let mut page = Box::new(Page([0; COPY]));
        page.0 = record.encode();
        for side in [first, first.other()] {
            let at = self.place(side)?;
            let medium = self.block.media().media_id();
            let written = self.block.write_blocks(medium, at, &page.0);
            written.about(format_args!(
                "the loader record cannot be written at sector {at}"
            ))?;
            let flushed = self.block.flush_blocks();
            flushed.about("the loader record does not reach the disk")?;
            if self.copy(side)?.is_none_or(|read| read.0 != page.0) {
                return Err(Error(format!(
                    "the loader record at sector {at} does not keep what is written"
                )));
            }
        }
        Ok(())
    }

    fn place(&self, side: Side) -> Result<u64, Error> {
        let (first, sectors) = self.partition("bootenv")?;
        let offset = side.of([0, COPY_SECTORS]);
        if sectors < offset.saturating_add(COPY_SECTORS) {
            return Err(Error("the partition bootenv is too small".into()));
        }
        first
            .checked_add(offset)
            .ok_or_else(|| Error("the partition bootenv is beyond every disk".into()))
    }

    fn copy(&mut self, side: Side) -> Result<Option<Box<Page>>, Error> {
        let at = self.place(side)?;
        let mut page = Box::new(Page([0; COPY]));
        let medium = self.block.media().media_id();
        let read = self.block.read_blocks(medium, at, &mut page.0);
        Ok(read.is_ok().then_some(page))
    }
}

/// The partition table whose header is at a sector; nothing if it is damaged.
fn table(block: &mut BlockIO, at: u64) -> Result<Option<(Header, Vec<u8>)>, Error> {
    let sector = read(block, at, SECTOR)?;
    let Some(header) = sector
        .first_chunk()
        .and_then(|sector| Header::parse(sector, at))
    else {
        return Ok(None);
    };
    let entries = read(block, header.entries, header.length)?;
    let whole = header.partitions(&entries).is_some();
    Ok(whole.then_some((header, entries)))
}

/// So many bytes, at most [`gpt::MOST`], from a sector on; nothing where they cannot be read.
fn read(block: &mut BlockIO, at: u64, length: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut page = Box::new(Page([0; COPY]));
    let medium = block.media().media_id();
    let length = length.min(gpt::MOST);
    let mut at = at;
    while bytes.len() < length {
        let part = page.0.first_chunk_mut::<SECTOR>();
        let part = part.ok_or_else(|| Error("a page has no sector".into()))?;
        if block.read_blocks(medium, at, part).is_err() {
            return Ok(Vec::new());
        }
        bytes.extend_from_slice(part);
        at = at.saturating_add(1);
    }
    bytes.truncate(length);
    Ok(bytes)
}
