//! Are the objects of a revision here, and are they what their names say?
//!
//! With fs-verity on, one ioctl an object answers that, and the kernel judges each later read. On a
//! file system or kernel without it the digest is computed here, which reads every byte.

use crate::error::Error;
use kedge_revision::revision::Object;
use kedge_revision::{ObjectId, verity};
use kedge_store::Store;
use kedge_sys::verity::VerityError;
use std::fs::File;
use std::io::Read;
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
    let found = match kedge_sys::verity::measure(&file) {
        Ok(digest) => ObjectId::from_digest(digest),
        // Such a file system or kernel seals nothing: then every byte is read, here and now.
        Err(VerityError::NotSupported) => compute(file, &path)?,
        // A store that seals has only sealed objects; reads of this one would be judged by nobody.
        Err(VerityError::NotVerity) => {
            return Err(Error::Object {
                id,
                why: "is not sealed",
            });
        }
        Err(VerityError::Failed(error)) => return Err(Error::file("measure", path)(error.errno)),
        Err(VerityError::Foreign | VerityError::AlreadySealed | VerityError::Busy) => {
            return Err(Error::Object {
                id,
                why: "is sealed with another algorithm",
            });
        }
    };
    if found == id {
        Ok(())
    } else {
        Err(Error::Object {
            id,
            why: "has other bytes than its name says",
        })
    }
}

/// The digest by reading everything.
fn compute(mut file: File, path: &Path) -> Result<ObjectId, Error> {
    let mut builder = verity::Builder::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            return Ok(builder.finish().id);
        }
        builder.update(buffer.get(..count).unwrap_or_default());
    }
}
