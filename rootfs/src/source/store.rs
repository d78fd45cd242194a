//! Named blobs: files below a directory, or members of an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::archive::{Kind, TarReader};
use crate::bounds::{Bounds, Limit, check, len};
use crate::error::{Error, TarFault};
use crate::layer::path::{clean, join, split};
use crate::stream::{self, Compression, Stretch};

/// See the module.
#[derive(Debug)]
pub(crate) enum Store {
    Folder(PathBuf),
    Archive {
        file: File,
        members: BTreeMap<Vec<u8>, Place>,
    },
}

/// A member of an archive.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    At {
        offset: u64,
        size: u64,
    },
    /// Old versions of `docker save` link equal layers.
    Link(Vec<u8>),
}

impl Store {
    pub(crate) fn folder(path: &Path) -> Result<Self, Error> {
        super::directory(path).map(Self::Folder)
    }

    /// Lists an archive's members; of equal names the last holds.
    pub(crate) fn archive(path: &Path, bounds: &Bounds) -> Result<Self, Error> {
        let at = path.display().to_string();
        let mut file = plain_file(path, bounds, &at)?;
        let mut members = BTreeMap::new();
        let mut reader = TarReader::new(
            io::BufReader::with_capacity(256 << 10, &mut file),
            *bounds,
            &at,
        );
        while let Some(member) = reader.next()? {
            check(len(members.len()), len(bounds.members), Limit::Members, &at)?;
            // A name that is no path is nothing that a manifest could name.
            let Ok(name) = clean(&member.path, bounds, &at) else {
                continue;
            };
            let place = match member.kind {
                Kind::Regular => Place::At {
                    offset: member.offset,
                    size: member.size,
                },
                Kind::Symlink(target) => Place::Link(relative(split(&name).0, &target)),
                Kind::HardLink(target) => Place::Link(relative(&[], &target)),
                Kind::Directory | Kind::Character(..) | Kind::Block(..) | Kind::Fifo => continue,
            };
            members.insert(name, place);
        }
        Ok(Self::Archive { file, members })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).is_file(),
            Self::Archive { .. } => self.place(name.as_bytes()).is_some(),
        }
    }

    /// Opens a blob: its bytes and its size. `wanted_by` is for the message if it is not there.
    pub(crate) fn open(
        &self,
        name: &str,
        wanted_by: &str,
    ) -> Result<(Box<dyn Read + '_>, u64), Error> {
        let missing = || Error::Missing {
            name: name.to_owned(),
            wanted_by: wanted_by.to_owned(),
        };
        match self {
            Self::Folder(folder) => {
                if clean(name.as_bytes(), &Bounds::default(), name).is_err() {
                    return Err(missing());
                }
                let path = folder.join(name);
                // Asked before opening: to open a pipe would wait for ever.
                if !path.is_file() {
                    return Err(missing());
                }
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                let size = file.metadata().map_err(Error::io("read", &path))?.len();
                Ok((Box::new(file.take(size)), size))
            }
            Self::Archive { file, .. } => {
                let (offset, size) = self.place(name.as_bytes()).ok_or_else(missing)?;
                Ok((Box::new(Stretch::new(file, offset, size)), size))
            }
        }
    }

    /// A JSON document, at most [`Bounds::document`] bytes.
    pub(crate) fn document(
        &self,
        name: &str,
        wanted_by: &str,
        bounds: &Bounds,
    ) -> Result<Vec<u8>, Error> {
        let (reader, size) = self.open(name, wanted_by)?;
        check(size, bounds.document, Limit::Document, name)?;
        let mut bytes = Vec::new();
        reader
            .take(bounds.document)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::stream(name, e))?;
        Ok(bytes)
    }

    fn place(&self, name: &[u8]) -> Option<(u64, u64)> {
        let Self::Archive { members, .. } = self else {
            return None;
        };
        let mut name = name.to_vec();
        // One link leads to a blob; more than a few go in circles.
        for _ in 0..4 {
            match members.get(&name)? {
                Place::At { offset, size } => return Some((*offset, *size)),
                Place::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

/// A link's target as a member's name; `..` stops at the archive's root.
fn relative(directory: &[u8], target: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    for component in crate::layer::path::components(target) {
        path = if component == b".." {
            split(&path).0.to_vec()
        } else {
            join(&path, component)
        };
    }
    path
}

/// The file itself, or what it decompresses to.
fn plain_file(path: &Path, bounds: &Bounds, at: &str) -> Result<File, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut start = [0; 4];
    let read = file.read(&mut start).map_err(Error::io("read", path))?;
    file.rewind().map_err(Error::io("read", path))?;
    if stream::sniff(start.get(..read).unwrap_or_default()) == Compression::None {
        return Ok(file);
    }
    let mut plain = stream::decompress(file, *bounds, at)?;
    // Beside it, where there is room for such a file; `/tmp` may be memory.
    let folder = path
        .parent()
        .filter(|folder| folder.components().next().is_some());
    let mut spool = tempfile::tempfile_in(folder.unwrap_or(Path::new(".")))
        .or_else(|_| tempfile::tempfile())
        .map_err(Error::io("create a temporary file for", path))?;
    io::copy(&mut plain.reader, &mut spool).map_err(|e| Error::stream(at, e))?;
    spool
        .seek(SeekFrom::Start(0))
        .map_err(Error::io("read a temporary file for", path))?;
    Ok(spool)
}

/// Whether a tar holds nothing but what image archives hold. Stops at the first foreign member, so that a root
/// file system is told by its first few.
pub(crate) fn looks_like_image_archive(path: &Path, bounds: &Bounds) -> Result<bool, Error> {
    let at = path.display().to_string();
    let file = File::open(path).map_err(Error::io("open", path))?;
    let plain = stream::decompress(file, *bounds, &at)?;
    let mut reader = TarReader::new(plain.reader, *bounds, &at);
    let mut known = false;
    let mut is_first = true;
    loop {
        let member = match reader.next() {
            // What does not even begin as an archive is none; a person gave the wrong file.
            Err(Error::Tar {
                fault: TarFault::Checksum | TarFault::Truncated,
                ..
            }) if is_first => {
                return Err(Error::UnknownSource {
                    path: path.to_path_buf(),
                    why: "it is no tar, no archive of an image and no layout",
                });
            }
            member => member?,
        };
        let Some(member) = member else {
            break;
        };
        is_first = false;
        let name = String::from_utf8_lossy(&member.path).into_owned();
        let name = name.trim_start_matches("./").trim_end_matches('/');
        let first = name.split('/').next().unwrap_or_default();
        let hash = first.trim_end_matches(".json").trim_end_matches(".tar");
        let hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        match first {
            "index.json" | "oci-layout" | "manifest.json" => known = true,
            "blobs" | "repositories" | "" => {}
            _ if hash => {}
            _ => return Ok(false),
        }
    }
    Ok(known)
}
