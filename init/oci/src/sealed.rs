//! This program, out of reach of what it starts.
//!
//! A process of a container that is root outside, too, can reach the program that started it through `/proc/PID/exe`, and
//! write to it the moment nobody executes it any more (CVE-2019-5736). So it runs itself from a mount of its own file that
//! is read-only, for whoever reaches it that way; the file itself stays writable to its owner. No copy is made.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result};
use kedge_sys::exec::ExecImage;
use kedge_sys::mount::{
    Attributes, Depth, MountAttrFlags, OpenTreeFlags, open_tree, set_attributes,
};
use kedge_sys::rustix::fs::{CWD, StatVfsMountFlags, statvfs};

const OWN: &std::ffi::CStr = c"/proc/self/exe";

/// Runs this program again from a read-only mount, unless it is run from one; returns only then.
///
/// # Errors
/// There is no `/proc`, or no right to mount: nothing can be started then either.
pub(crate) fn run_from_read_only_mount() -> Result<()> {
    let found = statvfs(OWN).context("/proc/self/exe")?;
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, OWN, flags).context("a mount of this program (are you root?)")?;
    let change = Attributes::new().set(MountAttrFlags::MOUNT_ATTR_RDONLY);
    set_attributes(&tree, c"", Depth::One, &change).context("a read-only mount of this program")?;
    let text = |words: Vec<std::ffi::OsString>| -> Result<Vec<CString>> {
        let texts = words.into_iter().map(|word| CString::new(word.into_vec()));
        Ok(texts.collect::<Result<_, _>>()?)
    };
    let arguments = text(std::env::args_os().collect())?;
    let environment = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let image = ExecImage::new(c"".into(), arguments, text(environment.collect())?);
    Err(image.exec_file(&tree)).context("this program from a read-only mount")
}
