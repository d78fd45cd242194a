//! The partition `boot` whose only file is `autoboot.txt`: reading it whole, and writing one sector of it.
//!
//! What the file says, and where everything is, is [`Autoboot`]'s.

use super::{read_exact, sync, write_all};
use crate::Error;
use crate::autoboot::Autoboot;
use crate::record::Loader;
use crate::slot::SECTOR;
use kedge_sys::rustix::fd::AsFd;
use kedge_sys::rustix::fs::{Advice, fadvise};

/// An open partition `boot`.
#[derive(Debug)]
pub(super) struct Boot<Fd> {
    fd: Fd,
    base: u64,
    autoboot: Autoboot,
    /// The tables of its file system are as they should be.
    whole: bool,
}

impl<Fd: AsFd> Boot<Fd> {
    /// The partition that begins at byte `base` of `fd`, and the record in it, if that and the file system are whole.
    pub(super) fn open(
        fd: Fd,
        base: u64,
        autoboot: Autoboot,
    ) -> Result<(Self, Option<Loader>), Error> {
        let mut sector = [0; SECTOR];
        let at = autoboot.offset().ok_or(Error::NoAutoboot)?;
        read_exact(&fd, base.saturating_add(at), &mut sector)?;
        let mut whole = true;
        for (offset, table) in autoboot.tables() {
            let mut bytes = vec![0; table.len()];
            read_exact(&fd, base.saturating_add(offset), &mut bytes)?;
            whole &= bytes == table;
        }
        let record = autoboot.parse(&sector).filter(|_| whole);
        let boot = Self {
            fd,
            base,
            autoboot,
            whole,
        };
        Ok((boot, record))
    }

    /// Writes the file's sector, and where the file system is damaged all of that.
    pub(super) fn write(&self, record: &Loader) -> Result<(), Error> {
        let sector = self.autoboot.sector(record.default);
        let (Some(at), Some(sector)) = (self.autoboot.offset(), sector) else {
            return Err(Error::NoAutoboot);
        };
        write_all(&self.fd, self.base.saturating_add(at), &sector)?;
        if !self.whole {
            for (offset, table) in self.autoboot.tables() {
                write_all(&self.fd, self.base.saturating_add(offset), table)?;
            }
        }
        Ok(())
    }

    pub(super) fn flush(&self) -> Result<(), Error> {
        sync(&self.fd)
    }

    /// What the firmware will read is what was written: there is no second copy.
    pub(super) fn read_back(&mut self, record: &Loader) -> Result<(), Error> {
        // What the kernel remembers of it says nothing of the disk. A file system that has no such advice reads from memory.
        fadvise(&self.fd, 0, None, Advice::DontNeed).ok();
        let mut sector = [0; SECTOR];
        let at = self.autoboot.offset().ok_or(Error::NoAutoboot)?;
        read_exact(&self.fd, self.base.saturating_add(at), &mut sector)?;
        self.whole = self.autoboot.parse(&sector) == Some(*record);
        if self.whole {
            Ok(())
        } else {
            Err(Error::AutobootLost)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bootenv;
    use super::*;
    use crate::control::Write;
    use crate::record::{Slot, State};
    use kedge_revision::{Floor, ObjectId};
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_record_in_autoboot_txt_leaves_the_copies_alone() {
        const BASE: u64 = 1 << 20;
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(8 << 20).unwrap();
        Bootenv::create_at(&disk, 0, &Loader::born(), &state()).unwrap();
        let autoboot = Autoboot::new(4 << 20, [2, 3]).unwrap();
        let open = || {
            let (env, found) = Bootenv::open(&disk).unwrap();
            assert_eq!(found.loader(), Some(Loader::born()));
            env.with_autoboot(&disk, BASE, autoboot.clone()).unwrap()
        };
        // Nothing is there: the whole file system is made.
        let (mut env, record) = open();
        assert_eq!(record, None);
        for slot in [Slot::B, Slot::A, Slot::B] {
            env.perform(&Write::Loader(Loader::starts(slot))).unwrap();
            assert_eq!(open().1, Some(Loader::starts(slot)));
        }
        let at = BASE + autoboot.offset().unwrap();
        let mut sector = [0; SECTOR];
        disk.read_exact_at(&mut sector, at).unwrap();
        assert_eq!(Some(sector), autoboot.sector(Slot::B));
        // Damage of the file, and of each table.
        let tables = autoboot.tables().map(|(offset, _)| BASE + offset);
        for place in tables.chain([at]) {
            disk.write_all_at(b"?", place).unwrap();
            let (mut env, record) = open();
            assert_eq!(record, None, "{place}");
            env.perform(&Write::Loader(Loader::starts(Slot::B)))
                .unwrap();
            assert_eq!(open().1, Some(Loader::starts(Slot::B)));
        }
        // The state goes where it always goes.
        let (mut env, _) = open();
        let mut changed = state();
        changed.unsettled = 3;
        env.perform(&Write::StateBoth(changed.clone())).unwrap();
        assert_eq!(Bootenv::open(&disk).unwrap().1.state(), Some(&changed));
    }

    fn state() -> State {
        State::born(ObjectId::from_digest([7; 32]), Floor::default(), 1)
    }
}
