//! The hub as a whole: what every request is given.

use crate::answers::Answers;
use crate::claims::Claims;
use crate::database::{self, Readers};
use crate::error::{Error, Refusal};
use crate::fleet::{Change, Fleet};
use crate::identity::Identity;
use crate::limits::Limits;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::rows::{self, signed};
use crate::tokens::{self, Tokens};
use crate::writer::{Step, Writer};
use crate::{backup, events, publish};
use kedge_api::operator::NewToken;
use kedge_revision::product::Mode;
use kedge_revision::{KeyId, Name};
use kedge_store::durable;
use std::fs::{File, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;

/// Everything that requests share.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) mode: Mode,
    pub(crate) identity: Identity,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) writer: Writer,
    pub(crate) readers: Arc<Readers>,
    pub(crate) data: PathBuf,
    pub(crate) objects: Objects,
    /// Held while a revision is offered; taken whole while files of objects go.
    pub(crate) offers: tokio::sync::RwLock<()>,
    pub(crate) logs: Logs,
    pub(crate) answers: Answers,
    pub(crate) tokens: Tokens,
    pub(crate) claims: Claims,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    /// True once the hub is to end.
    pub(crate) stopping: watch::Sender<bool>,
}

/// Returns once the hub is to end.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Without a sender there is no hub any more.
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// A hub that was opened, and what ends after it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) hub: Arc<Hub>,
    pub(crate) writer: JoinHandle<()>,
    /// Held for as long as the hub runs.
    pub(crate) lock: File,
}

/// Makes sure that no other hub runs on `data`, for as long as the file lives.
pub(crate) fn lock(data: &Path) -> Result<File, Error> {
    let path = data.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            path: data.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(Error::file("lock", &path)(source)),
    }
}

impl Hub {
    /// Opens what is in `data`; at the first start all is made.
    pub(crate) fn open(data: &Path, mode: Mode) -> Result<Opened, Error> {
        durable::make_directory(data)?;
        // All in it is its owner's alone, whatever the files' own modes are.
        let owners = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(data, owners).map_err(Error::file("close to others", data))?;
        let lock = lock(data)?;
        backup::refuse_half(data)?;
        backup::sweep(data)?;
        let database = database::open(data)?;
        let identity = Identity::open(data)?;
        let objects = Objects::open(data)?;
        let fleet = Arc::new(Fleet::default());
        publish::load(&database, &fleet, &objects, identity.public().id())?;
        rows::each_device(&database, |row, seen| fleet.load(row, seen))?;
        let logs = Logs::new(data);
        logs.sweep(|id| fleet.device(id).is_some())?;
        let (writer, thread) = Writer::start(database, Arc::clone(&fleet))?;
        let hub = Self {
            mode,
            identity,
            fleet,
            writer,
            readers: Arc::new(Readers::new(data)),
            data: data.to_path_buf(),
            objects,
            offers: tokio::sync::RwLock::default(),
            logs,
            answers: Answers::default(),
            tokens: Tokens::default(),
            claims: Claims::default(),
            limits: Limits::default(),
            metrics: Metrics::default(),
            stopping: watch::Sender::new(false),
        };
        Ok(Opened {
            hub: Arc::new(hub),
            writer: thread,
            lock,
        })
    }

    /// The token of the first operator, if there is none of anybody.
    pub(crate) async fn first_token(&self) -> Result<Option<String>, Error> {
        let made = self.writer.run(|step| {
            let count: u32 = step
                .database
                .query_row("SELECT count(*) FROM tokens", [], |row| row.get(0))?;
            if count > 0 {
                return Ok(None);
            }
            let made = tokens::make()?;
            let new = NewToken {
                name: "first".to_owned(),
                lasts_s: None,
            };
            tokens::insert(step.database, &made, &new)?;
            events::add(step, None, "token", "the first operator's token was made")?;
            Ok(Some(made.token))
        });
        made.await.map_err(|refusal| Error::FirstToken {
            why: refusal.detail.into_owned(),
        })
    }

    /// Changes a device; memory follows.
    pub(crate) async fn change_device<T: Send + 'static>(
        &self,
        id: KeyId,
        change: impl FnOnce(&mut Step<'_>, &mut crate::fleet::Row) -> Result<T, Refusal>
        + Send
        + 'static,
    ) -> Result<T, Refusal> {
        self.writer
            .run(move |step| {
                let mut row = rows::device(step.database, id)?
                    .ok_or_else(|| Refusal::not_found("the hub knows no such device"))?;
                let result = change(step, &mut row)?;
                rows::save(step.database, &row)?;
                step.change(Change::Device(Box::new(row)));
                Ok(result)
            })
            .await
    }

    /// Writes down when devices were last heard of.
    pub(crate) async fn flush_seen(&self, since: u64) -> Result<usize, Refusal> {
        let heard: Vec<(KeyId, u64)> = self
            .fleet
            .devices()
            .iter()
            .map(|device| (device.id(), device.seen()))
            .filter(|(_, seen)| *seen >= since && *seen > 0)
            .collect();
        let count = heard.len();
        // In pieces, so that a large fleet's do not keep others' writes waiting.
        for piece in heard.chunks(1000) {
            let piece = piece.to_vec();
            self.writer
                .run(move |step| {
                    let mut statement = step
                        .database
                        .prepare_cached("UPDATE devices SET seen = ?2 WHERE id = ?1")?;
                    for (id, seen) in piece {
                        statement.execute((id.digest(), signed(seen)))?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(count)
    }

    /// What is wrong with a root that does not name this hub; an operator must be able to mend it from this text.
    pub(crate) fn key_advice(&self, product: &Name) -> String {
        format!(
            "the root of product {product} does not name this hub, which does not serve the product by it: add its key {} to \
             the root's hub role and sign the root again with its root keys, then register that version",
            self.identity.public()
        )
    }
}
