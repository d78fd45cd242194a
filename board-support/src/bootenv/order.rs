//! The order in which copies are written and flushed, apart from the disk they are written to.
//!
//! | write | order |
//! |---|---|
//! | loader record | the copy that does not count now, flush, the other copy, flush |
//! | loader record of a Raspberry Pi's firmware | `autoboot.txt`, one sector; flush. Where its file system is damaged: all of that, flush, boot sector, flush |
//! | state, one copy | the copy that does not count now, with the next number; flush |
//! | state, both | the same, then the other copy with the same number; flush |
//!
//! At any cut one copy of each record is whole, if one was before: the one that counts is written last. Of the loader
//! record the first copy counts if it is whole. Of `autoboot.txt` there is one copy, since its reader knows no other: what
//! a disk that tears a sector would make of it is lost, and made anew from the state. It decides no content and reads nothing.

use super::Found;
use crate::Error;
use crate::control::Write;
use crate::record::{Loader, State};
pub use kedge_loading::Side;

/// Where copies are written. A write may reach the disk, or not, or tear, until the next flush has returned.
pub trait Medium {
    /// Writes one copy of the loader record.
    ///
    /// # Errors
    /// [`Error::Write`].
    fn loader(&mut self, side: Side, record: &Loader) -> Result<(), Error>;

    /// Writes one copy of the state record.
    ///
    /// # Errors
    /// [`Error::Write`].
    fn state(&mut self, side: Side, sequence: u64, state: &State) -> Result<(), Error>;

    /// Writes the loader record into `autoboot.txt`.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::NoAutoboot`].
    fn autoboot(&mut self, record: &Loader) -> Result<(), Error>;

    /// Returns once all that was written is on disk.
    ///
    /// # Errors
    /// [`Error::Sync`].
    fn flush(&mut self) -> Result<(), Error>;
}

/// Where the loader record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Place {
    /// In two copies in `bootenv`.
    #[default]
    Bootenv,
    /// In `autoboot.txt`.
    Autoboot,
}

/// Which copies count, and which comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Order {
    place: Place,
    /// The copy of the loader record to write first.
    loader: Side,
    /// The copy of the state that counts, and its number.
    newest: Side,
    sequence: u64,
}

impl Order {
    /// For a partition without any record.
    pub(super) const EMPTY: Self = Self {
        place: Place::Bootenv,
        loader: Side::First,
        newest: Side::Second,
        sequence: 0,
    };

    /// For what was found.
    #[must_use]
    pub fn of(found: &Found) -> Self {
        let (newest, sequence) = match &found.state {
            [Ok(one), Ok(two)] if two.sequence > one.sequence => (Side::Second, two.sequence),
            [Ok(one), _] => (Side::First, one.sequence),
            [Err(_), Ok(two)] => (Side::Second, two.sequence),
            [Err(_), Err(_)] => (Side::Second, 0),
        };
        let loader = match &found.loader {
            [Ok(_), _] => Side::Second,
            [Err(_), _] => Side::First,
        };
        Self {
            place: Place::Bootenv,
            loader,
            newest,
            sequence,
        }
    }

    /// The same, for a loader record that is elsewhere.
    #[must_use]
    pub const fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// The copy of the state that counts.
    #[must_use]
    pub const fn newest(self) -> Side {
        self.newest
    }

    /// Does one write of the boot-control machine. It is on disk when this returns.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Sync`]; the copies that counted before are untouched or replaced, never both lost.
    pub fn perform<M: Medium>(&mut self, medium: &mut M, write: &Write) -> Result<(), Error> {
        match write {
            Write::Loader(record) => self.loader(medium, record),
            Write::State(state) => self.state(medium, state),
            Write::StateBoth(state) => self.state_both(medium, state),
        }
    }

    pub(super) fn loader<M: Medium>(
        &mut self,
        medium: &mut M,
        record: &Loader,
    ) -> Result<(), Error> {
        match self.place {
            Place::Bootenv => {}
            Place::Autoboot => {
                medium.autoboot(record)?;
                return medium.flush();
            }
        }
        for side in [self.loader, self.loader.other()] {
            medium.loader(side, record)?;
            medium.flush()?;
            // Should the other copy be lost to its write, this is the only whole one: the next write begins elsewhere.
            self.loader = side.other();
        }
        self.loader = Side::Second;
        Ok(())
    }

    pub(super) fn state<M: Medium>(&mut self, medium: &mut M, state: &State) -> Result<(), Error> {
        let sequence = self.sequence.saturating_add(1);
        let side = self.newest.other();
        medium.state(side, sequence, state)?;
        medium.flush()?;
        self.newest = side;
        self.sequence = sequence;
        Ok(())
    }

    pub(super) fn state_both<M: Medium>(
        &mut self,
        medium: &mut M,
        state: &State,
    ) -> Result<(), Error> {
        self.state(medium, state)?;
        medium.state(self.newest.other(), self.sequence, state)?;
        medium.flush()
    }
}
