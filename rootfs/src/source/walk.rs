//! A root file system given as a directory, walked into members as if it were a tar.
//!
//! Links are never followed; names are sorted, so that the order of the directory does not show. The directory is the user's
//! own and must not change meanwhile: a file that does gives an error, never a wrong size.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::archive::{Kind, Member, Mtime, Sink};
use crate::bounds::{Limit, check, len};
use crate::error::Error;
use crate::layer::normalise::{Normaliser, Shared, Whiteouts};
use crate::layer::path::{join, show};
use crate::layer::tree::Tree;
use crate::layer::xattr::Xattrs;
use crate::note::Note;

/// Names of files that have more than one, by device and inode.
type Links = BTreeMap<(u64, u64), Vec<u8>>;

/// Builds the tree of a directory.
pub(crate) fn tree(root: &Path, shared: &mut Shared) -> Result<Tree, Error> {
    let bounds = shared.bounds;
    let mut links = Links::new();
    let mut left_out = Vec::new();
    let mut normaliser = Normaliser::new(shared, 0, Whiteouts::Refused);
    let mut todo = vec![(root.to_path_buf(), b".".to_vec())];
    while let Some((host, path)) = todo.pop() {
        let metadata = fs::symlink_metadata(&host).map_err(Error::io("read", &host))?;
        let Some(member) = member(&host, &path, &metadata, &mut links)? else {
            left_out.push(show(&path));
            continue;
        };
        let content = normaliser.add(&member)?;
        if let Some(content) = content {
            copy(&host, member.size, &mut |at, bytes| {
                normaliser.write(content, at, bytes)
            })?;
        }
        if member.kind == Kind::Directory {
            let mut names = Vec::new();
            for entry in fs::read_dir(&host).map_err(Error::io("list", &host))? {
                names.push(entry.map_err(Error::io("list", &host))?.file_name());
                check(
                    len(names.len()),
                    bounds.entries,
                    Limit::Entries,
                    &show(&path),
                )?;
            }
            // The stack gives the last one first; every name must be seen before the hard links to it, in a fixed order.
            names.sort_by(|a, b| b.cmp(a));
            let below = if path == b"." { &[][..] } else { &path[..] };
            todo.extend(
                names
                    .iter()
                    .map(|n| (host.join(n), join(below, n.as_bytes()))),
            );
        }
    }
    let tree = normaliser.finish();
    for path in left_out {
        shared.notes.add(Note::LeftOut { layer: 0, path });
    }
    Ok(tree)
}

fn member(
    host: &Path,
    path: &[u8],
    metadata: &Metadata,
    links: &mut Links,
) -> Result<Option<Member>, Error> {
    let file_type = metadata.file_type();
    let device = || {
        let device = metadata.rdev();
        (rustix::fs::major(device), rustix::fs::minor(device))
    };
    let kind = if file_type.is_dir() {
        Kind::Directory
    } else if let Some(first) = known_link(metadata, path, links) {
        Kind::HardLink(first)
    } else if file_type.is_file() {
        Kind::Regular
    } else if file_type.is_symlink() {
        let target = fs::read_link(host).map_err(Error::io("read", host))?;
        Kind::Symlink(target.into_os_string().into_vec())
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else if file_type.is_char_device() {
        Kind::Character(device().0, device().1)
    } else if file_type.is_block_device() {
        Kind::Block(device().0, device().1)
    } else {
        // A socket belongs to a process that is not in the image.
        return Ok(None);
    };
    Ok(Some(Member::new(
        path.to_vec(),
        metadata.mode(),
        (metadata.uid().into(), metadata.gid().into()),
        mtime(metadata),
        xattrs(host)?,
        if kind == Kind::Regular {
            metadata.len()
        } else {
            0
        },
        kind,
    )))
}

/// The first name of a file with several, or `None` and this is it.
fn known_link(metadata: &Metadata, path: &[u8], links: &mut Links) -> Option<Vec<u8>> {
    if metadata.nlink() < 2 || !metadata.file_type().is_file() {
        return None;
    }
    let inode = (metadata.dev(), metadata.ino());
    if let Some(first) = links.get(&inode) {
        return Some(first.clone());
    }
    links.insert(inode, path.to_vec());
    None
}

fn mtime(metadata: &Metadata) -> Mtime {
    match (
        u64::try_from(metadata.mtime()),
        u32::try_from(metadata.mtime_nsec()),
    ) {
        (Ok(seconds), Ok(nanoseconds)) => Mtime::new(seconds, nanoseconds),
        _ => Mtime::default(),
    }
}

fn copy(host: &Path, size: u64, sink: &mut Sink<'_>) -> Result<(), Error> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap_or(0));
    let file: File = options.open(host).map_err(Error::io("open", host))?;
    let mut file = file.take(size);
    let mut buffer = vec![0; 128 << 10];
    let mut at = 0;
    while at < size {
        let read = file.read(&mut buffer).map_err(Error::io("read", host))?;
        if read == 0 {
            let name = host.display().to_string();
            return Err(Error::Size {
                name,
                stated: size,
                found: at,
            });
        }
        sink(at, buffer.get(..read).unwrap_or_default())?;
        at += len(read);
    }
    Ok(())
}

/// Extended attributes; a file system without them has none.
fn xattrs(host: &Path) -> Result<Xattrs, Error> {
    // Linux allows no longer list and no longer value (XATTR_LIST_MAX, XATTR_SIZE_MAX).
    let failed = |e: rustix::io::Errno| Error::io("read the attributes of", host)(e.into());
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(host, &mut list[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(failed(e)),
    };
    list.truncate(length);
    let mut xattrs = Vec::new();
    for name in list.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(
            host,
            PathBuf::from(std::ffi::OsStr::from_bytes(name)),
            &mut value[..],
        )
        .map_err(failed)?;
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    Ok(xattrs)
}
