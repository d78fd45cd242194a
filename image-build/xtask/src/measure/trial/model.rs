//! The check of the boot control machine, as figures: what it went through, and the faults that were planted in it.
//!
//! The check is the example `model` of `kedge-board-support`. It prints a figure a line as JSON (`{"name":
//! "model.states", "value": 1234}`), among other lines, which are passed over. Here they are `trial.model-…`.

use super::super::{Figure, Goal, note};
use crate::cargo::cargo;
use anyhow::{Result, ensure};
use kedge_image_build::{process, progress, toolchain};
use serde::Deserialize;

/// Where the check is, in the workspace.
const EXAMPLE: &str = "board-support/examples/model.rs";

/// A figure as the check prints it.
#[derive(Deserialize)]
struct Line {
    name: String,
    value: u64,
    #[serde(default)]
    goal: Option<Bound>,
}

#[derive(Deserialize)]
struct Bound {
    max: u64,
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
        process::text(&mut command)
    })?;
    let figures = parse(&text);
    ensure!(!figures.is_empty(), "the check prints no figure: {text}");
    Ok(figures)
}

fn parse(text: &str) -> Vec<Figure> {
    let lines = text.lines().filter_map(|line| {
        let line: Line = serde_json::from_str(line).ok()?;
        let name = line.name.strip_prefix("model.")?;
        let mut figure = Figure::count(&format!("trial.model-{name}"), line.value);
        figure.goal = line.goal.map(|goal| Goal { max: goal.max });
        Some(figure)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_passed_on_under_their_new_names() {
        let text = "exploring\n{\"name\":\"model.states\",\"value\":48213,\"unit\":\"\"}\n\
            {\"name\":\"other\",\"value\":1}\n{\"name\":\"model.faults-missed\",\"value\":1,\"goal\":{\"max\":0}}\n{}\n";
        let figures = parse(text);
        assert_eq!(figures[0], Figure::count("trial.model-states", 48_213));
        assert_eq!(figures[1].name, "trial.model-faults-missed");
        assert_eq!(figures[1].holds(), Some(false));
        assert_eq!(figures.len(), 2);
    }
}
