//! `run BOARD`: the sample product in QEMU, to look around.

use crate::image::Kernel;
use crate::kedge::Kedge;
use crate::project;
use anyhow::{Context, Result};
use clap::Args;
use kedge_image_build::progress;

/// Boot the sample product (nginx, Redis, a Python program) in QEMU, with its console here. Ctrl-A x ends it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: cargo xtask run qemu-x86-64, then curl http://127.0.0.1:8080/visits"
)]
pub(crate) struct Arguments {
    /// The board, such as qemu-x86-64.
    board: String,
    /// Whose kernel; our own if it was built before, else Debian's.
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
    /// The port of this machine that leads to the device's port 80.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let board = arguments.board.as_str();
    let platform = project::platform(board, project::kernel(board, arguments.kernel)?)?;
    let folder = tempfile::Builder::new()
        .prefix("kedge-run-")
        .tempdir()
        .context("cannot make a temporary folder")?;
    let built = {
        let kedge = Kedge::new_project(&folder.path().join("gateway"), board)?;
        project::sample(board, kedge, &platform, "60s")?
    };
    built.kedge.leave_link()?;
    let forward = format!("{}:80", arguments.port);
    progress::say(format_args!(
        "in another terminal: curl http://127.0.0.1:{}/visits\n\
         and: cd {}; ./kedge ctl status; ./kedge ctl logs -f",
        arguments.port,
        built.kedge.project().display()
    ));
    built.kedge.show(&["run", "--port", &forward])
}
