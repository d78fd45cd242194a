//! What of helpers' reports is worth telling a person.

use crate::boot::DATA;
use crate::helpers::disk::Report;
use crate::helpers::net;
use crate::log::Stream;

/// What of the disk helper's reports is worth telling.
pub(super) fn disk_says(frame: &[u8]) -> Option<(Stream, String)> {
    match Report::decode(frame) {
        Ok(Report::Logs {
            failed: Some(errno),
        }) => Some((Stream::Error, format!("logs cannot be written: {errno}"))),
        Ok(Report::Grown { before, after }) if after > before => Some((
            Stream::Notice,
            format!("{DATA} has grown from {before} to {after} bytes"),
        )),
        Ok(Report::GrowFailed(errno)) => {
            Some((Stream::Error, format!("{DATA} cannot grow: {errno}")))
        }
        Ok(Report::Synced {
            failed: Some(errno),
            ..
        }) => Some((Stream::Error, format!("{DATA} fails: {errno}"))),
        Ok(
            Report::Logs { failed: None }
            | Report::Growing
            | Report::Grown { .. }
            | Report::Synced { failed: None, .. }
            | Report::Noted { .. }
            | Report::History { .. },
        ) => None,
        Err(_) => Some((Stream::Error, "the disk helper talks nonsense".to_owned())),
    }
}

/// What of the net helper's reports is worth telling: all of them.
pub(super) fn net_says(frame: &[u8]) -> Option<(Stream, String)> {
    Some(match net::Report::decode(frame) {
        Ok(net::Report::Up { name }) => (Stream::Notice, format!("{name}: link up")),
        Ok(net::Report::Down { name }) => (Stream::Warning, format!("{name}: link down")),
        Ok(net::Report::Applied { name }) => (Stream::Notice, format!("{name}: set up")),
        Ok(net::Report::Leased { name, lease }) => {
            (Stream::Notice, format!("{name}: leased {lease}"))
        }
        Ok(net::Report::Lost { name }) => (Stream::Warning, format!("{name}: the lease is over")),
        Ok(net::Report::Failed { errno, name, doing }) => (
            Stream::Error,
            format!("network: cannot {doing} {name}: {errno}"),
        ),
        Err(_) => (Stream::Error, "the net helper talks nonsense".to_owned()),
    })
}
