//! Lists: pages of bounded length, and devices as people see them.

use super::device::parameter;
use crate::clock;
use crate::error::Refusal;
use crate::fleet::{Device, Row};
use crate::hub::Hub;
use crate::query::{Query, Subject};
use kedge_api::device::Target;
use kedge_api::operator;
use std::sync::Arc;

/// Items of a page when nobody says how many.
const USUAL: usize = 100;
/// Most items of a page.
const MOST: usize = 1000;

/// `?limit=`
pub(super) fn limit(query: Option<&str>) -> Result<usize, Refusal> {
    match parameter(query, "limit") {
        None => Ok(USUAL),
        Some(text) => match text.parse() {
            Ok(limit) if (1..=MOST).contains(&limit) => Ok(limit),
            _ => Err(Refusal::bad("limit", "limit is 1 to 1000")),
        },
    }
}

/// A query that somebody typed.
pub(super) fn query(text: &str) -> Result<Query, Refusal> {
    Query::parse(text).map_err(|misread| Refusal::bad("query", misread.to_string()))
}

/// Devices of a query in order of their ids, from one that is named on.
pub(super) fn devices<'a>(
    hub: &Hub,
    query: &'a Query,
    after: Option<&'a str>,
) -> impl Iterator<Item = Arc<Device>> + 'a {
    let now = clock::unix();
    let all = hub.fleet.devices().into_iter();
    all.filter(move |device| after.is_none_or(|after| device.id().to_string().as_str() > after))
        .filter(move |device| {
            let row = device.row();
            query.holds(Subject {
                row: &row,
                online: device.is_online(),
                seen_s: seen_s(device, now),
            })
        })
}

fn seen_s(device: &Device, now: u64) -> Option<u64> {
    match device.seen() {
        0 => None,
        seen => Some(now.saturating_sub(seen)),
    }
}

/// What a device should run, with the version if the hub has it.
fn desired(hub: &Hub, row: &Row) -> Option<Target> {
    row.wanted.as_ref().map(|wanted| Target {
        revision: wanted.revision,
        version: hub
            .fleet
            .revision(wanted.revision)
            .map(|revision| revision.version.clone())
            .unwrap_or_default(),
        parameters: row.parameters,
        slot: String::new(),
    })
}

/// A device as a list shows it: without tails and containers, which are told of one alone.
pub(super) fn shown(hub: &Hub, device: &Device) -> operator::Device {
    let row = device.row();
    let report = row.report.as_ref();
    operator::Device {
        id: row.id,
        key: row.key,
        product: row.product.clone(),
        board: row.board.clone(),
        name: row.name(),
        tags: row.tags.clone(),
        enrolled: row.enrolled,
        seen_s: seen_s(device, clock::unix()),
        online: device.is_online(),
        revoked: row.revoked,
        desired: desired(hub, &row),
        running: report.and_then(|report| report.running.clone()),
        committed: report.and_then(|report| report.committed.clone()),
        floor: report
            .map(|report| report.floor.to_string())
            .unwrap_or_default(),
        phase: report.map(|report| report.phase.clone()),
        failed: report.and_then(|report| report.failed.clone()),
        console: None,
        container_log: None,
        containers: Vec::new(),
        usage: None,
        usage_time: None,
        stale: report.is_some_and(|report| report.stale),
        report: row.report_seq,
    }
}
