//! `kedge.lock`: which counter and time the last build gave, so that the same project gives the same bytes.
//!
//! The rule: a build hashes everything of its revision but counter and time. If that is what the last build had, counter
//! and time stay and the revision is the same, byte for byte. If it differs, the counter is the last one plus one (or what
//! `kedge.toml` fixes), and the time is `SOURCE_DATE_EPOCH` or now. The file is small, public, and belongs into version
//! control: it is what keeps two clones from giving one counter to two revisions unnoticed.

use crate::files;
use anyhow::{Context, Result, bail};
use kedge_revision::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;

use super::manifest::Counter;
use super::source::Source;

/// What the last build gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lock {
    /// The revision's counter.
    pub counter: u64,
    /// The revision's time.
    pub created: Timestamp,
    /// SHA-256 of the revision with counter 2⁶⁴−1 and time 0.
    pub fingerprint: String,
}

/// Held from the reading of the last counter until the next one is written: of two builds at once one waits for the other, so
/// that no two revisions get one counter. Dropping it lets the other go on.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

/// Waits until no other process gives a revision of the project its counter.
///
/// # Errors
/// `build/` cannot be written.
pub fn hold(build: &Path) -> Result<Held> {
    files::make_folder(build)?;
    let path = build.join(".lock");
    let cannot = || format!("cannot lock {}", path.display());
    // Beside kedge.lock, which is replaced as a whole: a lock on it would hold nobody.
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(cannot)?;
    if file.try_lock().is_err() {
        crate::progress::say("… waiting for another build of this project");
        file.lock().with_context(cannot)?;
    }
    Ok(Held { _file: file })
}

const HEADER: &str = "# Written by `kedge build`: the counter that the last revision got. Keep it in version control.\n";

impl Lock {
    /// The file's name in a project.
    pub const FILE: &'static str = "kedge.lock";

    /// Reads the file; `None` before the first build.
    ///
    /// # Errors
    /// It cannot be read or has a mistake.
    pub fn read(project: &Path) -> Result<Option<Self>> {
        let path = project.join(Self::FILE);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(Source::read(&path)?.parse()?))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, project: &Path) -> Result<()> {
        let text = toml::to_string(self).context("cannot write kedge.lock as TOML")?;
        // Before anything that has the counter leaves this machine: what has left must not be outlived by an older lock.
        files::write_lasting(&project.join(Self::FILE), format!("{HEADER}{text}"))
    }

    /// The lock of a revision with this fingerprint, by the rule above.
    ///
    /// # Errors
    /// The counters are used up.
    pub fn next(
        last: Option<&Self>,
        fingerprint: String,
        counter: Counter,
        now: Timestamp,
    ) -> Result<Self> {
        let same = last.filter(|last| last.fingerprint == fingerprint);
        let created = same.map_or(now, |last| last.created);
        let counter = match (counter, same) {
            (Counter::Fixed(counter), _) => counter,
            (Counter::Auto, Some(last)) => last.counter,
            (Counter::Auto, None) => match last.map_or(Some(1), |last| last.counter.checked_add(1))
            {
                Some(counter) => counter,
                None => bail!("the counter is used up; a new root starts a new count"),
            },
        };
        Ok(Self {
            counter,
            created,
            fingerprint,
        })
    }
}

/// `SOURCE_DATE_EPOCH` if it is set (reproducible-builds.org), else the clock.
///
/// # Errors
/// It is set to something that is no number of seconds.
pub fn now() -> Result<Timestamp> {
    if let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") {
        let text = text.to_string_lossy().into_owned();
        let seconds = text
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is `{text}`, not a number of seconds"))?;
        return Ok(Timestamp::from_unix(seconds));
    }
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("this machine's clock is before 1970: set it, or set SOURCE_DATE_EPOCH")?;
    Ok(Timestamp::from_unix(since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_grows_with_content_and_never_otherwise() {
        let at = Timestamp::from_unix;
        let first = Lock::next(None, "a".into(), Counter::Auto, at(10)).unwrap();
        assert_eq!((first.counter, first.created), (1, at(10)));
        let same = Lock::next(Some(&first), "a".into(), Counter::Auto, at(20)).unwrap();
        assert_eq!(same, first);
        let next = Lock::next(Some(&same), "b".into(), Counter::Auto, at(30)).unwrap();
        assert_eq!((next.counter, next.created), (2, at(30)));
        let fixed = Lock::next(Some(&next), "b".into(), Counter::Fixed(9), at(40)).unwrap();
        assert_eq!((fixed.counter, fixed.created), (9, at(30)));
    }

    #[test]
    fn one_build_at_a_time_gives_a_counter() {
        let folder = tempfile::tempdir().unwrap();
        let held = hold(folder.path()).unwrap();
        let other = File::options()
            .append(true)
            .open(folder.path().join(".lock"))
            .unwrap();
        assert!(other.try_lock().is_err());
        drop(held);
        other.try_lock().unwrap();
    }

    #[test]
    fn it_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Lock::read(folder.path()).unwrap(), None);
        let lock = Lock {
            counter: 3,
            created: Timestamp::from_unix(5),
            fingerprint: "f".into(),
        };
        lock.write(folder.path()).unwrap();
        assert_eq!(Lock::read(folder.path()).unwrap(), Some(lock));
    }
}
