//! Rules of the house, held by tests: who may depend on whom, how long a file is, what must not be written anywhere.
//!
//! They read the tree as git lists it, so that what is built or scribbled beside it does not count.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest source file, lines.
const MOST_LINES: usize = 600;

/// Which crates of ours each crate may name, in `[dependencies]`. `kedge-tests` may name all.
const DIRECTION: [(&str, &[&str]); 17] = [
    ("kedge-revision", &[]),
    ("kedge-api", &["kedge-revision"]),
    (
        "kedge-agent",
        &["kedge-api", "kedge-revision", "kedge-store", "kedge-sys"],
    ),
    ("kedge-sys", &[]),
    ("kedge-store", &["kedge-revision", "kedge-sys"]),
    ("kedge-hub", &["kedge-api", "kedge-revision", "kedge-store"]),
    ("kedge-loading", &[]),
    (
        "kedge-board-support",
        &["kedge-loading", "kedge-revision", "kedge-sys"],
    ),
    ("kedge-container", &["kedge-revision", "kedge-sys"]),
    ("kedge-oci-seccomp", &["kedge-sys"]),
    ("kedge-oci", &["kedge-oci-seccomp", "kedge-sys"]),
    (
        "kedge-init",
        &[
            "kedge-agent",
            "kedge-board-support",
            "kedge-container",
            "kedge-revision",
            "kedge-store",
            "kedge-sys",
        ],
    ),
    ("kedge-rootfs", &["kedge-revision"]),
    (
        "kedge-image-build",
        &[
            "kedge-api",
            "kedge-board-support",
            "kedge-revision",
            "kedge-rootfs",
            "kedge-store",
        ],
    ),
    // The demonstration assembles images and looks at disks, as image-build does.
    (
        "xtask",
        &[
            "kedge-api",
            "kedge-board-support",
            "kedge-image-build",
            "kedge-rootfs",
        ],
    ),
    ("kedge-probe", &["kedge-sys"]),
    (
        "kedge-tests",
        &[
            "kedge-agent",
            "kedge-api",
            "kedge-board-support",
            "kedge-container",
            "kedge-hub",
            "kedge-image-build",
            "kedge-init",
            "kedge-revision",
            "kedge-rootfs",
            "kedge-store",
            "kedge-sys",
        ],
    ),
];

/// What `update/revision` must not reach for: it does no I/O.
const NO_IO: [&str; 4] = ["std::fs", "std::net", "std::process", "std::os"];

/// Hosts of package registries and mirrors: the machine's own configuration names them, never a file of ours.
/// In pieces, so that this file does not break the rule.
const HOSTS: [&str; 7] = [
    concat!("crates", ".io/api"),
    concat!("index.crates", ".io"),
    concat!("pypi", ".org"),
    concat!("deb.debian", ".org"),
    concat!("ftp.debian", ".org"),
    concat!("registry-1.docker", ".io"),
    concat!("registry.npmjs", ".org"),
];

/// The top of the clone.
fn workspace() -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .map(Path::to_path_buf)
        .context("the crate of the tests lies in no folder")
}

/// A file of the tree: its path from the top, and its text if it is text.
#[derive(Debug)]
struct Tracked {
    /// From the top, with `/`.
    path: String,
    /// Empty for what is not UTF-8.
    text: String,
}

impl Tracked {
    fn is_rust(&self) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|extension| extension == "rs")
    }
}

/// Every file that git tracks or would add.
fn tracked() -> Result<Vec<Tracked>> {
    let top = workspace()?;
    let mut command = Command::new("git");
    command.current_dir(&top).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listing = kedge_image_build::process::output(&mut command)?;
    let listing = String::from_utf8(listing).context("a path is not UTF-8")?;
    let files = listing.split('\0').filter(|path| !path.is_empty());
    // What is listed and gone was deleted and not yet committed.
    let present = files.filter(|path| top.join(path).is_file());
    present
        .map(|path| {
            let bytes = fs::read(top.join(path)).with_context(|| format!("cannot read {path}"))?;
            Ok(Tracked {
                path: path.to_owned(),
                text: String::from_utf8(bytes).unwrap_or_default(),
            })
        })
        .collect()
}

/// The manifests of all members, by package.
fn manifests() -> Result<BTreeMap<String, (String, toml::Table)>> {
    let top = workspace()?;
    let root: toml::Table = read_toml(&top.join("Cargo.toml"))?;
    let members = root
        .get("workspace")
        .and_then(|workspace| workspace.get("members"))
        .and_then(toml::Value::as_array)
        .context("Cargo.toml lists no members")?;
    let mut manifests = BTreeMap::new();
    for member in members.iter().filter_map(toml::Value::as_str) {
        let path = format!("{member}/Cargo.toml");
        let table = read_toml(&top.join(&path))?;
        let name = table
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(toml::Value::as_str)
            .with_context(|| format!("{path} names no package"))?;
        manifests.insert(name.to_owned(), (path, table.clone()));
    }
    Ok(manifests)
}

fn read_toml(path: &Path) -> Result<toml::Table> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))
}

/// The crates of ours that a manifest names in a table such as `dependencies`.
fn named<'a>(manifest: &'a toml::Table, table: &str) -> BTreeSet<&'a str> {
    manifest
        .get(table)
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(toml::Table::keys)
        .map(String::as_str)
        .filter(|name| name.starts_with("kedge-") || *name == "xtask")
        .collect()
}

/// Refuses if any of `wrong` was found; each is shown on a line of its own.
fn none(rule: &str, wrong: &[String]) -> Result<()> {
    ensure!(wrong.is_empty(), "{rule}:\n  {}", wrong.join("\n  "));
    Ok(())
}

/// Where each line of a file that `bad` finds fault with stands.
fn lines(file: &Tracked, bad: impl Fn(&str) -> bool) -> Vec<String> {
    file.text
        .lines()
        .zip(1..)
        .filter(|(line, _)| bad(line))
        .map(|(line, number)| format!("{}:{number}: {}", file.path, line.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_point_one_way() -> Result<()> {
        let mut wrong = Vec::new();
        for (package, (path, manifest)) in manifests()? {
            let Some((_, allowed)) = DIRECTION.iter().find(|(name, _)| *name == package) else {
                wrong.push(format!(
                    "{path}: {package} has no line in the table of tidy.rs"
                ));
                continue;
            };
            for table in ["dependencies", "build-dependencies"] {
                for name in named(&manifest, table) {
                    if !allowed.contains(&name) {
                        wrong.push(format!("{path}: {package} must not depend on {name}"));
                    }
                }
            }
        }
        none("dependencies that ARCHITECTURE.md does not allow", &wrong)
    }

    #[test]
    fn members_take_the_lints_of_the_workspace() -> Result<()> {
        let mut wrong = Vec::new();
        for (path, manifest) in manifests()?.into_values() {
            let lints = manifest
                .get("lints")
                .and_then(|lints| lints.get("workspace"));
            if lints.and_then(toml::Value::as_bool) != Some(true) {
                wrong.push(path);
            }
        }
        none("manifests without `[lints] workspace = true`", &wrong)
    }

    #[test]
    fn files_are_short_and_begin_with_what_they_are() -> Result<()> {
        let mut wrong = Vec::new();
        for file in tracked()?.iter().filter(|file| file.is_rust()) {
            let count = file.text.lines().count();
            if count > MOST_LINES {
                wrong.push(format!("{}: {count} lines, over {MOST_LINES}", file.path));
            }
            if !file.text.starts_with("//! ") {
                wrong.push(format!("{}: does not begin with `//! `", file.path));
            }
        }
        none("source files to be split or described", &wrong)
    }

    #[test]
    fn no_test_is_ignored() -> Result<()> {
        let ignored = concat!("#[", "ignore");
        let files = tracked()?;
        let rust = files.iter().filter(|file| file.is_rust());
        let wrong: Vec<String> = rust
            .flat_map(|file| lines(file, |line| line.trim_start().starts_with(ignored)))
            .collect();
        none("tests that never run", &wrong)
    }

    #[test]
    fn nothing_names_this_machine_or_a_registry() -> Result<()> {
        let machine = [concat!("/wo", "rk/"), concat!("/ro", "ot/.")];
        let mut wrong = Vec::new();
        for file in tracked()? {
            // The lock file holds the registry's name as cargo writes it.
            if file.path.ends_with("Cargo.lock") {
                continue;
            }
            let absolute = |line: &str| machine.iter().any(|path| line.contains(path));
            let host = |line: &str| HOSTS.iter().any(|host| line.contains(host));
            wrong.extend(lines(&file, |line| absolute(line) || host(line)));
        }
        none("paths of one machine, or hosts of registries", &wrong)
    }

    #[test]
    fn every_dependency_of_the_workspace_says_why() -> Result<()> {
        let text = fs::read_to_string(workspace()?.join("Cargo.toml"))?;
        let after = text.split("[workspace.dependencies]").nth(1);
        let table = after.context("there is no [workspace.dependencies]")?;
        let table = table.split("\n[").next().unwrap_or_default();
        let mut said = false;
        let mut wrong = Vec::new();
        for line in table.lines() {
            if line.starts_with('#') {
                said = true;
            } else if line.is_empty() {
                said = false;
            } else if !said && !line.starts_with("kedge-") {
                wrong.push(line.to_owned());
            }
        }
        none("dependencies without a comment above them", &wrong)
    }

    #[test]
    fn unsafe_code_is_in_one_crate_and_in_the_loader() -> Result<()> {
        let files = tracked()?;
        let others = files.iter().filter(|file| {
            file.is_rust()
                && !file.path.starts_with("init/sys/")
                // Nothing but a firmware's pointers is under it.
                && !file.path.starts_with("board-support/efi/src/")
                && file.path != "tests/src/tidy.rs"
        });
        let wrong: Vec<String> = others
            .flat_map(|file| {
                lines(file, |line| {
                    let code = line.split("//").next().unwrap_or_default();
                    let allowed = code.contains("allow(unsafe_code")
                        || code.trim_start().starts_with("unsafe_code,");
                    allowed
                        || code.contains("unsafe {")
                        || code.contains("unsafe fn")
                        || code.contains("unsafe impl")
                })
            })
            .collect();
        none(
            "unsafe code outside init/sys and the loader for UEFI",
            &wrong,
        )
    }

    #[test]
    fn formats_do_no_input_or_output() -> Result<()> {
        let files = tracked()?;
        let own = files
            .iter()
            .filter(|file| file.is_rust() && file.path.starts_with("update/revision/src/"));
        let wrong: Vec<String> = own
            .flat_map(|file| lines(file, |line| NO_IO.iter().any(|path| line.contains(path))))
            .collect();
        none("input or output in the lowest crate", &wrong)
    }
}
