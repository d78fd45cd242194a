//! `test`: the tiers, each named by what it needs, cheapest first.

use crate::cargo::cargo;
use crate::fuzz;
use crate::image::Kernel;
use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use kedge_board_support::boards::{self, Architecture};
use kedge_image_build::platform::{self, KernelSource};
use kedge_image_build::{debian, process, progress, toolchain};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Most tests that are run once more, alone, when they failed: several at once on a machine that others use, too, miss
/// times that each of them alone keeps; where more fail than this it is no accident.
const AGAIN: usize = 3;
/// The board that the tests boot.
const BOARD: &str = "qemu-x86-64";

/// Run the tests: all tiers, or those named.
#[derive(Debug, Args)]
#[command(after_help = "Tiers, in this order:\n  \
    unit  functions and documents, beside the code; needs nothing\n  \
    fuzz  parsers of untrusted bytes, a fixed number of inputs; needs a C++ compiler\n  \
    host  image tools, the command `kedge` and the hub; downloads tools once\n  \
    root  namespaces and mounts; needs root\n  \
    vm    boots in QEMU; needs the machines, which are installed, and the boards' platforms, which are made\n\n\
    One test: cargo xtask test vm --filter boots\n\
    All of a board that U-Boot starts: cargo xtask test vm --all-boards --filter arm64::\n\
    On our own kernel, which is built first: cargo xtask test vm --kernel own")]
pub(crate) struct Arguments {
    /// The tiers to run; all of them when none is named.
    #[arg(value_enum)]
    tiers: Vec<Tier>,
    /// Run only tests whose name contains this; it is an error if none does. `fuzz` has no tests with names: with a filter it
    /// runs, as a whole, only if it is named.
    #[arg(long)]
    filter: Option<String>,
    /// What takes hours, too: power cuts at fifty moments instead of two.
    #[arg(long)]
    long: bool,
    /// All cases on every board, where a smoke test of some is enough else.
    #[arg(long)]
    all_boards: bool,
    /// Which kernel devices boot (`vm`). Unasked it is our own where it was built before, which takes 12 CPU minutes, and Debian's
    /// elsewhere; a board that no kernel of Debian's serves has our own.
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// A test that fails is not run a second time, alone, to see whether the machine was too slow for several at once.
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tier {
    Unit,
    Fuzz,
    Host,
    Root,
    Vm,
}

impl Tier {
    const ALL: [Self; 5] = [Self::Unit, Self::Fuzz, Self::Host, Self::Root, Self::Vm];

    const fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Fuzz => "fuzz",
            Self::Host => "host",
            Self::Root => "root",
            Self::Vm => "vm",
        }
    }

    /// Whether its tests have names, of which a filter chooses.
    const fn has_names(self) -> bool {
        match self {
            Self::Fuzz => false,
            Self::Unit | Self::Host | Self::Root | Self::Vm => true,
        }
    }
}

/// What became of a tier.
#[derive(Debug)]
struct Outcome {
    tier: Tier,
    good: bool,
    /// How many tests were run, if there is a filter that the tier heeds.
    matches: Option<u64>,
    /// Tests that failed, and passed alone.
    unstable: Vec<String>,
    time: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let filter = arguments.filter.as_deref();
    if filter.is_some() && arguments.tiers.is_empty() {
        progress::say("tests: fuzz is left out: it has none that a filter could choose from");
    }
    let mut outcomes = Vec::new();
    for tier in wanted(&arguments.tiers, filter) {
        let start = Instant::now();
        let mut counted = Counted::default();
        let result = progress::step(format_args!("tests: {}", tier.name()), || {
            run_tier(tier, arguments, &mut counted)
        });
        if let Err(error) = &result {
            progress::say(format_args!("  {error:#}"));
        }
        outcomes.push(Outcome {
            tier,
            good: result.is_ok(),
            matches: filter.filter(|_| tier.has_names()).map(|_| counted.tests),
            unstable: counted.unstable,
            time: start.elapsed(),
        });
    }
    summary(&outcomes, filter)
}

/// The tiers that are to be run.
fn wanted(named: &[Tier], filter: Option<&str>) -> Vec<Tier> {
    let all = Tier::ALL.into_iter();
    if !named.is_empty() {
        return all.filter(|tier| named.contains(tier)).collect();
    }
    if filter.is_none() {
        return all.collect();
    }
    all.filter(|tier| tier.has_names()).collect()
}

/// The tests that were run, as the harness says them: for each binary a line `running N tests` and one `test result: …`,
/// before which, where some failed, their names stand below `failures:`.
#[derive(Debug, Default)]
struct Counted {
    tests: u64,
    /// Binaries that began, and that said how it ended: one that crashed has not.
    begun: u32,
    ended: u32,
    failed: Vec<String>,
    /// What stands below the last `failures:`.
    listed: Vec<String>,
    /// Failed with others at once, and passed alone.
    unstable: Vec<String>,
    /// A line that has not ended yet.
    line: Vec<u8>,
}

impl Counted {
    fn see(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            self.line(&String::from_utf8_lossy(&line));
        }
    }

    fn line(&mut self, line: &str) {
        if let Some(count) = told(line) {
            self.tests = self.tests.saturating_add(count);
            self.begun = self.begun.saturating_add(1);
        } else if line == "failures:" {
            // Twice: before what they said, and before their names.
            self.listed.clear();
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.ended = self.ended.saturating_add(1);
            let listed = std::mem::take(&mut self.listed);
            if result.starts_with("FAILED") {
                self.failed.extend(listed);
            }
        } else if let Some(name) = line.strip_prefix("    ") {
            let is_one = !name.is_empty() && !name.contains(char::is_whitespace);
            self.listed.extend(is_one.then(|| name.to_owned()));
        }
    }
}

/// How many tests a line of the harness announces, if it announces any.
fn told(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("running ")?;
    let (number, word) = rest.split_once(' ')?;
    matches!(word, "test" | "tests").then(|| number.parse().ok())?
}

/// What of the workspace a tier runs: arguments of `cargo test`.
fn selections(tier: Tier) -> &'static [&'static [&'static str]] {
    match tier {
        Tier::Unit => &[
            &["--workspace", "--lib", "--bins"],
            &[
                "--package",
                "kedge-revision",
                "--test",
                "documents",
                "--test",
                "attacks",
            ],
        ],
        Tier::Fuzz => &[],
        Tier::Host => &[
            &["--package", "kedge-tests", "--test", "host"],
            &["--package", "kedge-hub", "--test", "hub"],
        ],
        // The container engine's own are among them: tests/tests/root/main.rs.
        Tier::Root => &[
            &["--package", "kedge-tests", "--test", "root"],
            &["--package", "kedge-oci", "--test", "root"],
        ],
        Tier::Vm => &[&["--package", "kedge-tests", "--test", "vm"]],
    }
}

fn run_tier(tier: Tier, arguments: &Arguments, counted: &mut Counted) -> Result<()> {
    let mut platform = None;
    let mut machines = None;
    match tier {
        Tier::Fuzz => return fuzz::run(fuzz::INPUTS),
        Tier::Vm => {
            debian::require(&["qemu-system-x86"], "boot devices in QEMU")?;
            let kernel = kernel(arguments.kernel.map(Into::into))?;
            platform = Some(platform::make(BOARD, kernel)?);
            machines = Some(at_once(kernel));
            if arguments.filter.is_none() {
                device_binaries(arguments.all_boards)?;
            }
        }
        Tier::Root => {
            debian::require(&["python3"], "serve probes in containers")?;
            debian::require(&["busybox-static"], "have an image for bundles")?;
            let podman = ["podman", "conmon", "catatonit"];
            debian::require(&podman, "run the OCI command as podman does")?;
        }
        Tier::Unit | Tier::Host => {}
    }
    for selection in selections(tier) {
        let run = |filter: &[&str], at_once: Option<usize>, counted: &mut Counted| {
            let mut command = cargo()?;
            command
                // One report shows all that is broken.
                .args(["test", "--quiet", "--locked", "--no-fail-fast"])
                .args(*selection);
            if let Some(folder) = &platform {
                command.env("KEDGE_PLATFORM", folder);
            }
            if let Some(kernel) = arguments.kernel.map(KernelSource::from) {
                command.env("KEDGE_KERNEL", kernel.to_string());
            }
            if let Some(count) = at_once {
                command.env("RUST_TEST_THREADS", count.to_string());
            }
            if arguments.all_boards && tier == Tier::Vm {
                command.args(["--features", "all-boards"]);
            }
            if arguments.long {
                command.env("KEDGE_LONG", "1");
                if tier == Tier::Vm || (tier == Tier::Host && selection.contains(&"kedge-tests")) {
                    command.args(["--features", "long"]);
                }
            }
            command.arg("--").args(filter);
            process::run_seen(&mut command, &mut |bytes| counted.see(bytes))
        };
        let filter = arguments.filter.as_deref();
        let asked = std::env::var_os("RUST_TEST_THREADS").is_some();
        let done = run(filter.as_slice(), machines.filter(|_| !asked), counted);
        let failed = std::mem::take(&mut counted.failed);
        let few = (1..=AGAIN).contains(&failed.len()) && counted.begun == counted.ended;
        if done.is_ok() || arguments.once || !few {
            done?;
            continue;
        }
        for name in &failed {
            progress::say(format_args!("  {name} failed: once more, alone"));
            let before = counted.tests;
            run(&["--exact", name], Some(1), counted)?;
            ensure!(counted.tests > before, "{name} was not found again");
        }
        counted.unstable.extend(failed);
    }
    Ok(())
}

/// How many devices are played at once: with our own kernel one more than there are processors, since each waits for windows
/// and timers a third of its time. Debian's takes longer to boot, and a device whose time runs out is no failure of its own.
fn at_once(kernel: KernelSource) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match kernel {
        KernelSource::Own => processors.saturating_add(1),
        KernelSource::Debian => processors,
    }
}

/// The device binary for each processor, before any device is played: a compiler beside them takes the time that they have.
fn device_binaries(with_mips: bool) -> Result<()> {
    let mut targets = BTreeSet::new();
    for board in boards::all()? {
        let is_wanted = with_mips || board.architecture != Architecture::Mipsel;
        if is_wanted && targets.insert(board.rust_target.clone()) {
            toolchain::build_device(&board, &["agent"])?;
        }
    }
    Ok(())
}

/// The kernel that was asked for; unasked our own when it was built before, else Debian's: nobody waits for one to compile, but for
/// boards that have no other.
fn kernel(asked: Option<KernelSource>) -> Result<KernelSource> {
    let source = asked.map_or_else(|| platform::cheapest(BOARD), Ok)?;
    progress::say(format_args!("  devices boot the {source} kernel"));
    Ok(source)
}

fn summary(outcomes: &[Outcome], filter: Option<&str>) -> Result<()> {
    for outcome in outcomes {
        let (name, time) = (outcome.tier.name(), progress::seconds(outcome.time));
        match (outcome.good, outcome.matches) {
            (false, _) => progress::say(format_args!("{name:<5} FAILED in {time}")),
            (true, Some(0)) => progress::say(format_args!("{name:<5} has no such test")),
            (true, _) => progress::say(format_args!("{name:<5} passed in {time}")),
        }
        for test in &outcome.unstable {
            progress::say(format_args!(
                "      UNSTABLE: {test} failed, and passed when it was run alone (--once: that is a failure)"
            ));
        }
    }
    judge(outcomes, filter)?;
    progress::say("test: all passed");
    Ok(())
}

/// A tier has failed, or a filter fits no test at all: a name that is misspelt must not pass.
fn judge(outcomes: &[Outcome], filter: Option<&str>) -> Result<()> {
    let failed: Vec<&str> = outcomes
        .iter()
        .filter(|outcome| !outcome.good)
        .map(|outcome| outcome.tier.name())
        .collect();
    ensure!(failed.is_empty(), "test: failed: {}", failed.join(", "));
    let mut heeding = outcomes.iter().filter(|outcome| outcome.matches.is_some());
    let tiers: Vec<&str> = heeding.clone().map(|outcome| outcome.tier.name()).collect();
    if let Some(filter) = filter
        && !tiers.is_empty()
        && heeding.all(|outcome| outcome.matches == Some(0))
    {
        bail!(
            "test: no test has {filter:?} in its name, in {}\nhelp: some tests are there only with --all-boards or --long",
            tiers.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(tier: Tier, good: bool, matches: Option<u64>) -> Outcome {
        Outcome {
            tier,
            good,
            matches,
            unstable: Vec::new(),
            time: Duration::ZERO,
        }
    }

    #[test]
    fn the_harness_is_counted_over_binaries_and_pieces() {
        let mut counted = Counted::default();
        let said = "\nrunning 0 tests\n\ntest result: ok. 0 passed\n\nrunning 1 test\n.\n\nrunning 12 tests\n............\n";
        for piece in said.as_bytes().chunks(5) {
            counted.see(piece);
        }
        assert_eq!(counted.tests, 13);
        counted.see(b"running late\nrunning 5 devices\nis running 7 tests\nrunning 2 tests");
        assert_eq!(counted.tests, 13);
    }

    #[test]
    fn the_harness_names_what_failed() {
        let said = "running 3 tests\n..\nfailures:\n\n---- live::vm_trials stdout ----\n    boots: ok (5.9 s)\n    kedge::strange\n\
            Error: 1 checks failed:\n\nfailures:\n    life::vm_a_device_lives\n    live::vm_trials\n\ntest result: FAILED. 1 passed\n\
            running 1 test\n    alone\n.\ntest result: ok. 1 passed\n\
            running 1 test\nfailures:\n\nfailures:\n    inbox::tests::reading\n\ntest result: FAILED. 0 passed\n";
        let mut counted = Counted::default();
        counted.see(said.as_bytes());
        let names = [
            "life::vm_a_device_lives",
            "live::vm_trials",
            "inbox::tests::reading",
        ];
        assert_eq!(counted.failed, names);
        assert_eq!((counted.tests, counted.begun, counted.ended), (5, 3, 3));
        // One that crashes says nothing more.
        counted.see(b"running 7 tests\n...");
        assert_ne!(counted.begun, counted.ended);
    }

    #[test]
    fn a_filter_that_fits_no_test_is_an_error() {
        let nothing = [
            outcome(Tier::Fuzz, true, None),
            outcome(Tier::Host, true, Some(0)),
            outcome(Tier::Vm, true, Some(0)),
        ];
        let said = judge(&nothing, Some("botos")).unwrap_err().to_string();
        assert!(
            said.contains("no test has \"botos\" in its name, in host, vm"),
            "{said}"
        );
        // One tier may have none while another has.
        let one = [
            outcome(Tier::Host, true, Some(0)),
            outcome(Tier::Vm, true, Some(1)),
        ];
        judge(&one, Some("boots")).unwrap();
        judge(&[outcome(Tier::Fuzz, true, None)], Some("boots")).unwrap();
        judge(&[outcome(Tier::Unit, true, None)], None).unwrap();
        // What does not even compile has no tests, and says so itself.
        let broken = [outcome(Tier::Vm, false, Some(0))];
        let said = judge(&broken, Some("boots")).unwrap_err().to_string();
        assert_eq!(said, "test: failed: vm");
    }

    #[test]
    fn a_filter_leaves_out_the_tier_without_names_unless_it_is_named() {
        assert_eq!(wanted(&[], None), Tier::ALL);
        assert_eq!(
            wanted(&[], Some("x")),
            [Tier::Unit, Tier::Host, Tier::Root, Tier::Vm]
        );
        let named = [Tier::Vm, Tier::Fuzz];
        assert_eq!(wanted(&named, Some("x")), [Tier::Fuzz, Tier::Vm]);
    }
}
