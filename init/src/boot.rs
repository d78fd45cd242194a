//! The boot: named phases from the kernel's `exec` of PID 1 to the first container.
//!
//! ```text
//! mounts → modules → identity → boot-record → storage → root → cgroups → trust → revision → objects → clock-floor
//! ```
//! and then the driver starts helpers and groups. Nothing on this path sleeps, polls, resolves a
//! name or waits for the network; the one wait is for the kernel's event of a disk that is late.
//! A phase that fails either ends the boot ([`OnFailure::LastResort`]), leaves the device without
//! containers but alive and talking ([`OnFailure::Repair`]), or is told and passed over.

mod arguments;
mod cgroups;
mod disks;
mod files;
mod modules;
mod mounts;
mod objects;
mod partitions;
mod storage;
mod trust;

use crate::error::Error;
use crate::last_resort::last_resort;
pub use arguments::Arguments;
pub use cgroups::ROOT as CGROUPS;
use kedge_board_support::record::Slot;
use kedge_board_support::record::state::State;
use kedge_revision::{Content, ObjectId, Verified};
use kedge_store::Store;
use kedge_sys::timer;
use std::path::{Path, PathBuf};
use std::time::Duration;
pub use trust::{Identity, Roots};

/// Where the data partition is mounted once the root was changed.
pub const DATA: &str = "/data";

/// What the phases found out.
#[derive(Debug, Default)]
pub struct Boot {
    /// Monotonic time at PID 1's first instruction.
    pub started: Duration,
    /// How long each phase took, in order.
    pub phases: Vec<(&'static str, Duration)>,
    /// Kernel arguments.
    pub arguments: Arguments,
    /// Product and built-in root.
    pub identity: Option<Identity>,
    /// The boot record's raw partition, as a path under the changed root.
    pub bootenv: Option<PathBuf>,
    data_device: Option<PathBuf>,
    /// What the boot record says.
    pub record: Option<State>,
    roots: Option<Roots>,
    /// The revision that runs.
    pub revision: Option<Verified>,
    /// Its content.
    pub content: Option<Content>,
    /// Objects that are absent or damaged; containers that need them are not started.
    pub bad_objects: Vec<ObjectId>,
    /// Everything that went wrong, by phase.
    pub problems: Vec<(&'static str, Error)>,
    /// A phase failed without which nothing of the revision can run.
    pub repair: bool,
}

/// What follows when a phase fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    /// Nothing can go on: keep the reason and restart.
    LastResort,
    /// Containers cannot run; PID 1 stays, says why, and can be asked.
    Repair,
    /// The device is poorer, not broken.
    GoOn,
}

/// Whether a phase runs when an earlier one led to repair mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InRepair {
    Runs,
    Skipped,
}

type Phase = (
    &'static str,
    OnFailure,
    InRepair,
    fn(&mut Boot) -> Result<(), Error>,
);

const PHASES: [Phase; 11] = [
    ("mounts", OnFailure::LastResort, InRepair::Runs, |_| {
        mounts::mount_all()
    }),
    ("modules", OnFailure::GoOn, InRepair::Runs, |_| {
        modules::load()
    }),
    ("identity", OnFailure::Repair, InRepair::Runs, identity),
    (
        "boot-record",
        OnFailure::Repair,
        InRepair::Runs,
        boot_record,
    ),
    ("storage", OnFailure::Repair, InRepair::Skipped, storage),
    ("root", OnFailure::LastResort, InRepair::Runs, root),
    ("cgroups", OnFailure::Repair, InRepair::Runs, |_| {
        cgroups::prepare()
    }),
    ("trust", OnFailure::Repair, InRepair::Skipped, trust),
    ("revision", OnFailure::Repair, InRepair::Skipped, revision),
    ("objects", OnFailure::GoOn, InRepair::Skipped, objects),
    (
        "clock-floor",
        OnFailure::GoOn,
        InRepair::Skipped,
        clock_floor,
    ),
];

impl Boot {
    /// The data partition's device, as a path under the changed root.
    #[must_use]
    pub fn data_device(&self) -> Option<PathBuf> {
        let device = self.data_device.as_ref()?.strip_prefix("/root").ok()?;
        Some(Path::new("/").join(device))
    }
}

/// Runs the phases. Not inlined: what it takes of the stack is given back when it returns.
#[must_use]
#[inline(never)]
pub fn boot() -> Boot {
    let mut boot = Boot {
        started: timer::now(),
        ..Boot::default()
    };
    let mut begun = boot.started;
    for (name, on_failure, in_repair, run) in PHASES {
        if boot.repair && in_repair == InRepair::Skipped {
            continue;
        }
        let ended = run(&mut boot);
        let now = timer::now();
        boot.phases.push((name, now.saturating_sub(begun)));
        begun = now;
        if let Err(error) = ended {
            match on_failure {
                OnFailure::LastResort => {
                    let reason = format!("phase {name}: {error}");
                    last_resort(&reason, &[], boot.bootenv.as_deref());
                }
                OnFailure::Repair => boot.repair = true,
                OnFailure::GoOn => {}
            }
            boot.problems.push((name, error));
        }
    }
    boot
}

fn identity(boot: &mut Boot) -> Result<(), Error> {
    let line = files::read(Path::new("/root/proc/cmdline"), 16 * 1024)?;
    boot.arguments = Arguments::parse(&String::from_utf8_lossy(&line));
    boot.identity = Some(trust::identity()?);
    Ok(())
}

/// Finds the device's partitions and reads the state record.
fn boot_record(boot: &mut Boot) -> Result<(), Error> {
    let found = disks::wait_for_partitions()?;
    let record = disks::read_state(&found.bootenv);
    // Paths that outlive this phase are those under the changed root.
    boot.bootenv = found
        .bootenv
        .strip_prefix("/root")
        .ok()
        .map(|rest| Path::new("/").join(rest));
    boot.data_device = Some(found.data);
    match record {
        Ok(record) => boot.record = Some(record),
        // It is made anew from the store, once that is mounted.
        Err(error @ Error::BootRecord { .. }) => boot.problems.push(("boot-record", error)),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn storage(boot: &mut Boot) -> Result<(), Error> {
    match &boot.data_device {
        Some(device) => storage::mount_data(device),
        None => Err(Error::MissingPartition {
            name: "data",
            waited_ms: 0,
        }),
    }
}

/// Leaves the initramfs. What stays in it costs memory for ever: nothing but `/init` does.
fn root(_boot: &mut Boot) -> Result<(), Error> {
    modules::forget();
    mounts::switch_root()
}

fn trust(boot: &mut Boot) -> Result<(), Error> {
    if let Some(identity) = &boot.identity {
        let directory = Path::new(DATA).join("roots");
        let (roots, problem) = Roots::load(identity.root.clone(), &directory);
        boot.roots = Some(roots);
        if let Some(problem) = problem {
            boot.problems.push(("trust", problem));
        }
    }
    Ok(())
}

fn revision(boot: &mut Boot) -> Result<(), Error> {
    let (Some(identity), Some(roots)) = (&boot.identity, &boot.roots) else {
        return Ok(());
    };
    let store = Store::at(Path::new(DATA));
    let mut lost = None;
    let verified = match &boot.record {
        Some(record) => {
            let id = record.committed.revision;
            trust::revision(&store, id, roots, &identity.product, record.floor)?
        }
        None => {
            let (newest, problem) = state_lost(boot, &store)?;
            lost = problem;
            newest
        }
    };
    let content = verified.content().map_err(|source| Error::Document {
        path: store
            .revision_directory(verified.id())
            .join("revision.json"),
        source,
    })?;
    boot.content = Some(content);
    boot.revision = Some(verified);
    boot.problems
        .extend(lost.map(|error| ("boot-record", error)));
    Ok(())
}

/// Both copies of the state record are lost: the newest revision of the store is what runs, and
/// the record is made anew from it. A record that cannot be written is a problem, and the revision
/// runs all the same.
fn state_lost(boot: &Boot, store: &Store) -> Result<(Verified, Option<Error>), Error> {
    let lost = || Error::BootRecord {
        which: "state record",
    };
    let (Some(identity), Some(roots)) = (&boot.identity, &boot.roots) else {
        return Err(lost());
    };
    let newest = trust::newest_revision(store, roots, &identity.product).ok_or_else(lost)?;
    let envelope = newest.envelope();
    let slot = if boot.arguments.slot == Some('b') {
        Slot::B
    } else {
        Slot::A
    };
    let mut state = State::born(newest.id(), envelope.floor(), envelope.root);
    state.committed.slot = slot;
    let written = boot
        .bootenv
        .as_ref()
        .map(|bootenv| disks::write_state(bootenv, &state));
    Ok((newest, written.and_then(Result::err)))
}

/// Measures every layer that a container needs. A bad one costs its containers, not the others.
fn objects(boot: &mut Boot) -> Result<(), Error> {
    let (Some(revision), Some(content)) = (&boot.revision, &boot.content) else {
        return Ok(());
    };
    let store = Store::at(Path::new(DATA));
    let mut layers: Vec<ObjectId> = content
        .containers
        .values()
        .flat_map(|container| container.layers.iter().copied())
        .collect();
    layers.sort_unstable();
    layers.dedup();
    for id in layers {
        let Some(object) = revision.envelope().objects.get(&id) else {
            continue;
        };
        if let Err(error) = objects::check(&store, id, *object) {
            boot.bad_objects.push(id);
            boot.problems.push(("objects", error));
        }
    }
    Ok(())
}

/// A clock before the day on which the running revision was made is wrong.
fn clock_floor(boot: &mut Boot) -> Result<(), Error> {
    match &boot.revision {
        Some(revision) => disks::raise_clock(revision.envelope().created),
        None => Ok(()),
    }
}

/// The file of an object in the mounted store.
#[must_use]
pub fn object_path(id: ObjectId) -> PathBuf {
    Store::at(Path::new(DATA)).object_path(id)
}
