//! What U-Boot runs on boards whose backend it is: our script, in the wrapping that it asks for.
//!
//! The script is `board-support/boot/u-boot.cmd` under a few lines from the board's file. The wrapping is U-Boot's legacy
//! image, so that no tool is needed: a header of 64 bytes, the length of the script, a zero, the script; all numbers are
//! big-endian. Source: U-Boot `include/image.h` (`struct legacy_img_hdr`), `boot/image-board.c`. A U-Boot that takes none of
//! those gets an image tree (`fit.rs`).
//!
//! It does not write the partition; what the script does is tested on machines (the tier `vm`).

use super::{fit, gpt};
use anyhow::{Result, bail};
use kedge_board_support::boards::{Architecture, Backend, Board, Load, Script};
use kedge_board_support::loading::gpt::Guid;
use kedge_board_support::record::{COPY, Slot, crc32};

/// The name under which U-Boot looks for it.
pub const FILE: &str = "boot.scr";
const TEXT: &str = include_str!("../../../board-support/boot/u-boot.cmd");
/// What the script says when a slot's kernel is about to run; the letter follows.
const STARTING: &str = "kedge: starting slot ";

const MAGIC: u32 = 0x2705_1956;
const LINUX: u8 = 5;
const SCRIPT: u8 = 6;
const NOT_COMPRESSED: u8 = 0;
const NAME: &[u8; 32] = b"kedge\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The script for a board whose boot record begins at `record`, bytes, of the disk `own`; its time is `time`, seconds since
/// 1970.
#[must_use]
pub fn make(board: &Board, record: u64, own: Guid, time: u64) -> Vec<u8> {
    let script = script(board, record, own);
    match board.boot.script {
        Script::Legacy => wrap(script.as_bytes(), board.architecture, time),
        Script::Fit => fit::wrap(script.as_bytes(), name(board.architecture), seconds(time)),
    }
}

/// Whether the board's U-Boot, or a firmware that takes the same, can start this kernel, so that no device finds out; `beginning` are its first 64 bytes.
///
/// # Errors
/// It is of another kind, such as the compressed ones that UEFI takes.
pub fn check_kernel(board: &Board, beginning: &[u8]) -> Result<()> {
    // Linux `Documentation/arch/arm64/booting.rst`, `Documentation/arch/riscv/boot-image-header.rst` and
    // `arch/arm/boot/compressed/head.S` (of a zImage, which unpacks itself).
    let (at, magic): (usize, &[u8]) = match board.architecture {
        Architecture::Arm64 => (56, b"ARM\x64"),
        Architecture::Riscv64 => (56, b"RSC\x05"),
        Architecture::Armv7 => (36, b"\x18\x28\x6f\x01"),
        Architecture::X86_64 | Architecture::Mipsel => return Ok(()),
    };
    if beginning
        .get(at..)
        .is_none_or(|rest| !rest.starts_with(magic))
    {
        let who = match board.boot.backend {
            Backend::Tryboot => "the firmware".to_owned(),
            Backend::Direct | Backend::UBoot | Backend::Uefi => {
                format!("U-Boot's `{}`", starter(board.architecture))
            }
        };
        bail!(
            "the kernel is no plain Linux image for {}, and {who} starts nothing else",
            board.architecture.debian()
        );
    }
    Ok(())
}

/// The slot that this line of the console says is started; nothing if it is another line.
#[must_use]
pub fn started(line: &str) -> Option<Slot> {
    Slot::from_letter(line.trim().strip_prefix(STARTING)?)
}

/// The kernel hears from which disk it comes: a card's system must not run on what an older one left on the board's eMMC.
fn script(board: &Board, record: u64, own: Guid) -> String {
    format!(
        "setenv kedge_arguments \"{} kedge.disk={own}\"\nsetenv kedge_start {}\n{}{}{}{TEXT}",
        board.arguments(),
        starter(board.architecture),
        tree(&board.boot.device_trees),
        board.boot.load.map(addresses).unwrap_or_default(),
        copies(record)
    )
}

/// The lines that say where the two copies of the loader record are; the machine's sectors have 512 bytes.
fn copies(record: u64) -> String {
    let one = record / gpt::SECTOR;
    let two = one + u64::try_from(COPY).unwrap_or(0) / gpt::SECTOR;
    format!("setenv kedge_one {one:x}\nsetenv kedge_two {two:x}\n")
}

/// The lines that set where to load to; U-Boot reads numbers as hexadecimal.
fn addresses(load: Load) -> String {
    let Load {
        kernel,
        device_tree,
        initramfs,
    } = load;
    format!(
        "setenv kernel_addr_r {kernel:x}\nsetenv fdt_addr_r {device_tree:x}\nsetenv ramdisk_addr_r {initramfs:x}\n\
         setenv kedge_text {:x}\n",
        initramfs.saturating_add(4)
    )
}

/// The lines that choose a slot's device tree.
fn tree(paths: &[String]) -> String {
    let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
    match paths {
        [] => "setenv kedge_tree\n".to_owned(),
        [one] => format!("setenv kedge_tree {}\n", name(one)),
        several => {
            let mut lines = "setenv kedge_tree\n".to_owned();
            for path in several {
                lines.push_str(&format!(
                    "if test \"${{fdtfile}}\" = {path}; then setenv kedge_tree {}; fi\n",
                    name(path)
                ));
            }
            lines
        }
    }
}

/// U-Boot's command that starts a kernel.
const fn starter(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Arm64 | Architecture::Riscv64 => "booti",
        Architecture::Armv7 => "bootz",
        Architecture::X86_64 => "zboot",
        Architecture::Mipsel => "bootm",
    }
}

fn wrap(script: &[u8], architecture: Architecture, time: u64) -> Vec<u8> {
    let mut body = length(script).to_be_bytes().to_vec();
    body.extend([0; 4]);
    body.extend(script);
    let time = seconds(time);
    let header = |checksum: u32| {
        let mut header = Vec::new();
        for field in [MAGIC, checksum, time, length(&body), 0, 0, crc32(&body)] {
            header.extend(field.to_be_bytes());
        }
        header.extend([LINUX, number(architecture), SCRIPT, NOT_COMPRESSED]);
        header.extend(NAME);
        header
    };
    let mut image = header(crc32(&header(0)));
    image.extend(body);
    image
}

/// A time beyond 2106 is no reason not to boot.
fn seconds(time: u64) -> u32 {
    u32::try_from(time).unwrap_or(u32::MAX)
}

/// U-Boot's name (`boot/image.c`, `uimage_arch`).
const fn name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Armv7 => "arm",
        Architecture::Mipsel => "mips",
        Architecture::Arm64 => "arm64",
        Architecture::X86_64 => "x86_64",
        Architecture::Riscv64 => "riscv",
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// `IH_ARCH_…`.
const fn number(architecture: Architecture) -> u8 {
    match architecture {
        Architecture::Armv7 => 2,
        Architecture::Mipsel => 5,
        Architecture::Arm64 => 22,
        Architecture::X86_64 => 24,
        Architecture::Riscv64 => 26,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_board_support::boards;

    fn board() -> Board {
        boards::find("qemu-arm64").unwrap()
    }

    fn field(image: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(*image[at..].first_chunk().unwrap())
    }

    #[test]
    fn the_wrapping_is_what_u_boot_checks_before_it_runs_a_script() {
        let image = make(&board(), 1 << 20, own(), 1_790_000_000);
        assert_eq!(field(&image, 0), 0x2705_1956);
        let mut header = image[..64].to_vec();
        header[4..8].fill(0);
        assert_eq!(field(&image, 4), crc32(&header), "ih_hcrc");
        assert_eq!(field(&image, 8), 1_790_000_000, "ih_time");
        let body = &image[64..];
        assert_eq!(field(&image, 12) as usize, body.len(), "ih_size");
        assert_eq!((field(&image, 16), field(&image, 20)), (0, 0));
        assert_eq!(field(&image, 24), crc32(body), "ih_dcrc");
        assert_eq!(
            image[28..32],
            [5, 22, 6, 0],
            "system, processor, type, compression"
        );
        let text = &body[8..];
        assert_eq!((field(body, 0) as usize, field(body, 4)), (text.len(), 0));
        assert_eq!(text, script(&board(), 1 << 20, own()).as_bytes());
    }

    /// Made by `mkimage -T script -C none -A arm64 -O linux -n kedge` 2023.01, with `SOURCE_DATE_EPOCH=1790000000`.
    #[test]
    fn the_bytes_are_those_of_mkimage() {
        let mut mkimage = b"\x27\x05\x19\x56\xbe\xb3\xcb\xa1\x6a\xb1\x3b\x80\x00\x00\x00\x13\
            \x00\x00\x00\x00\x00\x00\x00\x00\x3d\xb5\x5e\x6f\x05\x16\x06\x00kedge"
            .to_vec();
        mkimage.resize(64, 0);
        mkimage.extend(b"\x00\x00\x00\x0b\x00\x00\x00\x00echo hello\n");
        let ours = wrap(b"echo hello\n", Architecture::Arm64, 1_790_000_000);
        assert_eq!(ours, mkimage);
    }

    #[test]
    fn a_kernel_that_u_boot_cannot_start_is_refused() {
        let mut plain = b"MZ\x40\xfa".to_vec();
        plain.resize(56, 0);
        plain.extend(b"ARM\x64\x40\0\0\0");
        check_kernel(&board(), &plain).unwrap();
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.resize(64, 0);
        for kernel in [zboot.as_slice(), b"\x1f\x8b", b""] {
            let error = check_kernel(&board(), kernel).unwrap_err().to_string();
            assert!(error.contains("booti"), "{error}");
        }
    }

    #[test]
    fn each_architecture_has_a_mark_of_its_own() {
        for (architecture, at, mark) in [
            (Architecture::Armv7, 36, b"\x18\x28\x6f\x01"),
            (Architecture::Arm64, 56, b"ARM\x64"),
            (Architecture::Riscv64, 56, b"RSC\x05"),
        ] {
            let mut kernel = vec![0; 64];
            kernel[at..at + 4].copy_from_slice(mark);
            for board in boards::all().unwrap() {
                if board.boot.backend == boards::Backend::UBoot {
                    let taken = check_kernel(&board, &kernel).is_ok();
                    assert_eq!(taken, board.architecture == architecture, "{}", board.name);
                }
            }
        }
    }

    const DISK: &str = "01020304-0506-8708-890a-0b0c0d0e0f10";

    fn own() -> Guid {
        Guid::parse(DISK).unwrap()
    }

    #[test]
    fn the_boards_arguments_come_first() {
        let text = script(&board(), 1 << 20, own());
        let lines: Vec<&str> = text.lines().take(2).collect();
        let begin = "setenv kedge_arguments \"console=ttyAMA0 panic=1 oops=panic ";
        assert!(
            lines[0].starts_with(begin) && lines[0].ends_with(&format!(" kedge.disk={DISK}\"")),
            "{lines:?}"
        );
        assert_eq!(lines[1], "setenv kedge_start booti");
    }

    #[test]
    fn both_copies_of_the_record_are_named_by_their_sectors() {
        let text = script(&board(), 3 << 20, own());
        assert!(text.contains("setenv kedge_one 1800\nsetenv kedge_two 1808\n"));
    }

    /// Debian's U-Boot for the AM335x has no `setexpr`: a board with addresses of its own must do without.
    #[test]
    fn a_board_with_addresses_of_its_own_needs_no_arithmetic() {
        let script = script(&boards::find("beaglebone-black").unwrap(), 4 << 20, own());
        assert!(script.contains("setenv ramdisk_addr_r 88080000\nsetenv kedge_text 88080004\n"));
        let sums: Vec<_> = script
            .lines()
            .filter(|line| line.contains("setexpr") && !line.starts_with('#'))
            .collect();
        let [line] = sums.as_slice() else {
            panic!("{sums:?}");
        };
        let guard = "if test -z \"${kedge_text}\"; then setexpr kedge_text ";
        assert!(line.trim().starts_with(guard), "{line}");
    }

    #[test]
    fn pid_1_is_told_of_the_boards_led() {
        let text = script(&boards::find("orange-pi-zero").unwrap(), 1 << 20, own());
        let line = text.lines().next().unwrap();
        assert!(line.contains(" kedge.led=orangepi:green:pwr "), "{line}");
    }

    #[test]
    fn a_board_has_no_device_tree_or_one_or_that_of_u_boots_name() {
        let of = |paths: &[&str]| {
            tree(
                &paths
                    .iter()
                    .map(|path| (*path).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&[]), "setenv kedge_tree\n");
        assert_eq!(of(&["v/a.dtb"]), "setenv kedge_tree a.dtb\n");
        assert_eq!(
            of(&["v/a.dtb", "b.dtb"]),
            "setenv kedge_tree\n\
             if test \"${fdtfile}\" = v/a.dtb; then setenv kedge_tree a.dtb; fi\n\
             if test \"${fdtfile}\" = b.dtb; then setenv kedge_tree b.dtb; fi\n"
        );
    }

    /// U-Boot's own commands would read whatever disk is their first one.
    #[test]
    fn the_disk_is_chosen_before_it_is_read() {
        let mut lines = TEXT.lines().filter(|line| !line.starts_with('#'));
        let first = lines.find(|line| line.contains("${devtype}")).unwrap();
        assert_eq!(first, "${devtype} dev ${devnum}");
    }

    /// Debian's U-Boot for the AM335x is built with signatures, and so without legacy images.
    #[test]
    fn a_board_says_how_its_u_boot_wants_the_script() {
        for (board, magic) in [
            ("qemu-arm64", [0x27, 0x05, 0x19, 0x56]),
            ("beaglebone-black", [0xd0, 0x0d, 0xfe, 0xed]),
            ("orange-pi-pc-plus", [0xd0, 0x0d, 0xfe, 0xed]),
        ] {
            let made = make(&boards::find(board).unwrap(), 1 << 20, own(), 0);
            assert!(made.starts_with(&magic), "{board}");
        }
    }

    /// `load` sets `filesize`: what loads the initramfs is the last before the start that tells its size.
    #[test]
    fn the_initramfs_is_loaded_last() {
        let last = TEXT.rfind("load ${kedge_from}").unwrap();
        assert!(TEXT[last..].starts_with("load ${kedge_from} ${ramdisk_addr_r} initramfs"));
        assert!(TEXT[last..].contains("${ramdisk_addr_r}:${filesize} ${kedge_fdt}"));
    }

    #[test]
    fn only_the_keys_of_the_record_are_read_and_written() {
        let size = format!("{COPY:x}");
        let mut seen = 0;
        for line in TEXT.lines().filter(|line| !line.starts_with('#')) {
            for verb in ["env import -c", "env export -c"] {
                if let Some((_, words)) = line.split_once(verb) {
                    let words = words.trim_end_matches("; then");
                    assert!(words.ends_with(" slot_ok slot_try try_left"), "{line}");
                    assert!(words.split(' ').any(|word| word == size), "{line}");
                    seen += 1;
                }
            }
            assert!(
                !line.contains("saveenv") && !line.contains("env save"),
                "{line}"
            );
        }
        assert_eq!(seen, 2);
    }

    #[test]
    fn a_try_is_taken_off_and_written_before_the_trial_can_start() {
        let at = |text: &str| TEXT.find(text).unwrap_or_else(|| panic!("no {text:?}"));
        let order = [
            "setenv try_left ${kedge_left}",
            "write ${kernel_addr_r} ${kedge_first} 8",
            "write ${kernel_addr_r} ${kedge_record} 8",
            "setenv kedge_slot ${slot_try}",
            "${kedge_start} ${kernel_addr_r}",
        ]
        .map(at);
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn what_the_script_says_of_a_start_is_understood() {
        assert!(TEXT.contains(&format!("echo \"{STARTING}${{kedge_next}}\"")));
        assert_eq!(started("kedge: starting slot b"), Some(Slot::B));
        assert_eq!(started("kedge: starting slot a\r"), Some(Slot::A));
        for line in [
            "kedge: starting slot c",
            "web: kedge: starting slot a",
            "kedge: starting slot a b",
            "",
        ] {
            assert_eq!(started(line), None, "{line}");
        }
    }

    /// U-Boot's shell reads bytes, and its older one has no other way to go on in the next line.
    #[test]
    fn the_script_is_plain_ascii_in_short_lines() {
        let script = script(&board(), 1 << 20, own());
        // The board's arguments are one line, whatever their length.
        assert!(script.lines().skip(1).all(|line| line.len() <= 128));
        for line in script.lines() {
            let plain = line.bytes().all(|byte| (0x20..0x7f).contains(&byte));
            assert!(plain, "{line}");
            assert!(!line.ends_with('\\'), "{line}");
        }
    }
}
