//! The hub's clock: wall time for what is stored, seconds for what is compared.

use kedge_revision::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in UTC.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix(unix())
}

/// Seconds since 1970.
pub(crate) fn unix() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
