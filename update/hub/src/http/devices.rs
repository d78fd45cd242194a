//! Devices, as operators ask about them and change what is desired of them.

use super::lists::{self, shown};
use super::{answer, body};
use crate::error::Refusal;
use crate::fleet::{Change, Device, Revision, Row, Wanted};
use crate::hub::Hub;
use crate::rows::{self, signed};
use crate::tokens::Operator;
use crate::writer::Step;
use crate::{assign, clock, events, publish, why};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use kedge_api::device::{Action, ActionKind, Report};
use kedge_api::operator::{
    self, ActionRequest, Assign, Assigned, OperatorAction, Page, ParameterValues, ParametersSet,
    Window,
};
use kedge_revision::{KeyId, Name};
use rusqlite::params;
use std::collections::BTreeMap;
use std::sync::Arc;

type Answer = Result<Response, Refusal>;

/// Most of a change of tags that an event tells, bytes.
const TAGS_TOLD: usize = 1024;
/// Actions that may wait for a device.
const ACTIONS: usize = 32;
/// Most tags of a device, and the longest name and value, bytes.
const TAGS: (usize, usize, usize) = (64, 64, 256);
/// Parameters of this many counters are kept for each device: one may be on its way to them.
const COUNTERS: u64 = 8;

/// `GET /v1/devices`
pub(super) async fn list(
    _: Operator,
    State(hub): State<Arc<Hub>>,
    RawQuery(raw): RawQuery,
) -> Answer {
    let raw = raw.as_deref();
    let limit = lists::limit(raw)?;
    let text = super::device::parameter(raw, "query").unwrap_or_else(|| "all".to_owned());
    let query = lists::query(&text)?;
    let cursor = super::device::parameter(raw, "cursor");
    let mut items: Vec<_> = lists::devices(&hub, &query, cursor.as_deref())
        .take(limit + 1)
        .map(|device| shown(&hub, &device))
        .collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().map(|device| device.id.to_string());
    let page = Page {
        items,
        cursor: last.filter(|_| more),
    };
    answer::json(StatusCode::OK, &page)
}

/// A device by its id, by the first eight digits and more, or by its name; each if it is but one.
pub(super) fn find(hub: &Hub, text: &str) -> Result<Arc<Device>, Refusal> {
    let unknown = || Refusal::not_found("the hub knows no such device");
    if let Ok(id) = text.parse::<KeyId>() {
        return hub.fleet.device(id).ok_or_else(unknown);
    }
    let hex = text.len() >= 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut found = hub.fleet.devices().into_iter().filter(|device| {
        let is_begun = hex && device.id().to_string().starts_with(text);
        is_begun
            || device
                .row()
                .tags
                .get("name")
                .is_some_and(|name| name == text)
    });
    let first = found.next().ok_or_else(unknown)?;
    match found.next() {
        None => Ok(first),
        Some(_) => Err(Refusal::conflict(
            "ambiguous",
            "several devices are meant: name one by its whole id",
        )),
    }
}

/// `GET /v1/devices/ID`
pub(super) async fn one(
    _: Operator,
    State(hub): State<Arc<Hub>>,
    Path(device): Path<String>,
) -> Answer {
    let device = find(&hub, &device)?;
    answer::json(StatusCode::OK, &detailed(&hub, &device).await?)
}

/// A device with what the database alone has.
pub(super) async fn detailed(hub: &Hub, device: &Device) -> Result<operator::Device, Refusal> {
    let id = device.id();
    let mut shown = shown(hub, device);
    type Told = (Option<String>, Option<String>, Option<String>);
    let ((report, console, log), usage) = hub
        .readers
        .read(move |database| {
            let row = database.query_row(
                "SELECT report, console, container_log, usage, usage_time FROM devices WHERE id = ?1",
                [id.digest()],
                |row| {
                    let told: Told = (row.get(0)?, row.get(1)?, row.get(2)?);
                    Ok((told, rows::usage(row.get(3)?, row.get(4)?)?))
                },
            )?;
            Ok(row)
        })
        .await?;
    if let Some(report) = report {
        shown.containers = serde_json::from_str::<Report>(&report)?.containers;
    }
    shown.console = console;
    shown.container_log = log.map(|log| serde_json::from_str(&log)).transpose()?;
    (shown.usage, shown.usage_time) = usage.unzip();
    Ok(shown)
}

/// `GET /v1/devices/ID/why`
pub(super) async fn why(
    _: Operator,
    State(hub): State<Arc<Hub>>,
    Path(device): Path<String>,
) -> Answer {
    let device = find(&hub, &device)?;
    let row = device.row();
    let wanted = row.wanted.as_ref();
    let revision = wanted.and_then(|wanted| hub.fleet.revision(wanted.revision));
    let seen_s = shown(&hub, &device).seen_s;
    let now = clock::unix();
    let why = why::why(&row, revision.as_deref(), device.is_online(), seen_s, now);
    answer::json(StatusCode::OK, &why)
}

/// `POST /v1/devices/ID/actions`
pub(super) async fn action(
    operator: Operator,
    State(hub): State<Arc<Hub>>,
    Path(device): Path<String>,
    body: Body,
) -> Answer {
    let ActionRequest { what } = body::strict(body).await?;
    let device = find(&hub, &device)?;
    let previous = device.row().previous;
    let previous = previous.and_then(|id| hub.fleet.revision(id));
    hub.change_device(device.id(), move |step, row| {
        match what.device() {
            Some(kind) => queue(step, row, kind)?,
            None => desire(step, row, what, previous.as_deref())?,
        }
        let text = format!("{} asked for {}", operator.name, word(what));
        events::add(step, Some(row.id), "action", text)
    })
    .await?;
    Ok(answer::none(StatusCode::ACCEPTED))
}

const fn word(what: OperatorAction) -> &'static str {
    match what {
        OperatorAction::Reboot => "reboot",
        OperatorAction::Identify => "identify",
        OperatorAction::CollectLogs => "collect-logs",
        OperatorAction::Retry => "retry",
        OperatorAction::FallBack => "fall-back",
        OperatorAction::Apply => "apply",
    }
}

fn queue(step: &Step<'_>, row: &mut Row, what: ActionKind) -> Result<(), Refusal> {
    if row.actions.len() >= ACTIONS {
        return Err(Refusal::conflict(
            "too-many-actions",
            "32 actions wait for this device already",
        ));
    }
    let least = rows::least_numbers(step.database, row.id)?;
    row.action = least.action.max(row.action + 1);
    let action = Action {
        id: row.action,
        what,
    };
    step.database.execute(
        "INSERT INTO actions (device, id, what) VALUES (?1, ?2, ?3)",
        params![
            row.id.digest(),
            signed(action.id),
            serde_json::to_string(&what)?
        ],
    )?;
    row.actions.push(action);
    Ok(())
}

/// How often operators have said that a failure counts no longer. It never falls: devices remember what failed with the
/// number of then, and try it again with a higher one alone, whatever they were assigned in between.
fn retry(step: &Step<'_>, row: &Row) -> Result<u32, Refusal> {
    match &row.wanted {
        Some(wanted) => Ok(wanted.retry),
        None => Ok(rows::least_numbers(step.database, row.id)?.retry),
    }
}

fn desire(
    step: &Step<'_>,
    row: &mut Row,
    what: OperatorAction,
    previous: Option<&Revision>,
) -> Result<(), Refusal> {
    if what == OperatorAction::FallBack {
        let previous = previous.ok_or_else(|| {
            Refusal::conflict(
                "nothing-before",
                "the hub does not know of anything that the device has committed before, or does not have it",
            )
        })?;
        // Its values are those of now: the operator can mend what does not fit, the device could only refuse it.
        assign::judge(row, previous, &rows::values(step.database, row.id)?)
            .map_err(|why| Refusal::conflict("cannot-run", why))?;
        publish::still_there(step, previous.id)?;
        row.assign(Wanted {
            revision: previous.id,
            // Whoever goes back on purpose wants it tried, also if it has failed there since.
            retry: retry(step, row)?.saturating_add(1),
            download_only: false,
            now: false,
            window: None,
            rate: None,
        });
        return Ok(());
    }
    let wanted = row
        .wanted
        .as_mut()
        .ok_or_else(|| Refusal::conflict("nothing-assigned", "the device was assigned nothing"))?;
    if what == OperatorAction::Apply {
        wanted.download_only = false;
        wanted.now = true;
    } else {
        wanted.retry = wanted.retry.saturating_add(1);
    }
    Ok(())
}

/// Refuses tags that are too many or too long.
pub(super) fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let (most, name_length, value_length) = TAGS;
    let good = |(name, value): (&String, &String)| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !name.is_empty()
            && name.len() <= name_length
            && name.bytes().all(word)
            && value.len() <= value_length
            && !value.contains(|letter: char| letter.is_control() || letter == '"')
    };
    if tags.len() <= most && tags.iter().all(good) {
        return Ok(());
    }
    Err(Refusal::bad(
        "tags",
        "at most 64 tags; a name is up to 64 letters, digits, -, _ and .; a value up to 256 bytes without double quotes",
    ))
}

/// `PUT /v1/devices/ID/tags`
pub(super) async fn tags(
    operator: Operator,
    State(hub): State<Arc<Hub>>,
    Path(device): Path<String>,
    body: Body,
) -> Answer {
    let tags: BTreeMap<String, String> = body::strict(body).await?;
    check_tags(&tags)?;
    let device = find(&hub, &device)?;
    hub.change_device(device.id(), move |step, row| {
        if row.tags != tags {
            let text = format!(
                "{} changed tags: {}",
                operator.name,
                differing(&row.tags, &tags)
            );
            events::add(step, Some(row.id), "tags", text)?;
        }
        row.tags = tags;
        Ok(())
    })
    .await?;
    Ok(answer::none(StatusCode::NO_CONTENT))
}

/// What a change of tags changes, as far as a line holds it: `site=berlin, without ring`.
fn differing(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> String {
    let set = after
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(*value));
    let set = set.map(|(name, value)| format!("{name}={value}"));
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let gone = gone.map(|name| format!("without {name}"));
    let mut text = set.chain(gone).collect::<Vec<_>>().join(", ");
    if text.len() > TAGS_TOLD {
        text.truncate(text.floor_char_boundary(TAGS_TOLD));
        text.push('…');
    }
    text
}

/// `POST /v1/devices/ID/revoke`
pub(super) async fn revoke(
    operator: Operator,
    State(hub): State<Arc<Hub>>,
    Path(device): Path<String>,
) -> Answer {
    let device = find(&hub, &device)?;
    hub.change_device(device.id(), move |step, row| {
        if !row.revoked {
            step.database.execute(
                "UPDATE devices SET revoked = 1 WHERE id = ?1",
                [row.id.digest()],
            )?;
            row.revoked = true;
            let text = format!("{} revoked its certificate", operator.name);
            events::add(step, Some(row.id), "revoked", text)?;
        }
        Ok(())
    })
    .await?;
    hub.limits.end(device.id());
    Ok(answer::none(StatusCode::NO_CONTENT))
}

/// `PUT /v1/devices/ID/parameters`
pub(super) async fn parameters(
    operator: Operator,
    State(hub): State<Arc<Hub>>,
    Path(device): Path<String>,
    body: Body,
) -> Answer {
    let ParameterValues { values } = body::strict(body).await?;
    let device = find(&hub, &device)?;
    let wanted = device.row().wanted.clone();
    let revision = wanted.and_then(|wanted| hub.fleet.revision(wanted.revision));
    let counter = hub
        .change_device(device.id(), move |step, row| {
            let kept = merged(rows::values(step.database, row.id)?, values)?;
            if let Some(revision) = revision.as_deref() {
                assign::fitting(revision, &kept).map_err(|why| Refusal::bad("parameters", why))?;
            }
            let least = rows::least_numbers(step.database, row.id)?;
            row.parameters = next_counter(row).max(least.parameters);
            // That was said of what was there then: these values wait for window and locks again.
            if let Some(wanted) = &mut row.wanted {
                wanted.now = false;
            }
            keep_values(step, row, &kept)?;
            // Names of parameters are no secrets; values may be.
            let text = format!("{} set parameters {}", operator.name, row.parameters);
            events::add(step, Some(row.id), "parameters", text)?;
            Ok(row.parameters)
        })
        .await?;
    answer::json(StatusCode::OK, &ParametersSet { counter })
}

fn merged(
    mut kept: BTreeMap<Name, String>,
    values: BTreeMap<Name, Option<String>>,
) -> Result<BTreeMap<Name, String>, Refusal> {
    for (name, value) in values {
        match value {
            Some(value) => kept.insert(name, value),
            None => kept.remove(&name),
        };
    }
    let size: usize = kept
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 8)
        .sum();
    if kept.len() > kedge_revision::Content::MAX_PARAMETERS
        || size > kedge_revision::parameters::Parameters::CAP
    {
        return Err(Refusal::bad(
            "parameters",
            "they are over 256, or over 64 KiB",
        ));
    }
    Ok(kept)
}

/// Above whatever the device has: it may have been provisioned, or belonged to another hub. Half of all numbers are left,
/// whatever it claims.
fn next_counter(row: &Row) -> u64 {
    let report = row.report.as_ref();
    let told = report
        .into_iter()
        .flat_map(|report| [&report.running, &report.committed])
        .flatten()
        .map(|target| target.parameters.min(u64::MAX / 4));
    told.fold(row.parameters, u64::max).saturating_add(1)
}

fn keep_values(step: &Step<'_>, row: &Row, values: &BTreeMap<Name, String>) -> Result<(), Refusal> {
    let text = serde_json::to_string(values)?;
    let (id, counter) = (row.id.digest(), signed(row.parameters));
    step.database.execute(
        "UPDATE devices SET parameter_values = ?2 WHERE id = ?1",
        params![id, text],
    )?;
    step.database.execute(
        "INSERT INTO parameters (device, counter, \"values\") VALUES (?1, ?2, ?3)",
        params![id, counter, text],
    )?;
    step.database.execute(
        "DELETE FROM parameters WHERE device = ?1 AND counter NOT IN \
         (SELECT counter FROM parameters WHERE device = ?1 ORDER BY counter DESC LIMIT ?2)",
        params![id, signed(COUNTERS)],
    )?;
    Ok(())
}

/// `POST /v1/assignments`
pub(super) async fn assign(operator: Operator, State(hub): State<Arc<Hub>>, body: Body) -> Answer {
    let request: Assign = body::strict(body).await?;
    let query = lists::query(&request.query)?;
    if let Some(window) = request.window {
        check_window(window)?;
    }
    let revision = hub
        .fleet
        .revision(request.revision)
        .ok_or_else(|| Refusal::not_found("the hub has no such revision: publish it first"))?;
    let meant: Vec<KeyId> = lists::devices(&hub, &query, None)
        .map(|device| device.id())
        .collect();
    let assigned = hub
        .writer
        .run(move |step| assign_all(step, &request, &revision, meant, &operator))
        .await?;
    answer::json(StatusCode::OK, &assigned)
}

fn check_window(window: Window) -> Result<(), Refusal> {
    if window.opens_s < 86_400 && (60..=86_400).contains(&window.lasts_s) {
        return Ok(());
    }
    Err(Refusal::bad(
        "window",
        "a window opens below 86400 seconds after midnight and lasts 60 to 86400",
    ))
}

fn assign_all(
    step: &mut Step<'_>,
    request: &Assign,
    revision: &Revision,
    meant: Vec<KeyId>,
    operator: &Operator,
) -> Result<Assigned, Refusal> {
    publish::still_there(step, revision.id)?;
    let (mut devices, mut refused) = (Vec::new(), Vec::new());
    for id in meant {
        // Judged by what the database has: memory may be a commit behind.
        let Some(mut row) = rows::device(step.database, id)? else {
            continue;
        };
        let values = rows::values(step.database, id)?;
        if let Err(why) = assign::judge(&row, revision, &values) {
            refused.push((id, why));
            continue;
        }
        devices.push(id);
        if request.dry_run {
            continue;
        }
        let retry = retry(step, &row)?;
        row.assign(Wanted {
            revision: revision.id,
            retry,
            download_only: request.download_only,
            now: false,
            window: request.window,
            rate: request.rate,
        });
        rows::save(step.database, &row)?;
        step.change(Change::Device(Box::new(row)));
    }
    if !request.dry_run && !devices.is_empty() {
        let text = format!(
            "{} assigned revision {} ({}) to {} devices: {}",
            operator.name,
            revision.version,
            revision.id,
            devices.len(),
            request.query
        );
        let only = devices.first().copied().filter(|_| devices.len() == 1);
        events::add(step, only, "assigned", text)?;
    }
    Ok(Assigned { devices, refused })
}
