//! A kernel that this program loads itself: where Secure Boot is on, for one whose hash a signed statement holds.
//!
//! The firmware would ask for a signature of the kernel's own; why it has none is told in `kedge_loading::program`. What the
//! firmware does beside judging is done here: pages, an image's handle with its arguments, and the call.
//!
//! Source: UEFI Specification 2.10, `EFI_LOADED_IMAGE_PROTOCOL`, `EFI_IMAGE_ENTRY_POINT`, `EFI_MEMORY_ATTRIBUTE_PROTOCOL`.

use crate::disk::shared;
use crate::{About, Error};
use alloc::boxed::Box;
use alloc::format;
use core::ffi::c_void;
use core::ptr::NonNull;
use kedge_loading::program::Program;
use uefi::boot::{self, AllocateType, MemoryType};
use uefi::proto::security::MemoryProtection;
use uefi::{Handle, Status, println};
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::table::boot::MemoryAttribute;
use uefi_raw::table::system::SystemTable;

/// `EFI_LOADED_IMAGE_PROTOCOL_REVISION`.
const REVISION: u32 = 0x1000;
const PAGE: usize = 4096;

type Entry = extern "efiapi" fn(Handle, *const SystemTable) -> Status;

/// A kernel in memory, until it is dropped.
pub(crate) struct Mapped {
    pages: NonNull<u8>,
    count: usize,
    entry: usize,
    image: Box<Image>,
}

/// An image's protocol, with what EDK II looks for before it when a kernel gives up: Linux calls `Exit` with its handle then, which
/// is none of the firmware's own. Not zero there means that it was started, so that nothing is unloaded. Linux halts, and the
/// firmware's watchdog resets.
#[repr(C)]
struct Image {
    before: [u8; 64],
    protocol: LoadedImageProtocol,
}

impl Mapped {
    /// Puts a kernel into memory, whose hash somebody has signed whom the firmware trusts. `options` must live as long as this.
    pub(crate) fn new(kernel: &[u8], options: &[u16]) -> Result<Self, Error> {
        let program =
            Program::parse(kernel).map_err(|why| Error(format!("its kernel is refused: {why}")))?;
        let length = u32::try_from(size_of_val(options));
        let length = length.map_err(|_| Error("its arguments are too long".into()))?;
        let system_table = uefi::table::system_table_raw()
            .map(|table| table.as_ptr().cast_const())
            .ok_or_else(|| Error("the firmware has no table".into()))?;
        let count = program.pages;
        let size = count.saturating_mul(PAGE);
        let pages = boot::allocate_pages(AllocateType::AnyPages, MemoryType::LOADER_CODE, count);
        let pages = pages.about("no memory for its kernel")?;
        let protocol = LoadedImageProtocol {
            revision: REVISION,
            parent_handle: boot::image_handle().as_ptr(),
            system_table,
            device_handle: core::ptr::null_mut(),
            file_path: core::ptr::null(),
            reserved: core::ptr::null(),
            load_options_size: length,
            load_options: options.as_ptr().cast(),
            image_base: pages.as_ptr().cast_const().cast(),
            image_size: u64::try_from(size).unwrap_or(u64::MAX),
            image_code_type: MemoryType::LOADER_CODE,
            image_data_type: MemoryType::LOADER_DATA,
            unload: None,
        };
        let image = Box::new(Image {
            before: [1; 64],
            protocol,
        });
        let mapped = Self {
            pages,
            count,
            entry: program.entry,
            image,
        };
        mapped.fill(&program);
        mapped.allow()?;
        Ok(mapped)
    }

    fn fill(&self, program: &Program<'_>) {
        let size = self.count.saturating_mul(PAGE);
        // SAFETY: so many pages were allocated, and nobody else knows them.
        unsafe { core::ptr::write_bytes(self.pages.as_ptr(), 0, size) };
        // SAFETY: as above; they are initialized now.
        let memory = unsafe { core::slice::from_raw_parts_mut(self.pages.as_ptr(), size) };
        for part in program.contents() {
            let place = memory.get_mut(part.place).unwrap_or_default();
            place
                .iter_mut()
                .zip(part.bytes)
                .for_each(|(to, from)| *to = *from);
        }
    }

    /// Lets the pages be executed, all of them, where the firmware says what may be. Those that do not say let everything.
    fn allow(&self) -> Result<(), Error> {
        let Ok(handle) = boot::get_handle_for_protocol::<MemoryProtection>() else {
            return Ok(());
        };
        let begin = self.pages.as_ptr().expose_provenance();
        let begin = u64::try_from(begin).unwrap_or(u64::MAX);
        let size = self.count.saturating_mul(PAGE);
        let end = begin.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
        let region = begin..end;
        let allowed = shared::<MemoryProtection>(handle).and_then(|protection| {
            protection.clear_memory_attributes(region, MemoryAttribute::EXECUTE_PROTECT)
        });
        allowed.about("the firmware does not let its kernel run")
    }

    /// Starts it. Linux does not come back, even with an error; another program may.
    pub(crate) fn start(&self) -> Result<(), Error> {
        let interface: *const LoadedImageProtocol = &raw const self.image.protocol;
        // SAFETY: it is a whole protocol, and stays where it is until it is uninstalled.
        let handle = unsafe {
            boot::install_protocol_interface(None, &LoadedImageProtocol::GUID, interface.cast())
        };
        let handle = handle.about("its kernel gets no handle")?;
        let at = self.pages.as_ptr().wrapping_add(self.entry);
        // SAFETY: the entry lies in the pages, whose contents are a program's for this machine: its headers say so, and
        // somebody whom the firmware trusts has signed its hash.
        let entry = unsafe { core::mem::transmute::<*mut u8, Entry>(at) };
        let status = entry(handle, self.image.protocol.system_table);
        // SAFETY: what was started has ended.
        let removed = unsafe {
            boot::uninstall_protocol_interface(
                handle,
                &LoadedImageProtocol::GUID,
                interface.cast::<c_void>(),
            )
        };
        if removed.is_err() {
            println!("kedge: the kernel's handle does not go");
            crate::again();
        }
        Err(Error::new("its kernel gave up", status))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: they were allocated by this type, and what was in them has ended.
        let freed = unsafe { boot::free_pages(self.pages, self.count) };
        if freed.is_err() {
            println!("kedge: the kernel's memory does not go");
        }
    }
}
