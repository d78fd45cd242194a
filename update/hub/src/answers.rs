//! Answers to changing requests that carried an `Idempotency-Key`, so that a repeat changes nothing twice.
//!
//! In memory, bounded, for a day: an answer may hold a token, which is written down nowhere. After a restart of the hub a
//! repeat is a new request.

use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most answers that are kept.
const KEPT: usize = 1024;
/// Longest answer that is kept, bytes.
pub(crate) const LONGEST: usize = 64 * 1024;
/// For how long, seconds.
const LASTS: u64 = 86_400;

/// SHA-256 of who asks under which key, and of what is asked.
pub(crate) type Digest = [u8; 32];

/// What was answered.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) status: StatusCode,
    pub(crate) kind: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

#[derive(Debug)]
struct Entry {
    request: Digest,
    at: u64,
    /// None while the first request is being answered.
    given: Option<Given>,
}

/// What a key tells of a request.
#[derive(Debug)]
pub(crate) enum Told {
    /// It is the first one: its answer is to be given to [`Answers::keep`].
    New,
    /// It was answered.
    Again(Given),
    /// It is being answered right now.
    Running,
    /// The key was another request's.
    Reused,
    /// There is no room: too many are being answered.
    Full,
}

/// All answers.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    known: Mutex<HashMap<Digest, Entry>>,
}

impl Answers {
    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a key up, and takes it if it is new.
    pub(crate) fn begin(&self, key: Digest, request: Digest, now: u64) -> Told {
        let mut known = self.known();
        if let Some(entry) = known.get(&key)
            && now.saturating_sub(entry.at) < LASTS
        {
            return match &entry.given {
                _ if entry.request != request => Told::Reused,
                Some(given) => Told::Again(given.clone()),
                None => Told::Running,
            };
        }
        if known.len() >= KEPT {
            let answered = known.iter().filter(|(_, entry)| entry.given.is_some());
            let oldest = answered.min_by_key(|(_, entry)| entry.at);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                return Told::Full;
            };
            known.remove(&oldest);
        }
        let entry = Entry {
            request,
            at: now,
            given: None,
        };
        known.insert(key, entry);
        Told::New
    }

    /// Keeps the answer of a key that was taken; without one it is free again.
    pub(crate) fn keep(&self, key: Digest, given: Option<Given>) {
        let mut known = self.known();
        match given {
            Some(given) => {
                if let Some(entry) = known.get_mut(&key) {
                    entry.given = Some(given);
                }
            }
            None => {
                known.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Given {
        Given {
            status: StatusCode::CREATED,
            kind: None,
            body: Bytes::from_static(b"token"),
        }
    }

    #[test]
    fn a_key_is_one_requests_for_a_day() {
        let answers = Answers::default();
        assert!(matches!(answers.begin([1; 32], [2; 32], 0), Told::New));
        assert!(matches!(answers.begin([1; 32], [2; 32], 0), Told::Running));
        answers.keep([1; 32], Some(given()));
        assert!(
            matches!(answers.begin([1; 32], [2; 32], 9), Told::Again(given) if given.body == "token")
        );
        assert!(matches!(answers.begin([1; 32], [3; 32], 9), Told::Reused));
        assert!(matches!(answers.begin([1; 32], [3; 32], LASTS), Told::New));
        answers.keep([1; 32], None);
        assert!(matches!(answers.begin([1; 32], [2; 32], LASTS), Told::New));
    }

    #[test]
    fn the_oldest_answer_makes_room() {
        let answers = Answers::default();
        for number in 0..1100_u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            assert!(matches!(answers.begin(key, [0; 32], number), Told::New));
            answers.keep(key, Some(given()));
        }
        assert_eq!(answers.known().len(), KEPT);
    }
}
