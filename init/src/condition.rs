//! The state of the device in one word, for whoever has no more than a LED or a line of the console.
//!
//! Pure: [`condition`] takes what PID 1 knows ([`Facts`]) and says which of it counts; [`Course`] adds what the past means
//! (a goal that was reached and lost, a hub that is waited for too long), with times that come in. Neither does I/O.
//! Where several things hold, the first of this table is said:
//!
//! | word | when | LED |
//! |---|---|---|
//! | `last-resort` | nothing can go on | fast |
//! | `stopping` | it goes down | slow |
//! | `repair` | no revision can run | a flash now and then |
//! | `booting` | containers were not let go yet | slow |
//! | `updating` | a slot is written, or containers are exchanged | slow |
//! | `attention` | a container misses its goal | fast |
//! | `trial` | what runs is on trial | slow |
//! | `booting` | containers are on their way to their goals | slow |
//! | `unwritten` | the boot record could not be written, and no update begins | fast |
//! | `growing` | the data partition takes the rest of the disk | slow |
//! | `offline` | no network or no hub for [`LONG_MS`], or a hub was lost | fast |
//! | `no-network` | no address, where one is wanted, or for [`LINK_MS`] after the boot no link | slow |
//! | `enrolling` | no hub has taken it in yet | slow |
//! | `no-hub` | its hub has not answered yet | slow |
//! | `retrying` | a trial waits for its next try | slow |
//! | `good` | none of these | on |
//!
//! An uploaded revision that is only kept changes nothing: what runs goes on.

/// How long network and hub may be waited for until somebody should look, milliseconds: as long as a trial waits for a hub.
pub const LONG_MS: u64 = crate::judge::HUB_LIMIT;
/// How long all goals must have held again before a miss is forgotten, milliseconds: a container that crashes again and
/// again is no news each time.
pub const HOLD_MS: u64 = 10_000;
/// How long after the boot a port's first link is waited for, milliseconds: the two ends of a cable take some seconds to agree.
pub const LINK_MS: u64 = 10_000;
/// Changes that are told at once, and milliseconds for each further one: some follow from what strangers and cables do.
const CHANGES: u64 = 20;
const CHANGE_MS: u64 = 10_000;

/// How a LED looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Light {
    /// On: all is well.
    Steady,
    /// A second on, a second off: at work, wait.
    Slow,
    /// Five times a second: somebody must look.
    Fast,
    /// A short flash every two seconds: repair mode.
    Flash,
}

/// The state of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// PID 1 cannot go on, and restarts the machine.
    LastResort,
    /// An orderly end has begun.
    Stopping,
    /// PID 1 with its helpers and no containers.
    Repair,
    /// Containers were not let go yet, or are on their way to their goals.
    Booting,
    /// Something is exchanged for a trial, or back.
    Updating,
    /// A container misses its goal.
    Attention,
    /// What runs is on trial.
    Trial,
    /// The boot record could not be written.
    Unwritten,
    /// The data partition grows.
    Growing,
    /// Network or hub are missing for long.
    Offline,
    /// There is no network where one is wanted.
    NoNetwork,
    /// No hub has taken the device in yet.
    Enrolling,
    /// Its hub has not answered in this boot.
    NoHub,
    /// A trial whose tries ran out waits for its next one.
    Retrying,
    /// None of these.
    Good,
}

impl Condition {
    const fn row(self) -> (&'static str, &'static str, Light) {
        use Light::{Fast, Flash, Slow, Steady};
        match self {
            Self::LastResort => ("last-resort", "it cannot go on and restarts", Fast),
            Self::Stopping => ("stopping", "it goes down", Slow),
            Self::Repair => ("repair", "repair mode: no container is started", Flash),
            Self::Booting => ("booting", "containers are being started", Slow),
            Self::Updating => ("updating", "a revision is being put in place", Slow),
            Self::Attention => ("attention", "a container misses its goal", Fast),
            Self::Trial => ("trial", "a revision is on trial", Slow),
            Self::Unwritten => (
                "unwritten",
                "the boot record could not be written: no update can be tried before a restart",
                Fast,
            ),
            Self::Growing => (
                "growing",
                "the data partition grows over the rest of the disk",
                Slow,
            ),
            Self::Offline => ("offline", "network or hub have been missing for long", Fast),
            Self::NoNetwork => ("no-network", "it waits for the network", Slow),
            Self::Enrolling => ("enrolling", "it waits for a hub to take it in", Slow),
            Self::NoHub => ("no-hub", "it waits for its hub to answer", Slow),
            Self::Retrying => ("retrying", "a trial waits for its next try", Slow),
            Self::Good => ("good", "it runs what it should", Steady),
        }
    }

    /// One word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        self.row().0
    }

    /// What it means, for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        self.row().1
    }

    /// How a LED shows it.
    #[must_use]
    pub const fn light(self) -> Light {
        self.row().2
    }
}

/// Where the containers stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goals {
    /// All hold.
    Met,
    /// Some are not reached yet.
    Coming,
    /// One was lost, will not be reached, or is too late.
    Missed,
}

/// Which trial there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// None.
    None,
    /// It runs and is judged.
    Runs,
    /// It waits for its next try, and that will come.
    Waits,
}

/// Whether others can reach the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A port with a link has an address, or none is wanted.
    Up,
    /// A port that should have an address has none.
    NoAddress,
    /// Nothing is plugged in.
    Unplugged,
    /// Nothing has been told yet of the ports under what they are to be now.
    Untold,
}

/// What is known of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hub {
    /// None is to be asked.
    Unasked,
    /// None has ever taken the device in.
    Enrolling,
    /// None has answered yet in this boot.
    Awaited,
    /// None has answered for over an hour.
    Lost,
    /// One answers.
    Answers,
}

/// What PID 1 knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// An orderly end has begun.
    pub stopping: bool,
    /// No revision can run.
    pub repair: bool,
    /// Containers were not let go yet.
    pub booting: bool,
    /// A slot is written, or containers are exchanged.
    pub updating: bool,
    /// Where the containers stand.
    pub goals: Goals,
    /// Which trial there is.
    pub trial: Trial,
    /// Writes of the boot record have failed.
    pub unwritten: bool,
    /// The data partition grows.
    pub growing: bool,
    /// The network.
    pub reach: Reach,
    /// The hub.
    pub hub: Hub,
    /// [`Facts::is_away`] for [`LONG_MS`].
    pub long: bool,
}

impl Facts {
    /// Whether there is no network where one is wanted. Where there is no hub, nobody asks for a cable.
    const fn lacks_network(&self) -> bool {
        match self.reach {
            Reach::Up => false,
            Reach::NoAddress | Reach::Untold => true,
            Reach::Unplugged => !matches!(self.hub, Hub::Unasked),
        }
    }

    /// Whether network or hub are waited for.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        self.lacks_network() || matches!(self.hub, Hub::Enrolling | Hub::Awaited | Hub::Lost)
    }
}

/// The state that counts.
#[must_use]
pub fn condition(facts: &Facts) -> Condition {
    if facts.stopping {
        return Condition::Stopping;
    }
    if facts.repair {
        return Condition::Repair;
    }
    if facts.booting {
        return Condition::Booting;
    }
    if facts.updating {
        return Condition::Updating;
    }
    match (facts.goals, facts.trial) {
        (Goals::Missed, _) => return Condition::Attention,
        (Goals::Met | Goals::Coming, Trial::Runs) => return Condition::Trial,
        (Goals::Coming, Trial::None | Trial::Waits) => return Condition::Booting,
        (Goals::Met, Trial::None | Trial::Waits) => {}
    }
    if facts.unwritten {
        return Condition::Unwritten;
    }
    if facts.growing {
        return Condition::Growing;
    }
    if facts.is_away() && (facts.long || facts.hub == Hub::Lost) {
        return Condition::Offline;
    }
    if facts.lacks_network() {
        return Condition::NoNetwork;
    }
    match (facts.hub, facts.trial) {
        (Hub::Enrolling, _) => Condition::Enrolling,
        (Hub::Awaited | Hub::Lost, _) => Condition::NoHub,
        (Hub::Unasked | Hub::Answers, Trial::Waits) => Condition::Retrying,
        (Hub::Unasked | Hub::Answers, Trial::None | Trial::Runs) => Condition::Good,
    }
}

/// The containers at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// When those that run now were begun, milliseconds since the boot.
    pub began: u64,
    /// How long they have for their goals, milliseconds.
    pub window: u64,
    /// Since when all goals have held without a break.
    pub settled: Option<u64>,
    /// One is down, for good or until its next start.
    pub down: bool,
}

/// What was before, as far as it means something. Times are milliseconds since the boot.
#[derive(Debug, Default)]
pub struct Course {
    /// The containers that it is about.
    began: u64,
    /// All their goals were reached once.
    reached: bool,
    missed: bool,
    goals_at: Option<u64>,
    away_since: Option<u64>,
    long: bool,
    /// Until when the first link is waited for; 0 once there was one.
    link_by: Option<u64>,
    link_at: Option<u64>,
    /// Up to this time the changes are spent that are told.
    spent: u64,
    told_at: Option<u64>,
}

impl Course {
    /// Where the containers stand.
    pub fn goals(&mut self, now: u64, look: Look) -> Goals {
        if look.began != self.began {
            self.began = look.began;
            self.reached = false;
            self.missed = false;
        }
        if let Some(since) = look.settled {
            self.reached = true;
            let forgotten = since.saturating_add(HOLD_MS);
            self.missed &= now < forgotten;
            self.goals_at = self.missed.then_some(forgotten);
            return if self.missed {
                Goals::Missed
            } else {
                Goals::Met
            };
        }
        let due = look.began.saturating_add(look.window);
        self.missed |= self.reached || look.down || now >= due;
        self.goals_at = (!self.missed).then_some(due);
        if self.missed {
            Goals::Missed
        } else {
            Goals::Coming
        }
    }

    /// The network, where after a boot a cable has a moment to be seen, from the first that is told of ports: else a device
    /// would be good, and then wait for an address.
    pub fn reach(&mut self, now: u64, reach: Reach) -> Reach {
        if reach == Reach::Untold {
            self.link_at = None;
            return reach;
        }
        let by = *self.link_by.get_or_insert(now.saturating_add(LINK_MS));
        match reach {
            Reach::Up | Reach::NoAddress => self.link_by = Some(0),
            Reach::Unplugged | Reach::Untold => {}
        }
        let waits = reach == Reach::Unplugged && now < by;
        self.link_at = waits.then_some(by);
        if waits { Reach::NoAddress } else { reach }
    }

    /// Whether network or hub are missing for long.
    pub fn long(&mut self, now: u64, away: bool) -> bool {
        self.away_since = away.then(|| self.away_since.unwrap_or(now));
        let until = self.until();
        self.long = until.is_some_and(|until| now >= until);
        self.long
    }

    fn until(&self) -> Option<u64> {
        self.away_since.map(|since| since.saturating_add(LONG_MS))
    }

    /// Whether a change may be told now; if not, [`Course::deadline`] is when it may.
    pub fn may_tell(&mut self, now: u64) -> bool {
        let spent = self.spent.max(now).saturating_add(CHANGE_MS);
        let at = spent.saturating_sub(CHANGES.saturating_mul(CHANGE_MS));
        if at > now {
            self.told_at = Some(at);
            return false;
        }
        self.spent = spent;
        self.told_at = None;
        true
    }

    /// Nothing waits to be told.
    pub const fn is_told(&mut self) {
        self.told_at = None;
    }

    /// When time alone changes something.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let away = self.until().filter(|_| !self.long);
        [self.goals_at, away, self.link_at, self.told_at]
            .into_iter()
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests;
