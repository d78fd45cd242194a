//! What UEFI runs on boards whose backend it is: our loader, with the board's kernel arguments in it.
//!
//! The loader is `board-support/efi`, built with the platform. It has a section `.kedge` of zeros, and the arguments are
//! written there, ended by a zero: not into a file beside it, so that a signature of the loader is one of them, too.
//! It lies where firmware looks on a disk that it knows nothing of, on two partitions: an update writes neither.
//!
//! Source: Microsoft, "PE Format"; UEFI Specification 2.10, 3.5.1.1 (removable media).

use crate::secure_boot::program::{Program, X86_64};
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::boards::Board;

/// The loader's name in the folder `/EFI/BOOT`.
pub const FILE: &str = "BOOTX64.EFI";
/// The partitions that have it.
pub const PARTITIONS: [&str; 2] = ["boot", "boot-copy"];

const SECTION: &[u8; 8] = b".kedge\0\0";

/// The loader with the board's arguments.
///
/// # Errors
/// It is no such loader, or has no room for them.
pub fn make(board: &Board, mut loader: Vec<u8>) -> Result<Vec<u8>> {
    let place = section(&loader)?;
    let arguments = board.arguments();
    let arguments = arguments.as_bytes();
    let room = loader
        .get_mut(place)
        .context("its section .kedge is beyond its end")?;
    ensure!(
        room.iter().all(|byte| *byte == 0),
        "it has arguments already"
    );
    ensure!(
        arguments.len() < room.len(),
        "it has room for {} bytes of kernel arguments, and the board has {}",
        room.len(),
        arguments.len()
    );
    room.iter_mut()
        .zip(arguments)
        .for_each(|(to, from)| *to = *from);
    Ok(loader)
}

/// Whether UEFI can start this kernel, so that no device finds out; `beginning` are its first 4096 bytes.
///
/// # Errors
/// It is no program for UEFI on x86-64.
pub fn check_kernel(beginning: &[u8]) -> Result<()> {
    let is_program = Program::of(beginning).is_ok_and(|program| program.machine == X86_64);
    if !is_program {
        bail!("the kernel is no program for UEFI on x86-64: it is built without CONFIG_EFI_STUB");
    }
    Ok(())
}

/// Where the contents of the section for arguments are.
fn section(bytes: &[u8]) -> Result<std::ops::Range<usize>> {
    let sections = Program::of(bytes)?.sections.into_iter();
    let mut named = sections.filter(|section| section.name == *SECTION);
    let section = named.next().context("it has no section .kedge")?;
    let start = section.file.start;
    // What lies behind, up to its end in the file, is padding.
    let most = start.saturating_add(section.memory);
    Ok(start..section.file.end.min(most))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kedge_board_support::boards;

    /// A program with one section, `.kedge`, of so many zeros.
    pub(crate) fn program(room: u32) -> Vec<u8> {
        let mut bytes = vec![0; 0x200];
        let fields: [(usize, &[u8]); 9] = [
            (0, b"MZ"),
            (60, &64_u32.to_le_bytes()),
            (64, b"PE\0\0"),
            (68, &X86_64.to_le_bytes()),
            (70, &1_u16.to_le_bytes()),
            (88, SECTION),
            (96, &room.to_le_bytes()),
            (104, &room.to_le_bytes()),
            (108, &0x200_u32.to_le_bytes()),
        ];
        for (at, field) in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
        }
        bytes.resize(0x200 + room as usize, 0);
        bytes
    }

    #[test]
    fn the_boards_arguments_are_in_the_loader() {
        let mut board = boards::find("pc-x86-64").unwrap();
        board.led = Some("ACT".to_owned());
        let made = make(&board, program(1024)).unwrap();
        let text = made[0x200..].split(|byte| *byte == 0).next().unwrap();
        assert_eq!(text, board.arguments().as_bytes());
        assert!(text.ends_with(b" kedge.led=ACT"));
        assert!(make(&board, made).is_err(), "twice");
        let tight = u32::try_from(board.arguments().len()).unwrap();
        assert!(make(&board, program(tight)).is_err(), "no room for the end");
        assert!(make(&board, program(tight + 1)).is_ok());
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let board = boards::find("pc-x86-64").unwrap();
        for length in 0..0x200 {
            let cut = program(1024)[..length].to_vec();
            make(&board, cut).unwrap_err();
        }
        check_kernel(&program(0)).unwrap();
        check_kernel(b"MZ").unwrap_err();
        check_kernel(&[0; 4096]).unwrap_err();
    }
}
