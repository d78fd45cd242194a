//! An assembler of classic BPF that writes a program from its end to its start.
//!
//! Jumps lead forward alone, so whatever a jump leads to is already written when the jump is, and its
//! distance is known. A test reaches 255 instructions; for what is farther, an answer is written again
//! and other code gets a `JA`, whose operand has 32 bits. Both stand right behind a test, where
//! nothing falls into them, and whatever is written later uses them as well.

use std::collections::BTreeMap;

use kedge_sys::seccomp::{MAX_INSTRUCTIONS, SockFilter};

// Classic BPF (Linux `include/uapi/linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;

/// How a test compares what was loaded with its operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Equal,
    Above,
    AtLeast,
    AnyBit,
}

impl Test {
    fn code(self) -> u16 {
        match self {
            Self::Equal => 0x15,
            Self::Above => 0x25,
            Self::AtLeast => 0x35,
            Self::AnyBit => 0x45,
        }
    }
}

/// Whether a program has this answer.
pub(crate) fn can_answer(code: &[SockFilter], answer: u32) -> bool {
    code.iter().any(|one| one.code == RETURN && one.k == answer)
}

/// How far a target may be to be jumped to as it is: one instruction less than a test reaches, since
/// what is written to bring its other target near comes between.
const NEAR: usize = 254;

/// A place in the program that can be jumped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// Where a label is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Not written yet: it is this answer.
    Wanted(u32),
    /// This answer is at this distance from the end.
    Answer(u32, usize),
    /// Other code is at this distance from the end.
    Code(usize),
}

/// A program, from its end.
#[derive(Debug, Default)]
pub(crate) struct Code {
    reversed: Vec<SockFilter>,
    places: Vec<Place>,
    answers: BTreeMap<u32, Label>,
    too_long: bool,
}

impl Code {
    /// An answer (`SECCOMP_RET_*` with its data). It is written where it is first needed.
    pub(crate) fn answer(&mut self, answer: u32) -> Label {
        if let Some(label) = self.answers.get(&answer) {
            return *label;
        }
        let label = self.label(Place::Wanted(answer));
        self.answers.insert(answer, label);
        label
    }

    /// Goes to `yes` if what was loaded meets the test, else to `no`.
    pub(crate) fn test(&mut self, test: Test, operand: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        // What is written for the second one moves the first one by a place: NEAR has room.
        self.bring_near(yes);
        self.bring_near(no);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        self.write(SockFilter::new(test.code(), jt, jf, operand))
    }

    /// Loads the 32 bits at `offset` of `seccomp_data`, and goes on at `next`.
    pub(crate) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_into(next);
        self.write(SockFilter::new(LOAD, 0, 0, offset))
    }

    /// Clears the bits that `mask` has not, and goes on at `next`.
    pub(crate) fn mask(&mut self, mask: u32, next: Label) -> Label {
        self.fall_into(next);
        self.write(SockFilter::new(AND, 0, 0, mask))
    }

    /// The program that starts at `start`; `None` if it is longer than the kernel takes.
    pub(crate) fn finish(mut self, start: Label) -> Option<Vec<SockFilter>> {
        self.fall_into(start);
        self.reversed.reverse();
        (!self.too_long).then_some(self.reversed)
    }

    fn label(&mut self, place: Place) -> Label {
        self.places.push(place);
        Label(self.places.len() - 1)
    }

    fn write(&mut self, instruction: SockFilter) -> Label {
        self.push(instruction);
        self.label(Place::Code(self.last()))
    }

    /// Beyond the limit nothing is kept: such a program is never used.
    fn push(&mut self, instruction: SockFilter) {
        if self.reversed.len() < MAX_INSTRUCTIONS {
            self.reversed.push(instruction);
        } else {
            self.too_long = true;
        }
    }

    /// Where the instruction is that was written last, from the end.
    fn last(&self) -> usize {
        self.reversed.len().saturating_sub(1)
    }

    /// Where `label` is from the end, if it is written.
    fn position(&self, label: Label) -> Option<usize> {
        match self.places.get(label.0) {
            Some(Place::Answer(_, at) | Place::Code(at)) => Some(*at),
            Some(Place::Wanted(_)) | None => None,
        }
    }

    /// How many instructions lie between the next one and `label`.
    fn distance(&mut self, label: Label) -> u8 {
        let between = self
            .position(label)
            .map(|at| self.last().saturating_sub(at));
        between
            .and_then(|between| u8::try_from(between).ok())
            .unwrap_or_else(|| {
                // `bring_near` was here before: only a program that is thrown away gets here.
                self.too_long = true;
                0
            })
    }

    /// Sees to it that a test can reach `label`.
    fn bring_near(&mut self, label: Label) {
        let near = |at: usize| self.last().saturating_sub(at) <= NEAR;
        if !self.position(label).is_some_and(near) {
            self.write_again(label);
        }
    }

    /// Sees to it that the instruction before goes on at `label`.
    fn fall_into(&mut self, label: Label) {
        if self.reversed.is_empty() || self.position(label) != Some(self.last()) {
            self.write_again(label);
        }
    }

    /// Writes what is as good as `label`, and makes it that.
    fn write_again(&mut self, label: Label) {
        let Some(place) = self.places.get(label.0).copied() else {
            // Labels are made by this program alone.
            self.too_long = true;
            return;
        };
        let instruction = match place {
            Place::Wanted(answer) | Place::Answer(answer, _) => {
                SockFilter::new(RETURN, 0, 0, answer)
            }
            Place::Code(at) => {
                let between = u32::try_from(self.last().saturating_sub(at));
                SockFilter::new(JUMP, 0, 0, between.unwrap_or(u32::MAX))
            }
        };
        self.push(instruction);
        let last = self.last();
        if let Some(moved) = self.places.get_mut(label.0) {
            *moved = match place {
                Place::Wanted(answer) | Place::Answer(answer, _) => Place::Answer(answer, last),
                Place::Code(_) => Place::Code(last),
            };
        }
    }
}
