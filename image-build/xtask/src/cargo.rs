//! Cargo, as the verbs call it: the one that runs us, in the workspace, never asking.

use anyhow::Result;
use kedge_image_build::toolchain;
use std::process::Command;

/// A cargo command in the workspace's root.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(toolchain::workspace()?);
    Ok(command)
}
