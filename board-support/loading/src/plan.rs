//! From the loader record to the start of a slot.
//!
//! - The first whole copy counts; without any, slot a is the default and nothing is written.
//! - A try is taken off, in both copies, *before* the slot on trial starts. The copy that was read is written last, so that
//!   one is whole whenever the power goes.
//! - A try that cannot be taken off is not made: it would be made for ever.
//! - A slot that does not load gives way to the default, then to the other one. What was said of the slot is not said of
//!   another one; what was said of the record is.

use crate::record::Armed;
use crate::{Loader, Side, Slot};
use core::fmt;

/// What a loader does with what it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The slots, in the order in which they are started.
    pub order: [Slot; 2],
    /// What the first one's kernel is told.
    pub word: Option<Word>,
    /// What must be on disk, in both copies, before the first one starts.
    pub take: Option<Take>,
    /// What starts when nothing is tried.
    default: Slot,
}

/// A try to be taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Take {
    /// The record to write.
    pub record: Loader,
    /// The copy to write first: the one that was not read.
    pub first: Side,
}

/// What a kernel is told of its start, beside its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// This start is a try, and so many are left.
    Try(u8),
    /// No try is left for that slot.
    Failed(Slot),
    /// A try could not be taken off, so that none was made.
    Unwritable,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Try(left) => write!(f, "kedge.try={left}"),
            Self::Failed(slot) => write!(f, "kedge.failed={slot}"),
            Self::Unwritable => f.write_str("kedge.record=unwritable"),
        }
    }
}

impl Plan {
    /// Decides by both copies, as far as each is whole.
    #[must_use]
    pub fn of([first, second]: [Option<Loader>; 2]) -> Self {
        let record = first.or(second).unwrap_or(Loader::born());
        let read = if first.is_some() {
            Side::First
        } else {
            Side::Second
        };
        let (slot, next) = record.boot();
        let word = match (record.trial, next.and_then(|next| next.trial)) {
            (_, Some(Armed { left, .. })) => Some(Word::Try(left)),
            (Some(Armed { slot, .. }), None) => Some(Word::Failed(slot)),
            (None, None) => None,
        };
        Self {
            order: [slot, slot.other()],
            word,
            take: next.map(|record| Take {
                record,
                first: read.other(),
            }),
            default: record.default,
        }
    }

    /// The same where the try could not be taken off.
    #[must_use]
    pub const fn unwritable(self) -> Self {
        Self {
            order: [self.default, self.default.other()],
            word: Some(Word::Unwritable),
            take: None,
            ..self
        }
    }

    /// The slots with what each one's kernel is told.
    pub fn starts(self) -> impl Iterator<Item = (Slot, Option<Word>)> {
        let [first, second] = self.order;
        let kept = self.word.filter(|word| *word == Word::Unwritable);
        [(first, self.word), (second, kept)].into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    fn armed(left: u8) -> Option<Loader> {
        Some(Loader::starts(Slot::A).tries(Slot::B, left))
    }

    #[test]
    fn a_try_is_taken_off_beginning_with_the_copy_that_was_not_read() {
        for (copies, first) in [
            ([armed(2), armed(2)], Side::Second),
            ([armed(2), None], Side::Second),
            ([None, armed(2)], Side::First),
        ] {
            let plan = Plan::of(copies);
            let take = plan.take.unwrap();
            assert_eq!((Some(take.record), take.first), (armed(1), first));
            assert_eq!(plan.order, [Slot::B, Slot::A]);
        }
    }

    #[test]
    fn what_is_said_of_a_slot_is_not_said_of_another_one() {
        let told = |plan: Plan| -> Vec<_> {
            let words = plan
                .starts()
                .map(|(slot, word)| (slot, word.map(|word| word.to_string())));
            words.collect()
        };
        let plan = Plan::of([armed(2), None]);
        assert_eq!(
            told(plan),
            [(Slot::B, Some("kedge.try=1".into())), (Slot::A, None)]
        );
        let why = Some("kedge.record=unwritable".to_string());
        assert_eq!(
            told(plan.unwritable()),
            [(Slot::A, why.clone()), (Slot::B, why)]
        );
        let over = Plan::of([armed(0), None]);
        assert_eq!(
            told(over),
            [(Slot::A, Some("kedge.failed=b".into())), (Slot::B, None)]
        );
        assert_eq!(over.take, None);
    }

    #[test]
    fn without_a_record_slot_a_starts_and_nothing_is_written() {
        let plan = Plan::of([None, None]);
        assert_eq!(
            (plan.order, plan.word, plan.take),
            ([Slot::A, Slot::B], None, None)
        );
    }
}
