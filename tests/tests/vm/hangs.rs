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
    checks.finish(&mut guest)
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
