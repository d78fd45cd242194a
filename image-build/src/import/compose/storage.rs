//! Volumes of a service.

use super::service::{Service, left, text, truth};
use super::values::size;
use crate::import::draft::{self, Left, Volume};
use crate::import::yaml::{Node, Value};
use anyhow::{Context, Result, bail, ensure};
use kedge_revision::Name;
use kedge_revision::container::Lifetime;

impl Service {
    pub(super) fn volumes(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        let Value::List(items) = &node.value else {
            bail!("it is no list");
        };
        for item in items {
            let line = item.line;
            if let Some(text) = item.text() {
                let parts: Vec<&str> = text.split(':').collect();
                let (source, target, options) = match parts.as_slice() {
                    [target] => (None, *target, None),
                    [source, target] => (Some(*source), *target, None),
                    [source, target, options] => (Some(*source), *target, Some(*options)),
                    _ => bail!("line {line}: `{text}` is no volume, as in data:/var/lib/data"),
                };
                self.mount(source, target, None, path, line, lefts)?;
                let carried = self.draft.volumes.iter().any(|one| one.path == target);
                let plain = ["rw", "z", "Z"];
                if let Some(options) = options.filter(|text| carried && !plain.contains(text)) {
                    lefts.push(left(path, line, format!("the options `{options}` of {target}: a container may write to its volumes"), "nothing does the same"));
                }
                continue;
            }
            self.long_volume(item, path, lefts)
                .with_context(|| format!("line {line}"))?;
        }
        Ok(())
    }

    fn long_volume(&mut self, item: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        let line = item.line;
        let field = |key| item.get(key).and_then(Node::text);
        let target = field("target").context("a volume has no `target`")?;
        let source = field("source");
        let mut bytes = None;
        let kind = field("type").unwrap_or("volume");
        for entry in item.entries() {
            match entry.key.as_str() {
                "type" | "source" | "target" | "consistency" => {}
                "read_only" if !truth(&entry.node)? => {}
                "tmpfs" if entry.node.entries().iter().all(|inner| inner.key == "size") => {
                    bytes = entry
                        .node
                        .get("size")
                        .map(|node| size(text(node)?))
                        .transpose()?;
                }
                key => lefts.push(left(
                    &format!("{path}.{key}"),
                    entry.line,
                    format!("the volume at {target} has no such setting"),
                    "a container may write to its volumes; see [volumes] for what they have",
                )),
            }
        }
        match kind {
            "volume" => self.mount(source, target, bytes, path, line, lefts),
            "tmpfs" => self.volume(target, target, Lifetime::Boot, bytes),
            "bind" => self.mount(
                Some(&format!("./{}", source.unwrap_or_default())),
                target,
                bytes,
                path,
                line,
                lefts,
            ),
            other => {
                lefts.push(left(
                    path,
                    line,
                    format!("a volume of type {other}, at {target}"),
                    "a named volume",
                ));
                Ok(())
            }
        }
    }

    fn mount(
        &mut self,
        source: Option<&str>,
        target: &str,
        bytes: Option<u64>,
        path: &str,
        line: usize,
        lefts: &mut Vec<Left>,
    ) -> Result<()> {
        match source {
            Some(source) if source.starts_with(['.', '/', '~']) => {
                let why = format!(
                    "{target} is a folder or file of the host, {source}; a device has none but its volumes"
                );
                lefts.push(left(path, line, why, "put it into the image if it is read, or make it a named volume if it is written"));
                Ok(())
            }
            Some(source) => {
                self.named.push((source.to_owned(), line));
                self.volume(source, target, Lifetime::Permanent, bytes)
            }
            // Without a name nothing finds it again: it goes with the container.
            None => self.volume(
                target.rsplit('/').next().unwrap_or_default(),
                target,
                Lifetime::Revision,
                bytes,
            ),
        }
    }

    fn volume(
        &mut self,
        label: &str,
        path: &str,
        lifetime: Lifetime,
        size: Option<u64>,
    ) -> Result<()> {
        ensure!(path.starts_with('/'), "`{path}` is no absolute path");
        let stem = draft::name(label).map_or_else(|| "data".to_owned(), |name| name.to_string());
        let taken = |name: &Name| self.draft.volumes.iter().any(|volume| volume.name == *name);
        let stem: String = stem.chars().take(28).collect();
        let stem = stem.trim_end_matches('-');
        let name = (1_u32..=999)
            .filter_map(|number| {
                if number == 1 {
                    stem.parse().ok()
                } else {
                    format!("{stem}-{number}").parse().ok()
                }
            })
            .find(|name| !taken(name))
            .with_context(|| format!("cannot name the volume at {path}"))?;
        ensure!(
            !self.draft.volumes.iter().any(|volume| volume.path == path),
            "two volumes are at {path}"
        );
        self.draft.volumes.push(Volume {
            name,
            path: path.to_owned(),
            lifetime,
            size,
        });
        Ok(())
    }

    pub(super) fn tmpfs(
        &mut self,
        text: &str,
        path: &str,
        line: usize,
        lefts: &mut Vec<Left>,
    ) -> Result<()> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let mut bytes = None;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", value)) => bytes = Some(size(value)?),
                _ => lefts.push(left(
                    path,
                    line,
                    format!("the option `{option}` of {target}"),
                    "a volume in memory has a size and an owner",
                )),
            }
        }
        let label = target.rsplit('/').next().unwrap_or_default();
        self.volume(label, target, Lifetime::Boot, bytes)
    }
}
