//! Which devices: the language that lists, assignments and people share. Pure.
//!
//! ```text
//! query = all-of { "or" all-of }
//! all-of = one { "and" one }
//! one   = "not" one | "(" query ")" | "all" | "online" | "revoked" | term
//! term  = key ("=" | "!=") value | "seen" ("<" | ">") span
//! key   = "id" | "name" | "product" | "board" | "phase" | "revision" | "assigned" | "version" | "tag:" word
//! span  = number ("s" | "m" | "h" | "d")
//! ```
//! `tag:site=berlin and revision!=0f3a… and seen<5m`. A value is a word, or stands in double quotes. `revision` is what a
//! device says that it runs, `assigned` what it should run; both, and `id`, are 64 hexadecimal digits or at least the
//! first eight. `seen<5m` was heard of within five minutes; `tag:site!=berlin` holds for a device without that tag, too.

mod lexer;

use crate::fleet::Row;
use kedge_api::device::Phase;
use lexer::{Lexer, Token};
use std::fmt;

/// Longest query, bytes.
pub(crate) const LONGEST: usize = 2048;
/// Most parentheses and `not` in one another: bounds the stack.
const DEEPEST: u32 = 32;
/// Fewest digits that name a device or a revision.
const DIGITS: usize = 8;

/// A query that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Query {
    All,
    Online,
    Revoked,
    Is(Key, String),
    /// Heard of within so many seconds.
    SeenWithin(u64),
    Not(Box<Query>),
    And(Vec<Query>),
    Or(Vec<Query>),
}

/// What a term looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Id,
    Name,
    Product,
    Board,
    Phase,
    Revision,
    Assigned,
    Version,
    Tag(String),
}

/// Why a query was not understood, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misread {
    /// Bytes from its beginning.
    pub(crate) at: usize,
    pub(crate) why: &'static str,
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the query is not understood at character {}: {}",
            self.at, self.why
        )
    }
}

/// A device at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) row: &'a Row,
    pub(crate) online: bool,
    /// Seconds since it was heard of; none: never.
    pub(crate) seen_s: Option<u64>,
}

impl Query {
    /// Reads a query.
    pub(crate) fn parse(text: &str) -> Result<Self, Misread> {
        if text.len() > LONGEST {
            return Err(Misread {
                at: LONGEST,
                why: "it is longer than 2048 bytes",
            });
        }
        let mut parser = Parser {
            lexer: Lexer::new(text),
            depth: 0,
        };
        let query = parser.any_of()?;
        match parser.lexer.next()? {
            (_, Token::End) => Ok(query),
            (at, _) => Err(Misread {
                at,
                why: "`and`, `or` or the end should stand here",
            }),
        }
    }

    /// Whether a device is meant.
    pub(crate) fn holds(&self, subject: Subject<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Online => subject.online,
            Self::Revoked => subject.row.revoked,
            Self::Is(key, value) => key.is(subject.row, value),
            Self::SeenWithin(seconds) => subject.seen_s.is_some_and(|seen| seen < *seconds),
            Self::Not(query) => !query.holds(subject),
            Self::And(all) => all.iter().all(|query| query.holds(subject)),
            Self::Or(any) => any.iter().any(|query| query.holds(subject)),
        }
    }
}

impl Key {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "id" => Self::Id,
            "name" => Self::Name,
            "product" => Self::Product,
            "board" => Self::Board,
            "phase" => Self::Phase,
            "revision" => Self::Revision,
            "assigned" => Self::Assigned,
            "version" => Self::Version,
            _ => Self::Tag(
                word.strip_prefix("tag:")
                    .filter(|tag| !tag.is_empty())?
                    .to_owned(),
            ),
        })
    }

    /// The value as it is compared; none if it can be nothing of this key.
    fn value(&self, text: String) -> Option<String> {
        let digits = || {
            let digits = text.strip_prefix("v1:").unwrap_or(&text);
            let good = (DIGITS..=64).contains(&digits.len())
                && digits
                    .bytes()
                    .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            good.then(|| digits.to_owned())
        };
        match self {
            Self::Id | Self::Revision | Self::Assigned => digits(),
            Self::Name
            | Self::Product
            | Self::Board
            | Self::Phase
            | Self::Version
            | Self::Tag(_) => Some(text),
        }
    }

    fn is(&self, row: &Row, value: &str) -> bool {
        let running = || {
            row.report
                .as_ref()
                .and_then(|report| report.running.as_ref())
        };
        match self {
            Self::Id => row.id.to_string().starts_with(value),
            Self::Name => row.name() == value,
            Self::Product => row.product.as_str() == value,
            Self::Board => row.board.as_str() == value,
            Self::Phase => row
                .report
                .as_ref()
                .is_some_and(|report| phase(&report.phase) == value),
            Self::Revision => {
                running().is_some_and(|target| target.revision.hex().starts_with(value))
            }
            Self::Assigned => row
                .wanted
                .as_ref()
                .is_some_and(|wanted| wanted.revision.hex().starts_with(value)),
            Self::Version => running().is_some_and(|target| target.version == value),
            Self::Tag(tag) => row.tags.get(tag).is_some_and(|found| found == value),
        }
    }
}

/// A phase's word, as the API writes it.
pub(crate) const fn phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Checking => "checking",
        Phase::Refused { .. } => "refused",
        Phase::Downloading { .. } => "downloading",
        Phase::Staged => "staged",
        Phase::Waiting { .. } => "waiting",
        Phase::Trying => "trying",
        Phase::Judging => "judging",
        Phase::Committed => "committed",
        Phase::RolledBack { .. } => "rolled-back",
        Phase::Repair { .. } => "repair",
        Phase::Unknown => "unknown",
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    depth: u32,
}

impl Parser<'_> {
    fn any_of(&mut self) -> Result<Query, Misread> {
        self.chain("or", Self::all_of, Query::Or)
    }

    fn all_of(&mut self) -> Result<Query, Misread> {
        self.chain("and", Self::one, Query::And)
    }

    /// One or more, with a word between them.
    fn chain(
        &mut self,
        word: &str,
        next: fn(&mut Self) -> Result<Query, Misread>,
        all: fn(Vec<Query>) -> Query,
    ) -> Result<Query, Misread> {
        let first = next(self)?;
        let mut rest = Vec::new();
        while self.lexer.take_word(word)? {
            rest.push(next(self)?);
        }
        if rest.is_empty() {
            return Ok(first);
        }
        rest.insert(0, first);
        Ok(all(rest))
    }

    fn deeper(
        &mut self,
        at: usize,
        inner: fn(&mut Self) -> Result<Query, Misread>,
    ) -> Result<Query, Misread> {
        if self.depth >= DEEPEST {
            return Err(Misread {
                at,
                why: "more than 32 parentheses stand in one another",
            });
        }
        self.depth += 1;
        let query = inner(self)?;
        self.depth -= 1;
        Ok(query)
    }

    fn one(&mut self) -> Result<Query, Misread> {
        let (at, token) = self.lexer.next()?;
        match token {
            Token::Open => {
                let query = self.deeper(at, Self::any_of)?;
                match self.lexer.next()? {
                    (_, Token::Close) => Ok(query),
                    (at, _) => Err(Misread {
                        at,
                        why: "a closing parenthesis should stand here",
                    }),
                }
            }
            Token::Word(word) => match word.as_str() {
                "not" => Ok(Query::Not(Box::new(self.deeper(at, Self::one)?))),
                "all" => Ok(Query::All),
                "online" => Ok(Query::Online),
                "revoked" => Ok(Query::Revoked),
                "seen" => self.seen(),
                _ => self.term(at, &word),
            },
            Token::Quoted(_)
            | Token::Close
            | Token::Equal
            | Token::NotEqual
            | Token::Less
            | Token::More
            | Token::End => Err(Misread {
                at,
                why: "a term such as product=gateway, all or online should stand here",
            }),
        }
    }

    fn term(&mut self, at: usize, word: &str) -> Result<Query, Misread> {
        let key = Key::of(word).ok_or(Misread {
            at,
            why: "the keys are id, name, product, board, phase, revision, assigned, version, seen and tag:NAME",
        })?;
        let (at, operator) = self.lexer.next()?;
        if !matches!(operator, Token::Equal | Token::NotEqual) {
            return Err(Misread {
                at,
                why: "= or != should stand here",
            });
        }
        let (at, value) = self.lexer.value()?;
        let value = key.value(value).ok_or(Misread {
            at,
            why: "an id is 64 hexadecimal digits, or the first eight and more",
        })?;
        let term = Query::Is(key, value);
        Ok(if operator == Token::NotEqual {
            Query::Not(Box::new(term))
        } else {
            term
        })
    }

    fn seen(&mut self) -> Result<Query, Misread> {
        let (at, operator) = self.lexer.next()?;
        let (value_at, value) = self.lexer.value()?;
        let within = Query::SeenWithin(span(&value).ok_or(Misread {
            at: value_at,
            why: "a span is a number with s, m, h or d, as 5m",
        })?);
        if operator == Token::Less {
            return Ok(within);
        }
        if operator == Token::More {
            return Ok(Query::Not(Box::new(within)));
        }
        Err(Misread {
            at,
            why: "< or > should stand here",
        })
    }
}

/// Seconds of `5m`.
fn span(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests;
