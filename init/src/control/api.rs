//! What goes over the control interface: the device's status, queries and commands.
//!
//! Texts are borrowed where PID 1 writes them and owned where the client reads them.

use kedge_revision::container::Goal;
use kedge_revision::{Mode, Name, ObjectId};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

use super::since::Since;

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status<'a> {
    /// The product.
    #[serde(borrow)]
    pub product: Cow<'a, str>,
    /// The board.
    #[serde(borrow)]
    pub board: Cow<'a, str>,
    /// Development or production.
    pub mode: Mode,
    /// What runs; absent as long as no revision has been verified.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionStatus<'a>>,
    /// The slot this boot came from, `a` or `b`.
    #[serde(borrow)]
    pub slot: Cow<'a, str>,
    /// The firmware verifies what it starts, as the loader says; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure_boot: bool,
    /// It has no disk: what is written is gone at the next boot; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_memory: bool,
    /// The state as a whole, as the console and the board's LED show it.
    #[serde(borrow)]
    pub state: StateStatus<'a>,
    /// How far the boot is: the name of the phase, `running`, or what went wrong.
    #[serde(borrow)]
    pub phase: Cow<'a, str>,
    /// Random for each boot, as `/proc/sys/kernel/random/boot_id` has it.
    #[serde(borrow)]
    pub boot_id: Cow<'a, str>,
    /// Milliseconds since the boot.
    pub uptime_ms: u64,
    /// Whether the revision is judged yet.
    pub trial: Trial,
    /// What is committed, tried, failed and on its way; absent while there is no boot record.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateStatus<'a>>,
    /// Goals that are not met, with the reason.
    #[serde(borrow)]
    pub goals_missing: Vec<MissingGoal<'a>>,
    /// All containers, by name.
    #[serde(borrow)]
    pub containers: Vec<ContainerStatus<'a>>,
    /// The device's interfaces that are set up, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<PortStatus>,
    /// The device's memory.
    pub memory: Memory,
    /// PID 1 and its helpers, with the memory that they take; development products only.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessStatus<'a>>,
}

/// The state of the device as a whole (`docs/state.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StateStatus<'a> {
    /// One word, as `good` or `no-network`.
    #[serde(borrow)]
    pub word: Cow<'a, str>,
    /// What it means, and what it is about or waits for, for people.
    #[serde(borrow)]
    pub text: Cow<'a, str>,
}

/// Which revision runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RevisionStatus<'a> {
    /// Its id.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Its version, as its author wrote it.
    #[serde(borrow)]
    pub version: Cow<'a, str>,
}

/// Whether a revision is judged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Trial {
    /// It is committed.
    Committed,
    /// It is on trial.
    Trying {
        /// Boots that it has left after this one.
        tries_left: u8,
    },
}

/// What PID 1 remembers of revisions, and what is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UpdateStatus<'a> {
    /// What the device returns to.
    #[serde(borrow)]
    pub committed: TargetStatus<'a>,
    /// What is tried or waits for its next try.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TargetStatus<'a>>,
    /// The last trial that failed.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailureStatus<'a>>,
    /// The lowest place that will ever run again, as `root.counter`.
    #[serde(borrow)]
    pub floor: Cow<'a, str>,
    /// Boots in a row that did not hold their goals.
    pub unsettled: u32,
    /// Watchdog resets in a row.
    pub watchdog_resets: u32,
    /// What is being staged.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub staging: Option<StagingStatus<'a>>,
    /// Containers that hold updates back.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<LockStatus<'a>>,
}

/// A container that holds updates back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LockStatus<'a> {
    /// Its name.
    #[serde(borrow)]
    pub container: Cow<'a, str>,
    /// Until when, milliseconds since the boot.
    pub until_ms: u64,
}

/// A revision with its parameters and slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TargetStatus<'a> {
    /// The revision's id.
    #[serde(borrow)]
    pub revision: Cow<'a, str>,
    /// The counter of its parameters; 0: none were given.
    pub parameters: u64,
    /// The slot of its kernel, `a` or `b`.
    #[serde(borrow)]
    pub slot: Cow<'a, str>,
}

/// A trial that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailureStatus<'a> {
    /// The revision's id.
    #[serde(borrow)]
    pub revision: Cow<'a, str>,
    /// The counter of its parameters.
    pub parameters: u64,
    /// Why, in words: a kind, and what it is about in parentheses.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
}

/// A revision on its way into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StagingStatus<'a> {
    /// What is being done, as `receiving` or `writing slot b`.
    #[serde(borrow)]
    pub phase: Cow<'a, str>,
    /// Bytes of bodies that have come.
    pub received: u64,
}

/// A goal that is not met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MissingGoal<'a> {
    /// Whose.
    #[serde(borrow)]
    pub container: Cow<'a, str>,
    /// Which.
    pub goal: Goal,
    /// Why not, in words.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ContainerStatus<'a> {
    /// Its name.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Its group.
    #[serde(borrow)]
    pub group: Cow<'a, str>,
    /// What it does.
    pub state: ContainerState,
    /// Its first process in the device's pid namespace, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Whether its health check passed, or it said so.
    pub ready: bool,
    /// Starts after the first, in this boot.
    pub restarts: u32,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<Exit>,
    /// When it came into this state, milliseconds since the boot.
    pub since_ms: u64,
    /// Containers or groups whose goals it waits for.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<Cow<'a, str>>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerState {
    /// Waits for others.
    Waiting,
    /// Is being set up.
    Starting,
    /// Its process runs.
    Running,
    /// Was asked to end and has not yet.
    Stopping,
    /// Waits before its next start.
    BackOff,
    /// Ended with exit status 0 and stays so.
    Finished,
    /// Ended otherwise, and stays so.
    Failed,
    /// Was stopped over the control interface.
    Stopped,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

/// An interface of the device that is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PortStatus {
    /// The kernel's name for it.
    pub name: String,
    /// Whether a cable, or what stands for it, is in.
    pub link: bool,
    /// Where its DHCP client stands, in a word: `down`, `selecting`, `requesting`, `rebooting`, `bound`, `renewing` or
    /// `rebinding` (RFC 2131, figure 5); absent if its address is not leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<String>,
    /// The addresses that others can reach it by, with prefix lengths, wherever they come from; at most 16.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Routers of its default routes, but for those that announce themselves (IPv6).
    #[serde(default)]
    pub gateways: Vec<String>,
    /// The metric of these routes: of all interfaces' the lowest is taken.
    pub metric: u32,
    /// What is leased; it may still hold while there is no link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseStatus>,
    /// What the kernel refused, and is tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// A lease of an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LeaseStatus {
    /// The address.
    pub address: String,
    /// Of which server.
    pub server: String,
    /// The name servers that came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// When it ends, milliseconds since the boot; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_ms: Option<u64>,
}

/// The device's memory, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memory {
    /// All that the kernel manages (`MemTotal`).
    pub total: u64,
    /// What can be had without swapping (`MemAvailable`).
    pub available: u64,
}

/// PID 1 or one of its helpers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProcessStatus<'a> {
    /// `init`, or the helper's name.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Its process id.
    pub pid: u32,
    /// Its proportional set size, bytes (`Pss` of `/proc/PID/smaps_rollup`, proc(5)).
    pub pss: u64,
    /// How much of that is memory that it has written, and not pages of the program's file (`Pss_Anon`), bytes.
    #[serde(default)]
    pub anonymous: u64,
    /// What it may do, as the kernel says: `Uid`, `CapPrm`, `NoNewPrivs` and `Seccomp` of `/proc/PID/status`, and its
    /// root directory.
    #[serde(default, borrow)]
    pub confinement: Cow<'a, str>,
}

/// `GET /v1/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only this container, `kernel` or `kedge`.
    pub source: Option<Name>,
    /// Whether to go on with what is said from now on.
    pub follow: bool,
    /// From when on.
    pub since: Option<Since>,
    /// Only so many of the records that are there, the last; what follows is not counted.
    pub limit: Option<u32>,
}

/// `GET /v1/logs/earlier`: a page of what a boot has left in the logs on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// How many boots before this one; 0 is this one, as far as it is on disk.
    pub back: u32,
    /// The place that the page before it has named (`{"next":PLACE}`); none: the boot's beginning.
    pub from: Option<u64>,
}

/// What the driver is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Something with one container.
    Container {
        /// Which.
        name: Name,
        /// What.
        action: Action,
    },
    /// An orderly restart of the device.
    Reboot,
    /// The same, but not before the device was up for a minute.
    RebootSoon,
    /// An orderly end.
    PowerOff,
    /// Try a staged revision.
    Apply {
        /// Which.
        revision: ObjectId,
        /// The counter of its parameters; 0: none were given.
        parameters: u64,
        /// Whatever containers hold back.
        now: bool,
    },
    /// Try nothing for a while: a container asks.
    Lock {
        /// For how long.
        seconds: u32,
    },
    /// Hold nothing back any more.
    Unlock,
    /// End the trial that runs: its verdict is bad.
    RollBack,
}

/// What a body that is not kept in memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// The head of a bundle: revision, signatures, parameters.
    Offer,
    /// The root that follows the newest, and its signatures; in the form of a head.
    Root,
    /// An object of the revision that was offered: its tree, then its bytes.
    Object {
        /// Which.
        id: ObjectId,
        /// The first byte of the object that the body holds.
        offset: u64,
    },
}

/// What can be done with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start it, if it does not run.
    Start,
    /// Stop it, and leave it so until it is started or the device boots.
    Stop,
    /// Stop it if it runs, and start it.
    Restart,
}

#[cfg(test)]
mod tests;
