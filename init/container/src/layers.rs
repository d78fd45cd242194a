//! Attaching layers: an object file becomes a read-only mount, once, however many containers use it.
//!
//! An object is an EROFS image in a file with fs-verity on. Since Linux 6.12 EROFS mounts such a file
//! itself, without a loop device (`CONFIG_EROFS_FS_BACKED_BY_FILE`).

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kedge_sys::mount::unmount_detach;
use kedge_sys::rustix::fs::rmdir;

use crate::mounts::{NO_DEV, READ_ONLY, attach, filesystem, make_directories};
use crate::stage::{At, Failure, SpawnError, Stage};

/// Mounts the EROFS image in the file `object` on the directory `place`, which is made if it is not
/// there, and gone again after an error. Programs of it keep their set-user-id bits, which count within a container's ids only.
///
/// # Errors
/// Stage `Layer` with the object's path; `ENOTBLK` where the kernel takes no file as a source.
pub fn attach_layer(object: &Path, place: &Path) -> Result<(), SpawnError> {
    let (object, place) = (text(object)?, text(place)?);
    make_directories(&place).at(Stage::Layer, &place)?;
    let mounted = mount_layer(&object, &place);
    if mounted.is_err() {
        // A container that is started again and again would leave a directory each time.
        rmdir(&place).ok();
    }
    Ok(mounted?)
}

fn mount_layer<'p>(object: &'p CStr, place: &'p CStr) -> Result<(), Failure<'p>> {
    let mount = filesystem(c"erofs", &[(c"source", object)], READ_ONLY | NO_DEV);
    let mount = mount.at(Stage::Layer, object)?;
    attach(&mount, place).at(Stage::Layer, place)
}

/// Undoes [`attach_layer`], with the directory; containers that run on it keep it until they end.
///
/// # Errors
/// Stage `Layer`; `ENOENT` where it is undone already, `EINVAL` where nothing is mounted.
pub fn detach_layer(place: &Path) -> Result<(), SpawnError> {
    let place = text(place)?;
    unmount_detach(&place).at(Stage::Layer, &place)?;
    Ok(rmdir(&place).at(Stage::Layer, &place)?)
}

fn text(path: &Path) -> Result<CString, SpawnError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| SpawnError {
        stage: Stage::Layer,
        errno: kedge_sys::Errno::INVAL,
        path: path.display().to_string(),
    })
}
