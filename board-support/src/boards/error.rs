//! What is wrong with a board file, and where.

use super::check::Problem;
use core::fmt;
use toml::de::DeTable;

/// Why a board is not usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No board of that name ships.
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A file that no person wrote.
    TooLarge {
        /// The file.
        file: String,
        /// Its size, bytes.
        size: usize,
    },
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    Syntax {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What the parser says; names the key.
        problem: String,
    },
    /// A value that cannot work.
    Value {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key with its table.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    pub(super) fn syntax(file: &str, text: &str, source: &toml::de::Error) -> Self {
        Self::Syntax {
            file: file.to_owned(),
            line: line(text, source.span().map_or(0, |span| span.start)),
            problem: source.message().trim().to_owned(),
        }
    }

    pub(super) fn value(file: &str, text: &str, problem: Problem) -> Self {
        Self::Value {
            file: file.to_owned(),
            line: line(text, place(text, &problem).unwrap_or(0)),
            key: problem.key,
            problem: problem.what.into_owned(),
        }
    }
}

/// The line, from 1, that this byte is in.
fn line(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    before.matches('\n').count().saturating_add(1)
}

/// The byte at which a key begins, in a text that was parsed before; that of its table where the key is not there.
fn place(text: &str, problem: &Problem) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut at = None;
    for part in problem.key.split('.') {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else {
            break;
        };
        at = Some(name.span().start);
        let value = value.get_ref();
        let one = value
            .as_array()
            .and_then(|several| several.get(problem.nth));
        let inner = one.map_or(value, |one| one.get_ref()).as_table();
        let Some(inner) = inner else { break };
        at = one.map(|one| one.span().start).or(at);
        table = inner;
    }
    at
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, known } => write!(
                f,
                "there is no board {name}; there are: {}\nhelp: boards are compiled into kedge: after adding board-support/boards/{name}.toml, build kedge again",
                known.join(", ")
            ),
            Self::TooLarge { file, size } => write!(
                f,
                "{file} has {size} bytes, over the limit of {} for a board",
                super::CAP
            ),
            Self::Syntax {
                file,
                line,
                problem,
            } => write!(f, "{file}:{line}: {problem}"),
            Self::Value {
                file,
                line,
                key,
                problem,
            } => write!(f, "{file}:{line}: {key} {problem}"),
        }
    }
}

impl std::error::Error for Error {}
