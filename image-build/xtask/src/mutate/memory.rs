//! Which faults were caught in this very tree, so that a run that was cut goes on where it was.

use super::faults::Fault;
use anyhow::{Context, Result};
use kedge_image_build::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What is kept, as JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// The tree's.
    digest: String,
    /// How long each fault that was caught has taken, in seconds.
    caught: BTreeMap<String, u64>,
}

/// The memory. Only what was caught is in it: anything else is looked at again.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    kept: Kept,
}

impl Memory {
    /// What is known of the tree with this digest; nothing if the file is of another tree or is damaged.
    pub(super) fn of(path: PathBuf, digest: &str) -> Self {
        let kept = std::fs::read(&path).ok();
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        let kept = kept.filter(|kept| kept.digest == digest);
        let kept = kept.unwrap_or_else(|| Kept {
            digest: digest.to_owned(),
            ..Kept::default()
        });
        Self { path, kept }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.kept.caught.clear();
    }

    /// How long a fault has taken that was caught.
    pub(super) fn caught(&self, fault: &Fault) -> Option<Duration> {
        let seconds = self.kept.caught.get(&fault.key())?;
        Some(Duration::from_secs(*seconds))
    }

    /// Keeps that a fault was caught.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn keep(&mut self, fault: &Fault, time: Duration) -> Result<()> {
        self.kept.caught.insert(fault.key(), time.as_secs());
        let text = serde_json::to_vec_pretty(&self.kept).context("outcomes as JSON")?;
        files::write(&self.path, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::faults;
    use kedge_image_build::toolchain;

    #[test]
    fn what_was_caught_is_known_of_the_same_tree_alone() -> Result<()> {
        let faults = faults::read(&toolchain::workspace()?)?;
        let (one, other) = (&faults[0], &faults[1]);
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("outcomes");
        let mut memory = Memory::of(path.clone(), "ab");
        memory.keep(one, Duration::from_secs(7))?;
        let again = Memory::of(path.clone(), "ab");
        assert_eq!(again.caught(one), Some(Duration::from_secs(7)));
        assert_eq!(again.caught(other), None);
        assert_eq!(Memory::of(path.clone(), "cd").caught(one), None);
        files::write(&path, "no JSON")?;
        let mut damaged = Memory::of(path, "ab");
        assert_eq!(damaged.caught(one), None);
        damaged.keep(one, Duration::ZERO)?;
        damaged.clear();
        assert_eq!(damaged.caught(one), None);
        Ok(())
    }

    #[test]
    fn no_two_faults_are_the_same() -> Result<()> {
        let faults = faults::read(&toolchain::workspace()?)?;
        let keys: std::collections::BTreeSet<String> = faults.iter().map(Fault::key).collect();
        assert_eq!(keys.len(), faults.len());
        Ok(())
    }
}
