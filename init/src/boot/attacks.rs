//! What somebody who can write the store, or has a stolen key, may leave there for PID 1; rows of the table in
//! `docs/trust.md`. PID 1 judges the bytes on disk, whatever an updater said of them.

use super::objects;
use super::trust::{Judges, Roots, parameters, remembered, revision};
use crate::error::Error;
use crate::helpers::stage::fixture::{Device, draft};
use ed25519_dalek::SigningKey;
use kedge_board_support::record::Slot;
use kedge_board_support::record::state::Target;
use kedge_revision::parameters::Parameters;
use kedge_revision::revision::{Object, ObjectKind};
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::{
    Floor, Mode, ObjectId, Product, PublicKey, Role, Root, SignatureSet, Verified,
};
use kedge_store::durable;
use std::collections::BTreeMap;

/// The fixture's key, which its built-in root names for everything.
const FIRST: u8 = 5;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn signed(kind: Kind, document: &[u8], seeds: &[u8]) -> Vec<u8> {
    let mut set = SignatureSet::default();
    for seed in seeds {
        set.sign(kind, document, &key(*seed));
    }
    set.encode().unwrap()
}

/// A root of one key for everything.
fn root(version: u32, seed: u8) -> Vec<u8> {
    let public = PublicKey::from_bytes(key(seed).verifying_key().to_bytes());
    let role = Role {
        keys: vec![public.id()],
        threshold: 1,
    };
    let roles = Roles {
        root: role.clone(),
        release: role.clone(),
        hub: role,
    };
    let root = Root::new(version, Mode::Development, &[public], roles);
    root.unwrap().encode().unwrap()
}

/// Puts a root where the chain looks for it.
fn put_root(device: &Device, version: u32, seed: u8, signers: &[u8]) {
    let document = root(version, seed);
    let place = |end: &str| {
        let name = format!("roots/{version}.{end}");
        device.directory.path().join(name)
    };
    durable::write(&place("sig"), &signed(Kind::Root, &document, signers)).unwrap();
    durable::write(&place("json"), &document).unwrap();
}

fn chain(device: &Device) -> (Roots, Option<Error>) {
    let first = Root::parse(&device.root).unwrap();
    Roots::load(first, &device.directory.path().join("roots"))
}

fn newest(device: &Device) -> u32 {
    chain(device).0.newest().unwrap().version
}

fn boot(device: &Device, id: ObjectId, judges: Judges, floor: Floor) -> Result<Verified, Error> {
    let product = Product::parse(&device.product).unwrap();
    let (roots, _) = chain(device);
    revision(&device.store, id, &roots, judges, &product, floor)
}

fn at(root: u32, counter: u64) -> Floor {
    Floor { root, counter }
}

/// A revision in the store, of this place and signed with this key.
fn put(device: &Device, root: u32, counter: u64, seed: u8) -> ObjectId {
    let mut draft = draft(counter, &[]);
    draft.root = root;
    let (id, document) = draft.encode().unwrap();
    let signatures = signed(Kind::Revision, &document, &[seed]);
    let store = &device.store;
    store
        .put_revision(id, &document, &signatures, "bundle\n")
        .unwrap();
    id
}

#[test]
fn arbitrary_software_in_the_store_is_not_run() {
    let device = Device::new();
    let run = |id| boot(&device, id, Judges::Newest, Floor::default());
    run(put(&device, 1, 2, FIRST)).unwrap();
    // A stranger's, with and without a signature file.
    let theirs = put(&device, 1, 3, FIRST + 1);
    run(theirs).unwrap_err();
    let signatures = device.store.revision_directory(theirs).join("revision.sig");
    std::fs::remove_file(signatures).unwrap();
    run(theirs).unwrap_err();
    assert_eq!(
        remembered(
            &device.store,
            &chain(&device).0,
            &Product::parse(&device.product).unwrap()
        )
        .map(|found| found.revision.envelope().counter),
        Some(2)
    );
}

#[test]
fn arbitrary_software_under_the_name_of_another_revision_is_not_run() {
    let device = Device::new();
    let [wanted, other] = [2, 3].map(|counter| put(&device, 1, counter, FIRST));
    for name in ["revision.json", "revision.sig"] {
        let from = device.store.revision_directory(other).join(name);
        let bytes = std::fs::read(from).unwrap();
        let to = device.store.revision_directory(wanted).join(name);
        durable::write(&to, &bytes).unwrap();
    }
    // It is signed, for this device, and above the floor; and not what the boot record names.
    boot(&device, other, Judges::Newest, Floor::default()).unwrap();
    let refused = boot(&device, wanted, Judges::Newest, Floor::default()).unwrap_err();
    assert!(
        matches!(refused, Error::Object { id, .. } if id == wanted),
        "{refused}"
    );
}

#[test]
fn rollback_to_what_lies_in_the_store_below_the_floor_is_not_run() {
    let device = Device::new();
    let [below, above] = [4, 5].map(|counter| put(&device, 1, counter, FIRST));
    for judges in [Judges::Newest, Judges::Any] {
        boot(&device, above, judges, at(1, 5)).unwrap();
        let refused = boot(&device, below, judges, at(1, 5)).unwrap_err();
        assert!(refused.to_string().contains("revision.json"), "{refused}");
    }
}

#[test]
fn rollback_to_an_older_roots_revision_is_for_what_was_committed_alone() {
    let device = Device::new();
    let old = put(&device, 1, 9, FIRST);
    put_root(&device, 2, 7, &[FIRST, 7]);
    assert_eq!(newest(&device), 2);
    boot(&device, old, Judges::Any, at(1, 0)).unwrap();
    boot(&device, old, Judges::Newest, at(1, 0)).unwrap_err();
    // Not even that once something of the next root was committed.
    boot(&device, old, Judges::Any, at(2, 0)).unwrap_err();
}

#[test]
fn fast_forward_with_a_stolen_key_ends_with_the_next_root() {
    let device = Device::new();
    let stolen = put(&device, 1, u64::MAX, FIRST);
    let floor = at(1, u64::MAX);
    boot(&device, stolen, Judges::Newest, floor).unwrap();
    put_root(&device, 2, 7, &[FIRST, 7]);
    let rescue = put(&device, 2, 1, 7);
    let verified = boot(&device, rescue, Judges::Newest, floor).unwrap();
    let floor = floor.after_commit(2, verified.envelope().floor().counter);
    boot(&device, stolen, Judges::Any, floor).unwrap_err();
    boot(&device, rescue, Judges::Any, floor).unwrap();
    // What the stolen key signs under the new root's number is nobody's.
    let again = put(&device, 2, 2, FIRST);
    boot(&device, again, Judges::Newest, floor).unwrap_err();
}

#[test]
fn key_loss_a_chain_ends_at_the_first_root_that_is_not_its_successor() {
    // By the old key alone, by the new one alone, by strangers.
    for signers in [&[FIRST][..], &[7], &[8, 9]] {
        let device = Device::new();
        put_root(&device, 2, 7, signers);
        let (roots, problem) = chain(&device);
        assert_eq!(roots.newest().unwrap().version, 1);
        assert!(problem.is_some(), "{signers:?}");
    }
    let device = Device::new();
    put_root(&device, 2, 7, &[FIRST, 7]);
    put_root(&device, 3, 8, &[7, 8]);
    // A gap, behind which nothing is looked for.
    put_root(&device, 5, 10, &[9, 10]);
    assert_eq!(newest(&device), 3);
    put_root(&device, 4, 9, &[8, 9]);
    assert_eq!(newest(&device), 5);
    // One that is damaged later takes its successors along, not its predecessors.
    durable::write(&device.directory.path().join("roots/4.json"), b"{}").unwrap();
    let (roots, problem) = chain(&device);
    assert_eq!(roots.newest().unwrap().version, 3);
    assert!(problem.is_some());
}

#[test]
fn hostile_hub_values_in_the_store_are_judged_at_each_boot() {
    let device = Device::new();
    let id = put(&device, 1, 2, FIRST);
    let side = boot(&device, id, Judges::Newest, Floor::default()).unwrap();
    let content = side.content().unwrap();
    let site: kedge_revision::Name = "site".parse().unwrap();
    for (counter, inside, name, value, good) in [
        (1, 1, "site", "42", true),
        (2, 2, "site", "forty-two", false),
        (3, 3, "command", "42", false),
        // Older values under the number of newer ones.
        (4, 1, "site", "42", false),
    ] {
        let values = BTreeMap::from([(name.parse().unwrap(), value.to_owned())]);
        let document = Parameters::new(inside, values).encode().unwrap();
        durable::make_directory(&device.store.revision_directory(id).join("parameters")).unwrap();
        durable::write(&device.store.parameters_path(id, counter), &document).unwrap();
        let target = Target {
            slot: Slot::A,
            revision: id,
            parameters: counter,
        };
        let read = parameters(&device.store, target, &content);
        assert_eq!(read.is_ok(), good, "{counter}: {read:?}");
        if let Ok(values) = read {
            assert_eq!(values.get(&site).map(String::as_str), Some("42"));
        }
    }
}

#[test]
fn objects_that_are_absent_or_of_another_size_are_found() {
    let device = Device::new();
    let id = device.put_object(b"good bytes", ObjectKind::Layer);
    let check = |size| {
        let kind = ObjectKind::Layer;
        objects::check(&device.store, id, Object { size, kind })
    };
    let found = check(11).unwrap_err();
    assert!(found.to_string().contains("another size"), "{found}");
    // Sealed where this machine's file system can, and refused where it cannot.
    let sealed = std::fs::File::open(device.store.object_path(id)).unwrap();
    let sealed = kedge_sys::verity::measure(&sealed);
    let found = check(10);
    assert_eq!(found.is_ok(), sealed.is_ok(), "{found:?}, {sealed:?}");
    std::fs::remove_file(device.store.object_path(id)).unwrap();
    let found = check(10).unwrap_err();
    assert!(found.to_string().contains("not in the store"), "{found}");
}
