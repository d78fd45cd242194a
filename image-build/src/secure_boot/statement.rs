//! A slot's statement (`kedge_board_support::statement`) as a program for UEFI, still without a signature.
//!
//! ```text
//! 0x000  DOS header, PE header, two sections' headers
//! 0x200  .text   returns EFI_UNSUPPORTED, should anybody start it
//! 0x400  .kedge  the lines
//! ```
//! Source: Microsoft, "PE Format"; UEFI Specification 2.10, 2.1.1 and appendix D.

use super::program::X86_64;
use anyhow::{Context, Result};
use kedge_board_support::statement::{SECTION, Statement};
use sha2::{Digest, Sha256};

/// Bytes of headers, and what every part of the file begins on a multiple of.
const ALIGNMENT: u32 = 0x200;
/// Where sections are in memory: on pages.
const PAGE: u32 = 0x1000;
/// `movabs $EFI_UNSUPPORTED, %rax; ret`.
const CODE: [u8; 11] = [0x48, 0xb8, 3, 0, 0, 0, 0, 0, 0, 0x80, 0xc3];
/// A section of code that runs; one of data that is read.
const FLAGS: [u32; 2] = [0x6000_0020, 0x4000_0040];

/// The statement of a slot with these files.
///
/// # Errors
/// Never, of what is not absurdly large.
pub fn make(kernel: &[u8], initramfs: &[u8], line: &[u8]) -> Result<Vec<u8>> {
    let hashes = [kernel, initramfs, line].map(|bytes| Sha256::digest(bytes).into());
    let text = Statement { hashes }.to_string();
    program(text.as_bytes()).context("the slot's statement is too large")
}

fn program(text: &[u8]) -> Option<Vec<u8>> {
    let sections: [(&[u8; 8], &[u8], u32); 2] = [
        (b".text\0\0\0", &CODE, PAGE),
        (&SECTION, text, PAGE.checked_mul(2)?),
    ];
    let mut file = dos();
    file.extend(headers(u32::try_from(text.len()).ok()?)?);
    let mut at = ALIGNMENT;
    for ((name, contents, address), flags) in sections.iter().zip(FLAGS) {
        let (size, padded) = sizes(u32::try_from(contents.len()).ok()?)?;
        file.extend(*name);
        for field in [size, *address, padded, at, 0, 0, 0, flags] {
            file.extend(field.to_le_bytes());
        }
        at = at.checked_add(padded)?;
    }
    for (_, contents, _) in sections {
        let end = file
            .len()
            .next_multiple_of(usize::try_from(ALIGNMENT).ok()?);
        file.resize(end, 0);
        file.extend(contents);
    }
    file.resize(usize::try_from(at).ok()?, 0);
    Some(file)
}

/// A size, and what it takes in the file.
fn sizes(size: u32) -> Option<(u32, u32)> {
    Some((size, size.checked_next_multiple_of(ALIGNMENT)?))
}

/// What every PE file begins with: where its real header is.
fn dos() -> Vec<u8> {
    let mut header = vec![0; 64];
    header.splice(..2, *b"MZ");
    header.splice(60.., 64_u32.to_le_bytes());
    header
}

/// The signature, the file header and the optional header of a program with two sections, the second of `length` bytes.
fn headers(length: u32) -> Option<Vec<u8>> {
    let (_, code) = sizes(u32::try_from(CODE.len()).ok()?)?;
    let (_, data) = sizes(length)?;
    let image = PAGE
        .checked_mul(2)?
        .checked_add(length.checked_next_multiple_of(PAGE)?)?;
    let mut header = b"PE\0\0".to_vec();
    let mut word = |value: u16| header.extend(value.to_le_bytes());
    word(X86_64);
    word(2);
    // Time, symbols and their number: none. 240 bytes of optional header; it runs, and knows long addresses.
    [0, 0, 0, 0, 0, 0, 240, 0x22]
        .into_iter()
        .for_each(&mut word);
    // PE32+, of no linker.
    [0x20b, 0].into_iter().for_each(&mut word);
    let mut long = |value: u32| header.extend(value.to_le_bytes());
    // Code, data, none that is zero; where it begins, and where code does; where it would like to be loaded: anywhere.
    [code, data, 0, PAGE, PAGE, 0, 0]
        .into_iter()
        .for_each(&mut long);
    [PAGE, ALIGNMENT].into_iter().for_each(&mut long);
    // Versions: none. Then the sizes of image and headers, and a checksum that signing puts in.
    [0, 0, 0, 0, image, ALIGNMENT, 0]
        .into_iter()
        .for_each(&mut long);
    // A program for UEFI, whose pages are either written or run. Then stack and heap of no use to it.
    long(10 | 0x100 << 16);
    [0; 8].into_iter().for_each(&mut long);
    // No loader flags, and sixteen directories, all empty.
    [0, 16].into_iter().for_each(&mut long);
    [0; 32].into_iter().for_each(&mut long);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_board_support::statement::{MOST, section};

    #[test]
    fn a_statement_says_what_it_was_made_of() {
        let made = make(b"kernel", b"initramfs", b"quiet\n").unwrap();
        assert_eq!(made.len() % 0x200, 0);
        assert!(made.len() < MOST);
        let statement = Statement::of(&made).unwrap();
        let hash = |bytes: &[u8]| Sha256::digest(bytes).into();
        statement
            .judge([hash(b"kernel"), hash(b"initramfs"), hash(b"quiet\n")])
            .unwrap();
        assert_eq!(section(&made, *b".text\0\0\0"), Some(&CODE[..]));
        assert_eq!(make(b"kernel", b"initramfs", b"quiet\n").unwrap(), made);
        assert_ne!(make(b"kernel", b"initramfs", b"quiet \n").unwrap(), made);
    }
}
