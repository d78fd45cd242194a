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
#[cfg(test)]
mod attacks;
mod cgroups;
mod decide;
mod dirty;
mod disks;
pub(crate) mod files;
mod growth;
mod memory;
mod modules;
mod mounts;
mod objects;
mod partitions;
mod provision;
mod requires;
mod side;
mod storage;
mod trust;
mod tryboot;

use crate::error::Error;
use crate::evidence::Evidence;
use crate::last_resort::last_resort;
pub use arguments::Arguments;
pub use cgroups::ROOT as CGROUPS;
pub(crate) use disks::listen_to_kernel;
pub use disks::{RecordPlace, set_clock};
use kedge_board_support::bootenv::Bootenv;
use kedge_board_support::control::{Control, Counts, Decision};
use kedge_board_support::record::state::{State, Target};
use kedge_board_support::record::{Loader, Slot};
use kedge_board_support::slot::Teller;
use kedge_revision::{Content, ObjectId, Verified};
use kedge_store::Store;
use kedge_sys::rustix::process::{Resource, Rlimit, setrlimit};
use kedge_sys::{During, timer};
pub(crate) use provision::{
    ON_DISK as PROVISION_ON_DISK, given as provision, values_of as provisioned_values,
};
pub use requires::requires;
pub use side::{Side, check_object, slot_device, snapshot_of, snapshot_volumes};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
pub use trust::{Identity, Roots, Values};
pub(crate) use tryboot::TO_TRY;

/// Where the data partition is mounted once the root was changed.
pub const DATA: &str = "/data";

/// What the phases found out.
#[derive(Debug)]
pub struct Boot {
    /// Monotonic time at PID 1's first instruction.
    pub started: Duration,
    /// How long each phase took, in order.
    pub phases: Vec<(&'static str, Duration)>,
    /// Kernel arguments.
    pub arguments: Arguments,
    /// Product and built-in root.
    pub identity: Option<Identity>,
    /// The boot record's raw partition, by a path under the changed root.
    pub bootenv: Option<RecordPlace>,
    data_device: Option<PathBuf>,
    /// Whether a torn partition table is no loss of the disk for this kernel.
    finds_both_copies: bool,
    /// The open boot record.
    pub record: Option<Bootenv<OwnedFd>>,
    loader: Option<Loader>,
    mirrored: bool,
    /// The slot that was started by a firmware that says nothing on the command line: by its own word, or the firmware's.
    started_slot: Option<Slot>,
    /// Who counts the tries of another slot.
    counts: Counts,
    /// The slot that this boot came from.
    pub slot: Option<Slot>,
    /// Boot control; absent without a state record.
    pub control: Option<Control>,
    /// What this boot is for.
    pub decision: Decision,
    /// Why the last run ended, as far as anything tells.
    pub evidence: Evidence,
    /// Roots that are trusted, the newest last.
    pub roots: Option<Roots>,
    /// The revision that runs.
    pub revision: Option<Verified>,
    /// Its content.
    pub content: Option<Content>,
    /// The values of its parameters.
    pub parameters: Values,
    /// Why the trial's revision was refused: the verdict is bad.
    pub refused: bool,
    /// Objects that are absent or damaged; containers that need them are not started.
    pub bad_objects: Vec<ObjectId>,
    /// Its disk is a file in memory: what is written is gone at the next boot.
    pub from_memory: bool,
    /// The data partition is mounted.
    pub mounted: bool,
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
    ("mounts", OnFailure::LastResort, InRepair::Runs, |boot| {
        mounts::mount_all()?;
        for done in [settings(), dirty::bound(), descriptors(), tasks()] {
            boot.problems
                .extend(done.err().map(|error| ("mounts", error)));
        }
        Ok(())
    }),
    ("modules", OnFailure::GoOn, InRepair::Runs, |_| {
        modules::load()
    }),
    ("identity", OnFailure::Repair, InRepair::Runs, identity),
    (
        "boot-record",
        OnFailure::Repair,
        InRepair::Runs,
        decide::boot_record,
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
    fn new() -> Self {
        Self {
            started: timer::now(),
            phases: Vec::new(),
            arguments: Arguments::default(),
            identity: None,
            bootenv: None,
            data_device: None,
            finds_both_copies: false,
            record: None,
            loader: None,
            mirrored: false,
            started_slot: None,
            counts: Counts::Loader,
            slot: None,
            control: None,
            decision: Decision::Committed,
            evidence: Evidence::default(),
            roots: None,
            revision: None,
            content: None,
            parameters: Values::new(),
            refused: false,
            bad_objects: Vec::new(),
            from_memory: false,
            mounted: false,
            problems: Vec::new(),
            repair: false,
        }
    }

    /// Who tells the next boots of a slot that it was started. For the root that is left, after the boot.
    #[must_use]
    pub fn teller(&self) -> Teller {
        match self.counts {
            Counts::Loader => Teller::Loader,
            Counts::Device => {
                Teller::Slot(self.data_device().and_then(|data| disks::guid_of(&data)))
            }
        }
    }

    /// The slot that was started, by what the loader or the firmware says; none: neither does.
    fn started(&self) -> Option<Slot> {
        match self.arguments.slot {
            Some('a') => Some(Slot::A),
            Some(_) => Some(Slot::B),
            None => self.started_slot,
        }
    }

    /// What this boot is to run; none in repair mode, or while the state record is lost.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        let state = self.control.as_ref()?.state();
        match self.decision {
            Decision::Committed => Some(state.committed),
            Decision::Try => state.trial.as_ref().map(|trial| trial.target),
            Decision::Repair(_) | Decision::Reboot | Decision::RebootToTry => None,
        }
    }

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
    let mut boot = Boot::new();
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
                    last_resort(&reason, &[], boot.bootenv.as_ref());
                }
                OnFailure::Repair => boot.repair = true,
                OnFailure::GoOn => {}
            }
            boot.problems.push((name, error));
        }
    }
    boot
}

/// What the kernel is told otherwise than it would do by itself.
const SETTINGS: [(&str, &[u8]); 9] = [
    // It takes no orders from keyboards (`Documentation/admin-guide/sysrq.rst`): who is given one, or plugs one in, could
    // restart the device by it, or kill what runs. A developer's kernel argument `sysrq_always_enabled` still counts.
    ("/root/proc/sys/kernel/sysrq", b"0"),
    // Once it had to break up a block of pages it would leave two blocks free, of 2 MiB each, which on a device with 32 MiB is
    // what an update needs (`Documentation/admin-guide/sysctl/vm.rst`). Huge pages, which that is for, nobody here asks for.
    ("/root/proc/sys/vm/watermark_boost_factor", b"0"),
    // Open files and tasks are counted in the memory of whose they are, and that is bounded. The kernel's own bounds come with the
    // size of memory and hold for all together: with 64 MiB one container could have all 8,192 files, or two all 512 tasks, and
    // PID 1 could start nothing any more. What fits a long of 32 bits; as many tasks as there can be numbers for.
    ("/root/proc/sys/fs/file-max", MANY),
    ("/root/proc/sys/kernel/threads-max", b"4194304"),
    // The same of what watches files, and of requests to the disk: all containers together would have 128 of the first, since
    // they are counted for whoever made their namespaces (`Documentation/filesystems/inotify.rst`, `kernel/ucount.c`).
    ("/root/proc/sys/fs/inotify/max_user_instances", MANY),
    ("/root/proc/sys/fs/inotify/max_user_watches", MANY),
    ("/root/proc/sys/fs/fanotify/max_user_groups", MANY),
    ("/root/proc/sys/fs/fanotify/max_user_marks", MANY),
    ("/root/proc/sys/fs/aio-max-nr", MANY),
];

/// What fits an `int` and a long of 32 bits.
const MANY: &[u8] = b"2147483647";

fn settings() -> Result<(), Error> {
    let set = SETTINGS.map(|(path, value)| match files::set(Path::new(path), value) {
        // A kernel that has no such habit.
        Err(Error::File {
            errno: kedge_sys::Errno::NOENT,
            ..
        }) => Ok(()),
        other => other,
    });
    set.into_iter().collect()
}

/// Descriptors that PID 1 may have, in place of 1024: it has some six for each container, and one message of a stranger may
/// bring 253. Containers are started with a limit of their own.
fn descriptors() -> Result<(), Error> {
    let limit = Rlimit {
        current: Some(65_536),
        maximum: Some(524_288),
    };
    setrlimit(Resource::Nofile, limit).during("RLIMIT_NOFILE")?;
    Ok(())
}

/// The kernel gives the first process half of the tasks that memory is thought to hold, as many signals that wait and timers, and
/// 800 kB of message queues. They are counted for each user, and whatever containers have is counted as ours, too: one could leave the
/// others none. What bounds theirs is the control groups' count of tasks and of memory, which a definition names.
fn tasks() -> Result<(), Error> {
    let none = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Nproc, none).during("RLIMIT_NPROC")?;
    setrlimit(Resource::Sigpending, none).during("RLIMIT_SIGPENDING")?;
    setrlimit(Resource::Msgqueue, none).during("RLIMIT_MSGQUEUE")?;
    Ok(())
}

fn identity(boot: &mut Boot) -> Result<(), Error> {
    let line = files::read(Path::new("/root/proc/cmdline"), 16 * 1024)?;
    let line = String::from_utf8_lossy(&line);
    boot.arguments = Arguments::parse(&line);
    boot.finds_both_copies = growth::is_safe(&line);
    boot.identity = Some(trust::identity()?);
    Ok(())
}

fn storage(boot: &mut Boot) -> Result<(), Error> {
    match &boot.data_device {
        Some(device) => {
            let (class, devices) = (Path::new(disks::CLASS), Path::new(disks::DEVICES));
            // On trial the other slot may be one whose kernel is not told what it needs for that.
            if boot.decision == Decision::Committed
                && boot.finds_both_copies
                && let Err(error) = growth::take_the_rest(class, devices, device)
            {
                boot.problems.push(("storage", error));
            }
            storage::mount_data(device)?;
            boot.mounted = true;
            Ok(())
        }
        None => Err(Error::MissingPartition {
            name: "data",
            disk: boot.arguments.disk,
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
    if let Err(problem) = boot.follow_roots() {
        boot.problems.push(("trust", problem));
    }
    Ok(())
}

impl Boot {
    /// Follows the chain of roots from the built-in one on, at the boot and when another one has come.
    ///
    /// # Errors
    /// What ends the chain; the roots before it are trusted.
    pub(crate) fn follow_roots(&mut self) -> Result<(), Error> {
        let Some(identity) = &self.identity else {
            return Ok(());
        };
        let directory = Path::new(DATA).join("roots");
        let (roots, problem) = Roots::load(identity.root.clone(), &directory);
        self.roots = Some(roots);
        problem.map_or(Ok(()), Err)
    }
}

fn revision(boot: &mut Boot) -> Result<(), Error> {
    if boot.control.is_none() {
        state_lost(boot)?;
    }
    let Some(target) = boot.target() else {
        return Ok(());
    };
    // What is on trial is judged by the newest root alone, what is committed by the root that it names.
    let judges = if boot.is_try() {
        trust::Judges::Newest
    } else {
        trust::Judges::Any
    };
    let read = boot
        .read_judged(target.revision, judges)
        .and_then(|verified| boot.read_side(verified, target));
    // What is committed has run on this kernel before: it is told, and containers say themselves what they cannot have.
    let judged = read.and_then(|side| match requires(&side.content) {
        Err(lacks) if boot.is_try() => Err(lacks),
        Err(lacks) => {
            boot.problems.push(("revision", lacks));
            Ok(side)
        }
        Ok(()) => Ok(side),
    });
    match judged {
        Ok(side) => {
            boot.revision = Some(side.revision);
            boot.content = Some(side.content);
            boot.parameters = side.parameters;
            Ok(())
        }
        Err(error) => {
            boot.refused = boot.is_try();
            Err(error)
        }
    }
}

/// Both copies of the state record are lost: what the store remembers as committed last is what runs, and
/// the record is made anew from it. A record that cannot be written is a problem, and the revision
/// runs all the same.
fn state_lost(boot: &mut Boot) -> Result<(), Error> {
    let lost = || Error::BootRecord {
        which: "state record",
    };
    let (Some(identity), Some(roots)) = (&boot.identity, &boot.roots) else {
        return Err(lost());
    };
    let store = Store::at(Path::new(DATA));
    let last = trust::remembered(&store, roots, &identity.product).ok_or_else(lost)?;
    let revision = last.revision;
    let mut state = State::born(revision.id(), last.floor, revision.envelope().root);
    state.committed.parameters = last.parameters;
    if let Some(slot) = boot.started() {
        state.committed.slot = slot;
    }
    if let Some(record) = &mut boot.record
        && let Err(source) = record.write_state_both(&state)
    {
        boot.problems
            .push(("boot-record", Error::Record { source }));
    }
    decide::decide(boot, state)
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
