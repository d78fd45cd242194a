//! YAML as a tree with lines, within bounds: a file of a stranger must not grow while it is read.
//!
//! The grammar is `saphyr-parser`'s; the tree is ours, since only so every alias is paid for (a "billion laughs" of a few
//! hundred bytes would be gigabytes), every mapping's keys are compared, and every value knows its line.

use anyhow::{Result, bail, ensure};
use saphyr_parser::{Event, Parser, ScalarStyle};
use std::collections::BTreeMap;

/// Largest file, bytes: a person's file is a few kilobytes.
pub const CAP: usize = 1024 * 1024;
/// Most values, those that aliases stand for included.
const MOST_VALUES: usize = 50_000;
/// Most bytes of text, those that aliases stand for included.
const MOST_TEXT: usize = 4 * CAP;
/// Deepest nesting.
const DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Line, from 1.
    pub line: usize,
    /// What stands there.
    pub value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A number, a truth value or a text, as it is written.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file; no key stands there twice.
    Map(Vec<Entry>),
}

/// One entry of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, always a text.
    pub key: String,
    /// The key's line.
    pub line: usize,
    /// The value.
    pub node: Node,
}

impl Node {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The entries of a mapping; none of anything else.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Text(_) | Value::List(_) => &[],
        }
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        let mut entries = self.entries().iter();
        entries
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }

    /// Values and bytes of text in it.
    fn weight(&self) -> (usize, usize) {
        let sum = |(a, b): (usize, usize), (c, d): (usize, usize)| {
            (a.saturating_add(c), b.saturating_add(d))
        };
        match &self.value {
            Value::Null => (1, 0),
            Value::Text(text) => (1, text.len()),
            Value::List(items) => items.iter().map(Self::weight).fold((1, 0), sum),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| sum(entry.node.weight(), (0, entry.key.len())))
                .fold((1, 0), sum),
        }
    }
}

/// A collection that is not at its end.
struct Open {
    anchor: usize,
    line: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map(Vec<Entry>, Option<(String, usize)>),
}

/// Reads one document.
///
/// # Errors
/// It is no YAML, holds two documents or a key twice, or is beyond a bound; the message names the line.
pub fn parse(text: &str) -> Result<Node> {
    ensure!(
        text.len() <= CAP,
        "it has {} bytes; at most {CAP} are read",
        text.len()
    );
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let at = error.marker();
            anyhow::anyhow!("line {}: {}", at.line(), error.info())
        })?;
        builder.event(event, span.start.line())?;
    }
    builder.root.ok_or_else(|| anyhow::anyhow!("it is empty"))
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    values: usize,
    bytes: usize,
    root: Option<Node>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<()> {
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let value = match text.as_ref() {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    text => Value::Text(text.to_owned()),
                };
                self.add(Node { line, value }, anchor)
            }
            Event::Alias(anchor) => {
                let unknown =
                    || anyhow::anyhow!("line {line}: an alias stands within what it names");
                let weight = self.anchors.get(&anchor).map(Node::weight);
                // Before the copy is made.
                self.pay(weight.ok_or_else(unknown)?, line)?;
                let node = self.anchors.get(&anchor).cloned().ok_or_else(unknown)?;
                let depth = self.stack.len();
                ensure!(
                    depth.saturating_add(levels(&node)) <= DEPTH,
                    "line {line}: deeper than {DEPTH} levels"
                );
                self.place(node)
            }
            Event::SequenceStart(anchor, _) => self.open(anchor, line, Kind::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.open(anchor, line, Kind::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.stack.pop() else {
                    bail!("line {line}: an end without a beginning");
                };
                let value = match open.kind {
                    Kind::List(items) => Value::List(items),
                    Kind::Map(entries, _) => Value::Map(merged(entries)?),
                };
                let node = Node {
                    line: open.line,
                    value,
                };
                self.add(node, open.anchor)
            }
        }
    }

    fn open(&mut self, anchor: usize, line: usize, kind: Kind) -> Result<()> {
        ensure!(
            self.stack.len() < DEPTH,
            "line {line}: deeper than {DEPTH} levels"
        );
        self.stack.push(Open { anchor, line, kind });
        Ok(())
    }

    fn pay(&mut self, (values, bytes): (usize, usize), line: usize) -> Result<()> {
        self.values = self.values.saturating_add(values);
        self.bytes = self.bytes.saturating_add(bytes);
        ensure!(
            self.values <= MOST_VALUES && self.bytes <= MOST_TEXT,
            "line {line}: more than {MOST_VALUES} values or {MOST_TEXT} bytes, with what aliases stand for"
        );
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<()> {
        let own = match &node.value {
            Value::Text(text) => text.len(),
            Value::Null | Value::List(_) | Value::Map(_) => 0,
        };
        self.pay((1, own), node.line)?;
        if anchor > 0 {
            // Kept for aliases: a copy, paid as one.
            self.pay(node.weight(), node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node)
    }

    fn place(&mut self, node: Node) -> Result<()> {
        match self.stack.last_mut().map(|open| &mut open.kind) {
            None => {
                ensure!(
                    self.root.is_none(),
                    "line {}: a second document begins; one is read",
                    node.line
                );
                self.root = Some(node);
            }
            Some(Kind::List(items)) => items.push(node),
            Some(Kind::Map(entries, key @ None)) => {
                let line = node.line;
                let Value::Text(text) = node.value else {
                    bail!("line {line}: a key is no text");
                };
                ensure!(
                    !entries.iter().any(|entry| entry.key == text),
                    "line {line}: the key `{text}` stands there twice"
                );
                *key = Some((text, line));
            }
            Some(Kind::Map(entries, key)) => {
                if let Some((key, line)) = key.take() {
                    entries.push(Entry { key, line, node });
                }
            }
        }
        Ok(())
    }
}

fn levels(node: &Node) -> usize {
    let deepest = match &node.value {
        Value::Null | Value::Text(_) => return 0,
        Value::List(items) => items.iter().map(levels).max(),
        Value::Map(entries) => entries.iter().map(|entry| levels(&entry.node)).max(),
    };
    deepest.unwrap_or_default().saturating_add(1)
}

/// With `<<` resolved: entries of the mappings that it names, unless they stand there themselves.
fn merged(mut entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let Some(place) = entries.iter().position(|entry| entry.key == "<<") else {
        return Ok(entries);
    };
    let merge = entries.remove(place);
    let sources = match merge.node.value {
        Value::List(items) => items,
        Value::Null | Value::Text(_) | Value::Map(_) => vec![merge.node],
    };
    for source in sources {
        let Value::Map(more) = source.value else {
            bail!("line {}: `<<` names what is no mapping", merge.line);
        };
        for entry in more {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_lines_and_merges_are_resolved() {
        let text = "x: &x\n  a: 1\n  b: 'null'\ny:\n  <<: *x\n  a: 2\nz: [~, null, \"\"]\n";
        let node = parse(text).unwrap();
        let y = node.get("y").unwrap();
        assert_eq!(y.get("a").and_then(Node::text), Some("2"));
        assert_eq!(y.get("b").and_then(Node::text), Some("null"));
        assert_eq!(node.entries()[1].line, 4);
        let Value::List(items) = &node.get("z").unwrap().value else {
            panic!("no list");
        };
        assert_eq!(items[0].value, Value::Null);
        assert_eq!(items[2].text(), Some(""));
    }

    #[test]
    fn what_grows_or_is_ambiguous_is_refused_with_its_line() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let last = level - 1;
            let list = vec![format!("*a{last}"); 9].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        let deep = format!("{}x{}", "[".repeat(200), "]".repeat(200));
        for (text, words) in [
            (bomb.as_str(), "with what aliases stand for"),
            (deep.as_str(), "deeper than 64 levels"),
            ("a: 1\nb: 2\na: 3\n", "line 3: the key `a`"),
            ("a: 1\n---\nb: 2\n", "second document"),
            ("a: [1,\nb: 2\n", "line "),
            ("? [a]\n: 1\n", "a key is no text"),
            ("a: &a [*a]\n", "within what it names"),
            ("", "it is empty"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
