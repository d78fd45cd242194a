//! How a service is kept running: health, restarts, `deploy`.

use super::service::{Service, left, number, text, truth};
use super::texts;
use super::values::span;
use crate::import::draft::{self, Health, Left};
use crate::import::yaml::{Node, Value};
use crate::project::units::Span;
use anyhow::{Context, Result, bail};
use kedge_revision::container::RestartPolicy;

impl Service {
    pub(super) fn restart(&mut self, text: &str) -> Result<()> {
        let (policy, count) = text
            .split_once(':')
            .map_or((text, None), |(policy, count)| (policy, Some(count)));
        self.draft.restart = match policy {
            "no" | "false" => RestartPolicy::No,
            "always" | "unless-stopped" => RestartPolicy::Always,
            "on-failure" => RestartPolicy::OnFailure,
            _ => bail!("`{text}` is not no, always, unless-stopped or on-failure[:count]"),
        };
        self.draft.max_retries = count
            .map(|count| {
                count
                    .parse()
                    .with_context(|| format!("`{count}` is no number"))
            })
            .transpose()?;
        Ok(())
    }

    pub(super) fn health(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        let mut health = Health {
            command: Vec::new(),
            interval: Span::s(30),
            timeout: Span::s(30),
            retries: 3,
            start_period: Span::s(0),
        };
        for entry in node.entries() {
            match entry.key.as_str() {
                "test" => match &entry.node.value {
                    Value::Text(shell) if shell == "NONE" => self.draft.no_health = true,
                    Value::Text(shell) => {
                        health.command = vec!["/bin/sh".to_owned(), "-c".to_owned(), shell.clone()];
                    }
                    Value::List(_) => {
                        let words = texts(Some(&entry.node));
                        if words.first().is_some_and(|word| word == "NONE") {
                            self.draft.no_health = true;
                        } else {
                            health.command = draft::test(&words)
                                .context("test begins with neither CMD, CMD-SHELL nor NONE")?;
                        }
                    }
                    Value::Null | Value::Map(_) => bail!("test is no command"),
                },
                "disable" => self.draft.no_health |= truth(&entry.node)?,
                "interval" => health.interval = span(text(&entry.node)?)?,
                "timeout" => health.timeout = span(text(&entry.node)?)?,
                "start_period" => health.start_period = span(text(&entry.node)?)?,
                "retries" => health.retries = number(&entry.node)?,
                key => lefts.push(left(
                    &format!("{path}.{key}"),
                    entry.line,
                    "a health check has no such setting",
                    "while a container starts, checks come faster by themselves",
                )),
            }
        }
        if self.draft.no_health {
            return Ok(());
        }
        if health.command.is_empty() {
            lefts.push(left(
                path,
                node.line,
                "it changes the check that the image has, and names none",
                "edit [health] after the image is there",
            ));
            return Ok(());
        }
        self.draft.health = Some(health);
        Ok(())
    }

    pub(super) fn deploy(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        for entry in node.entries() {
            let path = format!("{path}.{}", entry.key);
            match entry.key.as_str() {
                "resources" => self.resources(&entry.node, &path, lefts)?,
                "restart_policy" => self.restart_policy(&entry.node, &path, lefts)?,
                "replicas" if entry.node.text() == Some("1") => {}
                "replicas" => lefts.push(left(
                    &path,
                    entry.line,
                    "a container runs once",
                    "write a file for each",
                )),
                _ => lefts.push(left(
                    &path,
                    entry.line,
                    "it is for a cluster",
                    "a device runs each container once",
                )),
            }
        }
        Ok(())
    }

    fn resources(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        for entry in node.entries() {
            for inner in entry.node.entries() {
                let at = format!("{path}.{}.{}", entry.key, inner.key);
                let key = match (entry.key.as_str(), inner.key.as_str()) {
                    ("limits", "memory") => "mem_limit",
                    ("limits", "cpus") => "cpus",
                    ("limits", "pids") => "pids_limit",
                    ("reservations", "memory") => "mem_reservation",
                    _ => {
                        lefts.push(left(
                            &at,
                            inner.line,
                            "there is no such limit",
                            "[limits] shows those that there are",
                        ));
                        continue;
                    }
                };
                self.limit(key, &inner.node)
                    .with_context(|| format!("line {}: {at}", inner.line))?;
            }
        }
        Ok(())
    }

    fn restart_policy(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        self.draft.restart = RestartPolicy::Always;
        for entry in node.entries() {
            let value = text(&entry.node)?;
            match entry.key.as_str() {
                "condition" => {
                    self.draft.restart = match value {
                        "none" => RestartPolicy::No,
                        "on-failure" => RestartPolicy::OnFailure,
                        "any" => RestartPolicy::Always,
                        _ => bail!("line {}: the condition `{value}` is not known", entry.line),
                    }
                }
                "max_attempts" => self.draft.max_retries = Some(number(&entry.node)?),
                key => lefts.push(left(
                    &format!("{path}.{key}"),
                    entry.line,
                    "restarts are spaced by a delay that doubles",
                    "delay, max-delay and reset-after in [restart]",
                )),
            }
        }
        Ok(())
    }
}
