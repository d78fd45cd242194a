//! A device's status in words. What it does not know, or what is missing, is passed over. Pure.

use super::word;
use crate::project::units::human;
use crate::push::{Place, Update};
use kedge_revision::ObjectId;
use serde::Deserialize;
use serde_json::Value;

pub(super) fn words(status: &Value) -> String {
    let revision = status.get("revision").cloned().unwrap_or_default();
    let memory = status.get("memory").cloned().unwrap_or_default();
    let bytes = |name: &str| human(memory.get(name).and_then(Value::as_u64).unwrap_or_default());
    let uptime = status
        .get("uptime-ms")
        .and_then(Value::as_u64)
        .unwrap_or_default()
        / 1000;
    let mut lines = vec![
        format!(
            "{} on {}, {} ({})",
            word(status, "product"),
            word(status, "board"),
            word(status, "phase"),
            word(status, "mode")
        ),
        format!(
            "revision {} {}, slot {}, {}",
            word(&revision, "version"),
            word(&revision, "id"),
            word(status, "slot"),
            trial(status)
        ),
        format!(
            "up {uptime} s, memory {} free of {}",
            bytes("available"),
            bytes("total")
        ),
    ];
    if let Some(state) = status.get("state") {
        lines.insert(
            1,
            format!("state {}: {}", word(state, "word"), word(state, "text")),
        );
    }
    if status.get("from-memory") == Some(&Value::Bool(true)) {
        lines.push("it runs from memory: a reboot begins anew".to_owned());
    }
    lines.extend(update(status));
    let ports = status.get("network").and_then(Value::as_array);
    lines.extend(ports.into_iter().flatten().map(port));
    lines.extend(containers(status));
    lines.join("\n")
}

/// Each container, and then each goal that is missed.
fn containers(status: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for container in status
        .get("containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let ready = if container.get("ready") == Some(&Value::Bool(true)) {
            "ready"
        } else {
            "not ready"
        };
        lines.push(format!(
            "  {:<16} {:<10} {ready:<10} restarts {} pid {}",
            word(container, "name"),
            word(container, "state"),
            word(container, "restarts"),
            word(container, "pid")
        ));
    }
    for missing in status
        .get("goals-missing")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        lines.push(format!(
            "  {} has not reached {}: {}",
            word(missing, "container"),
            word(missing, "goal"),
            word(missing, "reason")
        ));
    }
    lines
}

/// An interface: its link, where its address comes from, addresses, routers, what was refused.
fn port(port: &Value) -> String {
    let link = match port.get("link") {
        Some(Value::Bool(true)) => "up",
        _ => "down",
    };
    let mut text = format!("network {} {link}", word(port, "name"));
    if port.get("dhcp").is_some() {
        text.push_str(", ");
        text.push_str(&word(port, "dhcp"));
    }
    if let Some(lease) = port.get("lease") {
        text.push_str(", leased of ");
        text.push_str(&word(lease, "server"));
    }
    for (before, name) in [
        (", ", "addresses"),
        (", by ", "gateways"),
        ("; cannot ", "refused"),
    ] {
        let values = port.get(name).and_then(Value::as_array);
        let values = values.into_iter().flatten().filter_map(Value::as_str);
        let values: Vec<String> = values.map(super::clean).collect();
        if !values.is_empty() {
            text.push_str(before);
            text.push_str(&values.join(" "));
        }
    }
    text
}

/// Whether what runs is judged yet.
fn trial(status: &Value) -> String {
    match status.pointer("/trial/trying/tries-left") {
        Some(left) => format!("on trial, {left} tries left"),
        None => word(status, "trial"),
    }
}

/// What is committed, on trial, given up, and arriving.
fn update(status: &Value) -> Vec<String> {
    let Some(update) = status.get("update") else {
        return Vec::new();
    };
    // A newer device's status may have another form: then it is shown as it is.
    let Ok(update) = Update::deserialize(update) else {
        return vec![format!("update {update}")];
    };
    let mut lines = Vec::new();
    if let Some(committed) = &update.committed {
        let floor = match &update.floor {
            Some(floor) => format!(", floor {floor}"),
            None => String::new(),
        };
        lines.push(format!("committed {}{floor}", place(committed)));
    }
    if let Some(trial) = &update.trial {
        lines.push(format!("on trial  {}", place(trial)));
    }
    if let Some(failed) = &update.failed {
        let what = pair(failed.revision, failed.parameters);
        lines.push(format!(
            "failed    {what}: {}",
            super::clean(&failed.reason)
        ));
    }
    if let Some(staging) = &update.staging {
        lines.push(format!(
            "arriving  {}, {} have come",
            super::clean(&staging.phase),
            human(staging.received)
        ));
    }
    for lock in &update.locks {
        let name = super::clean(&lock.container);
        let now = status.get("uptime-ms").and_then(Value::as_u64);
        let left = lock.until_ms.saturating_sub(now.unwrap_or(0)) / 1000;
        lines.push(format!("locked    {name} holds updates back for {left} s"));
    }
    if let Some(unsettled) = update.unsettled.filter(|count| *count > 0) {
        lines.push(format!(
            "unsettled {unsettled} boots in a row have not come to rest"
        ));
    }
    lines
}

fn place(place: &Place) -> String {
    let slot = match &place.slot {
        Some(slot) => format!(", slot {}", super::clean(slot)),
        None => String::new(),
    };
    format!("{}{slot}", pair(place.revision, place.parameters))
}

fn pair(revision: ObjectId, parameters: u64) -> String {
    match parameters {
        0 => short(revision),
        counter => format!("{} with parameters {counter}", short(revision)),
    }
}

/// Enough of an id to tell revisions apart.
pub(super) fn short(id: ObjectId) -> String {
    id.to_string().chars().take(19).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_shown_even_if_fields_are_missing() {
        let status: Value = serde_json::from_str(r#"{"product":"gateway","containers":[{"name":"web","state":"running","ready":true,"restarts":0}]}"#).unwrap();
        let text = words(&status);
        assert!(text.contains("web") && text.contains("ready"), "{text}");
        assert!(!text.contains("state "), "{text}");
    }

    #[test]
    fn the_state_comes_before_what_it_follows_from() {
        let state = serde_json::json!({"word": "no-hub", "text": "it waits;\u{1b}[2J"});
        let text = words(&serde_json::json!({"state": state}));
        let line = text.lines().nth(1);
        assert_eq!(line, Some("state no-hub: it waits;\u{fffd}[2J"), "{text}");
    }

    #[test]
    fn updates_are_told_in_words() {
        let one = ObjectId::from_digest([0x11; 32]);
        let two = ObjectId::from_digest([0x22; 32]);
        let status = serde_json::json!({
            "slot": "b",
            "uptime-ms": 30_000,
            "trial": {"trying": {"tries-left": 2}},
            "update": {
                "committed": {"revision": one, "parameters": 3, "slot": "a"},
                "trial": {"revision": two, "parameters": 0, "slot": "b"},
                "failed": {"revision": two, "parameters": 4, "reason": "goal-missed(web, ready)\u{1b}[2J"},
                "floor": "1.40",
                "unsettled": 1,
                "locks": [{"container": "press", "until-ms": 90_000}],
                "staging": {"phase": "receiving", "received": 1_000_000},
            }
        });
        let text = words(&status);
        for line in [
            "slot b, on trial, 2 tries left",
            "committed v1:1111111111111111 with parameters 3, slot a, floor 1.40",
            "on trial  v1:2222222222222222, slot b",
            "failed    v1:2222222222222222 with parameters 4: goal-missed(web, ready)\u{fffd}[2J",
            "arriving  receiving, 1.0 MB have come",
            "unsettled 1 boots in a row",
            "locked    press holds updates back for 60 s",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn ports_are_told_in_words() {
        let status = serde_json::json!({"network": [
            {"name": "eth0", "link": true, "dhcp": "bound", "addresses": ["10.0.2.15/24", "fd00::7/64"],
             "gateways": ["10.0.2.2"], "metric": 100, "lease": {"address": "10.0.2.15", "server": "10.0.2.2"}},
            {"name": "eth1", "link": false, "metric": 200, "refused": ["route by eth1 10.9.9.9: \u{1b}[2J"]},
        ]});
        let text = words(&status);
        for line in [
            "network eth0 up, bound, leased of 10.0.2.2, 10.0.2.15/24 fd00::7/64, by 10.0.2.2",
            "network eth1 down; cannot route by eth1 10.9.9.9: \u{fffd}[2J",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn an_update_of_another_form_is_shown_as_it_is() {
        let status = serde_json::json!({"update": {"committed": "x"}});
        assert!(words(&status).contains(r#"update {"committed":"x"}"#));
    }
}
