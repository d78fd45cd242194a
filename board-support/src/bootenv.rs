//! The raw partition `bootenv`: where the boot record lives, and the order in which it is written.
//!
//! It holds both records in two copies each, and the text that `last_resort` leaves: `KEDGELR1`, length (u32 LE), CRC-32 of the
//! text (u32 LE), text. Where they are, on a disk and on raw flash, is [`Layout`]'s.
//!
//! Of a Raspberry Pi's firmware the loader record is in `autoboot.txt` of another partition, and the two copies here are
//! left alone ([`Bootenv::with_autoboot`]).
//!
//! The order of writes and flushes is that of [`order`]; the model check runs it on a simulated disk.
//!
//! It writes nothing but what it is told, and does not repair on its own: PID 1 decides.

mod boot;
pub mod layout;
pub mod order;

pub use layout::{EraseBlock, Layout};
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
use layout::{Part, Step};

/// Longest text of `last_resort`, bytes.
pub const LAST_RESORT_TEXT: usize = 32 * 1024;

/// The copies in the order in which [`Found`] has them.
const COPIES: [Part; 4] = [
    Part::Loader(Side::First),
    Part::Loader(Side::Second),
    Part::State(Side::First),
    Part::State(Side::Second),
];
/// Bytes of the header of `last_resort`'s text.
const LAST_RESORT_HEADER: u64 = 16;
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
    /// What the bytes of the copies say: of the loader record both, then of the state both.
    #[must_use]
    pub fn parse(copies: [&[u8]; 4]) -> Self {
        let [one, two, three, four] = copies;
        Self {
            loader: [one, two].map(|copy| Ok(Loader::parse(copy)?)),
            state: [three, four].map(Numbered::parse),
        }
    }

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
    layout: Layout,
    order: Order,
    autoboot: Option<Boot<Fd>>,
}

impl<Fd: AsFd> Bootenv<Fd> {
    /// Reads both records. Damaged copies are no error here: see [`Found`].
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Short`]: the partition itself cannot be read.
    pub fn open(fd: Fd, layout: Layout) -> Result<(Self, Found), Error> {
        Self::open_at(fd, 0, layout)
    }

    /// As [`Bootenv::open`], for a partition that begins at byte `base` of the file.
    ///
    /// # Errors
    /// As [`Bootenv::open`].
    pub fn open_at(fd: Fd, base: u64, layout: Layout) -> Result<(Self, Found), Error> {
        let mut copies = [[0_u8; COPY]; 4];
        for (part, copy) in COPIES.into_iter().zip(&mut copies) {
            read_exact(&fd, base.saturating_add(layout.offset(part)), copy)?;
        }
        let found = Found::parse(copies.each_ref().map(|copy| &copy[..]));
        let order = Order::of(&found);
        let new = Self {
            fd,
            base,
            layout,
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
        let (_, found) = Bootenv::open_at(self.fd.as_fd(), self.base, self.layout)?;
        Ok(found.state() == Some(state))
    }

    /// From now on the loader record is `autoboot.txt` in a partition: its file, the byte at which it begins there, its layout.
    /// With it the record that is found; or why there is none, as [`Error::AutobootDamaged`], [`Error::Read`], or for want of a
    /// partition [`Error::NoAutoboot`]. None of that is an error here, since all of it follows from the state.
    pub fn with_autoboot(
        mut self,
        boot: Option<(Fd, u64, Autoboot)>,
    ) -> (Self, Result<Loader, Error>) {
        self.order = self.order.at(order::Place::Autoboot);
        let Some((fd, base, autoboot)) = boot else {
            return (self, Err(Error::NoAutoboot));
        };
        let (boot, record) = Boot::open(fd, base, autoboot);
        self.autoboot = Some(boot);
        (self, record)
    }

    /// Makes a fresh boot record at byte `base` of `fd`, whatever was there: for images.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Sync`].
    pub fn create_at(
        fd: Fd,
        base: u64,
        layout: Layout,
        loader: &Loader,
        state: &State,
    ) -> Result<Self, Error> {
        let mut new = Self {
            fd,
            base,
            layout,
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
    pub fn write_loader(&mut self, record: &Loader) -> Result<(), Error> {
        let mut order = self.order;
        let done = order.loader(&mut self.partition(), record);
        self.order = order;
        done
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
        let mut partition = self.partition();
        let offset = self.layout.offset(Part::LastResort);
        if let Some(erase) = self.layout.erase(Part::LastResort) {
            partition.step(erase)?;
        }
        // The text first: a header without its text has a wrong checksum, a text without its header is not looked at.
        partition.step(Step::Write {
            offset: offset.saturating_add(LAST_RESORT_HEADER),
            bytes: text,
        })?;
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
        partition.step(Step::Write {
            offset,
            bytes: &header,
        })?;
        partition.flush()
    }

    /// The text that an earlier boot left; none if there is none or it is torn.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Short`].
    pub fn read_last_resort(&self) -> Result<Option<Vec<u8>>, Error> {
        let offset = self
            .base
            .saturating_add(self.layout.offset(Part::LastResort));
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
        let place = offset.saturating_add(LAST_RESORT_HEADER);
        read_exact(&self.fd, place, &mut text)?;
        Ok((rest == crc32(&text).to_le_bytes()).then_some(text))
    }

    /// Forgets the text, once it was reported.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Sync`].
    pub fn clear_last_resort(&self) -> Result<(), Error> {
        let mut partition = self.partition();
        partition.put(Part::LastResort, &[0; 16])?;
        partition.flush()
    }

    const fn partition(&self) -> Partition<'_, Fd> {
        Partition {
            fd: &self.fd,
            base: self.base,
            layout: self.layout,
            autoboot: self.autoboot.as_ref(),
        }
    }
}

/// The medium that a boot record is really written to.
struct Partition<'a, Fd> {
    fd: &'a Fd,
    base: u64,
    layout: Layout,
    autoboot: Option<&'a Boot<Fd>>,
}

impl<Fd: AsFd> Partition<'_, Fd> {
    fn put(&self, part: Part, bytes: &[u8]) -> Result<(), Error> {
        self.layout
            .steps(part, bytes)
            .try_for_each(|step| self.step(step))
    }

    fn step(&self, step: Step<'_>) -> Result<(), Error> {
        // Erase blocks are whole pieces of it.
        const ONES: [u8; 4096] = [0xff; 4096];
        match step {
            Step::Write { offset, bytes } => {
                write_all(self.fd, self.base.saturating_add(offset), bytes)
            }
            Step::Erase { offset, length } => (0..length).step_by(ONES.len()).try_for_each(|at| {
                let place = self.base.saturating_add(offset).saturating_add(at);
                write_all(self.fd, place, &ONES)
            }),
        }
    }
}

impl<Fd: AsFd> Medium for Partition<'_, Fd> {
    fn loader(&mut self, side: Side, record: &Loader) -> Result<(), Error> {
        self.put(Part::Loader(side), &record.encode())
    }

    fn state(&mut self, side: Side, sequence: u64, state: &State) -> Result<(), Error> {
        self.put(Part::State(side), &state.encode(sequence))
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
mod tests;
