//! Copies a directory with everything that a container may have written into it, with a bound.
//!
//! Files, directories and symbolic links, hard links among them, with owners, modes, times and extended attributes;
//! holes stay holes. Sockets, pipes and device nodes are left out: what made them makes them again. Every step goes
//! from an open directory to a name in it, and no link is followed: whatever stands there, nothing outside is read.
//!
//! It syncs nothing. Who writes meanwhile gets a copy of something between.

use super::super::Error;
use kedge_sys::Errno;
use kedge_sys::rustix::buffer::spare_capacity;
use kedge_sys::rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, Timestamps, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, fstat, ftruncate, futimens, linkat, mkdirat, openat,
    readlinkat, seek, statat, symlinkat, utimensat,
};
use kedge_sys::rustix::thread::{Gid, Uid};
use kedge_sys::rustix::time::Timespec;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Deepest directory: each level holds open files.
const MOST_DEPTH: u64 = 64;
/// Most names of one copy.
const MOST_NAMES: u64 = 100_000;
/// What a name costs, bytes: an inode and a share of its directory.
const NAME_COST: u64 = 512;
/// Bytes that are given out at once.
const BLOCK: u64 = 4096;
/// What is copied at once.
const CHUNK: usize = 64 * 1024;
/// Longest list and value of extended attributes (xattr(7)).
const MOST_XATTR: usize = 64 * 1024;

/// What went wrong.
#[derive(Debug)]
enum Failure {
    /// The system refused something.
    System(&'static str, Errno),
    /// The copy is larger than its bound.
    TooLarge,
    /// There are more names than any copy has.
    TooMany,
    /// There are directories in directories without end.
    TooDeep,
}

impl Failure {
    /// For `map_err`.
    fn at(doing: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System(doing, errno)
    }

    /// As an error about `place` in `volume`, whose copy may have `most` bytes.
    fn of(self, volume: &Path, place: &Path, most: u64) -> Error {
        let too_large = |what, most| Error::CopyTooLarge {
            path: volume.to_owned(),
            what,
            most,
        };
        match self {
            Self::System(doing, errno) => Error::File {
                doing,
                path: volume.join(place),
                source: errno.into(),
            },
            Self::TooLarge => too_large("bytes", most),
            Self::TooMany => too_large("names", MOST_NAMES),
            Self::TooDeep => too_large("levels of directories", MOST_DEPTH),
        }
    }
}

/// A copy on its way.
#[derive(Debug)]
struct Copy<'a> {
    /// The first name of each file with several, by its number: the file system remembers, not this.
    links: &'a OwnedFd,
    /// Bytes that it may still take.
    left: u64,
    names: u64,
    /// Where the walk is, below the top.
    place: PathBuf,
    buffer: Vec<u8>,
}

/// Copies what is in the directory `from`, and what it is itself, to the empty directory `to`; the empty directory
/// `links` is of no use afterwards. It is the volume at `volume`, and its copy may take `most` bytes.
///
/// # Errors
/// [`Error::File`] with the place, [`Error::CopyTooLarge`].
pub(super) fn copy(
    from: &OwnedFd,
    to: &OwnedFd,
    links: &OwnedFd,
    volume: &Path,
    most: u64,
) -> Result<(), Error> {
    let mut copy = Copy {
        links,
        left: most,
        names: 0,
        place: PathBuf::new(),
        buffer: vec![0; CHUNK],
    };
    copy.directory(from, to, 0)
        .map_err(|failure| failure.of(volume, &copy.place, most))
}

impl Copy<'_> {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, depth: u64) -> Result<(), Failure> {
        if depth >= MOST_DEPTH {
            return Err(Failure::TooDeep);
        }
        let entries = Dir::read_from(from).map_err(Failure::at("list"))?;
        for entry in entries {
            let entry = entry.map_err(Failure::at("list"))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.place
                .push(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.entry(from, to, name, depth)?;
            self.place.pop();
        }
        let stat = fstat(from).map_err(Failure::at("stat"))?;
        self.properties(from.as_fd(), to.as_fd(), &stat)
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        depth: u64,
    ) -> Result<(), Failure> {
        self.names = self.names.saturating_add(1);
        if self.names > MOST_NAMES {
            return Err(Failure::TooMany);
        }
        self.take(NAME_COST)?;
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(Failure::at("stat"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(from, name, flags, Mode::empty());
                let below = below.map_err(Failure::at("open a directory in"))?;
                mkdirat(to, name, Mode::RWXU).map_err(Failure::at("make a directory for"))?;
                let copy = openat(to, name, flags, Mode::empty());
                let copy = copy.map_err(Failure::at("open a directory for"))?;
                self.directory(&below, &copy, depth.saturating_add(1))
            }
            FileType::RegularFile => self.file(from, to, name),
            FileType::Symlink => symlink(from, to, name, &stat),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Ok(()),
        }
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<(), Failure> {
        // It may have become something else since it was looked at: a pipe must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = openat(from, name, flags, Mode::empty()).map_err(Failure::at("open"))?;
        let stat = fstat(&source).map_err(Failure::at("stat"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let number = (stat.st_nlink > 1).then(|| format!("{:x}", stat.st_ino));
        if let Some(number) = &number {
            match linkat(self.links, number, to, name, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                linked => return linked.map_err(Failure::at("link")),
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR);
        let target = target.map_err(Failure::at("make a file for"))?;
        let (source, target) = (File::from(source), File::from(target));
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.contents(&source, &target, size)?;
        self.properties(source.as_fd(), target.as_fd(), &stat)?;
        number.map_or(Ok(()), |number| {
            linkat(to, name, self.links, number, AtFlags::empty()).map_err(Failure::at("link"))
        })
    }

    /// Copies data and leaves holes.
    fn contents(&mut self, source: &File, target: &File, size: u64) -> Result<(), Failure> {
        ftruncate(target, size).map_err(Failure::at("size"))?;
        let mut at = 0_u64;
        while at < size {
            let data = match seek(source, SeekFrom::Data(at)) {
                Ok(data) => data,
                // No more data behind it.
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(Failure::System("seek in", errno)),
            };
            let hole = seek(source, SeekFrom::Hole(data)).map_err(Failure::at("seek in"))?;
            let end = hole.min(size);
            at = data;
            while at < end {
                let want = usize::try_from(end.saturating_sub(at)).unwrap_or(CHUNK);
                let mut buffer = std::mem::take(&mut self.buffer);
                let room = buffer.get_mut(..want.min(CHUNK)).unwrap_or_default();
                let count = source.read_at(room, at).map_err(|e| io("read", &e))?;
                let bytes = room.get(..count).unwrap_or_default();
                if bytes.is_empty() {
                    self.buffer = buffer;
                    // It was cut meanwhile.
                    return Ok(());
                }
                let length = u64::try_from(count).unwrap_or(u64::MAX);
                self.take(length.next_multiple_of(BLOCK))?;
                target
                    .write_all_at(bytes, at)
                    .map_err(|e| io("write a copy of", &e))?;
                self.buffer = buffer;
                at = at.saturating_add(length);
            }
        }
        Ok(())
    }

    /// Counts bytes that the copy takes.
    fn take(&mut self, bytes: u64) -> Result<(), Failure> {
        self.left = self.left.checked_sub(bytes).ok_or(Failure::TooLarge)?;
        Ok(())
    }

    /// Owner first, since a change of owner takes bits of the mode and file capabilities away; times last.
    fn properties(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<(), Failure> {
        let (user, group) = owner(stat);
        fchown(to, user, group).map_err(Failure::at("give an owner to"))?;
        fchmod(to, Mode::from_raw_mode(stat.st_mode)).map_err(Failure::at("give a mode to"))?;
        self.attributes(from, to)?;
        futimens(to, &times(stat)).map_err(Failure::at("give times to"))
    }

    /// Attributes that programs in containers can have set.
    fn attributes(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Failure> {
        let mut names = Vec::with_capacity(MOST_XATTR);
        match flistxattr(from, spare_capacity(&mut names)) {
            Ok(_) => {}
            // A file system without them.
            Err(Errno::NOTSUP) => return Ok(()),
            Err(errno) => return Err(Failure::System("list attributes of", errno)),
        }
        let names = names.split_inclusive(|byte| *byte == 0);
        for name in names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
            let text = name.to_bytes();
            let wanted = text.starts_with(b"user.")
                || text.starts_with(b"system.posix_acl_")
                || text == b"security.capability";
            if !wanted {
                continue;
            }
            let mut value = Vec::with_capacity(MOST_XATTR);
            fgetxattr(from, name, spare_capacity(&mut value))
                .map_err(Failure::at("read an attribute of"))?;
            self.take(u64::try_from(value.len()).unwrap_or(u64::MAX))?;
            fsetxattr(to, name, &value, XattrFlags::empty())
                .map_err(Failure::at("give an attribute to"))?;
        }
        Ok(())
    }
}

fn symlink(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Failure> {
    let target = readlinkat(from, name, Vec::new()).map_err(Failure::at("read a link in"))?;
    symlinkat(target, to, name).map_err(Failure::at("make a link for"))?;
    let (user, group) = owner(stat);
    chownat(to, name, user, group, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(Failure::at("give an owner to"))?;
    utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(Failure::at("give times to"))
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
}

fn times(stat: &Stat) -> Timestamps {
    // The kernel's structure has other types for these on other machines.
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec.try_into().unwrap_or(0),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0),
        },
    }
}

fn io(doing: &'static str, error: &std::io::Error) -> Failure {
    Failure::System(doing, Errno::from_io_error(error).unwrap_or(Errno::IO))
}
