//! What is wrong with a board file, and where.

use core::fmt;

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
        let end = source.span().map_or(0, |span| span.start);
        let line = text
            .get(..end)
            .unwrap_or_default()
            .matches('\n')
            .count()
            .saturating_add(1);
        Self::Syntax {
            file: file.to_owned(),
            line,
            problem: source.message().trim().to_owned(),
        }
    }

    /// Finds the line of a key that the parser has already accepted: in its table, `key =` begins a line.
    pub(super) fn value(file: &str, text: &str, key: &'static str, problem: &str) -> Self {
        let (table, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut here = "";
        let mut line = 1;
        for (number, content) in text.lines().enumerate() {
            let content = content.trim();
            if let Some(name) = content
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                // A table of several has two brackets.
                here = name.trim_matches(['[', ']', ' ']);
            }
            let found = content
                .split_once('=')
                .is_some_and(|(name, _)| name.trim() == last);
            if here == table && found {
                line = number.saturating_add(1);
                // A later line that begins alike belongs to a text of several lines.
                break;
            }
        }
        Self::Value {
            file: file.to_owned(),
            line,
            key,
            problem: problem.to_owned(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, known } => write!(
                f,
                "there is no board {name}; there are: {}",
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
