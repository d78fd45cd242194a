//! `${NAME:-default}` in values, as the compose specification has it.

use anyhow::{Result, bail};
use std::collections::{BTreeMap, BTreeSet};

/// Deepest nesting of defaults within defaults.
const DEPTH: usize = 8;

/// Values of variables, and which of those asked for had none.
#[derive(Debug, Default)]
pub struct Variables {
    /// Values by name.
    pub values: BTreeMap<String, String>,
    /// Asked for without a default, and not there: an empty text stands in their place.
    pub missing: BTreeSet<String>,
}

impl Variables {
    /// A text with its variables filled in.
    ///
    /// # Errors
    /// A `$` begins nothing that is known, or a variable is required.
    pub fn fill(&mut self, text: &str) -> Result<String> {
        self.expand(text, 0)
    }

    fn expand(&mut self, text: &str, depth: usize) -> Result<String> {
        if depth > DEPTH {
            bail!("defaults stand in defaults more than {DEPTH} times");
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(inner) = after.strip_prefix('{') {
                let Some(end) = closing(inner) else {
                    bail!("`${{` has no end in {text:?}");
                };
                let (inside, behind) = inner.split_at(end);
                out.push_str(&self.braces(inside, depth)?);
                rest = behind.strip_prefix('}').unwrap_or(behind);
            } else {
                let end = name_end(after);
                let (name, behind) = after.split_at(end);
                if name.is_empty() {
                    bail!("`$` begins no variable in {text:?}; write `$$` for a dollar sign");
                }
                out.push_str(&self.value(name));
                rest = behind;
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&mut self, name: &str) -> String {
        if let Some(value) = self.values.get(name) {
            return value.clone();
        }
        self.missing.insert(name.to_owned());
        String::new()
    }

    fn braces(&mut self, inside: &str, depth: usize) -> Result<String> {
        let (name, rest) = inside.split_at(name_end(inside));
        if name.is_empty() {
            bail!("`${{{inside}}}` names no variable");
        }
        let (colon, rest) = match rest.strip_prefix(':') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let known = self.values.get(name).cloned();
        // With a colon an empty value counts as none.
        let known = known.filter(|value| !(colon && value.is_empty()));
        let mut letters = rest.chars();
        let (sign, word) = (letters.next(), letters.as_str());
        let next = depth.saturating_add(1);
        match (sign, known) {
            (None, known) if !colon => Ok(known.unwrap_or_else(|| self.value(name))),
            (Some('-' | '?'), Some(value)) => Ok(value),
            (Some('-'), None) => self.expand(word, next),
            (Some('?'), None) => bail!("the variable {name} is required: {word}"),
            (Some('+'), Some(_)) => self.expand(word, next),
            (Some('+'), None) => Ok(String::new()),
            _ => bail!("`${{{inside}}}` is no form of a variable that is known"),
        }
    }
}

/// Where the brace that was opened before ends.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    let mut last = '\0';
    for (place, letter) in text.char_indices() {
        match letter {
            '{' if last == '$' => open = open.saturating_add(1),
            '}' if open == 0 => return Some(place),
            '}' => open = open.saturating_sub(1),
            _ => {}
        }
        last = letter;
    }
    None
}

fn name_end(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_specification() {
        let mut variables = Variables::default();
        for (name, value) in [("A", "one"), ("E", "")] {
            variables.values.insert(name.to_owned(), value.to_owned());
        }
        for (text, filled) in [
            ("plain", "plain"),
            ("$A/${A}", "one/one"),
            ("$$A $${A}", "$A ${A}"),
            ("${E:-x}${E-x}${N:-x}${N-x}", "xxx"),
            ("${A:+y}${A+y}${E:+y}${E+y}${N+y}", "yyy"),
            ("${N:-${M:-deep}}", "deep"),
            ("${A:?no}${E?no}", "one"),
            ("a${N}b", "ab"),
        ] {
            assert_eq!(variables.fill(text).unwrap(), filled, "{text}");
        }
        assert_eq!(variables.missing, BTreeSet::from(["N".to_owned()]));
        for bad in [
            "${",
            "$ ",
            "${N:?give one}",
            "${E:?x}",
            "${}",
            "${A!x}",
            "$1",
            "${A:}",
        ] {
            assert!(variables.fill(bad).is_err(), "{bad}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(20), "}".repeat(20));
        assert!(variables.fill(&deep).is_err());
    }
}
