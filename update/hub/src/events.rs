//! Events: what happened, for people and for whoever follows.

use crate::clock;
use crate::error::{Error, Refusal};
use crate::fleet::Change;
use crate::rows::{signed, unsigned};
use crate::writer::Step;
use kedge_api::operator::Event;
use kedge_revision::{KeyId, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

/// Events that one device may tell of itself in an hour.
const AN_HOUR: u32 = 100;
/// What an event is that says that others were left out.
const NOISY: &str = "noisy";
/// Events that are kept; older ones are dropped.
pub(crate) const KEPT: u64 = 100_000;

/// Writes down what happened, and tells followers once it is committed.
pub(crate) fn add(
    step: &mut Step<'_>,
    device: Option<KeyId>,
    what: &'static str,
    text: impl Into<String>,
) -> Result<(), Refusal> {
    let (time, text) = (clock::now(), text.into());
    let seq = insert_at(step.database, time, device, what, &text)?;
    step.change(Change::Event(Event {
        seq,
        time,
        device,
        what: what.to_owned(),
        text,
    }));
    Ok(())
}

/// Writes down what a device tells of itself: so much an hour, and then once that there is more. Whatever it tells, what
/// others did stays to be read.
pub(crate) fn told(
    step: &mut Step<'_>,
    device: KeyId,
    what: &'static str,
    text: String,
) -> Result<(), Refusal> {
    let newest = nth(step.database, device, 0)?;
    let hour = nth(step.database, device, AN_HOUR - 1)?;
    let now = clock::unix();
    if hour.is_none_or(|(time, _)| now.saturating_sub(time) >= 3600) {
        return add(step, Some(device), what, text);
    }
    if newest.is_some_and(|(_, what)| what == NOISY) {
        return Ok(());
    }
    let text = format!("told more than {AN_HOUR} things within an hour; what follows is left out");
    add(step, Some(device), NOISY, text)
}

/// When a device's event happened, and what it was; 0 is the newest.
fn nth(database: &Connection, device: KeyId, number: u32) -> Result<Option<(u64, String)>, Error> {
    let mut statement = database.prepare_cached(
        "SELECT time, what FROM events WHERE device = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2",
    )?;
    let row = statement.query_row(params![device.digest(), number], |row| {
        Ok((unsigned(row.get(0)?), row.get(1)?))
    });
    Ok(row.optional()?)
}

/// Writes down what happened, and tells its number.
pub(crate) fn insert_at(
    database: &Connection,
    time: Timestamp,
    device: Option<KeyId>,
    what: &str,
    text: &str,
) -> Result<u64, Error> {
    let mut statement = database
        .prepare_cached("INSERT INTO events (time, device, what, text) VALUES (?1, ?2, ?3, ?4)")?;
    let device = device.as_ref().map(KeyId::digest);
    statement.execute(params![signed(time.unix()), device, what, text])?;
    Ok(unsigned(database.last_insert_rowid()))
}

/// At most `most` events after number `since`.
pub(crate) fn after(database: &Connection, since: u64, most: u32) -> Result<Vec<Event>, Error> {
    let mut statement = database.prepare_cached(
        "SELECT seq, time, device, what, text FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let rows = statement.query_map(params![signed(since), most], |row| {
        let device: Option<[u8; 32]> = row.get(2)?;
        Ok(Event {
            seq: unsigned(row.get(0)?),
            time: Timestamp::from_unix(unsigned(row.get(1)?)),
            device: device.map(KeyId::from_digest),
            what: row.get(3)?,
            text: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Drops events beyond [`KEPT`].
pub(crate) fn prune(database: &Connection) -> Result<usize, Error> {
    let dropped = database.execute(
        "DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?1",
        [signed(KEPT)],
    )?;
    Ok(dropped)
}
