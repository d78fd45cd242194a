//! A product with two of three release keys, its devices, and revisions that are made as `kedge build` makes them.

use ed25519_dalek::SigningKey;
use kedge_revision::content::{Commit, Content, HubGoal};
use kedge_revision::revision::{Boot, Draft, Object, ObjectKind};
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::{
    Configuration, Error, Floor, Mode, ObjectId, Policy, Product, PublicKey, Role, Root,
    SignatureSet, Timestamp, Verified, verity,
};
use std::collections::BTreeMap;

/// When everything here was made.
pub(crate) const MADE: u64 = 1_795_341_600;

/// Keys by what they are for: a seed each.
pub(crate) const ROOT: [u8; 3] = [1, 2, 3];
pub(crate) const RELEASE: [u8; 3] = [11, 12, 13];
pub(crate) const HUB: u8 = 21;
pub(crate) const STRANGER: u8 = 99;

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn public(seed: u8) -> PublicKey {
    PublicKey::from_bytes(key(seed).verifying_key().to_bytes())
}

pub(crate) fn role(seeds: &[u8], threshold: u32) -> Role {
    let mut keys: Vec<_> = seeds.iter().map(|seed| public(*seed).id()).collect();
    keys.sort();
    Role { keys, threshold }
}

/// A root with these keys, two of each three of which must sign.
pub(crate) fn root_of(version: u32, root: &[u8], release: &[u8], hub: &[u8]) -> Root {
    let all = [root, release, hub].concat();
    let keys: Vec<_> = all.iter().map(|seed| public(*seed)).collect();
    let roles = Roles {
        root: role(root, 2),
        release: role(release, 2),
        hub: role(hub, u32::from(!hub.is_empty())),
    };
    Root::new(version, Mode::Production, &keys, roles).unwrap()
}

/// The root that images are built with.
pub(crate) fn root() -> Root {
    root_of(1, &ROOT, &RELEASE, &[HUB])
}

pub(crate) fn signed(kind: Kind, document: &[u8], seeds: &[u8]) -> SignatureSet {
    let mut set = SignatureSet::default();
    for seed in seeds {
        set.sign(kind, document, &key(*seed));
    }
    set
}

pub(crate) fn object(text: &str) -> ObjectId {
    verity::digest(text.as_bytes())
}

/// A revision of this place, as its author has it.
pub(crate) fn draft(root: u32, counter: u64) -> Draft {
    let objects = [
        ("kernel", ObjectKind::Kernel),
        ("initramfs", ObjectKind::Initramfs),
        ("layer", ObjectKind::Layer),
    ]
    .map(|(text, kind)| {
        let size = text.len() as u64;
        (object(text), Object { size, kind })
    });
    Draft {
        product: "gateway".parse().unwrap(),
        board: "qemu-x86-64".parse().unwrap(),
        root,
        counter,
        floor: 0,
        tries: 3,
        created: Timestamp::from_unix(MADE),
        version: format!("{root}.{counter}"),
        objects: BTreeMap::from(objects),
        boot: Boot {
            kernel: object("kernel"),
            initramfs: object("initramfs"),
            files: BTreeMap::new(),
            statement: None,
            arguments: "quiet".into(),
        },
        content: Content {
            requires: vec![],
            parameters: BTreeMap::new(),
            groups: vec![],
            containers: BTreeMap::new(),
            configuration: Configuration::default(),
            commit: Commit {
                window_s: 60,
                hub: HubGoal::Never,
                hub_wait_s: None,
            },
        },
    }
}

pub(crate) fn revision(root: u32, counter: u64) -> Vec<u8> {
    draft(root, counter).encode().unwrap().1
}

/// Judges as a device with this floor does.
pub(crate) fn judge(
    document: &[u8],
    signatures: &SignatureSet,
    root: &Root,
    floor: Floor,
) -> Result<Verified, Error> {
    let product = Product::new(
        "gateway".parse().unwrap(),
        "qemu-x86-64".parse().unwrap(),
        Mode::Production,
    );
    let policy = Policy {
        product: &product,
        floor,
    };
    Verified::verify(document, signatures, root, &policy)
}

/// Signed as it must be, and judged by a device without a floor.
pub(crate) fn judge_signed(document: &[u8]) -> Result<Verified, Error> {
    let set = signed(Kind::Revision, document, &RELEASE[..2]);
    judge(document, &set, &root(), Floor::default())
}

/// A document with one piece of its text replaced.
pub(crate) fn altered(document: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(document.to_vec()).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    text.replacen(from, to, 1).into_bytes()
}
