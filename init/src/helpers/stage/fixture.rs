//! A device for tests: a store, a trust root with its key, and revisions that it signs.

use super::Request;
use super::head::tests::head;
use super::trust::Trust;
use ed25519_dalek::SigningKey;
use kedge_revision::container::{
    Goal, Limits, Network, Process, Restart, RestartPolicy, RootWrites, Then, User, Volume,
};
use kedge_revision::content::{Change, Commit, Group, HubGoal};
use kedge_revision::parameters::{Parameter, ParameterType};
use kedge_revision::revision::{Boot, Draft, Object, ObjectKind};
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::verity::{self, Sealed};
use kedge_revision::{
    Configuration, Container, Content, Floor, Mode, ObjectId, Product, PublicKey, Role, Root,
    SignatureSet, Timestamp,
};
use kedge_store::{Staging, Store};
use std::collections::BTreeMap;

pub(crate) struct Device {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Store,
    key: SigningKey,
    pub(crate) product: Vec<u8>,
    pub(crate) root: Vec<u8>,
}

pub(crate) const KERNEL: &[u8] = b"kernel";
pub(crate) const INITRAMFS: &[u8] = b"initramfs";

/// An object's id, size and tree.
pub(crate) fn sealed(bytes: &[u8]) -> Sealed {
    let mut builder = verity::Builder::new();
    builder.update(bytes);
    builder.finish()
}

impl Device {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = PublicKey::from_bytes(key.verifying_key().to_bytes());
        let role = |threshold| Role {
            keys: if threshold == 0 {
                vec![]
            } else {
                vec![public.id()]
            },
            threshold,
        };
        let roles = Roles {
            root: role(1),
            release: role(1),
            hub: role(0),
        };
        let root = Root::new(1, Mode::Development, &[public], roles).unwrap();
        let product = Product::new(
            "gateway".parse().unwrap(),
            "board".parse().unwrap(),
            Mode::Development,
        );
        Self {
            store: Store::open(directory.path()).unwrap(),
            directory,
            key,
            product: product.encode().unwrap(),
            root: root.encode().unwrap(),
        }
    }

    pub(super) fn trust(&self, committed: ObjectId, floor: u64) -> Trust {
        let floor = Floor {
            root: 1,
            counter: floor,
        };
        Trust::new(floor, committed, &self.product, &self.root).unwrap()
    }

    pub(crate) fn configure(&self, committed: ObjectId) -> Request<'_> {
        self.configure_with(committed, [0; 2])
    }

    /// The same, with parameters of these counters committed and on trial.
    pub(crate) fn configure_with(&self, committed: ObjectId, parameters: [u64; 2]) -> Request<'_> {
        Request::Configure {
            floor: Floor::default(),
            committed,
            parameters,
            secure_boot: false,
            product: &self.product,
            root: &self.root,
        }
    }

    /// Its bytes, and its signatures'.
    pub(crate) fn sign(&self, draft: Draft) -> (ObjectId, Vec<u8>, Vec<u8>) {
        let (id, document) = draft.encode().unwrap();
        let signatures = self.signatures(&document);
        (id, document, signatures)
    }

    fn signatures(&self, document: &[u8]) -> Vec<u8> {
        let mut set = SignatureSet::default();
        set.sign(Kind::Revision, document, &self.key);
        set.encode().unwrap()
    }

    /// The head of a bundle with this document, whatever it holds.
    pub(crate) fn head_of(&self, document: &[u8]) -> Vec<u8> {
        head(&[(1, document), (2, &self.signatures(document))])
    }

    /// The head of its bundle.
    pub(crate) fn offer(&self, draft: Draft, parameters: Option<&[u8]>) -> (ObjectId, Vec<u8>) {
        let (id, document, signatures) = self.sign(draft);
        let mut sections = vec![(1, &document[..]), (2, &signatures[..])];
        sections.extend(parameters.map(|bytes| (3, bytes)));
        (id, head(&sections))
    }

    /// Puts a revision of this counter with these layers into the store.
    pub(crate) fn put(&self, counter: u64, layers: &[&[u8]], origin: &str) -> ObjectId {
        for layer in layers {
            self.put_object(layer, ObjectKind::Layer);
        }
        let (id, document, signatures) = self.sign(draft(counter, layers));
        self.store
            .put_revision(id, &document, &signatures, origin)
            .unwrap();
        id
    }

    pub(crate) fn put_object(&self, bytes: &[u8], kind: ObjectKind) -> ObjectId {
        let sealed = sealed(bytes);
        let object = Object {
            size: sealed.size,
            kind,
        };
        let mut staging = Staging::begin(&self.store, sealed.id, object, &sealed.tree).unwrap();
        staging.write(bytes).unwrap();
        staging.finish().unwrap();
        sealed.id
    }
}

/// A revision of this counter with these layers.
pub(crate) fn draft(counter: u64, layers: &[&[u8]]) -> Draft {
    let mut objects = BTreeMap::new();
    let mut add = |bytes: &[u8], kind| {
        let sealed = sealed(bytes);
        let size = sealed.size;
        objects.insert(sealed.id, Object { size, kind });
        sealed.id
    };
    let boot = Boot {
        kernel: add(KERNEL, ObjectKind::Kernel),
        initramfs: add(INITRAMFS, ObjectKind::Initramfs),
        files: BTreeMap::new(),
        statement: None,
        arguments: "quiet".into(),
    };
    for layer in layers {
        add(layer, ObjectKind::Layer);
    }
    let site = Parameter {
        kind: ParameterType::Integer,
        max_length: None,
        default: None,
        secret: false,
    };
    let content = Content {
        requires: vec![],
        parameters: BTreeMap::from([("site".parse().unwrap(), site)]),
        groups: vec![Group {
            name: "app".parse().unwrap(),
            change: Change::Restart,
        }],
        containers: BTreeMap::new(),
        configuration: Configuration::default(),
        commit: Commit {
            window_s: 60,
            hub: HubGoal::Never,
            hub_wait_s: None,
        },
    };
    Draft {
        product: "gateway".parse().unwrap(),
        board: "board".parse().unwrap(),
        root: 1,
        counter,
        floor: 0,
        tries: 3,
        created: Timestamp::from_unix(1_795_341_600),
        version: format!("1.{counter}"),
        objects,
        boot,
        content,
    }
}

/// A container of one layer with one volume.
pub(crate) fn container(layer: &[u8], volume: Volume) -> Container {
    Container {
        group: "app".parse().unwrap(),
        layers: vec![sealed(layer).id],
        process: Process {
            arguments: vec!["/bin/true".into()],
            environment: vec!["PATH=/bin".into()],
            user: User::default(),
            working_directory: "/".into(),
            stop_signal: 15,
            stop_grace_ms: 1000,
            parameters: BTreeMap::new(),
            secrets: Vec::new(),
        },
        goal: Goal::Started,
        health: None,
        restart: Restart {
            policy: RestartPolicy::No,
            delay_ms: 1000,
            max_delay_ms: 1000,
            reset_after_ms: 1000,
            max_retries: None,
            then: Then::Leave,
        },
        root: RootWrites::Refused,
        volumes: BTreeMap::from([("data".parse().unwrap(), volume)]),
        limits: Limits::default(),
        network: Network::None,
        devices: vec![],
        capabilities: vec![],
        roles: vec![],
        after: vec![],
    }
}
