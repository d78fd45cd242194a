//! What normalising does to honest layers, alone and over others.

use super::fixture::*;
use crate::archive::{Kind, Mtime, TarReader};
use crate::bounds::{Bounds, Used};
use crate::error::{EntryFault, Error};
use crate::layer::emit;
use crate::layer::merged::Merged;
use crate::layer::normalise::{Normaliser, Shared, Whiteouts};
use crate::layer::spool::Spool;
use crate::note::{Note, Notes};
use crate::options::Policy;

/// Normalised tars of layers laid over each other.
fn stack(layers: &[&[Given]]) -> Result<(Vec<Vec<u8>>, Shared), Error> {
    let bounds = Bounds::default();
    let mut shared = Shared {
        bounds,
        policy: Policy::default(),
        spool: Spool::new(&std::env::temp_dir()).unwrap(),
        used: Used::default(),
        notes: Notes::default(),
        merged: Merged::default(),
    };
    let mut out = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let bytes = tar(layer);
        let mut reader = TarReader::new(&bytes[..], bounds, "test");
        let mut normaliser = Normaliser::new(&mut shared, index, Whiteouts::Meant);
        while let Some(member) = reader.next()? {
            if let Some(content) = normaliser.add(&member)? {
                reader.content(&member, &mut |at, bytes| {
                    normaliser.write(content, at, bytes)
                })?;
            }
        }
        let tree = normaliser.finish();
        let mut bytes = Vec::new();
        emit::write(&tree, &shared.spool, &mut bytes).unwrap();
        out.push(bytes);
        shared.merged.apply(tree);
    }
    Ok((out, shared))
}

fn over(lower: &[Given], upper: &[Given]) -> Vec<String> {
    names(&stack(&[lower, upper]).unwrap().0[1])
}

#[test]
fn missing_parents_are_listed() {
    let (out, _) = run(&[file("a/b/c", "x")]).unwrap();
    let members = list(&out);
    assert_eq!(names(&out), ["./", "a/", "a/b/", "a/b/c"]);
    assert!(
        members[..3]
            .iter()
            .all(|(m, _)| m.mode == 0o755 && m.uid == 0)
    );
}

#[test]
fn missing_parents_come_from_below() {
    let mut d = directory("a");
    (d.mode, d.owner, d.mtime) = (0o1770, (7, 8), Mtime::new(77, 5));
    let (out, _) = stack(&[&[d], &[file("a/b", "x")]]).unwrap();
    let a = &list(&out[1])[1].0;
    assert_eq!(
        (a.mode, a.uid, a.gid, a.mtime),
        (0o1770, 7, 8, Mtime::new(77, 5))
    );
}

#[test]
fn lower_symlink_is_followed_inside_the_image() {
    for target in ["usr/lib", "/usr/lib", "../../usr/./lib", "usr/bin/../lib"] {
        let lower = [symlink("lib", target), directory("usr/lib")];
        let upper = [file("lib/x", "x"), file("lib/.wh.y", "")];
        assert_eq!(
            over(&lower, &upper),
            ["./", "usr/", "usr/lib/", "usr/lib/x"],
            "{target}"
        );
    }
}

#[test]
fn directory_over_a_lower_symlink_replaces_it() {
    let names = over(
        &[symlink("lib", "usr/lib")],
        &[directory("lib"), file("lib/x", "x")],
    );
    assert_eq!(names, ["./", "lib/", "lib/x"]);
}

#[test]
fn symlink_loop_below() {
    let lower = [symlink("a", "b"), symlink("b", "a")];
    let error = stack(&[&lower, &[file("a/x", "x")]]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Entry {
                layer: 1,
                fault: EntryFault::SymlinkLoop,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn lower_file_as_parent() {
    let error = stack(&[&[file("a", "")], &[file("a/x", "x")]]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Entry {
                fault: EntryFault::FileParent(_),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn whiteouts() {
    let lower = [
        file("d/a", ""),
        file("d/b", ""),
        file("e/c", ""),
        file("f", ""),
    ];
    let upper = [
        file("d/.wh.a", ""),
        file(".wh.nothing", ""),
        given("f", Kind::Character(0, 0)),
        file(".wh.e", ""),
    ];
    assert_eq!(
        over(&lower, &upper),
        ["./", "d/", "d/.wh.a", ".wh.e", ".wh.f"]
    );
}

#[test]
fn whiteouts_of_nothing_vanish() {
    let (out, _) = run(&[file(".wh.a", ""), file("d/.wh..wh..opq", "")]).unwrap();
    assert_eq!(names(&out), ["./", "d/"]);
}

#[test]
fn opaque_directory() {
    let lower = [file("d/a", ""), file("d/s/b", "")];
    let upper = [
        file("d/new", ""),
        file("d/.wh..wh..opq", ""),
        file("d/.wh.a", ""),
    ];
    assert_eq!(
        over(&lower, &upper),
        ["./", "d/", "d/.wh..wh..opq", "d/new"]
    );
}

#[test]
fn opaque_root_hides_each_name() {
    let names = over(
        &[file("a/x", ""), file("b", "")],
        &[file(".wh..wh..opq", ""), file("a/y", "")],
    );
    assert_eq!(names, ["./", "a/", "a/.wh..wh..opq", "a/y", ".wh.b"]);
}

#[test]
fn whiteout_and_new_directory_of_one_name() {
    let lower = [file("d/a", "")];
    for upper in [
        [file(".wh.d", ""), file("d/b", "")],
        [file("d/b", ""), file(".wh.d", "")],
    ] {
        assert_eq!(over(&lower, &upper), ["./", "d/", "d/.wh..wh..opq", "d/b"]);
    }
}

#[test]
fn hidden_below_stays_hidden() {
    let (_, shared) =
        stack(&[&[file("d/a", "")], &[file(".wh.d", "")], &[file("d/b", "")]]).unwrap();
    assert!(shared.merged.get(b"d/a").is_none());
    assert!(shared.merged.get(b"d/b").is_some());
}

#[test]
fn duplicates_last_wins() {
    let (out, _) = run(&[
        file("a", "1"),
        file("a", "22"),
        directory("d"),
        file("d/x", ""),
        symlink("d", "a"),
    ])
    .unwrap();
    let members = list(&out);
    assert_eq!(names(&out), ["./", "a", "d"]);
    assert_eq!(members[1].1, b"22");
    assert_eq!(members[2].0.kind, Kind::Symlink(b"a".to_vec()));
}

#[test]
fn hard_links_stay_links() {
    let (out, _) = run(&[file("z", "data"), hard_link("a", "z"), hard_link("m", "a")]).unwrap();
    let members = list(&out);
    assert_eq!(
        (&members[1].0.kind, &members[1].1[..]),
        (&Kind::Regular, &b"data"[..])
    );
    assert_eq!(members[2].0.kind, Kind::HardLink(b"a".to_vec()));
    assert_eq!(members[3].0.kind, Kind::HardLink(b"a".to_vec()));
}

#[test]
fn hard_link_to_a_lower_layer_is_a_copy() {
    let (out, shared) = stack(&[&[file("a", "data")], &[hard_link("b", "a")]]).unwrap();
    let members = list(&out[1]);
    assert_eq!(
        (&members[1].0.kind, &members[1].1[..]),
        (&Kind::Regular, &b"data"[..])
    );
    assert!(matches!(
        shared.notes.into_vec()[..],
        [Note::HardLinkCopied { layer: 1, .. }]
    ));
}

#[test]
fn what_is_kept() {
    let mut f = file(&format!("{}/f", "d".repeat(150)), "content");
    (f.mode, f.owner, f.mtime) = (0o1644, (65_535, 33), Mtime::new(1_234_567_890, 250_000_000));
    f.xattrs = vec![(b"user.x".to_vec(), b"1".to_vec())];
    let (out, _) = run(&[f.clone(), given("pipe", Kind::Fifo)]).unwrap();
    let members = list(&out);
    let (m, content) = &members[2];
    assert_eq!(
        (m.mode, m.uid, m.gid, m.mtime),
        (0o1644, 65_535, 33, f.mtime)
    );
    assert_eq!((&m.xattrs, content), (&f.xattrs, &f.content));
    assert_eq!(members[3].0.kind, Kind::Fifo);
}

#[test]
fn sparse_file_is_filled_with_zeros() {
    let mut bytes = header("s", |h| {
        h.set_entry_type(tar::EntryType::GNUSparse);
        h.set_size(3);
        let gnu = h.as_gnu_mut().unwrap();
        gnu.set_real_size(10);
        gnu.sparse[0].set_offset(5);
        gnu.sparse[0].set_length(3);
    });
    bytes.extend_from_slice(b"abc");
    bytes.resize(512 * 4, 0);
    let (out, _) = run_with(&bytes, Bounds::default(), Policy::default()).unwrap();
    assert_eq!(list(&out)[1].1, b"\0\0\0\0\0abc\0\0");
}

#[test]
fn long_names_of_gnu_tar() {
    let name = "n".repeat(200);
    let mut bytes = header("././@LongLink", |h| {
        h.set_entry_type(tar::EntryType::GNULongName);
        h.set_size(201);
    });
    bytes.extend_from_slice(name.as_bytes());
    bytes.resize(1024, 0);
    bytes.extend(header("n", |_| {}));
    bytes.resize(1024 + 512 * 3, 0);
    let (out, _) = run_with(&bytes, Bounds::default(), Policy::default()).unwrap();
    assert_eq!(names(&out), ["./", &name]);
}
