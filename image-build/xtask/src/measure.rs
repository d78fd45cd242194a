//! `measure WHAT`: the promises as figures; those of a device on our own kernel unless told otherwise.
//!
//! One JSON object a line with `--json` (`{"name", "value", "unit", "goal": {"max"}, "board"}`, the
//! last for devices), a table otherwise. It
//! exits 0 whether or not a goal is met: it tells, tests judge. The methods are in the modules.

mod agent;
mod boot;
mod containers;
mod hub;
mod memory;
mod size;
mod subject;
mod trial;

use crate::image::Kernel;
use crate::project::{self, BOARD};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use kedge_board_support::boards::{self, Architecture, Board};
use kedge_image_build::output::Output;
use kedge_image_build::progress;
use serde::Serialize;

/// Measure what the project promises.
#[derive(Debug, Args)]
#[command(after_help = "size    the device binary, the initramfs, an image\n\
    boot    guest instructions from exec of PID 1 to a container's first instruction\n\
    memory  what is ours in memory, and the least memory that a device runs in\n\
    trial   what a trial costs: a boot of it, the time to its verdict, answers that its containers do not give\n\
    containers  starts of containers on this machine, beside crun and runc; with --in-guest on a device's kernel in QEMU,\n\
    \x20           in instructions\n\
    hub     what the hub spends on a poll, a report, an enrolment and a connection; a fleet that works and that comes back\n\n\
    Examples:\n  cargo xtask measure boot --json\n  cargo xtask measure memory --board pc-x86-64\n  cargo xtask measure hub --devices 2000")]
pub(crate) struct Arguments {
    /// What to measure.
    #[arg(value_enum)]
    what: What,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// On which board; `trial`'s server is written for x86-64. The hub has none.
    #[arg(long, default_value = BOARD)]
    board: String,
    /// Whose kernel; the promises are about our own.
    #[arg(long, value_enum, default_value_t = Kernel::Own)]
    kernel: Kernel,
    /// On the board's kernel in QEMU, with instructions counted, instead of on this machine's (`containers`).
    #[arg(long)]
    in_guest: bool,
    /// How many times a boot is measured (`boot`, `trial`); the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Devices of the simulated fleet (`hub`): each takes a descriptor, of which a process may have so many.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    devices: u32,
    /// How long that fleet does what it does every day, seconds (`hub`): polls are held for 50.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Size,
    Boot,
    Memory,
    Trial,
    Containers,
    Hub,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let board = arguments.board.as_str();
    suits(arguments.what, &boards::find(board)?)?;
    ensure!(
        !arguments.in_guest || matches!(arguments.what, What::Containers),
        "--in-guest is for starts of containers alone: the others are about devices in QEMU anyway"
    );
    let platform = || project::platform(board, arguments.kernel.into());
    let mut figures = match arguments.what {
        What::Size => {
            let measured = platform().and_then(|platform| size::measure(&platform));
            if measured.is_err() {
                // What is over its budget is not assembled: then what it is spent on is what one wants to know.
                show(&size::of_binary(&boards::find(board)?)?, arguments.json)?;
            }
            measured
        }
        What::Boot => boot::measure(&platform()?, arguments.runs),
        What::Memory => memory::measure(&platform()?),
        What::Trial => trial::measure(&platform()?, arguments.runs),
        What::Containers if arguments.in_guest => containers::measure_in_guest(&platform()?),
        What::Containers => containers::measure(),
        What::Hub => hub::measure(arguments.devices, arguments.seconds),
    }?;
    for figure in &mut figures {
        figure.board = match arguments.what {
            What::Containers if arguments.in_guest => Some(board.to_owned()),
            What::Hub | What::Containers => None,
            What::Size | What::Boot | What::Memory | What::Trial => Some(board.to_owned()),
        };
    }
    show(&figures, arguments.json)?;
    Ok(())
}

/// Whether this can be measured on that board.
fn suits(what: What, board: &Board) -> Result<()> {
    match what {
        What::Trial => ensure!(
            board.architecture == Architecture::X86_64,
            "the server that a trial is measured with is written for x86-64, and {} has another processor",
            board.name
        ),
        What::Hub | What::Containers => ensure!(
            board.name.as_str() == BOARD,
            "that is measured on this machine, not on {}",
            board.name
        ),
        What::Size => {}
        What::Boot | What::Memory => ensure!(
            board
                .qemu
                .as_ref()
                .is_some_and(|qemu| qemu.serial_bus.is_some()),
            "no emulation plays {} with a control port: it has no qemu.serial-bus",
            board.name
        ),
    }
    Ok(())
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Figure {
    name: String,
    value: Value,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    board: Option<String>,
}

/// Whole where it is counted, with a fraction where it is time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
enum Value {
    Count(u64),
    Time(f64),
}

/// What the value must not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Goal {
    max: u64,
}

impl Figure {
    fn bytes(name: &str, bytes: u64, most: Option<u64>) -> Self {
        Self {
            name: name.to_owned(),
            value: Value::Count(bytes),
            unit: "B",
            goal: most.map(|max| Goal { max }),
            board: None,
        }
    }

    fn mebibytes(name: &str, count: u32, most: Option<u64>) -> Self {
        Self {
            value: Value::Count(count.into()),
            unit: "MiB",
            ..Self::bytes(name, 0, most)
        }
    }

    /// From nanoseconds; kept to the microsecond.
    fn time(name: &str, nanoseconds: u64, most_ms: Option<u64>) -> Self {
        // Microseconds of an hour fit 32 bits.
        let microseconds = u32::try_from(nanoseconds / 1000).unwrap_or(u32::MAX);
        Self {
            value: Value::Time(f64::from(microseconds) / 1000.0),
            unit: "ms",
            ..Self::bytes(name, 0, most_ms)
        }
    }

    /// By how many nanoseconds one time is longer than another; it may be negative.
    fn difference(name: &str, longer: u64, shorter: u64) -> Self {
        let mut figure = Self::time(name, longer.abs_diff(shorter), None);
        if let Value::Time(time) = &mut figure.value
            && longer < shorter
        {
            *time = -*time;
        }
        figure
    }

    /// From milliseconds of the device's own clock; it may be negative.
    fn seconds(name: &str, milliseconds: i64) -> Self {
        let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
        Self {
            value: Value::Time(f64::from(milliseconds) / 1000.0),
            unit: "s",
            ..Self::bytes(name, 0, None)
        }
    }

    /// Of things that are counted.
    fn count(name: &str, count: u64) -> Self {
        Self {
            unit: "",
            ..Self::bytes(name, count, None)
        }
    }

    fn holds(&self) -> Option<bool> {
        let max = self.goal?.max;
        Some(match self.value {
            Value::Count(count) => count <= max,
            // Goals are small whole numbers of milliseconds.
            Value::Time(time) => time <= f64::from(u32::try_from(max).unwrap_or(u32::MAX)),
        })
    }

    fn words(&self) -> String {
        let value = match self.value {
            Value::Count(count) => thousands(count),
            Value::Time(time) => format!("{time:.3}"),
        };
        let goal = match (self.goal, self.holds()) {
            (Some(goal), Some(holds)) => {
                let mark = if holds { "✓" } else { "✗" };
                format!("   {mark} at most {}", thousands(goal.max))
            }
            _ => String::new(),
        };
        format!("{:<34} {value:>12} {:<3}{goal}", self.name, self.unit)
    }
}

fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn show(figures: &[Figure], json: bool) -> Result<()> {
    let output = Output::new(json);
    for figure in figures {
        output.result(figure.words(), figure)?;
    }
    Ok(())
}

/// The middle value; the lower of two.
fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    let middle = values.len().checked_sub(1)? / 2;
    values.get(middle).copied()
}

/// A line about progress, beside the result.
fn note(text: impl std::fmt::Display) {
    progress::say(format_args!("  {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_one_object_of_the_agreed_form() {
        let mut figure = Figure::bytes("size.initramfs", 512_345, Some(1_000_000));
        figure.board = Some("pc-x86-64".to_owned());
        assert_eq!(
            serde_json::to_string(&figure).unwrap(),
            r#"{"name":"size.initramfs","value":512345,"unit":"B","goal":{"max":1000000},"board":"pc-x86-64"}"#
        );
        let arm = boards::find("qemu-arm64").unwrap();
        suits(What::Boot, &arm).unwrap();
        suits(What::Trial, &arm).unwrap_err();
        suits(What::Hub, &arm).unwrap_err();
        let time = Figure::time("boot.first-boot", 12_345_678, Some(15));
        assert_eq!(time.value, Value::Time(12.345));
        assert_eq!(time.holds(), Some(true));
        assert!(time.words().contains("12.345 ms"));
        let less = Figure::difference("trial.x", 1_000_000, 3_500_000);
        assert_eq!(less.value, Value::Time(-2.5));
        let more = Figure::difference("trial.x", 3_500_000, 1_000_000);
        assert_eq!((more.value, more.unit), (Value::Time(2.5), "ms"));
        let seconds = Figure::seconds("trial.y", -250);
        assert_eq!((seconds.value, seconds.unit), (Value::Time(-0.25), "s"));
    }

    #[test]
    fn medians_and_digits() {
        assert_eq!(median(vec![5, 1, 9]), Some(5));
        assert_eq!(median(vec![]), None);
        assert_eq!(thousands(1_234_567), "1 234 567");
        assert_eq!(thousands(12), "12");
    }
}
