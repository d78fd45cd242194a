//! A stolen hub key, a hostile hub, and freeze: what a hub's signature is worth, and for how long.

use crate::fixture::{
    HUB, MADE, RELEASE, ROOT, judge, object, public, revision, root, root_of, signed,
};
use kedge_revision::authority::Authority;
use kedge_revision::fresh::{Assignment, Fresh, Nonce};
use kedge_revision::parameters::{Parameter, ParameterType, Parameters};
use kedge_revision::signing::Kind;
use kedge_revision::{Error, Floor, KeyId, Root, Timestamp};
use std::collections::BTreeMap;

const DEVICE: u8 = 41;

fn device() -> KeyId {
    public(DEVICE).id()
}

fn nonce(byte: u8) -> Nonce {
    Nonce::from_bytes([byte; 32])
}

fn answer(holds_s: u32) -> Vec<u8> {
    let assignment = Assignment {
        revision: object("a revision"),
        parameters: 0,
    };
    let time = Timestamp::from_unix(MADE);
    Fresh::new(device(), nonce(7), time, Some(assignment), holds_s)
        .encode()
        .unwrap()
}

/// A device that asked with the nonce 7.
fn hear(document: &[u8], signers: &[u8], root: &Root) -> Result<Fresh, Error> {
    let set = signed(Kind::Fresh, document, signers);
    Fresh::verify(document, &set, root, device(), nonce(7))
}

#[test]
fn hostile_hub_signs_no_revision() {
    let document = revision(1, 5);
    for signers in [&[HUB][..], &[HUB, RELEASE[0]]] {
        let set = signed(Kind::Revision, &document, signers);
        assert!(judge(&document, &set, &root(), Floor::default()).is_err());
    }
}

#[test]
fn hostile_hub_names_no_keys() {
    // Neither a root nor a certificate of its own under a root in which it has no say.
    let next = root_of(2, &ROOT, &[HUB, 31, 32], &[HUB]);
    let document = next.encode().unwrap();
    let set = signed(Kind::Root, &document, &[HUB, 31, 32]);
    let refused = root().replace(&document, &set).unwrap_err();
    assert!(matches!(refused, Error::Threshold { role: "root", .. }));
    let authority = Authority::new([&b"\x30\x03"[..]]).encode().unwrap();
    let set = signed(Kind::Authority, &authority, &RELEASE);
    assert!(Authority::verify(&authority, &set, &root()).is_err());
}

#[test]
fn hostile_hub_gives_parameters_of_their_type_alone() {
    let site = Parameter {
        kind: ParameterType::Ipv4,
        max_length: None,
        default: None,
        secret: false,
    };
    let declared = BTreeMap::from([("site".parse().unwrap(), site)]);
    let given = |name: &str, value: &str| {
        let values = BTreeMap::from([(name.parse().unwrap(), value.to_owned())]);
        let document = Parameters::new(1, values).encode().unwrap();
        Parameters::parse(&document).unwrap().check(&declared)
    };
    given("site", "10.0.0.1").unwrap();
    for (name, value) in [
        ("site", "10.0.0.1; reboot"),
        ("site", ""),
        ("command", "10.0.0.1"),
    ] {
        assert!(given(name, value).is_err(), "{name}={value}");
    }
}

#[test]
fn stolen_hub_key_is_worth_nothing_under_the_next_root() {
    let document = answer(86_400);
    hear(&document, &[HUB], &root()).unwrap();
    let fresh = 22;
    let next = root_of(2, &ROOT, &RELEASE, &[fresh]);
    let set = signed(Kind::Root, &next.encode().unwrap(), &ROOT[..2]);
    let next = root().replace(&next.encode().unwrap(), &set).unwrap();
    let refused = hear(&document, &[HUB], &next).unwrap_err();
    assert!(matches!(
        refused,
        Error::Threshold {
            role: "hub",
            valid: 0,
            ..
        }
    ));
    hear(&document, &[fresh], &next).unwrap();
    // Without a hub no answer is believed, neither the old one's nor anybody else's.
    let none = root_of(2, &ROOT, &RELEASE, &[]);
    for signer in [HUB, fresh, RELEASE[0]] {
        assert!(hear(&document, &[signer], &none).is_err());
    }
}

#[test]
fn freeze_an_old_answer_is_no_answer_to_a_new_question() {
    let document = answer(86_400);
    let set = signed(Kind::Fresh, &document, &[HUB]);
    let root = root();
    let asked = |of: KeyId, with: u8| Fresh::verify(&document, &set, &root, of, nonce(with));
    asked(device(), 7).unwrap();
    for (of, with, field) in [
        (device(), 8, "nonce"),
        (public(DEVICE + 1).id(), 7, "device"),
    ] {
        let refused = asked(of, with).unwrap_err();
        assert!(
            matches!(&refused, Error::Invalid { field: found, .. } if found == field),
            "{refused}"
        );
    }
}

#[test]
fn freeze_an_answer_holds_for_a_month_at_most() {
    for (holds_s, good) in [
        (0, false),
        (1, true),
        (Fresh::LONGEST, true),
        (Fresh::LONGEST + 1, false),
        (u32::MAX, false),
    ] {
        let heard = hear(&answer(holds_s), &[HUB], &root());
        assert_eq!(heard.is_ok(), good, "{holds_s}: {heard:?}");
    }
}

#[test]
fn device_without_a_clock_believes_signed_time_alone() {
    let time = Fresh::new(device(), nonce(7), Timestamp::from_unix(MADE), None, 60);
    let document = time.encode().unwrap();
    assert_eq!(hear(&document, &[HUB], &root()).unwrap().time.unix(), MADE);
    for stranger in [RELEASE[0], ROOT[0], 99] {
        assert!(hear(&document, &[stranger], &root()).is_err());
    }
    let set = signed(Kind::Authority, &document, &[HUB]);
    assert!(Fresh::verify(&document, &set, &root(), device(), nonce(7)).is_err());
    let over = [&document[..], &[b' '; Fresh::CAP]].concat();
    assert!(matches!(
        hear(&over, &[HUB], &root()),
        Err(Error::TooLarge { .. })
    ));
}
