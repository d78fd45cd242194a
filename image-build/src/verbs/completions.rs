//! `kedge completions`: a shell's completion script, on standard output.

use super::{Cli, Scene};
use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde::Serialize;

/// Print a completion script for a shell.
///
/// For instance: kedge completions bash > ~/.local/share/bash-completion/completions/kedge
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

#[derive(Serialize)]
struct Script {
    script: String,
}

impl Completions {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "kedge", &mut script);
        let script = String::from_utf8(script).context("the script is not UTF-8")?;
        scene.output.result(
            script.trim_end(),
            &Script {
                script: script.clone(),
            },
        )?;
        Ok(())
    }
}
