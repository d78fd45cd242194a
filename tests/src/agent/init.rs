//! PID 1's side of the agent's control socket; see [`super`] for what of it is real.

use super::stage::{Came, Stage};
use anyhow::{Context, Result, ensure};
use kedge_agent::frames::{Configure, Order, Report};
use kedge_init::condition::Condition;
use kedge_init::control::{
    Call, Command, Connection, FailureStatus, Held, Memory, Pressure, Refusal, RevisionStatus,
    Role, StateStatus, Status, TargetStatus, Transport, Trial, UpdateStatus, Upload, Usage,
    UsageOf,
};
use kedge_init::helpers::stage::{Body, MAX_DATA, Request, WINDOW};
use kedge_init::log::{Journal, Stream};
use kedge_revision::{Floor, ObjectId, Policy, Product, Root, SignatureSet, Verified};
use kedge_store::Store;
use kedge_sys::sock;
use std::borrow::Cow;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a trial is judged.
const JUDGED: Duration = Duration::from_millis(200);
/// The memory of the one container that it tells of, bytes.
pub const PLAYED_MEMORY: u64 = 123 << 12;

/// A revision with the counter of its parameters.
pub type Target = (ObjectId, u64);

/// What PID 1 knows, and what was seen of the agent.
#[derive(Debug)]
pub struct State {
    /// What the device returns to.
    pub committed: Target,
    /// The lowest place that will ever run.
    pub floor: Floor,
    trial: Option<(Target, Instant)>,
    /// The last trial that failed.
    pub failed: Option<(Target, String)>,
    /// Why trials end badly; they hold if absent.
    pub rolls_back: Option<&'static str>,
    /// What is to be tried is taken, and never begun: as where a slot cannot be written.
    pub never_begins: bool,
    /// What the agent has said, in order.
    pub said: Vec<String>,
    /// Times that it told.
    pub clock: Vec<u64>,
    /// Whether it says that a hub answers.
    pub hub: bool,
    /// What it asked, and when.
    pub asked: Vec<(Instant, Call)>,
    /// Restarts that it asked for.
    pub reboots: u32,
    /// Trials that were begun.
    pub trials: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) product: Product,
    pub(super) root: Root,
    pub(super) configure: Mutex<Configure>,
    pub(super) program: String,
    pub(super) data: PathBuf,
    pub(super) state: Mutex<State>,
    pub(super) journal: Mutex<Journal>,
    stage: Mutex<Option<Stage>>,
    pub(super) link: Mutex<Option<Arc<OwnedFd>>>,
    pub(super) stop: AtomicBool,
    start: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(super) const fn new(committed: Target, floor: Floor) -> Self {
        Self {
            committed,
            floor,
            trial: None,
            failed: None,
            rolls_back: None,
            never_begins: false,
            said: Vec::new(),
            clock: Vec::new(),
            hub: false,
            asked: Vec::new(),
            reboots: 0,
            trials: 0,
        }
    }
}

impl Init {
    pub(super) fn new(
        (product, root, configure): (Product, Root, Configure),
        (program, data): (String, PathBuf),
        state: State,
    ) -> Self {
        Self {
            product,
            root,
            configure: Mutex::new(configure),
            program,
            data,
            state: Mutex::new(state),
            journal: Mutex::new(Journal::new()),
            stage: Mutex::new(None),
            link: Mutex::new(None),
            stop: AtomicBool::new(false),
            start: Instant::now(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0)
    }

    /// Sends the agent a frame, if there is one.
    pub(super) fn order(&self, order: &Order) {
        let link = lock(&self.link).clone();
        if let (Some(link), Some(frame)) = (link, order.encode()) {
            // An agent that has just ended hears nothing.
            sock::send(&*link, &frame, &[]).ok();
        }
    }

    /// Takes what the agent says until it has gone.
    pub(super) fn hear(&self, link: &OwnedFd) {
        let mut buffer = [0; 1024];
        while let Ok(received) = sock::receive(link, &mut buffer) {
            let frame = buffer.get(..received.bytes).unwrap_or_default();
            if frame.is_empty() {
                return;
            }
            let mut state = self.state();
            match Report::decode(frame) {
                Ok(Report::Say { text, .. }) => {
                    state.said.push(text.to_owned());
                    let said = format_args!("agent: {text}");
                    lock(&self.journal).say(Stream::Notice, said, self.now_ms());
                }
                Ok(Report::Hub { answered }) => state.hub = answered,
                Ok(Report::Clock { unix }) => state.clock.push(unix),
                Err(_) => state.said.push("nonsense".to_owned()),
            }
        }
    }

    /// Serves the socket, a thread for each client, until it is to stop.
    pub(super) fn serve(self: &Arc<Self>, listener: &UnixListener) {
        while !self.stop.load(Ordering::Relaxed) {
            self.judge();
            match listener.accept() {
                Ok((stream, _)) => {
                    let init = Arc::clone(self);
                    // Whoever asks and goes away is no failure.
                    std::thread::spawn(move || init.client(&stream).ok());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// The verdict of a trial, when it is due.
    fn judge(&self) {
        let mut state = self.state();
        let Some((target, _)) = state.trial.filter(|(_, begun)| begun.elapsed() > JUDGED) else {
            return;
        };
        state.trial = None;
        match state.rolls_back {
            Some(reason) => state.failed = Some((target, reason.to_owned())),
            None => {
                state.committed = target;
                if let Ok(verified) = self.load(target.0, state.floor) {
                    state.floor = state.floor.max(verified.envelope().floor());
                }
            }
        }
        drop(state);
        self.order(&Order::Changed);
    }

    fn client(&self, mut stream: &UnixStream) -> Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut connection = Connection::new(Role::Update, Transport::Socket);
        let mut buffer = vec![0; 16 * 1024];
        loop {
            while let Some(call) = connection.next_call() {
                self.state().asked.push((Instant::now(), call.clone()));
                self.answer(&mut connection, call, stream)?;
                flush(&mut connection, stream)?;
            }
            while connection.is_streaming() {
                connection.pump(&lock(&self.journal));
                flush(&mut connection, stream)?;
            }
            flush(&mut connection, stream)?;
            if connection.is_finished() {
                return Ok(());
            }
            let room = connection.room().min(buffer.len());
            let count = stream.read(buffer.get_mut(..room).unwrap_or_default())?;
            if count == 0 {
                connection.end_input();
            }
            connection.input(buffer.get(..count).unwrap_or_default());
        }
    }

    fn answer(&self, connection: &mut Connection, call: Call, stream: &UnixStream) -> Result<()> {
        match call {
            Call::Status => self.tell(connection),
            Call::Logs(query) => connection.answer_logs(&query, &lock(&self.journal)),
            Call::History => connection.answer_bytes(200, "application/x-ndjson", b""),
            Call::Command(Command::RebootSoon) => {
                self.state().reboots += 1;
                connection.answer_done();
            }
            Call::Command(Command::Apply {
                revision,
                parameters,
                now: _,
            }) => match self.apply(revision, parameters) {
                Ok(()) => {
                    connection.answer_bytes(202, "application/json", br#"{"change":"slot"}"#);
                    self.order(&Order::Changed);
                }
                Err(_) => connection.answer_refused(Refusal::Conflict("it cannot be tried")),
            },
            Call::Usage => {
                let body = kedge_revision::json::bytes(&self.usage().for_a_hub());
                connection.answer_bytes(200, "application/json", &body);
            }
            // What the agent never asks for.
            Call::Command(_) | Call::Inspect(_) | Call::Exec { .. } | Call::Earlier(_) => {
                connection.answer_refused(Refusal::Forbidden);
            }
            Call::Upload { what, length } => self.upload(connection, what, length, stream)?,
        }
        Ok(())
    }

    /// Of one container, which does not run.
    fn usage(&self) -> Usage<'static> {
        let container = UsageOf {
            name: "played".into(),
            cpu_us: 1_500_000,
            memory: Some(PLAYED_MEMORY),
            memory_peak: Some(PLAYED_MEMORY + 1),
            memory_max: Some(PLAYED_MEMORY + 2),
            pids: Some(3),
            io_read: Some(4096),
            io_written: None,
            pressure: Some(Pressure {
                cpu: 1205,
                memory: 0,
                io: 7,
            }),
        };
        Usage {
            uptime_ms: self.now_ms(),
            data_free: Some(1 << 30),
            containers: vec![container],
            held: Some(Held::default()),
        }
    }

    fn tell(&self, connection: &mut Connection) {
        let state = self.state();
        let place = |(revision, parameters): Target| TargetStatus {
            revision: revision.to_string().into(),
            parameters,
            slot: "a".into(),
        };
        let runs = state.trial.map_or(state.committed, |(target, _)| target);
        let failed = state.failed.as_ref().map(|((revision, parameters), why)| {
            let revision = revision.to_string().into();
            FailureStatus {
                revision,
                parameters: *parameters,
                reason: why.as_str().into(),
            }
        });
        let configure = lock(&self.configure);
        connection.answer_status(&Status {
            product: self.product.product.to_string().into(),
            board: self.product.board.to_string().into(),
            mode: self.product.mode,
            revision: Some(RevisionStatus {
                id: runs.0.to_string().into(),
                version: "1".into(),
            }),
            slot: "a".into(),
            secure_boot: false,
            from_memory: false,
            state: StateStatus {
                word: Condition::Good.word().into(),
                text: Condition::Good.sentence().into(),
            },
            phase: "running".into(),
            boot_id: Cow::Borrowed(&configure.boot_id),
            uptime_ms: self.now_ms(),
            trial: Trial::Committed,
            update: Some(UpdateStatus {
                committed: place(state.committed),
                trial: state.trial.map(|(target, _)| place(target)),
                failed,
                floor: format!("{}.{}", state.floor.root, state.floor.counter).into(),
                unsettled: 0,
                watchdog_resets: 0,
                locks: Vec::new(),
                staging: None,
            }),
            goals_missing: Vec::new(),
            containers: Vec::new(),
            network: Vec::new(),
            memory: Memory::default(),
            processes: Vec::new(),
        });
    }

    /// A revision of the store, judged again.
    pub(super) fn load(&self, id: ObjectId, floor: Floor) -> Result<Verified> {
        let (document, signatures) = Store::at(&self.data).revision(id)?;
        let set = SignatureSet::parse(&signatures)?;
        let policy = Policy {
            product: &self.product,
            floor,
        };
        Ok(Verified::verify(&document, &set, &self.root, &policy)?)
    }

    /// Begins a trial of what is whole in the store, and signed.
    fn apply(&self, revision: ObjectId, parameters: u64) -> Result<()> {
        let mut state = self.state();
        ensure!(state.trial.is_none(), "a trial is under way");
        let verified = self.load(revision, state.floor)?;
        let store = Store::at(&self.data);
        let missing = store.missing(verified.envelope()).count();
        ensure!(missing == 0, "{missing} objects are missing");
        let counter = if parameters == 0 {
            state.committed.1
        } else {
            store
                .parameters(revision)?
                .iter()
                .find(|(counter, _)| *counter == parameters)
                .context("no such parameters")?
                .0
        };
        state.trials += 1;
        if !state.never_begins {
            state.trial = Some(((revision, counter), Instant::now()));
        }
        Ok(())
    }

    /// Hands a body on to the stage helper with credit, as `driver/upload.rs` does, and its answer back.
    fn upload(
        &self,
        connection: &mut Connection,
        what: Upload,
        length: u64,
        mut stream: &UnixStream,
    ) -> Result<()> {
        let trial = self.state().trial.is_some();
        let held = self.stage.try_lock();
        let Some(mut held) = held.ok().filter(|_| !trial) else {
            connection.answer_refused(Refusal::Conflict("another upload is under way"));
            return Ok(());
        };
        let stage = match held.take() {
            Some(stage) => stage,
            None => Stage::start(&self.program, &self.data)?,
        };
        let body = match what {
            Upload::Offer => {
                self.configure_stage(&stage)?;
                Body::Offer
            }
            Upload::Root => {
                self.configure_stage(&stage)?;
                Body::Root
            }
            Upload::Object { id, offset } => Body::Object { id, offset },
        };
        stage.send(&Request::Begin { body, length })?;
        let mut ahead = 0;
        let mut buffer = vec![0; 16 * 1024];
        // An upload that ends before its answer takes the helper along: it is not put back.
        loop {
            loop {
                let room = WINDOW.saturating_sub(ahead).min(MAX_DATA);
                let body = connection.body();
                let part = body.get(..room).unwrap_or(body);
                if part.is_empty() {
                    break;
                }
                stage.send(&Request::Data(part))?;
                let count = part.len();
                connection.took(count);
                ahead += count;
            }
            let (said, came) = stage.wait(stream, connection.wants_input())?;
            if said {
                match stage.receive()? {
                    Came::Credit(bytes) => ahead = ahead.saturating_sub(bytes),
                    Came::Answer(status, body) => {
                        let kind = if status < 400 {
                            "application/json"
                        } else {
                            "application/problem+json"
                        };
                        connection.answer_bytes(status, kind, &body);
                        *held = Some(stage);
                        return Ok(());
                    }
                }
            }
            if came {
                let room = connection.room().min(buffer.len());
                let count = stream.read(buffer.get_mut(..room).unwrap_or_default())?;
                if count == 0 {
                    connection.end_input();
                }
                connection.input(buffer.get(..count).unwrap_or_default());
            }
            ensure!(connection.is_asking(), "the client has gone");
        }
    }

    fn configure_stage(&self, stage: &Stage) -> Result<()> {
        let state = self.state();
        let (floor, (committed, counter)) = (state.floor, state.committed);
        let on_trial = state.trial.map_or(0, |((_, counter), _)| counter);
        drop(state);
        stage.send(&Request::Configure {
            floor,
            committed,
            parameters: [counter, on_trial],
            secure_boot: false,
            product: &self.product.encode()?,
            root: &self.root.encode()?,
        })
    }
}

fn flush(connection: &mut Connection, mut stream: &UnixStream) -> Result<()> {
    while !connection.output().is_empty() {
        let count = stream.write(connection.output())?;
        connection.wrote(count);
    }
    Ok(())
}
