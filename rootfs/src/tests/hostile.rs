//! One hostile layer a test.

use std::io::{self, Read, Write};
use std::time::Instant;

use super::fixture::*;
use crate::archive::Kind;
use crate::bounds::{Bounds, Limit};
use crate::error::{EntryFault, Error, TarFault};
use crate::note::Note;
use crate::options::{Devices, Policy, SetId};
use crate::{import, stream};

fn bound(bytes: &[u8], bounds: Bounds) -> Limit {
    match run_with(bytes, bounds, Policy::default()) {
        Err(Error::Bound { limit, .. }) => limit,
        other => panic!("{other:?}"),
    }
}

fn tar_fault(bytes: &[u8]) -> TarFault {
    match run_with(bytes, Bounds::default(), Policy::default()) {
        Err(Error::Tar { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn absolute_path() {
    assert_eq!(
        refused(&[file("/etc/passwd", "x")]),
        EntryFault::AbsolutePath
    );
}

#[test]
fn dot_dot() {
    for path in ["../x", "a/../../x", "a/..", ".."] {
        assert_eq!(refused(&[file(path, "x")]), EntryFault::DotDot, "{path}");
    }
}

#[test]
fn empty_name() {
    assert_eq!(refused(&[file("", "x")]), EntryFault::EmptyName);
}

#[test]
fn nul_in_pax_path() {
    let mut long = file(&"a".repeat(120), "x");
    long.path[60] = 0;
    assert_eq!(refused(&[long]), EntryFault::NulByte);
    let target = "t".repeat(110) + "\0";
    assert_eq!(refused(&[symlink("a", &target)]), EntryFault::NulByte);
}

#[test]
fn root_is_a_file() {
    assert_eq!(refused(&[symlink("./", "/etc")]), EntryFault::Root);
}

#[test]
fn symlink_parent_escape() {
    for target in ["/etc", "../../etc", "other"] {
        let fault = refused(&[symlink("a/l", target), file("a/l/x", "x")]);
        assert_eq!(fault, EntryFault::SymlinkParent("a/l".to_owned()));
    }
}

#[test]
fn file_as_parent() {
    let fault = refused(&[file("a", "x"), file("a/b", "x")]);
    assert_eq!(fault, EntryFault::FileParent("a".to_owned()));
}

#[test]
fn hardlink_outside() {
    for target in ["/etc/shadow", "../x", "a/../../x"] {
        assert_eq!(
            refused(&[hard_link("l", target)]),
            EntryFault::HardLinkOutside(target.to_owned())
        );
    }
}

#[test]
fn hardlink_through_symlink() {
    let fault = refused(&[symlink("s", "/etc"), hard_link("l", "s/shadow")]);
    assert_eq!(fault, EntryFault::SymlinkParent("s".to_owned()));
}

#[test]
fn hardlink_absent() {
    assert_eq!(
        refused(&[hard_link("l", "nothing")]),
        EntryFault::HardLinkAbsent("nothing".to_owned())
    );
    // To itself, before it is there.
    assert_eq!(
        refused(&[hard_link("l", "l")]),
        EntryFault::HardLinkAbsent("l".to_owned())
    );
}

#[test]
fn hardlink_to_directory() {
    let fault = refused(&[directory("d"), hard_link("l", "d")]);
    assert_eq!(fault, EntryFault::HardLinkDirectory("d".to_owned()));
}

#[test]
fn device_node() {
    for kind in [Kind::Character(1, 3), Kind::Block(8, 0)] {
        let members = [given("dev/x", kind.clone())];
        assert_eq!(refused(&members), EntryFault::Device);
        let policy = Policy {
            devices: Devices::Keep,
            ..Policy::default()
        };
        let (out, _) = run_with(&tar(&members), Bounds::default(), policy).unwrap();
        assert_eq!(list(&out).last().unwrap().0.kind, kind);
    }
}

#[test]
fn setuid_root() {
    let mut su = file("bin/su", "x");
    su.mode = 0o4755;
    let (out, notes) = run(std::slice::from_ref(&su)).unwrap();
    assert_eq!(list(&out).last().unwrap().0.mode, 0o4755);
    assert_eq!(
        notes,
        [Note::SetId {
            layer: 0,
            path: "bin/su".to_owned(),
            mode: 0o4755
        }]
    );
    let policy = Policy {
        set_id: SetId::Strip,
        ..Policy::default()
    };
    let (out, notes) = run_with(&tar(&[su]), Bounds::default(), policy).unwrap();
    assert_eq!(list(&out).last().unwrap().0.mode, 0o755);
    assert!(matches!(notes[..], [Note::SetIdStripped { .. }]));
}

#[test]
fn id_above_the_namespace() {
    let bytes = header("x", |h| h.set_uid(65_536));
    let error = run_with(
        &[bytes, vec![0; 1024]].concat(),
        Bounds::default(),
        Policy::default(),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Entry {
                fault: EntryFault::Id(65_536),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn forged_overlay_metadata() {
    let mut d = directory("d");
    for name in [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "user.overlay.opaque",
        "security.selinux",
        "user.k",
        "security.capability",
    ] {
        d.xattrs.push((name.as_bytes().to_vec(), b"v\n\0".to_vec()));
    }
    let (out, notes) = run(&[d]).unwrap();
    let kept: Vec<_> = list(&out).last().unwrap().0.xattrs.clone();
    assert_eq!(
        kept.iter().map(|(n, _)| &n[..]).collect::<Vec<_>>(),
        [&b"security.capability"[..], b"user.k"]
    );
    assert_eq!(kept[1].1, b"v\n\0");
    assert_eq!(
        notes
            .iter()
            .filter(|n| matches!(n, Note::XattrDropped { .. }))
            .count(),
        4
    );
}

#[test]
fn malformed_whiteouts() {
    for name in [".wh.", ".wh..", ".wh..."] {
        assert_eq!(refused(&[file(name, "")]), EntryFault::Whiteout, "{name}");
    }
}

#[test]
fn whiteout_as_directory() {
    assert_eq!(refused(&[file(".wh.a/b", "")]), EntryFault::Whiteout);
    assert_eq!(refused(&[file(".wh.a/.wh.b", "")]), EntryFault::Whiteout);
    let (out, notes) = run(&[file(".wh..wh.plnk/1.2", "x")]).unwrap();
    assert_eq!(names(&out), ["./"]);
    assert!(matches!(notes[..], [Note::LeftOut { .. }]));
}

#[test]
fn names_too_long_or_too_deep() {
    assert_eq!(
        bound(&tar(&[file(&"n".repeat(256), "")]), Bounds::default()),
        Limit::Name
    );
    assert_eq!(
        bound(&tar(&[file(&"a/".repeat(65), "")]), Bounds::default()),
        Limit::Depth
    );
    assert_eq!(
        bound(&tar(&[file(&"abc/".repeat(1025), "")]), Bounds::default()),
        Limit::Path
    );
    assert_eq!(
        bound(&tar(&[symlink("l", &"t".repeat(4097))]), Bounds::default()),
        Limit::Link
    );
}

#[test]
fn huge_extension_headers() {
    for (kind, limit) in [
        (b'x', Limit::Pax),
        (b'g', Limit::Pax),
        (b'L', Limit::Path),
        (b'K', Limit::Link),
    ] {
        let bytes = header("x", |h| {
            h.set_entry_type(tar::EntryType::new(kind));
            h.set_size(1 << 40);
        });
        // Refused at the header: nothing of the stated size is allocated or read.
        assert_eq!(bound(&bytes, Bounds::default()), limit);
    }
}

#[test]
fn large_xattrs() {
    let mut f = file("f", "");
    f.xattrs = vec![(b"user.a".to_vec(), vec![1; 65_537])];
    assert_eq!(
        bound(&tar(&[f.clone()]), Bounds::default()),
        Limit::XattrValue
    );
    f.xattrs = (0..3)
        .map(|i| (format!("user.{i}").into_bytes(), vec![1; 30_000]))
        .collect();
    assert_eq!(bound(&tar(&[f]), Bounds::default()), Limit::Xattrs);
}

#[test]
fn file_too_large() {
    let bytes = header("big", |h| h.set_size((8 << 30) + 1));
    assert_eq!(bound(&bytes, Bounds::default()), Limit::File);
}

#[test]
fn all_files_too_large() {
    let bounds = Bounds {
        unpacked: 10,
        ..Bounds::default()
    };
    assert_eq!(
        bound(&tar(&[file("a", "123456"), file("b", "12345")]), bounds),
        Limit::Unpacked
    );
}

#[test]
fn names_fill_memory() {
    let bounds = Bounds {
        metadata: 1000,
        ..Bounds::default()
    };
    let members: Vec<_> = (0..20).map(|i| file(&format!("{i:0200}"), "")).collect();
    assert_eq!(bound(&tar(&members), bounds), Limit::Metadata);
}

#[test]
fn sparse_file_of_a_terabyte() {
    let bytes = header("s", |h| {
        h.set_entry_type(tar::EntryType::GNUSparse);
        h.as_gnu_mut().unwrap().set_real_size(1 << 40);
    });
    assert_eq!(bound(&bytes, Bounds::default()), Limit::File);
}

#[test]
fn sparse_map_outside_the_file() {
    let bytes = header("s", |h| {
        h.set_entry_type(tar::EntryType::GNUSparse);
        h.set_size(512);
        let gnu = h.as_gnu_mut().unwrap();
        gnu.set_real_size(100);
        gnu.sparse[0].set_offset(0);
        gnu.sparse[0].set_length(512);
    });
    assert_eq!(
        tar_fault(&[bytes, vec![0; 1536]].concat()),
        TarFault::SparseMap
    );
}

#[test]
fn truncated_layer() {
    let whole = tar(&[file("a", &"x".repeat(3000)), file("b", "y")]);
    for cut in [100, 512, 600, 3500, 4096, whole.len() - 1024] {
        assert_eq!(tar_fault(&whole[..cut]), TarFault::Truncated, "{cut}");
    }
}

#[test]
fn damaged_headers() {
    let mut bytes = tar(&[file("a", "x")]);
    bytes[3] ^= 1;
    assert_eq!(tar_fault(&bytes), TarFault::Checksum);
    let bytes = header("a", |h| h.as_old_mut().size = *b"9zz        \0");
    assert_eq!(tar_fault(&bytes), TarFault::Number);
    let bytes = header("a", |h| h.set_entry_type(tar::EntryType::new(b'Q')));
    assert_eq!(tar_fault(&bytes), TarFault::MemberType(b'Q'));
    let lonely = header("a", |h| h.set_entry_type(tar::EntryType::XHeader));
    assert_eq!(
        tar_fault(&[lonely.clone(), vec![0; 1024]].concat()),
        TarFault::Extension
    );
    assert_eq!(
        tar_fault(&[lonely.clone(), lonely].concat()),
        TarFault::Extension
    );
}

/// Headers of empty files without end, made as they are read.
struct Endless {
    left: u64,
    block: Vec<u8>,
    at: usize,
    read: u64,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            if self.left == 0 {
                return Ok(0);
            }
            self.left -= 1;
            let name = format!("d/{:08}", self.left);
            self.block = header(&name, |_| {});
            self.at = 0;
        }
        let n = buffer.len().min(self.block.len() - self.at);
        buffer[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        self.read += n as u64;
        Ok(n)
    }
}

#[test]
fn ten_million_entries() {
    let start = Instant::now();
    let mut endless = Endless {
        left: 10_000_000,
        block: Vec::new(),
        at: 0,
        read: 0,
    };
    let bounds = Bounds::default();
    let error = import::normalise(
        &mut endless,
        bounds,
        Policy::default(),
        &std::env::temp_dir(),
        &mut io::sink(),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Bound {
                limit: Limit::Entries,
                max: 1_000_000,
                ..
            }
        ),
        "{error}"
    );
    assert!(endless.read <= 512 * 1_000_001, "read on after the bound");
    assert!(start.elapsed().as_secs() < 180, "{:?}", start.elapsed());
}

fn bomb(compress: impl FnOnce(&[u8]) -> Vec<u8>) {
    // A layer whose one file of zeros is within every size, but not within the ratio.
    let mut big = header("zeros", |h| h.set_size(64 << 20));
    big.resize(512 + (64 << 20) + 1024, 0);
    let compressed = compress(&big);
    let bounds = Bounds {
        ratio_slack: 1 << 20,
        ..Bounds::default()
    };
    let plain = stream::decompress(&compressed[..], bounds, "layer 0").unwrap();
    let error = import::normalise(
        plain.reader,
        bounds,
        Policy::default(),
        &std::env::temp_dir(),
        &mut io::sink(),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Bound {
                limit: Limit::Ratio,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn gzip_bomb() {
    bomb(|bytes| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    });
}

#[test]
fn zstd_bomb() {
    bomb(|bytes| zstd::encode_all(bytes, 19).unwrap());
}

#[test]
fn endless_stream_after_the_archive() {
    let bounds = Bounds {
        unpacked: 1 << 20,
        entries: 10,
        metadata: 1 << 10,
        ..Bounds::default()
    };
    let mut bytes = tar(&[file("a", "x")]);
    bytes.resize(4 << 20, 0);
    let compressed = zstd::encode_all(&bytes[..], 1).unwrap();
    let plain = stream::decompress(&compressed[..], bounds, "layer 0").unwrap();
    let error = import::normalise(
        plain.reader,
        bounds,
        Policy::default(),
        &std::env::temp_dir(),
        &mut io::sink(),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Bound {
                limit: Limit::Stream,
                ..
            }
        ),
        "{error}"
    );
}
