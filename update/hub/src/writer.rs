//! The one writer: a thread that owns the database's only writing connection.
//!
//! ```text
//! requests ──▶ queue ──▶ BEGIN, each job in a savepoint, COMMIT ──▶ memory changes ──▶ all are answered
//! ```
//! What waits while a commit is on its way to the disk becomes the next one: many requests share a sync, and none is
//! answered before its own is there. Decisions that must not be made twice (a token's last use) are made in here, by what
//! the database says; memory follows what was committed, in the same order.

use crate::error::{Error, Refusal};
use crate::fleet::{Change, Fleet};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; further requests wait for a place.
const QUEUE: usize = 1024;
/// Most jobs of one commit: bounds what a crash or a full disk takes back.
const BATCH: usize = 256;

/// Told what became of the commit.
type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send>;
type Job = Box<dyn FnOnce(&mut Step<'_>) -> Answer + Send>;

/// What a job works with.
pub(crate) struct Step<'a> {
    pub(crate) database: &'a Transaction<'a>,
    /// What memory is to learn once the commit is there.
    changes: Vec<Change>,
}

impl Step<'_> {
    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Runs one job's work; what it did is taken back if it fails.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        // A full disk makes SQLite take back the whole transaction; what came behind would be a commit of its own.
        if self.database.is_autocommit() {
            return Err(Error::Stopping.into());
        }
        let before = self.changes.len();
        self.database.execute_batch("SAVEPOINT job")?;
        let result = work(self);
        let end = if result.is_ok() {
            "RELEASE job"
        } else {
            self.changes.truncate(before);
            "ROLLBACK TO job; RELEASE job"
        };
        let ended = self.database.execute_batch(end);
        // Where the transaction is gone, so is the savepoint: the job's own error says why.
        if result.is_ok() {
            ended?;
        }
        result
    }
}

/// Where requests leave their jobs.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the thread; it ends when the last [`Writer`] is gone and all jobs are done.
    pub(crate) fn start(
        connection: Connection,
        fleet: Arc<Fleet>,
    ) -> Result<(Self, JoinHandle<()>), Error> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || serve(connection, &fleet, queue))
            .map_err(|source| Error::File {
                doing: "start the thread of",
                path: "the writer".into(),
                source,
            })?;
        Ok((Self { jobs }, thread))
    }

    /// Has `work` done in the next commit; returns once that is on the disk, or was given up.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Step<'_>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |step| {
            let result = step.attempt(work);
            Box::new(move |committed| {
                // Nobody waits any more if the client went away: what was done stays done.
                drop(sender.send(result.and_then(|value| committed.map(|()| value))));
            })
        });
        let stopping = |()| Refusal::from(Error::Stopping);
        self.jobs.send(job).await.map_err(|_| stopping(()))?;
        receiver.await.map_err(|_| stopping(()))?
    }
}

fn serve(mut connection: Connection, fleet: &Fleet, mut queue: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = queue.blocking_recv() {
        batch.push(first);
        while batch.len() < BATCH {
            match queue.try_recv() {
                Ok(job) => batch.push(job),
                Err(_) => break,
            }
        }
        let mut answers = Vec::with_capacity(batch.len());
        let outcome = commit(&mut connection, &mut batch, &mut answers);
        let committed = outcome.map(|changes| fleet.apply(changes));
        // Jobs that never began are answered by the end of their channel.
        batch.clear();
        if let Err(refusal) = &committed {
            log::error!(
                "nothing of {} requests was written: {}",
                answers.len(),
                refusal.detail
            );
        }
        for answer in answers {
            answer(committed.clone());
        }
    }
    let truncated = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    if let Err(error) = truncated {
        log::warn!("the write-ahead log stays as it is: {error}");
    }
}

fn commit(
    connection: &mut Connection,
    batch: &mut Vec<Job>,
    answers: &mut Vec<Answer>,
) -> Result<Vec<Change>, Refusal> {
    // Its first statement may be one that reads; a writer that comes in behind that one is an error, and is waited for here.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut step = Step {
        database: &transaction,
        changes: Vec::new(),
    };
    for job in batch.drain(..) {
        answers.push(job(&mut step));
    }
    let changes = step.changes;
    if transaction.is_autocommit() {
        return Err(Error::Database(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
            None,
        ))
        .into());
    }
    transaction.commit()?;
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database;

    #[tokio::test]
    async fn a_job_that_fails_takes_back_its_own_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let connection = database::open(data.path()).unwrap();
        let (writer, thread) = Writer::start(connection, Arc::default()).unwrap();
        let insert = |step: &mut Step<'_>, what: &str| {
            crate::events::add(step, None, "test", what).unwrap();
        };
        let good = writer.run(move |step| {
            insert(step, "good");
            Ok(())
        });
        let bad = writer.run(move |step| {
            insert(step, "bad");
            Err::<(), _>(Refusal::bad("test", "no"))
        });
        let (good, bad) = tokio::join!(good, bad);
        good.unwrap();
        assert_eq!(bad.unwrap_err().kind, "test");
        drop(writer);
        thread.join().unwrap();
        let connection = database::open(data.path()).unwrap();
        let events = crate::events::after(&connection, 0, 10, None).unwrap();
        let texts: Vec<_> = events.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(texts, ["good"]);
    }

    #[tokio::test]
    async fn who_writes_at_the_same_time_is_waited_for() {
        let data = tempfile::tempdir().unwrap();
        let connection = database::open(data.path()).unwrap();
        let mut other = database::open(data.path()).unwrap();
        let (writer, thread) = Writer::start(connection, Arc::default()).unwrap();
        // As `kedge-hub token new` does, while a job has read already and is about to write.
        let (has_read, reads) = std::sync::mpsc::channel();
        let (goes_on, waits) = std::sync::mpsc::channel::<()>();
        let writing = std::thread::spawn(move || {
            let change = other
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .unwrap();
            goes_on.send(()).unwrap();
            // Until the job has read, or for as long as it is kept from that.
            reads
                .recv_timeout(std::time::Duration::from_millis(500))
                .ok();
            let people = (crate::clock::now(), crate::events::By::People);
            crate::events::insert_at(&change, people, None, "test", "other").unwrap();
            change.commit().unwrap();
        });
        tokio::task::spawn_blocking(move || waits.recv().unwrap())
            .await
            .unwrap();
        let job = writer.run(move |step| {
            let _count: u32 =
                step.database
                    .query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
            // Nobody waits for it where the job had to wait.
            has_read.send(()).ok();
            crate::events::add(step, None, "test", "job")
        });
        job.await.unwrap();
        writing.join().unwrap();
        drop(writer);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn what_waits_shares_a_commit_and_keeps_its_order() {
        let data = tempfile::tempdir().unwrap();
        let connection = database::open(data.path()).unwrap();
        let (writer, thread) = Writer::start(connection, Arc::default()).unwrap();
        let tasks: Vec<_> = (0..500)
            .map(|number| {
                let writer = writer.clone();
                tokio::spawn(async move {
                    let text = number.to_string();
                    let add = move |step: &mut Step<'_>| crate::events::add(step, None, "n", text);
                    writer.run(add).await.unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        drop(writer);
        thread.join().unwrap();
        let connection = database::open(data.path()).unwrap();
        let events = crate::events::after(&connection, 0, 1000, None).unwrap();
        assert!(events.is_sorted_by_key(|event| event.seq) && events.len() == 500);
    }
}
