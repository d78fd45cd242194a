//! The state of the device, told: a line of the console and the LED at each change, and a field of the status.
//!
//! Which state it is, [`condition`] decides; here PID 1's knowledge becomes its [`Facts`], and a state becomes words.

use super::Driver;
use super::led::{LEDS, Led};
use super::update::Step;
use crate::condition::{Condition, Course, Facts, Light, Look, Reach, Trial, condition};
use crate::control::StateStatus;
use crate::log::Stream;
use crate::machine::Missed;
use kedge_board_support::control::Control;
use std::path::Path;

/// Most addresses in a line of the console: an interface with IPv6 has one for each prefix that a router announces.
const ADDRESSES: usize = 4;

/// What was told last, and what the past means.
#[derive(Debug, Default)]
pub(crate) struct Showing {
    told: Option<Condition>,
    course: Course,
    led: Option<Led>,
}

impl Showing {
    /// When time alone may change the state.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.course.deadline()
    }

    /// The LED, for the end of all.
    pub(super) const fn take_led(&mut self) -> Option<Led> {
        self.led.take()
    }
}

impl Driver {
    /// Takes the board's LED, if it has one, and lets it show what was told before.
    pub(super) fn open_led(&mut self) {
        let name = self.boot.arguments.led.as_ref();
        self.showing.led = name.map(|name| Led::new(Path::new(LEDS), name));
        self.light();
    }

    /// Each turn: whether the state is another one, and may be told.
    pub(super) fn state_turn(&mut self, now: u64) {
        let found = condition(&self.facts(now));
        if self.showing.told == Some(found) {
            self.showing.course.is_told();
            return;
        }
        // An end cannot wait, and comes once.
        if found != Condition::Stopping && !self.showing.course.may_tell(now) {
            return;
        }
        self.showing.told = Some(found);
        let stream = match found.light() {
            Light::Steady | Light::Slow => Stream::Notice,
            Light::Fast => Stream::Warning,
            Light::Flash => Stream::Error,
        };
        let text = self.state_line(found);
        self.say(stream, &text);
        self.light();
    }

    /// Nothing can go on: why is said by others.
    pub(super) fn show_last_resort(&mut self) {
        self.showing.told = Some(Condition::LastResort);
        self.light();
    }

    fn light(&mut self) {
        let (Some(told), Some(led)) = (self.showing.told, &mut self.showing.led) else {
            return;
        };
        if let Err(error) = led.show(told.light()) {
            self.say(Stream::Warning, &format!("LED: {error}"));
        }
    }

    fn facts(&mut self, now: u64) -> Facts {
        let settled = self.machine.settled_since();
        let content = self.boot.content.as_ref();
        let window = content.map_or(0, |content| content.commit.window_s);
        let look = Look {
            began: self.times.began(),
            window: u64::from(window).saturating_mul(1000),
            settled,
            down: settled.is_none() && self.machine.missing().any(|missed| is_down(missed.reason)),
        };
        let trial = if self.on_trial() {
            Trial::Runs
        } else if self.trial_waits() {
            Trial::Waits
        } else {
            Trial::None
        };
        let mut facts = Facts {
            stopping: self.machine.halting().is_some(),
            repair: self.in_repair(),
            booting: self.furnish_at.is_some() || matches!(self.update.step, Step::Preparing),
            // Of a trial that takes a reboot only the farewell to whoever asked for it is left.
            updating: self.update.is_busy() || self.reboot_at.is_some(),
            goals: self.showing.course.goals(now, look),
            trial,
            unwritten: self.boot.control.as_ref().is_some_and(Control::is_barred),
            growing: self.helpers.growing,
            reach: self.showing.course.reach(now, self.network.reach()),
            hub: self.agent.stands(),
            long: false,
        };
        facts.long = self.showing.course.long(now, facts.is_away());
        facts
    }

    /// What exactly a state is about, or waits for.
    fn detail(&self, of: Condition) -> Option<String> {
        match of {
            Condition::Booting | Condition::Attention => {
                let missed = self.machine.missing().next()?;
                let name = self.machine.name(missed.id)?;
                Some(format!("{name}: {}", missed.reason))
            }
            Condition::NoNetwork | Condition::Offline | Condition::Enrolling | Condition::NoHub => {
                match self.network.reach() {
                    Reach::Unplugged => Some("no cable is in".to_owned()),
                    Reach::NoAddress | Reach::Untold => Some("no address yet".to_owned()),
                    Reach::Up => self.hubs().into_iter().next(),
                }
            }
            Condition::LastResort
            | Condition::Stopping
            | Condition::Repair
            | Condition::Updating
            | Condition::Trial
            | Condition::Unwritten
            | Condition::Growing
            | Condition::Retrying
            | Condition::Good => None,
        }
    }

    /// The state for the status.
    pub(super) fn state_status(&self) -> StateStatus<'static> {
        let told = self.showing.told.unwrap_or(Condition::Booting);
        let sentence = told.sentence();
        StateStatus {
            word: told.word().into(),
            text: match self.detail(told) {
                Some(detail) => format!("{sentence}; {detail}").into(),
                None => sentence.into(),
            },
        }
    }

    /// The state for the console: which device, what it runs, and where it is.
    fn state_line(&self, of: Condition) -> String {
        let mut line = format!("state {}: {}", of.word(), of.sentence());
        if let Some(detail) = self.detail(of) {
            line.push_str("; ");
            line.push_str(&detail);
        }
        line.push_str(" (");
        line.push_str(self.device().host_name);
        if let Some(revision) = &self.boot.revision {
            line.push(' ');
            line.push_str(revision.envelope().version.as_str());
        }
        for address in self.network.addresses().take(ADDRESSES) {
            line.push_str(", ");
            line.push_str(address);
        }
        line.push(')');
        line
    }
}

/// Whether a container is down, for good or until its next start.
const fn is_down(missed: Missed) -> bool {
    match missed {
        Missed::Ended | Missed::Failed(_) | Missed::Stopped | Missed::BackingOff { .. } => true,
        Missed::Waiting
        | Missed::NoDevice
        | Missed::Starting
        | Missed::NotReady
        | Missed::Unfinished
        | Missed::Stopping => false,
    }
}
