//! SQLite: where it is, how it is opened, and how its schema came about.
//!
//! `hub.db` in write-ahead mode, with `synchronous=FULL`: a commit that returned is on the disk. `user_version` is the
//! version of the schema; each migration brings it to the next one, in one transaction. A database of a newer hub is
//! refused, before anything is read or written.

use crate::error::Error;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Each brings the schema from its index to the next version. One that was released is never changed.
const MIGRATIONS: [&str; 7] = [
    include_str!("database/1.sql"),
    include_str!("database/2.sql"),
    include_str!("database/3.sql"),
    include_str!("database/4.sql"),
    include_str!("database/5.sql"),
    include_str!("database/6.sql"),
    include_str!("database/7.sql"),
];

/// The file in the data directory.
pub(crate) fn path(data: &Path) -> PathBuf {
    data.join("hub.db")
}

/// The newest version that this hub knows.
pub(crate) fn newest() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// Opens the database for writing, makes it or brings it to the newest version.
pub(crate) fn open(data: &Path) -> Result<Connection, Error> {
    let path = path(data);
    if !path.exists() {
        // Whoever may read it may read secrets: SQLite itself would make it for the group, too.
        kedge_store::durable::write(&path, b"")?;
    }
    let mut connection = Connection::open(&path)?;
    refuse_newer(&connection)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    migrate(&mut connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens the database of a hub that is there, and leaves its schema as it is: that hub may run.
pub(crate) fn open_as_it_is(data: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let connection = Connection::open_with_flags(path(data), flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let found = refuse_newer(&connection)?;
    if found < newest() {
        return Err(Error::OlderDatabase {
            found,
            known: newest(),
        });
    }
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

/// The version of a database's schema; an error if it is newer than this hub.
pub(crate) fn refuse_newer(connection: &Connection) -> Result<u32, Error> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > newest() {
        return Err(Error::NewerDatabase {
            found,
            known: newest(),
        });
    }
    Ok(found)
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let found = refuse_newer(connection)?;
    for (version, migration) in (1..).zip(MIGRATIONS) {
        if version > found {
            let transaction = connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()?;
        }
    }
    Ok(())
}

/// Connections for what is read and not in memory: details and lists that people ask for.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// Most connections that are kept.
    const KEPT: usize = 4;

    pub(crate) fn new(data: &Path) -> Self {
        Self {
            path: path(data),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Reads on a thread that may wait for the disk.
    pub(crate) async fn read<T: Send + 'static, F>(
        self: &std::sync::Arc<Self>,
        work: F,
    ) -> Result<T, Error>
    where
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let readers = std::sync::Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || readers.read_here(work));
        reading.await.map_err(|_| Error::Stopping)?
    }

    /// Reads on this thread.
    pub(crate) fn read_here<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        connection.busy_timeout(Duration::from_secs(10))?;
        let result = work(&connection);
        let mut idle = idle();
        if idle.len() < Self::KEPT {
            idle.push(connection);
        }
        result
    }
}

#[cfg(test)]
mod plans;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_database_has_the_newest_version_and_is_opened_again() {
        let data = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let connection = open(data.path()).unwrap();
            assert_eq!(refuse_newer(&connection).unwrap(), newest());
        }
    }

    #[test]
    fn a_device_of_an_older_hub_stays_and_has_told_no_use() {
        let data = tempfile::tempdir().unwrap();
        let older = Connection::open(path(data.path())).unwrap();
        for migration in &MIGRATIONS[..2] {
            older.execute_batch(migration).unwrap();
        }
        older.pragma_update(None, "user_version", 2).unwrap();
        older
            .execute(
                "INSERT INTO devices (id, key, product, board, enrolled) VALUES (?1, ?1, 'gateway', 'b', 7)",
                [[3_u8; 32]],
            )
            .unwrap();
        for what in ["booted", "assigned"] {
            older
                .execute(
                    "INSERT INTO events (time, what, text) VALUES (7, ?1, '')",
                    [what],
                )
                .unwrap();
        }
        drop(older);
        let connection = open(data.path()).unwrap();
        let by_device = "SELECT group_concat(what) FROM events WHERE by_device = 1";
        let by_device: String = connection
            .query_row(by_device, [], |row| row.get(0))
            .unwrap();
        assert_eq!(by_device, "booted");
        let mut found = Vec::new();
        crate::rows::each_device(&connection, |row, _| found.push(row)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].enrolled.unix(), 7);
        assert_eq!(found[0].usage, None);
    }

    #[test]
    fn a_database_of_a_newer_hub_is_refused_and_stays_as_it_is() {
        let data = tempfile::tempdir().unwrap();
        let connection = open(data.path()).unwrap();
        connection
            .pragma_update(None, "user_version", newest() + 1)
            .unwrap();
        drop(connection);
        let before = std::fs::read(path(data.path())).unwrap();
        assert!(matches!(
            open(data.path()),
            Err(Error::NewerDatabase { .. })
        ));
        assert_eq!(std::fs::read(path(data.path())).unwrap(), before);
    }
}
