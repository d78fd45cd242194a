//! The partition `boot` whose only file is `autoboot.txt`: reading it whole, and writing one sector of it.
//!
//! What the file says, and where everything is, is [`Autoboot`]'s.

use super::{read_exact, sync, write_all};
use crate::Error;
use crate::autoboot::{Autoboot, Step};
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
    /// The partition that begins at byte `base` of `fd`, and the record in it: or why there is none. A place that cannot be
    /// read is damage like any other, which a write may mend.
    pub(super) fn open(fd: Fd, base: u64, autoboot: Autoboot) -> (Self, Result<Loader, Error>) {
        let mut boot = Self {
            fd,
            base,
            autoboot,
            whole: false,
        };
        let tables = boot.tables_are_whole();
        boot.whole = tables.is_ok();
        let record = tables.and_then(|()| boot.record());
        (boot, record)
    }

    fn tables_are_whole(&self) -> Result<(), Error> {
        for (offset, table) in self.autoboot.tables() {
            let mut bytes = vec![0; table.len()];
            read_exact(&self.fd, self.base.saturating_add(offset), &mut bytes)?;
            if bytes != table {
                return Err(Error::AutobootDamaged);
            }
        }
        Ok(())
    }

    fn record(&self) -> Result<Loader, Error> {
        let mut sector = [0; SECTOR];
        let at = self.autoboot.offset().ok_or(Error::NoAutoboot)?;
        read_exact(&self.fd, self.base.saturating_add(at), &mut sector)?;
        self.autoboot.parse(&sector).ok_or(Error::AutobootDamaged)
    }

    /// Writes the file's sector, and where the file system is damaged all of that.
    pub(super) fn write(&self, record: &Loader) -> Result<(), Error> {
        let sector = self.autoboot.sector(record.default);
        let (Some(at), Some(sector)) = (self.autoboot.offset(), sector) else {
            return Err(Error::NoAutoboot);
        };
        if self.whole {
            return write_all(&self.fd, self.base.saturating_add(at), &sector);
        }
        for step in self.autoboot.anew(&sector)? {
            match step {
                Step::Write { offset, bytes } => {
                    write_all(&self.fd, self.base.saturating_add(offset), bytes)?;
                }
                Step::Flush => self.flush()?,
            }
        }
        Ok(())
    }

    pub(super) fn flush(&self) -> Result<(), Error> {
        sync(&self.fd)
    }

    /// What the firmware will read is what was written, the tables by which it finds it too: there is no second copy.
    pub(super) fn read_back(&mut self, record: &Loader) -> Result<(), Error> {
        // What the kernel remembers of it says nothing of the disk. A file system that has no such advice reads from memory.
        fadvise(&self.fd, 0, None, Advice::DontNeed).ok();
        let tables = self.tables_are_whole();
        self.whole = tables.is_ok();
        match tables.and_then(|()| self.record()) {
            Ok(found) if found == *record => Ok(()),
            Ok(_) | Err(Error::AutobootDamaged) => Err(Error::AutobootLost),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bootenv, Layout};
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
        Bootenv::create_at(&disk, 0, Layout::Sectors, &Loader::born(), &state()).unwrap();
        let autoboot = Autoboot::new(4 << 20, [2, 3]).unwrap();
        let open = || {
            let (env, found) = Bootenv::open(&disk, Layout::Sectors).unwrap();
            assert_eq!(found.loader(), Some(Loader::born()));
            env.with_autoboot(Some((&disk, BASE, autoboot.clone())))
        };
        // Nothing is there: the whole file system is made.
        let (mut env, record) = open();
        assert_eq!(record, Err(Error::AutobootDamaged));
        for slot in [Slot::B, Slot::A, Slot::B] {
            env.perform(&Write::Loader(Loader::starts(slot))).unwrap();
            assert_eq!(open().1, Ok(Loader::starts(slot)));
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
            assert_eq!(record, Err(Error::AutobootDamaged), "{place}");
            env.perform(&Write::Loader(Loader::starts(Slot::B)))
                .unwrap();
            assert_eq!(open().1, Ok(Loader::starts(Slot::B)));
        }
        // The state goes where it always goes.
        let (mut env, _) = open();
        let mut changed = state();
        changed.unsettled = 3;
        env.perform(&Write::StateBoth(changed.clone())).unwrap();
        assert_eq!(
            Bootenv::open(&disk, Layout::Sectors).unwrap().1.state(),
            Some(&changed)
        );
    }

    #[test]
    fn what_is_read_back_has_its_tables_too() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(4 << 20).unwrap();
        let autoboot = Autoboot::new(4 << 20, [2, 3]).unwrap();
        let (mut boot, _) = Boot::open(&disk, 0, autoboot.clone());
        let record = Loader::starts(Slot::B);
        boot.write(&record).unwrap();
        boot.read_back(&record).unwrap();
        for (place, table) in autoboot.tables() {
            // A disk that took the sector and dropped a table.
            disk.write_all_at(&vec![0xa5; table.len()], place).unwrap();
            assert_eq!(boot.read_back(&record), Err(Error::AutobootLost), "{place}");
            // So that the next write makes all of it.
            boot.write(&record).unwrap();
            boot.read_back(&record).unwrap();
        }
        assert_eq!(
            boot.read_back(&Loader::starts(Slot::A)),
            Err(Error::AutobootLost)
        );
    }

    #[test]
    fn a_place_that_cannot_be_read_is_damage_and_a_write_mends_it() {
        let autoboot = Autoboot::new(4 << 20, [2, 3]).unwrap();
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(4 << 20).unwrap();
        let record = Loader::starts(Slot::B);
        let (boot, _) = Boot::open(&disk, 0, autoboot.clone());
        boot.write(&record).unwrap();
        // The table that ends there, and then the file, are beyond what can be read.
        let [.., (root, _), _] = autoboot.tables().collect::<Vec<_>>()[..] else {
            panic!("no tables");
        };
        for end in [root + 1, autoboot.offset().unwrap() + 1] {
            disk.set_len(end).unwrap();
            let (mut boot, found) = Boot::open(&disk, 0, autoboot.clone());
            assert!(matches!(found, Err(Error::Short { .. })), "{found:?}");
            disk.set_len(4 << 20).unwrap();
            boot.write(&record).unwrap();
            boot.read_back(&record).unwrap();
        }
    }

    fn state() -> State {
        State::born(ObjectId::from_digest([7; 32]), Floor::default(), 1)
    }
}
