//! Anonymous files, and bytes from the kernel's random source.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::{During, Errno, Error, Result};

/// An empty file in memory that can be sealed with [`seal`]; close-on-exec. `name` is only seen in
/// `/proc`.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`, `EINVAL` for a name of more than 249 bytes.
pub fn file(name: &str) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    rustix::fs::memfd_create(name, flags).during("memfd_create")
}

/// Forbids every change of a file in memory, for ever.
///
/// # Errors
/// `EBUSY` while it is mapped writable.
pub fn seal(file: &OwnedFd) -> Result<()> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(file, seals).during("F_ADD_SEALS")
}

/// Whether random bytes may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entropy {
    /// Waits until the kernel's source is seeded, which early in a boot may take long. For keys.
    Seeded,
    /// Takes what there is now, and never waits. For hash seeds and jitter, never for keys.
    Now,
}

/// Fills `buffer` with random bytes.
///
/// # Errors
/// `ENOSYS` where a kernel older than 5.6 has no source that does not wait.
pub fn fill_random(mut buffer: &mut [u8], entropy: Entropy) -> Result<()> {
    let flags = match entropy {
        Entropy::Seeded => GetRandomFlags::empty(),
        Entropy::Now => GetRandomFlags::INSECURE,
    };
    while !buffer.is_empty() {
        match getrandom(&mut *buffer, flags) {
            Ok(filled) => {
                let rest = buffer.get_mut(filled..);
                buffer = rest.ok_or(Error::new("getrandom", Errno::IO))?;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).during("getrandom"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let (mut one, mut two) = ([0u8; 64], [0u8; 64]);
        fill_random(&mut one, Entropy::Seeded).expect("getrandom");
        fill_random(&mut two, Entropy::Now).expect("getrandom");
        assert_ne!(one, two);
        assert_ne!(one, [0u8; 64]);
    }

    #[test]
    fn a_sealed_file_refuses_writes() {
        let memory = file("test").expect("memfd_create");
        rustix::io::write(&memory, b"text").expect("write");
        seal(&memory).expect("seal");
        assert_eq!(rustix::io::write(&memory, b"more"), Err(Errno::PERM));
    }
}
