//! A hub with a product: its keys, its revisions, and the operator who publishes and assigns them.

use crate::hub::Hub;
use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use kedge_api::Signed;
use kedge_api::operator::{Assign, Assigned, Device, Done, JoinToken, Offer};
use kedge_image_build::files;
use kedge_image_build::hub::{Client, unhex};
use kedge_revision::bundle::Head;
use kedge_revision::content::{Commit, HubGoal};
use kedge_revision::enrolment::Provision;
use kedge_revision::parameters::{Parameter, ParameterType};
use kedge_revision::revision::{Boot, Draft, Object, ObjectKind};
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind;
use kedge_revision::verity::{Builder, Sealed};
use kedge_revision::{
    Configuration, Content, KeyId, Mode, ObjectId, Product, PublicKey, Role, Root, SignatureSet,
    Timestamp,
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// When all revisions were made: before whatever time the machine has.
pub const CREATED: u64 = 1_700_000_000;
/// The board of all devices.
pub const BOARD: &str = "qemu-x86-64";

/// The keys of a product, which stay off the hub.
#[derive(Debug, Clone)]
pub struct Keys {
    root: SigningKey,
    /// Signs revisions.
    pub release: SigningKey,
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

/// Their ids, as a root lists them.
fn ids(keys: &[PublicKey]) -> Vec<KeyId> {
    let ids: BTreeSet<KeyId> = keys.iter().map(PublicKey::id).collect();
    ids.into_iter().collect()
}

impl Keys {
    /// The first root: of these keys and hubs'.
    ///
    /// # Errors
    /// None that is known.
    pub fn root(&self, hubs: &[PublicKey]) -> Result<(Root, Signed)> {
        let role = |keys: &[PublicKey]| Role {
            keys: ids(keys),
            threshold: 1,
        };
        let (root, release) = (public(&self.root), public(&self.release));
        let roles = Roles {
            root: role(&[root]),
            release: role(&[release]),
            hub: role(hubs),
        };
        let all = [&[root, release], hubs].concat();
        let document = Root::new(1, Mode::Development, &all, roles)?;
        let bytes = document.encode()?;
        let mut signatures = SignatureSet::default();
        signatures.sign(Kind::Root, &bytes, &self.root);
        let signed = Signed::new(&bytes, &signatures).context("no text")?;
        Ok((document, signed))
    }
}

/// A revision with its objects.
#[derive(Debug, Clone)]
pub struct Release {
    /// Its id.
    pub id: ObjectId,
    /// The head of its bundle.
    pub head: Vec<u8>,
    /// Its objects: trees and bytes.
    pub objects: BTreeMap<ObjectId, (Sealed, Vec<u8>)>,
}

/// What differs between revisions.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whose it is.
    pub product: &'static str,
    /// Its place in the order.
    pub counter: u64,
    /// The floor that it brings.
    pub floor: u64,
    /// Its one layer.
    pub layer: Vec<u8>,
}

impl Plan {
    /// A revision of the product, with a layer of so many bytes that no other revision has.
    #[must_use]
    pub fn new(counter: u64, size: usize) -> Self {
        let mut layer = sample(size);
        layer
            .iter_mut()
            .zip(counter.to_le_bytes())
            .for_each(|(byte, digit)| *byte = digit);
        Self {
            product: "gateway",
            counter,
            floor: 1,
            layer,
        }
    }

    /// The same, with a layer that nothing makes smaller.
    #[must_use]
    pub fn noise(counter: u64, size: usize) -> Self {
        let mut plan = Self::new(counter, size);
        // Xorshift (Marsaglia 2003).
        let mut state = counter | 1 << 40;
        for byte in &mut plan.layer {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_le_bytes()[3];
        }
        plan
    }

    /// Signs it.
    ///
    /// # Errors
    /// It is none.
    pub fn make(&self, keys: &Keys) -> Result<Release> {
        let mut objects = BTreeMap::new();
        let mut listed = BTreeMap::new();
        let mut add = |bytes: Vec<u8>, kind| {
            let mut builder = Builder::new();
            builder.update(&bytes);
            let sealed = builder.finish();
            let (id, size) = (sealed.id, sealed.size);
            listed.insert(id, Object { size, kind });
            objects.insert(id, (sealed, bytes));
            id
        };
        let text = |what: &str| format!("{what} {}", self.counter).into_bytes();
        let kernel = add(text("kernel"), ObjectKind::Kernel);
        let initramfs = add(text("initramfs"), ObjectKind::Initramfs);
        add(self.layer.clone(), ObjectKind::Layer);
        let draft = Draft {
            product: self.product.parse()?,
            board: BOARD.parse()?,
            root: 1,
            counter: self.counter,
            floor: self.floor,
            tries: 3,
            created: Timestamp::from_unix(CREATED),
            version: format!("1.{}", self.counter),
            objects: listed,
            boot: Boot {
                kernel,
                initramfs,
                files: BTreeMap::new(),
                statement: None,
                arguments: "quiet".to_owned(),
            },
            content: content()?,
        };
        let (id, document) = draft.encode()?;
        let mut signatures = SignatureSet::default();
        signatures.sign(Kind::Revision, &document, &keys.release);
        let head = Head {
            revision: document,
            signatures: signatures.encode()?,
            parameters: None,
        };
        Ok(Release {
            id,
            head: head.encode(),
            objects,
        })
    }
}

/// Bytes without a short period, and not all the same.
fn sample(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| u8::try_from((at * 7 + at / 4096 * 13 + at / 65_536) % 256).unwrap_or(0))
        .collect()
}

fn content() -> Result<Content> {
    let speed = Parameter {
        kind: ParameterType::Integer,
        max_length: None,
        default: None,
        secret: false,
    };
    Ok(Content {
        requires: Vec::new(),
        parameters: BTreeMap::from([("speed".parse()?, speed)]),
        groups: Vec::new(),
        containers: BTreeMap::new(),
        configuration: Configuration::default(),
        commit: Commit {
            window_s: 60,
            hub: HubGoal::Never,
            hub_wait_s: None,
        },
    })
}

/// See the module.
#[derive(Debug)]
pub struct Fleet {
    program: String,
    folder: tempfile::TempDir,
    hub: Option<Hub>,
    authority: Vec<u8>,
    /// The operator, who is asked for everything.
    pub operator: Client,
    /// Of the product.
    pub keys: Keys,
    /// The product's root.
    pub root: Root,
}

impl Fleet {
    /// A hub of `program` (`test-hub`) that knows a product.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(program: &str) -> Result<Self> {
        let [fleet] = Self::start_all(program)?;
        Ok(fleet)
    }

    /// Hubs that one root names, each with an authority of its own.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_all<const N: usize>(program: &str) -> Result<[Self; N]> {
        let started = (0..N).map(|_| {
            let folder = tempfile::tempdir().context("no folder")?;
            let hub = Hub::start(program, folder.path())?;
            let told = Client::unjudged(hub.url().parse()?)?.hub()?;
            Ok((folder, hub, told))
        });
        let started: Vec<_> = started.collect::<Result<_>>()?;
        let names: Vec<PublicKey> = started.iter().map(|(_, _, told)| told.key).collect();
        let keys = Keys::default();
        let (root, signed) = keys.root(&names)?;
        let fleets = started.into_iter().map(|(folder, hub, told)| {
            let authority = unhex(&told.authority).context("no authority")?;
            let operator = operator(&hub, &authority)?;
            operator.tell("POST", "/v1/products?product=gateway", &signed)?;
            Ok(Self {
                program: program.to_owned(),
                folder,
                hub: Some(hub),
                authority,
                operator,
                keys: keys.clone(),
                root: root.clone(),
            })
        });
        let fleets: Vec<_> = fleets.collect::<Result<_>>()?;
        fleets
            .try_into()
            .map_err(|_| anyhow::anyhow!("not as many hubs"))
    }

    /// Kills the hub as a power cut would, and starts it again on what is on its disk.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.hub = None;
        let hub = Hub::start(&self.program, self.folder.path())?;
        self.operator = operator(&hub, &self.authority)?;
        self.hub = Some(hub);
        Ok(())
    }

    /// The hub's folder: its database, its objects, its keys.
    #[must_use]
    pub fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// The hub's authority, DER.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// Where the hub listens.
    ///
    /// # Errors
    /// It does not run.
    pub fn address(&self) -> Result<std::net::SocketAddr> {
        let hub = self.hub.as_ref().context("the hub does not run")?;
        let address = hub.url().strip_prefix("https://");
        Ok(address.context("no address")?.parse()?)
    }

    /// The product's document.
    ///
    /// # Errors
    /// None that is known.
    pub fn product(&self) -> Result<Product> {
        Ok(Product::new(
            "gateway".parse()?,
            BOARD.parse()?,
            Mode::Development,
        ))
    }

    /// Signs with the hub's own key, as somebody does who has got hold of it.
    ///
    /// # Errors
    /// There is no such key.
    pub fn sign_as_hub(&self, kind: Kind, document: &[u8]) -> Result<Signed> {
        let seed = files::read(&self.data().join("keys/hub.key"))?;
        let key = SigningKey::from_bytes(&seed.as_slice().try_into()?);
        let mut signatures = SignatureSet::default();
        signatures.sign(kind, document, &key);
        Signed::new(document, &signatures).context("no text")
    }

    /// Publishes a revision with all its objects.
    ///
    /// # Errors
    /// The hub refuses it.
    pub fn publish(&self, plan: &Plan) -> Result<Release> {
        let made = plan.make(&self.keys)?;
        let offer: Offer = self.operator.send_bytes("/v1/revisions", &made.head)?;
        for missing in &offer.missing {
            let (sealed, bytes) = made.objects.get(&missing.id).context("another object")?;
            let body = [sealed.tree.as_slice(), bytes].concat();
            let (revision, object) = (made.id.hex(), missing.id.hex());
            let target = format!("/v1/revisions/{revision}/objects/{object}?offset=0");
            let done: Done = self.operator.send_bytes(&target, &body)?;
            ensure!(done.complete, "{done:?}");
        }
        Ok(made)
    }

    /// Assigns a revision to the devices of a query.
    ///
    /// # Errors
    /// The hub refuses it.
    pub fn assign(&self, query: &str, revision: ObjectId) -> Result<Assigned> {
        let assign = Assign {
            query: query.to_owned(),
            revision,
            download_only: false,
            dry_run: false,
            window: None,
            rate: None,
        };
        self.operator.send("POST", "/v1/assignments", &assign)
    }

    /// What a device is provisioned with: a token that takes so many devices in, for so long.
    ///
    /// # Errors
    /// The hub refuses it.
    pub fn provision(&self, uses: u32, lasts_s: u32) -> Result<String> {
        let new = json!({"product": "gateway", "uses": uses, "lasts-s": lasts_s});
        let made: JoinToken = self.operator.send("POST", "/v1/join-tokens", &new)?;
        let provision = Provision::new(Vec::new(), made.token, BTreeMap::new());
        Ok(serde_json::to_string(&provision)?)
    }

    /// What the hub knows of a device.
    ///
    /// # Errors
    /// Nothing.
    pub fn device(&self, id: KeyId) -> Result<Device> {
        self.operator.get(&format!("/v1/devices/{id}"))
    }
}

fn operator(hub: &Hub, authority: &[u8]) -> Result<Client> {
    let token = files::read_text(Path::new(&hub.token()))?;
    Client::judged(hub.url().parse()?, authority, Some(token.into()))
}
