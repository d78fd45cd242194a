//! The check of the boot control machine, as figures: what it went through, and the faults that were planted in it.
//!
//! The check is the example `model` of `kedge-board-support`. It prints an object a line for each way to boot (`{"name":
//! "model", "states": 1234, …}`), among other lines, which are passed over. Here they are added up; invariants are the
//! same for all.

use super::super::{Figure, Goal, note};
use crate::cargo::cargo;
use anyhow::{Context, Result, ensure};
use kedge_image_build::{progress, toolchain};
use serde::Deserialize;
use std::process::Stdio;

/// Where the check is, in the workspace.
const EXAMPLE: &str = "board-support/examples/model.rs";

/// What the check says of one way to boot. What went bad has no counts.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Line {
    name: String,
    states: u64,
    transitions: u64,
    invariants: u64,
    faults: u64,
    faults_caught: u64,
    bad: u64,
}

pub(super) fn measure() -> Result<Vec<Figure>> {
    if !toolchain::workspace()?.join(EXAMPLE).is_file() {
        note(format_args!(
            "no trial.model-… figures: there is no {EXAMPLE}"
        ));
        return Ok(Vec::new());
    }
    let mut command = cargo()?;
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "kedge-board-support",
    ]);
    command.args(["--example", "model"]);
    let text = progress::step("the check of the boot control machine", || {
        // It fails where an invariant does not hold: that is a figure.
        command
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")
    })?;
    figures(&String::from_utf8_lossy(&text.stdout))
}

fn figures(text: &str) -> Result<Vec<Figure>> {
    let lines: Vec<Line> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Line| line.name == "model")
        .collect();
    ensure!(
        !lines.is_empty(),
        "the check says nothing of a model: {text:?}"
    );
    let sum = |field: fn(&Line) -> u64| lines.iter().map(field).sum();
    let invariants = lines.iter().map(|line| line.invariants).max();
    let mut bad = Figure::count("trial.model-bad", sum(|line| line.bad));
    bad.goal = Some(Goal { max: 0 });
    Ok(vec![
        Figure::count("trial.model-states", sum(|line| line.states)),
        Figure::count("trial.model-transitions", sum(|line| line.transitions)),
        Figure::count("trial.model-invariants", invariants.unwrap_or_default()),
        bad,
        Figure::count("trial.model-faults-planted", sum(|line| line.faults)),
        Figure::count("trial.model-faults-caught", sum(|line| line.faults_caught)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_each_way_to_boot_is_added_up() {
        let text = "exploring\n{\"name\":\"other\",\"states\":9}\n\
            {\"name\":\"model\",\"backend\":\"direct\",\"states\":40,\"transitions\":90,\"bad\":0,\"longest\":7,\
            \"invariants\":11,\"faults\":5,\"faults-caught\":4,\"faults-by-consequence\":3}\n\
            {\"name\":\"model\",\"backend\":\"u-boot\",\"states\":2,\"transitions\":3,\"bad\":0,\"invariants\":11,\
            \"faults\":6,\"faults-caught\":6}\n";
        let figures = figures(text).unwrap();
        let value = |name: &str| {
            let figure = figures.iter().find(|figure| figure.name == name);
            figure.unwrap().clone()
        };
        for (name, count) in [
            ("trial.model-states", 42),
            ("trial.model-transitions", 93),
            ("trial.model-invariants", 11),
            ("trial.model-faults-planted", 11),
            ("trial.model-faults-caught", 10),
        ] {
            assert_eq!(value(name), Figure::count(name, count));
        }
        assert_eq!(value("trial.model-bad").holds(), Some(true));
    }

    #[test]
    fn a_broken_invariant_is_a_figure_and_silence_is_none() {
        let text = r#"{"name":"model","backend":"direct","bad":1,"found":"Floor"}"#;
        let bad = figures(text).unwrap();
        let bad = bad.iter().find(|figure| figure.name == "trial.model-bad");
        assert_eq!(bad.unwrap().holds(), Some(false));
        figures("").unwrap_err();
    }
}
