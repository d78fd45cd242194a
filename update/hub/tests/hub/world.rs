//! A hub in a directory of its own, a product with keys, revisions, devices.

use crate::client::{Answer, Client, Credentials, tls};
use ed25519_dalek::SigningKey;
use kedge_api::Signed;
use kedge_api::device::{Enrolled, Phase, Report, Target};
use kedge_api::operator::{Assign, Assigned, Done, Hub, JoinToken, Offer};
use kedge_revision::bundle::Head;
use kedge_revision::configuration::Configuration;
use kedge_revision::content::{Commit, HubGoal};
use kedge_revision::enrolment::Enrolment;
use kedge_revision::fresh::Nonce;
use kedge_revision::parameters::{Parameter, ParameterType};
use kedge_revision::product::Mode;
use kedge_revision::revision::{Boot, Draft, Object, ObjectKind};
use kedge_revision::root::{Role, Roles};
use kedge_revision::signing::Kind;
use kedge_revision::verity::{Builder, Sealed};
use kedge_revision::{Content, KeyId, ObjectId, PublicKey, Root, SignatureSet, Timestamp};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The binary under test.
pub(crate) const HUB: &str = env!("CARGO_BIN_EXE_kedge-hub");

/// A hub that runs.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) authority: Vec<u8>,
    pub(crate) key: PublicKey,
    /// Of its authority, as it says itself.
    pub(crate) fingerprint: String,
    /// Of the first start alone.
    pub(crate) token: Option<String>,
}

impl Server {
    /// Starts a development hub.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &["--mode", "development"])
    }

    pub(crate) fn start_with(data: &Path, arguments: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", data, arguments)
    }

    /// Where it was before, for those who come back.
    pub(crate) fn start_at(listen: &str, data: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(HUB)
            .args([
                "serve",
                "--name",
                "hub.test,127.0.0.1,127.77.0.1,127.77.0.2",
            ])
            .args(["--listen", listen])
            .arg("--data")
            .arg(data)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = None;
        let mut token = None;
        // Three lines at the first start, two at any other; the token comes with the address.
        let fresh = !data.join("token-taken").exists();
        let mut fingerprint = None;
        for _ in 0..if fresh { 3 } else { 2 } {
            let line = lines.next().expect("the hub ended").unwrap();
            if let Some(text) = line.strip_prefix("listening on ") {
                address = Some(text.parse().unwrap());
            } else if let Some(text) = line.strip_prefix("first token: ") {
                token = Some(text.to_owned());
            } else if let Some(text) = line.strip_prefix("authority (SHA-256): ") {
                fingerprint = Some(text.to_owned());
            }
        }
        if fresh {
            std::fs::File::create(data.join("token-taken")).unwrap();
        }
        let address = address.expect("the hub did not say where it listens");
        let hub: Hub = Client::new(address, tls(None, None))
            .get("/v1/hub")
            .is(200)
            .json();
        Self {
            child,
            address,
            authority: unhex(&hub.authority),
            key: hub.key,
            fingerprint: fingerprint.expect("the hub did not say what its authority is"),
            token,
        }
    }

    /// A client that knows the hub's authority.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.address, tls(Some(&self.authority), None))
    }

    pub(crate) fn operator(&self, token: &str) -> Client {
        let mut client = self.client();
        client.token = Some(token.to_owned());
        client
    }

    pub(crate) fn device(&self, credentials: &Credentials) -> Client {
        Client::new(self.address, tls(Some(&self.authority), Some(credentials)))
    }

    #[allow(dead_code, reason = "the measurement looks at the process")]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As a power cut ends it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As a service manager ends it; tells whether it ended well.
    pub(crate) fn stop(mut self) -> bool {
        terminate(self.child.id());
        self.child.wait().unwrap().success()
    }
}

/// Sends SIGTERM.
pub(crate) fn terminate(pid: u32) {
    let killed = Command::new("kill")
        .args(["-TERM", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Keys of a product.
pub(crate) struct Keys {
    pub(crate) root: SigningKey,
    pub(crate) release: SigningKey,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            root: SigningKey::from_bytes(&[101; 32]),
            release: SigningKey::from_bytes(&[102; 32]),
        }
    }
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

impl Keys {
    /// A root of these keys and the hub's.
    pub(crate) fn root(&self, version: u32, mode: Mode, hub: PublicKey) -> Signed {
        let role = |key: PublicKey| Role {
            keys: vec![key.id()],
            threshold: 1,
        };
        let (root, release) = (public(&self.root), public(&self.release));
        let roles = Roles {
            root: role(root),
            release: role(release),
            hub: role(hub),
        };
        let document = Root::new(version, mode, &[root, release, hub], roles).unwrap();
        let bytes = document.encode().unwrap();
        let mut signatures = SignatureSet::default();
        signatures.sign(Kind::Root, &bytes, &self.root);
        Signed::new(&bytes, &signatures).unwrap()
    }
}

/// A revision with its objects.
pub(crate) struct Made {
    pub(crate) id: ObjectId,
    pub(crate) head: Vec<u8>,
    pub(crate) objects: BTreeMap<ObjectId, (Sealed, Vec<u8>)>,
}

/// What differs between revisions of the tests.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) product: &'static str,
    pub(crate) board: &'static str,
    pub(crate) counter: u64,
    pub(crate) floor: u64,
    pub(crate) layer: Vec<u8>,
    /// What the parameter `speed` takes.
    pub(crate) speed: ParameterType,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            product: "gateway",
            board: "qemu-x86-64",
            counter: 1,
            floor: 1,
            layer: sample(300_000),
            speed: ParameterType::Integer,
        }
    }
}

/// Bytes without a short period, and not all the same.
pub(crate) fn sample(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| u8::try_from((at * 7 + at / 4096 * 13 + at / 65_536) % 256).unwrap())
        .collect()
}

impl Plan {
    pub(crate) fn make(&self, keys: &Keys) -> Made {
        let kernel = format!("kernel {} of {}", self.counter, self.board).into_bytes();
        let initramfs = format!("initramfs {}", self.counter).into_bytes();
        let mut objects = BTreeMap::new();
        let mut add = |bytes: Vec<u8>| {
            let mut builder = Builder::new();
            builder.update(&bytes);
            let sealed = builder.finish();
            let id = sealed.id;
            objects.insert(id, (sealed, bytes));
            id
        };
        let (kernel, initramfs, layer) = (add(kernel), add(initramfs), add(self.layer.clone()));
        let size = |id: &ObjectId| objects[id].0.size;
        let object = |id: ObjectId, kind| {
            let size = size(&id);
            (id, Object { size, kind })
        };
        let draft = Draft {
            product: self.product.parse().unwrap(),
            board: self.board.parse().unwrap(),
            root: 1,
            counter: self.counter,
            floor: self.floor,
            tries: 3,
            created: Timestamp::from_unix(1_795_341_600),
            version: format!("1.{}", self.counter),
            objects: BTreeMap::from([
                object(kernel, ObjectKind::Kernel),
                object(initramfs, ObjectKind::Initramfs),
                object(layer, ObjectKind::Layer),
            ]),
            boot: Boot {
                kernel,
                initramfs,
                files: BTreeMap::new(),
                statement: None,
                arguments: "quiet".to_owned(),
            },
            content: content(self.speed),
        };
        let (id, document) = draft.encode().unwrap();
        let mut signatures = SignatureSet::default();
        signatures.sign(Kind::Revision, &document, &keys.release);
        let head = Head {
            revision: document,
            signatures: signatures.encode().unwrap(),
            parameters: None,
        };
        Made {
            id,
            head: head.encode(),
            objects,
        }
    }
}

fn content(speed: ParameterType) -> Content {
    let parameter = |kind, secret| Parameter {
        kind,
        max_length: None,
        default: None,
        secret,
    };
    Content {
        requires: Vec::new(),
        parameters: BTreeMap::from([
            (
                "site".parse().unwrap(),
                parameter(ParameterType::String, false),
            ),
            ("speed".parse().unwrap(), parameter(speed, false)),
            (
                "password".parse().unwrap(),
                parameter(ParameterType::String, true),
            ),
        ]),
        groups: Vec::new(),
        containers: BTreeMap::new(),
        configuration: configuration(),
        commit: Commit {
            window_s: 60,
            hub: HubGoal::Never,
            hub_wait_s: None,
        },
    }
}

fn configuration() -> Configuration {
    serde_json::from_value(json!({"network": {}, "logs": {"disk-max": 1_048_576}})).unwrap()
}

/// A hub with a product, an operator, and a join token.
pub(crate) struct World {
    // Ended before its directory goes.
    pub(crate) server: Server,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) token: String,
    pub(crate) operator: Client,
    pub(crate) keys: Keys,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::at("127.0.0.1:0")
    }

    /// A hub that listens here. What may be started again in its place has an address that no other test takes.
    pub(crate) fn at(listen: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start_at(listen, directory.path(), &["--mode", "development"]);
        let token = server
            .token
            .clone()
            .expect("the first start prints a token");
        let operator = server.operator(&token);
        let keys = Keys::default();
        let root = keys.root(1, Mode::Development, server.key);
        operator.post("/v1/products?product=gateway", &root).is(201);
        Self {
            directory,
            server,
            token,
            operator,
            keys,
        }
    }

    /// Starts the hub again on the same data.
    pub(crate) fn restarted(mut self, end: impl FnOnce(Server)) -> Self {
        end(self.server);
        self.server = Server::start(self.directory.path());
        self.operator = self.server.operator(&self.token);
        self
    }

    /// The same, where it was before: for those who come back to it.
    pub(crate) fn restarted_in_place(mut self, end: impl FnOnce(Server)) -> Self {
        let listen = self.server.address.to_string();
        end(self.server);
        let data = self.directory.path();
        self.server = Server::start_at(&listen, data, &["--mode", "development"]);
        self.operator = self.server.operator(&self.token);
        self
    }

    pub(crate) fn join_token(&self, uses: u32) -> String {
        let new = json!({"product": "gateway", "uses": uses, "lasts-s": 3600, "tags": {"site": "berlin"}});
        let made: JoinToken = self.operator.post("/v1/join-tokens", &new).is(201).json();
        made.token.unwrap()
    }

    /// Publishes a revision with all its objects.
    pub(crate) fn publish(&self, plan: &Plan) -> Made {
        let made = plan.make(&self.keys);
        let offer: Offer = self.offer(&made.head).is(200).json();
        assert_eq!(offer.revision, made.id);
        for missing in &offer.missing {
            let done: Done = self.upload(&made, missing.id, 0).is(200).json();
            assert!(done.complete);
        }
        made
    }

    pub(crate) fn offer(&self, head: &[u8]) -> Answer {
        self.operator
            .ask("POST", "/v1/revisions", &[], head)
            .unwrap()
    }

    pub(crate) fn upload(&self, made: &Made, id: ObjectId, offset: usize) -> Answer {
        let (sealed, bytes) = &made.objects[&id];
        let mut body = sealed.tree.clone();
        body.extend_from_slice(&bytes[offset..]);
        self.operator
            .ask("POST", &upload_path(made, id, offset), &[], &body)
            .unwrap()
    }

    /// Enrols a device with a fresh join token.
    pub(crate) fn device(&self, number: u8) -> Device {
        let token = self.join_token(1);
        Device::enrol(&self.server, number, Some(&token))
    }

    pub(crate) fn assign(&self, query: &str, revision: ObjectId) -> Assigned {
        let assign = Assign {
            query: query.to_owned(),
            revision,
            download_only: false,
            dry_run: false,
            window: None,
            rate: None,
        };
        self.operator
            .post("/v1/assignments", &assign)
            .is(200)
            .json()
    }
}

pub(crate) fn upload_path(made: &Made, id: ObjectId, offset: usize) -> String {
    format!(
        "/v1/revisions/{}/objects/{}?offset={offset}",
        made.id.hex(),
        id.hex()
    )
}

/// A device that was taken in.
pub(crate) struct Device {
    pub(crate) id: KeyId,
    pub(crate) credentials: Credentials,
    pub(crate) client: Client,
}

/// The key of the device of this number.
pub(crate) fn device_key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// A device's request to be taken in.
pub(crate) fn request(number: u8, product: &str, token: Option<&str>) -> Signed {
    request_with(number, product, token, number)
}

/// The same with a nonce of these bytes.
pub(crate) fn request_with(number: u8, product: &str, token: Option<&str>, nonce: u8) -> Signed {
    let key = device_key(number);
    let names = (product.parse().unwrap(), "qemu-x86-64".parse().unwrap());
    let nonce = Nonce::from_bytes([nonce; 32]);
    let enrolment = Enrolment::new(public(&key), names, 1, nonce, token.map(str::to_owned));
    let bytes = enrolment.encode().unwrap();
    let mut signatures = SignatureSet::default();
    signatures.sign(Kind::Enrolment, &bytes, &key);
    Signed::new(&bytes, &signatures).unwrap()
}

impl Device {
    pub(crate) fn enrol(server: &Server, number: u8, token: Option<&str>) -> Self {
        let request = request(number, "gateway", token);
        let answer = server.client().post("/v1/enroll", &request).is(200);
        Self::accepted(server, number, &answer)
    }

    pub(crate) fn accepted(server: &Server, number: u8, answer: &Answer) -> Self {
        let Enrolled::Accepted { certificate, .. } = answer.json() else {
            panic!("{}", answer.text());
        };
        let credentials = Credentials {
            certificate: unhex(&certificate),
            seed: [number; 32],
        };
        Self {
            id: public(&device_key(number)).id(),
            client: server.device(&credentials),
            credentials,
        }
    }

    /// Connects to a hub that was started again.
    pub(crate) fn reconnect(&mut self, server: &Server) {
        self.client = server.device(&self.credentials);
    }
}

/// A report of a device that runs a revision.
pub(crate) fn report(seq: u64, phase: Phase, running: Option<ObjectId>) -> Report {
    let target = running.map(|revision| Target {
        revision,
        version: "1".to_owned(),
        parameters: 0,
        slot: "a".to_owned(),
    });
    Report {
        seq,
        boot_id: "boot-1".to_owned(),
        uptime_ms: 1000,
        time: None,
        running: target.clone(),
        committed: target,
        floor: "1.1".to_owned(),
        phase,
        failed: None,
        stale: false,
        containers: Vec::new(),
        action: 0,
        console: None,
        container_log: None,
    }
}
