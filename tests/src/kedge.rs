//! The host command, run as its users run it: another process, JSON back.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// `kedge` in one project.
#[derive(Debug, Clone)]
pub struct Kedge {
    program: PathBuf,
    folder: PathBuf,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Kedge {
    /// The program at a path, for the project in `folder`, made or not.
    #[must_use]
    pub fn new(program: &str, folder: &Path) -> Self {
        Self {
            program: program.into(),
            folder: folder.to_owned(),
            variables: Vec::new(),
        }
    }

    /// With a variable of the environment that is a path.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &Path) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Makes the project for a board, with keys that have no passphrase.
    ///
    /// # Errors
    /// As [`Kedge::ask`].
    pub fn create(&self, product: &str, board: &str) -> Result<Value> {
        let path = self.folder.display().to_string();
        self.answer(self.command().args([
            "--json",
            "new",
            product,
            "--board",
            board,
            "--no-passphrase",
            "--path",
            &path,
        ]))
    }

    /// The project's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a verb and returns its one JSON object.
    ///
    /// # Errors
    /// The verb fails: with its own words.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        self.answer(
            self.command()
                .arg("--project")
                .arg(&self.folder)
                .arg("--json")
                .args(words),
        )
    }

    /// Runs a verb that may fail, and returns what it says as JSON, and its exit status.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn try_ask(&self, words: &[&str]) -> Result<(String, Option<i32>)> {
        let mut command = self.command();
        let command = command.arg("--project").arg(&self.folder).arg("--json");
        let done = run(command.args(words))?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        if said.trim().is_empty() {
            bail!(
                "`kedge {}` ended with {}: {}",
                words.join(" "),
                done.status,
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok((said, done.status.code()))
    }

    /// Runs a verb that must fail, and returns what it says on standard error and its exit status.
    ///
    /// # Errors
    /// It succeeds, or cannot be started.
    pub fn refuse(&self, words: &[&str]) -> Result<(String, Option<i32>)> {
        let mut command = self.command();
        let done = run(command.arg("--project").arg(&self.folder).args(words))?;
        if done.status.success() {
            bail!("`kedge {}` was not refused", words.join(" "));
        }
        Ok((
            String::from_utf8_lossy(&done.stderr).into_owned(),
            done.status.code(),
        ))
    }

    /// As [`Kedge::refuse`], where there is no terminal on which somebody could be asked.
    ///
    /// # Errors
    /// It succeeds, or cannot be started.
    pub fn refuse_alone(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(&self.program);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let done = run(command.arg("--project").arg(&self.folder).args(words))?;
        if done.status.success() {
            bail!("`kedge {}` was not refused", words.join(" "));
        }
        Ok(String::from_utf8_lossy(&done.stderr).into_owned())
    }

    /// Runs a verb that ends with status 1, and returns its one JSON object.
    ///
    /// # Errors
    /// It ends otherwise, or prints something else.
    pub fn fails(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.command();
        command.arg("--project").arg(&self.folder).arg("--json");
        let done = run(command.args(words))?;
        let text = String::from_utf8_lossy(&done.stdout);
        if done.status.code() != Some(1) {
            bail!(
                "`kedge {}` ended with {}: {text}",
                words.join(" "),
                done.status
            );
        }
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Starts a verb that goes on, and reads what it says.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn follow(&self, words: &[&str]) -> Result<Following> {
        let mut command = self.command();
        command.arg("--project").arg(&self.folder).arg("--json");
        let mut child = command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let out = child.stdout.take().context("the verb has no output")?;
        let (sender, lines) = std::sync::mpsc::channel();
        // It ends with the verb.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Following {
            child,
            lines,
            seen: Vec::new(),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }

    fn answer(&self, command: &mut Command) -> Result<Value> {
        let done = run(command)?;
        let text = String::from_utf8_lossy(&done.stdout);
        if !done.status.success() {
            bail!(
                "`{}` ended with {}\n{text}{}",
                kedge_image_build::process::line(command),
                done.status,
                String::from_utf8_lossy(&done.stderr)
            );
        }
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }
}

/// A verb that goes on; it ends when this is dropped.
#[derive(Debug)]
pub struct Following {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Following {
    /// Waits for a line that contains `text`, among those that came already too.
    ///
    /// # Errors
    /// It does not come in time, or the verb ends before.
    pub fn expect(&mut self, text: &str, patience: Duration) -> Result<String> {
        self.expect_more(text, 0, patience)
    }

    /// How many of the lines that have come contain `text`.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for one more line that contains `text` than there were.
    ///
    /// # Errors
    /// As [`Following::expect`].
    pub fn expect_more(&mut self, text: &str, were: usize, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let mut found = self.seen.iter().filter(|line| line.contains(text));
            if let Some(line) = found.nth(were) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).with_context(|| {
                format!("{text:?} did not come in {patience:?}, but {:?}", self.seen)
            })?;
            self.seen.push(line);
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It is gone either way.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn run(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))
}
