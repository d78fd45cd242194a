//! Loading kernel modules.

use std::ffi::CStr;
use std::os::fd::AsFd;

use crate::{During, Errno, Error, Result};

/// Whether a module was loaded by this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// Yes.
    Now,
    /// It already was, or is built in under the same name.
    Before,
    /// No: what it drives is not in this machine (`ENODEV`), as with the watchdog of another maker's chipset.
    NotForThisMachine,
}

/// Loads a module from an open file (`finit_module(2)`), without decompression.
///
/// # Errors
/// `ENOEXEC` where it is no module for this kernel, `ENOENT` where a symbol is missing (the order of
/// loading), `EPERM`, `EKEYREJECTED`.
pub fn load_file<Fd: AsFd>(file: Fd, parameters: &CStr) -> Result<Loaded> {
    judged(rustix::system::finit_module(file, parameters, 0).during("finit_module"))
}

/// Loads a module from memory (`init_module(2)`).
///
/// # Errors
/// As [`load_file`].
pub fn load_image(image: &[u8], parameters: &CStr) -> Result<Loaded> {
    judged(rustix::system::init_module(image, parameters).during("init_module"))
}

fn judged(answer: Result<()>) -> Result<Loaded> {
    match answer {
        Ok(()) => Ok(Loaded::Now),
        Err(Error {
            errno: Errno::EXIST,
            ..
        }) => Ok(Loaded::Before),
        Err(Error {
            errno: Errno::NODEV,
            ..
        }) => Ok(Loaded::NotForThisMachine),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_there_is_no_error() {
        let there = Err(Error::new("finit_module", Errno::EXIST));
        assert_eq!(judged(there), Ok(Loaded::Before));
        assert_eq!(judged(Ok(())), Ok(Loaded::Now));
    }

    #[test]
    fn a_module_for_hardware_that_is_not_there_is_no_error() {
        let lacks = |errno| Err(Error::new("finit_module", errno));
        assert_eq!(judged(lacks(Errno::NODEV)), Ok(Loaded::NotForThisMachine));
        assert!(judged(lacks(Errno::NOENT)).is_err());
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert!(load_image(b"no module at all", c"").is_err());
    }
}
