//! What PID 1 gives its helpers to do, and what they answer.

use super::said::disk_says;
use super::{Driver, now_ms};
use crate::driver::children::{Helper, Running};
use crate::driver::poller::Token;
use crate::driver::probing::Probing;
use crate::driver::status::boot_id;
use crate::driver::watchdog::Progress;
use crate::helpers::disk::{Report, Request};
use crate::helpers::{Incoming, stage};
use crate::log::Stream;
use kedge_sys::process::send_signal;
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::rustix::process::{Pid, Signal};
use kedge_sys::timer;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Index of the disk helper in [`Helpers`].
pub(super) const DISK: u16 = 0;
/// Index of the net helper.
pub(super) const NET: u16 = 1;
/// Index of the stage helper, which runs only while it has work.
pub(crate) const STAGE: u16 = 2;
/// Index of the agent, which runs where there is a hub to ask.
pub(super) const AGENT: u16 = 3;
/// Index of the helper that looks for bundles on removable disks, once each time that it is started.
pub(super) const STICK: u16 = 4;
/// Frames that are taken of one helper at a time: the agent talks to the network, and may be somebody else's.
const MOST_FRAMES: usize = 64;
/// Longest frame from a helper that always runs.
const MOST: usize = 4096;
/// How long the stage helper stays when nothing is asked of it, milliseconds.
const STAGE_IDLE_MS: u64 = 60_000;
/// How soon a helper that takes nothing now is tried again, milliseconds.
const RETRY_MS: u64 = 100;
/// How long the end of the device waits for the disk helper, milliseconds.
const FLUSH_MS: u64 = 2000;

/// All helpers.
#[derive(Debug)]
pub(crate) struct Helpers {
    disk: Helper,
    net: Helper,
    stage: Helper,
    agent: Helper,
    stick: Helper,
    /// When the stage helper was last asked for something.
    staged_at: u64,
    /// Nothing more goes to the stage helper that runs: it is about to end.
    closing: bool,
    /// Copies that the stage helper was told to drop, and whose answers are due.
    discards: u32,
    /// Copies are to be dropped once the stage helper that is about to end has ended.
    pub(super) drops_wait: bool,
    /// Growing is asked for once a boot.
    grow_asked: bool,
    /// The data partition grows.
    pub(crate) growing: bool,
    /// What the watchdog is fed by, beside the loop itself.
    pub(crate) progress: Progress,
    /// A process for each probe of the store.
    pub(crate) probing: Probing,
}

impl Default for Helpers {
    fn default() -> Self {
        Self {
            disk: Helper::new(c"disk"),
            net: Helper::new(c"net"),
            stage: Helper::new(c"stage"),
            agent: Helper::new(c"agent"),
            stick: Helper::new(c"stick"),
            staged_at: 0,
            closing: false,
            discards: 0,
            drops_wait: false,
            grow_asked: false,
            growing: false,
            progress: Progress::default(),
            probing: Probing::default(),
        }
    }
}

impl Helpers {
    fn get(&mut self, index: u16) -> Option<&mut Helper> {
        match index {
            DISK => Some(&mut self.disk),
            NET => Some(&mut self.net),
            STAGE => Some(&mut self.stage),
            AGENT => Some(&mut self.agent),
            STICK => Some(&mut self.stick),
            _ => None,
        }
    }

    /// Which of them a process is.
    pub(crate) fn find(&self, pid: Pid) -> Option<u16> {
        let is = |helper: &Helper| {
            let running = helper.running.as_ref();
            running.is_some_and(|running| running.child.pid == pid)
        };
        let helpers = [
            (DISK, &self.disk),
            (NET, &self.net),
            (STAGE, &self.stage),
            (AGENT, &self.agent),
            (STICK, &self.stick),
        ];
        helpers
            .into_iter()
            .find_map(|(index, helper)| is(helper).then_some(index))
    }

    /// PID 1 and the helpers that run, by name.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let helpers = [
            ("disk", &self.disk),
            ("net", &self.net),
            ("stage", &self.stage),
            ("agent", &self.agent),
            ("stick", &self.stick),
        ];
        let running = helpers.into_iter().filter_map(|(name, helper)| {
            let pid = helper.running.as_ref()?.child.pid;
            Some((name, u32::try_from(pid.as_raw_nonzero().get()).ok()?))
        });
        std::iter::once(("init", 1)).chain(running)
    }

    /// Whether the agent runs.
    pub(super) const fn agent_runs(&self) -> bool {
        self.agent.running.is_some()
    }

    /// Whether removable disks are being looked at.
    pub(super) const fn stick_runs(&self) -> bool {
        self.stick.running.is_some()
    }

    /// Whether the disk helper runs.
    pub(super) const fn disk_runs(&self) -> bool {
        self.disk.running.is_some()
    }

    /// When the stage helper, if it runs, has been idle for long enough.
    pub(crate) fn stage_idle_at(&self) -> Option<u64> {
        self.stage.running.as_ref().filter(|_| !self.closing)?;
        Some(self.staged_at.saturating_add(STAGE_IDLE_MS))
    }

    /// When the next helper is to be started again, or the store to be probed.
    pub(crate) fn deadline(&self) -> Option<u64> {
        [&self.disk, &self.net, &self.agent]
            .into_iter()
            .filter(|helper| helper.running.is_none())
            .filter_map(|helper| helper.restart_at)
            .chain(self.progress.deadline())
            .min()
    }
}

impl Driver {
    pub(super) fn start_helpers(&mut self) {
        let control = self.boot.control.as_ref();
        let resets = control.map_or(0, |control| control.state().watchdog_resets);
        let (progress, told) = Progress::new(resets);
        self.helpers.progress = progress;
        if let Some(told) = told {
            self.say(Stream::Warning, &told);
        }
        // Also where the revision was refused: history and logs tell of it.
        if self.boot.mounted {
            self.start_helper(DISK);
            self.helpers.progress.begin(now_ms());
        }
        self.start_helper(NET);
        // Its own files are on the data partition.
        if cfg!(feature = "agent") && self.boot.mounted && self.prepare_agent() {
            self.start_helper(AGENT);
        }
    }

    /// Whether the stage helper runs and takes work; it is started if it does not run.
    pub(super) fn stage_runs(&mut self) -> bool {
        self.helpers.staged_at = now_ms();
        if self.helpers.stage.running.is_none() {
            self.start_helper(STAGE);
        }
        self.helpers.stage.running.is_some() && !self.helpers.closing
    }

    /// Lets the stage helper go when it has been idle for a minute: what it needs of memory comes back.
    pub(super) fn rest_stage(&mut self, now: u64) {
        if self.stage_idle_at().is_some_and(|at| at <= now) {
            self.close_stage();
        }
    }

    /// Tells the stage helper that nothing more comes. What it says until its end is said to nobody.
    pub(super) fn close_stage(&mut self) {
        if let Some(running) = &self.helpers.stage.running {
            self.poller.forget(&running.link);
            // Its socket's end ends it; until then it is watched and reaped like any other.
            running.link.close();
            self.helpers.closing = true;
        }
    }

    /// Ends the stage helper, whatever it does: what waits for it is told by its end.
    pub(super) fn kill_stage(&self) {
        if let Some(running) = &self.helpers.stage.running {
            // It may be gone already.
            send_signal(running.child.pidfd.as_fd(), Signal::KILL).ok();
        }
    }

    /// Tells the stage helper to drop copies of volumes; its answer is nobody's.
    pub(super) fn discard(&mut self) {
        self.helpers.discards = self.helpers.discards.saturating_add(1);
        self.send(STAGE, stage::Request::Discard.encode());
    }

    /// Whether the stage helper takes a frame now.
    pub(super) fn stage_takes(&self) -> bool {
        let running = self.helpers.stage.running.as_ref();
        running.is_some_and(|running| running.link.is_idle())
    }

    /// Whether the stage helper still owes an answer that nobody waits for.
    pub(super) const fn discards(&self) -> bool {
        self.helpers.discards > 0
    }

    pub(super) fn start_helper(&mut self, index: u16) {
        let now = now_ms();
        let Some(helper) = self.helpers.get(index) else {
            return;
        };
        let name = helper.name;
        let started = helper.start(now).and_then(|running| {
            self.poller
                .watch_end(&running.child.pidfd, Token::HelperEnded(index))?;
            self.poller.watch(&running.link, Token::Helper(index))
        });
        match started {
            Ok(()) => self.brief_helper(index),
            Err(error) => {
                let text = format!("helper {}: {error}", name.to_string_lossy());
                self.say(Stream::Error, &text);
            }
        }
    }

    /// Tells a helper that has just started what it is to do.
    fn brief_helper(&mut self, index: u16) {
        if index == NET {
            self.configure_network();
            return;
        }
        if index == STAGE {
            self.configure_stage();
            return;
        }
        if index == AGENT {
            self.brief_agent();
            return;
        }
        if index == STICK {
            self.brief_stick();
            return;
        }
        let content = self.boot.content.as_ref();
        let disk_max = content.map_or(1 << 20, |content| content.configuration.logs.disk_max);
        let boot_id = boot_id();
        let configure = Request::Configure {
            disk_max,
            boot_id: &boot_id,
        };
        self.send(DISK, configure.encode());
        if !self.helpers.grow_asked
            && let Some(device) = self.boot.data_device()
        {
            self.helpers.grow_asked = true;
            let device = device.to_string_lossy().into_owned();
            self.send(DISK, Request::Grow { device: &device }.encode());
        }
    }

    pub(super) fn send(&mut self, index: u16, frame: Vec<u8>) {
        self.send_with(index, frame, None);
    }

    pub(super) fn send_with(&mut self, index: u16, frame: Vec<u8>, descriptor: Option<OwnedFd>) {
        if index == STAGE {
            self.helpers.staged_at = now_ms();
        }
        let Some(running) = self
            .helpers
            .get(index)
            .and_then(|helper| helper.running.as_mut())
        else {
            return;
        };
        // A full queue is the helper's slowness, counted by the link; a broken one ends the helper,
        // which its pidfd tells.
        running.link.send_with(frame, descriptor).ok();
        running.link.flush().ok();
    }

    /// Log batches that are due, queues that have room again, helpers to be started again.
    pub(super) fn feed_helpers(&mut self, now: u64) {
        self.rest_stage(now);
        for index in [DISK, NET, STAGE, AGENT, STICK] {
            let Some(helper) = self.helpers.get(index) else {
                continue;
            };
            if helper.is_due(now) {
                self.start_helper(index);
            } else if let Some(running) = &mut helper.running {
                running.link.flush().ok();
            }
        }
        self.probe_turn(now);
        let idle = self
            .helpers
            .disk
            .running
            .as_ref()
            .is_some_and(|running| running.link.is_idle());
        if idle && let Some(frame) = self.history.to_send() {
            self.send(DISK, frame);
        }
        if idle
            && self.journal.batch_due_ms().is_some_and(|at| at <= now)
            && let Some(batch) = self.journal.batch(now)
        {
            self.send(DISK, Request::Append(&batch).encode());
        }
    }

    /// When what waits for the disk is to be sent. While the helper is gone the ring keeps it: a time that is
    /// past and of which nothing comes would wake the loop without end.
    pub(super) fn batch_deadline(&self) -> Option<u64> {
        let running = self.helpers.disk.running.as_ref()?;
        if running.link.is_idle() {
            self.journal.batch_due_ms()
        } else {
            Some(now_ms().saturating_add(RETRY_MS))
        }
    }

    /// Hands everything that was said to the disk helper and waits for it, at most two seconds: the
    /// end of the device is the one moment at which PID 1 waits for a helper. Then the helper ends: its log is
    /// open for writing, and as long as it is the store cannot be made read-only.
    pub(super) fn flush_logs(&mut self) {
        let until = now_ms().saturating_add(FLUSH_MS);
        while let Some(batch) = self.journal.batch(now_ms()) {
            self.send(DISK, Request::Append(&batch).encode());
            let Some(running) = &mut self.helpers.disk.running else {
                return;
            };
            if !running.link.is_idle() && !wait_for(&running.link, PollFlags::OUT, until) {
                return;
            }
        }
        for frame in self.history.rest() {
            self.send(DISK, frame);
            let Some(running) = &self.helpers.disk.running else {
                return;
            };
            if !running.link.is_idle() && !wait_for(&running.link, PollFlags::OUT, until) {
                return;
            }
        }
        self.send(DISK, Request::Sync { token: 0 }.encode());
        let Some(running) = &self.helpers.disk.running else {
            return;
        };
        let mut buffer = [0_u8; MOST];
        loop {
            if !wait_for(&running.link, PollFlags::IN, until) {
                return;
            }
            match running.link.receive(&mut buffer) {
                Ok(Incoming::Frame(frame)) => {
                    if matches!(Report::decode(frame), Ok(Report::Synced { .. })) {
                        break;
                    }
                }
                Ok(Incoming::Nothing) => {}
                Ok(Incoming::Closed) | Err(_) => return,
            }
        }
        if let Some(Running { child, link }) = self.helpers.disk.running.take() {
            drop(link);
            wait_for(&child.pidfd, PollFlags::IN, until);
        }
    }

    /// Takes what a helper says.
    pub(super) fn helper_says(&mut self, index: u16) {
        if index == STAGE {
            return self.stage_says();
        }
        let mut buffer = [0_u8; MOST];
        // Bounded: what is left wakes the loop again, after everybody else has had a turn.
        for _ in 0..MOST_FRAMES {
            let Some(running) = self
                .helpers
                .get(index)
                .and_then(|helper| helper.running.as_ref())
            else {
                return;
            };
            match running.link.receive(&mut buffer) {
                Ok(Incoming::Frame(frame)) => {
                    let said = match index {
                        DISK => {
                            self.disk_reports(frame);
                            disk_says(frame)
                        }
                        AGENT => {
                            self.agent_says(frame);
                            None
                        }
                        STICK => {
                            self.stick_says(frame);
                            None
                        }
                        _ => self.net_reports(frame),
                    };
                    if let Some((stream, text)) = said {
                        self.say(stream, &text);
                    }
                }
                Ok(Incoming::Nothing) => return,
                Ok(Incoming::Closed) | Err(_) => {
                    // The pidfd tells the rest; until then the end would be told without end.
                    self.poller.forget(&running.link);
                    return;
                }
            }
        }
    }

    /// What others than the journal wait for of the disk helper.
    fn disk_reports(&mut self, frame: &[u8]) {
        match Report::decode(frame) {
            Ok(Report::Noted { failed }) => {
                if let Some(text) = self.history.answered(failed) {
                    self.say(Stream::Warning, &text);
                }
                self.forget_evidence();
            }
            Ok(Report::History { token, more, bytes }) => self.history_told(token, more, bytes),
            Ok(Report::Growing) => self.helpers.growing = true,
            Ok(Report::Grown { before, after }) => {
                self.helpers.growing = false;
                if after > before {
                    self.share_again();
                }
            }
            Ok(Report::GrowFailed(_)) => self.helpers.growing = false,
            Ok(Report::Logs { .. } | Report::Synced { .. }) | Err(_) => {}
        }
    }

    /// Containers that were started on a disk which was smaller have their share of it as it is now.
    fn share_again(&mut self) {
        let mut failed = Vec::new();
        for unit in &self.units {
            let plan = unit.plan.as_ref().filter(|_| unit.running.is_some());
            if let Some(Err(error)) = plan.map(kedge_container::Plan::share_again) {
                failed.push(format!("{}: {error}", unit.name));
            }
        }
        for text in failed {
            self.say(Stream::Warning, &text);
        }
    }

    /// Takes what the stage helper says.
    fn stage_says(&mut self) {
        let mut buffer = vec![0_u8; stage::MAX_FRAME];
        loop {
            let Some(running) = self.helpers.stage.running.as_ref() else {
                return;
            };
            let frame = match running.link.receive(&mut buffer) {
                Ok(Incoming::Frame(frame)) => frame,
                Ok(Incoming::Nothing) => return,
                Ok(Incoming::Closed) | Err(_) => {
                    self.poller.forget(&running.link);
                    return;
                }
            };
            match stage::Report::decode(frame) {
                Ok(stage::Report::Credit { bytes }) => self.upload_credit(bytes),
                Ok(stage::Report::Answer { status, body }) => self.upload_answered(status, body),
                Ok(stage::Report::SlotWritten { ok, text }) => self.slot_written(ok, text),
                Ok(stage::Report::Snapshot { ok, text }) if self.helpers.discards > 0 => {
                    self.helpers.discards = self.helpers.discards.saturating_sub(1);
                    if !ok {
                        self.say(Stream::Error, &format!("volumes: {text}"));
                    }
                }
                Ok(stage::Report::Snapshot { ok, text }) => self.volumes_copied(ok, text),
                Ok(stage::Report::Collected { objects, bytes }) => {
                    let text = format!("{objects} objects of {bytes} bytes were collected");
                    self.say(Stream::Notice, &text);
                }
                Err(_) => self.say(Stream::Error, "the stage helper talks nonsense"),
            }
        }
    }

    /// A helper has ended: it is started again after a delay.
    pub(super) fn helper_ended(&mut self, index: u16) {
        let now = now_ms();
        let Some(helper) = self.helpers.get(index) else {
            return;
        };
        let name = helper.name;
        let Some(running) = helper.running.take() else {
            return;
        };
        helper.ended(now);
        if matches!(index, STAGE | STICK) {
            // They come when they are needed.
            helper.restart_at = None;
        }
        if index == STAGE {
            self.helpers.closing = false;
            self.helpers.discards = 0;
        }
        if index == AGENT {
            self.agent_ended();
        }
        if index == NET {
            self.network.forget();
        }
        if index == DISK {
            self.helpers.growing = false;
            self.history.restarted();
        }
        self.poller.forget(&running.link);
        self.poller.forget(&running.child.pidfd);
        let status = kedge_sys::process::try_wait_pidfd(running.child.pidfd.as_fd());
        if index == STAGE {
            let idle = !self.update.is_busy() && self.upload.is_none();
            if idle && matches!(&status, Ok(Some(status)) if status.success()) {
                self.drop_what_waits();
                return;
            }
            self.stage_lost();
            self.drop_what_waits();
        }
        if index == STICK && matches!(&status, Ok(Some(status)) if status.success()) {
            return;
        }
        let text = format!("helper {} ended: {status:?}", name.to_string_lossy());
        self.say(Stream::Error, &text);
    }
}

/// Waits for a descriptor until `until`, milliseconds since the boot; false: it is not ready.
fn wait_for<Fd: AsFd>(fd: &Fd, flags: PollFlags, until: u64) -> bool {
    let left = Duration::from_millis(until.saturating_sub(now_ms()));
    let bound = timer::timespec(left);
    poll(&mut [PollFd::new(fd, flags)], Some(&bound)).is_ok_and(|ready| ready > 0)
}
