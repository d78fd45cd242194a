//! The question what to run: asked when it is time, held open by the hub, and answered in its own time.

use crate::agent::{Agent, chance, milliseconds};
use crate::decide::Target;
use crate::error::Error;
use crate::frames::Level;
use crate::hub::{Address, Connection};
use crate::schedule::{bounded, pause_ms};
use crate::tls::Stream;
use kedge_api::device::{Poll, State};
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};

/// The margin after which a held question counts as lost, seconds.
const HELD_MARGIN_S: u64 = 30;
/// A revision that comes for longer, seconds, may have been taken back meanwhile.
const LONG_S: u64 = 10;
/// When to ask again after that failed while something else went on, milliseconds.
const LATER_MS: u64 = 60_000;
/// Before the hub has said anything.
const FIRST_POLL: Poll = Poll {
    interval_s: 30,
    hold_s: 0,
    jitter_s: 5,
};

/// The question what to run.
#[derive(Default)]
pub(crate) struct Asking {
    pub(crate) connection: Option<Connection<Stream>>,
    /// When it was asked, and until when an answer is waited for; none: it is not.
    pub(crate) until: Option<(u64, u64)>,
    /// When to ask next.
    next: u64,
    pub(crate) etag: Option<String>,
    pub(crate) state: Option<State>,
    /// How the hub wants to be asked.
    poll: Option<Poll>,
    /// The state is from a while ago: nothing comes of it before another one.
    pub(crate) outdated: bool,
    /// When the state came, seconds since the start.
    pub(crate) at: u64,
}

impl Asking {
    /// What is desired is asked anew, and answered at once.
    fn outdate(&mut self) {
        self.connection = None;
        self.until = None;
        self.etag = None;
        self.next = 0;
        self.outdated = true;
    }
}

impl Agent<'_> {
    /// Brings a revision. Where that has taken a while it is asked again what the hub wants before the revision is tried,
    /// since it may have been taken back.
    pub(crate) fn bring(&mut self, hub: &Address, target: Target) -> Result<(), Error> {
        let began = self.seconds();
        self.fetch(hub, target)?;
        if self.wants(target) && self.seconds().saturating_sub(began) >= LONG_S {
            self.confirmed = None;
            self.asking.outdate();
        }
        Ok(())
    }

    /// Asks what to run, if it is time and the question is not out; when to look again.
    pub(crate) fn ask(&mut self, hub: &Address) -> Result<u64, Error> {
        let now = self.now_ms();
        if let Some((_, until)) = self.asking.until {
            if now < until {
                return Ok(until);
            }
            self.asking.until = None;
            self.asking.connection = None;
            return Err(Error::Connection {
                doing: "ask what to run",
                source: std::io::ErrorKind::TimedOut.into(),
            });
        }
        if now < self.asking.next {
            return Ok(self.asking.next);
        }
        let usable = self.asking.connection.take().filter(Connection::is_usable);
        let mut connection = match usable {
            Some(connection) => connection,
            None => self.connect(hub)?,
        };
        let poll = self.poll_settings();
        connection.ask_state(self.asking.etag.as_deref(), poll.hold_s)?;
        self.asking.connection = Some(connection);
        let hold = u64::from(poll.hold_s).saturating_add(HELD_MARGIN_S);
        let until = now.saturating_add(hold.saturating_mul(1000));
        self.asking.until = Some((now, until));
        Ok(until)
    }

    /// Whether that is what the hub wants, as far as it was heard.
    pub(crate) fn wants(&self, target: Target) -> bool {
        self.desired().is_some_and(|desired| {
            desired.revision == target.revision && desired.parameters == target.parameters
        })
    }

    /// Hears what the hub wants, and asks again when it is time, while something goes on that tells of a hub's trouble by
    /// itself: what fails here is asked again later.
    pub(crate) fn hear_meanwhile(&mut self, hub: &Address) {
        if self.hear().and_then(|()| self.ask(hub)).is_err() {
            self.asking.connection = None;
            self.asking.until = None;
            self.asking.next = self.now_ms().saturating_add(LATER_MS);
        }
    }

    fn poll_settings(&self) -> Poll {
        self.asking.poll.unwrap_or(FIRST_POLL)
    }

    /// Takes the answer to the question, if it is here.
    pub(crate) fn hear(&mut self) -> Result<(), Error> {
        let (Some(connection), Some((asked, _))) = (&mut self.asking.connection, self.asking.until)
        else {
            return Ok(());
        };
        let mut ready = [PollFd::new(connection.wait_on(), PollFlags::IN)];
        if !matches!(poll(&mut ready, Some(&milliseconds(0))), Ok(count) if count > 0) {
            return Ok(());
        }
        if !connection.has_answer("ask what to run")? {
            return Ok(());
        }
        let answer = connection.state()?;
        self.asking.until = None;
        self.asking.outdated = false;
        self.answered()?;
        self.went_well();
        let now = self.now_ms();
        let held = now.saturating_sub(asked) >= 1000;
        let mut news = false;
        if let Some((state, etag)) = answer {
            // Also of what is not understood: without it, the hub would answer the next question at once.
            self.asking.etag = etag;
            self.asking.poll = Some(bounded(state.poll));
            let known = ["assignment", "actions"];
            if let Some(word) = state.requires.iter().find(|w| !known.contains(&w.as_str())) {
                let text = format!("the hub asks for {word}, which this agent does not know");
                self.say(Level::Error, &text)?;
            } else {
                news = true;
                // Another assignment may have nothing in its way.
                self.stuck.until = 0;
                self.asking.state = Some(state);
                self.asking.at = self.seconds();
            }
        }
        let pause = pause_ms(self.poll_settings(), held, chance()?);
        // What has just changed may change again soon; a hub that does not hold the question is not asked all the time.
        let soon = news && !held;
        self.asking.next = now.saturating_add(if soon { pause.min(2000) } else { pause });
        Ok(())
    }
}
