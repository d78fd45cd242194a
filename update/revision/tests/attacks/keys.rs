//! Key loss and theft: one of three may go, and nobody alone makes the next root.

use crate::fixture::{
    HUB, RELEASE, ROOT, STRANGER, judge, public, revision, role, root, root_of, signed,
};
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::{Error, Floor, Mode, Root};

fn follow(old: &Root, next: &Root, signers: &[u8]) -> Result<Root, Error> {
    let document = next.encode().unwrap();
    old.replace(&document, &signed(Kind::Root, &document, signers))
}

#[test]
fn key_loss_one_of_three_root_keys_is_replaced_by_the_two_others() {
    let next = root_of(2, &[ROOT[0], ROOT[1], 4], &RELEASE, &[HUB]);
    assert_eq!(follow(&root(), &next, &ROOT[..2]).unwrap(), next);
    // One of them with the new one is not enough: the old root does not know that.
    let refused = follow(&root(), &next, &[ROOT[0], 4]).unwrap_err();
    assert!(matches!(
        refused,
        Error::Threshold {
            role: "root",
            valid: 1,
            ..
        }
    ));
}

#[test]
fn key_loss_one_of_three_release_keys_stops_nothing_and_is_replaced() {
    let document = revision(1, 5);
    let two = signed(Kind::Revision, &document, &RELEASE[1..]);
    judge(&document, &two, &root(), Floor::default()).unwrap();
    let next = root_of(2, &ROOT, &[RELEASE[1], RELEASE[2], 14], &[HUB]);
    let next = follow(&root(), &next, &ROOT[1..]).unwrap();
    let document = revision(2, 6);
    for (signers, good) in [
        (&[RELEASE[1], 14][..], true),
        (&[RELEASE[0], RELEASE[1]], false),
    ] {
        let set = signed(Kind::Revision, &document, signers);
        let judged = judge(&document, &set, &next, Floor::default());
        assert_eq!(judged.is_ok(), good, "{judged:?}");
    }
}

#[test]
fn key_theft_makes_no_root_alone() {
    let theirs = root_of(2, &[STRANGER, STRANGER - 1, 4], &RELEASE, &[HUB]);
    // All the new ones and one of the old; all the old ones and one of the new; release keys, which have no say.
    for signers in [
        &[STRANGER, STRANGER - 1, 4, ROOT[0]][..],
        &[ROOT[0], ROOT[1], ROOT[2], STRANGER],
        &[RELEASE[0], RELEASE[1], RELEASE[2], STRANGER, 4],
    ] {
        let refused = follow(&root(), &theirs, signers).unwrap_err();
        assert!(matches!(refused, Error::Threshold { role: "root", .. }));
    }
}

#[test]
fn key_loss_roots_follow_one_by_one_and_stay_what_they_are() {
    for version in [1, 3, u32::MAX] {
        let other = root_of(version, &ROOT, &RELEASE, &[HUB]);
        let refused = follow(&root(), &other, &ROOT).unwrap_err();
        assert!(
            matches!(refused, Error::RootVersion { expected: 2, found } if found == version),
            "{refused}"
        );
    }
    let all = [&ROOT[..], &RELEASE, &[HUB]].concat();
    let keys: Vec<_> = all.iter().map(|seed| public(*seed)).collect();
    let roles = Roles {
        root: role(&ROOT, 2),
        release: role(&RELEASE, 2),
        hub: role(&[HUB], 1),
    };
    let development = Root::new(2, Mode::Development, &keys, roles).unwrap();
    let refused = follow(&root(), &development, &ROOT).unwrap_err();
    assert!(
        matches!(&refused, Error::Invalid { field, .. } if field == "mode"),
        "{refused}"
    );
}

#[test]
fn key_loss_a_long_chain_of_roots_is_followed_step_by_step() {
    // Every key of the first root is gone by the end, one a step.
    let mut keys = ROOT.to_vec();
    let mut trusted = root();
    for step in 0_u8..40 {
        let before = keys.clone();
        keys.remove(0);
        keys.push(100 + step);
        let next = root_of(trusted.version + 1, &keys, &RELEASE, &[HUB]);
        trusted = follow(&trusted, &next, &before[1..]).unwrap();
    }
    assert_eq!(trusted.version, 41);
    assert!(
        ROOT.iter()
            .all(|seed| !trusted.keys.contains_key(&public(*seed).id()))
    );
}
