//! Limits of a container: from the specification's terms, which are those of the older control groups, to files of version 2.
//!
//! Source: runtime specification, `config-linux.md`, "Control groups"; Linux `Documentation/admin-guide/cgroup-v2.rst`.

use anyhow::{Result, anyhow, bail, ensure};
use kedge_sys::bpf::device::{Access, Kind, Rule};

use crate::config::{BlockIo, Cpu, Device, DeviceRule, Memory, Resources, Throttle};

/// What is written into a control group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Files and what is written to them, in this order.
    pub writes: Vec<(String, String)>,
    /// The period of `cpu.max`, written behind the quota that is there.
    pub cpu_period: Option<u64>,
    /// Files of what is used, and the most that may be there for the limits to be written (`checkBeforeUpdate`).
    pub room: Vec<(&'static str, u64)>,
    /// Which devices may be used; none: whatever the groups above allow.
    pub devices: Option<Vec<Rule>>,
}

impl Limits {
    /// All files that are written.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let period = self.cpu_period.map(|_| "cpu.max");
        self.writes
            .iter()
            .map(|(file, _)| file.as_str())
            .chain(period)
    }
}

/// Decides what is written. Of what a document does not name nothing is.
///
/// # Errors
/// What is wrong or impossible, by name.
pub fn limits(resources: Option<&Resources>, devices: &[Device]) -> Result<Limits> {
    // A document that says nothing of devices allows what every container may have, and no other.
    let nothing = Resources::default();
    let resources = resources.unwrap_or(&nothing);
    refuse_unsupported(resources)?;
    let mut writes = Vec::new();
    let mut room = Vec::new();
    memory(&resources.memory, &mut writes)?;
    if resources.memory.check_before_update == Some(true) {
        let files = [
            ("memory.max", "memory.current"),
            ("memory.swap.max", "memory.swap.current"),
        ];
        for (file, used) in files {
            let written = writes.iter().find(|(name, _)| name == file);
            // "max" is no number.
            let most = written.and_then(|(_, value)| value.parse().ok());
            room.extend(most.map(|most| (used, most)));
        }
    }
    let cpu_period = cpu(&resources.cpu, &mut writes)?;
    if let Some(pids) = resources.pids {
        let most = if pids.limit > 0 {
            pids.limit.to_string()
        } else {
            "max".to_owned()
        };
        writes.push(("pids.max".to_owned(), most));
    }
    block_io(&resources.block_io, &mut writes)?;
    for limit in &resources.hugepage_limits {
        let size = &limit.page_size;
        let plain = size.bytes().all(|byte| byte.is_ascii_alphanumeric());
        ensure!(
            plain && !size.is_empty(),
            "resources.hugepageLimits: {size:?} is no size"
        );
        writes.push((format!("hugetlb.{size}.max"), limit.limit.to_string()));
    }
    for (file, value) in &resources.unified {
        let plain = !file.contains('/') && file.contains('.') && !file.starts_with('.');
        // Those of the group itself move, freeze or kill processes.
        ensure!(
            plain && !file.starts_with("cgroup."),
            "resources.unified: {file:?} is no file of a controller"
        );
        writes.push((file.clone(), value.clone()));
    }
    let devices = Some(device_rules(&resources.devices, devices)?);
    Ok(Limits {
        writes,
        cpu_period,
        room,
        devices,
    })
}

/// What a document may ask for and is not kept: a limit that is left out is no limit.
fn refuse_unsupported(resources: &Resources) -> Result<()> {
    let Resources {
        memory,
        cpu,
        block_io,
        network,
        ..
    } = resources;
    let some = |value: Option<i64>| value.is_some_and(|value| value > 0);
    let asked = [
        ("memory.swappiness", memory.swappiness.is_some()),
        (
            "memory.disableOOMKiller",
            memory.disable_oom_killer == Some(true),
        ),
        ("memory.kernel", some(memory.kernel)),
        ("memory.kernelTCP", some(memory.kernel_tcp)),
        ("cpu.realtimeRuntime", some(cpu.realtime_runtime)),
        (
            "cpu.realtimePeriod",
            cpu.realtime_period.is_some_and(|period| period > 0),
        ),
        (
            "blockIO.leafWeight",
            block_io.leaf_weight.is_some_and(|weight| weight > 0),
        ),
        ("blockIO.weightDevice", !block_io.weight_device.is_empty()),
        (
            "network",
            network.class_id.is_some_and(|class| class > 0) || !network.priorities.is_empty(),
        ),
        ("rdma", !resources.rdma.is_empty()),
    ];
    if let Some((name, _)) = asked.into_iter().find(|(_, is_asked)| *is_asked) {
        bail!("resources.{name} is not supported");
    }
    Ok(())
}

/// A number of bytes as files have it.
fn bytes(what: &str, value: i64) -> Result<String> {
    match value {
        -1 => Ok("max".to_owned()),
        0.. => Ok(value.to_string()),
        _ => bail!("resources.memory.{what}: {value} is no number of bytes"),
    }
}

fn memory(memory: &Memory, writes: &mut Vec<(String, String)>) -> Result<()> {
    // 0 is how older engines say that they want no limit.
    let named = |value: Option<i64>| value.filter(|value| *value != 0);
    let limit = named(memory.limit);
    if let Some(reservation) = named(memory.reservation) {
        writes.push(("memory.low".to_owned(), bytes("reservation", reservation)?));
    }
    // The limit of both counts memory and swap together; the file counts swap alone.
    if let Some(both) = named(memory.swap) {
        let swap = match (both, limit) {
            (-1, _) => -1,
            (_, Some(limit)) if limit >= 0 => {
                ensure!(
                    both >= limit,
                    "resources.memory.swap: {both} is less than the limit of memory, {limit}, which it contains"
                );
                both.saturating_sub(limit)
            }
            _ => bail!("resources.memory.swap needs a limit of memory, which it contains"),
        };
        writes.push(("memory.swap.max".to_owned(), bytes("swap", swap)?));
    }
    if let Some(limit) = limit {
        writes.push(("memory.max".to_owned(), bytes("limit", limit)?));
    }
    Ok(())
}

/// The weight for shares: both ranges' ends fall together.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144).saturating_sub(2);
    shares.saturating_mul(9_999) / 262_142 + 1
}

/// Returns a period that stands there without a quota.
fn cpu(cpu: &Cpu, writes: &mut Vec<(String, String)>) -> Result<Option<u64>> {
    let mut put = |file: &str, value: String| writes.push((file.to_owned(), value));
    if let Some(idle) = cpu.idle {
        put("cpu.idle", idle.to_string());
    }
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        put("cpu.weight", weight(shares).to_string());
    }
    let period = cpu.period.filter(|period| *period != 0);
    let quota = match cpu.quota.filter(|quota| *quota != 0) {
        None => None,
        Some(-1) => Some("max".to_owned()),
        Some(quota @ 1..) => Some(quota.to_string()),
        Some(quota) => bail!("resources.cpu.quota: {quota} is no time"),
    };
    let alone = period.filter(|_| quota.is_none());
    if let Some(quota) = quota {
        // Without a second word the kernel keeps the period that is there.
        let period = period.map(|period| format!(" {period}"));
        put("cpu.max", quota + &period.unwrap_or_default());
    }
    if let Some(burst) = cpu.burst {
        put("cpu.max.burst", burst.to_string());
    }
    for (file, list) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            put(file, list.clone());
        }
    }
    Ok(alone)
}

fn block_io(io: &BlockIo, writes: &mut Vec<(String, String)>) -> Result<()> {
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        ensure!(
            (10..=1000).contains(&weight),
            "resources.blockIO.weight: {weight} is not between 10 and 1000"
        );
        // From 10..1000 to 1..10000.
        let weight = weight.saturating_sub(10).saturating_mul(9_999) / 990 + 1;
        writes.push(("io.weight".to_owned(), format!("default {weight}")));
    }
    let all: [(&str, &[Throttle]); 4] = [
        ("rbps", &io.throttle_read_bps_device),
        ("wbps", &io.throttle_write_bps_device),
        ("riops", &io.throttle_read_iops_device),
        ("wiops", &io.throttle_write_iops_device),
    ];
    for (word, throttles) in all {
        for Throttle { major, minor, rate } in throttles {
            let rate = if *rate == 0 {
                "max".to_owned()
            } else {
                rate.to_string()
            };
            writes.push((
                "io.max".to_owned(),
                format!("{major}:{minor} {word}={rate}"),
            ));
        }
    }
    Ok(())
}

/// The rules of a document, then what every container may have (specification, "Default Devices"), then the devices that it
/// lists and has no rule for: the last rule that fits counts. A device with a rule of its own keeps that: an engine that lends
/// one for reading alone lists it, too.
fn device_rules(rules: &[DeviceRule], devices: &[Device]) -> Result<Vec<Rule>> {
    let mut all = Vec::new();
    for rule in rules {
        let kind = match rule.kind.as_deref().unwrap_or("a") {
            "" | "a" => None,
            "c" | "u" => Some(Kind::Character),
            "b" => Some(Kind::Block),
            other => bail!("resources.devices: {other:?} is no kind of device"),
        };
        let number = |what: &str, number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => match u32::try_from(number) {
                Ok(number) => Ok(Some(number)),
                Err(_) => bail!("resources.devices: {what} {number} is none"),
            },
        };
        all.push(Rule {
            allow: rule.allow,
            kind,
            major: number("major", rule.major)?,
            minor: number("minor", rule.minor)?,
            access: Access::parse(rule.access.as_deref().unwrap_or("rwm")).map_err(|other| {
                anyhow!("resources.devices: access {other:?} is none of r, w, m")
            })?,
        });
    }
    all.extend(usual());
    for device in devices {
        let kind = match device.kind.as_str() {
            "c" | "u" => Kind::Character,
            "b" => Kind::Block,
            _ => continue,
        };
        let (major, minor) = (device.major, device.minor);
        if !all
            .iter()
            .take(rules.len())
            .any(|rule| names(rule, kind, major, minor))
        {
            all.push(node(kind, major, Some(minor)));
        }
    }
    Ok(all)
}

/// All of a device; without its own number: of all of its driver.
fn node(kind: Kind, major: u32, minor: Option<u32>) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major: Some(major),
        minor,
        access: Access::ALL,
    }
}

/// What every container may.
fn usual() -> Vec<Rule> {
    // To make a node is harmless; to open it is what counts.
    let mut all: Vec<_> = [Kind::Character, Kind::Block]
        .into_iter()
        .map(|kind| Rule {
            allow: true,
            kind: Some(kind),
            major: None,
            minor: None,
            access: Access::MAKE,
        })
        .collect();
    // null, zero, full, random, urandom; tty, ptmx; terminals. A container's console is one of those: 5:1 is the machine's.
    all.extend([3, 5, 7, 8, 9].map(|minor| node(Kind::Character, 1, Some(minor))));
    all.extend([0, 2].map(|minor| node(Kind::Character, 5, Some(minor))));
    all.push(node(Kind::Character, 136, None));
    all
}

/// Whether a rule is about this device, or all of its driver. One that is about all devices, as the first of an engine's, is not.
fn names(rule: &Rule, kind: Kind, major: u32, minor: u32) -> bool {
    rule.kind.is_none_or(|named| named == kind)
        && rule.major == Some(major)
        && rule.minor.is_none_or(|named| named == minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str) -> Result<Vec<(String, String)>> {
        let resources: Resources = serde_json::from_str(json).unwrap();
        limits(Some(&resources), &[]).map(|limits| limits.writes)
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(file, value): &(&str, &str)| ((*file).to_owned(), (*value).to_owned());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn terms_of_the_older_groups_become_files_of_version_two() {
        let all = written(
            r#"{"memory": {"limit": 1048576, "swap": 3145728, "reservation": 4096},
                "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
                "pids": {"limit": 32},
                "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 99}],
                            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
                "unified": {"memory.high": "65536"}}"#,
        );
        let expected = pairs(&[
            ("memory.low", "4096"),
            ("memory.swap.max", "2097152"),
            ("memory.max", "1048576"),
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0-1"),
            ("pids.max", "32"),
            ("io.weight", "default 4950"),
            ("io.max", "8:0 rbps=99"),
            ("io.max", "8:0 wiops=7"),
            ("hugetlb.2MB.max", "0"),
            ("memory.high", "65536"),
        ]);
        assert_eq!(all.unwrap(), expected);
    }

    #[test]
    fn no_limit_is_said_as_minus_one() {
        let all = written(
            r#"{"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#,
        );
        let expected = pairs(&[
            ("memory.swap.max", "max"),
            ("memory.max", "max"),
            ("cpu.max", "max"),
            ("pids.max", "max"),
        ]);
        assert_eq!(all.unwrap(), expected);
        assert_eq!(written("{}").unwrap(), []);
    }

    #[test]
    fn quota_and_period_of_processors_are_changed_each_by_itself() {
        let both = |json: &str| {
            let resources: Resources = serde_json::from_str(json).unwrap();
            let limits = limits(Some(&resources), &[]).unwrap();
            let files: Vec<_> = limits.files().map(str::to_owned).collect();
            assert_eq!(files, ["cpu.max"], "{json}");
            (limits.writes, limits.cpu_period)
        };
        let quota = pairs(&[("cpu.max", "20000")]);
        assert_eq!(both(r#"{"cpu": {"quota": 20000}}"#), (quota, None));
        assert_eq!(both(r#"{"cpu": {"period": 50000}}"#), (vec![], Some(50000)));
        let pair = pairs(&[("cpu.max", "20000 50000")]);
        let json = r#"{"cpu": {"quota": 20000, "period": 50000}}"#;
        assert_eq!(both(json), (pair, None));
    }

    #[test]
    fn room_is_looked_for_where_the_document_wants_that() {
        let room = |json: &str| {
            let resources: Resources = serde_json::from_str(json).unwrap();
            limits(Some(&resources), &[]).unwrap().room
        };
        assert_eq!(room(r#"{"memory": {"limit": 10}}"#), []);
        assert_eq!(
            room(r#"{"memory": {"limit": 10, "swap": 15, "checkBeforeUpdate": true}}"#),
            [("memory.current", 10), ("memory.swap.current", 5)]
        );
        assert_eq!(
            room(r#"{"memory": {"limit": -1, "checkBeforeUpdate": true}}"#),
            []
        );
    }

    #[test]
    fn the_ends_of_weights_fall_together() {
        assert_eq!(weight(0), 1);
        assert_eq!(weight(2), 1);
        assert_eq!(weight(262_144), 10_000);
        assert_eq!(weight(u64::MAX), 10_000);
    }

    #[test]
    fn what_is_impossible_is_refused_by_name() {
        for (json, word) in [
            (r#"{"memory": {"limit": 10, "swap": 5}}"#, "memory.swap"),
            (r#"{"memory": {"swap": 5}}"#, "memory.swap"),
            (r#"{"memory": {"limit": -2}}"#, "memory.limit"),
            (r#"{"cpu": {"quota": -5}}"#, "cpu.quota"),
            (r#"{"blockIO": {"weight": 5}}"#, "blockIO.weight"),
            (r#"{"unified": {"cgroup.kill": "1"}}"#, "cgroup.kill"),
            (r#"{"unified": {"../memory.max": "1"}}"#, "../memory.max"),
            (
                r#"{"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}"#,
                "../x",
            ),
            (r#"{"devices": [{"allow": true, "type": "q"}]}"#, "\"q\""),
            (r#"{"devices": [{"allow": true, "access": "x"}]}"#, "access"),
        ] {
            let error = written(json).unwrap_err().to_string();
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn documents_that_say_nothing_of_devices_get_those_of_every_container() {
        let rules = limits(None, &[]).unwrap().devices.unwrap();
        assert!(rules.iter().all(|rule| rule.allow));
        let all = |rule: &Rule| rule.major.is_none() && rule.access != Access::MAKE;
        assert!(!rules.iter().any(all), "{rules:?}");
        // The machine's console is none of them.
        let console = |rule: &Rule| names(rule, Kind::Character, 5, 1);
        assert!(!rules.iter().any(console), "{rules:?}");
        let resources: Resources =
            serde_json::from_str(r#"{"devices": [{"allow": false}]}"#).unwrap();
        let rules = limits(Some(&resources), &[]).unwrap().devices.unwrap();
        assert!(!rules[0].allow && rules[1..].iter().all(|rule| rule.allow));
    }

    #[test]
    fn a_listed_device_has_all_access_only_where_no_rule_is_about_it() {
        let devices: Vec<Device> = serde_json::from_str(
            r#"[{"path": "/dev/a", "type": "c", "major": 10, "minor": 200},
                {"path": "/dev/b", "type": "b", "major": 7, "minor": 1}]"#,
        )
        .unwrap();
        let listed = |rules: &str| {
            let json = format!(r#"{{"devices": [{{"allow": false}}, {rules}]}}"#);
            let resources: Resources = serde_json::from_str(&json).unwrap();
            let rules = limits(Some(&resources), &devices).unwrap().devices;
            let rules = rules.unwrap().into_iter().skip(1);
            let fits = rules.filter(|rule| rule.allow && rule.access == Access::ALL);
            fits.filter_map(|rule| rule.major.zip(rule.minor))
                .filter(|number| [(10, 200), (7, 1)].contains(number))
                .collect::<Vec<_>>()
        };
        for (rule, expected) in [
            // As engines write `--device /dev/a:r`.
            (
                r#""type": "c", "major": 10, "minor": 200, "access": "r""#,
                vec![(7, 1)],
            ),
            (
                r#""type": "b", "major": 7, "access": "rm""#,
                vec![(10, 200)],
            ),
            (r#""major": 7, "minor": 1, "access": "r""#, vec![(10, 200)]),
            (
                r#""type": "c", "major": 7, "minor": 1, "access": "r""#,
                vec![(10, 200), (7, 1)],
            ),
            (r#""type": "c", "access": "r""#, vec![(10, 200), (7, 1)]),
        ] {
            assert_eq!(
                listed(&format!(r#"{{"allow": true, {rule}}}"#)),
                expected,
                "{rule}"
            );
        }
        let refused = r#"{"allow": false, "type": "c", "major": 10, "minor": 200}"#;
        assert_eq!(listed(refused), [(7, 1)]);
    }
}
