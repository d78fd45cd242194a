//! Builders for archives and layouts.

use std::io::Write;
use std::path::Path;

use crate::archive::{Fields, Kind, Member, Mtime, TarReader, TarWriter};
use crate::bounds::Bounds;
use crate::error::{EntryFault, Error};
use crate::import::normalise;
use crate::note::Note;
use crate::options::Policy;

/// One member of an archive to be made; names may be as wrong as wanted.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) owner: (u16, u16),
    pub(super) mtime: Mtime,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) content: Vec<u8>,
}

pub(super) fn given(path: &str, kind: Kind) -> Given {
    Given {
        path: path.as_bytes().to_vec(),
        mode: if kind == Kind::Directory {
            0o755
        } else {
            0o644
        },
        kind,
        owner: (0, 0),
        mtime: Mtime::new(1000, 0),
        xattrs: Vec::new(),
        content: Vec::new(),
    }
}

pub(super) fn file(path: &str, content: &str) -> Given {
    Given {
        content: content.as_bytes().to_vec(),
        ..given(path, Kind::Regular)
    }
}

pub(super) fn directory(path: &str) -> Given {
    given(path, Kind::Directory)
}

pub(super) fn symlink(path: &str, target: &str) -> Given {
    given(path, Kind::Symlink(target.as_bytes().to_vec()))
}

pub(super) fn hard_link(path: &str, target: &str) -> Given {
    given(path, Kind::HardLink(target.as_bytes().to_vec()))
}

pub(super) fn tar(members: &[Given]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for m in members {
        let fields = Fields {
            path: &m.path,
            kind: &m.kind,
            mode: m.mode,
            uid: m.owner.0,
            gid: m.owner.1,
            mtime: m.mtime,
            xattrs: &m.xattrs,
            size: m.content.len() as u64,
        };
        writer.member(&fields, &mut m.content.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

/// A header and nothing else, with its checksum made right after `change`.
pub(super) fn header(path: &str, change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_mode(0o644);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    change(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// The normalised tar and the notes.
pub(super) fn run_with(
    bytes: &[u8],
    bounds: Bounds,
    policy: Policy,
) -> Result<(Vec<u8>, Vec<Note>), Error> {
    let mut out = Vec::new();
    let notes = normalise(bytes, bounds, policy, &std::env::temp_dir(), &mut out)?;
    Ok((out, notes))
}

pub(super) fn run(members: &[Given]) -> Result<(Vec<u8>, Vec<Note>), Error> {
    run_with(&tar(members), Bounds::default(), Policy::default())
}

/// Why an archive is refused, as an entry.
pub(super) fn refused(members: &[Given]) -> EntryFault {
    match run(members) {
        Err(Error::Entry { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

/// Members of an archive with their contents.
pub(super) fn list(bytes: &[u8]) -> Vec<(Member, Vec<u8>)> {
    let mut reader = TarReader::new(bytes, Bounds::default(), "test");
    let mut out = Vec::new();
    while let Some(member) = reader.next().unwrap() {
        let mut content = vec![0; usize::try_from(member.size).unwrap()];
        let mut sink = |at: u64, bytes: &[u8]| {
            let at = usize::try_from(at).unwrap();
            content[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        };
        reader.content(&member, &mut sink).unwrap();
        out.push((member, content));
    }
    out
}

pub(super) fn names(bytes: &[u8]) -> Vec<String> {
    list(bytes)
        .into_iter()
        .map(|(m, _)| String::from_utf8_lossy(&m.path).into_owned())
        .collect()
}

pub(super) fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path)
        .unwrap()
        .write_all(bytes)
        .unwrap();
}
