//! A project folder: what an integrator keeps in version control, and what is made from it.
//!
//! ```text
//! kedge.toml              the product and its revision          (project::manifest)
//! containers/<name>.toml  one file a container                   (project::container)
//! roots/<n>.json, .sig    the chain of trust roots, public
//! keys/<role>.toml        signing keys, never in version control (crate::keys)
//! kedge.lock              counter and time of the last build     (project::lock)
//! build/                  everything that can be made again: objects, revision, disk image
//! ```
//! This module reads and judges; `crate::compose` makes the revision.

pub mod container;
#[cfg(test)]
mod examples;
pub mod limits;
pub mod lock;
pub mod manifest;
pub mod source;
pub mod template;
pub mod units;
pub mod users;

use crate::files;
use anyhow::{Context, Result, bail};
use container::ContainerText;
use kedge_board_support::boards::{self, Board};
use kedge_revision::{Error, Mode, Name, ObjectId, Product, Root, SignatureSet};
use manifest::Manifest;
use source::{Mistake, Source};
use std::path::{Path, PathBuf};

/// The file that makes a folder a project.
pub const MANIFEST: &str = "kedge.toml";
/// Most roots of a chain: a device follows as many in one cycle.
const MAX_ROOTS: u32 = 32;

/// An opened project.
#[derive(Debug, Clone)]
pub struct Project {
    folder: PathBuf,
    source: Source,
    manifest: Manifest,
}

/// One container's file.
#[derive(Debug, Clone)]
pub struct Definition {
    /// The container's name, from the file's.
    pub name: Name,
    /// The file.
    pub source: Source,
    /// What it says.
    pub text: ContainerText,
}

/// The newest trust root, with the bytes and signatures that an image carries.
#[derive(Debug, Clone)]
pub struct TrustRoot {
    /// The root, reached through the whole chain.
    pub root: Root,
    /// Its canonical bytes.
    pub document: Vec<u8>,
    /// Its signatures, canonical bytes.
    pub signatures: Vec<u8>,
    /// The roots before it, from the first, each as document and signatures.
    pub older: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Project {
    /// Opens the project that `start` lies in: the nearest folder upwards with a `kedge.toml`.
    ///
    /// # Errors
    /// There is none, or its `kedge.toml` has a mistake ([`Mistake`]).
    pub fn open(start: &Path) -> Result<Self> {
        Self::find(start)?.with_context(|| {
            format!(
                "{} is in no project: there is no {MANIFEST} here or above\nhelp: make one with `kedge new NAME`, or name one with --project",
                start.canonicalize().unwrap_or_else(|_| start.to_owned()).display()
            )
        })
    }

    /// The project that `start` lies in, if it is in one.
    ///
    /// # Errors
    /// Its `kedge.toml` has a mistake ([`Mistake`]).
    pub fn find(start: &Path) -> Result<Option<Self>> {
        let start = start
            .canonicalize()
            .with_context(|| format!("cannot open {}", start.display()))?;
        let Some(folder) = start
            .ancestors()
            .find(|folder| folder.join(MANIFEST).is_file())
        else {
            return Ok(None);
        };
        let source = Source::read(&folder.join(MANIFEST))?;
        let manifest = source.parse()?;
        Ok(Some(Self {
            folder: folder.to_owned(),
            source,
            manifest,
        }))
    }

    /// The project's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What `kedge.toml` says.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// `kedge.toml` as text, for showing a mistake in it.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The kind of machine that it is for.
    ///
    /// # Errors
    /// There is no such board: a [`Mistake`] in `kedge.toml`.
    pub fn board(&self) -> Result<Board> {
        let found = boards::find(self.manifest.board.as_str());
        Ok(found.map_err(|error| {
            let text = error.to_string();
            // Behind the place, as every help stands.
            let (message, help) = match text.split_once("\nhelp: ") {
                Some((message, help)) => (message, Some(help.to_owned())),
                None => (text.as_str(), None),
            };
            self.source.mistake(&["board"], message, help)
        })?)
    }

    /// The identity that its images are built with.
    #[must_use]
    pub fn product(&self) -> Product {
        Product::new(
            self.manifest.product.clone(),
            self.manifest.board.clone(),
            self.manifest.mode,
        )
    }

    /// Everything that can be made again.
    #[must_use]
    pub fn build_folder(&self) -> PathBuf {
        self.folder.join("build")
    }

    /// Where `kedge build` puts the disk image: `build/<product>-<board>.img`.
    #[must_use]
    pub fn image_path(&self) -> PathBuf {
        self.build_folder().join(format!(
            "{}-{}.img",
            self.manifest.product, self.manifest.board
        ))
    }

    /// Where `kedge build --output ram` puts kernel and initramfs: `build/<product>-<board>.ram`.
    #[must_use]
    pub fn ram_path(&self) -> PathBuf {
        self.image_path().with_extension("ram")
    }

    /// Objects, laid out as in a device's store.
    #[must_use]
    pub fn objects_folder(&self) -> PathBuf {
        self.build_folder().join("objects/v1")
    }

    /// The place of an object, whether it is there or not.
    #[must_use]
    pub fn object_path(&self, id: ObjectId) -> PathBuf {
        let hex = id.hex();
        let shard: String = hex.chars().take(2).collect();
        self.objects_folder().join(shard).join(hex)
    }

    /// The key file of a role.
    #[must_use]
    pub fn key_path(&self, role: &str) -> PathBuf {
        self.folder.join("keys").join(format!("{role}.toml"))
    }

    /// The file of a container.
    #[must_use]
    pub fn container_path(&self, name: &Name) -> PathBuf {
        self.folder.join("containers").join(format!("{name}.toml"))
    }

    /// All containers, by name.
    ///
    /// # Errors
    /// A file has a mistake, or a name that no container can have.
    pub fn containers(&self) -> Result<Vec<Definition>> {
        let folder = self.folder.join("containers");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut definitions = Vec::new();
        for path in files::list(&folder)? {
            let hidden = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.'));
            let end = path.extension().map(|end| end.to_string_lossy());
            if hidden
                || end
                    .as_ref()
                    .is_none_or(|end| !end.eq_ignore_ascii_case("toml"))
            {
                continue;
            }
            if end.is_some_and(|end| end != "toml") {
                bail!(
                    "{}: a container's file ends in .toml\nhelp: rename it",
                    path.display()
                );
            }
            let stem = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let Ok(name) = stem.parse::<Name>() else {
                bail!(
                    "{}: `{stem}` is no name of a container\nhelp: rename the file; a name is 1 to {} of a-z, 0-9 and -, beginning with a letter",
                    path.display(),
                    Name::MAX
                );
            };
            let source = Source::read(&path)?;
            let text = source.parse()?;
            definitions.push(Definition { name, source, text });
        }
        Ok(definitions)
    }

    /// The newest trust root, followed from the first one.
    ///
    /// # Errors
    /// A root is missing, damaged, not signed by its predecessor, or of another mode than the project.
    pub fn trust_root(&self) -> Result<TrustRoot> {
        let folder = self.folder.join("roots");
        let mut newest: Option<TrustRoot> = None;
        for version in 1..=MAX_ROOTS {
            let path = folder.join(format!("{version}.json"));
            if version > 1 && !path.exists() {
                break;
            }
            let document = files::read(&path).with_context(|| {
                "a project has its trust root in roots/1.json, made by `kedge new`".to_owned()
            })?;
            let signatures = files::read(&path.with_extension("sig"))?;
            let set = SignatureSet::parse(&signatures)
                .with_context(|| format!("cannot use {}", path.with_extension("sig").display()))?;
            let root = match &newest {
                Some(old) => old.root.replace(&document, &set),
                None => Root::parse(&document)
                    .and_then(|root| root.verify_self(&document, &set).map(|()| root)),
            };
            let root = root.with_context(|| format!("cannot trust {}", path.display()))?;
            let older = newest.map_or_else(Vec::new, |old| {
                let mut older = old.older;
                older.push((old.document, old.signatures));
                older
            });
            newest = Some(TrustRoot {
                root,
                document,
                signatures,
                older,
            });
        }
        let Some(newest) = newest else {
            bail!("{} holds no trust root", folder.display())
        };
        self.check_mode(&newest.root)?;
        Ok(newest)
    }

    /// Says where a mistake of the checked types stands in the project's files.
    #[must_use]
    pub fn locate(&self, error: &Error, definitions: &[Definition]) -> Option<Mistake> {
        let (field, text) = if let Error::Invalid { field, why } = error {
            (field.as_str(), why.to_string())
        } else if let Error::UnlistedObject { field, .. } = error {
            (field.as_str(), error.to_string())
        } else if let Error::LoadersWord { word } = error {
            let text = format!("has `{word}`, which is for loaders to say");
            ("boot.arguments", text)
        } else {
            return None;
        };
        let of_container = field.strip_prefix("containers.").and_then(|rest| {
            let (name, rest) = rest.split_once('.')?;
            let mut all = definitions.iter();
            let definition = all.find(|definition| definition.name.as_str() == name)?;
            Some(definition.source.mistake_at(rest, &text))
        });
        Some(of_container.unwrap_or_else(|| match field {
            "counter" | "floor" | "tries" => {
                let field = format!("revision.{field}");
                self.source.mistake_at(&field, &text)
            }
            field => self.source.mistake_at(field, &text),
        }))
    }

    fn check_mode(&self, root: &Root) -> Result<()> {
        if root.mode == self.manifest.mode {
            return Ok(());
        }
        let word = |mode| match mode {
            Mode::Development => "development",
            Mode::Production => "production",
        };
        Err(self
            .source
            .mistake(
                &["mode"],
                format!("the project is for {}, its trust root for {}", word(self.manifest.mode), word(root.mode)),
                Some("a trust root keeps its mode; `kedge new NAME --production` makes a project with another".to_owned()),
            )
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_below_a_project_opens_it_and_elsewhere_the_error_teaches() {
        let folder = tempfile::tempdir().unwrap();
        let text = "product = \"p\"\nboard = \"b\"\nmode = \"development\"\nversion = \"1\"\ngroups = []\n";
        files::write(&folder.path().join("p/kedge.toml"), text).unwrap();
        files::write(&folder.path().join("p/containers/a.toml"), "layers = 1\n").unwrap();
        let project = Project::open(&folder.path().join("p/containers")).unwrap();
        assert_eq!(project.manifest().product.as_str(), "p");
        let error = project.containers().unwrap_err().to_string();
        assert!(error.contains("a.toml:1:10"), "{error}");
        let error = Project::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("kedge new NAME"), "{error}");
    }

    #[test]
    fn a_bad_container_name_is_refused_by_file() {
        let folder = tempfile::tempdir().unwrap();
        let text = "product = \"p\"\nboard = \"b\"\nmode = \"development\"\nversion = \"1\"\ngroups = []\n";
        files::write(&folder.path().join("kedge.toml"), text).unwrap();
        files::write(&folder.path().join("containers/Web.toml"), "").unwrap();
        let error = Project::open(folder.path())
            .unwrap()
            .containers()
            .unwrap_err()
            .to_string();
        assert!(error.contains("rename the file"), "{error}");
    }

    #[test]
    fn a_fault_is_found_in_the_file_by_the_keys_that_stand_there() {
        let folder = tempfile::tempdir().unwrap();
        let text = "product = \"p\"\nboard = \"b\"\nmode = \"development\"\nversion = \"1\"\ngroups = []\n[boot]\narguments = \"kedge.slot=a\"\n[parameters.led-s]\ntype = \"string\"\n[configuration.network.interfaces.\"eth0.100\"]\naddresses = []\n[commit]\nwindow = \"1s\"\n";
        files::write(&folder.path().join(MANIFEST), text).unwrap();
        let project = Project::open(folder.path()).unwrap();
        let invalid = |field: &str| Error::Invalid {
            field: field.to_owned(),
            why: "is wrong".into(),
        };
        let said = Error::LoadersWord {
            word: "kedge.slot=a".to_owned(),
        };
        for (error, line, words) in [
            (said, 7, "`boot.arguments` has `kedge.slot=a`"),
            (
                invalid("parameters.led-s.default"),
                8,
                "`parameters.led-s.default` is wrong",
            ),
            (
                invalid("configuration.network.interfaces.eth0.100.addresses"),
                11,
                "`configuration.network.interfaces.\"eth0.100\".addresses` is wrong",
            ),
            (invalid("commit.window-s"), 13, "`commit.window` is wrong"),
        ] {
            let mistake = project.locate(&error, &[]).unwrap();
            assert_eq!(mistake.place.map(|(line, _)| line), Some(line), "{mistake}");
            assert_eq!(mistake.message.get(..words.len()), Some(words), "{mistake}");
        }
    }

    #[test]
    fn a_container_is_passed_over_for_no_spelling_of_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let text = "product = \"p\"\nboard = \"b\"\nmode = \"development\"\nversion = \"1\"\ngroups = []\n";
        files::write(&folder.path().join(MANIFEST), text).unwrap();
        files::write(&folder.path().join("containers/web.TOML"), "").unwrap();
        let project = Project::open(folder.path()).unwrap();
        let error = project.containers().unwrap_err().to_string();
        assert!(error.contains("ends in .toml"), "{error}");
    }
}
