//! Rows of the database, as values.

use crate::clock;
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

/// Devices that were removed of which the last numbers are kept; those that were removed first are forgotten.
const REMOVED: u64 = 100_000;

/// Removes a device with everything that is kept of it; but for the nonces of its enrolments, which must not be used again,
/// and the last numbers that it was given.
pub(crate) fn remove(database: &Connection, device: KeyId) -> Result<(), Error> {
    keep_numbers(database, device, clock::unix(), REMOVED)?;
    for statement in [
        "DELETE FROM devices WHERE id = ?1",
        "DELETE FROM actions WHERE device = ?1",
        "DELETE FROM parameters WHERE device = ?1",
    ] {
        database.execute(statement, [device.digest()])?;
    }
    Ok(())
}

fn keep_numbers(database: &Connection, device: KeyId, now: u64, most: u64) -> Result<(), Error> {
    database.execute(
        "INSERT INTO numbers (device, action, parameters, retry, time) \
         SELECT id, action, parameters, coalesce(desired ->> '$.retry', 0), ?2 FROM devices WHERE id = ?1 \
         ON CONFLICT (device) DO UPDATE SET action = max(action, excluded.action), \
         parameters = max(parameters, excluded.parameters), retry = max(retry, excluded.retry), time = excluded.time",
        (device.digest(), signed(now)),
    )?;
    database.execute(
        "DELETE FROM numbers WHERE device != ?1 AND time <= \
         (SELECT time FROM numbers ORDER BY time DESC LIMIT 1 OFFSET ?2)",
        (device.digest(), signed(most)),
    )?;
    Ok(())
}

/// Numbers that a device is given from now on are at least these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Least {
    pub(crate) action: u64,
    pub(crate) parameters: u64,
    pub(crate) retry: u32,
}

/// See `database/5.sql` for a hub that was restored, and `database/7.sql` for a device that was removed and came again.
pub(crate) fn least_numbers(database: &Connection, device: KeyId) -> Result<Least, Error> {
    let mut statement = database.prepare_cached("SELECT max(time) FROM restored")?;
    let time: Option<i64> = statement.query_row([], |row| row.get(0))?;
    let restored = time.map_or(0, unsigned);
    let mut statement = database
        .prepare_cached("SELECT action, parameters, retry FROM numbers WHERE device = ?1")?;
    let given = statement.query_row([device.digest()], |row| {
        Ok((unsigned(row.get(0)?), unsigned(row.get(1)?), row.get(2)?))
    });
    let (action, parameters, retry) = given.optional()?.unwrap_or_default();
    Ok(Least {
        retry,
        action: restored.max(action.saturating_add(1)),
        parameters: restored.max(parameters.saturating_add(1)),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Wanted;

    fn device(database: &Connection, byte: u8, action: u64, parameters: u64) -> KeyId {
        let key = PublicKey::from_bytes([byte; 32]);
        let name = |text: &str| text.parse().unwrap();
        let mut row = Row::new(key, name("gateway"), name("board"), clock::now());
        (row.action, row.parameters) = (action, parameters);
        row.assign(Wanted {
            revision: ObjectId::from_digest([byte; 32]),
            retry: 5,
            download_only: false,
            now: false,
            window: None,
            rate: None,
        });
        save(database, &row).unwrap();
        row.id
    }

    #[test]
    fn numbers_of_a_device_go_on_behind_those_of_its_former_lives() {
        let data = tempfile::tempdir().unwrap();
        let database = crate::database::open(data.path()).unwrap();
        let least = |id| {
            let least = least_numbers(&database, id).unwrap();
            (least.action, least.parameters, least.retry)
        };
        let id = device(&database, 1, 7, 3);
        assert_eq!(least(id), (1, 1, 0));
        remove(&database, id).unwrap();
        assert_eq!(least(id), (8, 4, 5));
        // The second life was given fewer of one kind.
        device(&database, 1, 9, 0);
        remove(&database, id).unwrap();
        assert_eq!(least(id), (10, 4, 5));
        database
            .execute("INSERT INTO restored (time) VALUES (1000)", [])
            .unwrap();
        assert_eq!(least(id), (1000, 1000, 5));
    }

    #[test]
    fn numbers_of_those_that_were_removed_first_are_forgotten_first() {
        let data = tempfile::tempdir().unwrap();
        let database = crate::database::open(data.path()).unwrap();
        let removed: Vec<KeyId> = (1..=4)
            .map(|byte| {
                let id = device(&database, byte, 7, 7);
                keep_numbers(&database, id, 100 + u64::from(byte), 2).unwrap();
                id
            })
            .collect();
        let actions = removed
            .iter()
            .map(|id| least_numbers(&database, *id).unwrap().action);
        assert_eq!(actions.collect::<Vec<_>>(), [1, 1, 8, 8]);
    }
}
