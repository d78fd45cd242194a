//! What the checked types and Rust's parsers say, in the words of the files that people write.

use toml::de::{DeTable, DeValue};

/// Fields that the signed form has in milliseconds or seconds; in a file the unit stands in the value.
const UNITS: [&str; 9] = [
    "window-s",
    "hub-wait-s",
    "delay-ms",
    "max-delay-ms",
    "reset-after-ms",
    "stop-grace-ms",
    "interval-ms",
    "timeout-ms",
    "start-period-ms",
];

/// The keys of a file that a path of the signed form means, as far as `table` has them with their dots, and from there as they
/// would be spelled.
pub(super) fn keys(path: &str, table: Option<&DeTable<'_>>) -> Vec<String> {
    // `[health]` names its check by its kind alone.
    let path = path
        .replacen("health.check.", "health.", 1)
        .replace('[', ".")
        .replace(']', "");
    let mut keys = Vec::new();
    let (mut rest, mut at) = (path.as_str(), table);
    while !rest.is_empty() {
        let after = |key: &str| -> Option<usize> {
            let behind = rest.strip_prefix(key)?;
            (behind.is_empty() || behind.starts_with('.')).then_some(key.len())
        };
        // The longest that stands there: `eth0.100` before `eth0`.
        let names = at.into_iter().flat_map(|table| table.iter());
        let longest = names
            .filter_map(|(key, value)| Some((after(key.get_ref().as_ref())?, value.get_ref())))
            .max_by_key(|(length, _)| *length);
        let first = rest.find('.').unwrap_or(rest.len());
        let (length, value) =
            longest.map_or((first, None), |(length, value)| (length, Some(value)));
        let (key, behind) = rest.split_at(length);
        rest = behind.trim_start_matches('.');
        let is_unit = value.is_none() && rest.is_empty() && UNITS.contains(&key);
        let unit = if is_unit {
            key.rsplit_once('-').map(|(name, _)| name)
        } else {
            None
        };
        keys.push(unit.unwrap_or(key).to_owned());
        at = match value {
            Some(DeValue::Table(inner)) => Some(inner),
            Some(_) | None => None,
        };
    }
    keys
}

/// Keys as TOML spells them.
pub(super) fn spelled(keys: &[String]) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let spell = |key: &String| match key.chars().all(bare) {
        true => key.clone(),
        false => format!("\"{key}\""),
    };
    keys.iter().map(spell).collect::<Vec<_>>().join(".")
}

/// What serde says of a value, without Rust's names of types.
pub(super) fn plain(said: &str) -> String {
    if said == "invalid type: unit variant, expected newtype variant" {
        return "this word has a value, as in { WORD = \"value\" }".to_owned();
    }
    let mut said = said.to_owned();
    for (rust, words) in [
        ("expected u8", "expected a number from 0 to 255"),
        ("expected u16", "expected a number from 0 to 65535"),
        ("expected u32", "expected a number from 0 to 4294967295"),
        ("expected u64", "expected a number from 0 on"),
        ("expected a sequence", "expected a list"),
        ("invalid type: sequence", "invalid type: a list"),
        ("expected a map", "expected a table"),
        ("invalid type: map", "invalid type: a table"),
        ("expected struct ", "expected a table for "),
    ] {
        if said.ends_with(rust) || !rust.starts_with("expected u") {
            said = said.replace(rust, words);
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_in_the_keys_of_the_file() {
        let text = "[limits.unified]\n\"cpuset.cpus\" = \"9\"\n[interfaces.\"eth0.100\"]\n[parameters.led-s]\n";
        let table = DeTable::parse(text).unwrap();
        for (path, spelling) in [
            (
                "limits.unified.cpuset.cpus",
                "limits.unified.\"cpuset.cpus\"",
            ),
            (
                "interfaces.eth0.100.addresses",
                "interfaces.\"eth0.100\".addresses",
            ),
            ("parameters.led-s.default", "parameters.led-s.default"),
            ("parameters.other-ms.default", "parameters.other-ms.default"),
            ("restart.max-delay-ms", "restart.max-delay"),
            ("commit.window-s", "commit.window"),
            ("health.check.http.port", "health.http.port"),
            ("health.timeout-ms", "health.timeout"),
            ("devices[0].vendor", "devices.0.vendor"),
        ] {
            let keys = keys(path, Some(table.get_ref()));
            assert_eq!(spelled(&keys), spelling);
        }
        assert_eq!(spelled(&keys("a.b-s", None)), "a.b-s");
    }

    #[test]
    fn types_are_no_words_for_people() {
        for (said, word) in [
            (
                "invalid value: integer `70000`, expected u16",
                "from 0 to 65535",
            ),
            ("invalid value: integer `300`, expected u8", "from 0 to 255"),
            (
                "invalid type: unit variant, expected newtype variant",
                "{ WORD",
            ),
            (
                "invalid type: map, expected a sequence",
                "a table, expected a list",
            ),
        ] {
            assert!(plain(said).contains(word), "{}", plain(said));
        }
        assert_eq!(plain("unknown field `a`"), "unknown field `a`");
    }
}
