//! What a firmware does before the kernel and QEMU's stand-in for one leaves out, for a 32-bit MIPS, little-endian, with an
//! i8259 at its usual ports (QEMU's malta): interrupts that devices share become level-triggered.
//!
//! Interrupts of PCI devices are shared and stay raised until every device on the line was served. Somebody has to tell the
//! interrupt controller so, in the registers 0x4d0 and 0x4d1 (Intel 82371AB, "ELCR1, ELCR2"): QEMU's few instructions in place
//! of a firmware do not (`hw/mips/malta.c`, `write_bootloader`), and Linux leaves them as they are. Edge-triggered, a device that
//! raises the line while another one's interrupt is served is never heard again, and with it everybody on that line.
//!
//! So a few instructions are put into the machine's memory below the kernel, and the kernel's file, a copy, names them as
//! where it begins. They run again at each reset, as the kernel does.

use super::Loaded;
use crate::files;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Instructions that run before the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    /// The file that holds them.
    pub file: PathBuf,
    /// Where in the machine's memory they lie.
    pub address: u32,
}

/// Behind the exception vectors and before the arguments, which QEMU's malta has at 0x2000.
const ADDRESS: u32 = 0x1000;
/// What is added to an address for it to be seen without a translation, by the cache (KSEG0) and past it (KSEG1).
const KSEG0: u32 = 0x8000_0000;
/// The ports of the PCI bus, as QEMU's instructions have just placed them, past the cache.
const PORTS: u32 = 0xb800_0000;
/// Where in an ELF file of 32 bits stands where the program begins (`e_entry`).
const ENTRY: std::ops::Range<usize> = 24..28;
/// Magic, 32 bits, little-endian.
const IDENTITY: [u8; 6] = *b"\x7fELF\x01\x01";
/// Where the machine stands, and MIPS (`e_machine`).
const MACHINE: (std::ops::Range<usize>, [u8; 2]) = (18..20, [8, 0]);

/// Makes `loaded` begin with a stub that makes these interrupts level-triggered; both files are put into `folder`.
///
/// # Errors
/// An interrupt that no i8259 has, a kernel that is no such program, a file that cannot be written.
pub(super) fn before(loaded: &Loaded, levels: &[u8], folder: &Path) -> Result<Loaded> {
    let mut kernel = files::read(&loaded.kernel)?;
    let named = || format!("{} cannot begin with a stub", loaded.kernel.display());
    let entry = redirect(&mut kernel).with_context(named)?;
    let copy = folder.join("kernel-behind-stub");
    files::write(&copy, kernel)?;
    let file = folder.join("stub");
    files::write(&file, instructions(entry, levels)?)?;
    Ok(Loaded {
        kernel: copy,
        stub: Some(Stub {
            file,
            address: ADDRESS,
        }),
        ..loaded.clone()
    })
}

/// Lets the program begin at the stub; answers where it began.
fn redirect(program: &mut [u8]) -> Result<u32> {
    let (place, mips) = MACHINE;
    let is = program.starts_with(&IDENTITY) && program.get(place) == Some(&mips);
    ensure!(is, "it is no ELF program for a little-endian 32-bit MIPS");
    let entry = program.get_mut(ENTRY).context("it ends within its head")?;
    let former = u32::from_le_bytes(entry.try_into().context("four bytes")?);
    entry.copy_from_slice(&(KSEG0 | ADDRESS).to_le_bytes());
    Ok(former)
}

/// The instructions, in the registers that a kernel expects nothing in.
fn instructions(entry: u32, levels: &[u8]) -> Result<Vec<u8>> {
    let mut mask = 0_u16;
    for line in levels {
        // Timer, keyboard, cascade, clock and coprocessor are what they are.
        if *line > 15 || [0, 1, 2, 8, 13].contains(line) {
            bail!("interrupt {line} of an i8259 cannot be level-triggered");
        }
        mask |= 1 << line;
    }
    let [low, high] = mask.to_le_bytes().map(u32::from);
    let words = [
        // lui t0, PORTS
        0x3c08_0000 | PORTS >> 16,
        // li t1, low; sb t1, 0x4d0(t0)
        0x2409_0000 | low,
        0xa109_04d0,
        // li t1, high; sb t1, 0x4d1(t0)
        0x2409_0000 | high,
        0xa109_04d1,
        // lui t2, entry; ori t2, t2, entry
        0x3c0a_0000 | entry >> 16,
        0x354a_0000 | entry & 0xffff,
        // jr t2; nop
        0x0140_0008,
        0,
    ];
    Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_board_support::record::Slot;

    fn program() -> Vec<u8> {
        let mut program = vec![0; 52];
        program[..6].copy_from_slice(&IDENTITY);
        program[18] = 8;
        program[24..28].copy_from_slice(&0x8057_1234_u32.to_le_bytes());
        program
    }

    #[test]
    fn a_kernel_begins_behind_the_stub() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        files::write(&kernel, program()).unwrap();
        let loaded = Loaded {
            slot: Slot::B,
            kernel: kernel.clone(),
            initramfs: "i".into(),
            arguments: "quiet".into(),
            stub: None,
        };
        let behind = before(&loaded, &[10, 11], folder.path()).unwrap();
        assert_eq!(behind.arguments, "quiet");
        assert_eq!(files::read(&kernel).unwrap(), program());
        let copy = files::read(&behind.kernel).unwrap();
        assert_eq!(copy[24..28], 0x8000_1000_u32.to_le_bytes());
        assert_eq!(
            (&copy[..24], &copy[28..]),
            (&program()[..24], &program()[28..])
        );
        let stub = files::read(&behind.stub.unwrap().file).unwrap();
        let words: Vec<u32> = stub
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        // As the MIPS32 instruction set has it (MD00086): lui, addiu, sb, ori, jr.
        let expected = [
            0x3c08_b800,
            0x2409_0000,
            0xa109_04d0,
            0x2409_000c,
            0xa109_04d1,
            0x3c0a_8057,
            0x354a_1234,
            0x0140_0008,
            0,
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn what_is_no_such_program_is_refused() {
        for at in [0, 4, 5, 18, 19] {
            let mut program = program();
            program[at] ^= 2;
            assert!(redirect(&mut program).is_err(), "byte {at}");
        }
        assert!(redirect(&mut program()[..26]).is_err());
        for line in [0, 1, 2, 8, 13, 16] {
            assert!(instructions(0, &[line]).is_err(), "interrupt {line}");
        }
    }
}
