//! `mutate`: plants faults that would let an attack through, one at a time, and demands that the tests notice.
//!
//! The faults are in `tests/faults.toml`, the attacks in the table of `docs/trust.md`. Everything happens in a copy of the
//! tree, with a target directory of its own in the cache; the clone is not touched. A fault is caught if it compiles and the
//! test that is named beside it fails; that the same test passes without the fault is asked first. What was caught is
//! remembered for as long as the tree is the same, so that a run that was cut goes on.

mod faults;
mod memory;
mod tree;
mod watch;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use faults::Fault;
use kedge_image_build::cache::Cache;
use kedge_image_build::{progress, toolchain};
use memory::Memory;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tree::Tree;

/// How long a test may take, with compiling what depends on a changed crate.
const LONGEST: Duration = Duration::from_secs(20 * 60);

/// Plant faults that would let an attack through, and demand that the tests notice each.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask mutate                     # all of them: compiles a crate or two a fault\n  \
    cargo xtask mutate --filter rollback   # those of one attack, file or test\n  \
    cargo xtask mutate --list")]
pub(crate) struct Arguments {
    /// Only faults whose attack, file, test or description contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Say which there are, and plant none.
    #[arg(long)]
    list: bool,
    /// Plant those again, too, that were caught in this very tree before.
    #[arg(long)]
    again: bool,
}

/// What became of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Its test failed, as it must.
    Caught,
    /// Its test passed.
    Survived,
    /// It says nothing: it does not compile.
    Broken,
    /// Its test did not end in time: noticed, if not told well.
    Hung,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Survived => "SURVIVED",
            Self::Broken => "DOES NOT COMPILE",
            Self::Hung => "HUNG",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let workspace = toolchain::workspace()?;
    let mut faults = faults::read(&workspace)?;
    if let Some(filter) = &arguments.filter {
        faults.retain(|fault| fault.is_named(filter));
        ensure!(
            !faults.is_empty(),
            "no fault is named {filter:?}; --list shows all"
        );
    }
    if arguments.list {
        for fault in &faults {
            progress::say(format_args!("{}: {}", fault.row, fault.what));
            progress::say(format_args!("    {} → {}", fault.file, fault.test));
        }
        return Ok(());
    }
    let cache = Cache::open()?;
    let _lock = cache.lock("mutate")?;
    let bench = Bench {
        tree: Tree::copy(&workspace, &cache.folder("mutate/tree")?)?,
        target: cache.folder("cargo-target/mutate")?,
        log: cache.folder("mutate")?.join("log"),
    };
    let mut memory = Memory::of(
        cache.folder("mutate")?.join("outcomes"),
        bench.tree.digest(),
    );
    if arguments.again {
        memory.clear();
    }
    // One after the other in the same file, so that what depends on another one is not compiled for each anew.
    faults.sort_by(|one, other| (&one.package, &one.file).cmp(&(&other.package, &other.file)));
    let known = faults.iter().filter(|fault| memory.caught(fault).is_some());
    let known = known.count();
    if known > 0 {
        let (all, known) = (faults.len(), known);
        progress::say(format_args!(
            "{known} of {all} were caught in this very tree before; --again plants them, too"
        ));
    }
    bench.pass_without(faults.iter().filter(|fault| memory.caught(fault).is_none()))?;
    let mut outcomes = Vec::new();
    for (fault, number) in faults.iter().zip(1..) {
        if let Some(time) = memory.caught(fault) {
            outcomes.push((fault, Outcome::Caught, time));
            continue;
        }
        let start = Instant::now();
        let title = format!("[{number}/{}] {}: {}", faults.len(), fault.row, fault.what);
        let outcome = progress::step(title, || bench.plant(fault))?;
        let time = start.elapsed();
        progress::say(format_args!("  {}: {}", outcome.word(), fault.test));
        if outcome == Outcome::Caught {
            memory.keep(fault, time)?;
        }
        outcomes.push((fault, outcome, time));
    }
    summary(&outcomes)
}

fn summary(outcomes: &[(&Fault, Outcome, Duration)]) -> Result<()> {
    let width = outcomes.iter().map(|(fault, ..)| fault.row.len()).max();
    let width = width.unwrap_or(0);
    for (fault, outcome, time) in outcomes {
        progress::say(format_args!(
            "{:<16}  {:>7}  {:<width$}  {}",
            outcome.word(),
            progress::seconds(*time),
            fault.row,
            fault.what
        ));
    }
    let caught = outcomes
        .iter()
        .filter(|(_, outcome, _)| *outcome == Outcome::Caught);
    let (caught, all) = (caught.count(), outcomes.len());
    if caught < all {
        bail!("mutate: {caught} of {all} faults were caught");
    }
    progress::say(format_args!("mutate: all of {all} faults were caught"));
    Ok(())
}

/// Where faults are planted.
struct Bench {
    tree: Tree,
    target: PathBuf,
    log: PathBuf,
}

impl Bench {
    /// The tests that must notice pass as long as there is nothing to notice, and are there.
    fn pass_without<'a>(&self, faults: impl Iterator<Item = &'a Fault>) -> Result<()> {
        let mut suites: BTreeMap<(&str, Option<&str>), Vec<&str>> = BTreeMap::new();
        for fault in faults {
            let tests = suites
                .entry((&fault.package, fault.target.as_deref()))
                .or_default();
            if !tests.contains(&fault.test.as_str()) {
                tests.push(&fault.test);
            }
        }
        for ((package, target), tests) in suites {
            let title = format!("without a fault: {} tests of {package}", tests.len());
            progress::step(title, || {
                let mut command = self.cargo(package, target)?;
                command.arg("--").args(&tests);
                let output = self.watched(&mut command)?;
                let (good, text) = output.context("the tests do not end without a fault")?;
                ensure!(
                    good,
                    "fails without a fault; all of it is in {}",
                    self.log.display()
                );
                let ran = passed(&text);
                ensure!(
                    ran >= tests.len(),
                    "{ran} of {} tests of {package} ran: {}",
                    tests.len(),
                    tests.join(", ")
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Plants a fault, looks whether its test fails, and takes it away again.
    fn plant(&self, fault: &Fault) -> Result<Outcome> {
        let _planted = self.tree.plant(fault)?;
        let target = fault.target.as_deref();
        let mut compile = self.cargo(&fault.package, target)?;
        compile.arg("--no-run");
        match self.watched(&mut compile)? {
            Some((true, _)) => {}
            Some((false, _)) | None => return Ok(Outcome::Broken),
        }
        let mut command = self.cargo(&fault.package, target)?;
        command.arg("--").arg(&fault.test);
        Ok(match self.watched(&mut command)? {
            None => Outcome::Hung,
            Some((true, _)) => Outcome::Survived,
            Some((false, text)) if text.contains("test result: FAILED") => Outcome::Caught,
            // A test that ends its process (a stack that overflows, memory that is gone) has noticed as well.
            Some((false, text)) if text.contains("(signal: ") => Outcome::Caught,
            Some((false, _)) => bail!("cargo failed, and no test did: see {}", self.log.display()),
        })
    }

    /// `cargo test` of one suite in the copy.
    fn cargo(&self, package: &str, target: Option<&str>) -> Result<Command> {
        let mut command = crate::cargo::cargo()?;
        command
            .current_dir(self.tree.top())
            .args(["test", "--quiet", "--locked", "--package", package])
            .env("CARGO_TARGET_DIR", &self.target)
            // Each fault is another state of its crate: what is kept for increments would only fill the disk.
            .env("CARGO_INCREMENTAL", "0")
            // A crate is compiled for one short test: what the optimiser takes is longer than what it saves.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
            .env("RUST_BACKTRACE", "0");
        match target {
            Some(target) => command.args(["--test", target]),
            None => command.arg("--lib"),
        };
        Ok(command)
    }

    /// Runs it: whether it ended well, and what it printed; none: it had to be ended.
    fn watched(&self, command: &mut Command) -> Result<Option<(bool, String)>> {
        watch::run_up_to(command, &self.log, LONGEST)
    }
}

/// How many tests passed, by libtest's summaries.
fn passed(text: &str) -> usize {
    text.lines()
        .filter_map(|line| line.strip_prefix("test result: ok. "))
        .filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok())
        .sum()
}

/// A path of the tree that is in it.
fn inside(top: &Path, path: &str) -> Result<PathBuf> {
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    ensure!(plain, "{path} is no path from the top of the tree");
    Ok(top.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_libtest_are_added_up() {
        let text = "running 2 tests\n..\ntest result: ok. 2 passed; 0 failed\n\ntest result: ok. 1 passed; 0 failed\n";
        assert_eq!(passed(text), 3);
        assert_eq!(passed("test result: FAILED. 2 passed; 1 failed"), 0);
    }
}
