//! What a hostile hub, or anybody who can make an offer, may bring to the helper; rows of the table in `docs/trust.md`.
//!
//! Whatever is refused leaves nothing behind: that is asked after each attack.

use super::fixture::{Device, KERNEL, draft, sealed};
use super::head::tests::head;
use super::tests::{Talk, noise, talk};
use super::*;
use ed25519_dalek::SigningKey;
use kedge_revision::signing::Kind;
use kedge_revision::{ObjectId, SignatureSet};
use serde_json::Value;

/// A signature set of this key, encoded.
fn signed(kind: Kind, document: &[u8], seed: u8) -> Vec<u8> {
    let mut set = SignatureSet::default();
    set.sign(kind, document, &SigningKey::from_bytes(&[seed; 32]));
    set.encode().unwrap()
}

/// An object as a request brings it: what it says it is, its tree, its bytes.
fn bring(talk: &mut Talk, id: ObjectId, tree: &[u8], bytes: &[u8]) -> (u16, Value) {
    let what = Body::Object { id, offset: 0 };
    talk.body(what, &[tree, bytes].concat())
}

fn refused(answer: &(u16, Value), status: u16, reason: &str) {
    let detail = answer.1["detail"].as_str().unwrap_or_default();
    assert!(
        answer.0 == status && detail.contains(reason),
        "{answer:?}, and not {status} for {reason:?}"
    );
}

#[test]
fn arbitrary_software_is_no_offer_and_leaves_nothing() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let (_, document, signatures) = device.sign(draft(2, &[]));
    let none = SignatureSet::default().encode().unwrap();
    // The key of the device's root is the one of seed 5.
    for (signatures, reason) in [
        (none, "0 valid signatures"),
        (signed(Kind::Revision, &document, 6), "0 valid signatures"),
        (signed(Kind::Root, &document, 5), "does not verify"),
        (signed(Kind::Fresh, &document, 5), "does not verify"),
    ] {
        let offer = head(&[(1, &document), (2, &signatures)]);
        talk(&device, committed, |talk| {
            refused(&talk.body(Body::Offer, &offer), 409, reason);
        });
    }
    assert_eq!(device.store.revisions().unwrap(), [committed]);
    let offer = head(&[(1, &document), (2, &signatures)]);
    talk(&device, committed, |talk| {
        assert_eq!(talk.body(Body::Offer, &offer).0, 200);
    });
}

#[test]
fn arbitrary_software_gets_no_objects_name() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let (layer, mut other) = (noise(10 * 4096), noise(10 * 4096));
    other[5] ^= 1;
    let (_, offer) = device.offer(draft(2, &[&layer]), None);
    talk(&device, committed, |talk| {
        talk.body(Body::Offer, &offer);
        let (right, wrong) = (sealed(&layer), sealed(&other));
        // Other bytes under the right tree, and with a tree of their own.
        let answer = bring(talk, right.id, &right.tree, &other);
        refused(&answer, 409, "block 0 of");
        let answer = bring(talk, right.id, &wrong.tree, &other);
        refused(&answer, 409, "tree does not belong");
    });
    assert!(!device.store.object_path(sealed(&layer).id).exists());
}

#[test]
fn mix_and_match_brings_nothing_that_the_offer_does_not_list() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let (listed, foreign) = (noise(9000), noise(8000));
    let (_, offer) = device.offer(draft(2, &[&listed]), None);
    talk(&device, committed, |talk| {
        // Before there is an offer, and beside it.
        let foreign_seal = sealed(&foreign);
        let before = bring(talk, foreign_seal.id, &foreign_seal.tree, &foreign);
        assert_eq!(before.0, 409, "{before:?}");
        assert_eq!(talk.body(Body::Offer, &offer).0, 200);
        let beside = bring(talk, foreign_seal.id, &foreign_seal.tree, &foreign);
        assert_eq!(beside.0, 409, "{beside:?}");
        // What the slot holds already is not taken, either.
        assert_eq!(bring(talk, sealed(KERNEL).id, &[], KERNEL).0, 409);
    });
    assert_eq!(device.store.objects().unwrap(), []);
}

#[test]
fn endless_data_ends_at_the_size_that_was_signed() {
    let device = Device::new();
    let committed = device.put(1, &[], "factory\n");
    let layer = noise(9000);
    let (_, offer) = device.offer(draft(2, &[&layer]), None);
    talk(&device, committed, |talk| {
        talk.body(Body::Offer, &offer);
        let right = sealed(&layer);
        let longer = [&layer[..], &[0; 50_000]].concat();
        let answer = bring(talk, right.id, &right.tree, &longer);
        assert!((400..500).contains(&answer.0), "{answer:?}");
        let limits = [u64::MAX, 1 << 60];
        for length in limits {
            let body = Body::Object {
                id: right.id,
                offset: 0,
            };
            talk.send(Request::Begin { body, length });
            let answer = talk.answer();
            assert!((400..500).contains(&answer.0), "{length}: {answer:?}");
        }
        let staged = device.directory.path().join("staging");
        let most = std::fs::read_dir(staged)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .max();
        assert!(most.unwrap_or(0) <= 9000, "{most:?}");
        // It is taken all the same once it is what it should be.
        assert_eq!(bring(talk, right.id, &right.tree, &layer).0, 200);
    });
}
