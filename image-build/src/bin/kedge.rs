//! The host command `kedge`; everything is in `kedge_image_build::verbs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kedge_image_build::verbs::main()
}
