//! Between a device and its hub.

use kedge_revision::fresh::Nonce;
use kedge_revision::{KeyId, ObjectId, Timestamp};
use serde::{Deserialize, Serialize};

/// Asks for a fresh answer: the time, or the assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Ask {
    /// The device that asks.
    pub device: KeyId,
    /// Comes back in the answer.
    pub nonce: Nonce,
}

/// The answer to an enrolment or a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "state"
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Enrolled {
    /// Taken in (200).
    Accepted {
        /// The device's certificate, DER in hexadecimal. Issued by the first certificate of the authority.
        certificate: String,
        /// When half of its time is over, and it should be renewed.
        #[cfg_attr(feature = "schema", schema(rename = "renew-after"))]
        renew_after: Timestamp,
    },
    /// Kept until an operator types the code (202).
    Waiting {
        /// Three words to show, as `amber-fox-river`.
        claim: String,
        /// When to ask again, seconds.
        #[cfg_attr(feature = "schema", schema(rename = "retry-after-s"))]
        retry_after_s: u32,
    },
}

/// `GET /v1/device/state`: what is desired of a device. Hints alone: an assignment counts once it is signed and fresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct State {
    /// Words that a device must know to go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// What to run; absent: nothing was ever assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Desired>,
    /// What else to do, the oldest first. Each is done once, and then named in a report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
    /// How to ask.
    pub poll: Poll,
    /// The version of the newest root that the hub has for the device's product.
    #[serde(default)]
    pub root: u32,
    /// Somebody looks on: logs are to be sent as they come, until an answer says otherwise.
    #[serde(default, skip_serializing_if = "is_false")]
    pub logs: bool,
}

// serde hands a reference to it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// A revision that a device should run, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Desired {
    /// The revision.
    pub revision: ObjectId,
    /// Counter of the parameters.
    pub parameters: u64,
    /// Raised by the hub to have a failed revision tried again.
    #[serde(default)]
    pub retry: u32,
    /// Whether to fetch everything and not try it yet.
    #[serde(default)]
    pub download_only: bool,
    /// Whether not to wait for containers that hold updates back: an operator said apply.
    #[serde(default)]
    pub now: bool,
    /// Not before so many seconds from this answer on: windows are relative, for a device without a clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_in_s: Option<u32>,
    /// Within so many seconds after that, else the next window is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_within_s: Option<u32>,
    /// Most bytes a second while downloading; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

/// How a device asks for its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Poll {
    /// Seconds between two questions.
    pub interval_s: u32,
    /// Seconds for which the hub keeps a question open when nothing has changed (`Prefer: wait`).
    pub hold_s: u32,
    /// Up to so many random seconds more between two questions.
    pub jitter_s: u32,
}

/// Something to do once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Action {
    /// Counts up for each device.
    pub id: u64,
    /// What.
    pub what: ActionKind,
}

/// What can be asked of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum ActionKind {
    /// An orderly restart.
    Reboot,
    /// Show yourself: a line on the console, a light where there is one.
    Identify,
    /// Send the logs that you have.
    CollectLogs,
    /// Something that a newer device knows: reported as not known.
    #[serde(other)]
    Unknown,
}

/// `PUT /v1/device/report`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Reports {
    /// In the order in which they were made; those whose number is known already are passed over.
    pub reports: Vec<Report>,
    /// What containers use while this is sent; absent: it was told a short while ago, or the device does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl Reports {
    /// Largest body, bytes.
    pub const CAP: usize = 512 * 1024;
    /// Most reports in one.
    pub const MOST: usize = 64;
}

/// The answer to reports: everything up to this number is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Acknowledged {
    /// Sequence number.
    pub seq: u64,
}

/// What a device says of itself, when something has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Report {
    /// Counts up by one with each report of a device, over boots.
    pub seq: u64,
    /// Random for each boot.
    pub boot_id: String,
    /// Milliseconds since that boot, when the report was made.
    pub uptime_ms: u64,
    /// By the device's clock, once it was set by a hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// What runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Target>,
    /// What the device returns to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Target>,
    /// The lowest place that will ever run again, as `root.counter`.
    #[serde(default)]
    pub floor: String,
    /// Where the update stands.
    pub phase: Phase,
    /// The last trial that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
    /// Whether the hub's last fresh answer no longer holds.
    #[serde(default)]
    pub stale: bool,
    /// All containers.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// The last action that was done.
    #[serde(default)]
    pub action: u64,
    /// The last 4 KiB of the console, with a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
    /// The last 4 KiB of what the container that failed has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_log: Option<ContainerLog>,
}

impl Report {
    /// Longest tail of a console or log, bytes.
    pub const TAIL: usize = 4096;
}

/// A revision with its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Target {
    /// The revision.
    pub revision: ObjectId,
    /// Its version, as its author wrote it.
    #[serde(default)]
    pub version: String,
    /// Counter of its parameters.
    pub parameters: u64,
    /// `a` or `b`.
    #[serde(default)]
    pub slot: String,
}

/// Where an update stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "name"
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Phase {
    /// Runs what it should.
    Idle,
    /// Judges an assignment.
    Checking,
    /// Will not take it.
    Refused {
        /// Why.
        reason: String,
    },
    /// Fetches it.
    Downloading {
        /// Bytes that are there.
        done: u64,
        /// Of so many that were missing.
        total: u64,
    },
    /// Everything is there.
    Staged,
    /// Everything is there, and something else must come first.
    Waiting {
        /// Which.
        #[cfg_attr(feature = "schema", schema(rename = "for-what"))]
        for_what: Wait,
    },
    /// The trial begins or boots.
    Trying,
    /// It runs and is being judged.
    Judging,
    /// It was good.
    Committed,
    /// It was bad.
    RolledBack {
        /// Why.
        reason: String,
    },
    /// PID 1 and its helpers alone run: the device waits to be mended.
    Repair {
        /// Why; absent: the device does not tell it. An older reader passes over it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Something that a newer device knows.
    #[serde(other)]
    Unknown,
}

/// What a staged revision waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Wait {
    /// Its window.
    Window,
    /// A container that holds the update lock.
    Lock,
    /// An operator's word: it was to be downloaded only.
    Apply,
    /// A boot.
    Reboot,
}

/// A trial that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Failed {
    /// The revision.
    pub revision: ObjectId,
    /// Counter of its parameters.
    pub parameters: u64,
    /// Why: a kind, and what it is about in parentheses.
    pub reason: String,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its state, as the device's control interface says it.
    pub state: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Starts after the first, in this boot.
    pub restarts: u32,
    /// Its first process, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// What a container has said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContainerLog {
    /// Its name.
    pub container: String,
    /// Its words.
    pub text: String,
}

/// The first line of each `POST /v1/device/logs`: lines tell the time since their boot alone, and their numbers begin anew
/// with each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LogHead {
    /// Random for each boot.
    pub boot_id: String,
    /// Milliseconds since that boot, when this was sent.
    pub uptime_ms: u64,
    /// The same moment by the device's clock, once it was set by a hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
}

/// What containers use and what is left of the device, in the words of its own `GET /v1/usage`. It is no part of a
/// [`Report`]: it is worth nothing later, so it is not kept until a hub has it, and only the last one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Usage {
    /// When it was read, milliseconds since the boot.
    pub uptime_ms: u64,
    /// Bytes that are free on the data partition; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_free: Option<u64>,
    /// Those that run.
    #[serde(default)]
    pub containers: Vec<ContainerUsage>,
}

/// What one container uses; what its kernel does not count is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// Time on processors since its start, microseconds.
    pub cpu_us: u64,
    /// Memory now, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The most since its start, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// The limit, bytes; absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// How long it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// In how much of the last ten seconds some process waited for what it needs, hundredths of a percent
/// (Linux `Documentation/accounting/psi.rst`, `some avg10`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Pressure {
    /// For a processor.
    pub cpu: u32,
    /// For memory.
    pub memory: u32,
    /// For disks.
    pub io: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`Phase`] as it was before repair mode had a reason.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case", tag = "name")]
    enum Older {
        Repair,
        #[serde(other)]
        Unknown,
    }

    #[test]
    fn older_hubs_and_devices_understand_repair_mode() {
        let told = Phase::Repair {
            reason: Some("trust: no root".to_owned()),
        };
        let json = serde_json::to_string(&told).unwrap();
        assert_eq!(json, r#"{"name":"repair","reason":"trust: no root"}"#);
        assert_eq!(serde_json::from_str::<Phase>(&json).unwrap(), told);
        assert_eq!(serde_json::from_str::<Older>(&json).unwrap(), Older::Repair);
        let older = serde_json::to_string(&Older::Repair).unwrap();
        assert_eq!(
            serde_json::from_str::<Phase>(&older).unwrap(),
            Phase::Repair { reason: None }
        );
    }
}
