//! Parameters as people write them: a table of names and values, in TOML or JSON, for one device.
//!
//! ```toml
//! site = "berlin"
//! mqtt-password = "…"
//! ```
//! Values are text, as every parameter is; numbers and truth values are taken as they are written. No value is ever
//! shown, whatever is wrong: it may be a secret.

use crate::files;
use anyhow::{Context, Result, bail};
use kedge_revision::Name;
use kedge_revision::parameters::Parameters;
use std::collections::BTreeMap;
use std::path::Path;

/// Reads a file of values, to be given under `counter`.
///
/// # Errors
/// It cannot be read, or is no table of names and values.
pub fn read(path: &Path, counter: u64) -> Result<Parameters> {
    let text = files::read_text(path)?;
    let values =
        values(&text).with_context(|| format!("{} holds no parameters", path.display()))?;
    Ok(Parameters::new(counter, values))
}

fn values(text: &str) -> Result<BTreeMap<Name, String>> {
    let pairs = if text.trim_start().starts_with('{') {
        json(text)?
    } else {
        toml(text)?
    };
    pairs
        .into_iter()
        .map(|(name, value)| {
            let parsed = name.parse();
            let parsed =
                parsed.with_context(|| format!("`{name}` cannot be a parameter's name"))?;
            let value = value.with_context(|| {
                format!("the value of `{name}` is no text\nhelp: write {name} = \"value\"")
            })?;
            Ok((parsed, value))
        })
        .collect()
}

/// Names and values as text; a value that has no one spelling is `None`.
type Pairs = Vec<(String, Option<String>)>;

fn toml(text: &str) -> Result<Pairs> {
    let table: toml::Table = match toml::from_str(text) {
        Ok(table) => table,
        // The parser's own words would show the line, and with it the value.
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.unwrap_or_default().matches('\n').count();
            bail!("line {} is no TOML", line.saturating_add(1));
        }
    };
    let pairs = table.into_iter().map(|(name, value)| {
        let value = match value {
            toml::Value::String(text) => Some(text),
            toml::Value::Integer(number) => Some(number.to_string()),
            toml::Value::Boolean(truth) => Some(truth.to_string()),
            toml::Value::Float(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_)
            | toml::Value::Table(_) => None,
        };
        (name, value)
    });
    Ok(pairs.collect())
}

fn json(text: &str) -> Result<Pairs> {
    use serde_json::Value;
    let table: serde_json::Map<String, Value> = match serde_json::from_str(text) {
        Ok(table) => table,
        Err(error) => bail!("line {} is no JSON", error.line()),
    };
    let pairs = table.into_iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => Some(text),
            Value::Number(number) if number.is_i64() => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        };
        (name, value)
    });
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<(String, String)>> {
        let values = values(text)?;
        Ok(values
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect())
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let expected = [("port", "8080"), ("site", "berlin"), ("tls", "true")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let toml = "# for hall 3\nsite = \"berlin\"\nport = 8080\ntls = true\n";
        assert_eq!(of(toml).unwrap(), expected);
        let json = r#" {"tls": true, "site": "berlin", "port": 8080}"#;
        assert_eq!(of(json).unwrap(), expected);
        assert_eq!(of("").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_is_shown() {
        for (bad, wanted) in [
            ("a = \"x\"\npassword = \"hunter2\n", "line 2"),
            ("password = \"hunter2\"\npassword = \"hunter2\"", "line 2"),
            ("{\"password\": \"hunter2\"", "line 1"),
            ("password = [\"hunter2\"]", "`password`"),
            ("[table]\npassword = \"hunter2\"", "`table`"),
            ("Pass = \"hunter2\"", "`Pass`"),
            ("{\"password\": 0.5}", "`password`"),
            ("{\"password\": null}", "`password`"),
        ] {
            let error = of(bad).unwrap_err();
            let text = format!("{error:#} {error:?}");
            assert!(text.contains(wanted), "{bad}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
