//! The command `kedge`, called as its users call it: this program under that name, so that nothing more is compiled.

use anyhow::{Context, Result, bail};
use kedge_image_build::process;
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The name that makes this program `kedge`.
const NAME: &str = "kedge";

/// Whether this process was started under that name.
pub(crate) fn is_called() -> bool {
    let called = std::env::args_os().next().unwrap_or_default();
    Path::new(&called).file_name() == Some(OsStr::new(NAME))
}

/// `kedge` in one project.
#[derive(Debug, Clone)]
pub(crate) struct Kedge {
    project: PathBuf,
    /// Where its user's settings are; those of whoever runs us if absent.
    settings: Option<PathBuf>,
}

impl Kedge {
    /// Makes a development project in `folder`, whose name becomes the product's.
    pub(crate) fn new_project(folder: &Path, board: &str) -> Result<Self> {
        let kedge = Self {
            project: folder.to_owned(),
            settings: None,
        };
        kedge.make(board, &[])?;
        Ok(kedge)
    }

    /// `kedge` for a project that may not be there yet, of a user with settings of their own.
    pub(crate) fn at(folder: &Path, settings: &Path) -> Self {
        Self {
            project: folder.to_owned(),
            settings: Some(settings.to_owned()),
        }
    }

    /// As [`Kedge::new_project`], for that user, with further words for `kedge new`.
    pub(crate) fn new_project_with(
        folder: &Path,
        board: &str,
        settings: &Path,
        more: &[&str],
    ) -> Result<Self> {
        let kedge = Self::at(folder, settings);
        kedge.make(board, more)?;
        Ok(kedge)
    }

    fn make(&self, board: &str, more: &[&str]) -> Result<()> {
        let name = self.project.file_name().unwrap_or_default();
        let mut command = self.bare()?;
        command.args(["--json", "new", &name.to_string_lossy(), "--board", board]);
        command.arg("--no-passphrase").args(more);
        answer(command.arg("--path").arg(&self.project)).map(drop)
    }

    /// The command, without a project.
    fn bare(&self) -> Result<Command> {
        let mut command = program()?;
        if let Some(settings) = &self.settings {
            command.env("XDG_CONFIG_HOME", settings);
        }
        Ok(command)
    }

    /// The project's folder.
    pub(crate) fn project(&self) -> &Path {
        &self.project
    }

    /// Runs a verb; its last result is the answer.
    ///
    /// # Errors
    /// The verb fails: then with its own words.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<Value> {
        Ok(self.ask_lines(words)?.pop().unwrap_or_default())
    }

    /// Runs a verb that answers with an object a line.
    ///
    /// # Errors
    /// As [`Kedge::ask`].
    pub(crate) fn ask_lines(&self, words: &[&str]) -> Result<Vec<Value>> {
        answer(self.command()?.arg("--json").args(words))
    }

    /// Runs a verb on our terminal.
    ///
    /// # Errors
    /// It cannot be started, or it fails.
    pub(crate) fn show(&self, words: &[&str]) -> Result<()> {
        let mut command = self.command()?;
        let status = command
            .args(words)
            .stdin(Stdio::inherit())
            .status()
            .context("cannot start kedge")?;
        if !status.success() {
            bail!("`{}` ended with {status}", process::line(&command));
        }
        Ok(())
    }

    /// Leaves `kedge` in the project's folder, so that the person can type it there.
    pub(crate) fn leave_link(&self) -> Result<()> {
        let own = std::env::current_exe().context("cannot tell our own path")?;
        let link = self.project.join(NAME);
        std::os::unix::fs::symlink(own, &link)
            .with_context(|| format!("cannot make the link {}", link.display()))
    }

    fn command(&self) -> Result<Command> {
        let mut command = self.bare()?;
        command.arg("--project").arg(&self.project);
        Ok(command)
    }
}

fn program() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot tell our own path")?);
    command.arg0(NAME);
    Ok(command)
}

fn answer(command: &mut Command) -> Result<Vec<Value>> {
    let done = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start kedge")?;
    let text = String::from_utf8_lossy(&done.stdout);
    let values: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if done.status.success() {
        return Ok(values);
    }
    let error = values.last().and_then(|value| value.get("error"));
    let said = |name: &str| error.and_then(|error| error.get(name));
    let mut words = said("message")
        .and_then(Value::as_str)
        .unwrap_or(&text)
        .to_owned();
    for cause in said("causes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        words.push_str("\n  because: ");
        words.push_str(cause.as_str().unwrap_or_default());
    }
    bail!("kedge fails: {words}")
}
