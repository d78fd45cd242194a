//! A hub in a process of its own, and its first operator.

use anyhow::{Context, Result};
use kedge_image_build::files;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running hub; it ends when this is dropped.
#[derive(Debug)]
pub struct Hub {
    child: Child,
    url: String,
    token: PathBuf,
}

impl Hub {
    /// Starts a hub that keeps everything in `folder`, maybe from an earlier run.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(program: &str, folder: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the hub")?;
        let mut line = String::new();
        let out = child.stdout.take().context("the hub has no output")?;
        let read = BufReader::new(out).read_line(&mut line);
        let told = read
            .ok()
            .and_then(|_| line.trim_end_matches('\n').split_once(' '));
        let Some((address, token)) = told else {
            child.kill().ok();
            anyhow::bail!("the hub did not start; it said why");
        };
        let path = folder.join("token");
        let hub = Self {
            child,
            url: format!("https://{address}"),
            token: path,
        };
        // It is told once.
        if !token.is_empty() {
            files::write_private(&hub.token, token.as_bytes())?;
        }
        Ok(hub)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The file with the first operator's token.
    #[must_use]
    pub fn token(&self) -> String {
        self.token.display().to_string()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // It is gone either way.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
