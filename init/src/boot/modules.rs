//! Kernel modules, for stock distribution kernels only: `/modules/list` names files in the order of loading.
//!
//! Kernel arguments of the form `module.parameter=value` are the modules' parameters, as when they are built in.

use crate::boot::files;
use crate::error::Error;
use kedge_sys::module;
use std::ffi::CString;
use std::fs::File;
use std::path::Path;

const DIRECTORY: &str = "/modules";

/// Loads what the list names; without a list there is nothing to do.
///
/// # Errors
/// The first module that cannot be loaded; those after it are tried all the same, since what that one drives
/// may not be needed. One whose device this machine lacks is no error: an image for PCs has drivers for several.
pub(crate) fn load() -> Result<(), Error> {
    let directory = Path::new(DIRECTORY);
    let Some(list) = files::read_if_there(&directory.join("list"), 16 * 1024)? else {
        return Ok(());
    };
    let line = files::read(Path::new("/root/proc/cmdline"), 16 * 1024)?;
    let line = String::from_utf8_lossy(&line);
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
                module::load_file(file, &parameters(&line, name))
                    .map_err(|error| Error::file("load module", &path)(error.errno))
            });
        if let (Err(error), Ok(())) = (loaded, &first) {
            first = Err(error);
        }
    }
    first
}

/// What the kernel's arguments say of the module in a file. In names of modules `-` and `_` are the same.
fn parameters(line: &str, file: &str) -> CString {
    let name = file.strip_suffix(".ko").unwrap_or(file);
    let plain = |letter: char| if letter == '-' { '_' } else { letter };
    let is_name = |text: &str| text.chars().map(plain).eq(name.chars().map(plain));
    let mut text = String::new();
    for word in line.split_ascii_whitespace() {
        if let Some((module, parameter)) = word.split_once('.')
            && is_name(module)
        {
            text.push_str(parameter);
            text.push(' ');
        }
    }
    // The kernel's arguments hold no NUL.
    CString::new(text).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_gets_its_own_parameters() {
        let line = "quiet ramoops.mem_size=0x2000 virtio_rng.a=1 ramoops.ecc=1 ramoopsx.no=1 kedge.slot=a\n";
        let of = |file| parameters(line, file).into_string().unwrap();
        assert_eq!(of("ramoops.ko"), "mem_size=0x2000 ecc=1 ");
        assert_eq!(of("virtio-rng.ko"), "a=1 ");
        assert_eq!(of("erofs.ko"), "");
    }
}
