//! What the verbs share that ask a hub.

use crate::files;
use crate::hub::{Client, Settings};
use crate::project::units::milliseconds;
use anyhow::{Context, Result};
use clap::Args;
use kedge_revision::Name;
use zeroize::Zeroizing;

/// Which hub.
#[derive(Debug, Args)]
pub(super) struct HubArgument {
    /// The hub, by its address, or its host if it is the only one there; the default one of `kedge login` if absent.
    #[arg(long, value_name = "HUB", global = true)]
    hub: Option<String>,
}

impl HubArgument {
    #[cfg(test)]
    pub(super) const fn none() -> Self {
        Self { hub: None }
    }

    /// The hub that is meant, ready to be asked.
    pub(super) fn client(&self) -> Result<Client> {
        Client::of(Settings::open()?.hub(self.hub.as_deref())?)
    }
}

/// Columns as wide as what is in them; the first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells = cells.map(|(cell, width)| format!("{cell:<width$}"));
        let line: Vec<String> = cells.collect();
        line.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Seconds as people say them when it matters little: `5 s`, `3 min`, `2 h`, `9 d`.
pub(super) fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Seconds of a span as people write it: `90s`, `30min` or `30m`, `1h`, `7d`.
pub(super) fn span(text: &str) -> Result<u32, String> {
    let ms = milliseconds(text)?;
    if !ms.is_multiple_of(1000) {
        return Err(format!("`{text}` is no number of whole seconds"));
    }
    u32::try_from(ms / 1000).map_err(|_| format!("`{text}` is longer than 49710 days"))
}

/// `name=value`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write NAME=VALUE".to_owned()),
    }
}

/// A value that is the text of a file, without the line break at its end.
pub(super) fn value_in(path: &str) -> Result<String> {
    let text = Zeroizing::new(files::read_text(path.as_ref())?);
    let value = text.strip_suffix('\n').unwrap_or(&text);
    Ok(value.strip_suffix('\r').unwrap_or(value).to_owned())
}

/// The name of a parameter.
pub(super) fn parameter(name: &str) -> Result<Name> {
    name.parse()
        .with_context(|| format!("`{name}` cannot be a parameter's name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows =
            [["NAME", "PHASE"], ["gateway-1", "idle"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "NAME       PHASE\ngateway-1  idle");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn spans_and_pairs_are_read() {
        assert_eq!(span("90s"), Ok(90));
        assert_eq!(span("1h"), Ok(3600));
        assert_eq!(span("7d"), Ok(604_800));
        // As in project files, and as devices and hubs have it.
        assert_eq!(span("30min"), span("30m"));
        assert_eq!(span("5000ms"), Ok(5));
        for bad in ["", "h", "1", "1w", "-1h", "99999999d", "1µ", "500ms"] {
            span(bad).unwrap_err();
        }
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        pair("=b").unwrap_err();
        assert_eq!(ago(59), "59 s");
        assert_eq!(ago(7200), "2 h");
    }
}
