//! What differs between two revisions, in words: what it may do more than before, and what an update carries.
//!
//! The documents are compared as JSON, field by field, so that nothing that is signed can differ unsaid, whatever fields
//! there will be. On top of that stands a list of what gives a container, or somebody, more than it had ([`widening`]).
//! Defaults are absent in documents: a field that appears differs from its default.
//! What a device does about it is not guessed: [`kedge_revision::change`] is what PID 1 asks, too ([`costs`]).

mod widening;

use anyhow::{Context, Result};
use kedge_revision::change::{Change, Exchange, Running, change};
use kedge_revision::{Content, Envelope, Name, ObjectId};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use widening::widening;

/// Longest value that is shown, characters.
const SHOWN: usize = 120;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// Where, as in `containers.web.capabilities`.
    pub path: String,
    /// What is given that was not: to a container, a hub, or whoever can reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub widened: Option<String>,
    /// What it was; absent: not there, or the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

/// What an update from the old revision to the new one must bring to a device that runs the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Travel {
    /// Objects that the old one has not.
    pub objects: usize,
    /// Their bytes, before compression.
    pub bytes: u64,
    /// All objects of the new one.
    pub of_objects: usize,
    /// All its bytes.
    pub of_bytes: u64,
}

/// What going from the old revision to the new one costs on a device that runs the old one with the declared defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Costs {
    /// The device's own word for it: `nothing`, `restart`, `reboot`, or `slot`.
    pub cost: &'static str,
    /// Why it takes a reboot, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Boots that the trial may take without a verdict, where it takes boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries: Option<u8>,
    /// Containers that go on as they are.
    pub kept: Vec<Name>,
    /// Containers that are started again, since they differ.
    pub restarted: Vec<Name>,
    /// Containers that are started for the first time.
    pub started: Vec<Name>,
    /// Containers that are stopped and do not come back.
    pub stopped: Vec<Name>,
}

impl Costs {
    fn new(change: Change, tries: u8) -> Self {
        let mut costs = Self {
            cost: change.word(),
            why: None,
            tries: None,
            kept: Vec::new(),
            restarted: Vec::new(),
            started: Vec::new(),
            stopped: Vec::new(),
        };
        match change {
            Change::Nothing => {}
            Change::Slot => costs.tries = Some(tries),
            Change::Reboot(why) => {
                costs.why = Some(why.to_string());
                costs.tries = Some(tries);
            }
            Change::Restart(exchange) => costs.exchange(exchange),
        }
        costs
    }

    fn exchange(&mut self, exchange: Exchange) {
        let Exchange {
            kept,
            stopped,
            started,
        } = exchange;
        self.kept = kept;
        for name in &started {
            let again = stopped.contains(name);
            let list = if again {
                &mut self.restarted
            } else {
                &mut self.started
            };
            list.push(name.clone());
        }
        let gone = stopped.into_iter().filter(|name| !started.contains(name));
        self.stopped = gone.collect();
    }

    /// In one line.
    #[must_use]
    pub fn words(&self) -> String {
        let tries = self.tries.unwrap_or_default();
        let attempts = format!(
            "at most {tries} {}",
            if tries == 1 { "try" } else { "tries" }
        );
        match (self.cost, &self.why) {
            ("slot", _) => format!(
                "the other slot is written and booted ({attempts}): what the loader starts differs"
            ),
            (_, Some(why)) => format!("a reboot ({attempts}): {why}"),
            _ => self.containers(),
        }
    }

    fn containers(&self) -> String {
        let mut parts = Vec::new();
        for (names, one, many) in [
            (&self.restarted, "restarts", "restart"),
            (&self.started, "is started", "are started"),
            (&self.stopped, "is stopped for good", "are stopped for good"),
        ] {
            let list: Vec<&str> = names.iter().map(Name::as_str).collect();
            match list.len() {
                0 => {}
                1 => parts.push(format!("{} {one}", list.join(", "))),
                _ => parts.push(format!("{} {many}", list.join(", "))),
            }
        }
        if parts.is_empty() {
            return "nothing restarts".to_owned();
        }
        if !self.kept.is_empty() {
            let kept: Vec<&str> = self.kept.iter().map(Name::as_str).collect();
            let word = if kept.len() == 1 { "goes" } else { "go" };
            parts.push(format!("{} {word} on", kept.join(", ")));
        }
        parts.join("; ")
    }
}

/// What an update costs, by the code that decides it on the device. Values that a device was given are not known here, so
/// that it is asked for one with the declared defaults.
///
/// # Errors
/// The content of one of them is nothing that this version knows.
pub fn costs(old: (ObjectId, &Envelope), new: (ObjectId, &Envelope)) -> Result<Costs> {
    let tries = new.1.tries;
    // As on the device: kernel and init of the new one may know content that we do not.
    if old.1.boot != new.1.boot {
        return Ok(Costs::new(Change::Slot, tries));
    }
    let content = |envelope: &Envelope, which| {
        envelope
            .content()
            .with_context(|| format!("the content of the {which} revision is not understood"))
    };
    let (before, after) = (content(old.1, "old")?, content(new.1, "new")?);
    let (old_values, new_values) = (defaults(&before), defaults(&after));
    let found = change(
        &Running {
            revision: old.0,
            boot: &old.1.boot,
            content: &before,
            parameters: &old_values,
        },
        &Running {
            revision: new.0,
            boot: &new.1.boot,
            content: &after,
            parameters: &new_values,
        },
    );
    Ok(Costs::new(found, tries))
}

fn defaults(content: &Content) -> BTreeMap<Name, String> {
    let declared = content.parameters.iter();
    declared
        .filter_map(|(name, parameter)| Some((name.clone(), parameter.default.clone()?)))
        .collect()
}

/// All that differs between the documents of two revisions, the widened first.
///
/// # Errors
/// They are no JSON.
pub fn differences(old: &Envelope, new: &Envelope) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    compare("", Some(&view(old)?), Some(&view(new)?), &mut found);
    // Stable: otherwise in the order of the paths.
    found.sort_by_key(|difference| difference.widened.is_none());
    Ok(found)
}

/// What counts of a revision: its content and what boots; not when it was made, nor what it is called.
fn view(envelope: &Envelope) -> Result<Value> {
    let document = serde_json::to_value(envelope).context("a revision is no JSON")?;
    let mut view = serde_json::Map::new();
    let fields = document.as_object().into_iter().flatten();
    for (name, value) in fields {
        match name.as_str() {
            "content" => {
                let content = value.as_object().into_iter().flatten();
                view.extend(content.map(|(name, value)| (name.clone(), value.clone())));
            }
            "spec" | "objects" | "created" | "version" | "counter" => {}
            _ => {
                view.insert(name.clone(), value.clone());
            }
        }
    }
    Ok(Value::Object(view))
}

/// What must travel.
#[must_use]
pub fn travel(old: &Envelope, new: &Envelope) -> Travel {
    let mut travel = Travel {
        objects: 0,
        bytes: 0,
        of_objects: new.objects.len(),
        of_bytes: 0,
    };
    for (id, object) in &new.objects {
        travel.of_bytes = travel.of_bytes.saturating_add(object.size);
        if !old.objects.contains_key(id) {
            travel.objects = travel.objects.saturating_add(1);
            travel.bytes = travel.bytes.saturating_add(object.size);
        }
    }
    travel
}

/// Whether the path is that of a table whose entries people name: each of them is told by itself.
fn is_named(path: &str) -> bool {
    let parts: Vec<&str> = path.split('.').collect();
    matches!(
        parts.as_slice(),
        ["containers", _]
            | ["containers", _, "volumes", _]
            | ["parameters", _]
            | ["configuration", "networks", _]
    ) || path.starts_with("configuration.network.interfaces.") && parts.len() == 4
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Difference>) {
    if old == new {
        return;
    }
    let fields = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    let (before, after) = (fields(old), fields(new));
    let is_table = before.is_some() || after.is_some();
    // A word in place of a table, or a table in place of a word, as a container's network may be either.
    let is_other = before.is_some() != after.is_some() && old.is_some() && new.is_some();
    let is_whole = is_other || is_named(path) && (old.is_none() || new.is_none());
    if is_whole || !is_table {
        found.push(Difference {
            path: path.to_owned(),
            widened: widening(path, old, new),
            old: old.cloned(),
            new: new.cloned(),
        });
    }
    // What a new container may do is told as for one that had nothing.
    let goes_on = is_table && (!is_whole || new.is_some());
    if !goes_on {
        return;
    }
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let mut inner = Vec::new();
        compare(&path, before.get(name), after.get(name), &mut inner);
        if is_whole {
            // The table stands there as a whole already.
            inner.retain(|difference| difference.widened.is_some());
        }
        found.append(&mut inner);
    }
}

/// The words of a list that were not in it before.
fn added(old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
    let words = |value: Option<&Value>| -> Vec<String> {
        let words = value.and_then(Value::as_array).into_iter().flatten();
        words.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let before = words(old);
    let mut after = words(new);
    after.retain(|word| !before.contains(word));
    after
}

impl Difference {
    /// The field and what became of it, in one line.
    #[must_use]
    pub fn words(&self) -> String {
        let path = &self.path;
        let lists = |value: &Option<Value>| value.as_ref().is_some_and(Value::is_array);
        if lists(&self.old) && lists(&self.new) {
            let (old, new) = (self.old.as_ref(), self.new.as_ref());
            let mark = |sign: &str, words: Vec<String>| {
                let words = words.into_iter();
                words
                    .map(|word| format!(" {sign}{}", short(&word)))
                    .collect::<String>()
            };
            let (more, less) = (added(old, new), added(new, old));
            if !more.is_empty() || !less.is_empty() {
                return format!("{path}:{}{}", mark("+", more), mark("-", less));
            }
        }
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => format!("{path}: {} → {}", shown(old), shown(new)),
            (None, Some(new)) if new.is_object() => format!("{path}: new"),
            (None, Some(new)) => format!("{path}: {}", shown(new)),
            (Some(old), None) if old.is_object() => format!("{path}: gone"),
            (Some(old), None) => format!("{path}: no longer {}", shown(old)),
            (None, None) => path.clone(),
        }
    }
}

/// A value in few letters: an object by the digits with which its id begins.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => short(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            cut(&format!("[{}]", items.join(", ")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            cut(&value.to_string())
        }
    }
}

fn short(text: &str) -> String {
    let Ok(id) = text.parse::<ObjectId>() else {
        return cut(&format!("{text:?}"));
    };
    id.to_string().chars().take(15).collect()
}

fn cut(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let cut: String = text.chars().take(SHOWN).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(old: &Value, new: &Value) -> Vec<Difference> {
        let mut found = Vec::new();
        compare("", Some(old), Some(new), &mut found);
        found
    }

    #[test]
    fn nothing_that_differs_is_left_unsaid() {
        let old = json!({"a": {"b": 1, "c": [1, 2]}, "d": "x"});
        let new = json!({"a": {"b": 2, "c": [1, 2]}, "e": true});
        let words: Vec<String> = found(&old, &new).iter().map(Difference::words).collect();
        assert_eq!(words, ["a.b: 1 → 2", "d: no longer \"x\"", "e: true"]);
        assert_eq!(found(&old, &old), []);
    }

    #[test]
    fn lists_tell_what_came_and_went() {
        let old = json!({"l": ["a", "b"], "n": [1, 2], "o": ["a", "b"]});
        let new = json!({"l": ["b", "c"], "n": [2, 1], "o": ["b", "a"]});
        let words: Vec<String> = found(&old, &new).iter().map(Difference::words).collect();
        assert_eq!(
            words,
            [
                "l: +\"c\" -\"a\"",
                "n: [1, 2] → [2, 1]",
                "o: [\"a\", \"b\"] → [\"b\", \"a\"]"
            ]
        );
    }

    #[test]
    fn a_new_container_is_one_line_and_what_it_may() {
        let old = json!({"containers": {}});
        let new = json!({"containers": {"web": {
            "network": "host", "capabilities": ["NET_ADMIN"], "process": {"arguments": ["a"]}
        }}});
        let found = found(&old, &new);
        let words: Vec<String> = found.iter().map(Difference::words).collect();
        assert_eq!(
            words,
            [
                "containers.web: new",
                "containers.web.capabilities: [\"NET_ADMIN\"]",
                "containers.web.network: \"host\""
            ]
        );
        assert!(found.iter().skip(1).all(|one| one.widened.is_some()));
        let gone = super::tests::found(&new, &old);
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].words(), "containers.web: gone");
    }

    #[test]
    fn another_network_and_a_published_port_are_told() {
        let web = |network: Value| json!({"containers": {"web": {"network": network}}});
        let pool = |name: &str, ports: &[&str]| json!({"pool": {"name": name, "address": "a", "ports": ports}});
        let widened = |old: &Value, new: &Value| -> Vec<String> {
            let found = found(old, new);
            found.into_iter().filter_map(|one| one.widened).collect()
        };
        let none = json!({"containers": {"web": {}}});
        let first = web(pool("front", &["8080:80"]));
        assert_eq!(
            widened(&none, &first),
            [
                "reaches the containers of the network front, and what is outside the device",
                "is reached from outside by the ports 8080:80"
            ]
        );
        assert_eq!(widened(&web(json!("host")), &first), widened(&none, &first));
        assert_eq!(
            widened(&first, &web(pool("back", &["8080:80", "53:53/udp"]))),
            [
                "reaches the containers of the network back, and what is outside the device",
                "is reached from outside by the ports 53:53/udp"
            ]
        );
        assert_eq!(widened(&first, &web(pool("front", &[]))), [""; 0]);
        assert_eq!(widened(&first, &none), [""; 0]);
        assert_eq!(
            widened(&first, &web(json!("host"))),
            ["sees the device's own network"]
        );
    }

    #[test]
    fn what_an_exchange_costs_is_told_container_by_container() {
        let names = |list: &[&str]| list.iter().map(|name| name.parse().unwrap()).collect();
        let costs = |kept: &[&str], stopped: &[&str], started: &[&str]| {
            let (kept, stopped, started) = (names(kept), names(stopped), names(started));
            let exchange = Exchange {
                kept,
                stopped,
                started,
            };
            Costs::new(Change::Restart(exchange), 3)
        };
        assert_eq!(costs(&["a", "b"], &[], &[]).words(), "nothing restarts");
        assert_eq!(
            costs(&["a"], &["b", "c", "d"], &["c", "d", "e"]).words(),
            "c, d restart; e is started; b is stopped for good; a goes on"
        );
        let slot = Costs::new(Change::Slot, 1);
        assert_eq!((slot.cost, slot.tries), ("slot", Some(1)));
        assert!(slot.words().contains("at most 1 try"), "{}", slot.words());
        let why = kedge_revision::change::Why::Groups;
        let reboot = Costs::new(Change::Reboot(why), 3);
        assert_eq!(
            reboot.words(),
            "a reboot (at most 3 tries): the groups differ"
        );
        assert_eq!(Costs::new(Change::Nothing, 3).words(), "nothing restarts");
    }

    #[test]
    fn long_values_are_cut() {
        let long = "x".repeat(500);
        assert!(shown(&json!(long)).chars().count() <= SHOWN + 1);
    }
}
