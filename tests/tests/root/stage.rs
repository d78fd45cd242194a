//! The stage helper with what only root has: files of other users, and capabilities that are in force only meanwhile.

use ed25519_dalek::SigningKey;
use kedge_init::helpers::stage::{self, Ids, MAX_FRAME, Report, Request};
use kedge_revision::content::{Commit, HubGoal};
use kedge_revision::revision::{Boot, Draft, Object, ObjectKind};
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::{
    Configuration, Content, Floor, Mode, ObjectId, Product, PublicKey, Role, Root, SignatureSet,
    Timestamp, verity,
};
use kedge_store::Store;
use kedge_sys::privilege::CapabilitySet;
use kedge_sys::rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use kedge_sys::sock;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

/// A store with two revisions, and what PID 1 says of them.
struct Device {
    directory: tempfile::TempDir,
    product: Vec<u8>,
    root: Vec<u8>,
    committed: ObjectId,
    tried: ObjectId,
}

impl Device {
    fn new() -> Self {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = PublicKey::from_bytes(key.verifying_key().to_bytes());
        let role = |threshold: u32| Role {
            keys: vec![public.id(); threshold as usize],
            threshold,
        };
        let roles = Roles {
            root: role(1),
            release: role(1),
            hub: role(0),
        };
        let root = Root::new(1, Mode::Development, &[public], roles).unwrap();
        let name = |text: &str| text.parse().unwrap();
        let product = Product::new(name("gateway"), name("board"), Mode::Development);
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let put = |counter| {
            let (id, document) = draft(counter).encode().unwrap();
            let mut set = SignatureSet::default();
            set.sign(Kind::Revision, &document, &key);
            let signatures = set.encode().unwrap();
            store
                .put_revision(id, &document, &signatures, "test")
                .unwrap();
            id
        };
        let (committed, tried) = (put(1), put(2));
        Self {
            directory,
            product: product.encode().unwrap(),
            root: root.encode().unwrap(),
            committed,
            tried,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs the confined helper; tells which capabilities it had left in the end: in force, and permitted.
    fn talk(&self, speak: impl FnOnce(&OwnedFd)) -> (CapabilitySet, CapabilitySet) {
        let (own, other) = sock::pair(sock::Kind::Messages).unwrap();
        std::thread::scope(|scope| {
            // Capabilities belong to a thread, so that of the test can give up its own.
            let helper = scope.spawn(|| {
                stage::run(other.as_fd(), self.directory.path()).unwrap();
                kedge_sys::privilege::capabilities().unwrap()
            });
            let configure = Request::Configure {
                floor: Floor::default(),
                committed: self.committed,
                parameters: [0; 2],
                secure_boot: false,
                product: &self.product,
                root: &self.root,
            };
            sock::send(&own, &configure.encode(), &[]).unwrap();
            speak(&own);
            drop(own);
            let left = helper.join().unwrap();
            (left.effective, left.permitted)
        })
    }
}

fn draft(counter: u64) -> Draft {
    let object = |bytes: &[u8], kind| {
        let size = bytes.len() as u64;
        (verity::digest(bytes), Object { size, kind })
    };
    let kernel = object(b"kernel", ObjectKind::Kernel);
    let initramfs = object(b"initramfs", ObjectKind::Initramfs);
    Draft {
        product: "gateway".parse().unwrap(),
        board: "board".parse().unwrap(),
        root: 1,
        counter,
        floor: 0,
        tries: 3,
        created: Timestamp::from_unix(1_795_341_600),
        version: counter.to_string(),
        objects: BTreeMap::from([kernel, initramfs]),
        boot: Boot {
            kernel: kernel.0,
            initramfs: initramfs.0,
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

fn ask(socket: &OwnedFd, request: Request<'_>) -> (bool, String) {
    sock::send(socket, &request.encode(), &[]).unwrap();
    let mut buffer = vec![0; MAX_FRAME];
    let bytes = sock::receive(socket, &mut buffer).unwrap().bytes;
    let report = Report::decode(&buffer[..bytes]).unwrap();
    if let Report::Snapshot { ok, text } = report {
        (ok, text.to_owned())
    } else {
        (true, format!("{report:?}"))
    }
}

fn put(path: &Path, owner: u32, mode: u32) {
    if path.extension().is_some_and(|extension| extension == "d") {
        fs::create_dir(path).unwrap();
    } else {
        fs::File::create(path).unwrap();
    }
    chown(path, Some(owner), Some(owner + 1)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A file capability as the kernel keeps it (`VFS_CAP_REVISION_2`): net_bind_service, permitted and effective.
const FILE_CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Everything that a copy must keep, by path.
fn facts(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        if data.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        let attributes = ["user.note", "security.capability"].map(|name| {
            let mut value = vec![0; 64];
            let length = lgetxattr(&path, name, &mut value[..]).unwrap_or(0);
            value.truncate(length);
            value
        });
        let (mode, times) = (data.mode(), (data.mtime(), data.mtime_nsec()));
        let fact = format!(
            "{}:{} {mode:o} {times:?} {attributes:?}",
            data.uid(),
            data.gid()
        );
        found.insert(path.strip_prefix(top).unwrap().to_owned(), fact);
    }
    found
}

#[test]
fn root_volumes_of_other_users_are_kept_and_brought_back_by_a_confined_helper() {
    let device = Device::new();
    fs::create_dir_all(device.path("volumes/web")).unwrap();
    let volume = device.path("volumes/web/data.d");
    put(&volume, 1000, 0o700);
    let plain = device.path("volumes/web/data");
    fs::rename(&volume, &plain).unwrap();
    put(&plain.join("secret"), 1000, 0o600);
    put(&plain.join("none"), 1001, 0);
    put(&plain.join("setuid"), 33, 0o6755);
    put(&plain.join("capable"), 33, 0o755);
    put(&plain.join("shared.d"), 33, 0o3770);
    put(&plain.join("closed.d"), 44, 0);
    symlink("/etc/shadow", plain.join("link")).unwrap();
    lchown(plain.join("link"), Some(55), Some(56)).unwrap();
    let set = |name: &str, attribute, value: &[u8]| {
        lsetxattr(plain.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    set("secret", "user.note", b"kept");
    set("capable", "security.capability", &FILE_CAPABILITY);
    let before = facts(&plain);
    assert!(before[Path::new("capable")].contains("[1, 0, 0, 2"));
    let (effective, permitted) = device.talk(|socket| {
        let snapshot = Request::Snapshot {
            revision: device.tried,
            volumes: r#"[["web","data"]]"#,
        };
        assert_eq!(ask(socket, snapshot), (true, String::new()));
        let copy = format!("snapshots/{}/web/data", device.tried.hex());
        assert_eq!(facts(&device.path(&copy)), before);
        // The trial spoils it.
        fs::remove_file(plain.join("secret")).unwrap();
        put(&plain.join("new"), 1000, 0o600);
        let restore = Request::Restore {
            revision: device.tried,
        };
        assert_eq!(ask(socket, restore), (true, String::new()));
        assert_eq!(facts(&plain), before);
    });
    assert!(effective.is_empty());
    assert!(!permitted.intersects(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN));
}

#[test]
fn root_a_collection_takes_what_containers_wrote_in_a_revision_along() {
    let device = Device::new();
    let state = device.path(&format!("revisions/{}/state.d", device.tried.hex()));
    put(&state, 1000, 0o700);
    put(&state.join("inner.d"), 1000, 0o700);
    put(&state.join("inner.d/file"), 1000, 0o600);
    device.talk(|socket| {
        let keep = [*device.committed.digest()];
        let (_, said) = ask(socket, Request::Collect(Ids::new(&keep)));
        assert_eq!(said, "Collected { objects: 0, bytes: 0 }");
    });
    let store = Store::at(device.directory.path());
    assert_eq!(store.revisions().unwrap(), [device.committed]);
    assert!(!state.exists() && store.is_committed(device.committed));
}
