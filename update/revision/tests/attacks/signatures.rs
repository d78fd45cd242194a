//! Arbitrary software: what nobody signed who may.

use crate::fixture::{
    HUB, RELEASE, ROOT, STRANGER, altered, judge, judge_signed, public, revision, role, root,
    signed,
};
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::{Error, Floor, Mode, PublicKey, Root, SignatureSet};

fn by(seeds: &[u8]) -> Result<(), Error> {
    let document = revision(1, 5);
    let set = signed(Kind::Revision, &document, seeds);
    judge(&document, &set, &root(), Floor::default()).map(drop)
}

#[test]
fn arbitrary_software_needs_the_threshold_of_release_keys() {
    by(&RELEASE[..2]).unwrap();
    by(&RELEASE).unwrap();
    for too_few in [&[][..], &RELEASE[..1], &RELEASE[2..]] {
        let refused = by(too_few).unwrap_err();
        assert!(
            matches!(
                refused,
                Error::Threshold {
                    role: "release",
                    threshold: 2,
                    ..
                }
            ),
            "{refused}"
        );
    }
}

#[test]
fn arbitrary_software_of_strangers_and_other_roles_is_refused() {
    for (others, valid) in [
        (&[STRANGER, STRANGER - 1][..], 0),
        (&ROOT, 0),
        (&[HUB], 0),
        (&[RELEASE[0], ROOT[0], HUB, STRANGER], 1),
    ] {
        let refused = by(others).unwrap_err();
        assert!(
            matches!(refused, Error::Threshold { valid: found, .. } if found == valid),
            "{refused}"
        );
    }
}

#[test]
fn arbitrary_software_is_not_signed_by_one_key_twice() {
    // Under its own name, and under the other key's.
    let document = revision(1, 5);
    let one = signed(Kind::Revision, &document, &RELEASE[..1]);
    let text = String::from_utf8(one.encode().unwrap()).unwrap();
    let [own, other] = [RELEASE[0], RELEASE[1]].map(|seed| public(seed).id().to_string());
    let place = text.find(&own).unwrap() - 1;
    let pair = text[place..text.len() - 2].to_owned();
    let mut pairs = [pair.clone(), pair.replace(&own, &other)];
    pairs.sort();
    let forged = format!("{}{}}}}}", &text[..place], pairs.join(","));
    let set = SignatureSet::parse(forged.as_bytes()).unwrap();
    let refused = judge(&document, &set, &root(), Floor::default()).unwrap_err();
    assert!(matches!(refused, Error::BadSignature { .. }), "{refused}");
    let repeated = format!("{}{pair},{pair}}}}}", &text[..place]);
    SignatureSet::parse(repeated.as_bytes()).unwrap_err();
}

#[test]
fn arbitrary_software_under_a_signature_of_another_kind_is_refused() {
    let document = revision(1, 5);
    for kind in [Kind::Root, Kind::Fresh, Kind::Authority, Kind::Enrolment] {
        let set = signed(kind, &document, &RELEASE);
        let refused = judge(&document, &set, &root(), Floor::default()).unwrap_err();
        assert!(matches!(refused, Error::BadSignature { .. }), "{refused}");
    }
}

#[test]
fn arbitrary_software_is_every_byte_that_was_not_signed() {
    let document = revision(1, 5);
    let set = signed(Kind::Revision, &document, &RELEASE);
    for at in (0..document.len()).step_by(7) {
        for bit in [0x01, 0x20] {
            let mut flipped = document.clone();
            flipped[at] ^= bit;
            let refused = judge(&flipped, &set, &root(), Floor::default()).unwrap_err();
            assert!(matches!(refused, Error::BadSignature { .. }), "{refused}");
        }
    }
    let longer = [&document[..], b" "].concat();
    judge(&longer, &set, &root(), Floor::default()).unwrap_err();
}

#[test]
fn arbitrary_software_is_judged_before_it_is_parsed() {
    // What nobody signed is never given to the parser, whatever it is.
    let set = signed(Kind::Revision, b"other", &[STRANGER]);
    for hostile in [&b""[..], b"{", b"[[[[", b"\xff\xfe"] {
        let refused = judge(hostile, &set, &root(), Floor::default()).unwrap_err();
        assert!(matches!(refused, Error::Threshold { .. }), "{refused}");
    }
    let second = altered(&revision(1, 5), "\"tries\":3", "\"tries\":3,\"tries\":4");
    let refused = judge_signed(&second).unwrap_err();
    assert!(matches!(refused, Error::Json { .. }), "{refused}");
}

#[test]
fn arbitrary_software_does_not_pass_under_a_weak_key() {
    // Under a key of small order a signature can be made that verifies for every text, without any secret.
    for (first, last) in [(0_u8, 0_u8), (1, 0), (0, 0x80), (1, 0x80)] {
        let mut point = [0; 32];
        point[0] = first;
        point[31] = last;
        let weak = PublicKey::from_bytes(point);
        let one = kedge_revision::Role {
            keys: vec![weak.id()],
            threshold: 1,
        };
        let roles = Roles {
            root: role(&ROOT, 2),
            release: one,
            hub: role(&[HUB], 1),
        };
        let mut keys: Vec<PublicKey> = ROOT.iter().map(|seed| public(*seed)).collect();
        keys.extend([public(HUB), weak]);
        let root = Root::new(1, Mode::Production, &keys, roles).unwrap();
        let document = revision(1, 5);
        // R of small order, S of zero: what a lax check takes.
        let mut signature = [0_u8; 64];
        signature[0] = 1;
        let digits: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            r#"{{"spec":"kedge.signatures/1","signatures":{{"{}":"{digits}"}}}}"#,
            weak.id()
        );
        let set = SignatureSet::parse(text.as_bytes()).unwrap();
        let refused = judge(&document, &set, &root, Floor::default()).unwrap_err();
        assert!(
            matches!(refused, Error::BadKey { .. } | Error::BadSignature { .. }),
            "{refused}"
        );
    }
}
