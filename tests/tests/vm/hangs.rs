//! A device that hangs is reset by its watchdog, and the next boot is told.

use crate::fresh_disk;
use anyhow::{Result, ensure};
use kedge_tests::guest::{BOOT, Checks, Guest};
use serde_json::json;
use std::time::Duration;

/// A probe after 30 s, three timeouts of 30 s for its answer, one more until the hardware acts; and a slow host.
const RESET: Duration = Duration::from_secs(300);

/// PID 1 turns all the time, and a device whose disk does not answer is of no use to anybody.
#[test]
fn vm_a_disk_that_hangs_is_for_the_watchdog() -> Result<()> {
    let disk = fresh_disk()?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("boots", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        guest.wait_for_log("volumes", "volume /keep 1", BOOT)?;
        told(guest, false)?;
        // The first probe of a boot may take longer than later ones: it is over by now.
        std::thread::sleep(Duration::from_secs(15));
        Ok(())
    });
    checks.run("hangs, and is alive", &mut guest, |guest| {
        let one_byte_a_second = json!({
            "device": "disk", "bps": 1, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
        });
        guest.monitor("block_set_io_throttle", &one_byte_a_second)?;
        std::thread::sleep(Duration::from_secs(60));
        guest.status().map(drop)
    });
    checks.run("is reset", &mut guest, |guest| {
        guest.wait_for_boot(2, RESET)?;
        guest.expect("--- reset: Watchdog", BOOT).map(drop)
    });
    checks.run("knows why it boots", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        told(guest, true)
    });
    checks.finish()
}

/// What the slowest limit there is holds back stands in transactions of the file system for minutes, and the probe of the store
/// is not behind it.
#[test]
#[cfg(feature = "long")]
fn vm_a_container_with_the_slowest_disk_resets_nothing() -> Result<()> {
    let disk = fresh_disk()?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("boots", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        guest.wait_for_state("slowest", "running", BOOT).map(drop)
    });
    checks.run("writes for five minutes", &mut guest, |guest| {
        let wrote = crate::limits::load(guest, "slowest", &["write", "20", "/free"])?;
        let [bytes, took] = wrote.as_slice() else {
            anyhow::bail!("{wrote:?}")
        };
        ensure!(
            *bytes == 20 << 20 && *took >= 240_000,
            "{bytes} bytes in {took} ms"
        );
        Ok(())
    });
    checks.run(
        "was not reset, and restarts when it is told to",
        &mut guest,
        |guest| {
            ensure!(
                guest.boots() == 1 && guest.resets().is_empty(),
                "{} boots, {:?}",
                guest.boots(),
                guest.resets()
            );
            guest.post("/v1/reboot")?;
            guest.wait_for_boot(2, BOOT)?;
            guest.wait_for_control(BOOT)?;
            told(guest, false)
        },
    );
    checks.finish()
}

/// Whether the loader told the kernel of a watchdog's reset.
fn told(guest: &Guest, expected: bool) -> Result<()> {
    let line = guest.wait_for_log("kernel", "Kernel command line: ", BOOT)?;
    ensure!(
        line.text.contains("kedge.reset=watchdog") == expected,
        "the kernel's arguments: {}",
        line.text
    );
    Ok(())
}
