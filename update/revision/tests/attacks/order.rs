//! Rollback and fast-forward: what is old, and what pretends to be the newest for ever.

use crate::fixture::{RELEASE, ROOT, draft, judge, revision, root, root_of, signed};
use kedge_revision::signing::Kind;
use kedge_revision::{Error, Floor, Order, Root};

fn place(root: u32, counter: u64) -> Order {
    Order { root, counter }
}

fn at(root: u32, counter: u64) -> Floor {
    Floor { root, counter }
}

fn run(document: &[u8], root: &Root, floor: Floor) -> Result<Order, Error> {
    let set = signed(Kind::Revision, document, &RELEASE[..2]);
    judge(document, &set, root, floor).map(|verified| verified.envelope().order())
}

#[test]
fn rollback_below_the_floor_is_refused_with_both_places() {
    for (counter, good) in [(4, false), (5, true), (6, true)] {
        let result = run(&revision(1, counter), &root(), at(1, 5));
        assert_eq!(result.is_ok(), good, "{counter}: {result:?}");
        if let Err(refused) = result {
            assert!(matches!(
                refused,
                Error::BelowFloor { floor, found } if floor == at(1, 5) && found == place(1, counter)
            ));
        }
    }
}

#[test]
fn rollback_a_floor_rises_with_what_is_committed_and_never_falls() {
    let mut floor = Floor::default();
    for (root, counter, expected) in [
        (1, 3, at(1, 3)),
        (1, 2, at(1, 3)),
        (1, 9, at(1, 9)),
        (2, 0, at(2, 0)),
        (1, u64::MAX, at(2, 0)),
    ] {
        floor = floor.after_commit(root, counter);
        assert_eq!(floor, expected);
    }
}

#[test]
fn rollback_a_floor_above_the_revision_itself_is_no_revision() {
    let mut above = draft(1, 5);
    above.floor = 6;
    assert!(above.encode().is_err());
    let mut even = draft(1, 5);
    even.floor = 5;
    let (_, document) = even.encode().unwrap();
    assert_eq!(
        run(&document, &root(), Floor::default()).unwrap(),
        place(1, 5)
    );
    // Signed by an author whose tools let it pass.
    let text = String::from_utf8(document).unwrap();
    let forged = text.replacen("\"floor\":5", "\"floor\":6", 1);
    let refused = run(forged.as_bytes(), &root(), Floor::default()).unwrap_err();
    assert!(
        matches!(&refused, Error::Invalid { field, .. } if field == "floor"),
        "{refused}"
    );
}

#[test]
fn rollback_to_what_an_older_root_signed_is_refused_under_the_next() {
    let next = root_of(2, &ROOT, &RELEASE, &[]);
    let refused = run(&revision(1, 9), &next, Floor::default()).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::RootVersion {
                expected: 2,
                found: 1
            }
        ),
        "{refused}"
    );
}

#[test]
fn fast_forward_is_left_behind_by_the_next_root() {
    // Signed with stolen keys: nothing under this root is ever newer, and a floor that high stops everything under it.
    let mut stolen = draft(1, u64::MAX);
    stolen.floor = u64::MAX;
    let (_, document) = stolen.encode().unwrap();
    assert_eq!(
        run(&document, &root(), Floor::default()).unwrap(),
        place(1, u64::MAX)
    );
    let floor = Floor::default().after_commit(1, u64::MAX);
    assert!(run(&revision(1, 7), &root(), floor).is_err());
    // The next root names other keys. Its first revision is above, and from then on the stolen one is below.
    let fresh = [31, 32, 33];
    let next = root_of(2, &ROOT, &fresh, &[]);
    let rescue = revision(2, 1);
    let set = signed(Kind::Revision, &rescue, &fresh[..2]);
    let verified = judge(&rescue, &set, &next, floor).unwrap();
    assert!(verified.envelope().order() > place(1, u64::MAX));
    let after = floor.after_commit(2, verified.envelope().floor().counter);
    assert!(!after.allows(place(1, u64::MAX)));
    assert!(after.allows(place(2, 1)));
}
