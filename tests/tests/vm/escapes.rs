//! Ways out of a container that once were ways out of some runtime's, each by its name and with the answer that it must get:
//! checks on a boot of another test.

use crate::confined::facts_of;
use anyhow::{Result, ensure};
use kedge_image_build::progress::say;
use kedge_tests::disk::Disk;
use kedge_tests::guest::Guest;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const EPERM: &[&str] = &["1"];
const ENOENT: &[&str] = &["2"];
const ESRCH: &[&str] = &["3"];
/// Our own kernels do not have the call.
const ESRCH_OR_ENOSYS: &[&str] = &["3", "38", "89"];
/// The number on MIPS is another one.
const ENOSYS: &[&str] = &["38", "89"];

/// What is tried, and how it is refused: by the filter (`EPERM`), as a call that is not there, or because nobody else is
/// in sight.
const ESCAPES: [(&str, &[&str]); 32] = [
    ("escape-trace-others", ESRCH),
    ("escape-read-memory-of-others", ESRCH_OR_ENOSYS),
    ("escape-root-of-others", ENOENT),
    ("escape-take-descriptor", EPERM),
    ("escape-open-by-handle", EPERM),
    ("escape-user-fault", EPERM),
    ("escape-ring", ENOSYS),
    ("escape-count-events", EPERM),
    ("escape-replace-kernel", EPERM),
    ("escape-clone3-user", ENOSYS),
    ("escape-clone-user", EPERM),
    ("escape-clone-mounts", EPERM),
    ("escape-clone-processes", EPERM),
    ("escape-clone-network", EPERM),
    ("escape-new-file-system", EPERM),
    ("escape-copy-mounts", EPERM),
    ("escape-make-mount-writable", EPERM),
    ("escape-bind-over-link", EPERM),
    ("escape-uncover-kernel-memory", EPERM),
    ("escape-change-root", EPERM),
    ("try-join-keyring", EPERM),
    ("try-add-key", EPERM),
    ("try-request-key", EPERM),
    ("try-new-user-namespace", EPERM),
    ("try-new-mount-namespace", EPERM),
    ("try-enter-own-namespace", EPERM),
    ("try-mount", EPERM),
    ("try-mount-proc", EPERM),
    ("try-remount-root", EPERM),
    ("try-pivot-root", EPERM),
    ("try-load-module", EPERM),
    ("try-attach-bpf", EPERM),
];

/// From a container without anything, from one with capabilities and a root to write to, and as another user.
pub(super) fn refused(guest: &mut Guest) -> Result<()> {
    let mut wrong = Vec::new();
    for container in ["confined", "widened", "someone"] {
        let facts = facts_of(guest, container)?;
        for (name, errnos) in ESCAPES {
            let found = facts.get(name).map_or("nothing", String::as_str);
            say(format_args!("      {container}: {name}: {found}"));
            if !errnos.contains(&found) {
                wrong.push(format!("{container}: {name}: {found}, not {errnos:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// An image has a link that leads up and out in the place of a volume: the volume is where that leads inside.
pub(super) fn astray(guest: &mut Guest) -> Result<()> {
    guest.wait_for_log("astray", "volume /keep ", SOON)?;
    Ok(())
}

/// What was written there is in the volume, of two boots.
pub(super) fn was_inside(disk: &Disk) -> Result<()> {
    let starts = disk.read("/volumes/astray/away/starts")?;
    ensure!(starts == b"2", "{:?}", String::from_utf8_lossy(&starts));
    Ok(())
}
