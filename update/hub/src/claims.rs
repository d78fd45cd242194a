//! Devices that wait to be claimed: in memory, bounded, and forgotten when they stop asking.
//!
//! A code is three words of a list of some 370: about 25 bits. It is no secret worth more than a glance at the device, but
//! guessing one must be hopeless: operators alone may try, and at most [`WAITING`] codes are good at a time.

use crate::error::Error;
use crate::limits::network;
use crate::random;
use kedge_api::operator::Waiting;
use kedge_revision::enrolment::Enrolment;
use kedge_revision::fresh::Nonce;
use kedge_revision::{KeyId, Name, PublicKey, Timestamp};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One a line.
const WORDS: &str = include_str!("claims/words.txt");
/// Most devices that may wait.
pub(crate) const WAITING: usize = 1000;
/// How often a waiting device asks, seconds.
pub(crate) const ASK_AGAIN_S: u32 = 10;
/// One that has not asked for so long is forgotten, seconds.
const FORGOTTEN: u64 = 600;

/// A device that waits.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) key: PublicKey,
    pub(crate) product: Name,
    pub(crate) board: Name,
    /// Of its last request.
    pub(crate) nonce: Nonce,
    code: String,
    /// Where it asks from.
    from: IpAddr,
    since: u64,
    asked: u64,
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    waiting: Mutex<BTreeMap<KeyId, Candidate>>,
}

impl Claims {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<KeyId, Candidate>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The code of a device that asks; the same one for as long as it goes on asking. None if too many wait, or too many
    /// from where it asks: one site has half of what is free, so that no stranger keeps all others waiting.
    pub(crate) fn wait(
        &self,
        request: &Enrolment,
        from: IpAddr,
        now: u64,
    ) -> Result<Option<String>, Error> {
        let from = network(from);
        let mut waiting = self.waiting();
        waiting.retain(|_, candidate| now.saturating_sub(candidate.asked) < FORGOTTEN);
        let id = request.key.id();
        if let Some(candidate) = waiting.get_mut(&id) {
            candidate.asked = now;
            candidate.product = request.product.clone();
            candidate.board = request.board.clone();
            candidate.nonce = request.nonce;
            return Ok(Some(candidate.code.clone()));
        }
        let neighbours = waiting.values().filter(|other| other.from == from).count();
        if neighbours >= WAITING.saturating_sub(waiting.len()) / 2 {
            return Ok(None);
        }
        let code = loop {
            let code = three_words()?;
            if waiting.values().all(|candidate| candidate.code != code) {
                break code;
            }
        };
        let candidate = Candidate {
            key: request.key,
            product: request.product.clone(),
            board: request.board.clone(),
            nonce: request.nonce,
            code: code.clone(),
            from,
            since: now,
            asked: now,
        };
        waiting.insert(id, candidate);
        Ok(Some(code))
    }

    /// The device that shows a code.
    pub(crate) fn find(&self, code: &str, now: u64) -> Option<Candidate> {
        let code = spelled(code);
        let waiting = self.waiting();
        waiting
            .values()
            .find(|candidate| {
                candidate.code == code && now.saturating_sub(candidate.asked) < FORGOTTEN
            })
            .cloned()
    }

    /// It waits no more.
    pub(crate) fn remove(&self, id: KeyId) {
        self.waiting().remove(&id);
    }

    pub(crate) fn list(&self, now: u64) -> Vec<Waiting> {
        let waiting = self.waiting();
        waiting
            .iter()
            .filter(|(_, candidate)| now.saturating_sub(candidate.asked) < FORGOTTEN)
            .map(|(id, candidate)| Waiting {
                id: *id,
                product: candidate.product.clone(),
                board: candidate.board.clone(),
                since: Timestamp::from_unix(candidate.since),
            })
            .collect()
    }
}

/// As people type it: any case, any separators.
pub(crate) fn spelled(code: &str) -> String {
    let words: Vec<String> = code
        .split(|letter: char| !letter.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

fn three_words() -> Result<String, Error> {
    let words: Vec<&str> = WORDS.lines().collect();
    let mut code = Vec::with_capacity(3);
    for _ in 0..3 {
        // 64 bits over 370 words: no word is likelier by more than 2⁻⁵⁵.
        let random = u64::from_le_bytes(random::bytes()?);
        let count = u64::try_from(words.len()).unwrap_or(1).max(1);
        let at = usize::try_from(random % count).unwrap_or(0);
        code.push(words.get(at).copied().unwrap_or_default());
    }
    Ok(code.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn request(number: u32) -> Enrolment {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        let names = ("gateway".parse().unwrap(), "board".parse().unwrap());
        let nonce = Nonce::from_bytes([0; 32]);
        Enrolment::new(PublicKey::from_bytes(key), names, 1, nonce, None)
    }

    #[test]
    fn words_are_short_distinct_and_sorted() {
        let words: Vec<&str> = WORDS.lines().collect();
        assert!(words.len() >= 360 && words.is_sorted_by(|a, b| a < b));
        let good = |word: &&str| {
            (3..=8).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase())
        };
        assert!(words.iter().all(good));
    }

    #[test]
    fn a_code_stays_while_its_device_asks_and_is_typed_in_any_way() {
        let claims = Claims::default();
        let code = claims.wait(&request(1), SITE, 0).unwrap().unwrap();
        assert_eq!(
            claims.wait(&request(1), SITE, 500).unwrap(),
            Some(code.clone())
        );
        let typed = format!("  {} ", code.to_uppercase().replace('-', "  "));
        assert_eq!(claims.find(&typed, 1000).unwrap().key, request(1).key);
        assert!(claims.find(&code, 1100).is_none());
        assert!(claims.list(1100).is_empty());
        assert!(claims.find("", 1000).is_none());
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let claims = Claims::default();
        let wait = |number: u32, site: u8, now| {
            let from = IpAddr::from([192, 0, 2, site]);
            claims.wait(&request(number), from, now).unwrap()
        };
        let (mut number, mut sites) = (0, Vec::new());
        for site in 0..3 {
            let first = number;
            while wait(number, site, 0).is_some() {
                number += 1;
            }
            sites.push(number - first);
        }
        // Half of what is free, each: the third still has its share of what the first two left.
        assert_eq!(sites, [333, 222, 148]);
        assert!(claims.list(0).len() < WAITING);
        assert!(wait(7, 0, 599).is_some());
        assert!(wait(number, 0, 600).is_some());
        assert_eq!(claims.list(600).len(), 2);
    }
}
