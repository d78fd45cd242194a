//! The example of each document in `documents/` is complete, canonical once compacted, and verifies.
//!
//! `KEDGE_BLESS=1 cargo test -p kedge-revision --test documents` writes them anew after a change of format.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a test; helpers outside of test functions are not exempt by themselves"
)]

use ed25519_dalek::SigningKey;
use fixture::{cache, web};
use kedge_revision::configuration::{Interface, NetworkConfiguration, Sticks};
use kedge_revision::content::{Change, Commit, Group, HubGoal};
use kedge_revision::fresh::{Assignment, Fresh, Nonce};
use kedge_revision::parameters::{Parameter, ParameterType, Parameters};
use kedge_revision::revision::{Boot, Draft, Object, ObjectKind};
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::{
    Configuration, Content, Error, Floor, Mode, ObjectId, Policy, Product, PublicKey, Role, Root,
    SignatureSet, Timestamp, Verified, verity,
};
use std::collections::BTreeMap;
use std::path::PathBuf;

mod fixture;

const NOW: u64 = 1_795_341_600;
const POOL: &str = r#"{"pool":{"name":"front","address":"10.88.0.2/24","ports":["8080:80"]}}"#;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

fn role(key: &SigningKey) -> Role {
    Role {
        keys: vec![public(key).id()],
        threshold: 1,
    }
}

fn root() -> Root {
    let keys = [key(1), key(2), key(3)];
    let [root, release, hub] = &keys;
    let roles = Roles {
        root: role(root),
        release: role(release),
        hub: role(hub),
    };
    let publics = keys.each_ref().map(public);
    Root::new(1, Mode::Development, &publics, roles).unwrap()
}

fn product() -> Product {
    Product::new(
        "gateway".parse().unwrap(),
        "qemu-x86-64".parse().unwrap(),
        Mode::Development,
    )
}

fn object(text: &str) -> ObjectId {
    verity::digest(text.as_bytes())
}

fn content() -> Content {
    let eth0 = Interface {
        addresses: vec!["10.0.2.15/24".parse().unwrap()],
        gateways: vec!["10.0.2.2".parse().unwrap()],
        ..Interface::default()
    };
    Content {
        requires: vec!["fs-verity".into(), "user-namespaces".into()],
        parameters: BTreeMap::from([
            (
                "password".parse().unwrap(),
                Parameter {
                    kind: ParameterType::String,
                    max_length: Some(64),
                    default: None,
                    secret: true,
                },
            ),
            (
                "site".parse().unwrap(),
                Parameter {
                    kind: ParameterType::String,
                    max_length: None,
                    default: Some("nowhere".into()),
                    secret: false,
                },
            ),
        ]),
        groups: vec![
            Group {
                name: "platform".parse().unwrap(),
                change: Change::Reboot,
            },
            Group {
                name: "app".parse().unwrap(),
                change: Change::Restart,
            },
        ],
        containers: BTreeMap::from([
            ("cache".parse().unwrap(), cache()),
            ("web".parse().unwrap(), web()),
        ]),
        configuration: Configuration {
            network: NetworkConfiguration {
                hostname: Some("gateway".parse().unwrap()),
                interfaces: BTreeMap::from([("eth0".into(), eth0)]),
                nameservers: vec!["10.0.2.3".parse().unwrap()],
                ..NetworkConfiguration::default()
            },
            networks: serde_json::from_str(r#"{"front":{"prefix":"10.88.0.0/24"}}"#).unwrap(),
            hubs: vec!["https://hub.example".into()],
            sticks: Sticks::Accept,
            ..Configuration::default()
        },
        commit: Commit {
            window_s: 60,
            hub: HubGoal::IfReachableBefore,
            hub_wait_s: None,
        },
    }
}

fn draft() -> Draft {
    let objects = [
        ("kernel", ObjectKind::Kernel),
        ("initramfs", ObjectKind::Initramfs),
        ("base layer", ObjectKind::Layer),
        ("web layer", ObjectKind::Layer),
    ]
    .map(|(text, kind)| {
        let size = text.len() as u64;
        (object(text), Object { size, kind })
    });
    Draft {
        product: "gateway".parse().unwrap(),
        board: "qemu-x86-64".parse().unwrap(),
        root: 1,
        counter: 42,
        floor: 40,
        tries: 3,
        created: Timestamp::from_unix(NOW),
        version: "2026.11.1".into(),
        objects: BTreeMap::from(objects),
        boot: Boot {
            kernel: object("kernel"),
            initramfs: object("initramfs"),
            files: BTreeMap::new(),
            statement: None,
            arguments: "quiet".into(),
        },
        content: content(),
    }
}

fn fresh() -> Fresh {
    let assignment = Assignment {
        revision: object("some revision"),
        parameters: 3,
    };
    Fresh::new(
        public(&key(4)).id(),
        Nonce::from_bytes([7; 32]),
        Timestamp::from_unix(NOW),
        Some(assignment),
        86_400,
    )
}

/// Takes white space outside of strings away.
fn compact(pretty: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    pretty
        .chars()
        .filter(|c| {
            if inside {
                if escaped {
                    escaped = false;
                } else if *c == '\\' {
                    escaped = true;
                } else if *c == '"' {
                    inside = false;
                }
                return true;
            }
            inside = *c == '"';
            !c.is_ascii_whitespace()
        })
        .collect()
}

/// Compares the example with what the code makes, or writes it anew.
fn example(name: &str, canonical: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("documents")
        .join(name);
    let canonical = String::from_utf8(canonical.to_vec()).unwrap();
    if std::env::var_os("KEDGE_BLESS").is_some() {
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, pretty(&canonical).as_bytes()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(
        compact(&text),
        canonical,
        "{name} is not what the code makes"
    );
    compact(&text).into_bytes()
}

/// Indents by nesting; short objects and lists stay on one line.
fn pretty(compact: &str) -> String {
    let (mut out, mut depth, mut inside, mut escaped) = (String::new(), 0_usize, false, false);
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth * 2));
    };
    for c in compact.chars() {
        if inside {
            out.push(c);
            inside = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                inside = true;
                out.push(c);
            }
            '{' | '[' => {
                depth += 1;
                out.push(c);
                newline(&mut out, depth);
            }
            '}' | ']' => {
                depth -= 1;
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => out.push(c),
        }
    }
    out.push('\n');
    out
}

fn signed(kind: Kind, bytes: &[u8], keys: &[SigningKey]) -> SignatureSet {
    let mut set = SignatureSet::default();
    for key in keys {
        set.sign(kind, bytes, key);
    }
    set
}

#[test]
fn root_document() {
    let bytes = example("root.json", &root().encode().unwrap());
    let parsed = Root::parse(&bytes).unwrap();
    let set = signed(Kind::Root, &bytes, &[key(1)]);
    parsed.verify_self(&bytes, &set).unwrap();
}

#[test]
fn revision_document() {
    let (id, canonical) = draft().encode().unwrap();
    let bytes = example("revision.json", &canonical);
    let set = signed(Kind::Revision, &bytes, &[key(2)]);
    let set_bytes = example("signatures.json", &set.encode().unwrap());
    let set = SignatureSet::parse(&set_bytes).unwrap();
    let product = product();
    let policy = Policy {
        product: &product,
        floor: Floor {
            root: 1,
            counter: 41,
        },
    };
    let verified = Verified::verify(&bytes, &set, &root(), &policy).unwrap();
    assert_eq!(verified.id(), id);
    assert_eq!(verified.content().unwrap(), content());
}

#[test]
fn fresh_document() {
    let bytes = example("fresh.json", &fresh().encode().unwrap());
    let set = signed(Kind::Fresh, &bytes, &[key(3)]);
    let device = public(&key(4)).id();
    let nonce = Nonce::from_bytes([7; 32]);
    let verified = Fresh::verify(&bytes, &set, &root(), device, nonce).unwrap();
    assert_eq!(verified, fresh());
    // A replayed answer, another device's, and one that the release key signed.
    let other = Nonce::from_bytes([8; 32]);
    Fresh::verify(&bytes, &set, &root(), device, other).unwrap_err();
    let another = public(&key(5)).id();
    Fresh::verify(&bytes, &set, &root(), another, nonce).unwrap_err();
    let wrong = signed(Kind::Fresh, &bytes, &[key(2)]);
    Fresh::verify(&bytes, &wrong, &root(), device, nonce).unwrap_err();
}

#[test]
fn product_document() {
    let bytes = example("product.json", &product().encode().unwrap());
    assert_eq!(Product::parse(&bytes).unwrap(), product());
}

#[test]
fn parameters_document() {
    let given = |name: &str| BTreeMap::from([(name.parse().unwrap(), "berlin".to_owned())]);
    let parameters = Parameters::new(3, given("site"));
    let bytes = example("parameters.json", &parameters.encode().unwrap());
    let parsed = Parameters::parse(&bytes).unwrap();
    parsed.check(&content().parameters).unwrap();
    let unknown = Parameters::new(4, given("other"));
    unknown.check(&content().parameters).unwrap_err();
}

fn judge(bytes: &[u8], signer: u8, floor: u64) -> Result<Verified, Error> {
    let set = signed(Kind::Revision, bytes, &[key(signer)]);
    let product = product();
    let policy = Policy {
        product: &product,
        floor: Floor {
            root: 1,
            counter: floor,
        },
    };
    Verified::verify(bytes, &set, &root(), &policy)
}

/// The canonical example with one piece of its text replaced, signed with the right key.
fn altered(from: &str, to: &str) -> Result<Verified, Error> {
    let (_, bytes) = draft().encode().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{from}");
    judge(text.replacen(from, to, 1).as_bytes(), 2, 0)
}

#[test]
fn unsigned_and_wrongly_signed() {
    let (_, bytes) = draft().encode().unwrap();
    assert!(judge(&bytes, 2, 0).is_ok());
    for wrong in [1, 3, 9] {
        assert!(matches!(
            judge(&bytes, wrong, 0),
            Err(Error::Threshold { valid: 0, .. })
        ));
    }
}

#[test]
fn one_flipped_bit() {
    let (_, bytes) = draft().encode().unwrap();
    let set = signed(Kind::Revision, &bytes, &[key(2)]);
    for at in (0..bytes.len()).step_by(37) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        assert!(matches!(
            root().verify_release(&flipped, &set),
            Err(Error::BadSignature { .. })
        ));
    }
}

#[test]
fn wrong_product_and_wrong_board() {
    assert!(matches!(
        altered("\"gateway\"", "\"other\""),
        Err(Error::Product { .. })
    ));
    assert!(matches!(
        altered("\"qemu-x86-64\"", "\"qemu-arm64\""),
        Err(Error::Board { .. })
    ));
}

#[test]
fn unknown_field_in_envelope_and_in_content() {
    assert!(matches!(
        altered("\"tries\":3", "\"tries\":3,\"new\":1"),
        Err(Error::Json { .. })
    ));
    let content = altered("\"goal\":", "\"new\":1,\"goal\":")
        .unwrap()
        .content();
    assert!(matches!(content, Err(Error::Json { .. })));
}

#[test]
fn repeated_key_null_float_and_white_space() {
    assert!(matches!(
        altered("\"tries\":3", "\"tries\":3,\"tries\":3"),
        Err(Error::Json { .. })
    ));
    assert!(matches!(
        altered("\"tries\":3", "\"tries\":3.0"),
        Err(Error::Json { .. })
    ));
    assert!(matches!(
        altered("\"tries\":3", "\"tries\": 3"),
        Err(Error::NotCanonical { .. })
    ));
    let content = altered("\"pids-max\":64", "\"pids-max\":null")
        .unwrap()
        .content();
    assert!(matches!(content, Err(Error::NotCanonical { .. })));
}

#[test]
fn oversized_before_anything_is_parsed() {
    let bytes = vec![b' '; 256 * 1024 + 1];
    assert!(matches!(judge(&bytes, 2, 0), Err(Error::TooLarge { .. })));
}

#[test]
fn rollback_below_the_floor() {
    let (_, bytes) = draft().encode().unwrap();
    assert!(judge(&bytes, 2, 42).is_ok());
    assert!(matches!(
        judge(&bytes, 2, 43),
        Err(Error::BelowFloor { .. })
    ));
    assert!(matches!(
        altered("\"floor\":40", "\"floor\":43"),
        Err(Error::Invalid { .. })
    ));
}

#[test]
fn root_of_another_version() {
    assert!(matches!(
        altered("\"root\":1", "\"root\":2"),
        Err(Error::RootVersion { .. })
    ));
}

#[test]
fn mix_and_match_of_objects() {
    let unlisted = object("unlisted").to_string();
    let listed = object("kernel").to_string();
    assert!(matches!(
        altered(
            &format!("\"kernel\":\"{listed}\""),
            &format!("\"kernel\":\"{unlisted}\"")
        ),
        Err(Error::UnlistedObject { .. })
    ));
    // A layer as the kernel.
    let layer = object("base layer").to_string();
    let kernel = |id: &str| format!("\"kernel\":\"{id}\"");
    assert!(matches!(
        altered(&kernel(&listed), &kernel(&layer)),
        Err(Error::Invalid { .. })
    ));
}

#[test]
fn feature_that_nobody_has() {
    assert!(matches!(
        altered("[\"slots\"]", "[\"slots\",\"telepathy\"]"),
        Err(Error::Feature { .. })
    ));
    let content = altered("[\"fs-verity\"", "[\"a-new-one\",\"fs-verity\"")
        .unwrap()
        .content();
    assert!(matches!(content, Err(Error::Feature { .. })));
}

#[test]
fn containers_out_of_bounds() {
    for (from, to) in [
        ("\"group\":\"app\"", "\"group\":\"none\""),
        ("\"after\":[\"cache\"]", "\"after\":[\"web\"]"),
        ("ctory\":\"/\"", "ctory\":\"/../x\""),
        ("\"stop-signal\":3", "\"stop-signal\":65"),
        ("\"secrets\":[\"password\"]", "\"secrets\":[\"site\"]"),
        ("\"port\":80", "\"port\":0"),
        ("\"window-s\":60", "\"window-s\":4"),
        ("PATH=", "PASH="),
    ] {
        let content = altered(from, to).unwrap().content();
        assert!(
            matches!(content, Err(Error::Invalid { .. })),
            "{from} as {to}: {content:?}"
        );
    }
}
