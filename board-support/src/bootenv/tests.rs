//! The boot record in a file, and the order in which it is written.

use super::*;
use crate::record::Slot;
use kedge_revision::{Floor, ObjectId};
use std::os::unix::fs::FileExt;

fn born() -> State {
    State::born(
        ObjectId::from_digest([7; 32]),
        Floor {
            root: 1,
            counter: 2,
        },
        1,
    )
}

const DISK: Layout = Layout::Sectors;

/// On a disk, and on flash.
fn layouts() -> [Layout; 2] {
    [DISK, Layout::EraseBlocks(EraseBlock::new(1 << 16).unwrap())]
}

fn partition() -> std::fs::File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    file
}

#[test]
fn an_empty_partition_is_found_lost_and_can_be_made() {
    for layout in layouts() {
        let file = partition();
        let (_, found) = Bootenv::open(&file, layout).unwrap();
        assert_eq!((found.loader(), found.state()), (None, None));
        Bootenv::create_at(&file, 0, layout, &Loader::born(), &born()).unwrap();
        let (_, found) = Bootenv::open(&file, layout).unwrap();
        assert!(found.loader_is_mirrored() && found.state.iter().all(Result::is_ok));
        assert_eq!(found.state(), Some(&born()));
    }
}

#[test]
fn the_copy_that_counts_is_never_written_over() {
    for layout in layouts() {
        let file = partition();
        let mut env = Bootenv::create_at(&file, 0, layout, &Loader::born(), &born()).unwrap();
        let mut state = born();
        for boot in 1..6 {
            let before = env.order.newest();
            state.unsettled = boot;
            env.write_state(&state).unwrap();
            assert_ne!(env.order.newest(), before);
            // The write that follows is torn to nothing: what was there before counts.
            let offset = layout.offset(Part::State(env.order.newest()));
            let mut kept = [0; COPY];
            file.read_exact_at(&mut kept, offset).unwrap();
            file.write_all_at(&[0xff; 100], offset).unwrap();
            let (reopened, found) = Bootenv::open(&file, layout).unwrap();
            assert_eq!(found.state().unwrap().unsettled, boot - 1);
            assert_eq!(reopened.order.newest(), before);
            file.write_all_at(&kept, offset).unwrap();
        }
    }
}

#[test]
fn what_is_written_to_both_survives_the_loss_of_either() {
    for lost in [Side::First, Side::Second] {
        let lost = DISK.offset(Part::State(lost));
        let file = partition();
        let mut env = Bootenv::create_at(&file, 0, DISK, &Loader::born(), &born()).unwrap();
        let mut state = born();
        state.floor.counter = 99;
        env.write_state(&born()).unwrap();
        env.write_state_both(&state).unwrap();
        file.write_all_at(&[0; COPY], lost).unwrap();
        assert_eq!(Bootenv::open(&file, DISK).unwrap().1.state(), Some(&state));
    }
}

#[test]
fn a_state_that_was_taken_and_dropped_is_not_there() {
    for layout in layouts() {
        let file = partition();
        let mut env = Bootenv::create_at(&file, 0, layout, &Loader::born(), &born()).unwrap();
        let mut state = born();
        state.unsettled = 1;
        assert!(!env.has_state(&state).unwrap());
        env.write_state(&state).unwrap();
        assert!(env.has_state(&state).unwrap());
        let newest = layout.offset(Part::State(env.order.newest()));
        file.write_all_at(&[0; COPY], newest).unwrap();
        assert!(!env.has_state(&state).unwrap() && env.has_state(&born()).unwrap());
    }
}

#[test]
fn a_lost_loader_copy_is_seen() {
    let file = partition();
    let mut env = Bootenv::create_at(&file, 0, DISK, &Loader::born(), &born()).unwrap();
    let next = Loader {
        default: Slot::B,
        trial: None,
    };
    env.write_loader(&next).unwrap();
    file.write_all_at(&[1], 100).unwrap();
    let (_, found) = Bootenv::open(&file, DISK).unwrap();
    assert!(!found.loader_is_mirrored());
    assert_eq!(found.loader(), Some(next));
}

#[test]
fn the_loader_copy_that_counts_is_written_last() {
    let next = Loader::starts(Slot::B);
    for (lost, order) in [
        (None, [1, 0]),
        (Some(Side::First), [0, 1]),
        (Some(Side::Second), [1, 0]),
    ] {
        let file = partition();
        Bootenv::create_at(&file, 0, DISK, &Loader::born(), &born()).unwrap();
        if let Some(lost) = lost {
            let lost = DISK.offset(Part::Loader(lost));
            file.write_all_at(&[1], lost + 100).unwrap();
        }
        let (_, found) = Bootenv::open(&file, DISK).unwrap();
        let mut seen = Seen::default();
        Order::of(&found)
            .perform(&mut seen, &Write::Loader(next))
            .unwrap();
        assert_eq!(seen.0, [order[0], FLUSH, order[1], FLUSH]);
    }
}

#[test]
fn what_is_performed_is_found_again() {
    for layout in layouts() {
        let file = partition();
        let mut env = Bootenv::create_at(&file, 0, layout, &Loader::born(), &born()).unwrap();
        let (mut one, mut both) = (born(), born());
        (one.unsettled, both.unsettled) = (1, 2);
        env.perform(&Write::State(one.clone())).unwrap();
        env.perform(&Write::Loader(Loader::starts(Slot::B)))
            .unwrap();
        let (mut env, found) = Bootenv::open(&file, layout).unwrap();
        assert_eq!(found.state(), Some(&one));
        assert_eq!(found.loader(), Some(Loader::starts(Slot::B)));
        assert!(found.loader_is_mirrored());
        env.perform(&Write::StateBoth(both.clone())).unwrap();
        let (_, found) = Bootenv::open(&file, layout).unwrap();
        let states = found.state.map(|copy| copy.unwrap().state);
        assert_eq!(states, [both.clone(), both]);
    }
}

const FLUSH: usize = 9;

/// A medium that keeps the order in which it was written.
#[derive(Default)]
struct Seen(Vec<usize>);

impl Medium for Seen {
    fn loader(&mut self, side: Side, _: &Loader) -> Result<(), Error> {
        self.0.push(side.of([0, 1]));
        Ok(())
    }

    fn state(&mut self, side: Side, _: u64, _: &State) -> Result<(), Error> {
        self.0.push(side.of([2, 3]));
        Ok(())
    }

    fn autoboot(&mut self, _: &Loader) -> Result<(), Error> {
        self.0.push(4);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.0.push(FLUSH);
        Ok(())
    }
}

/// Flash of which a block is lost when it is written over, and stays so after a write that fails; the n-th write fails.
struct Flash {
    copies: [Option<Loader>; 2],
    fails: usize,
    writes: usize,
}

impl Medium for Flash {
    fn loader(&mut self, side: Side, record: &Loader) -> Result<(), Error> {
        let copy = &mut self.copies[side.of([0, 1])];
        self.writes += 1;
        *copy = (self.writes != self.fails).then_some(*record);
        copy.map(|_| ()).ok_or(Error::Sync {
            errno: rustix::io::Errno::IO,
        })
    }

    fn state(&mut self, _: Side, _: u64, _: &State) -> Result<(), Error> {
        unreachable!("the loader's record alone is written")
    }

    fn autoboot(&mut self, _: &Loader) -> Result<(), Error> {
        unreachable!("the record is on flash")
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn a_copy_that_was_lost_to_its_write_is_the_next_one_to_be_written() {
    let file = partition();
    Bootenv::create_at(&file, 0, DISK, &Loader::born(), &born()).unwrap();
    let (_, found) = Bootenv::open(&file, DISK).unwrap();
    for fails in 1..=6 {
        let mut order = Order::of(&found);
        let mut flash = Flash {
            copies: [Some(Loader::born()); 2],
            fails,
            writes: 0,
        };
        for write in 0..3 {
            let slot = [Slot::B, Slot::A, Slot::B][write];
            let done = order.perform(&mut flash, &Write::Loader(Loader::starts(slot)));
            // A copy that is whole is left at each moment: also if the power is cut within the write that follows.
            let next = order_of_next(&order);
            let rest = flash.copies[next.other().of([0, 1])];
            assert!(rest.is_some(), "failing write {fails}, after write {write}");
            assert_eq!(
                done.is_err(),
                (2 * write + 1..=2 * write + 2).contains(&fails)
            );
        }
    }
}

/// The copy that the next write of the loader record begins with.
fn order_of_next(order: &Order) -> Side {
    let mut order = *order;
    let mut seen = Seen::default();
    let write = Write::Loader(Loader::born());
    order.perform(&mut seen, &write).unwrap();
    if seen.0[0] == 0 {
        Side::First
    } else {
        Side::Second
    }
}

#[test]
fn autoboot_txt_is_one_write_and_one_flush() {
    let file = partition();
    Bootenv::create_at(&file, 0, DISK, &Loader::born(), &born()).unwrap();
    let (_, found) = Bootenv::open(&file, DISK).unwrap();
    let mut order = Order::of(&found).at(order::Place::Autoboot);
    let mut seen = Seen::default();
    order
        .perform(&mut seen, &Write::Loader(Loader::starts(Slot::B)))
        .unwrap();
    assert_eq!(seen.0, [4, FLUSH]);
}

#[test]
fn without_the_partition_autoboot_txt_is_not_written() {
    let file = partition();
    let env = Bootenv::create_at(&file, 0, DISK, &Loader::born(), &born()).unwrap();
    let mut order = env.order.at(order::Place::Autoboot);
    let write = Write::Loader(Loader::starts(Slot::B));
    let done = order.perform(&mut env.partition(), &write);
    assert_eq!(done, Err(Error::NoAutoboot));
}

#[test]
fn a_base_moves_everything() {
    for layout in layouts() {
        let file = partition();
        Bootenv::create_at(&file, 1 << 19, layout, &Loader::born(), &born()).unwrap();
        assert_eq!(Bootenv::open(&file, layout).unwrap().1.state(), None);
        assert_eq!(
            Bootenv::open_at(&file, 1 << 19, layout).unwrap().1.state(),
            Some(&born())
        );
    }
}

#[test]
fn the_last_words_are_kept_until_cleared() {
    for layout in layouts() {
        let file = partition();
        let env = Bootenv::create_at(&file, 0, layout, &Loader::born(), &born()).unwrap();
        assert_eq!(env.read_last_resort(), Ok(None));
        env.write_last_resort(b"PID 1 panicked").unwrap();
        assert_eq!(env.read_last_resort(), Ok(Some(b"PID 1 panicked".to_vec())));
        let place = layout.offset(Part::LastResort);
        file.write_all_at(b"X", place + 17).unwrap();
        assert_eq!(env.read_last_resort(), Ok(None));
        env.clear_last_resort().unwrap();
        assert_eq!(env.read_last_resort(), Ok(None));
        let long = vec![b'x'; LAST_RESORT_TEXT + 1];
        assert_eq!(
            env.write_last_resort(&long),
            Err(Error::TooLong { length: long.len() })
        );
    }
}

#[test]
fn a_partition_that_is_too_short_is_an_error() {
    let file = tempfile::tempfile().unwrap();
    assert!(matches!(
        Bootenv::open(&file, DISK),
        Err(Error::Short { .. })
    ));
}
