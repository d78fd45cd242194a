//! Kernel configuration fragments: what is wanted, and whether it was granted.
//!
//! Kconfig drops a symbol whose dependency is missing without a word. So a fragment is not a suggestion here:
//! every line of it must stand in the resolved configuration, and [`Fragment::unmet`] names those that do not.
//!
//! Grammar: empty lines and `#` comments; `CONFIG_NAME=value`, where `value` is `y`, `n`, a number or a quoted
//! string (`m` is refused: our kernels have no modules). `# CONFIG_NAME is not set` is the same as `=n`.

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fmt;

/// Wanted symbols with their values; `n` stands for "not set".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    symbols: BTreeMap<String, String>,
}

/// A wanted line that the resolved configuration does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    symbol: String,
    wanted: String,
    found: Option<String>,
}

impl fmt::Display for Unmet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.found.as_deref().unwrap_or("not set");
        let wanted = if self.wanted == "n" {
            "not set"
        } else {
            &self.wanted
        };
        write!(out, "{}: wanted {wanted}, got {found}", self.symbol)
    }
}

impl Fragment {
    /// Reads a fragment; `name` is for messages.
    ///
    /// # Errors
    /// A line is none of the grammar's, with its number.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut symbols = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            match symbol(line) {
                Line::Nothing => {}
                Line::Symbol(_, "m") => {
                    bail!("{name}:{number}: modules are not built: say y or n: {line}")
                }
                Line::Symbol(symbol, value) => {
                    if symbols
                        .insert(symbol.to_owned(), value.to_owned())
                        .is_some()
                    {
                        bail!("{name}:{number}: {symbol} stands here twice");
                    }
                }
                Line::Wrong => bail!("{name}:{number}: expected CONFIG_NAME=value, found: {line}"),
            }
        }
        Ok(Self { symbols })
    }

    /// This fragment with another one over it: where both name a symbol, `over` wins.
    #[must_use]
    pub fn with(mut self, over: Self) -> Self {
        self.symbols.extend(over.symbols);
        self
    }

    /// The fragment as Kconfig reads it, sorted, without comments: also what a kernel's cache key is made from,
    /// so that an edited comment builds nothing.
    #[must_use]
    pub fn text(&self) -> String {
        let line = |(symbol, value): (&String, &String)| match value.as_str() {
            "n" => format!("# {symbol} is not set\n"),
            value => format!("{symbol}={value}\n"),
        };
        self.symbols.iter().map(line).collect()
    }

    /// What is wanted here and not granted in a resolved configuration (the text of a `.config`).
    #[must_use]
    pub fn unmet(&self, resolved: &str) -> Vec<Unmet> {
        let mut granted = BTreeMap::new();
        for line in resolved.lines() {
            if let Line::Symbol(symbol, value) = symbol(line) {
                granted.insert(symbol, value);
            }
        }
        let differs = |(symbol, wanted): (&String, &String)| {
            let found = granted
                .get(symbol.as_str())
                .copied()
                .filter(|value| *value != "n");
            let met = if wanted == "n" {
                found.is_none()
            } else {
                found == Some(wanted.as_str())
            };
            let found = found.map(str::to_owned);
            (!met).then(|| Unmet {
                symbol: symbol.clone(),
                wanted: wanted.clone(),
                found,
            })
        };
        self.symbols.iter().filter_map(differs).collect()
    }
}

enum Line<'a> {
    Nothing,
    Symbol(&'a str, &'a str),
    Wrong,
}

fn symbol(line: &str) -> Line<'_> {
    let line = line.trim();
    if let Some(rest) = line.strip_prefix('#') {
        let unset = rest
            .trim()
            .strip_suffix(" is not set")
            .filter(|name| is_name(name));
        return unset.map_or(Line::Nothing, |name| Line::Symbol(name, "n"));
    }
    match line.split_once('=') {
        Some((name, value)) if is_name(name) && !value.is_empty() => Line::Symbol(name, value),
        None if line.is_empty() => Line::Nothing,
        Some(_) | None => Line::Wrong,
    }
}

fn is_name(name: &str) -> bool {
    let inner = name.strip_prefix("CONFIG_").unwrap_or_default();
    !inner.is_empty()
        && inner
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmet(wanted: &str, resolved: &str) -> Vec<String> {
        Fragment::parse("f", wanted)
            .unwrap()
            .unmet(resolved)
            .iter()
            .map(Unmet::to_string)
            .collect()
    }

    #[test]
    fn a_dropped_symbol_is_named() {
        assert_eq!(
            unmet("CONFIG_A=y\nCONFIG_B=y", "CONFIG_A=y\n"),
            ["CONFIG_B: wanted y, got not set"]
        );
        assert_eq!(
            unmet("CONFIG_A=y", "CONFIG_A=m\n"),
            ["CONFIG_A: wanted y, got m"]
        );
        assert_eq!(
            unmet("CONFIG_T=60", "CONFIG_T=0\n"),
            ["CONFIG_T: wanted 60, got 0"]
        );
    }

    #[test]
    fn no_means_not_set() {
        assert!(unmet("CONFIG_A=n\nCONFIG_B=n", "# CONFIG_A is not set\n").is_empty());
        assert_eq!(
            unmet("# CONFIG_A is not set", "CONFIG_A=y"),
            ["CONFIG_A: wanted not set, got y"]
        );
    }

    #[test]
    fn a_symbol_is_not_met_by_one_that_begins_alike() {
        assert_eq!(unmet("CONFIG_A=y", "CONFIG_AB=y\n").len(), 1);
    }

    #[test]
    fn the_architecture_overrides_what_is_common() {
        let common = Fragment::parse("common", "CONFIG_SMP=y\nCONFIG_NET=y\n").unwrap();
        let merged = common.with(Fragment::parse("mips", "CONFIG_SMP=n\n").unwrap());
        assert_eq!(merged.text(), "CONFIG_NET=y\n# CONFIG_SMP is not set\n");
    }

    #[test]
    fn comments_do_not_change_the_text() {
        let bare = Fragment::parse("f", "CONFIG_A=y\n").unwrap();
        assert_eq!(
            Fragment::parse("f", "# why\n\nCONFIG_A=y\n")
                .unwrap()
                .text(),
            bare.text()
        );
    }

    #[test]
    fn a_wrong_line_has_its_number() {
        let fault = |text: &str| Fragment::parse("f.config", text).unwrap_err().to_string();
        assert!(
            fault("CONFIG_A=y\nCONFIG_B\n").starts_with("f.config:2: expected"),
            "{}",
            fault("CONFIG_A=y\nCONFIG_B\n")
        );
        assert!(fault("CONFIG_A=m\n").contains("modules are not built"));
        assert!(fault("CONFIG_A=y\nCONFIG_A=n\n").contains("twice"));
        assert!(fault("A=y\n").contains("expected"));
    }
}
