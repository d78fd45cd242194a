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
/// Events that are kept of each kind; older ones are dropped.
pub(crate) const KEPT: u64 = 100_000;

/// Whose doing an event is. Each kind is dropped by itself: whatever devices do, what people did stays to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A person's, or the hub's own.
    People,
    /// A device's: there are many, and some are broken or hostile.
    Device,
}

/// Writes down what a person or the hub did, and tells followers once it is committed.
pub(crate) fn add(
    step: &mut Step<'_>,
    device: Option<KeyId>,
    what: &'static str,
    text: impl Into<String>,
) -> Result<(), Refusal> {
    add_by(step, By::People, device, what, text.into())
}

/// The same, and whose doing it was.
pub(crate) fn add_by(
    step: &mut Step<'_>,
    by: By,
    device: Option<KeyId>,
    what: &'static str,
    text: String,
) -> Result<(), Refusal> {
    let time = clock::now();
    let seq = insert_at(step.database, (time, by), device, what, &text)?;
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
        return add_by(step, By::Device, Some(device), what, text);
    }
    if newest.is_some_and(|(_, what)| what == NOISY) {
        return Ok(());
    }
    let text = format!("told more than {AN_HOUR} things within an hour; what follows is left out");
    add_by(step, By::Device, Some(device), NOISY, text)
}

/// When a device told something, and what it was; 0 is the newest.
fn nth(database: &Connection, device: KeyId, number: u32) -> Result<Option<(u64, String)>, Error> {
    let mut statement = database.prepare_cached(
        "SELECT time, what FROM events WHERE device = ?1 AND by_device = 1 ORDER BY seq DESC LIMIT 1 OFFSET ?2",
    )?;
    let row = statement.query_row(params![device.digest(), number], |row| {
        Ok((unsigned(row.get(0)?), row.get(1)?))
    });
    Ok(row.optional()?)
}

/// Writes down what happened, and tells its number.
pub(crate) fn insert_at(
    database: &Connection,
    (time, by): (Timestamp, By),
    device: Option<KeyId>,
    what: &str,
    text: &str,
) -> Result<u64, Error> {
    let mut statement = database.prepare_cached(
        "INSERT INTO events (time, device, what, text, by_device) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let device = device.as_ref().map(KeyId::digest);
    let by = by == By::Device;
    statement.execute(params![signed(time.unix()), device, what, text, by])?;
    Ok(unsigned(database.last_insert_rowid()))
}

/// At most `most` events after number `since`, of all or of one device.
pub(crate) fn after(
    database: &Connection,
    since: u64,
    most: u32,
    of: Option<KeyId>,
) -> Result<Vec<Event>, Error> {
    // Two statements, so that each has its index.
    let mut statement = database.prepare_cached(if of.is_some() {
        "SELECT seq, time, device, what, text FROM events WHERE device = ?3 AND seq > ?1 ORDER BY seq LIMIT ?2"
    } else {
        "SELECT seq, time, device, what, text FROM events WHERE ?3 IS NULL AND seq > ?1 ORDER BY seq LIMIT ?2"
    })?;
    let of = of.as_ref().map(KeyId::digest);
    let rows = statement.query_map(params![signed(since), most, of], |row| {
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

/// The number after which the last `count` events are, of all or of one device.
pub(crate) fn before_last(
    database: &Connection,
    count: u32,
    of: Option<KeyId>,
) -> Result<u64, Error> {
    let mut statement = database.prepare_cached(if of.is_some() {
        "SELECT seq FROM events WHERE device = ?2 ORDER BY seq DESC LIMIT 1 OFFSET ?1"
    } else {
        "SELECT seq FROM events WHERE ?2 IS NULL ORDER BY seq DESC LIMIT 1 OFFSET ?1"
    })?;
    let of = of.as_ref().map(KeyId::digest);
    let found = statement.query_row(params![count, of], |row| row.get(0));
    Ok(found.optional()?.map_or(0, unsigned))
}

/// Drops events beyond [`KEPT`] of each kind.
pub(crate) fn prune(database: &Connection) -> Result<usize, Error> {
    prune_to(database, KEPT)
}

fn prune_to(database: &Connection, kept: u64) -> Result<usize, Error> {
    let mut statement = database.prepare_cached(
        "DELETE FROM events WHERE by_device = ?1 AND seq <= \
         (SELECT seq FROM events WHERE by_device = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
    )?;
    let mut dropped = 0;
    for by_device in [false, true] {
        dropped += statement.execute(params![by_device, signed(kept)])?;
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_cannot_push_out_what_people_did() {
        let data = tempfile::tempdir().unwrap();
        let database = crate::database::open(data.path()).unwrap();
        let device = KeyId::from_digest([3; 32]);
        let insert = |by, what| insert_at(&database, (clock::now(), by), Some(device), what, "");
        insert(By::People, "revoked").unwrap();
        for _ in 0..9 {
            insert(By::Device, "booted").unwrap();
        }
        insert(By::People, "assigned").unwrap();
        assert_eq!(prune_to(&database, 4).unwrap(), 5);
        let left = |of| {
            let left = after(&database, 0, 99, of).unwrap();
            left.into_iter().map(|event| event.what).collect::<Vec<_>>()
        };
        let expected = [
            "revoked", "booted", "booted", "booted", "booted", "assigned",
        ];
        assert_eq!(left(None), expected);
        assert_eq!(left(Some(device)), expected);
        assert!(left(Some(KeyId::from_digest([4; 32]))).is_empty());
        // People's are bounded, too.
        assert_eq!(prune_to(&database, 1).unwrap(), 4);
        assert_eq!(left(None), ["booted", "assigned"]);
        for of in [None, Some(device)] {
            let since = before_last(&database, 1, of).unwrap();
            assert_eq!(after(&database, since, 99, of).unwrap().len(), 1);
            assert_eq!(before_last(&database, 2, of).unwrap(), 0);
        }
    }
}
