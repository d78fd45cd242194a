//! What the agent keeps over boots: its key, its certificate, what it believes, what it has yet to tell.
//!
//! | file | holds |
//! |---|---|
//! | `key` | the seed of the device's ed25519 key, 32 bytes and their checksum |
//! | `certificate` | its certificate, and when to renew it |
//! | `authority` | the hub's authority as it was signed |
//! | `hub` | where the hub is that took the device in |
//! | `memory` | time floor, failures that are not to be repeated, the number of the last report |
//! | `report-N` | a report that no hub has acknowledged |
//!
//! All but the key are JSON behind a checksum. One that is damaged counts as absent, which is said: everything but the
//! key can be had again, and with another key the device is another device.

use crate::error::Error;
use core::fmt::Debug;
use ed25519_dalek::SigningKey;
use kedge_api::device::{Enrolled, Report};
use kedge_revision::{ObjectId, Timestamp, json};
use kedge_store::durable;
use kedge_sys::rustix::rand::{GetRandomFlags, getrandom};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of a checksum.
const SUM: usize = 8;
/// Largest file that is read.
const MOST: u64 = 96 * 1024;
/// Most reports that wait; the oldest that tell of progress alone go first.
pub const MOST_REPORTS: usize = 64;
/// Most failures that are remembered.
const MOST_FAILED: usize = 16;

/// A certificate, and when to renew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Certificate {
    /// DER in hexadecimal.
    pub certificate: String,
    /// When half of its time is over.
    pub renew_after: Timestamp,
}

/// What is not to be tried again: a revision with its parameters, until the hub raises `retry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Failed {
    /// The revision.
    pub revision: ObjectId,
    /// Counter of the parameters.
    pub parameters: u64,
    /// The hub's `retry` when it failed.
    pub retry: u32,
}

/// Small things that are written together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memory {
    /// It is later than that.
    #[serde(default)]
    pub time_floor: u64,
    /// The last failures.
    #[serde(default)]
    pub failed: Vec<Failed>,
    /// The last report's number.
    #[serde(default)]
    pub report: u64,
    /// The last action that was done.
    #[serde(default)]
    pub action: u64,
    /// The revision that this agent let PID 1 try, with the hub's `retry`: what became of it is to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trying: Option<Failed>,
    /// Restarts that hubs asked for since the device was last up for long.
    #[serde(default, skip_serializing_if = "is_none")]
    pub restarts: u32,
    /// Trials that hubs ordered, as far as they still count ([`crate::decide::count_trials`]).
    #[serde(default, skip_serializing_if = "is_none")]
    pub trials: u32,
    /// Since when the next of these is being forgotten, of the time that the agent runs, seconds.
    #[serde(default)]
    pub trials_since: u64,
    /// For how long it has run in all its lives, as far as that was kept, seconds.
    #[serde(default)]
    pub ran: u64,
}

/// See [`Memory::restarts`] and [`Memory::trials`].
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_none(count: &u32) -> bool {
    *count == 0
}

impl Memory {
    /// Whether this is not to be tried.
    #[must_use]
    pub fn has_failed(&self, revision: ObjectId, parameters: u64, retry: u32) -> bool {
        self.failed.iter().any(|failed| {
            failed.revision == revision && failed.parameters == parameters && failed.retry >= retry
        })
    }

    /// Numbers of actions and retries are a hub's own, and another one begins with its own. What failed has failed all the
    /// same, until that one says so.
    pub fn move_in(&mut self) {
        self.action = 0;
        for failed in &mut self.failed {
            failed.retry = 0;
        }
    }

    /// Remembers a failure.
    pub fn fail(&mut self, failed: Failed) {
        self.forget(failed);
        if self.failed.len() >= MOST_FAILED {
            self.failed.remove(0);
        }
        self.failed.push(failed);
    }

    /// Forgets that this failed, as when it has been committed since: it may be gone back to.
    pub fn forget(&mut self, tried: Failed) {
        self.failed.retain(|failed| {
            failed.revision != tried.revision || failed.parameters != tried.parameters
        });
    }
}

/// The directory.
#[derive(Debug)]
pub struct Kept {
    directory: PathBuf,
}

impl Kept {
    /// In this directory, which is there.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// The device's key, made at its first start. One that is damaged is never replaced: the device would be another.
    ///
    /// # Errors
    /// [`Error::Kept`], [`Error::Store`].
    pub fn key(&self) -> Result<SigningKey, Error> {
        let path = self.directory.join("key");
        match read(&path)? {
            Some(bytes) => {
                let seed = unsummed(&bytes).and_then(|seed| <[u8; 32]>::try_from(seed).ok());
                seed.map(|seed| SigningKey::from_bytes(&seed))
                    .ok_or_else(|| Error::Kept {
                        doing: "use the damaged",
                        path,
                        source: io::ErrorKind::InvalidData.into(),
                    })
            }
            None => {
                let seed = random()?;
                durable::write(&path, &summed(&seed)).map_err(Error::Store)?;
                Ok(SigningKey::from_bytes(&seed))
            }
        }
    }

    /// A file's value; `damaged` is called where it is there and cannot be used.
    ///
    /// # Errors
    /// [`Error::Kept`] if it cannot be read.
    pub fn get<T: DeserializeOwned>(
        &self,
        name: &str,
        damaged: &mut dyn FnMut(&str),
    ) -> Result<Option<T>, Error> {
        let bytes = match read(&self.directory.join(name)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(Error::Kept { source, .. }) if is_lost(&source) => {
                damaged(name);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let value = unsummed(&bytes).and_then(|json| json::read(json).ok());
        if value.is_none() {
            damaged(name);
        }
        Ok(value)
    }

    /// Writes a file's value.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn put<T: Serialize + Debug>(&self, name: &str, value: &T) -> Result<(), Error> {
        // Plain data in memory.
        let json = kedge_revision::json::bytes(value);
        durable::write(&self.directory.join(name), &summed(&json)).map_err(Error::Store)
    }

    /// Forgets a file.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn forget(&self, name: &str) -> Result<(), Error> {
        durable::remove(&self.directory.join(name)).map_err(Error::Store)
    }

    /// Numbers of the reports that wait, the oldest first.
    ///
    /// # Errors
    /// [`Error::Kept`].
    pub fn reports(&self) -> Result<Vec<u64>, Error> {
        let listed = std::fs::read_dir(&self.directory);
        let entries = listed.map_err(|source| Error::Kept {
            doing: "list",
            path: self.directory.clone(),
            source,
        })?;
        let mut numbers: Vec<u64> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                name.strip_prefix("report-")?.parse().ok()
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Keeps a report until it is acknowledged. Where too many wait, the oldest that tells of no failure goes.
    ///
    /// # Errors
    /// [`Error::Kept`], [`Error::Store`].
    pub fn keep_report(&self, report: &Report) -> Result<(), Error> {
        let waiting = self.reports()?;
        if waiting.len() >= MOST_REPORTS {
            let ignore = &mut |_: &str| {};
            let tells = |number: &u64| {
                let kept: Result<Option<Report>, Error> = self.get(&report_name(*number), ignore);
                kept.is_ok_and(|kept| kept.is_some_and(|kept| kept.console.is_some()))
            };
            let mut tells = tells;
            let needless = waiting.iter().find(|number| !tells(number));
            if let Some(number) = needless.or(waiting.first()) {
                self.forget(&report_name(*number))?;
            }
        }
        self.put(&report_name(report.seq), report)
    }

    /// The certificate of an answer to an enrolment.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn keep_certificate(&self, enrolled: &Enrolled) -> Result<Option<Certificate>, Error> {
        match enrolled {
            Enrolled::Accepted {
                certificate,
                renew_after,
            } => {
                let kept = Certificate {
                    certificate: certificate.clone(),
                    renew_after: *renew_after,
                };
                self.put("certificate", &kept)?;
                Ok(Some(kept))
            }
            Enrolled::Waiting { .. } => Ok(None),
        }
    }
}

/// The file of a report.
#[must_use]
pub fn report_name(number: u64) -> String {
    format!("report-{number}")
}

/// Bytes that nobody can guess.
///
/// # Errors
/// [`Error::Kept`]: there is no system without them.
pub fn random() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(32) => Ok(bytes),
        Ok(_) | Err(_) => Err(Error::Kept {
            doing: "draw random numbers from",
            path: "getrandom".into(),
            source: io::ErrorKind::Other.into(),
        }),
    }
}

fn sum(bytes: &[u8]) -> [u8; SUM] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let mut sum = [0; SUM];
    sum.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    sum
}

fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut all = sum(bytes).to_vec();
    all.extend_from_slice(bytes);
    all
}

fn unsummed(bytes: &[u8]) -> Option<&[u8]> {
    let (first, rest) = bytes.split_first_chunk::<SUM>()?;
    (*first == sum(rest)).then_some(rest)
}

/// Whether what was kept is gone: a block that cannot be read, a file system that is damaged there (`EFSCORRUPTED`, `EFSBADCRC`).
fn is_lost(error: &io::Error) -> bool {
    use kedge_sys::Errno;
    Errno::from_io_error(error)
        .is_some_and(|errno| [Errno::IO, Errno::UCLEAN, Errno::BADMSG].contains(&errno))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::Kept {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path());
        let key = kept.key().unwrap();
        assert_eq!(kept.key().unwrap().to_bytes(), key.to_bytes());
        let path = folder.path().join("key");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        durable::write(&path, &bytes).unwrap();
        kept.key().unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn what_is_damaged_or_torn_counts_as_absent_and_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path());
        let memory = Memory {
            time_floor: 7,
            ..Memory::default()
        };
        kept.put("memory", &memory).unwrap();
        let path = folder.path().join("memory");
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            durable::write(&path, &whole[..length]).unwrap();
            let mut said = 0;
            let read: Option<Memory> = kept.get("memory", &mut |_| said += 1).unwrap();
            assert_eq!((read, said), (None, 1), "cut at {length}");
        }
        durable::write(&path, &whole).unwrap();
        let read: Option<Memory> = kept.get("memory", &mut |_| {}).unwrap();
        assert_eq!(read, Some(memory));
    }

    #[test]
    fn a_block_that_cannot_be_read_is_damage_and_a_passing_trouble_is_none() {
        use kedge_sys::Errno;
        for errno in [Errno::IO, Errno::UCLEAN, Errno::BADMSG] {
            assert!(is_lost(&errno.into()), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NOMEM, Errno::ACCESS] {
            assert!(!is_lost(&errno.into()), "{errno}");
        }
    }

    #[test]
    fn another_hub_begins_with_its_own_numbers_and_what_failed_has_failed() {
        let mut memory = Memory {
            action: 9,
            ..Memory::default()
        };
        let revision = ObjectId::from_digest([1; 32]);
        memory.fail(Failed {
            revision,
            parameters: 1,
            retry: 5,
        });
        memory.move_in();
        assert_eq!(memory.action, 0);
        assert!(memory.has_failed(revision, 1, 0) && !memory.has_failed(revision, 1, 1));
    }

    #[test]
    fn a_failure_is_remembered_until_retry_is_raised() {
        let mut memory = Memory::default();
        let id = |n| ObjectId::from_digest([n; 32]);
        for number in 0..20 {
            memory.fail(Failed {
                revision: id(number),
                parameters: 1,
                retry: 0,
            });
        }
        assert_eq!(memory.failed.len(), MOST_FAILED);
        assert!(memory.has_failed(id(19), 1, 0));
        assert!(!memory.has_failed(id(19), 2, 0) && !memory.has_failed(id(0), 1, 0));
        assert!(!memory.has_failed(id(19), 1, 1));
        memory.fail(Failed {
            revision: id(19),
            parameters: 1,
            retry: 1,
        });
        assert!(memory.has_failed(id(19), 1, 1) && memory.failed.len() == MOST_FAILED);
        // What was committed since is no failure, with these values.
        let tried = |number, parameters| Failed {
            revision: id(number),
            parameters,
            retry: 0,
        };
        memory.forget(tried(19, 2));
        memory.forget(tried(3, 1));
        assert!(memory.has_failed(id(19), 1, 1));
        memory.forget(tried(19, 1));
        assert!(!memory.has_failed(id(19), 1, 0) && memory.has_failed(id(18), 1, 0));
    }
}
