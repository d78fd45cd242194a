//! Objects that are there and are not what their names say: damage on the disk, found before an update relies on them.
//!
//! The kernel is asked for the digest that a file was sealed with, one ioctl an object. Of the data nothing is read: a block that
//! went bad under a whole seal is found by who reads it (`EIO`).

use crate::durable;
use crate::{Error, Store};
use kedge_revision::ObjectId;
use kedge_revision::revision::Envelope;
use kedge_sys::rustix::io::Errno;
use kedge_sys::verity::{Digest, VerityError, measure};
use std::fs::File;

/// Removes the objects of a revision that can never run again, so that they are missing and are fetched; returns which.
///
/// # Errors
/// [`Error::File`] if one cannot be removed.
pub fn drop_damaged(store: &Store, envelope: &Envelope) -> Result<Vec<ObjectId>, Error> {
    let mut dropped = Vec::new();
    for (id, object) in &envelope.objects {
        if !store.has(*id, *object) {
            continue;
        }
        let path = store.object_path(*id);
        let is_damaged = match File::open(&path) {
            Ok(file) => is_lost(*id, measure(&file)),
            Err(error) => Errno::from_io_error(&error).is_some_and(cannot_ever_be_opened),
        };
        if is_damaged {
            durable::remove(&path)?;
            dropped.push(*id);
        }
    }
    Ok(dropped)
}

/// Whether the kernel's word on an object is that it will never be judged good. Where no object is sealed (a file system without
/// fs-verity) none is better than another, and what only failed now may not fail the next time.
fn is_lost(id: ObjectId, measured: Result<Digest, VerityError>) -> bool {
    match measured {
        Ok(digest) => ObjectId::from_digest(digest) != id,
        Err(VerityError::NotVerity | VerityError::Foreign) => true,
        Err(
            VerityError::NotSupported
            | VerityError::AlreadySealed
            | VerityError::Busy
            | VerityError::Failed(_),
        ) => false,
    }
}

/// What opening a sealed file says whose descriptor is damaged (Linux `fs/verity/open.c`, `fs/ext4/verity.c`); `EUCLEAN` is that
/// file system's `EFSCORRUPTED`. `EIO` is not among them: it may pass.
const fn cannot_ever_be_opened(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INVAL | Errno::UCLEAN | Errno::BADMSG | Errno::MSGSIZE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_revision::verity::digest;

    #[test]
    fn what_is_damaged_for_good_is_told_from_what_may_pass() {
        let (id, other) = (digest(b"good"), digest(b"evil"));
        let passes = kedge_sys::Error::new("measure", Errno::IO);
        for (measured, expected) in [
            (Ok(*id.digest()), false),
            (Ok(*other.digest()), true),
            (Err(VerityError::NotVerity), true),
            (Err(VerityError::Foreign), true),
            (Err(VerityError::NotSupported), false),
            (Err(VerityError::Failed(passes)), false),
        ] {
            assert_eq!(is_lost(id, measured), expected, "{measured:?}");
        }
        assert!(cannot_ever_be_opened(Errno::UCLEAN));
        assert!(!cannot_ever_be_opened(Errno::IO));
        assert!(!cannot_ever_be_opened(Errno::MFILE));
    }
}
