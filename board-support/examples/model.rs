//! Runs the model check and says what it visited, one JSON object a line for each loader.
//!
//! `faults-by-consequence` are the planted faults that already a small run finds without the two invariants that say what
//! a performed write is: by what goes wrong on the device later. With `--fast` no faults are planted; with a loader's name, it
//! is the only one.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is what it is for"
)]

#[path = "../tests/model/check/mod.rs"]
mod check;

use check::device::Kit;
use check::rules::Invariant;
use std::process::ExitCode;

fn main() -> ExitCode {
    let fast = std::env::args().any(|argument| argument == "--fast");
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let mut bad = 0;
    for (kit, name) in [
        (Kit::Direct, "direct"),
        (Kit::UBoot, "u-boot"),
        (Kit::Uefi, "uefi"),
        (Kit::Tryboot, "tryboot"),
    ] {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        match summary(kit, name, fast) {
            Ok(line) => println!("{line}"),
            Err(found) => {
                bad += 1;
                println!(
                    "{{\"name\":\"model\",\"backend\":\"{name}\",\"bad\":1,\"found\":\"{found}\"}}"
                );
            }
        }
    }
    ExitCode::from(bad)
}

/// The line of a loader; the invariant that broke, if one did.
fn summary(kit: Kit, name: &str, fast: bool) -> Result<String, String> {
    let broken = |found: Box<check::explore::Counterexample>| {
        eprintln!("{found}");
        format!("{:?}", found.violation.invariant)
    };
    let visited = check::visit(kit).map_err(broken)?;
    let (mut planted, mut caught, mut consequence) = (0, 0, 0);
    if !fast {
        for fault in check::faults(kit, &check::places(kit).map_err(broken)?) {
            planted += 1;
            consequence += u32::from(check::hunt(kit, fault, false).is_some());
            caught += u32::from(check::hunt(kit, fault, true).is_some());
        }
    }
    let check::explore::Visited {
        states,
        transitions,
        longest,
        ..
    } = visited;
    let invariants = Invariant::COUNT;
    Ok(format!(
        "{{\"name\":\"model\",\"backend\":\"{name}\",\"states\":{states},\"transitions\":{transitions},\"bad\":0,\
         \"longest\":{longest},\"invariants\":{invariants},\"faults\":{planted},\"faults-caught\":{caught},\
         \"faults-by-consequence\":{consequence}}}"
    ))
}
