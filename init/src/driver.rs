//! The driver: one thread and one epoll that perform what the machine decides and report what comes of it.
//!
//! ```text
//! descriptors ─▶ events ─▶ Machine::step ─▶ actions ─▶ system calls ─▶ descriptors
//! ```
//! Nothing here waits but the epoll itself. Whatever may block on a disk is a helper's work; PID 1
//! reads documents and mounts layers when a container starts, and nothing else of the disk.

mod agent;
mod bounds;
mod checks;
mod children;
mod clients;
mod commands;
mod console;
mod copies;
mod devices;
mod ending;
mod events;
mod helpers;
mod led;
mod locking;
mod network;
mod notify;
mod perform;
mod poller;
mod probing;
mod said;
mod showing;
mod status;
mod sticks;
mod telling;
mod trial;
mod undo;
mod unit;
mod until_boot;
mod update;
mod upload;
mod usage;
mod watchdog;

use crate::boot::{self, Boot, CGROUPS};
use crate::control::{Role, SOCKET};
use crate::error::Error;
use crate::history::History;
use crate::judge::Judge;
use crate::last_resort::last_resort;
use crate::log::{Journal, Stream};
use crate::machine::{Action, Event, Exchanged, Halt, Id, Machine};
use agent::Agent;
use clients::{Clients, Listener};
use commands::Commands;
use console::Console;
use devices::Devices;
use helpers::Helpers;
use kedge_board_support::control::Decision;
use kedge_board_support::record::Reason;
use kedge_container::{Config, Engine};
use kedge_revision::{Mode, Name, ObjectId};
use kedge_sys::process::set_host_name;
use kedge_sys::resident;
use kedge_sys::rustix::fs::{CWD, Mode as FileMode, OFlags, openat};
use kedge_sys::signals::{INIT_SIGNALS, SignalFd, SignalSet, ignore_broken_pipe, set_blocked};
use kedge_sys::timer::{self, DeadlineTimer};
use network::Network;
use poller::{Poller, Ready, Token};
use showing::Showing;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use sticks::Sticks;
use telling::Asking;
use trial::Times;
pub(crate) use unit::RESOLV_CONF;
use unit::{Device, Layers, Unit};
use update::Update;
use upload::Upload;
use watchdog::Watchdog;

/// Everything PID 1 holds.
#[derive(Debug)]
pub struct Driver {
    boot: Boot,
    machine: Machine,
    units: Vec<Unit>,
    /// Absent only if its directories could not be made.
    engine: Option<Engine>,
    layers: Layers,
    poller: Poller,
    signals: SignalFd,
    timer: DeadlineTimer,
    journal: Journal,
    console: Console,
    kernel: Option<OwnedFd>,
    listener: Option<Listener>,
    clients: Clients,
    commands: Commands,
    helpers: Helpers,
    agent: Agent,
    sticks: Sticks,
    devices: Devices,
    network: Network,
    showing: Showing,
    watchdog: Watchdog,
    /// What is under way between revisions.
    update: Update,
    /// A body on its way to the stage helper.
    upload: Option<Upload>,
    /// Judges the trial, or tells when a committed revision has settled.
    judge: Option<Judge>,
    times: Times,
    history: History,
    /// A client that waits for the history, and how many have.
    asking: Option<Asking>,
    asked: u32,
    /// When everything beside the containers is set up; `None`: it is done.
    furnish_at: Option<u64>,
    /// When what only the boot needed is given back; `None`: it is done.
    release_at: Option<u64>,
    /// When a reboot that a container asked for is carried out.
    reboot_at: Option<u64>,
    /// When those that have ended are reaped which were too many for one turn.
    reap_at: Option<u64>,
    /// An end that was asked for over the control interface, and when it begins: after its answer has left the machine.
    asked_end: Option<(u64, Halt)>,
    actions: Vec<Action>,
}

/// The first containers have the machine for themselves for so long, milliseconds: on one core, what PID 1 does
/// beside would come before their first instruction.
const HEAD_START_MS: u64 = 10;

/// Between the answer to a request that ends the device and that end, milliseconds: a machine without containers would
/// be gone before its port has given the answer away.
const FAREWELL_MS: u64 = 200;

/// From then on PID 1 idles: helpers run, the kernel's log is read, its first batch is on its way to disk. Milliseconds
/// after the containers were started.
const SETTLED_MS: u64 = 5000;

/// How much of what was said last is kept with the reason of an end that nobody asked for, bytes.
const TAIL: usize = 4096;

/// Milliseconds since the boot.
fn now_ms() -> u64 {
    u64::try_from(timer::now().as_millis()).unwrap_or(u64::MAX)
}

/// PID 1: boots, and never returns.
pub fn run() -> ! {
    let boot = boot::boot();
    let record = boot.bootenv.clone();
    let (error, tail) = match Driver::new(boot) {
        Ok(mut driver) => {
            let error = driver.serve();
            driver.show_last_resort();
            (error, driver.journal.console_tail(TAIL))
        }
        Err(error) => (error, Vec::new()),
    };
    last_resort(&error.to_string(), &tail, record.as_ref())
}

impl Driver {
    #[inline(never)]
    fn new(boot: Boot) -> Result<Self, Error> {
        let set = SignalSet::of(&INIT_SIGNALS);
        set_blocked(&set)?;
        ignore_broken_pipe()?;
        let mut journal = Journal::new();
        let content = boot.content.as_ref();
        let machine = content.map_or_else(Machine::empty, Machine::new);
        let units = content
            .into_iter()
            .flat_map(|content| &content.containers)
            .map(|(name, definition)| Unit::new(name, definition, journal.source(name.as_str())))
            .collect();
        Ok(Self {
            machine,
            units,
            engine: None,
            layers: Layers::default(),
            poller: Poller::new()?,
            signals: SignalFd::new(&set)?,
            timer: DeadlineTimer::new()?,
            journal,
            console: Console::Closed(Vec::new()),
            furnish_at: None,
            release_at: None,
            kernel: None,
            listener: None,
            clients: Clients::default(),
            commands: Commands::default(),
            helpers: Helpers::default(),
            agent: Agent::default(),
            sticks: Sticks::default(),
            devices: Devices::default(),
            network: Network::default(),
            showing: Showing::default(),
            watchdog: Watchdog::default(),
            update: Update::default(),
            upload: None,
            judge: None,
            times: Times::default(),
            history: History::default(),
            asking: None,
            asked: 0,
            reboot_at: None,
            reap_at: None,
            asked_end: None,
            actions: Vec::new(),
            boot,
        })
    }

    /// Starts containers first and everything else after, and then serves until it cannot.
    fn serve(&mut self) -> Error {
        let begun = self.begin();
        if let Err(error) = begun {
            return error;
        }
        let mut ready = Vec::new();
        loop {
            self.arm_timer();
            ready.clear();
            if let Err(error) = self.poller.wait(&mut ready) {
                return error;
            }
            for (token, ready) in ready.drain(..) {
                self.event(token, ready);
            }
            self.turn();
        }
    }

    /// Starts the first containers.
    fn begin(&mut self) -> Result<(), Error> {
        self.phase("driver");
        self.poller.watch(&self.signals, Token::Signals)?;
        self.poller.watch(&self.timer, Token::Deadline)?;
        let name = self.device().host_name.as_bytes().to_vec();
        if let Err(error) = set_host_name(&name) {
            self.say(Stream::Warning, &format!("host name: {error}"));
        }
        if !self.in_repair() {
            let containers = Path::new(CGROUPS).join("containers");
            let config = Config {
                run: Path::new("/run/kedge"),
                cgroup: Some(&containers),
            };
            match Engine::new(&config) {
                Ok(engine) => self.engine = Some(engine),
                Err(error) => self.say(Stream::Error, &format!("container engine: {error}")),
            }
            self.phase("engine");
            self.watch_devices();
            self.keep_memory();
            if !self.prepare_volumes() {
                self.start_containers();
            }
            self.phase("containers");
        }
        let head_start = if self.in_repair() { 0 } else { HEAD_START_MS };
        let now = now_ms();
        self.furnish_at = Some(now.saturating_add(head_start));
        self.release_at = Some(now.saturating_add(SETTLED_MS));
        self.state_turn(now);
        Ok(())
    }

    /// Notes that a phase of the boot has ended now.
    fn phase(&mut self, name: &'static str) {
        let before: Duration = self.boot.phases.iter().map(|(_, time)| *time).sum();
        let since = timer::now().saturating_sub(self.boot.started);
        self.boot.phases.push((name, since.saturating_sub(before)));
    }

    /// Everything beside the containers: the console, the control interface, the kernel's log, the
    /// watchdog, the helpers.
    fn furnish(&mut self) {
        self.console.open();
        let problems: Vec<String> = self
            .boot
            .problems
            .iter()
            .map(|(phase, error)| format!("phase {phase}: {error}"))
            .collect();
        for problem in problems {
            self.say(Stream::Error, &problem);
        }
        self.note_boot();
        self.open_control();
        self.open_kernel_log();
        let (watchdog, told) = Watchdog::open(now_ms());
        self.watchdog = watchdog;
        if let Some(told) = told {
            self.say(Stream::Notice, &told);
        }
        self.start_helpers();
        self.say_hello();
        self.open_led();
        self.watch_sticks();
        self.mend_slot();
        // Now that there is somebody to keep the history: a trial that cannot even run has its verdict.
        if self.in_repair() && self.on_trial() {
            self.verdict_bad(if self.boot.refused {
                Reason::Refused
            } else {
                Reason::Storage
            });
        }
    }

    /// One line that says what runs, for whoever looks at the console.
    fn say_hello(&mut self) {
        let version = self.boot.revision.as_ref().map_or_else(
            || "no revision".to_owned(),
            |revision| {
                let envelope = revision.envelope();
                format!("revision {} ({})", envelope.version, revision.id())
            },
        );
        let product = self.boot.identity.as_ref().map_or_else(
            || "unknown product".to_owned(),
            |identity| format!("{} on {}", identity.product.product, identity.product.board),
        );
        let started = self.boot.started.as_micros();
        let guarded = if self.watchdog.is_open() {
            "watchdog"
        } else {
            "no watchdog"
        };
        let memory = if self.boot.from_memory {
            ", from memory"
        } else {
            ""
        };
        let hello =
            format!("{product}, {version}{memory}, {guarded}, PID 1 started at {started} us");
        self.say(Stream::Notice, &hello);
        let mut phases = String::new();
        for (name, time) in std::mem::take(&mut self.boot.phases) {
            let comma = if phases.is_empty() { "" } else { ", " };
            phases.push_str(&format!("{comma}{name} {}", time.as_micros()));
        }
        // For `/v1/logs` alone: nobody at a console waits for it.
        let now = now_ms();
        let text = format_args!("phases in us: {phases}");
        self.journal.say(Stream::Debug, text, now);
    }

    /// The device's own control socket, and on development products the virtual machine's port.
    fn open_control(&mut self) {
        let opened = Listener::bind(Path::new(SOCKET), Role::Operate, 0o600).and_then(|listener| {
            listener.watch(&self.poller, 0)?;
            Ok(listener)
        });
        match opened {
            Ok(listener) => self.listener = Some(listener),
            Err(error) => self.say(Stream::Error, &format!("control socket: {error}")),
        }
        if self.mode() != Mode::Development {
            return;
        }
        if let Some(port) = console::control_port() {
            let opened = self.clients.open_port(port, &self.poller);
            if let Err(error) = opened {
                self.say(Stream::Warning, &format!("control port: {error}"));
            }
        }
    }

    fn open_kernel_log(&mut self) {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(CWD, "/dev/kmsg", flags, FileMode::empty())
            .map_err(Error::file("open", "/dev/kmsg"))
            .and_then(|fd| {
                self.poller.watch(&fd, Token::Kernel)?;
                Ok(fd)
            });
        match opened {
            Ok(fd) => self.kernel = Some(fd),
            Err(error) => self.say(Stream::Warning, &format!("kernel log: {error}")),
        }
    }

    /// Says something in the journal and on the console.
    fn say(&mut self, stream: Stream, text: &str) {
        self.journal.say(stream, format_args!("{text}"), now_ms());
        self.console.line(text);
    }

    /// Lets the machine judge an event, and performs what it answers until nothing is left to do.
    fn step(&mut self, event: Event) {
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.step(now_ms(), event, &mut actions);
        self.perform_all(actions);
    }

    /// Performs what the machine answered, until nothing is left to do.
    fn perform_all(&mut self, mut actions: Vec<Action>) {
        // Performing may bring events of its own, whose actions come behind those that are here.
        let mut next = 0;
        while let Some(action) = actions.get(next).copied() {
            next += 1;
            if let Some(event) = self.perform(action) {
                self.machine.step(now_ms(), event, &mut actions);
            }
        }
        actions.clear();
        self.actions = actions;
    }

    /// After each batch of events: what is due by time, and what readers and helpers wait for.
    fn turn(&mut self) {
        let now = now_ms();
        if self.furnish_at.take_if(|at| *at <= now).is_some() {
            self.furnish();
        }
        if self.reap_at.take_if(|at| *at <= now).is_some() {
            self.reap_ended();
        }
        if self.release_at.take_if(|at| *at <= now).is_some() {
            // Only memory is at stake.
            resident::release().ok();
        }
        if self.reboot_at.take_if(|at| *at <= now).is_some() {
            self.step(Event::Shutdown(Halt::Reboot));
        }
        if let Some((_, halt)) = self.asked_end.take_if(|(at, _)| *at <= now) {
            self.say(Stream::Notice, "asked over the control interface to end");
            self.shut_down(halt);
        }
        if self.machine.next_deadline().is_some_and(|at| at <= now) {
            self.step(Event::Tick);
        }
        self.update_turn(now);
        self.trial_turn(now);
        self.upload_pump();
        self.upload_turn(now);
        self.history_turn(now);
        self.agent_turn(now);
        self.stick_turn(now);
        self.devices_turn(now);
        self.state_turn(now);
        self.commands_turn(now);
        self.journal.settle(now);
        self.feed_helpers(now);
        for client in self.clients.pump(&self.journal) {
            self.serve_client(client, Ready::default());
        }
        let stuck = self.machine.status().find(|status| status.is_stuck(now));
        let stuck = stuck.map(|status| format!("{} cannot be killed", status.name));
        if self.helpers.progress.container_stuck(stuck.is_some(), now) {
            self.say(Stream::Error, &stuck.unwrap_or_default());
        }
        self.watchdog.turn(now, &self.helpers.progress);
    }

    /// Sets the timer to the earliest of all deadlines.
    fn arm_timer(&mut self) {
        let deadlines = [
            self.furnish_at,
            self.reboot_at,
            self.reap_at,
            self.asked_end.map(|(at, _)| at),
            self.release_at,
            self.machine.next_deadline(),
            self.batch_deadline(),
            self.helpers.deadline(),
            self.watchdog.deadline(),
            self.update.limit,
            self.update.locks.deadline(),
            self.stage_idle_at(),
            self.upload_until(),
            self.trial_deadline(),
            self.agent.deadline(),
            self.commands.deadline(),
            self.clients.deadline(),
            self.stick_deadline(),
            self.devices.deadline(),
            self.showing.deadline(),
            self.asking.as_ref().map(Asking::until),
        ];
        let earliest = deadlines.into_iter().flatten().min();
        // A timer that cannot be set is seen by the watchdog: then nothing feeds it.
        self.timer.set(earliest.map(Duration::from_millis)).ok();
    }

    /// What containers share.
    fn device(&self) -> Device<'_> {
        let configured = self
            .boot
            .content
            .as_ref()
            .and_then(|content| content.configuration.network.hostname.as_ref());
        let product = self.boot.identity.as_ref().map(|i| &i.product.product);
        Device {
            host_name: configured.or(product).map_or("kedge", Name::as_str),
            parameters: &self.boot.parameters,
            bad_objects: &self.boot.bad_objects,
            content: self.boot.content.as_ref(),
        }
    }

    fn unit(&mut self, id: Id) -> Option<&mut Unit> {
        self.units.get_mut(id.index())
    }

    /// The machine's name for the container of a token.
    fn id(&self, index: u16) -> Option<Id> {
        let name = &self.units.get(usize::from(index))?.name;
        self.machine.find(name.as_str())
    }

    fn event(&mut self, token: Token, ready: Ready) {
        events::event(self, token, ready);
    }

    /// Whether nothing of a revision runs: something that all of it needs is missing, or boot control says so.
    fn in_repair(&self) -> bool {
        self.boot.repair || matches!(self.boot.decision, Decision::Repair(_))
    }

    /// The units of what was exchanged: those that start are made anew, those that stay are not touched.
    fn exchange_units(&mut self) {
        let Some(content) = &self.boot.content else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        let Exchanged { started, removed } =
            match self.machine.exchange(now_ms(), content, &mut actions) {
                Ok(exchanged) => exchanged,
                // It was asked whether all are down, in the same turn.
                Err(error) => {
                    let text = format!("containers cannot be exchanged: {error}");
                    self.say(Stream::Error, &text);
                    Exchanged::default()
                }
            };
        for id in removed {
            // Its place stays for a later container; what it listened on goes.
            if let Some(unit) = self.units.get_mut(id.index()) {
                unit.forget(&self.poller);
                until_boot::end(&unit.name, None);
            }
        }
        for (id, name) in started {
            let definition = self
                .boot
                .content
                .as_ref()
                .and_then(|c| c.containers.get(&name));
            let Some(definition) = definition else {
                continue;
            };
            until_boot::end(&name, Some(definition));
            let unit = Unit::new(&name, definition, self.journal.source(name.as_str()));
            match self.units.get_mut(id.index()) {
                Some(place) => {
                    place.forget(&self.poller);
                    // One that is no more may have had this place.
                    let content = self.boot.content.as_ref();
                    if content.is_none_or(|c| !c.containers.contains_key(&place.name)) {
                        until_boot::end(&place.name, None);
                    }
                    *place = unit;
                }
                None => self.units.push(unit),
            }
        }
        let content = self.boot.content.as_ref();
        let used = |id: &ObjectId| {
            let mut containers = content.into_iter().flat_map(|c| c.containers.values());
            containers.any(|container| container.layers.contains(id))
        };
        self.layers.retain(used);
        self.keep_memory();
        self.perform_all(actions);
        self.watch_devices();
    }

    /// Keeps memory for the containers that there are now.
    fn keep_memory(&mut self) {
        let kept = self.boot.content.as_ref().map(bounds::keep);
        if let Some(Err(error)) = kept {
            self.say(Stream::Error, &format!("memory of containers: {error}"));
        }
    }

    /// An orderly end of everything that a person asked for: it counts against no trial.
    fn shut_down(&mut self, halt: Halt) {
        if self.machine.halting().is_none() {
            self.give_back();
        }
        self.step(Event::Shutdown(halt));
    }
}
