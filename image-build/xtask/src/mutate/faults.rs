//! The list of faults, `tests/faults.toml`, and the table of attacks, `docs/trust.md`; tests keep both from rotting.

use super::inside;
use anyhow::{Context, Result, ensure};
use kedge_image_build::files;
use serde::Deserialize;
use std::path::Path;

/// The list.
const LIST: &str = "tests/faults.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    fault: Vec<Fault>,
}

/// A change of the code that would let an attack through.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// The attack, as the table's first column has it.
    pub(super) row: String,
    /// What the code does then, in a few words.
    pub(super) what: String,
    /// From the top of the tree.
    pub(super) file: String,
    /// What stands there, exactly once.
    pub(super) find: String,
    /// What stands there instead.
    pub(super) replace: String,
    /// The package whose tests notice.
    pub(super) package: String,
    /// Which of its test binaries; absent: the tests beside its code.
    pub(super) target: Option<String>,
    /// The test that must fail, by a part of its name.
    pub(super) test: String,
}

impl Fault {
    /// Whether a filter means it.
    pub(super) fn is_named(&self, filter: &str) -> bool {
        [&self.row, &self.what, &self.file, &self.test]
            .iter()
            .any(|text| text.contains(filter))
    }

    /// What tells it from all others of one tree.
    pub(super) fn key(&self) -> String {
        [&self.file, &self.find, &self.replace, &self.test]
            .map(|text| format!("{text:?}"))
            .join(" ")
    }

    /// The file's text with the fault in it.
    ///
    /// # Errors
    /// What is to be replaced does not stand there exactly once.
    pub(super) fn applied_to(&self, text: &str) -> Result<String> {
        let count = text.matches(&self.find).count();
        ensure!(
            count == 1,
            "{}: {:?} stands {count} times in {}",
            self.what,
            self.find,
            self.file
        );
        Ok(text.replacen(&self.find, &self.replace, 1))
    }
}

/// Reads the list.
///
/// # Errors
/// It cannot be read or is none.
pub(super) fn read(workspace: &Path) -> Result<Vec<Fault>> {
    let path = inside(workspace, LIST)?;
    let list: List = toml::from_str(&files::read_text(&path)?)
        .with_context(|| format!("{LIST} is no list of faults"))?;
    Ok(list.fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_image_build::toolchain;
    use std::collections::{BTreeMap, BTreeSet};

    /// The attacks of `docs/trust.md`, with the tests that each names.
    fn attacks(workspace: &Path) -> Result<BTreeMap<String, Vec<String>>> {
        let text = files::read_text(&workspace.join("docs/trust.md"))?;
        let table = text
            .split("| attack |")
            .nth(1)
            .context("no table of attacks")?;
        let mut attacks = BTreeMap::new();
        // The line of the heads, and the one below.
        for line in table
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'))
        {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [attack, _, tests] = cells[..] else {
                anyhow::bail!("{line:?} has not three cells");
            };
            let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned);
            attacks.insert(attack.to_owned(), tests.collect());
        }
        Ok(attacks)
    }

    /// All functions of all Rust files below `folder`, by name.
    fn functions(folder: &Path, found: &mut BTreeSet<String>) -> Result<()> {
        for path in files::list(folder)? {
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    functions(&path, found)?;
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = files::read_text(&path)?;
                let named = text.lines().filter_map(|line| {
                    let rest = line.trim_start().strip_prefix("fn ")?;
                    Some(rest.split('(').next()?.to_owned())
                });
                found.extend(named);
            }
        }
        Ok(())
    }

    fn is_test(name: &str, functions: &BTreeSet<String>) -> bool {
        functions.contains(name)
    }

    #[test]
    fn every_fault_stands_where_it_says_and_changes_something() -> Result<()> {
        let workspace = toolchain::workspace()?;
        for fault in read(&workspace)? {
            let text = files::read_text(&inside(&workspace, &fault.file)?)?;
            ensure!(
                fault.applied_to(&text)? != text,
                "{} changes nothing",
                fault.what
            );
        }
        Ok(())
    }

    #[test]
    fn every_attack_has_tests_and_faults_and_every_fault_an_attack() -> Result<()> {
        let workspace = toolchain::workspace()?;
        let attacks = attacks(&workspace)?;
        ensure!(
            attacks.len() >= 10,
            "only {} attacks were read",
            attacks.len()
        );
        let faults = read(&workspace)?;
        for (attack, tests) in &attacks {
            ensure!(!tests.is_empty(), "{attack}: no test is named");
            let planted = faults.iter().any(|fault| fault.row == *attack);
            ensure!(planted, "{attack}: no fault is in {LIST}");
        }
        for fault in &faults {
            let tests = attacks.get(&fault.row);
            let tests = tests.with_context(|| format!("{}: no such attack", fault.row))?;
            ensure!(
                tests.contains(&fault.test),
                "{}: the table does not name {}",
                fault.row,
                fault.test
            );
        }
        Ok(())
    }

    #[test]
    fn every_test_that_is_named_is_there() -> Result<()> {
        let workspace = toolchain::workspace()?;
        let mut found = BTreeSet::new();
        functions(&workspace, &mut found)?;
        for (attack, tests) in attacks(&workspace)? {
            for test in tests {
                ensure!(is_test(&test, &found), "{attack}: there is no test {test}");
            }
        }
        Ok(())
    }
}
