//! `image BOARD`: the platform of a board, which `kedge build` makes disk images with.

use anyhow::Result;
use clap::{Args, ValueEnum};
use kedge_board_support::boards;
use kedge_image_build::platform::{self, KernelSource};
use kedge_image_build::progress;

/// Make the platform of a board: kernel, modules and device binary.
#[derive(Debug, Args)]
#[command(after_help = "Example: cargo xtask image qemu-x86-64 --kernel own")]
pub(crate) struct Arguments {
    /// The board, such as qemu-x86-64.
    board: String,
    /// Whose kernel: Debian's in a minute, or our own, built once (about 12 CPU minutes) and kept. Unasked it is Debian's,
    /// or our own for a board that no kernel of Debian's serves.
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
}

/// The words for [`KernelSource`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kernel {
    Own,
    Debian,
}

impl From<Kernel> for KernelSource {
    fn from(kernel: Kernel) -> Self {
        match kernel {
            Kernel::Own => Self::Own,
            Kernel::Debian => Self::Debian,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let kernel = match arguments.kernel {
        Some(kernel) => kernel.into(),
        None => KernelSource::usual(&boards::find(&arguments.board)?),
    };
    let folder = platform::make(&arguments.board, kernel)?;
    let platform = platform::Platform::load(&folder)?;
    progress::say(format_args!(
        "platform {} with Linux {} and {} modules: {}",
        platform.board,
        platform.kernel_version,
        platform.modules.len(),
        folder.display()
    ));
    Ok(())
}
