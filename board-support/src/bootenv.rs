//! The raw partition `bootenv`: where the boot record lives, and the order in which it is written.
//!
//! | offset | what |
//! |---|---|
//! | 0, 4 KiB | loader record, first and second copy |
//! | 8 KiB, 12 KiB | state record, first and second copy |
//! | 64 KiB | text that `last_resort` leaves: `KEDGELR1`, length (u32 LE), CRC-32 of the text (u32 LE), text |
//!
//! Of a Raspberry Pi's firmware the loader record is in `autoboot.txt` of another partition, and the two copies here are
//! left alone ([`Bootenv::with_autoboot`]).
//!
//! The order of writes and flushes is that of [`order`]; the model check runs it on a simulated disk.
//!
//! It writes nothing but what it is told, and does not repair on its own: PID 1 decides.

mod boot;
pub mod order;

pub use order::{Medium, Order, Side};

use crate::Error;
use crate::autoboot::Autoboot;
use crate::control::Write;
use crate::record::state::{self, Numbered};
use crate::record::{COPY, Loader, State, crc32, loader};
use boot::Boot;
use kedge_sys::Errno;
use kedge_sys::rustix::fs::{Advice, fadvise};
use kedge_sys::rustix::{self, fd::AsFd};

/// Smallest partition, bytes.
pub const MINIMUM: u64 = 128 * 1024;
/// Longest text of `last_resort`, bytes.
pub const LAST_RESORT_TEXT: usize = 32 * 1024;

const LOADER: [u64; 2] = [0, 4096];
const STATE: [u64; 2] = [8192, 12288];
const LAST_RESORT: u64 = 65536;
const LAST_RESORT_MAGIC: &[u8; 8] = b"KEDGELR1";

/// What was found, each copy on its own; a copy that is damaged says how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Both copies of the loader record.
    pub loader: [Result<Loader, Error>; 2],
    /// Both copies of the state record.
    pub state: [Result<Numbered, Error>; 2],
}

impl Found {
    /// The loader record that counts; none if both copies are lost.
    #[must_use]
    pub fn loader(&self) -> Option<Loader> {
        let [first, second] = &self.loader;
        first.as_ref().or(second.as_ref()).ok().copied()
    }

    /// The state that counts; none if both copies are lost.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        let [first, second] = &self.state;
        let newest = match (first, second) {
            (Ok(one), Ok(two)) if two.sequence > one.sequence => two,
            (Ok(one), _) => one,
            (Err(_), two) => two.as_ref().ok()?,
        };
        Some(&newest.state)
    }

    /// Whether both loader copies are valid and equal; if not, PID 1 makes them so.
    #[must_use]
    pub fn loader_is_mirrored(&self) -> bool {
        let [first, second] = &self.loader;
        first.is_ok() && first == second
    }
}

/// An open `bootenv`: a partition, or a part of an image file on the host.
#[derive(Debug)]
pub struct Bootenv<Fd> {
    fd: Fd,
    base: u64,
    order: Order,
    autoboot: Option<Boot<Fd>>,
}

impl<Fd: AsFd> Bootenv<Fd> {
    /// Reads both records. Damaged copies are no error here: see [`Found`].
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Short`]: the partition itself cannot be read.
    pub fn open(fd: Fd) -> Result<(Self, Found), Error> {
        Self::open_at(fd, 0)
    }

    /// As [`Bootenv::open`], for a partition that begins at byte `base` of the file.
    ///
    /// # Errors
    /// As [`Bootenv::open`].
    pub fn open_at(fd: Fd, base: u64) -> Result<(Self, Found), Error> {
        let mut bytes = [0_u8; 4 * COPY];
        read_exact(&fd, base, &mut bytes)?;
        let mut copies = bytes.chunks_exact(COPY);
        let mut next = || copies.next().unwrap_or_default();
        let found = Found {
            loader: [next(), next()].map(|copy| Ok(Loader::parse(copy)?)),
            state: [Numbered::parse(next()), Numbered::parse(next())],
        };
        let order = Order::of(&found);
        let new = Self {
            fd,
            base,
            order,
            autoboot: None,
        };
        Ok((new, found))
    }

    /// Whether this is the state that counts on the disk. A card at its end takes writes and drops them.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Short`].
    pub fn has_state(&self, state: &State) -> Result<bool, Error> {
        // What the kernel remembers of it says nothing of the disk. A file system that has no such advice reads from memory.
        fadvise(&self.fd, 0, None, Advice::DontNeed).ok();
        let (_, found) = Bootenv::open_at(self.fd.as_fd(), self.base)?;
        Ok(found.state() == Some(state))
    }

    /// From now on the loader record is `autoboot.txt` in the partition that begins at byte `base` of `fd`; and the record that
    /// is there, if it and its file system are whole.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Short`], [`Error::NoAutoboot`].
    pub fn with_autoboot(
        mut self,
        fd: Fd,
        base: u64,
        autoboot: Autoboot,
    ) -> Result<(Self, Option<Loader>), Error> {
        let (boot, record) = Boot::open(fd, base, autoboot)?;
        self.order = self.order.at(order::Place::Autoboot);
        self.autoboot = Some(boot);
        Ok((self, record))
    }

    /// Makes `fd`'s first 16 KiB a fresh boot record, whatever was there: for images.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Sync`].
    pub fn create_at(fd: Fd, base: u64, loader: &Loader, state: &State) -> Result<Self, Error> {
        let mut new = Self {
            fd,
            base,
            order: Order::EMPTY,
            autoboot: None,
        };
        new.write_loader(loader)?;
        new.write_state_both(state)?;
        Ok(new)
    }

    /// Does what the boot-control machine answered with. It is on disk when this returns.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Sync`]; one whole copy of each record is on disk if one was before.
    pub fn perform(&mut self, write: &Write) -> Result<(), Error> {
        let mut order = self.order;
        let done = order.perform(&mut self.partition(), write);
        self.order = order;
        if let (Ok(()), Write::Loader(record), Some(boot)) = (&done, write, &mut self.autoboot) {
            boot.read_back(record)?;
        }
        done
    }

    /// Writes both copies of the loader record.
    ///
    /// # Errors
    /// As [`Bootenv::perform`].
    pub fn write_loader(&self, record: &Loader) -> Result<(), Error> {
        let mut order = self.order;
        order.loader(&mut self.partition(), record)
    }

    /// Writes the state to the copy that does not count now.
    ///
    /// # Errors
    /// As [`Bootenv::perform`]; the copy that counts is untouched then.
    pub fn write_state(&mut self, state: &State) -> Result<(), Error> {
        let mut order = self.order;
        let done = order.state(&mut self.partition(), state);
        self.order = order;
        done
    }

    /// Writes the state to both copies, one after the other: for what ends a trial or raises the floor, so that no
    /// damaged copy can bring the old state back.
    ///
    /// # Errors
    /// As [`Bootenv::perform`]; after an error at the second copy the first one counts already.
    pub fn write_state_both(&mut self, state: &State) -> Result<(), Error> {
        let mut order = self.order;
        let done = order.state_both(&mut self.partition(), state);
        self.order = order;
        done
    }

    /// Leaves a text for the next boot. No flush beyond its own, no allocation: it is called when all else failed.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Write`], [`Error::Sync`].
    pub fn write_last_resort(&self, text: &[u8]) -> Result<(), Error> {
        let long = Error::TooLong { length: text.len() };
        let length = u32::try_from(text.len()).map_err(|_| long)?;
        if text.len() > LAST_RESORT_TEXT {
            return Err(long);
        }
        // The text first: a header without its text has a wrong checksum, a text without its header is not looked at.
        self.partition()
            .write(LAST_RESORT.saturating_add(16), text)?;
        let mut header = [0_u8; 16];
        let fields = LAST_RESORT_MAGIC
            .iter()
            .copied()
            .chain(length.to_le_bytes())
            .chain(crc32(text).to_le_bytes());
        header
            .iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = from);
        self.put(LAST_RESORT, &header)
    }

    /// The text that an earlier boot left; none if there is none or it is torn.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Short`].
    pub fn read_last_resort(&self) -> Result<Option<Vec<u8>>, Error> {
        let offset = self.base.saturating_add(LAST_RESORT);
        let mut header = [0_u8; 16];
        read_exact(&self.fd, offset, &mut header)?;
        let Some((magic, rest)) = header.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let Some((length, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if magic != LAST_RESORT_MAGIC || length > LAST_RESORT_TEXT {
            return Ok(None);
        }
        let mut text = vec![0; length];
        read_exact(&self.fd, offset.saturating_add(16), &mut text)?;
        Ok((rest == crc32(&text).to_le_bytes()).then_some(text))
    }

    /// Forgets the text, once it was reported.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Sync`].
    pub fn clear_last_resort(&self) -> Result<(), Error> {
        self.put(LAST_RESORT, &[0; 16])
    }

    const fn partition(&self) -> Partition<'_, Fd> {
        Partition {
            fd: &self.fd,
            base: self.base,
            autoboot: self.autoboot.as_ref(),
        }
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut partition = self.partition();
        partition.write(offset, bytes)?;
        partition.flush()
    }
}

/// The medium that a boot record is really written to.
struct Partition<'a, Fd> {
    fd: &'a Fd,
    base: u64,
    autoboot: Option<&'a Boot<Fd>>,
}

impl<Fd: AsFd> Partition<'_, Fd> {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        write_all(self.fd, self.base.saturating_add(offset), bytes)
    }
}

impl<Fd: AsFd> Medium for Partition<'_, Fd> {
    fn loader(&mut self, side: Side, record: &Loader) -> Result<(), Error> {
        self.write(side.of(LOADER), &record.encode())
    }

    fn state(&mut self, side: Side, sequence: u64, state: &State) -> Result<(), Error> {
        self.write(side.of(STATE), &state.encode(sequence))
    }

    fn autoboot(&mut self, record: &Loader) -> Result<(), Error> {
        self.autoboot.ok_or(Error::NoAutoboot)?.write(record)
    }

    fn flush(&mut self) -> Result<(), Error> {
        sync(self.fd)?;
        self.autoboot.map_or(Ok(()), Boot::flush)
    }
}

fn sync<Fd: AsFd>(fd: Fd) -> Result<(), Error> {
    retry(|| rustix::fs::fdatasync(&fd)).map_err(|errno| Error::Sync { errno })
}

fn write_all<Fd: AsFd>(fd: Fd, mut offset: u64, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        let written =
            retry(|| rustix::io::pwrite(&fd, bytes, offset)).and_then(|count| match count {
                0 => Err(Errno::NOSPC),
                count => Ok(count),
            });
        let written = written.map_err(|errno| Error::Write { offset, errno })?;
        bytes = bytes.get(written..).unwrap_or_default();
        offset = offset.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
    }
    Ok(())
}

fn read_exact<Fd: AsFd>(fd: Fd, mut offset: u64, mut bytes: &mut [u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        let count = retry(|| rustix::io::pread(&fd, &mut *bytes, offset))
            .map_err(|errno| Error::Read { offset, errno })?;
        if count == 0 {
            return Err(Error::Short {
                length: bytes.len(),
            });
        }
        bytes = bytes.get_mut(count..).unwrap_or_default();
        offset = offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// The records in a copy of the partition's first 16 KiB, without I/O.
///
/// # Errors
/// [`Error::Short`].
pub fn parse(bytes: &[u8]) -> Result<(Option<Loader>, Option<Numbered>), Error> {
    let short = Error::Short {
        length: bytes.len(),
    };
    let (one, rest) = bytes.split_at_checked(COPY).ok_or(short)?;
    let (two, rest) = rest.split_at_checked(COPY).ok_or(short)?;
    let (three, four) = rest.split_at_checked(COPY).ok_or(short)?;
    Ok((loader::choose(one, two), state::choose(three, four)))
}

#[cfg(test)]
mod tests {
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

    fn partition() -> std::fs::File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file
    }

    #[test]
    fn an_empty_partition_is_found_lost_and_can_be_made() {
        let file = partition();
        let (_, found) = Bootenv::open(&file).unwrap();
        assert_eq!((found.loader(), found.state()), (None, None));
        Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
        let (_, found) = Bootenv::open(&file).unwrap();
        assert!(found.loader_is_mirrored() && found.state.iter().all(Result::is_ok));
        assert_eq!(found.state(), Some(&born()));
    }

    #[test]
    fn the_copy_that_counts_is_never_written_over() {
        let file = partition();
        let mut env = Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
        let mut state = born();
        for boot in 1..6 {
            let before = env.order.newest();
            state.unsettled = boot;
            env.write_state(&state).unwrap();
            assert_ne!(env.order.newest(), before);
            // The write that follows is torn to nothing: what was there before counts.
            let offset = env.order.newest().of(STATE);
            let mut kept = [0; COPY];
            file.read_exact_at(&mut kept, offset).unwrap();
            file.write_all_at(&[0xff; 100], offset).unwrap();
            let (reopened, found) = Bootenv::open(&file).unwrap();
            assert_eq!(found.state().unwrap().unsettled, boot - 1);
            assert_eq!(reopened.order.newest(), before);
            file.write_all_at(&kept, offset).unwrap();
        }
    }

    #[test]
    fn what_is_written_to_both_survives_the_loss_of_either() {
        for lost in STATE {
            let file = partition();
            let mut env = Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
            let mut state = born();
            state.floor.counter = 99;
            env.write_state(&born()).unwrap();
            env.write_state_both(&state).unwrap();
            file.write_all_at(&[0; COPY], lost).unwrap();
            assert_eq!(Bootenv::open(&file).unwrap().1.state(), Some(&state));
        }
    }

    #[test]
    fn a_state_that_was_taken_and_dropped_is_not_there() {
        let file = partition();
        let mut env = Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
        let mut state = born();
        state.unsettled = 1;
        assert!(!env.has_state(&state).unwrap());
        env.write_state(&state).unwrap();
        assert!(env.has_state(&state).unwrap());
        file.write_all_at(&[0; COPY], env.order.newest().of(STATE))
            .unwrap();
        assert!(!env.has_state(&state).unwrap() && env.has_state(&born()).unwrap());
    }

    #[test]
    fn a_lost_loader_copy_is_seen() {
        let file = partition();
        let env = Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
        let next = Loader {
            default: Slot::B,
            trial: None,
        };
        env.write_loader(&next).unwrap();
        file.write_all_at(&[1], 100).unwrap();
        let (_, found) = Bootenv::open(&file).unwrap();
        assert!(!found.loader_is_mirrored());
        assert_eq!(found.loader(), Some(next));
    }

    #[test]
    fn the_loader_copy_that_counts_is_written_last() {
        let next = Loader::starts(Slot::B);
        for (lost, order) in [(None, [1, 0]), (Some(0), [0, 1]), (Some(1), [1, 0])] {
            let file = partition();
            Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
            if let Some(lost) = lost {
                file.write_all_at(&[1], LOADER[lost] + 100).unwrap();
            }
            let (_, found) = Bootenv::open(&file).unwrap();
            let mut seen = Seen::default();
            Order::of(&found)
                .perform(&mut seen, &Write::Loader(next))
                .unwrap();
            assert_eq!(seen.0, [order[0], FLUSH, order[1], FLUSH]);
        }
    }

    #[test]
    fn what_is_performed_is_found_again() {
        let file = partition();
        let mut env = Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
        let (mut one, mut both) = (born(), born());
        (one.unsettled, both.unsettled) = (1, 2);
        env.perform(&Write::State(one.clone())).unwrap();
        env.perform(&Write::Loader(Loader::starts(Slot::B)))
            .unwrap();
        let (mut env, found) = Bootenv::open(&file).unwrap();
        assert_eq!(found.state(), Some(&one));
        assert_eq!(found.loader(), Some(Loader::starts(Slot::B)));
        assert!(found.loader_is_mirrored());
        env.perform(&Write::StateBoth(both.clone())).unwrap();
        let (_, found) = Bootenv::open(&file).unwrap();
        let states = found.state.map(|copy| copy.unwrap().state);
        assert_eq!(states, [both.clone(), both]);
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

    #[test]
    fn autoboot_txt_is_one_write_and_one_flush() {
        let file = partition();
        Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
        let (_, found) = Bootenv::open(&file).unwrap();
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
        let env = Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
        let mut order = env.order.at(order::Place::Autoboot);
        let write = Write::Loader(Loader::starts(Slot::B));
        let done = order.perform(&mut env.partition(), &write);
        assert_eq!(done, Err(Error::NoAutoboot));
    }

    #[test]
    fn a_base_moves_everything() {
        let file = partition();
        Bootenv::create_at(&file, 65536, &Loader::born(), &born()).unwrap();
        assert_eq!(Bootenv::open(&file).unwrap().1.state(), None);
        assert_eq!(
            Bootenv::open_at(&file, 65536).unwrap().1.state(),
            Some(&born())
        );
    }

    #[test]
    fn the_last_words_are_kept_until_cleared() {
        let file = partition();
        let env = Bootenv::create_at(&file, 0, &Loader::born(), &born()).unwrap();
        assert_eq!(env.read_last_resort(), Ok(None));
        env.write_last_resort(b"PID 1 panicked").unwrap();
        assert_eq!(env.read_last_resort(), Ok(Some(b"PID 1 panicked".to_vec())));
        file.write_all_at(b"X", LAST_RESORT + 17).unwrap();
        assert_eq!(env.read_last_resort(), Ok(None));
        env.clear_last_resort().unwrap();
        assert_eq!(env.read_last_resort(), Ok(None));
        let long = vec![b'x'; LAST_RESORT_TEXT + 1];
        assert_eq!(
            env.write_last_resort(&long),
            Err(Error::TooLong { length: long.len() })
        );
    }

    #[test]
    fn a_partition_that_is_too_short_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(Bootenv::open(&file), Err(Error::Short { .. })));
    }
}
