//! `kedge ctl logs --boot -1`: what a boot has left in the logs on the device's disk, a page at a time.

use super::super::Scene;
use super::show;
use crate::http::{self, Request};
use anyhow::{Context, Result, bail, ensure};
use kedge_revision::Name;
use serde_json::Value;
use std::path::Path;

/// The last `limit` lines of a container, or of all, of so many boots back.
pub(super) fn logs(
    scene: &Scene,
    socket: &Path,
    back: u32,
    container: Option<&Name>,
    limit: Option<u32>,
) -> Result<()> {
    let (mut lines, mut from) = (Vec::new(), None);
    let mut is_there = false;
    loop {
        let place = from.map_or_else(String::new, |place| format!("&from={place}"));
        let target = format!("/v1/logs/earlier?back={back}{place}");
        let page = http::ask(socket, Request::new("GET", &target))?;
        is_there |= !page.is_empty();
        let next = take(&page, container, &mut lines);
        if let Some(limit) = limit {
            let most = usize::try_from(limit).context("too many lines")?;
            lines.drain(..lines.len().saturating_sub(most));
        } else {
            // What is there is shown as it comes.
            lines.drain(..).try_for_each(|line| show(scene, &line))?;
        }
        let Some(next) = next else { break };
        ensure!(Some(next) > from, "the device names a page that leads back");
        from = Some(next);
    }
    if !is_there {
        bail!("the device's disk has no logs of that boot");
    }
    lines.iter().try_for_each(|line| show(scene, line))
}

/// The lines of a page that are wanted, and the place of the next one. A boot's head is no line of a log, and neither is what a
/// power cut tore.
fn take(page: &[u8], container: Option<&Name>, lines: &mut Vec<Vec<u8>>) -> Option<u64> {
    let mut next = None;
    for line in page.split(|byte| *byte == b'\n') {
        let Ok(entry) = serde_json::from_slice::<Value>(line) else {
            continue;
        };
        next = entry.get("next").and_then(Value::as_u64);
        let source = entry.get("source").and_then(Value::as_str);
        let is_wanted = |source| container.is_none_or(|name| name.as_str() == source);
        if source.is_some_and(is_wanted) {
            lines.push(line.to_vec());
        }
    }
    next
}

/// How many boots before this one, of `-2` or `0`.
///
/// # Errors
/// It is neither.
pub(super) fn back(text: &str) -> Result<u32, String> {
    let wrong = || "-1 is the boot before this one, -2 the one before that, 0 this one".to_owned();
    let boot: i64 = text.parse().map_err(|_| wrong())?;
    u32::try_from(boot.checked_neg().ok_or_else(wrong)?).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_lines_of_containers_and_a_place() {
        let page = b"{\"boot-id\":\"x\"}\n{\"seq\":1,\"source\":\"web\",\"text\":\"a\"}\n{\"seq\":2,\"source\":\"db\",\"text\":\"b\"}\ntorn {\n{\"next\":4294967300}\n";
        let mut lines = Vec::new();
        assert_eq!(take(page, None, &mut lines), Some(4_294_967_300));
        assert_eq!(lines.len(), 2);
        lines.clear();
        let name = "db".parse().unwrap();
        assert_eq!(
            take(&page[..page.len() - 20], Some(&name), &mut lines),
            None
        );
        assert_eq!(lines.len(), 1);
        assert!(String::from_utf8_lossy(&lines[0]).contains("\"b\""));
    }

    #[test]
    fn boots_are_counted_back() {
        assert_eq!(
            ["0", "-1", "-20"].map(|text| back(text).unwrap()),
            [0, 1, 20]
        );
        for text in ["1", "x", "", "-x", "-9223372036854775808", "-4294967296"] {
            assert!(
                back(text).unwrap_err().contains("before this one"),
                "{text}"
            );
        }
    }
}
