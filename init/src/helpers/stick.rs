//! The `stick` helper: looks for bundles on removable disks, and lets PID 1 take the newest one in.
//!
//! ```text
//! look ─▶ sysfs: which disks ─▶ mounted, read-only ─▶ privilege is left ─▶ *.kedge ─▶ newest first ─▶ offer … apply
//! ```
//! | module | does |
//! |---|---|
//! | [`choice`] | what a bundle claims to be, and which one is offered first; pure |
//! | `disks` | which partitions are those of a disk that is made to be taken out |
//!
//! It runs only while it looks. File systems are mounted before it gives privilege up, and nowhere: no path leads to them,
//! in no mount namespace, and they go with this process. From then on it is a user of its own, without a capability or a
//! network, and sees nothing of the device but its control socket, which takes revisions and nothing else.
//!
//! It judges nothing: what it says of a bundle chooses which is offered first. Whether a revision may run, and whether it
//! is newer than what the device returns to, is judged behind the socket. What it cannot keep from is that the kernel reads
//! a stranger's file system, which is why a revision must allow it.

pub mod choice;
mod disks;
mod frames;

pub use frames::{Level, Look, Report};

use super::agent::FILTER;
use super::{Error, hold};
use crate::control::STICK_SOCKET;
use crate::ctl::{Client, ClientError, apply_file};
use choice::Found;
use kedge_sys::clone::Namespaces;
use kedge_sys::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use kedge_sys::privilege::{
    CapabilitySet, bound_capabilities, set_group, set_groups, set_no_new_privs, set_user,
};
use kedge_sys::process::unshare;
use kedge_sys::rustix::fs::{Dir, Mode, OFlags, openat};
use kedge_sys::rustix::process::{chdir, chroot};
use kedge_sys::{Errno, seccomp, sock};
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// The helper's user and group. No container has it: theirs begin at 1,000,000.
pub const USER: u32 = 64_001;
/// Where the kernel lists block devices.
const CLASS: &str = "/sys/class/block";
/// Most partitions that are looked at.
const MOST_PLACES: usize = 8;
/// Most names of a root directory that are read.
const MOST_NAMES: usize = 1024;
/// Most bundles that are looked into, of all disks together.
const MOST_BUNDLES: usize = 16;
/// How often a bundle is offered: objects of an offer are refused once somebody else has made another.
const ATTEMPTS: u8 = 2;
/// What PID 1 answers to what is not newer.
pub const NOT_NEWER: u16 = 412;

/// A file system that is mounted.
struct Place {
    /// The partition's name, as `sda1`.
    name: String,
    root: OwnedFd,
}

/// PID 1's ear.
#[derive(Clone, Copy)]
struct Voice<'a>(BorrowedFd<'a>);

impl Voice<'_> {
    fn say(self, level: Level, text: &str) {
        self.report(&Report::Say { level, text });
    }

    fn report(self, report: &Report<'_>) {
        // PID 1 may have gone.
        sock::send(self.0, &report.encode(), &[]).ok();
    }
}

/// The helper: looks once.
///
/// # Errors
/// [`Error::Socket`], [`Error::Frame`]; [`Error::File`], [`Error::Privilege`] if it cannot confine itself.
#[inline(never)]
pub fn run(socket: BorrowedFd<'_>) -> Result<(), Error> {
    let mut buffer = [0; Look::MOST];
    let received = sock::receive(socket, &mut buffer).map_err(Error::Socket)?;
    let frame = buffer.get(..received.bytes).unwrap_or_default();
    let look = Look::decode(frame).map_err(Error::Frame)?;
    let voice = Voice(socket);
    let names = disks::removable(Path::new(CLASS), look.system);
    let mut places = Vec::new();
    for name in names.into_iter().take(MOST_PLACES) {
        match mount(&name) {
            Ok(root) => places.push(Place { name, root }),
            Err(errno) => {
                let text = format!("{name} holds no FAT or exFAT that can be read: {errno}");
                voice.say(Level::Notice, &text);
            }
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    leave()?;
    let mut found = Vec::new();
    for place in &places {
        if let Err(errno) = search(place, &look, &mut found, voice) {
            let text = format!("cannot read {}: {errno}", place.name);
            voice.say(Level::Warning, &text);
        }
    }
    for found in choice::newest_first(found) {
        if offer(&found, voice) == Next::Enough {
            break;
        }
    }
    Ok(())
}

/// Mounts a partition: the mount belongs to this process, and no path leads to it.
fn mount(name: &str) -> Result<OwnedFd, Errno> {
    let device = format!("/dev/{name}");
    let mut first = Ok(());
    for kind in [c"vfat", c"exfat"] {
        match mount_as(kind, &device) {
            Ok(root) => return Ok(root),
            // Of a kernel without exFAT only the first says something of the disk.
            Err(errno) => first = first.and(Err(errno)),
        }
    }
    first.and(Err(Errno::NODEV))
}

fn mount_as(kind: &core::ffi::CStr, device: &str) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_set_flag(&context, "ro")?;
    // Everybody may read: who does is not yet who mounts.
    fsconfig_set_string(&context, "umask", "0222")?;
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
    )
}

/// From root on the whole device to a user without privileges beside the control socket.
fn leave() -> Result<(), Error> {
    let root = Path::new(STICK_SOCKET).parent().unwrap_or(Path::new("/"));
    let cannot = |doing, errno: Errno| Error::File {
        doing,
        path: root.to_owned(),
        source: errno.into(),
    };
    unshare(Namespaces::NETWORK).map_err(Error::Privilege)?;
    chroot(root).map_err(|errno| cannot("change root to", errno))?;
    chdir("/").map_err(|errno| cannot("enter", errno))?;
    set_no_new_privs().map_err(Error::Privilege)?;
    bound_capabilities(CapabilitySet::empty()).map_err(Error::Privilege)?;
    set_groups(&[]).map_err(Error::Privilege)?;
    set_group(USER).map_err(Error::Privilege)?;
    set_user(USER).map_err(Error::Privilege)?;
    hold(CapabilitySet::empty())?;
    seccomp::load(&FILTER, seccomp::Options::default()).map_err(Error::Privilege)
}

/// Adds the bundles of a root directory that are made for this device.
fn search(
    place: &Place,
    look: &Look<'_>,
    found: &mut Vec<Found<File>>,
    voice: Voice<'_>,
) -> Result<(), Errno> {
    let mut names = Vec::new();
    // What a mount is given as (`O_PATH`) cannot be read itself.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(&place.root, ".", flags, Mode::empty())?;
    for (count, entry) in Dir::new(root)?.enumerate() {
        if count == MOST_NAMES {
            let text = format!(
                "{} has over {MOST_NAMES} files: the rest is not looked at",
                place.name
            );
            voice.say(Level::Warning, &text);
            break;
        }
        if let Ok(name) = entry?.file_name().to_str()
            && choice::is_bundle(name)
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    for name in names {
        let label = format!("{name} on {}", place.name);
        if found.len() >= MOST_BUNDLES {
            let text = format!("{label}: there are over {MOST_BUNDLES} bundles");
            voice.say(Level::Warning, &text);
            return Ok(());
        }
        match open(place, &name, label.clone(), look) {
            Ok(bundle) => found.push(bundle),
            Err(why) => voice.say(Level::Warning, &format!("{label}: {why}")),
        }
    }
    Ok(())
}

fn open(
    place: &Place,
    name: &str,
    label: String,
    look: &Look<'_>,
) -> Result<Found<File>, choice::Unfit> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&place.root, name, flags, Mode::empty()).map_err(std::io::Error::from)?;
    let file = File::from(file);
    let mut head = Vec::new();
    (&file).take(choice::HEAD).read_to_end(&mut head)?;
    let envelope = choice::peek(&head)?;
    choice::made_for(&envelope, look.product, look.board)?;
    Ok(Found {
        label,
        order: envelope.order(),
        version: envelope.version,
        file,
    })
}

/// What follows an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The next one may be offered.
    GoOn,
    /// Nothing more.
    Enough,
}

/// Lets PID 1 take a bundle in and try it.
fn offer(found: &Found<File>, voice: Voice<'_>) -> Next {
    let label = &found.label;
    for attempt in 1..=ATTEMPTS {
        let mut said = Vec::new();
        // Its path after the change of root.
        let path = Path::new("/control.sock");
        let applied = Client::connect(path).and_then(|mut client| {
            apply_file(&mut client, Path::new(label), &found.file, &mut said)
        });
        let (level, text, next) = match applied {
            Ok(()) => {
                let said = String::from_utf8_lossy(&said);
                let text = format!(
                    "revision {} ({}) is tried; {}",
                    found.version,
                    found.order,
                    said.trim_end()
                );
                (Level::Notice, text, Next::Enough)
            }
            // All others are older still.
            Err(ClientError::Refused {
                status: NOT_NEWER,
                detail,
            }) => (Level::Notice, detail, Next::Enough),
            Err(ClientError::Refused {
                status: 423 | 503,
                detail,
            }) => {
                voice.report(&Report::Again);
                (Level::Notice, detail, Next::Enough)
            }
            Err(ClientError::Refused { .. }) if attempt < ATTEMPTS => continue,
            Err(
                error @ (ClientError::Refused { .. }
                | ClientError::Bundle(_)
                | ClientError::Protocol(_)),
            ) => (Level::Warning, format!("is not taken: {error}"), Next::GoOn),
            Err(error @ ClientError::File { .. }) => {
                let text = format!("{error}; it goes on when the disk is back");
                (Level::Warning, text, Next::Enough)
            }
            Err(
                error @ (ClientError::Connect { .. }
                | ClientError::Connection(_)
                | ClientError::Output(_)),
            ) => {
                voice.report(&Report::Again);
                (Level::Warning, error.to_string(), Next::Enough)
            }
        };
        voice.say(level, &format!("{label}: {text}"));
        return next;
    }
    Next::GoOn
}
