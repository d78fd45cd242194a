//! Between an operator's tool and a hub.

use crate::device::{ActionKind, Container, ContainerLog, Failed, Phase, Target, Usage};
use kedge_revision::{KeyId, Mode, Name, ObjectId, PublicKey, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/hub`: what anybody may know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Hub {
    /// The hub's version.
    pub version: String,
    /// Its online key, which the `hub` role of a product's root must name.
    pub key: PublicKey,
    /// Its certificate authority, DER in hexadecimal.
    pub authority: String,
    /// A production hub refuses development roots.
    pub mode: Mode,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// What is listed.
    pub items: Vec<T>,
    /// Where the next page begins; absent: there is none.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

const fn none() -> Option<String> {
    None
}

/// A device as the hub knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Device {
    /// Its id.
    pub id: KeyId,
    /// Its key, whose digest its id is: what is sealed for that, nobody else reads.
    pub key: PublicKey,
    /// Its product.
    pub product: Name,
    /// Its board.
    pub board: Name,
    /// What the operator calls it: the tag `name`, else the first digits of its id.
    pub name: String,
    /// Free words.
    pub tags: BTreeMap<String, String>,
    /// When it enrolled.
    pub enrolled: Timestamp,
    /// Seconds since it was last heard of; absent: never since it enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_s: Option<u64>,
    /// Whether its poll is held right now.
    pub online: bool,
    /// Whether its certificate was revoked.
    #[serde(default)]
    pub revoked: bool,
    /// What it should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Target>,
    /// What it says that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Target>,
    /// What it returns to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Target>,
    /// Its floor, `root.counter`.
    #[serde(default)]
    pub floor: String,
    /// Where its update stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Its last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
    /// The console's tail that came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
    /// The tail of the failing container's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_log: Option<ContainerLog>,
    /// Its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
    /// What they used when it last told that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// When that came, by the hub's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_time: Option<Timestamp>,
    /// Whether its knowledge of what it should run is out of date.
    #[serde(default)]
    pub stale: bool,
    /// The last report's number.
    #[serde(default)]
    pub report: u64,
}

/// Why a device does not run what it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Why {
    /// Whether it does.
    pub up_to_date: bool,
    /// In one sentence.
    pub summary: String,
    /// What was looked at, in order.
    pub steps: Vec<String>,
}

/// `POST /v1/devices/ID/actions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ActionRequest {
    /// What.
    pub what: OperatorAction,
}

/// What an operator may have a device do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum OperatorAction {
    /// See [`ActionKind::Reboot`].
    Reboot,
    /// See [`ActionKind::Identify`].
    Identify,
    /// See [`ActionKind::CollectLogs`].
    CollectLogs,
    /// Try the assigned revision again, though it failed.
    Retry,
    /// Run what was committed before.
    FallBack,
    /// Apply what was downloaded only.
    Apply,
}

impl OperatorAction {
    /// The device's action, where it is one; the others change what is desired.
    #[must_use]
    pub const fn device(self) -> Option<ActionKind> {
        match self {
            Self::Reboot => Some(ActionKind::Reboot),
            Self::Identify => Some(ActionKind::Identify),
            Self::CollectLogs => Some(ActionKind::CollectLogs),
            Self::Retry | Self::FallBack | Self::Apply => None,
        }
    }
}

/// `PUT /v1/devices/ID/parameters`: values by name; those that are not named keep theirs, null takes one away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ParameterValues {
    /// The values.
    pub values: BTreeMap<Name, Option<String>>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ParametersSet {
    /// The counter of the values that the device gets now.
    pub counter: u64,
}

/// `POST /v1/assignments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Assign {
    /// Which devices: `id=…` or any query.
    #[cfg_attr(feature = "schema", schema(min_length = 1))]
    pub query: String,
    /// Which revision.
    pub revision: ObjectId,
    /// Download only.
    #[serde(default)]
    pub download_only: bool,
    /// Tell which devices, and assign nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// When it may be applied; absent: at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Most bytes a second for each device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

/// A daily window in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Window {
    /// Seconds after midnight at which it opens, below 86,400.
    #[cfg_attr(feature = "schema", schema(maximum = 86399))]
    pub opens_s: u32,
    /// For so many seconds, 60 to 86,400.
    #[cfg_attr(feature = "schema", schema(minimum = 60, maximum = 86_400))]
    pub lasts_s: u32,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Assigned {
    /// Devices that were assigned it.
    pub devices: Vec<KeyId>,
    /// Devices of the query that cannot run it, and why.
    pub refused: Vec<(KeyId, String)>,
}

/// `POST /v1/claims`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Claim {
    /// The three words that the device shows.
    pub code: String,
    /// Tags for it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// A device that waits to be claimed. Its code is not told: whoever claims it has seen it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Waiting {
    /// Its id.
    pub id: KeyId,
    /// Its product.
    pub product: Name,
    /// Its board.
    pub board: Name,
    /// Since when.
    pub since: Timestamp,
}

/// `POST /v1/join-tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NewJoinToken {
    /// Only for devices of this product; absent: any that the hub serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Name>,
    /// How many devices may use it, 1 to 1,000,000.
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 1_000_000))]
    pub uses: u32,
    /// For how long, seconds, 60 to a year.
    #[cfg_attr(feature = "schema", schema(minimum = 60, maximum = 31_622_400))]
    pub lasts_s: u32,
    /// Tags that devices get that come with it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct JoinToken {
    /// Its name at the hub, which is no secret.
    pub id: String,
    /// The token; told once, when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Devices that may still use it.
    pub left: u32,
    /// Until when.
    pub until: Timestamp,
    /// For which product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Name>,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NewToken {
    /// Whose, as its owner calls it: 1 to 64 printable characters.
    #[cfg_attr(feature = "schema", schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]{1,64}$"))]
    pub name: String,
    /// For how long, seconds, 60 at least; absent: until it is deleted.
    #[cfg_attr(feature = "schema", schema(minimum = 60))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts_s: Option<u32>,
}

/// An operator's token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Token {
    /// Its name at the hub, which is no secret.
    pub id: String,
    /// Whose.
    pub name: String,
    /// The token; told once, when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// The answer to the head of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Offer {
    /// The revision.
    pub revision: ObjectId,
    /// Objects that the hub lacks.
    pub missing: Vec<Missing>,
}

/// An object that is missing at a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Missing {
    /// Which.
    pub id: ObjectId,
    /// Its size, bytes.
    pub size: u64,
    /// Bytes of it that are there and good; an upload goes on from there.
    pub have: u64,
}

/// The answer to a part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Done {
    /// Bytes of it that are there and good.
    pub done: u64,
    /// Whether it is complete.
    pub complete: bool,
}

/// A published revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Revision {
    /// Its id.
    pub id: ObjectId,
    /// Its product.
    pub product: Name,
    /// Its board.
    pub board: Name,
    /// Its version, as its author wrote it.
    pub version: String,
    /// Its place in order.
    pub order: String,
    /// The floor that it brings.
    pub floor: u64,
    /// When it was published.
    pub published: Timestamp,
    /// Whether all its objects are there.
    pub complete: bool,
    /// Bytes of its objects.
    pub size: u64,
    /// Bytes of them in zstd frames: what a device without any of them fetches.
    pub compressed: u64,
}

/// What may go that no device needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Collect {
    /// Of each product and board, so many of the newest revisions stay even if no device needs them, 1 to 1000.
    #[serde(default = "usual_keep")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 1000, default = 3))]
    pub keep: u32,
    /// Only tell what would go.
    #[serde(default)]
    pub dry_run: bool,
}

const fn usual_keep() -> u32 {
    3
}

/// What went, or would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Collected {
    /// Revisions that no device runs, is assigned or could fall back to.
    pub revisions: Vec<Revision>,
    /// How many objects, whole or in part, no other revision names.
    pub objects: u64,
    /// Bytes of their files on the hub's disk.
    pub bytes: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Event {
    /// Counts up.
    pub seq: u64,
    /// When.
    pub time: Timestamp,
    /// About which device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<KeyId>,
    /// A word for what, as `enrolled`, `committed`, `rolled-back`, `published`, `assigned`.
    pub what: String,
    /// In words.
    pub text: String,
}
