//! What one revision lets its containers do that another did not, in words.

use super::added;
use kedge_revision::Container;
use kedge_revision::container::DeviceRule;
use kedge_revision::device::Access;
use serde_json::Value;

/// What a field gives that it did not give before, in words; none if it gives nothing more.
pub(super) fn widening(path: &str, old: Option<&Value>, new: Option<&Value>) -> Option<String> {
    let parts: Vec<&str> = path.split('.').collect();
    let more = || {
        let added = added(old, new);
        (!added.is_empty()).then(|| added.join(", "))
    };
    match parts.as_slice() {
        ["containers", _, "capabilities"] => Some(format!("has the capabilities {}", more()?)),
        ["containers", _, "roles"] => Some(format!("may ask PID 1 to {}", more()?)),
        ["containers", _, "process", "secrets"] => Some(format!("reads the secrets {}", more()?)),
        ["containers", _, "network"] if is(new, "host") => {
            Some("sees the device's own network".to_owned())
        }
        ["containers", _, "network", "pool", "name"] if new.is_some() => Some(format!(
            "reaches the containers of the network {}, and what is outside the device",
            new.and_then(Value::as_str)?
        )),
        ["containers", _, "network", "pool", "ports"] => {
            Some(format!("is reached from outside by the ports {}", more()?))
        }
        ["containers", _, "devices"] => {
            let before: Vec<DeviceRule> = rules(old);
            let mut more = added(old, new);
            more.retain(|rule| {
                let rule = rule.parse::<DeviceRule>();
                !rule.is_ok_and(|rule| before.iter().any(|before| covers(before, &rule)))
            });
            let rules: Vec<String> = more.iter().map(|rule| device(rule)).collect();
            (!rules.is_empty()).then(|| format!("can use {}", rules.join("; ")))
        }
        ["containers", _, "root"] if old.is_none() => {
            Some("may write to its root file system".to_owned())
        }
        ["containers", _, "process", "user", "uid"] if new == Some(&0.into()) && old.is_some() => {
            Some("runs as root of its user namespace".to_owned())
        }
        ["containers", _, "limits", ..]
        | ["containers", _, "volumes", _, "size" | "snapshot-max"] => loosened(&parts, old, new),
        ["configuration", "hubs"] => Some(format!("asks the hubs {}", more()?)),
        ["configuration", "sticks"] if is(new, "accept") => {
            Some("removable disks are mounted, and what is on them is tried".to_owned())
        }
        ["configuration", "network", "interfaces", interface] if old.is_none() => {
            Some(format!("interface {interface} is used"))
        }
        ["commit", "hub"] if is(new, "never") => {
            Some("a trial holds though the hub is lost in it".to_owned())
        }
        ["boot", "statement"] if new.is_none() => {
            Some("firmware with Secure Boot starts it no more".to_owned())
        }
        ["boot", "arguments"] => Some("the kernel is told something else".to_owned()),
        _ => None,
    }
}

fn rules(value: Option<&Value>) -> Vec<DeviceRule> {
    let rules = value.and_then(Value::as_array).into_iter().flatten();
    let rules = rules.filter_map(Value::as_str);
    rules.filter_map(|rule| rule.parse().ok()).collect()
}

/// Whether the old rule gave all that the new one gives. A rule with a name gives one of the devices that it fits: a narrower
/// one may give another.
fn covers(old: &DeviceRule, new: &DeviceRule) -> bool {
    let parts = |rule: &DeviceRule| [&rule.vendor, &rule.product, &rule.serial].map(Clone::clone);
    let same = old.path == new.path && parts(old) == parts(new);
    let mut pairs = parts(old).into_iter().zip(parts(new));
    let is_narrower = pairs.all(|(old, new)| old.is_none() || old == new)
        && old.path.as_ref().is_none_or(|old| {
            let rest = new.path.as_ref().and_then(|new| new.strip_prefix(old));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
    old.subsystem == new.subsystem
        && (old.access == Access::Both || old.access == new.access)
        && if old.name.is_none() {
            is_narrower
        } else {
            same && new.name.is_some()
        }
}

/// What a rule lets a container use.
fn device(rule: &str) -> String {
    let Ok(rule) = rule.parse::<DeviceRule>() else {
        return rule.to_owned();
    };
    let mut words = format!("devices of subsystem {}", rule.subsystem);
    if rule.vendor.is_some() || rule.product.is_some() {
        let [vendor, product] =
            [&rule.vendor, &rule.product].map(|id| id.as_deref().unwrap_or("any"));
        words.push_str(&format!(" with ids {vendor}:{product}"));
    }
    for (name, text) in [("serial number", &rule.serial), ("path", &rule.path)] {
        if let Some(text) = text {
            words.push_str(&format!(", {name} {text}"));
        }
    }
    if rule.is_wide() {
        words.push_str(", whichever there are");
    }
    words.push_str(match rule.access {
        Access::Read => ", for reading",
        Access::Write => ", for writing",
        Access::Both => "",
    });
    words
}

fn is(value: Option<&Value>, word: &str) -> bool {
    value.and_then(Value::as_str) == Some(word)
}

/// What a bound that is gone or further off gives, in words.
fn loosened(parts: &[&str], old: Option<&Value>, new: Option<&Value>) -> Option<String> {
    match parts {
        [_, _, "limits", "unified", file @ ..] if !file.is_empty() => {
            let file = file.join(".");
            // What it means, the kernel knows: a change is told, whichever way it goes.
            Some(match new.and_then(Value::as_str) {
                Some(value) => format!("{file} of its cgroup is {value}"),
                None => format!("{file} of its cgroup is what the kernel makes it"),
            })
        }
        [_, _, "limits", "memory-min"] => {
            let bytes = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0);
            (bytes(new) > bytes(old)).then(|| "more memory is kept from others for it".to_owned())
        }
        [.., limit] => {
            // What is bounded without a word.
            let default = match *limit {
                "pids-max" => Some(u64::from(Container::DEFAULT_PIDS_MAX)),
                "root-max" => Some(Container::DEFAULT_ROOT_BOOT),
                _ => None,
            };
            let before = old.and_then(Value::as_u64).or(default)?;
            match new.and_then(Value::as_u64).or(default) {
                None => Some(format!("{limit} bounds it no more")),
                Some(after) if after > before => Some(format!("{limit} is raised")),
                Some(_) => None,
            }
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn widened(path: &str, old: Value, new: Value) -> Option<String> {
        let some = |value: Value| (!value.is_null()).then_some(value);
        widening(path, some(old).as_ref(), some(new).as_ref())
    }

    #[test]
    fn devices_are_told_by_what_chooses_them() {
        let adapter = "tty vendor=0403 product=6001 name=modem serial=A1";
        let wide = "input access=r";
        let widened = |old: Value, new: Value| widened("containers.web.devices", old, new);
        assert_eq!(
            widened(json!(null), json!([adapter])).as_deref(),
            Some("can use devices of subsystem tty with ids 0403:6001, serial number A1")
        );
        assert_eq!(
            widened(json!([adapter]), json!([adapter, wide])).as_deref(),
            Some("can use devices of subsystem input, whichever there are, for reading")
        );
        let half = json!(["usb vendor=0403 path=/devices/x"]);
        assert_eq!(
            widened(json!([]), half).as_deref(),
            Some("can use devices of subsystem usb with ids 0403:any, path /devices/x")
        );
        assert_eq!(widened(json!([adapter, wide]), json!([wide])), None);
        assert_eq!(widened(json!([wide]), json!(null)), None);
    }

    #[test]
    fn a_narrower_rule_for_devices_is_no_widening() {
        let widened = |old: &str, new: &str| {
            widened("containers.web.devices", json!([old]), json!([new])).is_some()
        };
        let narrower = [
            ("tty", "tty access=r"),
            ("tty", "tty access=w"),
            ("tty", "tty name=x"),
            ("tty", "tty required"),
            ("tty required", "tty"),
            ("tty", "tty vendor=0403"),
            ("tty vendor=0403", "tty vendor=0403 product=6001 serial=A"),
            ("tty path=/devices/a", "tty path=/devices/a/b"),
            ("tty name=x", "tty name=y access=r"),
        ];
        for (old, new) in narrower {
            assert!(!widened(old, new), "{old} to {new}");
        }
        let wider = [
            ("tty access=r", "tty"),
            ("tty access=r", "tty access=w"),
            ("tty name=x", "tty"),
            ("tty name=x", "tty vendor=0403 name=x"),
            ("tty vendor=0403", "tty"),
            ("tty vendor=0403", "tty vendor=0404"),
            ("tty vendor=0403 product=6001", "tty vendor=0403"),
            ("tty serial=A", "tty serial=B"),
            ("tty path=/devices/a", "tty path=/devices/ab"),
            ("tty path=/devices/a/b", "tty path=/devices/a"),
            ("tty path=/devices/a", "tty"),
            ("tty", "input access=r"),
        ];
        for (old, new) in wider {
            assert!(widened(old, new), "{old} to {new}");
        }
        // Of several, those that are more are told.
        let two = widening(
            "containers.web.devices",
            Some(&json!(["tty"])),
            Some(&json!(["input access=r", "tty access=r"])),
        );
        assert_eq!(
            two.as_deref(),
            Some("can use devices of subsystem input, whichever there are, for reading")
        );
    }

    #[test]
    fn only_what_is_more_is_widened() {
        let at = |field: &str| format!("containers.web.{field}");
        let capabilities = at("capabilities");
        assert_eq!(
            widened(&capabilities, json!(["KILL"]), json!(["KILL", "CHOWN"])),
            Some("has the capabilities CHOWN".to_owned())
        );
        assert_eq!(widened(&capabilities, json!(["KILL"]), json!(null)), None);
        let memory = at("limits.memory-max");
        assert!(widened(&memory, json!(1), json!(2)).is_some());
        assert!(widened(&memory, json!(1), json!(null)).is_some());
        assert_eq!(widened(&memory, json!(null), json!(2)), None);
        assert_eq!(widened(&memory, json!(2), json!(1)), None);
        assert_eq!(
            widened(&at("limits.unified.cpuset.cpus"), json!("0"), json!("0-1")),
            Some("cpuset.cpus of its cgroup is 0-1".to_owned())
        );
        let kept = at("limits.memory-min");
        assert!(widened(&kept, json!(null), json!(1)).is_some());
        assert_eq!(widened(&kept, json!(1), json!(null)), None);
        let processes = at("limits.pids-max");
        assert_eq!(widened(&processes, json!(600), json!(null)), None);
        assert!(widened(&processes, json!(null), json!(513)).is_some());
        let size = at("volumes.data.size");
        assert_eq!(widened(&size, json!(null), json!(2)), None);
        assert!(widened(&size, json!(1), json!(2)).is_some());
        assert!(widened(&size, json!(1), json!(null)).is_some());
        assert!(widened(&at("limits.unified.cpu.idle"), json!("1"), json!(null)).is_some());
        assert!(widened(&at("network"), json!(null), json!("host")).is_some());
        assert_eq!(widened(&at("network"), json!("host"), json!(null)), None);
        assert!(widened(&at("process.user.uid"), json!(1000), json!(0)).is_some());
        assert_eq!(widened(&at("process.user.uid"), json!(0), json!(7)), None);
        assert!(widened(&at("roles"), json!(null), json!(["operate"])).is_some());
        assert!(widened("commit.hub", json!("if-reachable-before"), json!("never")).is_some());
        assert_eq!(widened(&at("goal"), json!("started"), json!("ready")), None);
    }
}
