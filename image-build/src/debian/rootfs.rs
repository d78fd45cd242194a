//! The file system of a container image, merged from Debian packages.
//!
//! The packages' data archives are streamed into one tar: sorted, each path once, a later package over an earlier
//! one, times cut to one stamp, owners kept as numbers. The merged `/usr` that Debian expects (`/bin -> usr/bin`) is
//! laid first. No maintainer script runs; what such scripts would make and programs look for is added here: users
//! and groups from `base-passwd`'s own lists, `/etc/nsswitch.conf`, a few folders. Documentation, translations,
//! character sets other than UTF-8 and what only package management needs are left out.
//!
//! It is for demonstrations and tests. Integrators bring OCI images of their own.

use super::{Archive, Package, Status};
use crate::cache::{self, Cache};
use crate::{files, progress};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use tar::{Builder, EntryType, Header};

/// What the packages' scripts, but no program at run time, need. apt is told that they are there, so that neither
/// they nor what they alone depend on (perl, dpkg, Kerberos) comes along.
const SCRIPTS_ONLY: [&str; 12] = [
    "adduser",
    "debconf",
    "debianutils",
    "dpkg",
    "init-system-helpers",
    "iproute2",
    "libpam-modules",
    "lsb-base",
    "perl-base",
    "sysvinit-utils",
    "tar",
    "ucf",
];
const LEFT_OUT: [&str; 9] = [
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bug/",
    "usr/share/doc-base/",
    "usr/lib/python3/dist-packages/debpython/",
    "usr/share/bash-completion/",
];
/// Character sets, below the folder of an architecture's libraries.
const CHARACTER_SETS: &str = "/gconv/";
/// Folders that are links into `/usr` in Debian since 12.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// Changes when the bytes would.
const RECIPE: &str = "rootfs 2";
/// Every entry's time: packages of one closure have many, and none of them matters.
const STAMP: u64 = 1_767_225_600;

/// A tar with `packages` of an architecture (Debian's name) and all that they depend on, from the cache when the same
/// versions were merged before.
///
/// # Errors
/// The packages cannot be resolved or fetched, or one of them is damaged.
pub fn rootfs_tar(packages: &[&str], suite: &str, architecture: &str) -> Result<PathBuf> {
    let cache = Cache::open()?;
    let archive = Archive::open_for(&cache, suite, architecture)?;
    let mut wanted = packages.to_vec();
    wanted.extend(["base-files", "base-passwd"]);
    let closure = archive.closure(&wanted, Status::Pretend(&SCRIPTS_ONLY))?;
    let names: Vec<String> = closure.iter().map(Package::file_name).collect();
    let key = cache::key([RECIPE.to_owned()].into_iter().chain(names));
    let entry = cache.entry("rootfs", &key, |folder| {
        let debs = archive.download(&closure)?;
        progress::step(
            format_args!(
                "merging {} packages for {}",
                debs.len(),
                packages.join(", ")
            ),
            || {
                let tree = merge(&debs)?;
                write(&tree, &folder.join("rootfs.tar"))?;
                files::write(&folder.join("packages"), names_of(&closure))
            },
        )
    })?;
    Ok(entry.join("rootfs.tar"))
}

fn names_of(closure: &[Package]) -> String {
    closure
        .iter()
        .map(|package| format!("{} {}\n", package.name, package.version))
        .collect()
}

/// Path without a leading `./` or trailing `/`, to what is there.
type Tree = BTreeMap<String, Node>;

#[derive(Debug, Clone)]
struct Node {
    mode: u32,
    uid: u64,
    gid: u64,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Folder,
    File(Vec<u8>),
    /// A symbolic link with its target.
    Link(String),
    /// Another name of the file at that path.
    Hard(String),
}

fn merge(debs: &[PathBuf]) -> Result<Tree> {
    let mut tree = skeleton();
    for deb in debs {
        let mut stream = DataStream::open(deb)?;
        add(&mut tree, &mut stream.output)
            .with_context(|| format!("cannot read the files of {}", deb.display()))?;
        stream.finish(deb)?;
    }
    finish(&mut tree);
    Ok(tree)
}

/// `dpkg-deb --fsys-tarfile` at work.
struct DataStream {
    child: Child,
    output: ChildStdout,
}

impl DataStream {
    fn open(deb: &Path) -> Result<Self> {
        let mut command = Command::new("dpkg-deb");
        command
            .arg("--fsys-tarfile")
            .arg(deb)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start dpkg-deb")?;
        let output = child.stdout.take().context("dpkg-deb has no output")?;
        Ok(Self { child, output })
    }

    fn finish(mut self, deb: &Path) -> Result<()> {
        // What follows the archive's end is padding; a closed pipe would make dpkg-deb fail.
        std::io::copy(&mut self.output, &mut std::io::sink())
            .context("cannot read from dpkg-deb")?;
        let status = self.child.wait().context("cannot wait for dpkg-deb")?;
        anyhow::ensure!(
            status.success(),
            "dpkg-deb --fsys-tarfile {} ended with {status}",
            deb.display()
        );
        Ok(())
    }
}

fn add(tree: &mut Tree, data: &mut impl Read) -> Result<()> {
    let mut archive = tar::Archive::new(data);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = merged(&clean(&entry.path()?.to_string_lossy()));
        if path.is_empty() || path == "." || MERGED.contains(&path.as_str()) || is_left_out(&path) {
            continue;
        }
        let target = entry
            .link_name()?
            .map(|target| target.to_string_lossy().into_owned())
            .unwrap_or_default();
        let found = entry.header().entry_type();
        let kind = if found.is_dir() {
            Kind::Folder
        } else if found.is_symlink() {
            Kind::Link(target)
        } else if found.is_hard_link() {
            Kind::Hard(merged(&clean(&target)))
        } else if found.is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            Kind::File(bytes)
        } else {
            anyhow::bail!("{path} is of a kind that no package should have: {found:?}")
        };
        let header = entry.header();
        let node = Node {
            mode: header.mode()?,
            uid: header.uid()?,
            gid: header.gid()?,
            kind,
        };
        tree.insert(path, node);
    }
    Ok(())
}

/// Libraries are in `usr/lib/TRIPLET`, whose name is the architecture's.
fn is_left_out(path: &str) -> bool {
    let below_libraries = path
        .strip_prefix("usr/lib/")
        .and_then(|rest| rest.find('/').and_then(|end| rest.get(end..)));
    LEFT_OUT.iter().any(|folder| path.starts_with(folder))
        || below_libraries.is_some_and(|rest| rest.starts_with(CHARACTER_SETS))
}

fn clean(path: &str) -> String {
    path.trim_start_matches("./").trim_matches('/').to_owned()
}

/// The path with `bin`, `lib` … moved into `usr`, as the links of the skeleton would have it.
fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) && path.len() > first.len() {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

fn skeleton() -> Tree {
    let mut tree = Tree::new();
    for name in MERGED {
        tree.insert(
            name.to_owned(),
            Node {
                mode: 0o777,
                uid: 0,
                gid: 0,
                kind: Kind::Link(format!("usr/{name}")),
            },
        );
        tree.insert(format!("usr/{name}"), folder(0o755));
    }
    for name in [
        "dev", "etc", "proc", "run", "sys", "usr", "var", "var/log", "var/lib",
    ] {
        tree.insert(name.to_owned(), folder(0o755));
    }
    tree.insert("tmp".to_owned(), folder(0o1777));
    tree
}

/// What the scripts of `base-files`, `base-passwd` and `libc-bin` would do.
fn finish(tree: &mut Tree) {
    for (name, master) in [
        ("etc/passwd", "passwd.master"),
        ("etc/group", "group.master"),
    ] {
        if let Some(node) = tree
            .get(&format!("usr/share/base-passwd/{master}"))
            .cloned()
        {
            tree.entry(name.to_owned()).or_insert(Node {
                mode: 0o644,
                ..node
            });
        }
    }
    let nsswitch =
        "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n";
    tree.entry("etc/nsswitch.conf".to_owned())
        .or_insert_with(|| file(nsswitch));
    let hosts = "127.0.0.1 localhost\n::1 localhost\n";
    tree.entry("etc/hosts".to_owned())
        .or_insert_with(|| file(hosts));
    tree.entry("var/run".to_owned()).or_insert(Node {
        mode: 0o777,
        uid: 0,
        gid: 0,
        kind: Kind::Link("/run".to_owned()),
    });
    let parents: Vec<String> = tree.keys().flat_map(|path| ancestors(path)).collect();
    for parent in parents {
        tree.entry(parent).or_insert_with(|| folder(0o755));
    }
}

fn ancestors(path: &str) -> Vec<String> {
    path.match_indices('/')
        .filter_map(|(end, _)| path.get(..end))
        .map(str::to_owned)
        .collect()
}

fn folder(mode: u32) -> Node {
    Node {
        mode,
        uid: 0,
        gid: 0,
        kind: Kind::Folder,
    }
}

fn file(text: &str) -> Node {
    Node {
        mode: 0o644,
        uid: 0,
        gid: 0,
        kind: Kind::File(text.as_bytes().to_vec()),
    }
}

/// Hard links come last: each follows the file that it names, whatever their order by name.
fn write(tree: &Tree, path: &Path) -> Result<()> {
    let out = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut builder = Builder::new(BufWriter::new(out));
    append(&mut builder, "./", &folder(0o755))?;
    let is_hard = |node: &Node| matches!(node.kind, Kind::Hard(_));
    for hard in [false, true] {
        for (name, node) in tree.iter().filter(|(_, node)| is_hard(node) == hard) {
            append(&mut builder, name, node)
                .with_context(|| format!("cannot write {name} to {}", path.display()))?;
        }
    }
    builder
        .into_inner()?
        .flush()
        .with_context(|| format!("cannot write {}", path.display()))
}

fn append(builder: &mut Builder<impl Write>, name: &str, node: &Node) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(node.mode & 0o7777);
    header.set_uid(node.uid);
    header.set_gid(node.gid);
    header.set_mtime(STAMP);
    header.set_size(0);
    match &node.kind {
        Kind::Folder => {
            header.set_entry_type(EntryType::Directory);
            let name = format!("{}/", name.trim_end_matches('/'));
            builder.append_data(&mut header, name, std::io::empty())?;
        }
        Kind::File(bytes) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(u64::try_from(bytes.len())?);
            builder.append_data(&mut header, name, bytes.as_slice())?;
        }
        Kind::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, name, target)?;
        }
        Kind::Hard(target) => {
            header.set_entry_type(EntryType::Link);
            builder.append_link(&mut header, name, target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(tree: &Tree) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        write(tree, &path).unwrap();
        files::read(&path).unwrap()
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(bytes);
        archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn packages_are_merged_below_usr_sorted_and_trimmed() {
        let mut package = Tree::new();
        package.insert("lib/x/b.so".into(), file("b"));
        package.insert("usr/bin/a".into(), file("a"));
        package.insert(
            "usr/bin/Z".into(),
            Node {
                kind: Kind::Hard("usr/bin/a".into()),
                ..folder(0o755)
            },
        );
        package.insert("usr/share/doc/a/copyright".into(), file("c"));
        let mut tree = skeleton();
        add(&mut tree, &mut packed(&package).as_slice()).unwrap();
        finish(&mut tree);
        let names = names(&packed(&tree));
        assert!(names.contains(&"usr/lib/x/b.so".to_owned()), "{names:?}");
        assert!(names.contains(&"usr/lib/x/".to_owned()), "{names:?}");
        assert!(
            names.iter().all(|name| !name.contains("share/doc")),
            "{names:?}"
        );
        assert_eq!(names.last().unwrap(), "usr/bin/Z");
        assert!(matches!(&tree["lib"].kind, Kind::Link(target) if target == "usr/lib"));
    }

    #[test]
    fn users_come_from_the_master_lists() {
        let mut tree = skeleton();
        tree.insert(
            "usr/share/base-passwd/passwd.master".into(),
            file("root:*:0:0:root:/root:/bin/bash\n"),
        );
        finish(&mut tree);
        assert!(
            matches!(&tree["etc/passwd"].kind, Kind::File(bytes) if bytes.starts_with(b"root:"))
        );
    }

    #[test]
    fn the_same_tree_is_the_same_bytes() {
        assert_eq!(packed(&skeleton()), packed(&skeleton()));
    }
}
