//! Figures of the hub: what polls, reports, enrolments, handshakes and held connections cost it, and how a fleet of
//! simulated devices fares in ordinary times and when all come back at once.
//!
//! `cargo xtask measure hub` runs this and shows it. By itself, `cargo bench -p kedge-hub -- [--devices N] [--seconds N]`
//! prints a figure a line: name, value and unit, with tabs in between. Processor time is the hub's own (`/proc/PID/stat`):
//! the devices run on the same machine, which is why the wall clock tells little.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    dead_code,
    reason = "a measurement that cannot go on fails; the tests use what is not used here"
)]

#[path = "../tests/hub/client.rs"]
mod client;
#[path = "../tests/hub/crowd.rs"]
mod crowd;
#[path = "load/process.rs"]
mod process;
#[path = "load/single.rs"]
mod single;
#[path = "load/swarm.rs"]
mod swarm;
#[path = "../tests/hub/world.rs"]
mod world;

/// Tells a figure.
fn figure(name: &str, value: f64, unit: &str) {
    println!("hub.{name}\t{value:.3}\t{unit}");
}

/// Says what is going on, beside the figures.
fn note(text: &str) {
    eprintln!("  {text}");
}

/// The number behind an argument; cargo's own `--bench` is passed over.
fn argument(name: &str, usual: u32) -> u32 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    let value = arguments.nth(1);
    value.map_or(usual, |value| value.parse().expect("a number"))
}

fn main() {
    let devices = argument("--devices", 10_000);
    let seconds = argument("--seconds", 60);
    note("one device and few");
    single::measure();
    note(&format!("{devices} devices"));
    swarm::measure(devices, seconds);
}
