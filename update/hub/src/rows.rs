//! Rows of the database, as values.

use crate::error::Error;
use crate::fleet::{Row, Summary};
use crate::usage::Used;
use kedge_api::device::{Action, ActionKind, Report, Usage};
use kedge_revision::{KeyId, Name, ObjectId, PublicKey, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, named_params};
use std::collections::BTreeMap;
use std::str::FromStr;

/// SQLite's integers have a sign; times and counters of ours have none, and do not get near 2⁶³.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

const DEVICE: &str = "SELECT id, key, product, board, enrolled, revoked, tags, desired, previous, assigned, \
     parameters, action, report_seq, report, seen, usage, usage_time FROM devices";

/// A device, if it is there.
pub(crate) fn device(database: &Connection, id: KeyId) -> Result<Option<Row>, Error> {
    let mut statement = database.prepare_cached(&format!("{DEVICE} WHERE id = ?1"))?;
    let found = statement.query_row([id.digest()], read_device).optional()?;
    let Some((mut row, _)) = found else {
        return Ok(None);
    };
    row.actions = actions(database, id)?;
    Ok(Some(row))
}

/// Every device with when it was last heard of, for the start.
pub(crate) fn each_device(
    database: &Connection,
    mut take: impl FnMut(Row, u64),
) -> Result<(), Error> {
    let mut statement = database.prepare(DEVICE)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (mut device, seen) = read_device(row)?;
        device.actions = actions(database, device.id)?;
        take(device, seen);
    }
    Ok(())
}

fn read_device(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Row, u64)> {
    let key = PublicKey::from_bytes(row.get(1)?);
    let report: Option<String> = row.get(13)?;
    let report: Option<Report> = report.map(|text| json(&text)).transpose()?;
    let wanted: Option<String> = row.get(7)?;
    let previous: Option<[u8; 32]> = row.get(8)?;
    let assigned: String = row.get(9)?;
    let device = Row {
        id: KeyId::from_digest(row.get(0)?),
        key,
        product: text(row, 2)?,
        board: text(row, 3)?,
        enrolled: Timestamp::from_unix(unsigned(row.get(4)?)),
        revoked: row.get(5)?,
        tags: json(&row.get::<_, String>(6)?)?,
        wanted: wanted.map(|text| json(&text)).transpose()?,
        previous: previous.map(ObjectId::from_digest),
        assigned: json(&assigned)?,
        parameters: unsigned(row.get(10)?),
        action: unsigned(row.get(11)?),
        actions: Vec::new(),
        report_seq: unsigned(row.get(12)?),
        report: report.as_ref().map(Summary::of),
        usage: usage(row.get(15)?, row.get(16)?)?.map(|(usage, time)| Used::of(&usage, time)),
    };
    let seen: Option<i64> = row.get(14)?;
    Ok((device, seen.map_or(0, unsigned)))
}

/// What a device's containers used, and when it told that, from its two columns.
pub(crate) fn usage(
    usage: Option<String>,
    time: Option<i64>,
) -> rusqlite::Result<Option<(Usage, Timestamp)>> {
    let Some((usage, time)) = usage.zip(time) else {
        return Ok(None);
    };
    Ok(Some((json(&usage)?, Timestamp::from_unix(unsigned(time)))))
}

/// A column that holds a name.
pub(crate) fn text<T: FromStr<Err = kedge_revision::Error>>(
    row: &rusqlite::Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error: kedge_revision::Error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

fn actions(database: &Connection, device: KeyId) -> Result<Vec<Action>, Error> {
    let mut statement =
        database.prepare_cached("SELECT id, what FROM actions WHERE device = ?1 ORDER BY id")?;
    let rows = statement.query_map([device.digest()], |row| {
        let what: String = row.get(1)?;
        let what: ActionKind = json(&what)?;
        Ok(Action {
            id: unsigned(row.get(0)?),
            what,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Writes what of a device can change, or the whole of a new one. Actions, parameters' values and reports have writers
/// of their own.
pub(crate) fn save(database: &Connection, row: &Row) -> Result<(), Error> {
    let mut statement = database.prepare_cached(
        "INSERT INTO devices (id, key, product, board, enrolled, revoked, tags, desired, previous, assigned, \
         parameters, action) VALUES (:id, :key, :product, :board, :enrolled, :revoked, :tags, :desired, :previous, \
         :assigned, :parameters, :action) ON CONFLICT (id) DO UPDATE SET product = :product, board = :board, \
         revoked = :revoked, tags = :tags, desired = :desired, previous = :previous, assigned = :assigned, \
         parameters = :parameters, action = :action",
    )?;
    let wanted = row.wanted.as_ref().map(serde_json::to_string).transpose()?;
    statement.execute(named_params! {
        ":id": row.id.digest(),
        ":key": row.key.bytes(),
        ":product": row.product.as_str(),
        ":board": row.board.as_str(),
        ":enrolled": signed(row.enrolled.unix()),
        ":revoked": row.revoked,
        ":tags": serde_json::to_string(&row.tags)?,
        ":desired": wanted,
        ":previous": row.previous.as_ref().map(ObjectId::digest),
        ":assigned": serde_json::to_string(&row.assigned)?,
        ":parameters": signed(row.parameters),
        ":action": signed(row.action),
    })?;
    Ok(())
}

/// Removes a device with everything that is kept of it; but for the nonces of its enrolments, which must not be used again.
pub(crate) fn remove(database: &Connection, device: KeyId) -> Result<(), Error> {
    for statement in [
        "DELETE FROM devices WHERE id = ?1",
        "DELETE FROM actions WHERE device = ?1",
        "DELETE FROM parameters WHERE device = ?1",
    ] {
        database.execute(statement, [device.digest()])?;
    }
    Ok(())
}

/// Numbers that devices are given are at least this one: see `database/5.sql`.
pub(crate) fn least_number(database: &Connection) -> Result<u64, Error> {
    let mut statement = database.prepare_cached("SELECT max(time) FROM restored")?;
    let time: Option<i64> = statement.query_row([], |row| row.get(0))?;
    Ok(time.map_or(0, unsigned))
}

/// The values that a device has now.
pub(crate) fn values(
    database: &Connection,
    device: KeyId,
) -> Result<BTreeMap<Name, String>, Error> {
    let mut statement =
        database.prepare_cached("SELECT parameter_values FROM devices WHERE id = ?1")?;
    let text: Option<String> = statement
        .query_row([device.digest()], |row| row.get(0))
        .optional()?;
    Ok(text
        .map(|text| serde_json::from_str(&text))
        .transpose()?
        .unwrap_or_default())
}
