//! Staging under damage, interruption and excess.

use super::*;
use kedge_revision::revision::ObjectKind;
use proptest::prelude::*;
use verity::Sealed;

fn sample(size: usize) -> (Vec<u8>, Sealed, Object) {
    let bytes: Vec<u8> = (0..size)
        .map(|i| u8::try_from((i * 31 + i / 4096 * 7) % 251).unwrap())
        .collect();
    let mut builder = verity::Builder::new();
    builder.update(&bytes);
    let sealed = builder.finish();
    let object = Object {
        size: sealed.size,
        kind: ObjectKind::Layer,
    };
    (bytes, sealed, object)
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

#[test]
fn an_object_arrives_and_has_its_name() {
    let (_guard, store) = store();
    for size in [0, 1, 4096, 4097, 1_000_000] {
        let (bytes, sealed, object) = sample(size);
        let mut staging = Staging::begin(&store, sealed.id, object, &sealed.tree).unwrap();
        staging.write(&bytes).unwrap();
        let path = staging.finish().unwrap();
        assert_eq!(std::fs::read(path).unwrap(), bytes);
        assert!(store.has(sealed.id, object));
    }
    assert_eq!(store.objects().unwrap().len(), 5);
    assert_eq!(
        std::fs::read_dir(store.data().join("staging"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_lying_source_is_caught_at_its_first_bad_block() {
    let (_guard, store) = store();
    let (mut bytes, sealed, object) = sample(20 * 4096);
    bytes[7 * 4096 + 5] ^= 1;
    let mut staging = Staging::begin(&store, sealed.id, object, &sealed.tree).unwrap();
    assert!(matches!(
        staging.write(&bytes),
        Err(Error::Damaged {
            source: kedge_revision::Error::Block { block: 7, .. }
        })
    ));
    assert_eq!(staging.done(), 7 * 4096);
    // The right bytes from there on complete it.
    bytes[7 * 4096 + 5] ^= 1;
    staging.write(&bytes[7 * 4096..]).unwrap();
    staging.finish().unwrap();
}

#[test]
fn more_bytes_than_the_object_has_are_refused() {
    let (_guard, store) = store();
    let (bytes, sealed, object) = sample(5000);
    let mut staging = Staging::begin(&store, sealed.id, object, &sealed.tree).unwrap();
    staging.write(&bytes).unwrap();
    assert!(matches!(
        staging.write(b"x"),
        Err(Error::TooLong { size: 5000, .. })
    ));
}

#[test]
fn an_incomplete_object_gets_no_name() {
    let (_guard, store) = store();
    let (bytes, sealed, object) = sample(10_000);
    let mut staging = Staging::begin(&store, sealed.id, object, &sealed.tree).unwrap();
    staging.write(&bytes[..9_999]).unwrap();
    assert!(matches!(
        staging.finish(),
        Err(Error::Incomplete { missing, .. }) if missing == 10_000 - 8_192
    ));
    assert!(!store.has(sealed.id, object));
}

#[test]
fn a_wrong_tree_is_refused_before_any_byte() {
    let (_guard, store) = store();
    let (_, sealed, object) = sample(20 * 4096);
    let (_, other, _) = sample(21 * 4096);
    assert!(matches!(
        Staging::begin(&store, sealed.id, object, &other.tree),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn an_object_is_sent_with_its_tree_in_pieces_of_any_size() {
    let (_guard, store) = store();
    for (size, piece) in [
        (0, 1),
        (1, 1),
        (4097, 5),
        (600_000, 4096),
        (600_000, 16_384),
    ] {
        let (bytes, sealed, object) = sample(size + piece);
        let body = [&sealed.tree[..], &bytes].concat();
        let mut arrival = Arrival::begin(&store, sealed.id, object, 0).unwrap();
        assert_eq!(arrival.length(), body.len() as u64);
        for piece in body.chunks(piece) {
            assert!(!arrival.is_complete());
            arrival.write(piece).unwrap();
        }
        assert!(arrival.is_complete());
        assert_eq!(std::fs::read(arrival.finish().unwrap()).unwrap(), bytes);
    }
    let (_, sealed, object) = sample(0);
    let arrival = Arrival::begin(&store, sealed.id, object, 0).unwrap();
    assert!(arrival.is_complete());
    arrival.finish().unwrap();
}

#[test]
fn an_interrupted_object_goes_on_where_it_verifies() {
    let (_guard, store) = store();
    let (bytes, sealed, object) = sample(20 * 4096 + 9);
    assert_eq!(Staging::resumable(&store, sealed.id, object).unwrap(), 0);
    let mut arrival = Arrival::begin(&store, sealed.id, object, 0).unwrap();
    arrival.write(&sealed.tree[..100]).unwrap();
    drop(arrival);
    assert_eq!(Staging::resumable(&store, sealed.id, object).unwrap(), 0);
    let mut arrival = Arrival::begin(&store, sealed.id, object, 0).unwrap();
    arrival.write(&sealed.tree).unwrap();
    arrival.write(&bytes[..5 * 4096 + 7]).unwrap();
    drop(arrival);
    let done = Staging::resumable(&store, sealed.id, object).unwrap();
    assert_eq!(done, 5 * 4096);
    let mut elsewhere = Arrival::begin(&store, sealed.id, object, 4096).unwrap();
    assert!(matches!(
        elsewhere.write(&sealed.tree),
        Err(Error::Offset {
            offset: 4096,
            done: 20_480,
            ..
        })
    ));
    let mut arrival = Arrival::begin(&store, sealed.id, object, done).unwrap();
    arrival.write(&sealed.tree).unwrap();
    arrival.write(&bytes[5 * 4096..]).unwrap();
    assert_eq!(arrival.done(), object.size);
    // A cut before the sealing: only the name is missing, and is given.
    drop(arrival);
    assert_eq!(
        Staging::resumable(&store, sealed.id, object).unwrap(),
        object.size
    );
    assert!(store.has(sealed.id, object));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Interrupted anywhere, with anything scribbled over what was staged, a resume ends with the right bytes.
    #[test]
    fn a_resume_trusts_exactly_what_verifies(
        size in 1_usize..60_000,
        cut in 0_usize..60_000,
        scribble in prop::option::of((0_usize..60_000, any::<u8>())),
    ) {
        let (_guard, store) = store();
        let (bytes, sealed, object) = sample(size);
        let mut staging = Staging::begin(&store, sealed.id, object, &sealed.tree).unwrap();
        staging.write(&bytes[..cut.min(size)]).unwrap();
        drop(staging);
        if let Some((at, with)) = scribble {
            let path = store.staging_path(sealed.id, "part");
            let mut part = std::fs::read(&path).unwrap();
            if let Some(byte) = part.get_mut(at) { *byte ^= with; }
            std::io::Write::write_all(&mut File::create(&path).unwrap(), &part).unwrap();
        }
        let tree = Staging::saved_tree(&store, sealed.id, object).unwrap();
        let mut staging = Staging::begin(&store, sealed.id, object, &tree).unwrap();
        let done = usize::try_from(staging.done()).unwrap();
        prop_assert!(done <= cut.min(size).max(1) || done == size);
        staging.write(&bytes[done..]).unwrap();
        let path = staging.finish().unwrap();
        prop_assert_eq!(std::fs::read(path).unwrap(), bytes);
    }
}
