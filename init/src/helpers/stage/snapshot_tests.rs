//! Volumes of this user, kept and brought back; what takes capabilities is tried in the tier `root`.

use super::super::fixture::{Device, draft};
use super::super::tests::talk;
use super::super::{Report, Request};
use super::*;
use kedge_revision::container::{Lifetime, Snapshot, Volume};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};

const REVISION: ObjectId = ObjectId::from_digest([9; 32]);

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

fn pairs(list: &[(&str, &str)]) -> Vec<(Name, Name)> {
    list.iter()
        .map(|(container, volume)| (container.parse().unwrap(), volume.parse().unwrap()))
        .collect()
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs::File::create(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// Every path below `top` with its kind, mode and contents.
fn tree(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        let contents = if data.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            String::new()
        } else if data.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            format!("{:?}", fs::read(&path).unwrap())
        };
        let name = path.strip_prefix(top).unwrap().display().to_string();
        let mode = data.mode();
        let times = (data.mtime(), data.mtime_nsec());
        found.insert(
            name,
            format!("{mode:o} {} {times:?} {contents}", data.nlink()),
        );
    }
    found
}

#[test]
fn a_volume_comes_back_as_it_was() {
    let (guard, store) = store();
    let volume = guard.path().join("volumes/web/data");
    put(&volume.join("a/b/file"), b"before");
    put(&volume.join("empty"), b"");
    fs::hard_link(volume.join("a/b/file"), volume.join("again")).unwrap();
    symlink("/etc/passwd", volume.join("link")).unwrap();
    fs::create_dir(volume.join("closed")).unwrap();
    fs::set_permissions(volume.join("closed"), Permissions::from_mode(0o1500)).unwrap();
    let before = tree(&volume);
    let list = pairs(&[("web", "data"), ("web", "none")]);
    take(&store, REVISION, &list, |_, _| Some(1 << 20)).unwrap();
    // The trial does what it likes.
    put(&volume.join("a/b/file"), b"after, and longer");
    fs::remove_file(volume.join("link")).unwrap();
    put(&volume.join("new"), b"new");
    put(&guard.path().join("volumes/web/none/made"), b"by the trial");
    assert_eq!(restore(&store, REVISION).unwrap(), "");
    assert_eq!(tree(&volume), before);
    assert!(!guard.path().join("volumes/web/none").exists());
    assert_eq!(fs::read_dir(directory(&store)).unwrap().count(), 0);
    assert_eq!(restore(&store, REVISION).unwrap(), "nothing was kept");
    assert_eq!(tree(&volume), before);
}

#[test]
fn bringing_back_is_completed_after_a_cut_at_any_rename() {
    // The names of a snapshot with one volume, as a cut after each rename leaves them: whether the trial's volume is
    // in its place, whether it was set aside, whether the copy is in the snapshot.
    for (in_place, aside, copy) in [
        (Some("trial"), false, true),
        (None, true, true),
        (Some("before"), true, false),
        // A container was started in between, and made its volume anew.
        (Some("fresh"), true, true),
    ] {
        let (guard, store) = store();
        let volume = guard.path().join("volumes/web/data");
        put(&volume.join("file"), b"before");
        take(&store, REVISION, &pairs(&[("web", "data")]), |_, _| None).unwrap();
        let kept = directory(&store).join(REVISION.hex()).join("web");
        fs::remove_dir_all(&volume).unwrap();
        if let Some(text) = in_place {
            put(&volume.join("file"), text.as_bytes());
        }
        if aside {
            put(&kept.join("data.old/file"), b"trial");
        }
        if !copy {
            fs::remove_dir_all(kept.join("data")).unwrap();
        }
        restore(&store, REVISION).unwrap();
        assert_eq!(fs::read(volume.join("file")).unwrap(), b"before");
        assert_eq!(fs::read_dir(directory(&store)).unwrap().count(), 0);
    }
}

#[test]
fn a_snapshot_that_is_not_complete_is_not_brought_back_and_goes() {
    let (guard, store) = store();
    let volume = guard.path().join("volumes/web/data");
    put(&volume.join("file"), b"before");
    let list = pairs(&[("web", "data")]);
    take(&store, REVISION, &list, |_, _| None).unwrap();
    let top = directory(&store).join(REVISION.hex());
    fs::remove_file(top.join(COMPLETE)).unwrap();
    assert_eq!(restore(&store, REVISION).unwrap_err().status, 409);
    assert_eq!(fs::read(volume.join("file")).unwrap(), b"before");
    // The next one begins from nothing, whatever was left; so does one after a cut while another was removed.
    put(&top.join("web/data/stale"), b"");
    put(&with(&top, DONE).join("web/data/stale"), b"");
    put(&volume.join("file"), b"later");
    take(&store, REVISION, &list, |_, _| None).unwrap();
    assert_eq!(tree(&volume), tree(&top.join("web/data")));
    assert_eq!(fs::read_dir(directory(&store)).unwrap().count(), 1);
    discard(&store).unwrap();
    assert_eq!(fs::read_dir(directory(&store)).unwrap().count(), 0);
}

#[test]
fn a_copy_over_its_bound_is_refused_and_nothing_is_kept() {
    let (guard, store) = store();
    let volume = guard.path().join("volumes/web/data");
    put(&volume.join("one"), &[1; 5000]);
    let list = pairs(&[("web", "data")]);
    let least = 8192 + NAME;
    take(&store, REVISION, &list, |_, _| Some(least)).unwrap();
    let refused = take(&store, REVISION, &list, |_, _| Some(least - 1)).unwrap_err();
    assert!(
        refused.detail.contains("more than 8703 bytes"),
        "{}",
        refused.detail
    );
    assert_eq!(fs::read_dir(directory(&store)).unwrap().count(), 0);
    // Names cost, too.
    for number in 0..100 {
        put(&volume.join(format!("{number}")), b"");
    }
    take(&store, REVISION, &list, |_, _| Some(least)).unwrap_err();
}

/// What a name counts for.
const NAME: u64 = 512;

#[test]
fn names_of_one_file_and_holes_are_not_multiplied() {
    let (guard, store) = store();
    let volume = guard.path().join("volumes/web/data");
    put(&volume.join("0"), &[1; 1 << 20]);
    for number in 1..50 {
        fs::hard_link(volume.join("0"), volume.join(number.to_string())).unwrap();
    }
    let sparse = fs::File::create(volume.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    sparse.write_all_at(b"middle", 1 << 39).unwrap();
    let most = (1 << 20) + 100 * 1024;
    take(&store, REVISION, &pairs(&[("web", "data")]), |_, _| {
        Some(most)
    })
    .unwrap();
    let copy = directory(&store).join(REVISION.hex()).join("web/data");
    assert_eq!(fs::metadata(copy.join("7")).unwrap().nlink(), 50);
    let sparse = fs::File::open(copy.join("sparse")).unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), 1 << 40);
    let mut bytes = [0; 6];
    sparse.read_exact_at(&mut bytes, 1 << 39).unwrap();
    assert_eq!(&bytes, b"middle");
}

#[test]
fn nothing_outside_is_read_and_nothing_is_waited_for() {
    let (guard, store) = store();
    put(&guard.path().join("secret"), b"secret");
    let volume = guard.path().join("volumes/web/data");
    put(&volume.join("file"), b"");
    symlink("../../../secret", volume.join("link")).unwrap();
    symlink("../../..", volume.join("up")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(volume.join("socket")).unwrap();
    let pipe = volume.join("pipe");
    kedge_sys::rustix::fs::mknodat(
        CWD,
        &pipe,
        kedge_sys::rustix::fs::FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    take(&store, REVISION, &pairs(&[("web", "data")]), |_, _| None).unwrap();
    drop(socket);
    let copy = directory(&store).join(REVISION.hex()).join("web/data");
    let copied: Vec<_> = tree(&copy).into_keys().collect();
    assert_eq!(copied, ["", "file", "link", "up"]);
    assert!(
        fs::symlink_metadata(copy.join("link"))
            .unwrap()
            .is_symlink()
    );
    // A volume that is itself a link is none.
    let away = guard.path().join("volumes/web/away");
    symlink(guard.path(), &away).unwrap();
    take(&store, REVISION, &pairs(&[("web", "away")]), |_, _| None).unwrap_err();
}

#[test]
fn directories_without_end_are_refused() {
    let (guard, store) = store();
    let volume = guard.path().join("volumes/web/data");
    fs::create_dir_all(volume.join("d/".repeat(63))).unwrap();
    take(&store, REVISION, &pairs(&[("web", "data")]), |_, _| None).unwrap();
    fs::create_dir_all(volume.join("d/".repeat(64))).unwrap();
    let refused = take(&store, REVISION, &pairs(&[("web", "data")]), |_, _| None).unwrap_err();
    assert!(refused.detail.contains("64 levels"), "{}", refused.detail);
}

#[test]
fn pid_1_asks_for_it_by_frames_and_the_bound_is_the_revisions() {
    let device = Device::new();
    let volume = device.directory.path().join("volumes/web/data");
    put(&volume.join("file"), &[1; 10_000]);
    let mut with_volume = draft(1, &[b"layer"]);
    let container = super::super::fixture::container(
        b"layer",
        Volume {
            path: "/data".into(),
            lifetime: Lifetime::Permanent,
            owner: None,
            size: None,
            snapshot: Snapshot::OnTrial,
            snapshot_max: Some(9000),
        },
    );
    with_volume
        .content
        .containers
        .insert("web".parse().unwrap(), container);
    let (id, document, signatures) = device.sign(with_volume);
    device
        .store
        .put_revision(id, &document, &signatures, "test")
        .unwrap();
    let committed = device.put(2, &[], "test");
    talk(&device, committed, |talk| {
        let ask = |request: Request<'_>| {
            talk.send(request);
            let frame = talk.receive();
            let Report::Snapshot { ok, text } = Report::decode(&frame).unwrap() else {
                panic!("{frame:?}")
            };
            (ok, text.to_owned())
        };
        let snapshot = |volumes| Request::Snapshot {
            revision: id,
            volumes,
        };
        assert!(!ask(snapshot("[[\"..\",\"data\"]]")).0);
        assert!(!ask(snapshot("{}")).0);
        let (ok, text) = ask(snapshot(r#"[["web","data"]]"#));
        assert!(!ok && text.contains("more than 9000 bytes"), "{text}");
        put(&volume.join("small"), &[2; 100]);
        fs::remove_file(volume.join("file")).unwrap();
        assert_eq!(ask(snapshot(r#"[["web","data"]]"#)), (true, String::new()));
        put(&volume.join("small"), &[3; 100]);
        assert_eq!(
            ask(Request::Restore { revision: id }),
            (true, String::new())
        );
        assert_eq!(fs::read(volume.join("small")).unwrap(), [2; 100]);
        assert_eq!(ask(Request::Discard), (true, String::new()));
        let nothing = (true, "nothing was kept".to_owned());
        assert_eq!(ask(Request::Restore { revision: id }), nothing);
    });
}

#[test]
fn what_an_offer_needs_counts_the_copies() {
    let device = Device::new();
    let committed = device.put(1, &[b"layer"], "test");
    let answer = |most: Option<u64>| {
        let mut offered = draft(2, &[b"layer"]);
        let volume = Volume {
            path: "/data".into(),
            lifetime: Lifetime::Permanent,
            owner: None,
            size: most,
            snapshot: most.map_or(Snapshot::Never, |_| Snapshot::OnTrial),
            snapshot_max: None,
        };
        let container = super::super::fixture::container(b"layer", volume);
        offered
            .content
            .containers
            .insert("web".parse().unwrap(), container);
        let (_, head) = device.offer(offered, None);
        let mut answer = serde_json::Value::Null;
        talk(&device, committed, |talk| {
            let (_, said) = talk.body(super::super::Body::Offer, &head);
            answer = said;
        });
        answer
    };
    assert_eq!(answer(None)["needed-bytes"], 0);
    assert_eq!(answer(Some(123_456))["needed-bytes"], 123_456);
    let refused = answer(Some(1 << 60));
    assert_eq!(refused["status"], 507);
}
