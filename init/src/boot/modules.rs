//! Kernel modules, for stock distribution kernels only: `/modules/list` names files in the order of loading.

use crate::boot::files;
use crate::error::Error;
use kedge_sys::module;
use std::fs::File;
use std::path::Path;

const DIRECTORY: &str = "/modules";

/// Loads what the list names; without a list there is nothing to do.
///
/// # Errors
/// The first module that cannot be loaded; those after it are tried all the same, since the
/// missing one may be for a device that this machine lacks.
pub(crate) fn load() -> Result<(), Error> {
    let directory = Path::new(DIRECTORY);
    let Some(list) = files::read_if_there(&directory.join("list"), 16 * 1024)? else {
        return Ok(());
    };
    let mut first = Ok(());
    for name in list.split(|byte| *byte == b'\n') {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        // A list is part of the signed initramfs; even so it names files of one directory only.
        if name.is_empty() || name.contains('/') {
            continue;
        }
        let path = directory.join(name);
        let loaded = File::open(&path)
            .map_err(Error::io("open", &path))
            .and_then(|file| {
                module::load_file(file, c"")
                    .map_err(|error| Error::file("load module", &path)(error.errno))
            });
        if let (Err(error), Ok(())) = (loaded, &first) {
            first = Err(error);
        }
    }
    first
}

/// Frees the memory that modules take in the initramfs once they are loaded.
pub(crate) fn forget() {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else {
        return;
    };
    for entry in entries.flatten() {
        // What cannot be removed costs memory and nothing else.
        std::fs::remove_file(entry.path()).ok();
    }
}
