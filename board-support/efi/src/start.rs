//! The start of a kernel: by its EFI stub, which is a program for UEFI.
//!
//! The initramfs goes by the protocol `EFI_LOAD_FILE2` on a handle whose device path is `LINUX_EFI_INITRD_MEDIA_GUID`, the
//! arguments as the image's load options. Source: Linux `Documentation/admin-guide/efi-stub.rst`,
//! `drivers/firmware/efi/libstub/efi-stub-helper.c`.

use crate::mapped::Mapped;
use crate::slot::Files;
use crate::{About, Error};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::ffi::c_void;
use kedge_loading::Slot;
use uefi::boot::{self, LoadImageSource, OpenProtocolAttributes, OpenProtocolParams};
use uefi::proto::loaded_image::LoadedImage;
use uefi::{Guid, Handle, Status, guid, println};
use uefi_raw::Boolean;
use uefi_raw::protocol::device_path::DevicePathProtocol;
use uefi_raw::protocol::media::LoadFile2Protocol;

const INITRD: Guid = guid!("5568e427-68fc-4f3d-ac74-ca555231cc68");

/// A vendor's media node and the end of a path.
#[repr(C, packed)]
struct Path {
    node: [u8; 4],
    vendor: [u8; 16],
    end: [u8; 4],
}

static PATH: Path = Path {
    node: [0x04, 0x03, 20, 0],
    vendor: INITRD.to_bytes(),
    end: [0x7f, 0xff, 4, 0],
};

/// What the kernel gets its initramfs from: the protocol, and behind it what it is about.
#[repr(C)]
struct Initramfs {
    protocol: LoadFile2Protocol,
    bytes: *const u8,
    length: usize,
}

/// Starts a slot's kernel. It comes back only with an error: of the firmware, or of a kernel that gave up.
///
/// With Secure Boot the kernel has a statement instead of a signature, and is not the firmware's to load.
pub(crate) fn start(
    slot: Slot,
    files: &Files,
    arguments: &str,
    secure_boot: bool,
) -> Result<Infallible, Error> {
    let options: Vec<u16> = arguments.encode_utf16().chain([0]).collect();
    if secure_boot {
        let kernel = Mapped::new(&files.kernel, &options)?;
        offering(slot, files, || kernel.start())?;
    } else {
        let source = LoadImageSource::FromBuffer {
            buffer: &files.kernel,
            file_path: None,
        };
        let kernel = boot::load_image(boot::image_handle(), source);
        let kernel = kernel.about("its kernel is refused")?;
        let started = with_arguments(kernel, &options).and_then(|()| {
            offering(slot, files, || {
                boot::start_image(kernel).about("its kernel gave up")
            })
        });
        boot::unload_image(kernel).ok();
        started?;
    }
    Err(Error("its kernel ended".into()))
}

/// Starts something that finds the slot's initramfs.
fn offering(
    slot: Slot,
    files: &Files,
    start: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let offer = Offer::new(&files.initramfs)?;
    // One line of its own, which QEMU's watcher reads.
    println!("kedge: starting slot {slot}");
    let ended = start();
    drop(offer);
    ended
}

/// Gives an image its arguments, which must outlive it.
fn with_arguments(kernel: Handle, options: &[u16]) -> Result<(), Error> {
    let size = u32::try_from(size_of_val(options))
        .map_err(|_| Error("its arguments are too long".into()))?;
    let params = OpenProtocolParams {
        handle: kernel,
        agent: boot::image_handle(),
        controller: None,
    };
    // SAFETY: the handle was made by this program, and nobody else knows it.
    let image =
        unsafe { boot::open_protocol::<LoadedImage>(params, OpenProtocolAttributes::GetProtocol) };
    let mut image = image.about("its kernel's image")?;
    // SAFETY: the caller keeps the options until the image has ended.
    unsafe { image.set_load_options(options.as_ptr().cast(), size) };
    Ok(())
}

/// An initramfs on offer, until it is dropped: the next slot's would not be found beside it.
struct Offer {
    handle: Handle,
    initramfs: Box<Initramfs>,
}

impl Offer {
    fn new(bytes: &[u8]) -> Result<Self, Error> {
        let initramfs = Box::new(Initramfs {
            protocol: LoadFile2Protocol { load_file },
            bytes: bytes.as_ptr(),
            length: bytes.len(),
        });
        let path: *const Path = &raw const PATH;
        // SAFETY: it is a whole device path, and static.
        let handle = unsafe {
            boot::install_protocol_interface(None, &DevicePathProtocol::GUID, path.cast())
        };
        let handle = handle.about("the initramfs cannot be offered")?;
        let interface: *const Initramfs = &raw const *initramfs;
        // SAFETY: it begins with the protocol, and stays where it is until it is uninstalled.
        let offered = unsafe {
            boot::install_protocol_interface(
                Some(handle),
                &LoadFile2Protocol::GUID,
                interface.cast(),
            )
        };
        let offer = Self { handle, initramfs };
        offered.about("the initramfs cannot be offered")?;
        Ok(offer)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let interface: *const Initramfs = &raw const *self.initramfs;
        // SAFETY: the kernel that could have used it has ended.
        let first = unsafe {
            boot::uninstall_protocol_interface(
                self.handle,
                &LoadFile2Protocol::GUID,
                interface.cast(),
            )
        };
        let path: *const Path = &raw const PATH;
        // SAFETY: as above.
        let second = unsafe {
            boot::uninstall_protocol_interface(self.handle, &DevicePathProtocol::GUID, path.cast())
        };
        if first.and(second).is_err() {
            // The next kernel would find it, in memory that is something else by then.
            println!("kedge: the initramfs of the last slot is still on offer");
            crate::again();
        }
    }
}

/// `EFI_LOAD_FILE2_PROTOCOL.LoadFile`: tells the size, then copies.
unsafe extern "efiapi" fn load_file(
    this: *mut LoadFile2Protocol,
    _path: *const DevicePathProtocol,
    _policy: Boolean,
    size: *mut usize,
    buffer: *mut c_void,
) -> Status {
    if this.is_null() || size.is_null() {
        return Status::INVALID_PARAMETER;
    }
    // SAFETY: the protocol is the first field of what was installed, which is still there.
    let initramfs = unsafe { &*this.cast::<Initramfs>() };
    // SAFETY: the caller says how much its buffer holds.
    let room = unsafe { size.read() };
    // SAFETY: as above; the caller is told how much there is.
    unsafe { size.write(initramfs.length) };
    if buffer.is_null() || room < initramfs.length {
        return Status::BUFFER_TOO_SMALL;
    }
    // SAFETY: both hold that many bytes, and the caller's are its own.
    unsafe { core::ptr::copy_nonoverlapping(initramfs.bytes, buffer.cast(), initramfs.length) };
    Status::SUCCESS
}
