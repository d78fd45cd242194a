//! Mounts of a configuration: from options as `mount(8)` has them to what the new mount API takes.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::mount::{MountAttrFlags as Flags, Propagation};

use super::{inside, map, text};
use crate::config::Mount;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Where it goes.
    pub target: Target,
    /// What is mounted.
    pub source: Source,
    /// Attributes of this mount.
    pub own: Change,
    /// Attributes of it and of all that come with it.
    pub tree: Change,
    /// How mounts spread to and from it.
    pub spread: Option<Spread>,
    /// Ids of it.
    pub ids: Option<Ids>,
    /// Whether an empty file system in memory begins with what was in its place.
    pub copy_up: bool,
}

/// A place in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Absolute, without `..`.
    pub path: CString,
    /// As the document has it.
    pub text: String,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or folder outside.
    Bind {
        /// Absolute.
        path: CString,
        /// With what is mounted below it.
        recursive: bool,
    },
    /// A file system.
    FileSystem {
        /// Its kind.
        kind: CString,
        /// A device or name.
        source: Option<CString>,
        /// Options; without a value: flags.
        options: Vec<(CString, Option<CString>)>,
    },
    /// The control groups.
    Cgroup,
    /// What is there already: its attributes change.
    Present,
}

/// A change of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What is set.
    pub set: Flags,
    /// What is cleared.
    pub clear: Flags,
}

impl Change {
    /// No change.
    pub const NONE: Self = Self {
        set: Flags::empty(),
        clear: Flags::empty(),
    };

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.set.is_empty() && self.clear.is_empty()
    }

    /// One more word. Of the rules for access times, which are one field, the last one holds; that it be `relatime` is the
    /// field with nothing in it (`mount_setattr(2)`).
    fn add(&mut self, flags: Flags, set: bool) {
        let flags = if flags.is_empty() || Flags::MOUNT_ATTR__ATIME.contains(flags) {
            self.set -= Flags::MOUNT_ATTR__ATIME;
            self.clear |= Flags::MOUNT_ATTR__ATIME;
            flags & Flags::MOUNT_ATTR__ATIME
        } else {
            flags
        };
        if set {
            self.set |= flags;
            self.clear -= flags - Flags::MOUNT_ATTR__ATIME;
        } else {
            self.clear |= flags;
            self.set -= flags;
        }
    }

    /// This, and then another.
    fn then(self, other: Self) -> Self {
        Self {
            set: (self.set - other.clear) | other.set,
            clear: (self.clear - other.set) | other.clear,
        }
    }
}

/// How mounts spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Where to.
    pub kind: Propagation,
    /// For all mounts below, too.
    pub recursive: bool,
}

impl Spread {
    /// Of its word; none for the empty one.
    ///
    /// # Errors
    /// It is no such word.
    pub fn parse(word: &str) -> Result<Option<Self>> {
        if word.is_empty() {
            return Ok(None);
        }
        let spread = Self::of(word);
        Ok(Some(spread.with_context(|| {
            format!("linux.rootfsPropagation: {word:?} is unknown: rslave, rprivate, rshared … are")
        })?))
    }

    fn of(word: &str) -> Option<Self> {
        let (kind, recursive) = match word {
            "private" => (Propagation::Private, false),
            "rprivate" => (Propagation::Private, true),
            "slave" => (Propagation::Slave, false),
            "rslave" => (Propagation::Slave, true),
            "shared" => (Propagation::Shared, false),
            "rshared" => (Propagation::Shared, true),
            "unbindable" => (Propagation::Unbindable, false),
            "runbindable" => (Propagation::Unbindable, true),
            _ => return None,
        };
        Some(Self { kind, recursive })
    }
}

/// Ids of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// As in the container's user namespace.
    Container {
        /// With what is mounted below.
        recursive: bool,
    },
    /// By maps of its own: texts of `uid_map` and `gid_map`.
    Own {
        /// Of users.
        users: String,
        /// Of groups.
        groups: String,
        /// With what is mounted below.
        recursive: bool,
    },
}

/// Words for attributes of a mount: what they set, or clear.
const ATTRIBUTES: [(&str, Flags, bool); 18] = [
    ("ro", Flags::MOUNT_ATTR_RDONLY, true),
    ("rw", Flags::MOUNT_ATTR_RDONLY, false),
    ("nosuid", Flags::MOUNT_ATTR_NOSUID, true),
    ("suid", Flags::MOUNT_ATTR_NOSUID, false),
    ("nodev", Flags::MOUNT_ATTR_NODEV, true),
    ("dev", Flags::MOUNT_ATTR_NODEV, false),
    ("noexec", Flags::MOUNT_ATTR_NOEXEC, true),
    ("exec", Flags::MOUNT_ATTR_NOEXEC, false),
    ("noatime", Flags::MOUNT_ATTR_NOATIME, true),
    ("atime", Flags::MOUNT_ATTR_NOATIME, false),
    ("strictatime", Flags::MOUNT_ATTR_STRICTATIME, true),
    ("nostrictatime", Flags::MOUNT_ATTR_STRICTATIME, false),
    // The kernel's own rule, whose flag is none.
    ("relatime", Flags::empty(), true),
    ("norelatime", Flags::empty(), false),
    ("nodiratime", Flags::MOUNT_ATTR_NODIRATIME, true),
    ("diratime", Flags::MOUNT_ATTR_NODIRATIME, false),
    ("nosymfollow", Flags::MOUNT_ATTR_NOSYMFOLLOW, true),
    ("symfollow", Flags::MOUNT_ATTR_NOSYMFOLLOW, false),
];

/// Words that say what is so anyway.
const NOTHING: [&str; 9] = [
    "defaults",
    "async",
    "nomand",
    "nolazytime",
    "loud",
    "noiversion",
    "silent",
    "iversion",
    "mand",
];

/// All words that have a meaning of their own, for `features`.
pub(crate) fn words() -> impl Iterator<Item = String> {
    let recursive = ATTRIBUTES.iter().map(|(word, ..)| format!("r{word}"));
    let spreads = ["private", "slave", "shared", "unbindable"].into_iter();
    let spreads = spreads.flat_map(|word| [word.to_owned(), format!("r{word}")]);
    let others = [
        "bind",
        "rbind",
        "remount",
        "tmpcopyup",
        "idmap",
        "ridmap",
        "sync",
        "dirsync",
        "lazytime",
    ];
    let plain = ATTRIBUTES
        .iter()
        .map(|(word, ..)| *word)
        .chain(NOTHING)
        .chain(others);
    plain.map(str::to_owned).chain(recursive).chain(spreads)
}

/// What the options of a mount say.
#[derive(Default)]
struct Options {
    own: Option<Change>,
    tree: Option<Change>,
    spread: Option<Spread>,
    bind: Option<bool>,
    remount: bool,
    copy_up: bool,
    id_map: Option<bool>,
    data: Vec<(CString, Option<CString>)>,
}

impl Options {
    fn parse(mount: &Mount) -> Result<Self> {
        let mut options = Self::default();
        for option in &mount.options {
            options.add(option)?;
        }
        Ok(options)
    }

    fn add(&mut self, option: &str) -> Result<()> {
        let attribute = |word: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == word);
        if let Some((_, flags, set)) = attribute(option) {
            self.own.get_or_insert(Change::NONE).add(*flags, *set);
        } else if let Some((_, flags, set)) = option.strip_prefix('r').and_then(attribute) {
            self.tree.get_or_insert(Change::NONE).add(*flags, *set);
        } else if let Some(spread) = Spread::of(option) {
            self.spread = Some(spread);
        } else {
            match option {
                "bind" => self.bind = Some(self.bind.unwrap_or(false)),
                "rbind" => self.bind = Some(true),
                "remount" => self.remount = true,
                "tmpcopyup" => self.copy_up = true,
                "idmap" => self.id_map = Some(false),
                "ridmap" => self.id_map = Some(true),
                "" => {}
                word if NOTHING.contains(&word) => {}
                data => {
                    let (key, value) = match data.split_once('=') {
                        Some((key, value)) => (key, Some(text("mounts", value)?)),
                        None => (data, None),
                    };
                    self.data.push((text("mounts", key)?, value));
                }
            }
        }
        Ok(())
    }
}

/// All mounts of a document.
pub(super) fn all(mounts: &[Mount], bundle: &Path) -> Result<Vec<MountPlan>> {
    let plan = |mount: &Mount| {
        plan(mount, bundle).with_context(|| format!("mounts: {}", mount.destination))
    };
    mounts.iter().map(plan).collect()
}

fn plan(mount: &Mount, bundle: &Path) -> Result<MountPlan> {
    let options = Options::parse(mount)?;
    // Older documents have destinations without a slash in front; they are meant from the root.
    let destination = if mount.destination.starts_with('/') {
        mount.destination.clone()
    } else {
        ensure!(!mount.destination.is_empty(), "destination is missing");
        format!("/{}", mount.destination)
    };
    let target = Target {
        path: inside("destination", &destination)?,
        text: destination,
    };
    let kind = mount.kind.as_deref().unwrap_or_default();
    let source = match (kind, options.bind) {
        _ if options.remount => Source::Present,
        ("bind", recursive) => bind(mount, bundle, recursive.unwrap_or(false))?,
        (_, Some(recursive)) => bind(mount, bundle, recursive)?,
        ("cgroup" | "cgroup2", None) => Source::Cgroup,
        ("" | "none", None) => bail!("type is missing"),
        (kind, None) => Source::FileSystem {
            kind: text("type", kind)?,
            source: source_name(mount, kind)?,
            options: super::long::divided(kind, &options.data)?,
        },
    };
    if matches!(source, Source::Bind { .. } | Source::Present) {
        let unknown = options.data.first().map(|(key, _)| key.to_string_lossy());
        // Of the words for file systems these are without meaning for what is mounted already.
        let ignored = ["sync", "dirsync", "lazytime", "mode", "size"];
        if let Some(unknown) = unknown.filter(|key| !ignored.contains(&key.as_ref())) {
            bail!("options: {unknown:?} means nothing for a bind mount");
        }
    }
    check_proc(&target, &source)?;
    ensure!(
        !options.copy_up || kind == "tmpfs",
        "options: tmpcopyup is for a tmpfs"
    );
    let (mut own, mut tree) = (
        options.own.unwrap_or(Change::NONE),
        options.tree.unwrap_or(Change::NONE),
    );
    if matches!(source, Source::FileSystem { .. } | Source::Cgroup) {
        // Below one that is new there is nothing yet.
        own = own.then(tree);
        tree = Change::NONE;
    }
    Ok(MountPlan {
        target,
        ids: ids(mount, options.id_map, &source)?,
        source,
        own,
        tree,
        spread: options.spread,
        copy_up: options.copy_up,
    })
}

/// Files of `/proc` that may be covered: what programs read of the machine's size.
const COVERED: [&[u8]; 9] = [
    b"/proc/cpuinfo",
    b"/proc/diskstats",
    b"/proc/loadavg",
    b"/proc/meminfo",
    b"/proc/slabinfo",
    b"/proc/stat",
    b"/proc/swaps",
    b"/proc/uptime",
    b"/proc/net/dev",
];

/// What lies at `/proc` is the kernel's: programs, and this one, believe what they find there.
fn check_proc(target: &Target, source: &Source) -> Result<()> {
    let path = Path::new(&target.text);
    if path == Path::new("/proc") {
        let kernels = match source {
            Source::FileSystem { kind, .. } => kind.as_c_str() == c"proc",
            Source::Bind { path, .. } => path.as_c_str() == c"/proc",
            Source::Present => true,
            Source::Cgroup => false,
        };
        ensure!(kernels, "only the kernel's own can be at /proc");
    } else if path.starts_with("/proc") {
        ensure!(
            COVERED.contains(&target.path.to_bytes()),
            "nothing can be mounted inside of /proc but over some files: cpuinfo, meminfo, stat, uptime …"
        );
    }
    Ok(())
}

fn bind(mount: &Mount, bundle: &Path, recursive: bool) -> Result<Source> {
    let source = mount.source.as_deref().unwrap_or_default();
    ensure!(
        !source.is_empty(),
        "source is missing: a bind mount needs one"
    );
    let path: PathBuf = bundle.join(source);
    let path = CString::new(path.as_os_str().as_bytes()).context("source: a NUL")?;
    Ok(Source::Bind { path, recursive })
}

/// The source of a file system: a device, or the mere name that a pseudo file system is listed by.
fn source_name(mount: &Mount, kind: &str) -> Result<Option<CString>> {
    let source = mount.source.as_deref().filter(|source| !source.is_empty());
    text("source", source.unwrap_or(kind)).map(Some)
}

fn ids(mount: &Mount, id_map: Option<bool>, source: &Source) -> Result<Option<Ids>> {
    let own = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if !own && id_map.is_none() {
        return Ok(None);
    }
    ensure!(
        matches!(source, Source::Bind { .. }),
        "only a bind mount's ids can be mapped"
    );
    let recursive = id_map.unwrap_or(false);
    if !own {
        return Ok(Some(Ids::Container { recursive }));
    }
    Ok(Some(Ids::Own {
        users: map("uidMappings", &mount.uid_mappings)?,
        groups: map("gidMappings", &mount.gid_mappings)?,
        recursive,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> Result<MountPlan> {
        let mount: Mount = serde_json::from_str(json).unwrap();
        plan(&mount, Path::new("/bundle"))
    }

    #[test]
    fn options_are_attributes_words_and_data() {
        let mount = planned(
            r#"{"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k", "ro", "rw", "inode64"]}"#,
        );
        let mount = mount.unwrap();
        assert_eq!(
            mount.own.set,
            Flags::MOUNT_ATTR_NOSUID | Flags::MOUNT_ATTR_STRICTATIME
        );
        assert_eq!(
            mount.own.clear,
            Flags::MOUNT_ATTR_RDONLY | Flags::MOUNT_ATTR__ATIME
        );
        let Source::FileSystem {
            kind,
            source,
            options,
        } = mount.source
        else {
            panic!("{mount:?}");
        };
        assert_eq!(
            (kind.as_c_str(), source),
            (c"tmpfs", Some(c"tmpfs".to_owned()))
        );
        let expected = [
            (c"mode".to_owned(), Some(c"755".to_owned())),
            (c"size".to_owned(), Some(c"65536k".to_owned())),
            (c"inode64".to_owned(), None),
        ];
        assert_eq!(options, expected);
    }

    #[test]
    fn of_the_rules_for_access_times_the_last_one_holds() {
        let field = Flags::MOUNT_ATTR__ATIME;
        for (words, set) in [
            (&["noatime"][..], Flags::MOUNT_ATTR_NOATIME),
            (&["noatime", "strictatime"], Flags::MOUNT_ATTR_STRICTATIME),
            (&["strictatime", "noatime"], Flags::MOUNT_ATTR_NOATIME),
            (&["noatime", "relatime"], Flags::empty()),
            (&["relatime"], Flags::empty()),
            (&["noatime", "atime"], Flags::empty()),
            (&["strictatime", "nostrictatime"], Flags::empty()),
        ] {
            for before in ["", "r"] {
                let words: Vec<String> =
                    words.iter().map(|word| format!("{before}{word}")).collect();
                let json = serde_json::json!({"destination": "/d", "type": "bind", "source": "/s", "options": words});
                let mount = planned(&json.to_string()).unwrap();
                let changed = if before.is_empty() {
                    mount.own
                } else {
                    mount.tree
                };
                // The kernel takes the field as a whole or not at all.
                assert_eq!((changed.set, changed.clear), (set, field), "{words:?}");
            }
        }
    }

    #[test]
    fn words_for_all_below_are_words_for_a_file_system_that_is_new() {
        let mount = planned(
            r#"{"destination": "/d", "type": "tmpfs", "options": ["rw", "nosuid", "rro", "rnoexec", "rsuid"]}"#,
        );
        let mount = mount.unwrap();
        assert_eq!(
            mount.own.set,
            Flags::MOUNT_ATTR_RDONLY | Flags::MOUNT_ATTR_NOEXEC
        );
        assert!(mount.tree.is_empty());
    }

    #[test]
    fn a_place_has_one_name() {
        for destination in ["/dev/", "//dev", "/./dev/.", "dev"] {
            let json = format!(r#"{{"destination": "{destination}", "type": "tmpfs"}}"#);
            let target = planned(&json).unwrap().target;
            assert_eq!(target.path.as_c_str(), c"/dev", "{destination}");
        }
    }

    #[test]
    fn binds_are_taken_from_the_bundle() {
        let mount = planned(
            r#"{"destination": "/data", "type": "none", "source": "data", "options": ["rbind", "rro", "rslave"]}"#,
        );
        let mount = mount.unwrap();
        let path = c"/bundle/data".to_owned();
        assert_eq!(
            mount.source,
            Source::Bind {
                path,
                recursive: true
            }
        );
        assert_eq!(mount.tree.set, Flags::MOUNT_ATTR_RDONLY);
        assert!(mount.own.is_empty());
        let spread = Spread {
            kind: Propagation::Slave,
            recursive: true,
        };
        assert_eq!(mount.spread, Some(spread));
    }

    #[test]
    fn ids_of_a_mount_are_the_containers_or_its_own() {
        let own = planned(
            r#"{"destination": "/d", "source": "/s", "options": ["bind", "ridmap"],
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
                "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 1}]}"#,
        );
        let expected = Ids::Own {
            users: "0 1000 1\n".to_owned(),
            groups: "0 2000 1\n".to_owned(),
            recursive: true,
        };
        assert_eq!(own.unwrap().ids, Some(expected));
        let shared =
            planned(r#"{"destination": "/d", "source": "/s", "options": ["bind", "idmap"]}"#);
        assert_eq!(
            shared.unwrap().ids,
            Some(Ids::Container { recursive: false })
        );
        let wrong = planned(r#"{"destination": "/d", "type": "tmpfs", "options": ["idmap"]}"#);
        assert!(wrong.unwrap_err().to_string().contains("only a bind mount"));
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        for (json, word) in [
            (r#"{"destination": "/d/../e", "type": "tmpfs"}"#, ".."),
            (r#"{"destination": "", "type": "tmpfs"}"#, "destination"),
            (r#"{"destination": "/d"}"#, "type"),
            (r#"{"destination": "/d", "type": "bind"}"#, "source"),
            (
                r#"{"destination": "/d", "type": "bind", "source": "/s", "options": ["wat=1"]}"#,
                "wat",
            ),
            (
                r#"{"destination": "/d", "type": "proc", "options": ["tmpcopyup"]}"#,
                "tmpcopyup",
            ),
        ] {
            let error = format!("{:#}", planned(json).unwrap_err());
            assert!(error.contains(word), "{json}: {error}");
        }
    }
}
