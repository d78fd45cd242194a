//! The device binary: which of its names it was called by decides what it is.

use std::process::ExitCode;

fn main() -> ExitCode {
    kedge_init::run()
}
