//! Modules of PyPI in the cache, for Debian's own Python.

use crate::cache::Cache;
use crate::{debian, files, process, progress};
use anyhow::Result;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::Command;

/// A folder for `PYTHONPATH` with these requirements of pip's in it, each with an exact version: the cache's entry of
/// this kind and name.
///
/// # Errors
/// pip cannot be installed, or cannot fetch them.
pub fn modules(
    cache: &Cache,
    kind: &str,
    name: &str,
    requirements: &[&str],
    step: impl Display,
) -> Result<PathBuf> {
    debian::require(&["python3-venv"], "install modules of PyPI")?;
    let entry = cache.entry(kind, name, |folder| {
        progress::step(step, || {
            // Modules by `--target`, not by a virtual environment: those hold absolute paths and cannot be renamed.
            let venv = folder.join("venv");
            let mut make = Command::new("/usr/bin/python3");
            process::run(make.args(["-m", "venv"]).arg(&venv))?;
            let mut pip = Command::new(venv.join("bin/pip"));
            pip.args(["install", "--quiet", "--target"])
                .arg(folder.join("lib"));
            process::run(pip.args(requirements))?;
            files::remove_folder(&venv)
        })
    })?;
    Ok(entry.join("lib"))
}
