//! A TOML file with its text at hand, so that whatever is wrong with it is shown where it stands.
//!
//! Two kinds of mistake end in the same picture: what the TOML or its types refuse (the parser gives the place), and
//! what the checks of `kedge-revision` refuse (they name a path of keys, which is looked up in the document).

mod words;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Largest project file: a person's file is a few kilobytes.
const CAP: usize = 1024 * 1024;

/// A project file as text.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    text: String,
}

/// What is wrong in a project file, with the place and, where there is one, the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub path: PathBuf,
    /// Line and column, both counted from 1; `None` if it concerns the file as a whole.
    pub place: Option<(usize, usize)>,
    /// The line's text and the number of characters to underline.
    excerpt: Option<(String, usize)>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let (Some((line, column)), Some((text, width))) = (self.place, &self.excerpt) {
            let margin = line.to_string().len();
            let lead: String = text
                .chars()
                .take(column.saturating_sub(1))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(
                f,
                "\n{:margin$} |\n{line} | {text}\n{:margin$} | {lead}{}",
                "",
                "",
                "^".repeat((*width).max(1))
            )?;
        }
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Mistake {}

impl Source {
    /// Reads a project file.
    ///
    /// # Errors
    /// It cannot be read, is not UTF-8, or is larger than a megabyte.
    pub fn read(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let mut text = Vec::new();
        // One byte more, so that it is known without its whole length in memory.
        let most = u64::try_from(CAP).unwrap_or(u64::MAX).saturating_add(1);
        let file = File::open(path).with_context(cannot)?;
        file.take(most)
            .read_to_end(&mut text)
            .with_context(cannot)?;
        ensure!(
            text.len() <= CAP,
            "{} is larger than a project file may be, {CAP} bytes",
            path.display()
        );
        let text = String::from_utf8(text);
        let text = text.with_context(|| format!("{} is not UTF-8", path.display()))?;
        Ok(Self::new(path, text))
    }

    /// A text that stands, or will stand, in `path`.
    #[must_use]
    pub fn new(path: &Path, text: String) -> Self {
        Self {
            path: path.to_owned(),
            text,
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Parses the text into a type that refuses unknown fields.
    ///
    /// # Errors
    /// [`Mistake`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Box<Mistake>> {
        toml::from_str(&self.text).map_err(|error| {
            let said = error.message().trim();
            let help = suggestion(said);
            Box::new(self.at(error.span(), words::plain(said), help))
        })
    }

    /// A mistake at the value that `keys` lead to; as many of them are followed as exist.
    #[must_use]
    pub fn mistake(
        &self,
        keys: &[&str],
        message: impl Into<String>,
        help: Option<String>,
    ) -> Mistake {
        let span = DeTable::parse(&self.text)
            .ok()
            .and_then(|table| find(table.get_ref(), keys));
        self.at(span, message.into(), help)
    }

    /// A mistake at the value that a path of the signed form leads to, as in `health.check.http.port`, which is called as a person
    /// spells it in this file. Names with dots in them are found as they stand.
    #[must_use]
    pub fn mistake_at(&self, path: &str, message: &str) -> Mistake {
        let keys = {
            let parsed = DeTable::parse(&self.text).ok();
            words::keys(path, parsed.as_ref().map(|table| table.get_ref()))
        };
        let found: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.mistake(
            &found,
            format!("`{}` {message}", words::spelled(&keys)),
            None,
        )
    }

    /// The text with the values of some top-level keys replaced; a key that is not there is added at the top.
    ///
    /// # Errors
    /// [`Mistake`] if the text is no TOML.
    pub fn with_values(&self, values: &[(&str, String)]) -> Result<String, Box<Mistake>> {
        let mut text = self.text.clone();
        for (key, value) in values {
            let span = {
                let table = DeTable::parse(&text).map_err(|error| {
                    Box::new(self.at(error.span(), error.message().to_owned(), None))
                })?;
                table
                    .get_ref()
                    .iter()
                    .find(|(name, _)| name.get_ref() == *key)
                    .map(|(_, value)| value.span())
            };
            match span {
                Some(span) => text.replace_range(span, value),
                None => text.insert_str(0, &format!("{key} = {value}\n")),
            }
        }
        Ok(text)
    }

    /// The text with one value replaced, which may lie in tables; where its own table begins, if it is not there, and at the end
    /// with its table, if that is not there either.
    ///
    /// # Errors
    /// [`Mistake`] if the text is no TOML, or has the table in a form that takes no more keys.
    pub fn with_value(&self, keys: &[&str], value: &str) -> Result<String, Box<Mistake>> {
        let mistake = |span, message: String| Box::new(self.at(span, message, None));
        let parsed = DeTable::parse(&self.text)
            .map_err(|error| mistake(error.span(), error.message().to_owned()))?;
        let mut text = self.text.clone();
        if let Some(span) = exactly(parsed.get_ref(), keys) {
            text.replace_range(span, value);
            return Ok(text);
        }
        let (last, tables) = keys.split_last().unwrap_or((&"", &[]));
        let mut lines = self.text.split_inclusive('\n');
        let mut before = 0_usize;
        let header = lines.find(|line| {
            let is_it = is_header(line, tables);
            before = before.saturating_add(if is_it { 0 } else { line.len() });
            is_it
        });
        let line = format!("{last} = {value}\n");
        if tables.is_empty() {
            text.insert_str(0, &line);
        } else if let Some(header) = header {
            let end = before.saturating_add(header.len());
            let first = if header.ends_with('\n') { "" } else { "\n" };
            text.insert_str(end, &format!("{first}{line}"));
        } else {
            let first = if text.ends_with('\n') { "\n" } else { "\n\n" };
            text.push_str(&format!("{first}[{}]\n{line}", tables.join(".")));
        }
        let is_there =
            DeTable::parse(&text).is_ok_and(|parsed| exactly(parsed.get_ref(), keys).is_some());
        if is_there {
            return Ok(text);
        }
        let place = find(parsed.get_ref(), keys);
        let message = format!(
            "there is no place for `{}` that could be found: write it yourself, as {last} = {value}",
            keys.join(".")
        );
        Err(mistake(place, message))
    }

    fn at(&self, span: Option<Range<usize>>, message: String, help: Option<String>) -> Mistake {
        let place = span.as_ref().map(|span| position(&self.text, span.start));
        let excerpt = span.zip(place).map(|(span, (line, column))| {
            let text = self
                .text
                .lines()
                .nth(line.saturating_sub(1))
                .unwrap_or_default()
                .to_owned();
            let marked = self.text.get(span).unwrap_or_default();
            let rest = text
                .chars()
                .count()
                .saturating_sub(column.saturating_sub(1));
            let width = marked
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .count()
                .min(rest);
            (text, width)
        });
        Mistake {
            path: self.path.clone(),
            place,
            excerpt,
            message,
            help,
        }
    }
}

/// Line and column of a byte offset, counted from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count().saturating_add(1);
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        .saturating_add(1);
    (line, column)
}

/// The place of the deepest key that exists on the way of `keys`.
fn find(table: &DeTable<'_>, keys: &[&str]) -> Option<Range<usize>> {
    let (first, rest) = keys.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == *first)?;
    let whole = match value.get_ref() {
        DeValue::Table(_) => key.span(),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => value.span(),
    };
    Some(find_in(value.get_ref(), rest).unwrap_or(whole))
}

/// As [`find`], in a value; the key of an array is a number.
fn find_in(value: &DeValue<'_>, keys: &[&str]) -> Option<Range<usize>> {
    match value {
        DeValue::Table(inner) => find(inner, keys),
        DeValue::Array(list) => {
            let (index, rest) = keys.split_first()?;
            let one = list.get(index.parse::<usize>().ok()?)?;
            Some(find_in(one.get_ref(), rest).unwrap_or_else(|| one.span()))
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => None,
    }
}

/// Whether a line begins the table of these keys, whatever stands behind it.
fn is_header(line: &str, tables: &[&str]) -> bool {
    let within = line.trim_start().strip_prefix('[');
    let within = within.and_then(|rest| rest.split_once(']'));
    within.is_some_and(|(within, _)| within.split('.').map(str::trim).eq(tables.iter().copied()))
}

/// The place of the value of exactly these keys.
fn exactly(table: &DeTable<'_>, keys: &[&str]) -> Option<Range<usize>> {
    let (first, rest) = keys.split_first()?;
    let (_, value) = table.iter().find(|(key, _)| key.get_ref() == *first)?;
    if rest.is_empty() {
        return Some(value.span());
    }
    if let DeValue::Table(inner) = value.get_ref() {
        exactly(inner, rest)
    } else {
        None
    }
}

/// "did you mean", from the list of expected words that serde puts into its message.
fn suggestion(message: &str) -> Option<String> {
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown").then(|| words.next())??;
    let expected: Vec<&str> = words.collect();
    nearest(unknown, expected.iter().copied()).map(|word| format!("did you mean `{word}`?"))
}

/// The candidate that differs in the fewest letters, if they are few for its length.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (best, distance) = candidates
        .into_iter()
        .map(|candidate| (candidate, distance(word, candidate)))
        .min_by_key(|(_, d)| *d)?;
    (distance <= word.chars().count().div_ceil(3)).then_some(best)
}

/// Levenshtein distance; `_` and `-` and both cases count as one letter.
fn distance(a: &str, b: &str) -> usize {
    let letters =
        |text: &str| -> Vec<char> { text.to_lowercase().replace('_', "-").chars().collect() };
    let (a, b) = (letters(a), letters(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut next = vec![i.saturating_add(1)];
        for (to, (diagonal, above)) in b.iter().zip(row.iter().zip(row.iter().skip(1))) {
            let left = next.last().copied().unwrap_or_default();
            let change = diagonal.saturating_add(usize::from(from != to));
            next.push(
                change
                    .min(above.saturating_add(1))
                    .min(left.saturating_add(1)),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    #[allow(dead_code, reason = "only its parsing is looked at")]
    struct Test {
        capabilities: Vec<String>,
        group: Option<String>,
    }

    fn source(text: &str) -> Source {
        Source::new(Path::new("web.toml"), text.to_owned())
    }

    #[test]
    fn an_unknown_key_is_shown_with_the_right_one() {
        let mistake = source("group = \"app\"\ncapabilites = []\n")
            .parse::<Test>()
            .unwrap_err();
        assert_eq!(mistake.place, Some((2, 1)));
        assert_eq!(
            mistake.help.as_deref(),
            Some("did you mean `capabilities`?")
        );
        let text = mistake.to_string();
        assert!(text.starts_with("web.toml:2:1: unknown field"), "{text}");
        assert!(
            text.contains("2 | capabilites = []\n  | ^^^^^^^^^^^\n"),
            "{text}"
        );
    }

    #[test]
    fn a_syntax_error_has_its_line() {
        let mistake = source("group = \"app\"\n\ncapabilities = [\n")
            .parse::<Test>()
            .unwrap_err();
        assert!(
            mistake.place.is_some_and(|(line, _)| line >= 3),
            "{mistake}"
        );
    }

    #[test]
    fn a_checked_value_is_found_by_its_keys() {
        let text = "[volumes.data]\npath = \"data\"\nsize = \"1MiB\"\n";
        let mistake =
            source(text).mistake(&["volumes", "data", "path"], "is no absolute path", None);
        assert_eq!(mistake.place, Some((2, 8)));
        let absent = source(text).mistake(&["volumes", "data", "owner"], "is missing", None);
        assert_eq!(absent.place, Some((1, 10)));
        assert_eq!(
            source(text).mistake(&["process"], "is missing", None).place,
            None
        );
    }

    #[test]
    fn values_are_replaced_where_they_stand() {
        let text = "# kept\ngroup = \"app\" # too\ncapabilities = [\n \"a\",\n]\n";
        let new = source(text)
            .with_values(&[("capabilities", "[]".into()), ("image", "\"x\"".into())])
            .unwrap();
        assert_eq!(
            new,
            "image = \"x\"\n# kept\ngroup = \"app\" # too\ncapabilities = []\n"
        );
    }

    #[test]
    fn a_value_in_a_table_is_replaced_or_added() {
        let with = |text: &str| source(text).with_value(&["net", "hubs"], "[1]");
        assert_eq!(
            with("a = 1\n[net]\nhubs = [\n] # none\n").unwrap(),
            "a = 1\n[net]\nhubs = [1] # none\n"
        );
        assert_eq!(with("net.hubs = []\n").unwrap(), "net.hubs = [1]\n");
        assert_eq!(
            with("[net] \nb = 2\n[net.c]\n").unwrap(),
            "[net] \nhubs = [1]\nb = 2\n[net.c]\n"
        );
        assert_eq!(
            with("[ net ] # ours").unwrap(),
            "[ net ] # ours\nhubs = [1]\n"
        );
        assert_eq!(
            with("[net.c]\nd = 1").unwrap(),
            "[net.c]\nd = 1\n\n[net]\nhubs = [1]\n"
        );
        assert_eq!(with("a = 1\n").unwrap(), "a = 1\n\n[net]\nhubs = [1]\n");
        for text in ["net = 3\n", "net.b = 3\n", "net = {}\n"] {
            let error = with(text).unwrap_err().to_string();
            assert!(error.contains("`net.hubs`"), "{error}");
            assert!(error.contains("hubs = [1]"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kedge.toml");
        let file = File::create(&path).unwrap();
        // Sparse: it takes nothing, and would take all memory to read.
        file.set_len(1 << 40).unwrap();
        let error = Source::read(&path).unwrap_err().to_string();
        assert!(error.contains("larger"), "{error}");
    }

    #[test]
    fn one_of_a_list_is_found_by_its_number() {
        let text = "[[devices]]\nvendor = \"a\"\n[[devices]]\nvendor = \"b\"\n";
        let mistake = source(text).mistake_at("devices[1].vendor", "is wrong");
        assert_eq!(mistake.place, Some((4, 10)), "{mistake}");
    }

    #[test]
    fn far_words_are_not_suggested() {
        assert_eq!(nearest("memory", ["cpu", "pids"]), None);
        assert_eq!(
            nearest("stop_signal", ["stop-signal", "stop-grace"]),
            Some("stop-signal")
        );
    }
}
