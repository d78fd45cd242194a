//! What a cut leaves of a boot record on flash, at every point of every write: half an erase, half a write, or rubbish.

use super::*;
use crate::Error;
use crate::bootenv::{COPIES, Found, LAST_RESORT_HEADER, LAST_RESORT_TEXT, Medium, Order};
use crate::control::Write;
use crate::record::{COPY, Loader, Slot, State};
use kedge_revision::{Floor, ObjectId};

fn flash(bytes: u32) -> Layout {
    Layout::EraseBlocks(EraseBlock::new(bytes).unwrap())
}

/// A step that owns its bytes.
#[derive(Debug, Clone, PartialEq)]
enum Done {
    Erase(usize, usize),
    Write(usize, Vec<u8>),
}

/// A medium that keeps what a device would do.
struct Journal {
    layout: Layout,
    done: Vec<Done>,
}

impl Journal {
    fn put(&mut self, part: Part, bytes: &[u8]) -> Result<(), Error> {
        let at = |offset: u64| usize::try_from(offset).unwrap();
        self.done
            .extend(self.layout.steps(part, bytes).map(|step| match step {
                Step::Erase { offset, length } => Done::Erase(at(offset), at(length)),
                Step::Write { offset, bytes } => Done::Write(at(offset), bytes.to_vec()),
            }));
        Ok(())
    }
}

impl Medium for Journal {
    fn loader(&mut self, side: Side, record: &Loader) -> Result<(), Error> {
        self.put(Part::Loader(side), &record.encode())
    }

    fn state(&mut self, side: Side, sequence: u64, state: &State) -> Result<(), Error> {
        self.put(Part::State(side), &state.encode(sequence))
    }

    fn autoboot(&mut self, _: &Loader) -> Result<(), Error> {
        Err(Error::NoAutoboot)
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// What a cut leaves of the step that it hits.
#[derive(Debug, Clone, Copy)]
enum Left {
    Nothing,
    FirstHalf,
    SecondHalf,
    /// Cells between two values.
    Rubbish,
}

/// The memory: an erase sets bits, a write clears them.
#[derive(Debug, Clone, PartialEq)]
struct Flash(Vec<u8>);

impl Flash {
    fn apply(&mut self, step: &Done) {
        match step {
            Done::Erase(at, length) => self.0[*at..at + length].fill(0xff),
            Done::Write(at, bytes) => self.clear(*at, bytes),
        }
    }

    fn clear(&mut self, at: usize, bytes: &[u8]) {
        let cells = self.0[at..].iter_mut().zip(bytes);
        cells.for_each(|(cell, byte)| *cell &= byte);
    }

    fn tear(&mut self, step: &Done, left: Left) {
        let (at, length) = match step {
            Done::Erase(at, length) => (*at, *length),
            Done::Write(at, bytes) => (*at, bytes.len()),
        };
        let half = match left {
            Left::Nothing => return,
            Left::FirstHalf => 0..length / 2,
            Left::SecondHalf => length / 2..length,
            Left::Rubbish => {
                let cells = self.0[at..at + length].iter_mut();
                cells.step_by(2).for_each(|cell| *cell = 0x5a);
                return;
            }
        };
        match step {
            Done::Erase(..) => self.0[at..][half].fill(0xff),
            Done::Write(_, bytes) => self.clear(at + half.start, &bytes[half]),
        }
    }

    fn found(&self, layout: Layout) -> Found {
        Found::parse(COPIES.map(|part| {
            let at = usize::try_from(layout.offset(part)).unwrap();
            &self.0[at..at + COPY]
        }))
    }
}

fn state(unsettled: u32) -> State {
    let mut state = State::born(ObjectId::from_digest([7; 32]), Floor::default(), 1);
    state.unsettled = unsettled;
    state
}

/// Every kind of write of boot control, twice.
fn story() -> Vec<Write> {
    let mut story = Vec::new();
    for (number, slot) in [(1, Slot::B), (3, Slot::A)] {
        story.extend([
            Write::State(state(number)),
            Write::Loader(Loader::starts(slot)),
            Write::StateBoth(state(number + 1)),
        ]);
    }
    story
}

fn born(layout: Layout) -> Flash {
    let mut flash = Flash(vec![0; usize::try_from(layout.minimum()).unwrap()]);
    let mut journal = Journal {
        layout,
        done: Vec::new(),
    };
    let mut order = Order::EMPTY;
    order.loader(&mut journal, &Loader::born()).unwrap();
    order.state_both(&mut journal, &state(0)).unwrap();
    journal.done.iter().for_each(|step| flash.apply(step));
    flash
}

/// The steps of a write on what is there.
fn steps(layout: Layout, flash: &Flash, write: &Write) -> Vec<Done> {
    let mut journal = Journal {
        layout,
        done: Vec::new(),
    };
    let mut order = Order::of(&flash.found(layout));
    order.perform(&mut journal, write).unwrap();
    journal.done
}

/// All that a cut in these steps may leave, the uncut end last.
fn cuts(flash: &Flash, steps: &[Done]) -> Vec<Flash> {
    const LEFT: [Left; 4] = [
        Left::Nothing,
        Left::FirstHalf,
        Left::SecondHalf,
        Left::Rubbish,
    ];
    let (mut now, mut all) = (flash.clone(), Vec::new());
    for step in steps {
        all.extend(LEFT.map(|left| {
            let mut torn = now.clone();
            torn.tear(step, left);
            torn
        }));
        now.apply(step);
    }
    all.push(now);
    all
}

/// What counts after a cut is what counted before, or what was written; nothing else, and never nothing.
fn judge(before: &Found, after: &Found, write: &Write) {
    let (loader, state) = match write {
        Write::Loader(record) => (Some(*record), None),
        Write::State(state) | Write::StateBoth(state) => (None, Some(state)),
    };
    let now = after.loader();
    assert!(now.is_some() && (now == before.loader() || now == loader));
    let now = after.state();
    assert!(now.is_some() && (now == before.state() || now == state));
}

#[test]
fn at_any_cut_one_copy_of_each_record_is_whole_on_flash() {
    for layout in [1 << 12, 1 << 14].map(flash) {
        let mut now = born(layout);
        for write in story() {
            let before = now.found(layout);
            let ends = cuts(&now, &steps(layout, &now, &write));
            for torn in &ends {
                judge(&before, &torn.found(layout), &write);
                // Whoever boots then writes again, and may be cut again.
                let between = torn.found(layout);
                for again in cuts(torn, &steps(layout, torn, &write)) {
                    judge(&between, &again.found(layout), &write);
                }
            }
            now = ends.last().unwrap().clone();
        }
        assert_eq!(now.found(layout).loader(), Some(Loader::starts(Slot::A)));
        assert_eq!(now.found(layout).state(), Some(&state(4)));
    }
}

#[test]
fn a_part_is_erased_and_written_within_blocks_of_its_own() {
    for bytes in [1 << 12, 1 << 16, 1 << 20] {
        let layout = flash(bytes);
        let mut free = 0;
        for part in COPIES.into_iter().chain([Part::LastResort]) {
            let text = vec![1; LAST_RESORT_TEXT + 16];
            let longest = match part {
                Part::Loader(_) | Part::State(_) => &text[..COPY],
                Part::LastResort => &text[..],
            };
            let steps: Vec<Step<'_>> = layout.steps(part, longest).collect();
            let [
                Step::Erase { offset, length },
                Step::Write {
                    offset: at,
                    bytes: all,
                },
            ] = steps[..]
            else {
                panic!("{steps:?}");
            };
            assert_eq!(
                (offset % u64::from(bytes), length % u64::from(bytes)),
                (0, 0)
            );
            assert!(offset >= free && at == offset && all.len() as u64 <= length);
            free = offset + length;
        }
        assert_eq!(layout.minimum(), free);
    }
}

#[test]
fn a_disk_needs_no_erase_and_has_everything_where_it_always_was() {
    let parts = COPIES.into_iter().chain([Part::LastResort]);
    let steps: Vec<Step<'_>> = parts
        .flat_map(|part| Layout::Sectors.steps(part, b"x"))
        .collect();
    let at = |offset| Step::Write {
        offset,
        bytes: b"x",
    };
    assert_eq!(steps, [0, 4096, 8192, 12288, 65536].map(at));
    assert_eq!(Layout::default().minimum(), 65536 + TEXT_SIZE);
}

#[test]
fn sizes_here_are_those_of_what_is_written() {
    assert_eq!(u64::try_from(COPY), Ok(COPY_SIZE));
    let text = u64::try_from(LAST_RESORT_TEXT).unwrap();
    assert_eq!(text + LAST_RESORT_HEADER, TEXT_SIZE);
}

#[test]
fn erased_flash_is_no_record() {
    let layout = flash(1 << 16);
    let blank = Flash(vec![0xff; usize::try_from(layout.minimum()).unwrap()]);
    let found = blank.found(layout);
    assert!(found.loader.iter().all(Result::is_err) && found.state.iter().all(Result::is_err));
}

#[test]
fn an_erase_block_is_a_power_of_two_that_holds_a_copy() {
    for bytes in [0, 1, 2048, 4097, 12288, 1 << 21, 1 << 31] {
        assert_eq!(EraseBlock::new(bytes), None, "{bytes}");
    }
    for bytes in [4096, 65536, 1 << 20] {
        assert_eq!(EraseBlock::new(bytes).map(EraseBlock::bytes), Some(bytes));
    }
}
