//! A world for the properties: random definitions, and what happens to their containers.
//!
//! It keeps the driver's promises and nothing else: processes start, fail, hang, die, leave children behind and talk
//! in any order and at any pace. After each step it checks what must hold whatever happens.

use super::fixture::{content, name};
use super::random::{Draft, GROUPS, NAMES, Op, befores};
use super::{Action, Checked, Command, Ending, Event, Id, Machine, State};
use kedge_revision::container::Container;
use kedge_revision::{Content, Name};
use kedge_sys::process::ExitStatus;

pub(crate) const KILLED: ExitStatus = ExitStatus::Signaled {
    signal: 9,
    core: false,
};

/// What the world knows of one container, independently of the machine.
#[derive(Debug, Default, Clone)]
pub(crate) struct Body {
    /// A spawn is asked for and not answered.
    pub(crate) spawning: bool,
    pub(crate) alive: bool,
    pub(crate) executed: bool,
    /// A process may be in its cgroup.
    pub(crate) populated: bool,
    pub(crate) killed: bool,
    /// A kill is not answered yet.
    pub(crate) owes_empty: bool,
    /// It was asked to end: by when it must be killed.
    pub(crate) kill_by: Option<u64>,
    check: Option<u32>,
    /// Its back-off ends then.
    not_before: Option<u64>,
    /// The operator's newest word was stop.
    stopped: bool,
    began: bool,
    /// Its goal held at some time since the boot or the last exchange.
    ever_met: bool,
    /// It makes place for another.
    pub(crate) retired: bool,
}

pub(crate) struct World {
    pub(crate) content: Content,
    /// What new containers are like.
    pool: Vec<Draft>,
    pub(crate) machine: Machine,
    pub(crate) now: u64,
    /// By id.
    pub(crate) bodies: Vec<Body>,
    pub(crate) halted: Option<u64>,
    pub(crate) all_down: Option<u64>,
}

impl World {
    pub(crate) fn new(content: Content, pool: Vec<Draft>) -> Self {
        let bodies = vec![Body::default(); NAMES.len()];
        let machine = Machine::new(&content);
        let mut world = Self {
            content,
            pool,
            machine,
            now: 0,
            bodies,
            halted: None,
            all_down: None,
        };
        world.step(Event::Begin);
        world
    }

    pub(crate) fn ids(&self) -> Vec<Id> {
        self.machine.status().map(|status| status.id).collect()
    }

    fn who(&self, who: usize) -> Option<Id> {
        let ids = self.ids();
        ids.get(who % ids.len().max(1)).copied()
    }

    pub(crate) fn definition(&self, id: Id) -> &Container {
        &self.content.containers[self.machine.name(id).unwrap()]
    }

    pub(crate) fn step(&mut self, event: Event) {
        let waiting: Vec<Id> = self
            .machine
            .status()
            .filter(|status| *status.state == State::Waiting)
            .map(|status| status.id)
            .collect();
        let mut actions = Vec::new();
        self.machine.step(self.now, event, &mut actions);
        for action in actions {
            if let Some(id) = about(action)
                && self.halted.is_none()
                && of(event).is_some_and(|own| own != id)
            {
                let starts = !matches!(action, Action::Signal { .. } | Action::KillCgroup(_));
                let may = self.bodies[id.index()].retired || starts && waiting.contains(&id);
                assert!(may, "{event:?} of another leads to {action:?}");
            }
            self.perform(action);
        }
        self.check();
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn(id) => {
                self.may_start(id);
                let body = &mut self.bodies[id.index()];
                body.spawning = true;
                body.executed = false;
                body.kill_by = None;
                body.not_before = None;
                body.began = true;
            }
            Action::Signal { id, signal } => {
                let grace = u64::from(self.definition(id).process.stop_grace_ms).max(1);
                let body = &mut self.bodies[id.index()];
                assert!(body.alive && signal == 15);
                body.kill_by = Some(self.now + grace);
            }
            Action::KillCgroup(id) => {
                let body = &mut self.bodies[id.index()];
                body.killed = true;
                body.owes_empty = true;
            }
            Action::RunCheck { id, token, .. } => {
                assert!(self.halted.is_none());
                let body = &mut self.bodies[id.index()];
                assert!(body.alive && body.check.is_none());
                body.check = Some(token);
            }
            Action::KillCheck { id, token } => {
                assert_eq!(self.bodies[id.index()].check.take(), Some(token));
            }
            Action::AllDown(_) => {
                assert!(self.halted.is_some() && self.all_down.is_none());
                self.all_down = Some(self.now);
            }
            Action::Changed(_) | Action::RollBack { .. } | Action::Reboot { .. } => {}
        }
    }

    /// Everything that must hold when a start is asked for.
    fn may_start(&self, id: Id) {
        let body = &self.bodies[id.index()];
        assert!(self.halted.is_none(), "a start after the shutdown");
        assert!(!body.spawning && !body.alive, "a second process");
        assert!(!body.populated, "something is left over");
        assert!(!body.stopped, "the operator stopped it");
        assert!(body.not_before.is_none_or(|at| at <= self.now), "too soon");
        if body.began {
            return;
        }
        let group = |id: Id| {
            let name = &self.definition(id).group;
            self.content.groups.iter().position(|g| g.name == *name)
        };
        for status in self.machine.status() {
            if group(status.id) < group(id) {
                let met = status.goal_met || self.bodies[status.id.index()].ever_met;
                assert!(met, "groups overtake");
            }
            if self.definition(id).after.contains(status.name) {
                assert!(status.goal_met, "after overtaken");
            }
        }
    }

    /// Everything that must hold after each step.
    fn check(&mut self) {
        let names = self.machine.status().map(|status| status.name);
        assert!(names.eq(self.content.containers.keys()), "not by name");
        for status in self.machine.status() {
            assert_eq!(self.machine.find(status.name.as_str()), Some(status.id));
            let restart = &self.content.containers[status.name].restart;
            let body = &mut self.bodies[status.id.index()];
            body.ever_met |= status.goal_met;
            if let State::BackingOff { until, .. } = *status.state {
                let delay = until - status.since;
                assert!(delay >= u64::from(restart.delay_ms));
                assert!(delay <= u64::from(restart.max_delay_ms));
                body.not_before = Some(until);
            }
            if self.all_down.is_none() {
                let known = status.pid.is_some();
                let stuck = matches!(status.state, State::Failed(Ending::Stuck));
                assert!(known == body.alive || stuck, "{status:?}");
            }
        }
        if self.halted.is_none() {
            let here = |body: &Body| body.spawning || body.alive || body.populated;
            let down = |body: &Body| !body.retired || !here(body);
            assert_eq!(self.machine.retired(), self.bodies.iter().all(down));
        }
        let met = self.machine.goals_met();
        assert_eq!(met, self.machine.missing().count() == 0);
        if self.halted.is_none() {
            assert_eq!(met, self.machine.settled_since().is_some());
        }
    }

    fn tick(&mut self) {
        self.step(Event::Tick);
        let next = self.machine.next_deadline();
        assert!(next.is_none_or(|at| at > self.now), "{next:?}");
        for body in &self.bodies {
            let overdue =
                body.alive && !body.killed && body.kill_by.is_some_and(|at| at <= self.now);
            assert!(!overdue, "a stop without its kill");
        }
    }

    pub(crate) fn world(&mut self, who: usize, how: u8) {
        let Some(id) = self.who(who) else {
            return;
        };
        let body = &mut self.bodies[id.index()];
        let event = if body.spawning {
            body.spawning = false;
            if how == 0 {
                Event::SpawnFailed { id, errno: 11 }
            } else {
                // A kill that came before is no kill of this process.
                (body.alive, body.populated, body.killed) = (true, true, false);
                Event::Started { id, pid: 7 }
            }
        } else if body.alive && !body.killed && !body.executed && how > 1 {
            body.executed = true;
            Event::Executed(id)
        } else if body.alive && !body.executed && how == 1 {
            body.executed = true;
            let (stage, errno) = ("mount", 2);
            Event::ExecFailed { id, stage, errno }
        } else if body.alive {
            body.alive = false;
            let status = match how {
                _ if body.killed => KILLED,
                0..6 => ExitStatus::Exited(0),
                6..11 => ExitStatus::Exited(3),
                _ => KILLED,
            };
            Event::Exited { id, status }
        } else if body.owes_empty && body.killed {
            (body.owes_empty, body.populated, body.killed) = (false, false, false);
            Event::CgroupEmpty(id)
        } else {
            return;
        };
        self.step(event);
    }

    fn talk(&mut self, who: usize, what: u8) {
        let Some(id) = self.who(who) else {
            return;
        };
        let body = &mut self.bodies[id.index()];
        let event = match (what % 6, body.check) {
            (0, _) => Event::NotifyReady(id),
            (1, _) => Event::NotifyWatchdog(id),
            (2, _) if what > 200 => Event::NotifyStopping(id),
            (3, _) => Event::Oom(id),
            (_, Some(token)) => {
                body.check = None;
                let checked = match (what % 6, what > 200) {
                    (4, _) => Checked::Passed,
                    (_, true) => Checked::Unknown,
                    (_, false) => Checked::Failed,
                };
                Event::CheckDone { id, token, checked }
            }
            (_, None) => return,
        };
        self.step(event);
    }

    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::World { who, how } => self.world(who, how),
            Op::Talk { who, what } => self.talk(who, what),
            Op::Order { who, command } => {
                let Some(id) = self.who(who) else {
                    return;
                };
                let body = &mut self.bodies[id.index()];
                if self.halted.is_none() && !body.retired {
                    body.stopped = command == Command::Stop;
                    // A person need not wait for the back-off.
                    body.not_before = None;
                }
                self.step(Event::Command { id, command });
            }
            Op::Tick => {
                self.now = self
                    .machine
                    .next_deadline()
                    .unwrap_or(self.now)
                    .max(self.now);
                self.tick();
            }
            Op::Wait(ms) => {
                self.now += ms;
                self.tick();
            }
            Op::Shutdown(halt) => {
                self.halted.get_or_insert(self.now);
                self.step(Event::Shutdown(halt));
            }
            Op::Retire(mask) => self.retire(mask),
            Op::Exchange(seed) => self.exchange(seed),
        }
    }

    /// What can be seen of a container, but for what it waits for.
    fn seen(&self, id: Id) -> String {
        let status = self.machine.status_of(id).unwrap();
        let (name, state) = (status.name, status.state);
        let times = (status.since, status.pid, status.restarts, status.last_exit);
        format!("{id:?} {name} {state:?} {times:?} {:?}", status.ready)
    }

    fn retire(&mut self, mask: u8) {
        let ids = self.ids();
        let chosen = |place: usize| mask >> place & 1 == 1;
        let (gone, stay): (Vec<_>, Vec<_>) = ids
            .into_iter()
            .enumerate()
            .partition(|(place, _)| chosen(*place));
        let [gone, stay] = [gone, stay].map(|ids| ids.into_iter().map(|(_, id)| id));
        let gone: Vec<Id> = gone.collect();
        let mut untouched: Vec<(Id, String)> = stay.map(|id| (id, self.seen(id))).collect();
        let mut actions = Vec::new();
        self.machine.retire(self.now, &gone, &mut actions);
        if self.halted.is_some() {
            assert_eq!(actions, []);
            return;
        }
        for id in gone {
            let body = &mut self.bodies[id.index()];
            (body.retired, body.stopped) = (true, true);
        }
        // Some were retired earlier, and go on ending.
        untouched.retain(|(id, _)| !self.bodies[id.index()].retired);
        for (id, before) in untouched {
            assert_eq!(self.seen(id), before);
            assert!(!actions.iter().any(|action| about(*action) == Some(id)));
        }
        for action in actions {
            self.perform(action);
        }
        self.check();
        assert!(self.machine.next_deadline().is_none_or(|at| at > self.now));
    }

    pub(crate) fn exchange(&mut self, seed: u64) {
        let content = self.next_content(seed);
        let before = format!("{:?}", self.machine);
        let ready = self.halted.is_none() && self.machine.retired();
        let stays = |id: &Id| !self.bodies[id.index()].retired;
        let kept: Vec<(Id, String, bool)> = self
            .ids()
            .into_iter()
            .filter(stays)
            .map(|id| {
                let waits = *self.machine.status_of(id).unwrap().state == State::Waiting;
                (id, self.seen(id), waits)
            })
            .collect();
        let mut actions = Vec::new();
        let exchanged = match self.machine.exchange(self.now, &content, &mut actions) {
            Ok(exchanged) => exchanged,
            Err(refused) => {
                assert!(!ready, "{refused}");
                assert_eq!(format!("{:?}", self.machine), before);
                assert_eq!(actions, []);
                return;
            }
        };
        assert!(ready);
        self.content = content;
        for (id, before, waits) in &kept {
            let touched = actions.iter().any(|action| about(*action) == Some(*id));
            assert!(*waits || !touched && self.seen(*id) == *before);
        }
        for (id, name) in &exchanged.started {
            self.bodies[id.index()] = Body::default();
            let status = self.machine.status_of(*id).unwrap();
            assert!(status.name == name && status.restarts == 0 && status.last_exit.is_none());
        }
        for id in &exchanged.removed {
            self.bodies[id.index()] = Body::default();
            assert!(self.machine.status_of(*id).is_none());
        }
        let mut ids = self.ids();
        assert_eq!(ids.len(), kept.len() + exchanged.started.len());
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), self.content.containers.len(), "an id twice");
        for body in &mut self.bodies {
            body.ever_met = false;
        }
        for action in actions {
            self.perform(action);
        }
        self.check();
    }

    /// Those that are not retired as they are; what they come after stays in its group.
    fn next_content(&self, seed: u64) -> Content {
        let mut drafts: Vec<(&str, Container, Option<u8>)> = Vec::new();
        for (place, text) in NAMES.into_iter().enumerate() {
            let choice = seed.to_le_bytes()[place];
            let now = self.content.containers.get(&name(text));
            let retired = |text: &str| {
                let id = self.machine.find(text);
                id.is_some_and(|id| self.bodies[id.index()].retired)
            };
            let needed = self.content.containers.iter().any(|(other, container)| {
                !retired(other.as_str()) && container.after.contains(&name(text))
            });
            let (mut drawn, group, after) =
                self.pool[usize::from(choice) % self.pool.len()].clone();
            drawn.group = name(GROUPS[group]);
            match (now, choice % 3) {
                (Some(now), _) if !retired(text) => drafts.push((text, now.clone(), None)),
                (Some(now), 0) => drafts.push((text, now.clone(), Some(after))),
                (Some(now), _) if needed => {
                    drawn.group = now.group.clone();
                    drafts.push((text, drawn, Some(after)));
                }
                (_, 1) => drafts.push((text, drawn, Some(after))),
                (_, _) => {}
            }
        }
        let place = |group: &Name| {
            GROUPS
                .iter()
                .position(|text| *text == group.as_str())
                .unwrap()
        };
        let places: Vec<usize> = drafts
            .iter()
            .map(|(_, made, _)| place(&made.group))
            .collect();
        let names: Vec<&str> = drafts.iter().map(|(text, _, _)| *text).collect();
        let containers = drafts.into_iter().enumerate().map(|(index, draft)| {
            let (text, mut made, after) = draft;
            if let Some(after) = after {
                made.after = befores(index, after, &names, &places);
            }
            (text, made)
        });
        content(&GROUPS, containers.collect())
    }
}

/// Whom an action is about.
fn about(action: Action) -> Option<Id> {
    match action {
        Action::Spawn(id)
        | Action::Signal { id, .. }
        | Action::KillCgroup(id)
        | Action::RunCheck { id, .. }
        | Action::KillCheck { id, .. }
        | Action::Changed(id)
        | Action::RollBack { id, .. }
        | Action::Reboot { id, .. } => Some(id),
        Action::AllDown(_) => None,
    }
}

/// Whom an event is about.
fn of(event: Event) -> Option<Id> {
    match event {
        Event::Begin | Event::Tick | Event::Shutdown(_) => None,
        Event::Started { id, .. }
        | Event::SpawnFailed { id, .. }
        | Event::Executed(id)
        | Event::ExecFailed { id, .. }
        | Event::Exited { id, .. }
        | Event::CgroupEmpty(id)
        | Event::Oom(id)
        | Event::NotifyReady(id)
        | Event::NotifyWatchdog(id)
        | Event::NotifyStopping(id)
        | Event::CheckDone { id, .. }
        | Event::Devices { id, .. }
        | Event::Command { id, .. } => Some(id),
    }
}
