//! A board from its first instruction on: QEMU's Orange Pi PC has a boot ROM that reads the SPL from a card, and nothing else is
//! given to it than the image. SPL, U-Boot, our script, the slot's device tree, Debian's kernel with the board's modules, PID 1 and a
//! container from the card.
//!
//! That ROM looks at 8 KiB alone, where hardware looks at 128 KiB, too (QEMU issue 3229), and a GPT has entries there. So the copy
//! of the image that is started has a table of 56 entries, which ends at 8 KiB, and the SPL behind it.
//!
//! By `cargo xtask test vm --all-boards` alone: U-Boot looks for screens and USB for minutes there.

use crate::built_for;
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::boards;
use kedge_board_support::boards::firmware::Place;
use kedge_board_support::record::{Slot, crc32};
use kedge_image_build::platform::Platform;
use kedge_image_build::{debian, files};
use kedge_tests::disk::Disk;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BOARD: &str = "orange-pi-pc-plus";
const SECTOR: u64 = 512;
/// Where QEMU's boot ROM looks.
const ROM: u64 = 8 * 1024;
/// What U-Boot has by itself as the machine's name, and what the slot's device tree is given instead, so that the kernel tells
/// whose it got.
const OWN: &str = "Xunlong Orange Pi PC Plus";
const SLOTS: &str = "Xunlong Orange Pi of Slot";
const TREE: &str = "sun8i-h3-orangepi-pc-plus.dtb";
/// Four emulated processors unpack 6 MB of kernel, on a busy machine.
const LONG: Duration = Duration::from_secs(600);

/// QEMU, ended when it is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn vm_a_card_starts_from_the_first_instruction_on() -> Result<()> {
    starts(SLOTS, |disk| {
        let mut tree = disk.read_from_fat("slot-a", TREE)?;
        let at = tree
            .windows(OWN.len())
            .position(|found| found == OWN.as_bytes());
        let name = at.and_then(|at| tree.get_mut(at..)?.get_mut(..OWN.len()));
        name.context("the device tree has another name")?
            .copy_from_slice(SLOTS.as_bytes());
        disk.write_to_slot(Slot::A, TREE, &tree)
    })
}

#[test]
fn vm_a_card_starts_with_u_boots_own_device_tree_where_the_slot_has_none() -> Result<()> {
    starts(OWN, |disk| disk.remove_from_slot(Slot::A, TREE))
}

/// Starts the card after `edit`; the kernel must then say that it runs on this machine.
fn starts(machine: &str, edit: fn(&Disk) -> Result<()>) -> Result<()> {
    debian::require(&["qemu-system-arm"], "play an Orange Pi")?;
    let product = built_for(BOARD)?;
    let disk = Disk::copy_of(&product.image)?;
    let platform = Platform::load(&product.platform)?;
    let [piece] = boards::find(BOARD)?.firmware.try_into().map_err(|_| {
        anyhow::anyhow!("the board has more firmware than one file, which this test knows")
    })?;
    ensure!(piece.place == Place::Offset(128 * 1024), "{piece:?}");
    let name = platform.firmware.first().context("it has no firmware")?;
    edit(&disk)?;
    for_qemus_rom(disk.path(), &files::read(&product.platform.join(name))?)?;
    let console = disk.folder().join("console");
    let _machine = start(disk.path(), &console)?;
    let machine = format!("OF: fdt: Machine model: {machine}");
    // In this order.
    let says = [
        "U-Boot SPL 20",
        "Trying to boot from MMC1",
        "Allwinner Technology",
        "kedge: starting slot a",
        &machine,
        "PID 1 started at",
    ];
    wait(&console, &says)
}

fn for_qemus_rom(disk: &Path, spl: &[u8]) -> Result<()> {
    const ENTRIES: u32 = 56;
    const ENTRY: usize = 128;
    let file = File::options().read(true).write(true).open(disk)?;
    let mut header = [0; 92];
    file.read_exact_at(&mut header, SECTOR)?;
    let mut entries = vec![0; usize::try_from(ENTRIES)?.saturating_mul(ENTRY)];
    file.read_exact_at(&mut entries, 2 * SECTOR)?;
    // UEFI Specification 2.10, table 5.5: number of entries, checksum over them, checksum over the header.
    let mut put = |at: usize, value: u32| {
        let field = header.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
        field.map(|field| *field = value.to_le_bytes())
    };
    put(80, ENTRIES).context("a short header")?;
    put(88, crc32(&entries)).context("a short header")?;
    put(16, 0).context("a short header")?;
    let sum = crc32(&header).to_le_bytes();
    header
        .get_mut(16..20)
        .context("a short header")?
        .copy_from_slice(&sum);
    file.write_all_at(&header, SECTOR)?;
    file.write_all_at(spl, ROM)?;
    // QEMU takes cards of a power of two alone.
    let size = file.metadata()?.len().next_power_of_two();
    file.set_len(size).context("cannot make the card larger")
}

fn start(disk: &Path, console: &Path) -> Result<Machine> {
    let child = Command::new("qemu-system-arm")
        .args(["-M", "orangepi-pc", "-m", "1G", "-display", "none"])
        .args(["-monitor", "none", "-nic", "user"])
        .arg("-drive")
        .arg(format!("file={},format=raw,if=sd", disk.display()))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start qemu-system-arm")?;
    Ok(Machine(child))
}

/// Waits until the console has said everything in its order.
fn wait(console: &Path, says: &[&str]) -> Result<()> {
    let deadline = Instant::now() + LONG;
    loop {
        let text =
            String::from_utf8_lossy(&std::fs::read(console).unwrap_or_default()).into_owned();
        let mut rest = text.as_str();
        let missing = says.iter().find(|wanted| match rest.split_once(**wanted) {
            Some((_, after)) => {
                rest = after;
                false
            }
            None => true,
        });
        let Some(missing) = missing else {
            return Ok(());
        };
        if Instant::now() > deadline {
            let tail: Vec<&str> = text.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("the console does not say {missing:?}\n{}", tail.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
