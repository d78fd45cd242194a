//! From a project to a signed revision with all its objects on disk: the step before a disk image, a bundle or a push.
//!
//! The order: containers' files are parsed and their users resolved, every layer is found and measured, kernel and
//! initramfs become objects, the whole is checked as a device would check it, gets its counter ([`Lock`]), and is signed.
//! Everything lands in `build/` of the project: `objects/v1/…`, `revision.json`, `revision.sig`, and `parts.json` for bills of
//! materials.
//! Two runs over an unchanged project give the same bytes.

mod check;
mod slot;

pub use check::check;
pub use slot::bare_initramfs;

use crate::keys::{KeyFile, Passphrase, Signer};
use crate::platform::Platform;
use crate::project::lock::{self, Lock};
use crate::project::source::Mistake;
use crate::project::units::UserText;
use crate::project::{Definition, Project, TrustRoot, users};
use crate::secure_boot;
use crate::{files, layers};
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::boards::Board;
use kedge_board_support::boards::firmware::{Place, tree_name};
use kedge_revision::container::User;
use kedge_revision::revision::{Boot, Draft, Object, ObjectKind};
use kedge_revision::signing::Kind;
use kedge_revision::{
    Container, Content, Error, FileName, Name, ObjectId, Policy, Product, Role, SignatureSet,
    Verified, id, verity,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A signed revision with everything that it names.
#[derive(Debug, Clone)]
pub struct Composition {
    /// The revision's id.
    pub id: ObjectId,
    /// Its bytes: `build/revision.json`.
    pub document: Vec<u8>,
    /// Its signatures: `build/revision.sig`.
    pub signatures: Vec<u8>,
    /// Counter and time.
    pub lock: Lock,
    /// Whether this is the revision of the last build.
    pub unchanged: bool,
    /// Where each object is.
    pub objects: BTreeMap<ObjectId, PathBuf>,
    /// Size and kind of each object.
    pub kinds: BTreeMap<ObjectId, Object>,
    /// The revision, judged as a device would judge it.
    pub verified: Verified,
    /// The loader of boards that have one of ours.
    pub loader: Option<PathBuf>,
    /// The files of the board's firmware, in its order.
    pub firmware: Vec<PathBuf>,
    /// Who signs it, where there is Secure Boot.
    pub signer: Option<Arc<secure_boot::Signer>>,
    /// Size of the device binary, bytes.
    pub device_binary: u64,
    /// The trust root that the initramfs carries.
    pub root: TrustRoot,
    /// The identity that the initramfs carries.
    pub product: Product,
}

/// Where the passphrases of a build's keys come from.
#[derive(Debug, Clone)]
pub struct Passphrases {
    /// The release key's, or the PIN of its token.
    pub release: Passphrase,
    /// That of the key for Secure Boot, if it is given one of its own.
    pub secure_boot: Option<Passphrase>,
}

impl Passphrases {
    /// What the key for Secure Boot is opened with. A word that is given for both goes to a token, too, if the release key is in
    /// one, and a token counts wrong words: it is nobody's but the token's then.
    fn secure_boot(&self, project: &Project) -> Passphrase {
        let in_token = || {
            let file = KeyFile::read(&project.key_path("release"));
            file.is_ok_and(|file| file.token().is_some())
        };
        if let Some(own) = &self.secure_boot {
            return own.clone();
        }
        // Who is asked for each in turn tells them apart.
        let is_asked = matches!(self.release, Passphrase::Prompt | Passphrase::Never);
        if !is_asked && in_token() {
            return Passphrase::Withheld;
        }
        self.release.clone()
    }
}

/// Composes the project's revision for the platform in a folder.
///
/// # Errors
/// A mistake in the project's files (shown with its place), a missing object or key, or a platform for another board.
pub fn compose(
    project: &Project,
    platform: &Path,
    passphrases: &Passphrases,
) -> Result<Composition> {
    for left in [files::IMPORT, files::RUN, files::FLASH] {
        files::remove_leftovers(&project.build_folder(), left);
    }
    let root = project.trust_root()?;
    let definitions = project.containers()?;
    let containers = containers(project, &definitions)?;
    let mut store = Objects::of(project, &containers)?;
    let phrase = passphrases.secure_boot(project);
    let signer = secure_boot::Signer::of(project, &phrase)?.map(Arc::new);
    let platform = Parted::load(project, platform)?;
    let (boot, device_binary) =
        slot::boot(project, &platform, &root, signer.as_deref(), &mut store)?;
    let Objects { places, kinds, .. } = store;
    let draft = draft(project, &root, kinds.clone(), boot, containers)?;
    let encode = |draft: Draft| {
        draft
            .encode()
            .map_err(|error| located(project, &definitions, error))
    };
    let (_, timeless) = encode(draft.clone())?;
    let held = lock::hold(&project.build_folder())?;
    let last = Lock::read(project.folder())?;
    let fingerprint = id::hex(&Sha256::digest(&timeless));
    let lock = Lock::next(
        last.as_ref(),
        fingerprint,
        project.manifest().revision.counter,
        lock::now()?,
    )?;
    let (id, document) = encode(Draft {
        counter: lock.counter,
        created: lock.created,
        ..draft
    })?;
    let set = sign(project, &root, &document, &passphrases.release)?;
    let signatures = set.encode().context("cannot encode the signatures")?;
    let unchanged = last.as_ref() == Some(&lock);
    // Before the documents: a counter that was signed must never be given to another revision.
    if !unchanged {
        lock.write(project.folder())?;
    }
    files::write(&project.build_folder().join("revision.json"), &document)?;
    files::write(&project.build_folder().join("revision.sig"), &signatures)?;
    drop(held);
    let product = project.product();
    let verified = judge(&document, &set, &root, &product)?;
    Ok(Composition {
        id,
        document,
        signatures,
        lock,
        unchanged,
        objects: places,
        kinds,
        verified,
        loader: platform.loader(),
        firmware: platform.firmware(),
        signer,
        device_binary,
        root,
        product,
    })
}

/// The revision with the highest counter and time 0: what it says apart from those two.
fn draft(
    project: &Project,
    root: &TrustRoot,
    objects: BTreeMap<ObjectId, Object>,
    boot: Boot,
    containers: BTreeMap<Name, Container>,
) -> Result<Draft> {
    let manifest = project.manifest();
    Ok(Draft {
        product: manifest.product.clone(),
        board: manifest.board.clone(),
        root: root.root.version,
        counter: u64::MAX,
        floor: manifest.revision.floor,
        tries: manifest.revision.tries,
        created: kedge_revision::Timestamp::from_unix(0),
        version: manifest.version.clone(),
        objects,
        boot,
        content: content(project, containers)?,
    })
}

/// The content; the spans of `[commit]` must be whole seconds.
fn content(project: &Project, containers: BTreeMap<Name, Container>) -> Result<Content> {
    let commit = &project.manifest().commit;
    for (name, span) in [
        ("window", Some(commit.window)),
        ("hub-wait", commit.hub_wait),
    ] {
        if span.is_some_and(|span| !span.ms.is_multiple_of(1000)) {
            let help = Some("for instance \"60s\"".to_owned());
            let why = "this is not in whole seconds";
            let mistake = project.source().mistake(&["commit", name], why, help);
            return Err(mistake.into());
        }
    }
    Ok(project.manifest().content(containers))
}

/// All containers in their signed form.
fn containers(project: &Project, definitions: &[Definition]) -> Result<BTreeMap<Name, Container>> {
    let mut containers = BTreeMap::new();
    for definition in definitions {
        layers::ensure_present(project, definition)?;
        let places: Vec<PathBuf> = definition
            .text
            .layers
            .iter()
            .map(|layer| project.object_path(*layer))
            .collect();
        let resolve = |user: &UserText| resolve_user(user, &places);
        let container = definition.text.container(&resolve).map_err(|wrong| {
            let keys: Vec<&str> = wrong.keys.iter().map(String::as_str).collect();
            definition
                .source
                .mistake(&keys, wrong.message, Some(wrong.help))
        })?;
        containers.insert(definition.name.clone(), container);
    }
    Ok(containers)
}

/// Ids of a user; the layers are only read if there is a name or a group to look up.
///
/// # Errors
/// The layers cannot be read, or do not know the user; in words.
pub fn resolve_user(user: &UserText, places: &[PathBuf]) -> Result<User, String> {
    if let Some(user) = users::numeric(user) {
        return Ok(user);
    }
    let read = |path: &str| layers::read_text(places, path).map_err(|error| format!("{error:#}"));
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    users::resolve(user, &passwd, &group)
}

/// A platform with the board that it is for.
struct Parted<'a> {
    folder: &'a Path,
    platform: Platform,
    board: Board,
}

impl<'a> Parted<'a> {
    /// Reads the platform in a folder, which must be for the project's board.
    fn load(project: &Project, folder: &'a Path) -> Result<Self> {
        let board = project.board()?;
        let platform = Platform::of(folder, &board)?;
        let wanted = board.name.as_str();
        if platform.board != wanted {
            bail!(
                "the platform in {} is for board {}, the project for {wanted}\nhelp: name another one with --platform",
                folder.display(),
                platform.board,
            );
        }
        platform.check(&board)?;
        Ok(Self {
            folder,
            platform,
            board,
        })
    }

    fn loader(&self) -> Option<PathBuf> {
        let name = self.platform.loader.as_ref()?;
        Some(self.folder.join(name))
    }

    fn firmware(&self) -> Vec<PathBuf> {
        let names = self.platform.firmware.iter();
        names.map(|name| self.folder.join(name)).collect()
    }

    /// What the slot holds beside what every slot has: device trees, and firmware that is loaded from there.
    fn slot_files(&self) -> Result<Vec<(FileName, PathBuf)>> {
        let trees = self.board.boot.device_trees.iter();
        let trees = trees.zip(&self.platform.device_trees);
        let trees = trees.map(|(path, file)| {
            let name = tree_name(path)
                .with_context(|| format!("{path} has no name that a slot can have"))?;
            Ok((name, self.folder.join(file)))
        });
        let pieces = self.board.firmware.iter().zip(self.firmware());
        let pieces = pieces.filter_map(|(piece, file)| match &piece.place {
            Place::Slot(name) => Some(Ok((name.clone(), file))),
            Place::Offset(_) | Place::Partition(_) | Place::Boot(_) => None,
        });
        trees.chain(pieces).collect()
    }
}

/// The signatures of the last build if it gave the same document (others may have signed it since), and the release key's.
fn sign(
    project: &Project,
    root: &TrustRoot,
    document: &[u8],
    passphrase: &Passphrase,
) -> Result<SignatureSet> {
    let build = project.build_folder();
    let mut set = match std::fs::read(build.join("revision.json")) {
        Ok(last) if last == document => {
            let path = build.join("revision.sig");
            SignatureSet::parse(&files::read(&path)?)
                .with_context(|| format!("cannot use {}; remove it", path.display()))?
        }
        Ok(_) | Err(_) => SignatureSet::default(),
    };
    if root.root.verify_release(document, &set).is_err() {
        let key = release_key(project, &root.root.roles.release, passphrase)?;
        key.sign(&mut set, Kind::Revision, document)?;
    }
    Ok(set)
}

/// Judges the revision as a device would: what passes here is what [`crate::image::build`] takes.
fn judge(
    document: &[u8],
    set: &SignatureSet,
    root: &TrustRoot,
    product: &Product,
) -> Result<Verified> {
    let policy = Policy {
        product,
        floor: kedge_revision::Floor::default(),
    };
    let verified = Verified::verify(document, set, &root.root, &policy).map_err(|error| {
        let more = matches!(error, Error::Threshold { .. });
        let error = anyhow::Error::new(error).context("a device would refuse the revision");
        if more {
            error.context("help: the other release keys sign with `kedge sign build/revision.json --key FILE`; then build again")
        } else {
            error
        }
    })?;
    verified
        .content()
        .context("a device would refuse the revision's content")?;
    Ok(verified)
}

/// The project's release key, judged by the root before the passphrase is asked for.
///
/// # Errors
/// There is none, the root does not know it, or it cannot be opened.
pub fn release_key(project: &Project, role: &Role, passphrase: &Passphrase) -> Result<Signer> {
    let path = project.key_path("release");
    ensure!(
        path.exists(),
        "no release key to sign with in {}; copy it there from where you keep it",
        path.display()
    );
    let file = KeyFile::read(&path)?;
    if !role.keys.contains(&file.public().id()) {
        bail!(
            "the trust root does not know the key {} ({})",
            path.display(),
            file.public().id()
        );
    }
    file.signer(passphrase)
}

/// A mistake of the checked types, shown where it stands in the project's files.
fn located(project: &Project, definitions: &[Definition], error: Error) -> anyhow::Error {
    let mistake: Option<Mistake> = project.locate(&error, definitions);
    match mistake {
        Some(mistake) => mistake.into(),
        None => anyhow::Error::new(error).context("the revision would be refused by a device"),
    }
}

/// The objects of a revision, as they are found.
struct Objects<'a> {
    project: &'a Project,
    places: BTreeMap<ObjectId, PathBuf>,
    kinds: BTreeMap<ObjectId, Object>,
}

impl<'a> Objects<'a> {
    /// With the layers of all containers.
    fn of(project: &'a Project, containers: &BTreeMap<Name, Container>) -> Result<Self> {
        let mut objects = Self {
            project,
            places: BTreeMap::new(),
            kinds: BTreeMap::new(),
        };
        for layer in containers.values().flat_map(|container| &container.layers) {
            objects.add_existing(*layer, ObjectKind::Layer)?;
        }
        Ok(objects)
    }

    /// An object that is in the project's folder; its bytes are measured again, since a disk may have changed them.
    fn add_existing(&mut self, id: ObjectId, kind: ObjectKind) -> Result<()> {
        if self.kinds.contains_key(&id) {
            return Ok(());
        }
        let path = self.project.object_path(id);
        let (found, size) = measure(&path)?;
        if found != id {
            bail!(
                "{} is damaged: it measures {found}\nhelp: remove it; `kedge build` imports it again",
                path.display()
            );
        }
        self.places.insert(id, path);
        self.kinds.insert(id, Object { size, kind });
        Ok(())
    }

    /// New bytes as an object.
    fn add(&mut self, bytes: &[u8], kind: ObjectKind) -> Result<ObjectId> {
        let id = verity::digest(bytes);
        let path = self.project.object_path(id);
        if !path.exists() {
            files::write(&path, bytes)?;
        }
        let size = u64::try_from(bytes.len()).context("an object is too large")?;
        self.places.insert(id, path);
        self.kinds.insert(id, Object { size, kind });
        Ok(id)
    }
}

/// Id and size of a file, read in pieces.
///
/// # Errors
/// It cannot be read.
pub fn measure(path: &Path) -> Result<(ObjectId, u64)> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = std::fs::File::open(path).with_context(cannot)?;
    let mut builder = verity::Builder::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut buffer).with_context(cannot)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        builder.update(bytes);
    }
    let sealed = builder.finish();
    Ok((sealed.id, sealed.size))
}
