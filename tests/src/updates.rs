//! A device's update interface without a device: HTTP over a unix socket, with real signatures and real staging. Only
//! trials are played, by a [`Script`] that also says what goes wrong.
//!
//! One client is served at a time, as on a port.

mod requests;

use anyhow::{Context, Result, ensure};
use kedge_image_build::project::Project;
use kedge_revision::bundle::Head;
use kedge_revision::parameters::Parameters;
use kedge_revision::revision::Object;
use kedge_revision::{Floor, ObjectId, Policy, Product, Root, SignatureSet, Verified};
use kedge_store::{Staging, Store};
use requests::Asked;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a device does, and what goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Why the trial does not hold; it holds if absent.
    pub rolls_back: Option<&'static str>,
    /// Boots in the trial: so often the socket goes away for a while.
    pub boots: u32,
    /// The connection breaks off after so many bytes of an object's body, once for each; smaller bodies arrive.
    pub cuts: Vec<u64>,
    /// A bit of the first block that arrives is another one, once.
    pub bad_block: bool,
    /// Requests that are answered with 503.
    pub busy: u32,
    /// The answer to `apply` gets lost, once.
    pub loses_apply: bool,
    /// Room for objects, bytes.
    pub room: Option<u64>,
    /// Most objects that an answer to an offer lists.
    pub lists: Option<usize>,
}

/// How long a trial runs before a boot, how long a boot takes, and what the verdict takes.
const STEP: Duration = Duration::from_millis(300);

/// The device.
#[derive(Debug)]
pub struct Updates {
    socket: PathBuf,
    world: Arc<Mutex<World>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A revision with the counter of its parameters.
type Pair = (ObjectId, u64);

#[derive(Debug)]
struct World {
    script: Script,
    store: Store,
    root: Root,
    product: Product,
    committed: Pair,
    offered: Option<(Verified, u64)>,
    trial: Option<(Pair, Instant)>,
    failed: Option<(Pair, String)>,
    history: Vec<Value>,
    asked: Vec<(String, u64)>,
}

/// What a request is answered with.
enum Reply {
    Json(u16, Value),
    /// The whole body, of lines.
    Lines(Vec<Value>),
    /// Nothing: the connection breaks off.
    Gone,
}

fn problem(status: u16, detail: impl Into<String>) -> Reply {
    let detail: String = detail.into();
    Reply::Json(
        status,
        json!({ "status": status, "title": "refused", "detail": detail }),
    )
}

impl Updates {
    /// A device that trusts the project in `project` and has something else committed; it keeps what arrives in
    /// `folder`.
    ///
    /// # Errors
    /// There is no such project, or the folder cannot be used.
    pub fn start(folder: &Path, project: &Path, script: Script) -> Result<Self> {
        let project = Project::open(project)?;
        let world = World {
            script,
            store: Store::open(&folder.join("data"))?,
            root: project.trust_root()?.root,
            product: project.product(),
            committed: (ObjectId::from_digest([0xc0; 32]), 3),
            offered: None,
            trial: None,
            failed: None,
            history: Vec::new(),
            asked: Vec::new(),
        };
        let socket = folder.join("control");
        let listener = listen(&socket)?;
        let world = Arc::new(Mutex::new(world));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (socket, world, stop) = (socket.clone(), Arc::clone(&world), Arc::clone(&stop));
            move || serve(listener, &socket, &world, &stop)
        });
        Ok(Self {
            socket,
            world,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> String {
        self.socket.display().to_string()
    }

    /// Request lines, with the bytes of a body that were taken.
    #[must_use]
    pub fn asked(&self) -> Vec<(String, u64)> {
        lock(&self.world).asked.clone()
    }

    /// How many requests were for this.
    #[must_use]
    pub fn count(&self, target: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|(line, _)| line.contains(target))
            .count()
    }

    /// Bytes of objects that were taken, with their trees.
    #[must_use]
    pub fn taken(&self) -> u64 {
        let asked = self.asked();
        let objects = asked.iter().filter(|(line, _)| line.contains("/objects/"));
        objects.map(|(_, bytes)| bytes).sum()
    }

    /// What is committed.
    #[must_use]
    pub fn committed(&self) -> (ObjectId, u64) {
        lock(&self.world).committed
    }

    /// Changes what happens from now on.
    pub fn play(&self, script: Script) {
        lock(&self.world).script = script;
    }

    /// The store's objects.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn objects(&self) -> Result<Vec<ObjectId>> {
        Ok(lock(&self.world).store.objects()?)
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has shown itself already.
            thread.join().ok();
        }
    }
}

fn lock(world: &Mutex<World>) -> std::sync::MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(socket: &Path) -> Result<UnixListener> {
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    listener
        .set_nonblocking(true)
        .context("cannot change the socket")?;
    Ok(listener)
}

fn serve(listener: UnixListener, socket: &Path, world: &Mutex<World>, stop: &AtomicBool) {
    let mut listener = Some(listener);
    while !stop.load(Ordering::Relaxed) {
        let down = lock(world).advance();
        if down && listener.take().is_some() {
            std::fs::remove_file(socket).ok();
        }
        if !down && listener.is_none() {
            listener = listen(socket).ok();
        }
        let accepted = listener.as_ref().map(UnixListener::accept);
        match accepted {
            Some(Ok((stream, _))) => drop(client(&stream, world)),
            Some(Err(_)) | None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Serves one client until it goes away.
fn client(stream: &UnixStream, world: &Mutex<World>) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream);
    while let Some(asked) = Asked::read(&mut reader)? {
        let mut world = lock(world);
        let mut body = Read::take(&mut reader, asked.length);
        let reply = if world.script.busy > 0 {
            world.script.busy -= 1;
            problem(503, "try again later")
        } else {
            world.answer(&asked, &mut body)
        };
        let left = body.limit();
        let line = asked.line.clone();
        world.asked.push((line, asked.length - left));
        drop(world);
        match reply {
            Reply::Gone => return Ok(()),
            Reply::Json(status, body) => asked.answer(stream, status, &body.to_string())?,
            Reply::Lines(lines) => {
                let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
                asked.answer(stream, 200, &lines)?;
            }
        }
        if left > 0 {
            // As a port: what is still sent is passed over until the client goes away.
            std::io::copy(&mut reader, &mut std::io::sink())?;
        }
    }
    Ok(())
}

impl World {
    /// Plays the trial; true while the device boots.
    fn advance(&mut self) -> bool {
        let Some((pair, began)) = self.trial else {
            return false;
        };
        let step = began.elapsed().as_millis() / STEP.as_millis();
        let steps = u128::from(self.script.boots) * 2;
        if step <= steps {
            // Every other step is a boot.
            return step % 2 == 1;
        }
        self.trial = None;
        match self.script.rolls_back {
            None => {
                self.committed = pair;
                self.note("committed", pair, None);
            }
            Some(reason) => {
                self.failed = Some((pair, reason.to_owned()));
                self.note("rolled-back", pair, Some(reason));
            }
        }
        false
    }

    fn note(&mut self, event: &str, pair: Pair, reason: Option<&str>) {
        let seq = self.history.len() + 1;
        let mut line = json!({
            "seq": seq, "time": 1_795_341_600, "uptime-ms": 5, "boot": 1, "event": event,
            "revision": pair.0, "parameters": pair.1,
        });
        if let (Some(reason), Some(fields)) = (reason, line.as_object_mut()) {
            fields.insert("reason".to_owned(), json!(reason));
        }
        self.history.push(line);
    }

    fn answer(&mut self, asked: &Asked, body: &mut dyn Read) -> Reply {
        self.advance();
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/v1/status") => Reply::Json(200, self.status()),
            ("GET", "/v1/history") => Reply::Lines(self.history.clone()),
            ("POST", "/v1/update/offer") => match self.offer(body) {
                Ok(reply) => reply,
                Err(error) => problem(409, format!("{error:#}")),
            },
            ("POST", "/v1/update/apply") => self.apply(asked),
            ("POST", "/v1/update/rollback") => match self.trial.take() {
                Some((pair, _)) => {
                    self.failed = Some((pair, "operator".to_owned()));
                    Reply::Json(204, Value::Null)
                }
                None => problem(409, "no trial is running"),
            },
            ("POST", path) => match path.strip_prefix("/v1/update/objects/") {
                Some(id) => self.object(id, asked, body),
                None => problem(404, "there is no such resource"),
            },
            _ => problem(404, "there is no such resource"),
        }
    }

    fn status(&self) -> Value {
        let mut update = serde_json::Map::new();
        update.insert(
            "committed".to_owned(),
            place(self.committed, "slot", &json!("a")),
        );
        update.insert("floor".to_owned(), json!("1.0"));
        if let Some((trial, _)) = self.trial {
            update.insert("trial".to_owned(), place(trial, "slot", &json!("b")));
        }
        if let Some((failed, reason)) = &self.failed {
            update.insert(
                "failed".to_owned(),
                place(*failed, "reason", &json!(reason)),
            );
        }
        let runs = self.trial.map_or(self.committed, |(trial, _)| trial);
        let trial = match self.trial {
            Some(_) => json!({ "trying": { "tries-left": 2 } }),
            None => json!("committed"),
        };
        json!({
            "product": "gateway",
            "boot-id": "x",
            "revision": { "id": runs.0.to_string(), "version": "1.0" },
            "trial": trial,
            "update": update,
        })
    }

    fn offer(&mut self, body: &mut dyn Read) -> Result<Reply> {
        let mut head = Vec::new();
        body.read_to_end(&mut head)?;
        let head = Head::parse(&head)?;
        let set = SignatureSet::parse(&head.signatures)?;
        let policy = Policy {
            product: &self.product,
            floor: Floor::default(),
        };
        let verified = Verified::verify(&head.revision, &set, &self.root, &policy)?;
        let counter = match &head.parameters {
            None => self.committed.1,
            Some(document) => {
                let parameters = Parameters::parse(document)?;
                parameters.check(&verified.content()?.parameters)?;
                parameters.counter
            }
        };
        let missing: BTreeMap<ObjectId, Object> = self.store.missing(verified.envelope()).collect();
        let needed: u64 = missing.values().map(|object| object.size).sum();
        if let Some(room) = self.script.room.filter(|room| *room < needed) {
            return Ok(problem(507, format!("{} bytes are missing", needed - room)));
        }
        let listed = self.script.lists.unwrap_or(usize::MAX).min(missing.len());
        let more = missing.len() - listed;
        let missing: Vec<Value> = missing
            .into_iter()
            .take(listed)
            .map(|(id, object)| json!({ "id": id, "size": object.size, "have": self.have(id, object) }))
            .collect();
        let same = self.committed == (verified.id(), counter);
        let change = if same { "nothing" } else { "slot" };
        let answer = json!({
            "revision": verified.id(), "version": verified.envelope().version, "change": change,
            "missing": missing, "more": more, "needed-bytes": needed,
        });
        self.offered = Some((verified, counter));
        Ok(Reply::Json(200, answer))
    }

    fn have(&self, id: ObjectId, object: Object) -> u64 {
        let tree = Staging::saved_tree(&self.store, id, object);
        let staging = tree.and_then(|tree| Staging::begin(&self.store, id, object, &tree).ok());
        staging.map_or(0, |staging| staging.done())
    }

    fn object(&mut self, id: &str, asked: &Asked, body: &mut dyn Read) -> Reply {
        let cuts = &mut self.script.cuts;
        let bites = cuts.first().is_some_and(|cut| *cut < asked.length);
        let cut = bites.then(|| cuts.remove(0));
        let offset = asked.number("offset");
        match self.stage(id, offset, &mut body.take(cut.unwrap_or(u64::MAX))) {
            Ok(done) => Reply::Json(200, json!({ "done": done })),
            Err(_) if cut.is_some() => Reply::Gone,
            Err(error) => problem(409, format!("{error:#}")),
        }
    }

    fn stage(&mut self, id: &str, offset: u64, body: &mut dyn Read) -> Result<u64> {
        let (verified, _) = self.offered.as_ref().context("nothing was offered")?;
        let id: ObjectId = format!("v1:{id}").parse()?;
        let object = *verified
            .envelope()
            .objects
            .get(&id)
            .context("no such object")?;
        let length = kedge_revision::verity::tree_size(object.size);
        let mut tree = vec![0; usize::try_from(length)?];
        body.read_exact(&mut tree)?;
        let mut staging = Staging::begin(&self.store, id, object, &tree)?;
        ensure!(
            staging.done() == offset,
            "{} bytes are there",
            staging.done()
        );
        let mut piece = vec![0; 16 * 1024];
        loop {
            let count = body.read(&mut piece)?;
            let bytes = piece.get_mut(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            if std::mem::take(&mut self.script.bad_block)
                && let Some(first) = bytes.first_mut()
            {
                *first ^= 1;
            }
            staging.write(bytes)?;
        }
        let done = staging.done();
        staging.finish()?;
        Ok(done)
    }

    fn apply(&mut self, asked: &Asked) -> Reply {
        let Some((verified, counter)) = &self.offered else {
            return problem(409, "nothing was offered");
        };
        if self.trial.is_some() {
            return problem(409, "a trial is running");
        }
        let pair = (verified.id(), *counter);
        let counter = match asked.number("parameters") {
            // Nobody gave any: the device goes on with those that it has.
            0 => pair.1,
            counter => counter,
        };
        let wanted = (asked.word("revision"), counter);
        if wanted != (pair.0.hex(), pair.1) || self.store.missing(verified.envelope()).count() > 0 {
            return problem(
                409,
                format!("{wanted:?} is not complete, {pair:?} was offered"),
            );
        }
        self.trial = Some((pair, Instant::now()));
        self.note("trial-begun", pair, None);
        if std::mem::take(&mut self.script.loses_apply) {
            return Reply::Gone;
        }
        Reply::Json(202, json!({ "change": "slot" }))
    }
}

/// A revision with its parameters and one thing about it.
fn place(pair: Pair, key: &str, about: &Value) -> Value {
    json!({ "revision": pair.0, "parameters": pair.1, key: about })
}
