//! Whose programs an image holds. A configuration says so, but nobody checks it, and a root file system has none.
//!
//! An image is refused whose programs are all for other processors: what it brings as data (a firmware, a test's sample) may be
//! for any. Source: the ELF header of the System V ABI, `e_ident` and `e_machine`.

use super::spool::Spool;
use super::tree::{LeafKind, Node, Tree};
use crate::error::Error;
use crate::options::oci_architecture;
use std::io::Read;
use std::path::Path;

/// Bytes of an ELF header up to the end of `e_machine`.
const HEADER: usize = 20;
const EXECUTABLE: u16 = 0o111;

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    /// A program for each processor that there is one for: OCI's name and the path of the first.
    found: Vec<(&'static str, String)>,
}

impl Programs {
    /// Takes a layer in.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub(crate) fn look(&mut self, tree: &Tree, spool: &Spool, folder: &Path) -> Result<(), Error> {
        for (path, node) in tree.nodes() {
            let Node::Leaf(leaf) = node else { continue };
            let LeafKind::File(content) = leaf.kind else {
                continue;
            };
            if leaf.meta.mode & EXECUTABLE == 0 {
                continue;
            }
            let mut header = Vec::with_capacity(HEADER);
            spool
                .reader(content)
                .take(20)
                .read_to_end(&mut header)
                .map_err(Error::io("read a temporary file in", folder))?;
            let Some(machine) = machine(&header) else {
                continue;
            };
            if self.found.iter().all(|(known, _)| *known != machine) {
                let path = String::from_utf8_lossy(path).into_owned();
                self.found.push((machine, path));
            }
        }
        Ok(())
    }

    /// Judges them all.
    ///
    /// # Errors
    /// [`Error::Foreign`].
    pub(crate) fn judge(&self, wanted: Option<&str>) -> Result<(), Error> {
        let Some(wanted) = wanted.map(oci_architecture) else {
            return Ok(());
        };
        let fits = self.found.iter().any(|(machine, _)| *machine == wanted);
        match self.found.first() {
            Some((found, path)) if !fits => Err(Error::Foreign {
                wanted: wanted.to_owned(),
                found: format!("{path} is for {found}"),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// OCI's name for the processor of a program; none if it is no ELF file, or one that no kernel knows the kind of.
fn machine(header: &[u8]) -> Option<&'static str> {
    let header: &[u8; HEADER] = header.try_into().ok()?;
    let [class, order, version] = [header[4], header[5], header[6]];
    let is_known = (1..=2).contains(&class) && (1..=2).contains(&order) && version == 1;
    if !header.starts_with(b"\x7fELF") || !is_known {
        return None;
    }
    let bytes = [header[18], header[19]];
    let is_little = order == 1;
    let number = if is_little {
        u16::from_le_bytes(bytes)
    } else {
        u16::from_be_bytes(bytes)
    };
    Some(match (number, class, is_little) {
        (3, 1, true) => "386",
        (8, 1, true) => "mipsle",
        (8, 2, true) => "mips64le",
        (8, 1, false) => "mips",
        (8, 2, false) => "mips64",
        (20, 1, false) => "ppc",
        (21, 2, true) => "ppc64le",
        (21, 2, false) => "ppc64",
        (22, 2, false) => "s390x",
        (40, 1, true) => "arm",
        (62, 2, true) => "amd64",
        (183, 2, true) => "arm64",
        (243, 2, true) => "riscv64",
        (258, 2, true) => "loong64",
        _ => "another processor",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a program; class 2 has 64 bits, order 1 is little-endian.
    pub(crate) fn head(class: u8, order: u8, number: u16) -> Vec<u8> {
        let mut head = b"\x7fELF".to_vec();
        head.extend([class, order, 1]);
        head.resize(18, 0);
        head.extend(if order == 1 {
            number.to_le_bytes()
        } else {
            number.to_be_bytes()
        });
        head
    }

    #[test]
    fn processors_are_told_apart() {
        let of = |class, order, number| machine(&head(class, order, number));
        assert_eq!(of(2, 1, 62), Some("amd64"));
        assert_eq!(of(1, 1, 62), Some("another processor"), "x32");
        assert_eq!(of(2, 1, 183), Some("arm64"));
        assert_eq!(of(2, 2, 183), Some("another processor"), "big-endian ARM");
        assert_eq!(of(1, 1, 40), Some("arm"));
        assert_eq!(of(1, 1, 8), Some("mipsle"));
        assert_eq!(of(1, 2, 8), Some("mips"));
        assert_eq!(of(2, 1, 243), Some("riscv64"));
        assert_eq!(
            machine(&b"#!/bin/sh\nexit 0 # longer than a head"[..HEADER]),
            None
        );
        assert_eq!(machine(&head(2, 1, 62)[..19]), None);
        assert_eq!(machine(&head(3, 1, 62)), None, "a third class");
        assert_eq!(machine(&b"\x7fELF and then whatever"[..HEADER]), None);
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let name = oci_architecture(std::env::consts::ARCH);
        assert_eq!(machine(&own[..HEADER]), Some(name));
    }

    #[test]
    fn one_program_that_fits_is_enough_and_data_is_not_asked() {
        let judged = |found: &[&'static str], wanted: Option<&str>| {
            let found = found.iter().map(|name| (*name, "bin/x".to_owned()));
            let programs = Programs {
                found: found.collect(),
            };
            programs.judge(wanted).map_err(|error| error.to_string())
        };
        assert_eq!(judged(&[], Some("arm64")), Ok(()));
        assert_eq!(judged(&["amd64"], None), Ok(()));
        assert_eq!(judged(&["amd64"], Some("x86-64")), Ok(()));
        assert_eq!(judged(&["amd64", "arm64"], Some("arm64")), Ok(()));
        assert_eq!(
            judged(&["amd64", "386"], Some("arm64")).unwrap_err(),
            "the board needs programs for arm64, and those of the image are for others: bin/x is for amd64"
        );
    }
}
