//! `test`: the tiers, each named by what it needs, cheapest first.

use crate::cargo::cargo;
use crate::fuzz;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use kedge_board_support::boards::{self, Architecture};
use kedge_image_build::platform::{self, KernelSource};
use kedge_image_build::{debian, process, progress, toolchain};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

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
    One test: cargo xtask test vm --filter boots")]
pub(crate) struct Arguments {
    /// The tiers to run; all of them when none is named.
    #[arg(value_enum)]
    tiers: Vec<Tier>,
    /// Run only tests whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// What takes hours, too: power cuts at fifty moments instead of two.
    #[arg(long)]
    long: bool,
    /// All cases on every board, where a smoke test of some is enough else.
    #[arg(long)]
    all_boards: bool,
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
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut outcomes = Vec::new();
    for tier in Tier::ALL
        .iter()
        .filter(|tier| arguments.tiers.is_empty() || arguments.tiers.contains(tier))
    {
        let start = Instant::now();
        let result = progress::step(format_args!("tests: {}", tier.name()), || {
            run_tier(*tier, arguments)
        });
        if let Err(error) = &result {
            progress::say(format_args!("  {error:#}"));
        }
        outcomes.push((*tier, result.is_ok(), start.elapsed()));
    }
    summary(&outcomes)
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

fn run_tier(tier: Tier, arguments: &Arguments) -> Result<()> {
    let mut platform = None;
    let mut machines = 1;
    match tier {
        Tier::Fuzz => return fuzz::run(fuzz::INPUTS),
        Tier::Vm => {
            debian::require(&["qemu-system-x86"], "boot devices in QEMU")?;
            let kernel = kernel()?;
            platform = Some(platform::make(BOARD, kernel)?);
            machines = at_once(kernel);
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
        let mut command = cargo()?;
        command
            // One report shows all that is broken.
            .args(["test", "--quiet", "--locked", "--no-fail-fast"])
            .args(*selection);
        if let Some(folder) = &platform {
            command.env("KEDGE_PLATFORM", folder);
        }
        if tier == Tier::Vm && std::env::var_os("RUST_TEST_THREADS").is_none() {
            command.env("RUST_TEST_THREADS", machines.to_string());
        }
        if arguments.all_boards && tier == Tier::Vm {
            command.args(["--features", "all-boards"]);
        }
        if arguments.long {
            command.env("KEDGE_LONG", "1");
            if tier == Tier::Host && selection.contains(&"kedge-tests") {
                command.args(["--features", "long"]);
            }
        }
        if let Some(filter) = &arguments.filter {
            command.args(["--", filter]);
        }
        process::run_visibly(&mut command)?;
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

/// Our own kernel when it was built before, else Debian's: nobody waits for one to compile, but for boards that have no other.
fn kernel() -> Result<KernelSource> {
    let source = platform::cheapest(BOARD)?;
    progress::say(format_args!("  devices boot the {source} kernel"));
    Ok(source)
}

fn summary(outcomes: &[(Tier, bool, Duration)]) -> Result<()> {
    for (tier, good, time) in outcomes {
        let word = if *good { "passed" } else { "FAILED" };
        progress::say(format_args!(
            "{:<5} {word} in {}",
            tier.name(),
            progress::seconds(*time)
        ));
    }
    let failed: Vec<&str> = outcomes
        .iter()
        .filter(|(_, good, _)| !good)
        .map(|(tier, _, _)| tier.name())
        .collect();
    if failed.is_empty() {
        progress::say("test: all passed");
        return Ok(());
    }
    bail!("test: failed: {}", failed.join(", "))
}
