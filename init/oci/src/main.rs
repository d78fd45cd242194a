//! `kedge-oci`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kedge_oci::main(std::env::args_os().skip(1))
}
