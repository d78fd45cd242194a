//! `test`: the tiers, each named by what it needs, cheapest first.

use crate::cargo::cargo;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use kedge_image_build::platform::{self, KernelSource};
use kedge_image_build::{debian, process, progress};
use std::time::{Duration, Instant};

/// The board that the tests boot.
const BOARD: &str = "qemu-x86-64";

/// Run the tests: all tiers, or those named.
#[derive(Debug, Args)]
#[command(after_help = "Tiers, in this order:\n  \
    unit  functions and documents, beside the code; needs nothing\n  \
    host  image tools and the command `kedge`; downloads them once\n  \
    root  namespaces and mounts; needs root\n  \
    vm    boots in QEMU; needs qemu-system-x86, which is installed, and the platform, which is made\n\n\
    One test: cargo xtask test vm --filter boots")]
pub(crate) struct Arguments {
    /// The tiers to run; all of them when none is named.
    #[arg(value_enum)]
    tiers: Vec<Tier>,
    /// Run only tests whose name contains this.
    #[arg(long)]
    filter: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tier {
    Unit,
    Host,
    Root,
    Vm,
}

impl Tier {
    const ALL: [Self; 4] = [Self::Unit, Self::Host, Self::Root, Self::Vm];

    const fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
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

fn run_tier(tier: Tier, arguments: &Arguments) -> Result<()> {
    let mut command = cargo()?;
    command.args(["test", "--quiet", "--locked"]);
    match tier {
        Tier::Unit => {
            command.args(["--workspace", "--lib", "--bins"]);
        }
        Tier::Host | Tier::Root | Tier::Vm => {
            command.args(["--package", "kedge-tests", "--test", tier.name()]);
        }
    }
    if tier == Tier::Vm {
        debian::require(&["qemu-system-x86"], "boot devices in QEMU")?;
        let folder = platform::make(BOARD, kernel()?)?;
        command.env("KEDGE_PLATFORM", folder);
    }
    if let Some(filter) = &arguments.filter {
        command.args(["--", filter]);
    }
    process::run_visibly(&mut command)
}

/// Our own kernel when it was built before, else Debian's: a test run never waits for a kernel to compile.
fn kernel() -> Result<KernelSource> {
    let source = if platform::has_own_kernel(BOARD)? {
        KernelSource::Own
    } else {
        KernelSource::Debian
    };
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
