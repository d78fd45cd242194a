//! Are the objects of a revision here, and are they what their names say?
//!
//! One ioctl an object answers that, and the kernel judges each later read.
//!
//! What is not sealed is refused, whatever its bytes are now: nobody would judge what is read of it later, and whoever
//! writes the disk can clear the flag of a file or the feature of the file system. Each image has the feature, and there
//! no object gets its name before it is sealed: what is not sealed was changed from outside. It is not sealed again here,
//! either. That reads and writes as many bytes as somebody has prepared, in PID 1 and before the first container; and
//! where the feature is gone, nothing can be sealed.

use crate::error::Error;
use kedge_revision::ObjectId;
use kedge_revision::revision::Object;
use kedge_store::Store;
use kedge_sys::verity::{Digest, VerityError};
use std::fs::File;
use std::path::Path;

/// Checks one object against its id and size.
///
/// # Errors
/// [`Error::Object`], [`Error::File`].
pub(crate) fn check(store: &Store, id: ObjectId, object: Object) -> Result<(), Error> {
    let path = store.object_path(id);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Object {
                id,
                why: "is not in the store",
            });
        }
        // A sealed file whose descriptor is damaged cannot even be opened (fs/verity/open.c).
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let size = file.metadata().map_err(Error::io("stat", &path))?.len();
    if size != object.size {
        return Err(Error::Object {
            id,
            why: "has another size than its revision says",
        });
    }
    judge(id, &path, kedge_sys::verity::measure(&file))
}

/// Judges what the kernel says of an object's file.
fn judge(id: ObjectId, path: &Path, measured: Result<Digest, VerityError>) -> Result<(), Error> {
    let why = match measured {
        Ok(digest) if ObjectId::from_digest(digest) == id => return Ok(()),
        Ok(_) => "has other bytes than its name says",
        Err(VerityError::NotSupported) => {
            "is not sealed: its file system or this kernel has no fs-verity"
        }
        Err(VerityError::NotVerity) => "is not sealed",
        Err(VerityError::Failed(error)) => return Err(Error::file("measure", path)(error.errno)),
        Err(VerityError::Foreign | VerityError::AlreadySealed | VerityError::Busy) => {
            "is sealed with another algorithm"
        }
    };
    Err(Error::Object { id, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_revision::verity;

    #[test]
    fn damage_on_flash_and_objects_of_another_name_are_found() {
        let (id, other) = (verity::digest(b"good"), verity::digest(b"evil"));
        let path = Path::new("object");
        judge(id, path, Ok(*id.digest())).unwrap();
        for (measured, expected) in [
            (Ok(*other.digest()), "other bytes"),
            (Err(VerityError::NotVerity), "is not sealed"),
            (Err(VerityError::NotSupported), "has no fs-verity"),
            (Err(VerityError::Foreign), "another algorithm"),
        ] {
            let found = judge(id, path, measured).unwrap_err().to_string();
            assert!(found.contains(expected), "{measured:?}: {found}");
        }
    }

    #[test]
    fn right_bytes_that_nobody_judges_later_are_refused() {
        // proc has no fs-verity on any kernel.
        let file = File::open("/proc/self/status").unwrap();
        let measured = kedge_sys::verity::measure(&file);
        let found = judge(verity::digest(b""), Path::new("status"), measured).unwrap_err();
        assert!(found.to_string().contains("has no fs-verity"), "{found}");
    }
}
