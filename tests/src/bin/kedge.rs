//! The host command `kedge` for the suites: a package's tests know the path of its own binaries only.

use std::process::ExitCode;

fn main() -> ExitCode {
    kedge_image_build::verbs::main()
}
