//! A slot's statement: which kernel, initramfs and arguments belong together, in a form that firmware verifies.
//!
//! Secure Boot judges programs and nothing else. So the statement is a program for UEFI that nobody starts: its section
//! [`SECTION`] holds a line for each file of the slot, as `sha256sum` writes them, and whoever signs the program signs the lines.
//! A loader has the firmware verify it, as if it were to be started, and then compares the slot's files. None of them has a signature of its
//! own: a kernel that firmware starts is started with anybody's initramfs and arguments (see `program`).
//!
//! What is parsed here is only believed where the firmware said so: Secure Boot may be off, and then it tells damage from
//! what was written, and nothing of who wrote it.
//!
//! Source: Microsoft, "PE Format"; the technique is that of the addons of systemd-stub(7).

use crate::fields::{u16_at, u32_at};
use core::fmt;

/// The statement's name in a slot.
pub const FILE: &str = "statement.efi";
/// The section with the lines, as a PE file names it.
pub const SECTION: [u8; 8] = *b".kedge\0\0";
/// The files that it is about, in the order of its lines.
pub const FILES: [&str; 3] = ["kernel", "initramfs", "cmdline.txt"];
/// Largest program, bytes, signature included.
pub const MOST: usize = 64 * 1024;

/// A SHA-256.
pub type Hash = [u8; 32];

/// What a statement says: the hash of each of [`FILES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// In the order of [`FILES`].
    pub hashes: [Hash; 3],
}

/// Why a slot is not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Secure Boot is on, and nothing says that its files belong together.
    Absent,
    /// Its statement is none.
    NoStatement,
    /// This file is not what the statement says.
    Other(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "it has no {FILE}, and Secure Boot is on"),
            Self::NoStatement => write!(f, "its {FILE} says nothing of its files"),
            Self::Other(file) => write!(f, "its {file} is not the one that {FILE} names"),
        }
    }
}

impl Statement {
    /// Reads the statement of a program.
    ///
    /// # Errors
    /// [`Refusal::NoStatement`]: it is no program with a section of lines, or they are not the ones that [`lines`] writes.
    pub fn of(program: &[u8]) -> Result<Self, Refusal> {
        let text = section(program, SECTION).ok_or(Refusal::NoStatement)?;
        Self::parse(text).ok_or(Refusal::NoStatement)
    }

    fn parse(mut text: &[u8]) -> Option<Self> {
        let mut hashes = [[0; 32]; 3];
        for (hash, file) in hashes.iter_mut().zip(FILES) {
            let (digits, rest) = text.split_first_chunk::<64>()?;
            for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
                let [high, low] = *pair.first_chunk()?;
                *byte = nibble(high)? << 4 | nibble(low)?;
            }
            let rest = rest.strip_prefix(b"  ")?.strip_prefix(file.as_bytes())?;
            text = rest.strip_prefix(b"\n")?;
        }
        // A section is filled up with zeros.
        text.iter()
            .all(|byte| *byte == 0)
            .then_some(Self { hashes })
    }

    /// Compares a slot's files, hashed in the order of [`FILES`].
    ///
    /// # Errors
    /// [`Refusal::Other`] with the first that is another one.
    pub fn judge(&self, found: [Hash; 3]) -> Result<(), Refusal> {
        let mut pairs = self.hashes.iter().zip(found).zip(FILES);
        match pairs.find(|((said, found), _)| *said != found) {
            Some((_, file)) => Err(Refusal::Other(file)),
            None => Ok(()),
        }
    }
}

/// The lines, as `sha256sum kernel initramfs cmdline.txt` writes them in a slot.
impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (hash, file) in self.hashes.iter().zip(FILES) {
            for byte in hash {
                write!(f, "{byte:02x}")?;
            }
            writeln!(f, "  {file}")?;
        }
        Ok(())
    }
}

/// Whether a slot with this statement, or none, may be asked for its files at all.
///
/// # Errors
/// [`Refusal::Absent`] where the firmware verifies what it starts: then nothing would vouch for the initramfs.
pub const fn needed(secure_boot: bool, is_there: bool) -> Result<(), Refusal> {
    if secure_boot && !is_there {
        Err(Refusal::Absent)
    } else {
        Ok(())
    }
}

/// The contents of a section of a program, padding included.
#[must_use]
pub fn section(program: &[u8], name: [u8; 8]) -> Option<&[u8]> {
    let header = usize::try_from(u32_at(program, 60)?).ok()?;
    let is_program = program.starts_with(b"MZ") && program.get(header..)?.starts_with(b"PE\0\0");
    let count = usize::from(u16_at(program, header.checked_add(6)?)?);
    let optional = usize::from(u16_at(program, header.checked_add(20)?)?);
    let table = header.checked_add(24)?.checked_add(optional)?;
    let mut sections = program.get(table..)?.chunks_exact(40).take(count);
    let entry = sections.find(|section| section.starts_with(&name))?;
    // Of what is on disk, no more than is loaded: what lies behind is padding.
    let size = usize::try_from(u32_at(entry, 8)?.min(u32_at(entry, 16)?)).ok()?;
    let start = usize::try_from(u32_at(entry, 20)?).ok()?;
    let contents = program.get(start..start.checked_add(size)?)?;
    is_program.then_some(contents)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'a'..=b'f' => digit.checked_sub(b'a' - 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    const STATEMENT: Statement = Statement {
        hashes: [[0x1a; 32], [0xff; 32], [0; 32]],
    };

    /// A program with one section of these bytes.
    fn program(contents: &[u8]) -> Vec<u8> {
        let mut bytes = std::vec![0; 0x100];
        let size = u32::try_from(contents.len()).unwrap().to_le_bytes();
        let fields: [(usize, &[u8]); 8] = [
            (0, b"MZ"),
            (60, &64_u32.to_le_bytes()),
            (64, b"PE\0\0"),
            (70, &1_u16.to_le_bytes()),
            (88, &SECTION),
            (96, &size),
            (104, &size),
            (108, &0x100_u32.to_le_bytes()),
        ];
        for (at, field) in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
        }
        bytes.extend(contents);
        bytes
    }

    #[test]
    fn a_statement_reads_back_and_judges_each_file() {
        let text = STATEMENT.to_string();
        assert!(text.starts_with("1a1a") && text.ends_with("00  cmdline.txt\n"));
        let read = Statement::of(&program(text.as_bytes())).unwrap();
        assert_eq!(read, STATEMENT);
        let padded = text.clone() + "\0\0\0";
        assert_eq!(Statement::of(&program(padded.as_bytes())), Ok(STATEMENT));
        read.judge(STATEMENT.hashes).unwrap();
        for (number, file) in FILES.into_iter().enumerate() {
            let mut found = STATEMENT.hashes;
            found[number][31] ^= 1;
            assert_eq!(read.judge(found), Err(Refusal::Other(file)));
        }
    }

    #[test]
    fn what_says_something_else_is_no_statement() {
        let good = STATEMENT.to_string();
        let bad: [String; 6] = [
            String::new(),
            good.replace("  initramfs", " *initramfs"),
            good.replace("1a", "1A"),
            good.replace("initramfs", "initrd"),
            good.clone() + "more",
            good.lines()
                .rev()
                .map(|line| line.to_string() + "\n")
                .collect(),
        ];
        for text in bad {
            let result = Statement::of(&program(text.as_bytes()));
            assert_eq!(result, Err(Refusal::NoStatement), "{text}");
        }
        let whole = program(good.as_bytes());
        for length in 0..whole.len() {
            Statement::of(&whole[..length]).unwrap_err();
        }
    }

    #[test]
    fn secure_boot_asks_for_a_statement() {
        assert_eq!(needed(true, false), Err(Refusal::Absent));
        for (secure, is_there) in [(true, true), (false, true), (false, false)] {
            needed(secure, is_there).unwrap();
        }
    }
}
