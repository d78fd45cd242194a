//! Boot time in guest instructions: from the exec of PID 1 to the first instruction of a container's process.
//!
//! QEMU counts instructions (`-icount shift=0`): each is one nanosecond of the guest's clock, whatever the host does. The
//! disk is in memory and its flushes are ignored. Both ends are read from the guest's CLOCK_MONOTONIC:
//!
//! - The *beginning* by a tiny program that the kernel starts in place of `/init` (`rdinit=/stamp`, in an archive that is
//!   appended to the slot's initramfs, as is the argument to its line): it reads the clock, leaves it in the kernel's log, and becomes `/init`. So the
//!   whole exec of the real device binary is in the figure, and a write to the kernel's log (some microseconds) too.
//! - The *end* by the first instructions of a container's only process, a static program without a library, which says
//!   what time it was; the container has the default confinement, with namespaces of its own, the network's among them.
//!
//! `boot.kernel` is what the kernel takes before that exec, and `boot.kernel-to-first-container` both: from where its clock
//! starts, some thousand instructions behind its entry; what unpacks a kernel is not in it.
//!
//! `boot.first-boot` is the first start of a fresh image, `boot.exec-to-first-container` the second of the same disk after
//! an orderly reboot. Signature and integrity are checked in both.

use super::subject::{self, Program, number_after};
use super::{Figure, median, note};
use crate::device::Device;
use crate::project::{Built, copy_disk};
use anyhow::{Context, Result, ensure};
use kedge_board_support::record::Slot;
use kedge_image_build::progress;
use kedge_image_build::qemu::{Clock, DiskCache, VmConfig};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Counting instructions is slow: a boot takes 20 s on an idle machine.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn measure(platform: &Path, runs: u32) -> Result<Vec<Figure>> {
    let folder = subject::fast_folder()?;
    let built = subject::build(folder.path(), platform, 1)?;
    stamp(&built, &built.image, Slot::A, folder.path())?;
    let mut first = Vec::new();
    let mut normal = Vec::new();
    for number in 1..=runs {
        let (one, two) = progress::step(format_args!("boot {number} of {runs}, twice"), || {
            twice(&built, folder.path()).with_context(|| subject::console(folder.path()))
        })?;
        note(format_args!(
            "first boot {} us, second {} us",
            one.total() / 1000,
            two.total() / 1000
        ));
        first.push(one);
        normal.push(two);
    }
    figures(&first, &normal)
}

/// When things happened in one boot; nanoseconds of the guest's monotonic clock.
#[derive(Debug)]
pub(super) struct Times {
    exec: u64,
    /// PID 1's own first look at the clock.
    started: u64,
    container: u64,
    /// How long each phase of the boot took, if PID 1 tells.
    phases: BTreeMap<String, u64>,
}

impl Times {
    /// From the exec to the container.
    pub(super) const fn total(&self) -> u64 {
        self.container.saturating_sub(self.exec)
    }

    /// Signature, roots and the seals of the objects.
    fn verify(&self) -> Option<u64> {
        let phase = |name: &str| self.phases.get(name).copied();
        Some(phase("trust")? + phase("revision")? + phase("objects")?)
    }
}

fn figures(first: &[Times], normal: &[Times]) -> Result<Vec<Figure>> {
    let of = |times: &[Times], value: fn(&Times) -> u64| {
        median(times.iter().map(value).collect()).context("nothing was measured")
    };
    let mut figures = vec![
        Figure::time(
            "boot.exec-to-first-container",
            of(normal, Times::total)?,
            Some(15),
        ),
        Figure::time("boot.first-boot", of(first, Times::total)?, Some(15)),
        Figure::time("boot.kernel", of(normal, |times| times.exec)?, None),
        Figure::time(
            "boot.kernel-to-first-container",
            of(normal, |times| times.container)?,
            None,
        ),
        Figure::time(
            "boot.exec-to-main",
            of(normal, |times| times.started.saturating_sub(times.exec))?,
            None,
        ),
    ];
    let verify: Vec<u64> = normal.iter().filter_map(Times::verify).collect();
    figures.extend(median(verify).map(|time| Figure::time("boot.verify-revision", time, None)));
    let names = normal.first().map(|times| times.phases.keys());
    for name in names.into_iter().flatten() {
        let values = normal.iter().filter_map(|times| times.phases.get(name));
        let value = median(values.copied().collect()).unwrap_or_default();
        figures.push(Figure::time(&format!("boot.phase.{name}"), value, None));
    }
    Ok(figures)
}

/// Appends the archive with the stamping program to the initramfs of a slot.
pub(super) fn stamp(built: &Built, disk: &Path, slot: Slot, folder: &Path) -> Result<()> {
    let program = subject::program(Program::Stamp, built.board())?;
    subject::instead_of_init(disk, slot, folder, ("stamp", &program), |mut archive| {
        // Archives begin at multiples of four.
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive
    })
}

fn twice(built: &Built, folder: &Path) -> Result<(Times, Times)> {
    let disk = folder.join("disk");
    copy_disk(&built.image, &disk)?;
    let config = || machine(built, &disk);
    let mut device = Device::start(&built.kedge, config()?, false)?;
    let first = times(&mut device)?;
    device.ctl(&["poweroff"])?;
    device.until_ended(PATIENCE)?;
    let mut device = Device::start(&built.kedge, config()?, false)?;
    let second = times(&mut device)?;
    device.cut_power()?;
    Ok((first, second))
}

/// Its machine, in which instructions are counted, with a stamped disk.
pub(super) fn machine(built: &Built, disk: &Path) -> Result<VmConfig> {
    let mut config = built.machine_with(disk);
    config.disk_cache = DiskCache::Unsafe;
    config.clock = Clock::Instructions;
    Ok(config)
}

/// Waits until the containers run, and reads when what happened in this boot.
pub(super) fn times(device: &mut Device) -> Result<Times> {
    device.until_goals(PATIENCE)?;
    device.until("the boot is in the logs", PATIENCE, |device| {
        let kernel = device.texts("kernel")?;
        let own = device.texts("kedge")?;
        let container = device.texts("tiny-1")?;
        let times = Times {
            exec: number_after(&kernel, "exec of /init at ").context("no time of the exec")?,
            started: number_after(&own, "PID 1 started at ")
                .context("PID 1 does not say when it started")?
                .saturating_mul(1000),
            container: number_after(&container, "first instruction at ")
                .context("the container says nothing")?,
            phases: phases(&own),
        };
        ensure!(
            times.exec <= times.started && times.started <= times.container,
            "the times are not in order: {times:?}"
        );
        Ok(times)
    })
}

/// `phases in us: mounts 230, modules 12, …`
fn phases(texts: &[String]) -> BTreeMap<String, u64> {
    let list = texts
        .iter()
        .find_map(|text| text.split_once("phases in us: "));
    let pairs = list.map(|(_, list)| list.split(", ")).into_iter().flatten();
    pairs
        .filter_map(|pair| {
            let (name, time) = pair.split_once(' ')?;
            let time: u64 = time.trim().parse().ok()?;
            Some((name.to_owned(), time.saturating_mul(1000)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(container: u64, trust: u64) -> Times {
        Times {
            exec: 1_000,
            started: 2_000,
            container,
            phases: BTreeMap::from([
                ("trust".to_owned(), trust),
                ("revision".to_owned(), 5),
                ("objects".to_owned(), 6),
            ]),
        }
    }

    #[test]
    fn figures_are_medians() {
        let normal = [
            boot(9_001_000, 1),
            boot(8_001_000, 1),
            boot(12_001_000, 9_000_000),
        ];
        let figures = figures(&[boot(20_001_000, 0)], &normal).unwrap();
        let value = |name: &str| figures.iter().find(|f| f.name == name).unwrap().clone();
        assert_eq!(
            value("boot.exec-to-first-container"),
            Figure::time("boot.exec-to-first-container", 9_000_000, Some(15))
        );
        assert_eq!(value("boot.first-boot").holds(), Some(false));
        assert_eq!(
            value("boot.verify-revision"),
            Figure::time("boot.verify-revision", 12, None)
        );
    }

    #[test]
    fn phases_are_read() {
        let texts = ["kedge: phases in us: mounts 230, boot-record 40".to_owned()];
        let phases = phases(&texts);
        assert_eq!(phases["boot-record"], 40_000);
        assert_eq!(phases.len(), 2);
    }
}
