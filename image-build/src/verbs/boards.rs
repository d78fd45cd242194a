//! `kedge boards`: the kinds of machines that there are images for.

use super::Scene;
use super::hub::table;
use anyhow::{Context, Result};
use clap::Args;
use kedge_board_support::boards::{self, Architecture, Backend};
use kedge_revision::Name;
use serde::Serialize;

/// List the boards: the kinds of machines that images are built for, as `board` of kedge.toml names them.
///
/// A board is a file; docs/guides/integrator.md tells how to make one.
#[derive(Debug, Args)]
pub(super) struct Boards {}

#[derive(Serialize)]
struct List {
    boards: Vec<Listed>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Listed {
    name: Name,
    about: String,
    architecture: Architecture,
    backend: Backend,
    /// Whether `kedge run` can play it.
    emulated: bool,
}

impl Boards {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let all = boards::all().context("a board file is not valid")?;
        let listed = all.into_iter().map(|board| Listed {
            about: boards::about(&board.name).unwrap_or_default(),
            name: board.name,
            architecture: board.architecture,
            backend: board.boot.backend,
            emulated: board.qemu.is_some(),
        });
        let list = List {
            boards: listed.collect(),
        };
        let head = ["BOARD", "ARCHITECTURE", "BACKEND", "RUN", ""];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for board in &list.boards {
            rows.push(vec![
                board.name.to_string(),
                word(&board.architecture),
                word(&board.backend),
                if board.emulated { "QEMU" } else { "-" }.to_owned(),
                board.about.clone(),
            ]);
        }
        scene.output.result(table(&rows), &list)
    }
}

/// A word of a board file, as it stands there.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_says_what_it_is() {
        let all = boards::all().unwrap();
        assert!(!all.is_empty());
        for board in all {
            let about = boards::about(&board.name).unwrap();
            assert!(!about.contains('#') && about.len() < 250, "{about}");
            assert!(!word(&board.boot.backend).is_empty());
        }
        let name = "qemu-x86-64".parse().unwrap();
        let about = boards::about(&name).unwrap();
        assert_eq!(about, "QEMU's q35 machine, x86_64");
        assert_eq!(word(&Architecture::X86_64), "x86-64");
    }
}
