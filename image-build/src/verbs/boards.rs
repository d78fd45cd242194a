//! `kedge boards`: the kinds of machines that there are images for.

use super::Scene;
use super::hub::table;
use anyhow::{Context, Result};
use clap::Args;
use kedge_board_support::boards::{self, Architecture, Backend, Board};
use kedge_revision::Name;
use serde::Serialize;

/// List the boards: the kinds of machines that images are built for, as `board` of kedge.toml names them.
///
/// Of a board that is named all of its file is shown: what it says of the board's traps, what it starts with, its partitions and its
/// budgets. docs/guides/integrator.md tells how to make one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge boards
  kedge boards visionfive-2")]
pub(super) struct Boards {
    /// The board of which all is shown.
    board: Option<Name>,
}

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

/// One board with all that is known of it.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    file: &'static str,
}

impl From<Board> for Listed {
    fn from(board: Board) -> Self {
        Self {
            about: boards::about(&board.name).unwrap_or_default(),
            name: board.name,
            architecture: board.architecture,
            backend: board.boot.backend,
            emulated: board.qemu.is_some(),
        }
    }
}

impl Boards {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        if let Some(name) = &self.board {
            let shown = shown(name)?;
            return scene.output.result(shown.file.trim_end(), &shown);
        }
        let all = boards::all().context("a board file is not valid")?;
        let list = List {
            boards: all.into_iter().map(Listed::from).collect(),
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

fn shown(name: &Name) -> Result<Shown> {
    let board = boards::find(name.as_str())?;
    // What is found ships, so that there is a file.
    let file = boards::text(name).unwrap_or_default();
    Ok(Shown {
        listed: board.into(),
        file,
    })
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

    #[test]
    fn a_board_is_shown_with_its_traps() {
        let name: Name = "visionfive-2".parse().unwrap();
        let shown = shown(&name).unwrap();
        assert!(!shown.listed.about.contains("saveenv"));
        assert!(shown.file.contains("saveenv"));
        let object = serde_json::to_value(&shown).unwrap();
        assert_eq!(object["name"], "visionfive-2");
        assert_eq!(object["file"], shown.file);
        let error = super::shown(&"toaster".parse().unwrap()).err().unwrap();
        assert!(error.to_string().contains("visionfive-2"), "{error}");
    }
}
