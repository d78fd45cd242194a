//! What containers use, as devices tell it: the last word of each is kept, and the fleet's sums are counted.
//!
//! A device may be broken or hostile: what it tells is cut to what a device can have, and never refused.

use crate::error::Refusal;
use crate::fleet::{Device, Row};
use crate::rows::signed;
use crate::writer::Step;
use kedge_api::device::{ContainerUsage, Pressure, Usage};
use kedge_revision::Timestamp;
use rusqlite::params;
use std::sync::Arc;

/// Most containers; a revision has no more.
const CONTAINERS: usize = 64;
/// Longest name of a container, bytes.
const NAME: usize = 64;
/// Largest number: what every reader of JSON has without loss (RFC 8259, section 6).
const NUMBER: u64 = (1 << 53) - 1;
/// A pressure of all the time, hundredths of a percent.
const ALWAYS: u32 = 10_000;

/// What is older counts no more in the fleet's sums, seconds: devices tell once an hour at least while they reach the hub.
const FRESH_S: u64 = 2 * 3600;
/// Of one device no more memory is counted, bytes: one that lies must not be all that the sum shows.
const MEMORY: u64 = 1 << 40;
/// A tenth of the time: who waits so long is counted as waiting.
const WAITS: u32 = 1_000;
/// With less than this free on the data partition, bytes, a device is counted as nearly full.
const LITTLE: u64 = 64 << 20;

/// What of a device's usage is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Used {
    /// When it came, seconds since 1970.
    at: u64,
    nearly_full: bool,
    containers: u64,
    memory: u64,
    near_limit: u64,
    /// Those that wait for a processor, memory, disks.
    waiting: [u64; 3],
}

impl Used {
    pub(crate) fn of(usage: &Usage, at: Timestamp) -> Self {
        let mut used = Self {
            at: at.unix(),
            nearly_full: usage.data_free.is_some_and(|free| free < LITTLE),
            ..Self::default()
        };
        for container in &usage.containers {
            let memory = container.memory.unwrap_or(0);
            used.containers += 1;
            used.memory = used.memory.saturating_add(memory).min(MEMORY);
            // Nine tenths, and without a product that overflows.
            let near = |most: u64| memory >= most - most / 10;
            used.near_limit += u64::from(container.memory_max.is_some_and(near));
            if let Some(Pressure { cpu, memory, io }) = container.pressure {
                for (count, pressure) in used.waiting.iter_mut().zip([cpu, memory, io]) {
                    *count += u64::from(pressure >= WAITS);
                }
            }
        }
        used
    }
}

/// Keeps what a device's containers use, in the place of what it told before.
pub(crate) fn take(
    step: &Step<'_>,
    row: &mut Row,
    usage: Usage,
    now: Timestamp,
) -> Result<(), Refusal> {
    let usage = bounded(usage);
    step.database
        .prepare_cached("UPDATE devices SET usage = ?2, usage_time = ?3 WHERE id = ?1")?
        .execute(params![
            row.id.digest(),
            serde_json::to_string(&usage)?,
            signed(now.unix()),
        ])?;
    row.usage = Some(Used::of(&usage, now));
    Ok(())
}

fn bounded(mut usage: Usage) -> Usage {
    let number = |number: &mut u64| *number = (*number).min(NUMBER);
    number(&mut usage.uptime_ms);
    usage.data_free.iter_mut().for_each(number);
    usage.containers.truncate(CONTAINERS);
    for container in &mut usage.containers {
        let ContainerUsage {
            name,
            cpu_us,
            memory,
            memory_peak,
            memory_max,
            pids,
            pressure,
        } = container;
        name.truncate(name.floor_char_boundary(NAME));
        number(cpu_us);
        let all = [memory, memory_peak, memory_max, pids];
        all.into_iter().flatten().for_each(number);
        if let Some(Pressure { cpu, memory, io }) = pressure {
            for pressure in [cpu, memory, io] {
                *pressure = (*pressure).min(ALWAYS);
            }
        }
    }
    usage
}

/// Gauges of the whole fleet: as many for a hundred thousand devices as for one, and nothing of any of them.
pub(crate) fn gauges(devices: &[Arc<Device>], now: u64) -> [(&'static str, u64); 8] {
    let told = devices.iter().filter_map(|device| device.row().usage);
    sums(told.filter(|used| now.saturating_sub(used.at) <= FRESH_S))
}

fn sums(told: impl Iterator<Item = Used>) -> [(&'static str, u64); 8] {
    let mut all = Used::default();
    let (mut devices, mut nearly_full) = (0, 0);
    for used in told {
        devices += 1;
        nearly_full += u64::from(used.nearly_full);
        all.containers += used.containers;
        all.memory = all.memory.saturating_add(used.memory);
        all.near_limit += used.near_limit;
        for (sum, count) in all.waiting.iter_mut().zip(used.waiting) {
            *sum += count;
        }
    }
    let [cpu, memory, io] = all.waiting;
    [
        ("kedge_usage_devices", devices),
        ("kedge_usage_devices_data_nearly_full", nearly_full),
        ("kedge_usage_containers", all.containers),
        ("kedge_usage_containers_memory_bytes", all.memory),
        ("kedge_usage_containers_near_memory_limit", all.near_limit),
        ("kedge_usage_containers_waiting_for_cpu", cpu),
        ("kedge_usage_containers_waiting_for_memory", memory),
        ("kedge_usage_containers_waiting_for_io", io),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str) -> ContainerUsage {
        ContainerUsage {
            name: name.to_owned(),
            cpu_us: 1,
            memory: None,
            memory_peak: None,
            memory_max: None,
            pids: None,
            pressure: None,
        }
    }

    fn usage(containers: Vec<ContainerUsage>) -> Usage {
        Usage {
            uptime_ms: 1,
            data_free: None,
            containers,
        }
    }

    #[test]
    fn what_a_device_cannot_have_is_cut() {
        let large = Some(u64::MAX);
        let pressure = Pressure {
            cpu: u32::MAX,
            memory: 9_999,
            io: 10_001,
        };
        let hostile = ContainerUsage {
            name: "ß".repeat(5000),
            cpu_us: u64::MAX,
            memory: large,
            memory_peak: large,
            memory_max: large,
            pids: large,
            pressure: Some(pressure),
        };
        let mut told = usage(vec![hostile; 5000]);
        (told.uptime_ms, told.data_free) = (u64::MAX, large);
        let cut = bounded(told);
        assert_eq!((cut.uptime_ms, cut.data_free), (NUMBER, Some(NUMBER)));
        assert_eq!(cut.containers.len(), 64);
        let most = Some(NUMBER);
        let expected = ContainerUsage {
            name: "ß".repeat(32),
            cpu_us: NUMBER,
            memory: most,
            memory_peak: most,
            memory_max: most,
            pids: most,
            pressure: Some(Pressure {
                cpu: 10_000,
                memory: 9_999,
                io: 10_000,
            }),
        };
        assert!(cut.containers.iter().all(|one| *one == expected));
        let used = Used::of(&cut, Timestamp::from_unix(7));
        assert_eq!((used.memory, used.waiting), (MEMORY, [64; 3]));
    }

    #[test]
    fn what_is_not_counted_counts_nothing_and_limits_are_near_at_nine_tenths() {
        let mut all = vec![container("none")];
        for memory in [89, 90, 100] {
            let mut one = container("some");
            (one.memory, one.memory_max) = (Some(memory), Some(100));
            all.push(one);
        }
        let mut unlimited = container("unlimited");
        unlimited.memory = Some(1000);
        all.push(unlimited);
        let mut told = usage(all);
        told.data_free = Some(LITTLE);
        let used = Used::of(&told, Timestamp::from_unix(7));
        let expected = Used {
            at: 7,
            containers: 5,
            memory: 1279,
            near_limit: 2,
            ..Used::default()
        };
        assert_eq!(used, expected);
        told.data_free = Some(LITTLE - 1);
        assert!(Used::of(&told, Timestamp::from_unix(7)).nearly_full);
    }

    #[test]
    fn sums_have_a_bound_whatever_devices_claim() {
        let used = Used {
            memory: MEMORY,
            nearly_full: true,
            containers: 64,
            ..Used::default()
        };
        let told = sums(std::iter::repeat_n(used, 100_000));
        assert_eq!(told[0], ("kedge_usage_devices", 100_000));
        assert_eq!(told[1].1, 100_000);
        assert_eq!(told[2].1, 6_400_000);
        assert_eq!(told[3].1, MEMORY * 100_000);
    }
}
