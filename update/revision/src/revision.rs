//! A revision: the signed document that lists everything a device runs.
//!
//! One JSON document of at most 256 KiB; its id is the fs-verity digest of its bytes. The
//! **envelope** is judged by the *running* updater. The **content** is judged by the init that will
//! run it, and is kept here as the exact bytes that were signed, so that a revision which ships a
//! newer init may use what only that init knows.
//!
//! Judging, in order: size, signatures towards the threshold, parse, canonical form, product and
//! board, floor, objects, then [`Verified::content`]. [`Verified`] has no other constructor.

use crate::content::Content;
use crate::error::Error;
use crate::id::{FileName, Name, ObjectId};
use crate::json;
use crate::order::{Floor, Order};
use crate::product::Product;
use crate::root::Root;
use crate::signing::SignatureSet;
use crate::time::Timestamp;
use crate::verity;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Format and version.
pub const SPEC: &str = "kedge.revision/1";
/// Largest revision, bytes.
pub const CAP: usize = 256 * 1024;
/// Most objects of a revision.
pub const MAX_OBJECTS: usize = 1024;
/// Most files of a slot beside those that every slot has: firmware of a Raspberry Pi with its device trees are about ten.
pub const MAX_BOOT_FILES: usize = 24;
/// Words of `requires-updater` that this code fulfils.
pub const UPDATER_FEATURES: [&str; 1] = ["slots"];

/// The part of a revision that the running updater judges.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Envelope {
    spec: String,
    /// The product it is made for.
    pub product: Name,
    /// The board it is made for.
    pub board: Name,
    /// Version of the root under whose release keys it is signed.
    pub root: u32,
    /// Orders revisions under one root.
    pub counter: u64,
    /// The device's floor after this revision is committed; never above `counter`.
    pub floor: u64,
    /// Boots that a trial may take without a verdict, 1 to 9.
    pub tries: u8,
    /// When it was made; a lower bound for a device without a clock.
    pub created: Timestamp,
    /// The operator's own name for it; shown, never compared.
    pub version: String,
    /// Words for what the running updater must know ([`UPDATER_FEATURES`]), sorted.
    pub requires_updater: Vec<String>,
    /// Every object that the revision needs.
    pub objects: BTreeMap<ObjectId, Object>,
    /// What the slot holds.
    pub boot: Boot,
    content: Box<RawValue>,
}

/// Size and use of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Object {
    /// Exact size, bytes; a download stops one byte later.
    pub size: u64,
    /// What it is.
    pub kind: ObjectKind,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectKind {
    /// A read-only file system image.
    Layer,
    /// A kernel image.
    Kernel,
    /// A compressed initramfs.
    Initramfs,
    /// Another file of the slot: a device tree, or firmware.
    BootFile,
    /// A signed program that says, for firmware with Secure Boot, which files of a slot belong together.
    Statement,
}

/// What the slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Boot {
    /// The kernel.
    pub kernel: ObjectId,
    /// The initramfs.
    pub initramfs: ObjectId,
    /// What else the slot holds, by the names that the board's loader looks for: device trees, and firmware that is loaded from
    /// the slot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<FileName, ObjectId>,
    /// The slot's statement, for boards whose firmware verifies what it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<ObjectId>,
    /// Kernel arguments beside those of the loader; printable ASCII, at most 1024 bytes. None begins with `kedge.`: those say
    /// what the loader has done, and where a slot lies. But for the LED's, which belongs to the board.
    pub arguments: String,
}

/// What the words begin with by which a loader talks to PID 1.
pub const LOADERS_WORDS: &str = "kedge.";
/// The one of them that a revision may have: on boards whose loader says nothing, the slot's own line names the LED.
const LED_WORD: &str = "kedge.led=";

/// Everything that the author of a revision decides; see the fields of [`Envelope`].
#[derive(Debug, Clone)]
#[allow(
    missing_docs,
    reason = "the fields are those of the envelope, described there"
)]
pub struct Draft {
    pub product: Name,
    pub board: Name,
    pub root: u32,
    pub counter: u64,
    pub floor: u64,
    pub tries: u8,
    pub created: Timestamp,
    pub version: String,
    pub objects: BTreeMap<ObjectId, Object>,
    pub boot: Boot,
    pub content: Content,
}

impl Draft {
    /// The canonical bytes of the revision, ready to be signed, and its id.
    ///
    /// # Errors
    /// Everything that a device would refuse it for: [`Error::Invalid`], [`Error::UnlistedObject`],
    /// [`Error::TooLarge`].
    pub fn encode(self) -> Result<(ObjectId, Vec<u8>), Error> {
        self.content.check()?;
        self.content.check_new()?;
        let content =
            serde_json::value::to_raw_value(&self.content).map_err(|source| Error::Json {
                kind: "content",
                source,
            })?;
        let envelope = Envelope {
            spec: SPEC.to_owned(),
            product: self.product,
            board: self.board,
            root: self.root,
            counter: self.counter,
            floor: self.floor,
            tries: self.tries,
            created: self.created,
            version: self.version,
            requires_updater: UPDATER_FEATURES.map(str::to_owned).to_vec(),
            objects: self.objects,
            boot: self.boot,
            content,
        };
        envelope.check()?;
        envelope.check_layers(&self.content)?;
        let bytes = json::encode("revision", &envelope)?;
        if bytes.len() > CAP {
            return Err(Error::TooLarge {
                kind: "revision",
                size: bytes.len(),
                cap: CAP,
            });
        }
        Ok((verity::digest(&bytes), bytes))
    }
}

impl Envelope {
    /// The revision's place in the order.
    #[must_use]
    pub fn order(&self) -> Order {
        Order {
            root: self.root,
            counter: self.counter,
        }
    }

    /// The device's floor once this revision is committed.
    #[must_use]
    pub fn floor(&self) -> Floor {
        Floor {
            root: self.root,
            counter: self.floor,
        }
    }

    /// The content as it is written; nothing says that it may run: [`Verified::content`] does.
    ///
    /// # Errors
    /// As [`Content::parse`].
    pub fn content(&self) -> Result<Content, Error> {
        Content::parse(self.content.get().as_bytes())
    }

    fn check(&self) -> Result<(), Error> {
        if self.spec != SPEC {
            return Err(Error::Spec {
                expected: SPEC,
                found: self.spec.clone(),
            });
        }
        if let Some(word) = self
            .requires_updater
            .iter()
            .find(|word| !UPDATER_FEATURES.contains(&word.as_str()))
        {
            return Err(Error::Feature { word: word.clone() });
        }
        if self.floor > self.counter {
            return Err(Error::invalid(
                "floor",
                "is above the revision's own counter",
            ));
        }
        if !(1..=9).contains(&self.tries) {
            return Err(Error::invalid("tries", "is not 1 to 9"));
        }
        let printable = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b));
        if self.version.is_empty() || self.version.len() > 64 || !printable(&self.version) {
            return Err(Error::invalid(
                "version",
                "is not 1 to 64 printable ASCII characters",
            ));
        }
        if self.boot.arguments.len() > 1024 || !printable(&self.boot.arguments) {
            return Err(Error::invalid(
                "boot.arguments",
                "is over 1024 bytes, or not printable ASCII",
            ));
        }
        let mut words = self.boot.arguments.split(' ');
        if let Some(word) =
            words.find(|word| word.starts_with(LOADERS_WORDS) && !word.starts_with(LED_WORD))
        {
            return Err(Error::LoadersWord {
                word: word.to_owned(),
            });
        }
        if self.objects.len() > MAX_OBJECTS {
            return Err(Error::invalid("objects", "are over 1024"));
        }
        let boot = &self.boot;
        self.check_object(boot.kernel, ObjectKind::Kernel, "boot.kernel")?;
        self.check_object(boot.initramfs, ObjectKind::Initramfs, "boot.initramfs")?;
        if boot.files.len() > MAX_BOOT_FILES {
            return Err(Error::invalid("boot.files", "are over 24"));
        }
        boot.files
            .values()
            .try_for_each(|id| self.check_object(*id, ObjectKind::BootFile, "boot.files"))?;
        boot.statement.map_or(Ok(()), |id| {
            self.check_object(id, ObjectKind::Statement, "boot.statement")
        })
    }

    fn check_object(&self, id: ObjectId, kind: ObjectKind, field: &str) -> Result<(), Error> {
        match self.objects.get(&id) {
            Some(object) if object.kind == kind => Ok(()),
            Some(_) => Err(Error::invalid(field, "names an object of another kind")),
            None => Err(Error::UnlistedObject {
                field: field.to_owned(),
                id,
            }),
        }
    }

    fn check_layers(&self, content: &Content) -> Result<(), Error> {
        for (name, container) in &content.containers {
            let field = format!("containers.{name}.layers");
            for layer in &container.layers {
                self.check_object(*layer, ObjectKind::Layer, &field)?;
            }
        }
        Ok(())
    }
}

/// What a device demands of a revision beside its signatures.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// Who the device is.
    pub product: &'a Product,
    /// Below this nothing runs.
    pub floor: Floor,
}

/// A revision whose signatures, place and envelope were judged good.
#[derive(Debug, Clone)]
pub struct Verified {
    id: ObjectId,
    envelope: Envelope,
}

impl Verified {
    /// Judges a revision's bytes under `root`, as the module's documentation orders it.
    ///
    /// # Errors
    /// Any of [`Error`]'s variants but those of roots and blocks; each names what is wrong.
    pub fn verify(
        bytes: &[u8],
        signatures: &SignatureSet,
        root: &Root,
        policy: &Policy<'_>,
    ) -> Result<Self, Error> {
        if bytes.len() > CAP {
            return Err(Error::TooLarge {
                kind: "revision",
                size: bytes.len(),
                cap: CAP,
            });
        }
        root.verify_release(bytes, signatures)?;
        let envelope: Envelope = json::parse("revision", CAP, bytes)?;
        envelope.check()?;
        if envelope.product != policy.product.product {
            return Err(Error::Product {
                expected: policy.product.product.to_string(),
                found: envelope.product.to_string(),
            });
        }
        if envelope.board != policy.product.board {
            return Err(Error::Board {
                expected: policy.product.board.to_string(),
                found: envelope.board.to_string(),
            });
        }
        if envelope.root != root.version {
            return Err(Error::RootVersion {
                expected: root.version,
                found: envelope.root,
            });
        }
        if !policy.floor.allows(envelope.order()) {
            return Err(Error::BelowFloor {
                floor: policy.floor,
                found: envelope.order(),
            });
        }
        Ok(Self {
            id: verity::digest(bytes),
            envelope,
        })
    }

    /// The revision's id.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        self.id
    }

    /// The judged envelope.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Judges the content: for the init that is to run it.
    ///
    /// # Errors
    /// As [`Content::parse`], and [`Error::UnlistedObject`] for a layer that the envelope does not list.
    pub fn content(&self) -> Result<Content, Error> {
        let content = self.envelope.content()?;
        self.envelope.check_layers(&content)?;
        Ok(content)
    }
}
