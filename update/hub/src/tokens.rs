//! Operators' tokens and devices' join tokens: `id.secret`, both hexadecimal.
//!
//! An operator's token is kept as argon2id. A request must not cost that much: the first good use of a token in the life
//! of the hub's process is hashed so, and from then on its secret is known by its SHA-256, which is compared in constant
//! time. A wrong secret for a known token so costs no more than a right one. A join token's secret is random and used a few
//! times; it is kept as SHA-256.

use crate::clock;
use crate::error::{Error, Refusal};
use crate::random;
use crate::rows::{signed, unsigned};
use crate::writer::Step;
use argon2::{Algorithm, Argon2, Params, Version};
use kedge_api::operator::{JoinToken, NewJoinToken, NewToken, Token};
use kedge_revision::{Name, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use subtle::ConstantTimeEq;

/// Memory of a hash, KiB; passes over it. OWASP's smallest recommendation: the secret is 256 random bits anyway.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Bytes of a salt and of a hash.
const SALT: usize = 16;
const HASH: usize = 32;

fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Whether two digests are the same, in a time that does not depend on them.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// `salt.hash` of argon2id, hexadecimal.
fn hash(secret: &str, salt: &[u8; SALT]) -> Result<String, Error> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(HASH)).map_err(Error::Hash)?;
    let mut output = [0; HASH];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(secret.as_bytes(), salt, &mut output)
        .map_err(Error::Hash)?;
    let hex = kedge_revision::id::hex;
    Ok(format!("{}.{}", hex(salt), hex(&output)))
}

fn is_hash_of(kept: &str, secret: &str) -> Result<bool, Error> {
    let salt = kept.split_once('.').map(|(salt, _)| salt);
    let Some(salt) = salt.and_then(unhex) else {
        return Ok(false);
    };
    Ok(same(kept.as_bytes(), hash(secret, &salt)?.as_bytes()))
}

fn unhex(text: &str) -> Option<[u8; SALT]> {
    let mut bytes = [0; SALT];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// A token that was just made, and how it is kept.
pub(crate) struct Made {
    pub(crate) id: String,
    /// The whole token, for its owner's eyes.
    pub(crate) token: String,
    kept: String,
}

/// A new operator's token. Takes some 20 ms of a processor.
pub(crate) fn make() -> Result<Made, Error> {
    let id = random::digits::<8>()?;
    let secret = random::digits::<32>()?;
    let kept = hash(&secret, &random::bytes::<SALT>()?)?;
    let token = format!("{id}.{secret}");
    Ok(Made { id, token, kept })
}

/// Keeps a token.
pub(crate) fn insert(database: &Connection, made: &Made, new: &NewToken) -> Result<Token, Error> {
    let now = clock::unix();
    let until = new.lasts_s.map(|lasts| now + u64::from(lasts));
    database.execute(
        "INSERT INTO tokens (id, name, secret, made, until) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![made.id, new.name, made.kept, signed(now), until.map(signed)],
    )?;
    Ok(Token {
        id: made.id.clone(),
        name: new.name.clone(),
        token: Some(made.token.clone()),
        until: until.map(Timestamp::from_unix),
    })
}

/// All tokens, without their secrets.
pub(crate) fn list(database: &Connection) -> Result<Vec<Token>, Error> {
    let mut statement = database.prepare("SELECT id, name, until FROM tokens ORDER BY made, id")?;
    let rows = statement.query_map([], |row| {
        let until: Option<i64> = row.get(2)?;
        Ok(Token {
            id: row.get(0)?,
            name: row.get(1)?,
            token: None,
            until: until.map(|until| Timestamp::from_unix(unsigned(until))),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Ends a token; tells whose it was, if there was one.
pub(crate) fn end(database: &Connection, id: &str) -> Result<Option<String>, Error> {
    let ended = database.query_row(
        "DELETE FROM tokens WHERE id = ?1 RETURNING name",
        [id],
        |row| row.get(0),
    );
    Ok(ended.optional()?)
}

/// Whether a token is still there: it may have been ended by another program, on the hub's machine.
pub(crate) fn is_there(database: &Connection, id: &str) -> Result<bool, Error> {
    let mut statement = database.prepare_cached("SELECT 1 FROM tokens WHERE id = ?1")?;
    Ok(statement.exists([id])?)
}

/// Who an operator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operator {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// A token as it is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    name: String,
    secret: String,
    until: Option<u64>,
}

/// A token by its name at the hub.
pub(crate) fn find(database: &Connection, id: &str) -> Result<Option<Kept>, Error> {
    let mut statement =
        database.prepare_cached("SELECT name, secret, until FROM tokens WHERE id = ?1")?;
    let found = statement.query_row([id], |row| {
        let until: Option<i64> = row.get(2)?;
        Ok(Kept {
            name: row.get(0)?,
            secret: row.get(1)?,
            until: until.map(unsigned),
        })
    });
    Ok(found.optional()?)
}

/// A token that ends makes none that outlasts it: whoever has stolen it would have it for good.
pub(crate) fn ends_in_time(
    database: &Connection,
    maker: &Operator,
    new: &NewToken,
) -> Result<(), Refusal> {
    let Some(until) = find(database, &maker.id)?.and_then(|kept| kept.until) else {
        return Ok(());
    };
    let lasts = new.lasts_s.map(|lasts| clock::unix() + u64::from(lasts));
    if lasts.is_some_and(|end| end <= until) {
        return Ok(());
    }
    Err(Refusal::forbidden(
        "outlasts-its-maker",
        format!(
            "your own token ends at {}: one that you make ends before it",
            Timestamp::from_unix(until)
        ),
    ))
}

/// A token that was used since the start.
#[derive(Debug, Clone)]
struct Used {
    secret: [u8; 32],
    name: String,
    until: Option<u64>,
}

/// What a look at a token in memory tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Good(Operator),
    Bad,
    /// It was not used yet: the database knows.
    Unknown,
}

/// Tokens that were used since the start.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    used: Mutex<HashMap<String, Used>>,
    /// One hash at a time: they cost memory and time, and anybody may ask for one.
    pub(crate) hashing: tokio::sync::Mutex<()>,
}

impl Tokens {
    fn used(&self) -> std::sync::MutexGuard<'_, HashMap<String, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a token by what is in memory.
    pub(crate) fn look(&self, id: &str, secret: &str, now: u64) -> Look {
        let used = self.used();
        let Some(known) = used.get(id) else {
            return Look::Unknown;
        };
        let good =
            same(&known.secret, &sha256(secret)) && known.until.is_none_or(|until| now < until);
        if good {
            Look::Good(Operator {
                id: id.to_owned(),
                name: known.name.clone(),
            })
        } else {
            Look::Bad
        }
    }

    /// Judges a token by how it is kept. Takes some 20 ms of a processor.
    pub(crate) fn judge(
        &self,
        id: &str,
        secret: &str,
        kept: Kept,
        now: u64,
    ) -> Result<Option<Operator>, Error> {
        if !is_hash_of(&kept.secret, secret)? {
            return Ok(None);
        }
        let used = Used {
            secret: sha256(secret),
            name: kept.name,
            until: kept.until,
        };
        self.used().insert(id.to_owned(), used);
        Ok(match self.look(id, secret, now) {
            Look::Good(operator) => Some(operator),
            Look::Bad | Look::Unknown => None,
        })
    }

    /// A token that was deleted is no longer known.
    pub(crate) fn forget(&self, id: &str) {
        self.used().remove(id);
    }
}

/// A new join token.
pub(crate) fn new_join(step: &Step<'_>, new: &NewJoinToken) -> Result<JoinToken, Refusal> {
    let id = random::digits::<8>()?;
    let secret = random::digits::<16>()?;
    let until = clock::unix() + u64::from(new.lasts_s);
    step.database.execute(
        "INSERT INTO join_tokens (id, secret, product, uses, until, tags) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            id,
            sha256(&secret),
            new.product.as_ref().map(Name::as_str),
            new.uses,
            signed(until),
            serde_json::to_string(&new.tags)?
        ],
    )?;
    Ok(JoinToken {
        token: Some(format!("{id}.{secret}")),
        id,
        left: new.uses,
        until: Timestamp::from_unix(until),
        product: new.product.clone(),
    })
}

/// All join tokens, without their secrets.
pub(crate) fn list_joins(database: &Connection) -> Result<Vec<JoinToken>, Error> {
    let mut statement =
        database.prepare("SELECT id, uses, until, product FROM join_tokens ORDER BY until, id")?;
    let rows = statement.query_map([], |row| {
        let product: Option<String> = row.get(3)?;
        Ok(JoinToken {
            id: row.get(0)?,
            token: None,
            left: row.get(1)?,
            until: Timestamp::from_unix(unsigned(row.get(2)?)),
            product: product.and_then(|name| name.parse().ok()),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Uses a join token once, and tells the tags that come with it.
pub(crate) fn spend(
    step: &Step<'_>,
    token: &str,
    product: &Name,
) -> Result<BTreeMap<String, String>, Refusal> {
    let unknown = || {
        Refusal::forbidden(
            "token-unknown",
            "the hub does not know this join token; ask for a new one",
        )
    };
    let (id, secret) = token.split_once('.').ok_or_else(unknown)?;
    let found = step
        .database
        .prepare_cached("SELECT secret, product, uses, until, tags FROM join_tokens WHERE id = ?1")?
        .query_row([id], |row| {
            let product: Option<String> = row.get(1)?;
            let (kept, until): ([u8; 32], i64) = (row.get(0)?, row.get(3)?);
            let (uses, tags): (u32, String) = (row.get(2)?, row.get(4)?);
            Ok((kept, product, uses, unsigned(until), tags))
        })
        .optional()?;
    let Some((kept, only, uses, until, tags)) = found else {
        return Err(unknown());
    };
    if !same(&kept, &sha256(secret)) {
        return Err(unknown());
    }
    if clock::unix() >= until {
        return Err(Refusal::forbidden(
            "token-expired",
            "the join token's time is over; make a new one",
        ));
    }
    if only.is_some_and(|only| only != product.as_str()) {
        return Err(Refusal::forbidden(
            "token-of-another-product",
            format!("the join token is not for product {product}"),
        ));
    }
    if uses == 0 {
        return Err(Refusal::forbidden(
            "token-spent",
            "the join token was used as often as it may be; make a new one",
        ));
    }
    step.database
        .prepare_cached("UPDATE join_tokens SET uses = uses - 1 WHERE id = ?1")?
        .execute([id])?;
    Ok(serde_json::from_str(&tags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_hashed_once_and_known_from_then_on() {
        let made = make().unwrap();
        let (id, secret) = made.token.split_once('.').unwrap();
        let kept = |until| Kept {
            name: "first".to_owned(),
            secret: made.kept.clone(),
            until,
        };
        let tokens = Tokens::default();
        assert_eq!(tokens.look(id, secret, 0), Look::Unknown);
        assert_eq!(tokens.judge(id, "wrong", kept(None), 0).unwrap(), None);
        assert_eq!(tokens.look(id, secret, 0), Look::Unknown);
        assert!(
            tokens
                .judge(id, secret, kept(Some(10)), 9)
                .unwrap()
                .is_some()
        );
        assert!(matches!(tokens.look(id, secret, 9), Look::Good(_)));
        assert_eq!(tokens.look(id, secret, 10), Look::Bad);
        assert_eq!(tokens.look(id, "wrong", 9), Look::Bad);
        tokens.forget(id);
        assert_eq!(tokens.look(id, secret, 9), Look::Unknown);
    }
}
