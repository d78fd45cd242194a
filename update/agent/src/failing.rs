//! What follows when something failed: it is said, and tried again after a pause that grows, with the next hub if this one
//! was not reached, or does not take the device in.

use crate::agent::{Agent, chance};
use crate::error::{Error, Peer};
use crate::frames::{Level, Report};
use crate::hub::Address;
use crate::schedule::Backoff;
use kedge_revision::Root;

/// Without an answer of a hub for so long, seconds, there is none.
const LOST_S: u64 = 3600;
/// What a hub gets that is not to be asked for a while: it has refused the device, seconds.
const REFUSED_DEVICE_S: u32 = 600;
/// The same, where it has refused to take the device in.
const REFUSED_ENROLMENT_S: u32 = 60;

/// Why nothing comes of the assignment, while the hub is asked, told and obeyed as ever.
#[derive(Debug, Default)]
pub(crate) struct Stuck {
    backoff: Backoff,
    /// It is not taken up before, milliseconds since the start.
    pub(crate) until: u64,
    said: String,
}

impl Agent<'_> {
    /// Does what is decided. What fails in it and in nothing else must not keep reports and questions back: by those an
    /// operator learns of it, and takes the assignment back.
    pub(crate) fn follow_apart(
        &mut self,
        hub: &Address,
        root: &Root,
    ) -> Result<Option<u64>, Error> {
        let now = self.now_ms();
        if now < self.stuck.until {
            return Ok(Some(self.stuck.until));
        }
        let error = match self.follow(hub, root) {
            Err(error) if is_apart(&error) => error,
            followed => {
                if followed.is_ok() {
                    self.stuck = Stuck::default();
                }
                return followed;
            }
        };
        let text = error.to_string();
        if text != self.stuck.said {
            self.say(Level::Warning, &text)?;
            self.stuck.said = text;
        }
        // Until it goes on, it may have been taken back.
        self.confirmed = None;
        let pause = self.stuck.backoff.fail(chance()?, error.retry_after());
        self.stuck.until = self.now_ms().saturating_add(pause);
        Ok(Some(self.stuck.until))
    }

    /// See the module.
    pub(crate) fn failed(&mut self, error: &Error) -> Result<(), Error> {
        let text = error.to_string();
        if text != self.said {
            self.say(Level::Warning, &text)?;
            self.said = text;
        }
        self.asking.connection = None;
        self.asking.until = None;
        // Until it goes on, it may have been taken back.
        self.confirmed = None;
        let enrolled = self.known.tls.is_some();
        if enrolled && error.is_answer() {
            self.answered()?;
        } else if !error.is_local() {
            self.hub = self.hub.saturating_add(1);
        }
        self.known.doubt();
        let mut asked = error.retry_after();
        if let Error::Refused {
            by: Peer::Hub,
            kind,
            status,
            ..
        } = error
        {
            self.refused_by_hub(kind)?;
            if matches!(status, 401 | 403) {
                // Whoever is not taken in may be in a minute: a person is at work on it.
                let least = if enrolled {
                    REFUSED_DEVICE_S
                } else {
                    REFUSED_ENROLMENT_S
                };
                asked = Some(asked.unwrap_or(0).max(least));
            }
        }
        let pause = self.backoff.fail(chance()?, asked);
        self.paused_until = self.now_ms().saturating_add(pause);
        let lost = self
            .answered_at
            .is_none_or(|at| self.seconds().saturating_sub(at) > LOST_S);
        if lost && self.told_answered == Some(true) {
            self.told_answered = Some(false);
            self.tell(&Report::Hub { answered: false })?;
        }
        Ok(())
    }

    /// Something went well: the next failure is the first one.
    pub(crate) fn went_well(&mut self) {
        self.backoff.reset();
        self.said.clear();
    }

    /// Asks the next hub from now on, if there is another one.
    pub(crate) fn next_hub(&mut self) {
        let before = self.url().map(str::to_owned);
        self.hub = self.hub.saturating_add(1);
        if self.url() != before.as_deref() {
            self.known.doubt();
        }
    }
}

/// Whether it is trouble with one question, or of the device's own: neither of the connection nor of who the device is, nor
/// a hub's that has too much to do.
pub(crate) fn is_apart(error: &Error) -> bool {
    let is_answer = error.is_answer() && error.retry_after().is_none();
    error.is_local() || is_answer && !matches!(error.status(), Some(401 | 403))
}
