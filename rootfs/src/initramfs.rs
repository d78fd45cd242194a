//! Initramfs images: newc cpio, compressed with zstd (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! A pure function of its entries: sorted, inode numbers in that order, all times zero, all owners root. What is not here:
//! links (no initramfs of ours has any) and reading.

use std::collections::BTreeMap;
use std::io::Write;

use zstd::zstd_safe::CParameter;

use crate::error::Error;

/// Contents of an initramfs, by path without leading `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initramfs {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    /// Major and minor of a device node.
    device: (u32, u32),
    content: Vec<u8>,
}

const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// Level of compression: the image is made once and read at every boot.
const LEVEL: i32 = 19;

/// Window of 2 MiB: the kernel allocates it at boot, on devices of 32 MB too, and refuses more than 8 MiB.
const WINDOW_LOG: u32 = 21;

impl Initramfs {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, or changes the mode of one that was added for its entries. `mode`: permission bits.
    ///
    /// # Errors
    /// [`Error::Initramfs`] for a path that is empty, absolute, not normal, or taken by something else.
    pub fn directory(&mut self, path: &str, mode: u16) -> Result<(), Error> {
        self.add(
            path,
            DIRECTORY | u32::from(mode & 0o7777),
            (0, 0),
            Vec::new(),
        )
    }

    /// Adds a file.
    ///
    /// # Errors
    /// As [`Self::directory`], and for 4 GiB or more.
    pub fn file(&mut self, path: &str, mode: u16, content: Vec<u8>) -> Result<(), Error> {
        if u32::try_from(content.len()).is_err() {
            return Err(bad(path, "it is too large for cpio"));
        }
        self.add(path, REGULAR | u32::from(mode & 0o7777), (0, 0), content)
    }

    /// Adds a character device node.
    ///
    /// # Errors
    /// As [`Self::directory`].
    pub fn character_device(
        &mut self,
        path: &str,
        mode: u16,
        major: u32,
        minor: u32,
    ) -> Result<(), Error> {
        self.add(
            path,
            CHARACTER | u32::from(mode & 0o7777),
            (major, minor),
            Vec::new(),
        )
    }

    /// The archive, uncompressed.
    #[must_use]
    pub fn cpio(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // The kernel wants directories before what is in them; sorted paths are so.
        for (number, (path, entry)) in (1_u32..).zip(&self.entries) {
            append(&mut out, number, path, entry);
        }
        let end = Entry {
            mode: 0,
            device: (0, 0),
            content: Vec::new(),
        };
        append(&mut out, 0, "TRAILER!!!", &end);
        out
    }

    /// The archive, compressed as the kernel reads it.
    ///
    /// # Errors
    /// [`Error::Decompress`] if zstd fails, which takes a lack of memory.
    pub fn compressed(&self) -> Result<Vec<u8>, Error> {
        let failed = |e| Error::Decompress {
            at: "the initramfs".to_owned(),
            source: e,
        };
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map_err(failed)?;
        // A frame that states its size and fits one segment has a window as large as itself: the kernel refuses it from 8 MiB on.
        encoder
            .set_parameter(CParameter::ContentSizeFlag(false))
            .map_err(failed)?;
        encoder
            .set_parameter(CParameter::WindowLog(WINDOW_LOG))
            .map_err(failed)?;
        encoder.write_all(&self.cpio()).map_err(failed)?;
        encoder.finish().map_err(failed)
    }

    fn add(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        content: Vec<u8>,
    ) -> Result<(), Error> {
        let normal = |c: &str| !c.is_empty() && c != "." && c != "..";
        if !path.split('/').all(normal)
            || path.contains('\0')
            || path.len() > 4000
            || path == "TRAILER!!!"
        {
            return Err(bad(path, "the path must be relative and normal"));
        }
        for (slash, _) in path.match_indices('/') {
            let above = path.get(..slash).unwrap_or_default();
            let parent = Entry {
                mode: DIRECTORY | 0o755,
                device: (0, 0),
                content: Vec::new(),
            };
            let parent = self.entries.entry(above.to_owned()).or_insert(parent);
            if parent.mode & DIRECTORY == 0 {
                return Err(bad(path, "what is above it is no directory"));
            }
        }
        let entry = Entry {
            mode,
            device,
            content,
        };
        match self.entries.get_mut(path) {
            Some(old) if old.mode & mode & DIRECTORY != 0 => *old = entry,
            Some(_) => return Err(bad(path, "it is there twice")),
            None => {
                self.entries.insert(path.to_owned(), entry);
            }
        }
        Ok(())
    }
}

fn bad(path: &str, why: &'static str) -> Error {
    Error::Initramfs {
        path: path.to_owned(),
        why,
    }
}

/// Thirteen fields of eight hexadecimal digits after the magic, the name, the content; each padded to four bytes.
fn append(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) {
    let links = if entry.mode & DIRECTORY == DIRECTORY {
        2
    } else {
        1
    };
    // Sizes were checked when the entry was added.
    let size = u32::try_from(entry.content.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
    let (owner, group, time, device, check) = (0, 0, 0, (0, 0), 0);
    let fields = [
        inode,
        entry.mode,
        owner,
        group,
        links,
        time,
        size,
        device.0,
        device.1,
        entry.device.0,
        entry.device.1,
        name_size,
        check,
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(&entry.content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mode, inode, device minor, name and content of each entry.
    fn read(mut bytes: &[u8]) -> Vec<(u32, u32, u32, String, Vec<u8>)> {
        let mut out = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let name_size = field(11) as usize;
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let start = (110 + name_size).next_multiple_of(4);
            let end = start + field(6) as usize;
            if name == "TRAILER!!!" {
                return out;
            }
            out.push((
                field(1),
                field(0),
                field(10),
                name,
                bytes[start..end].to_vec(),
            ));
            bytes = &bytes[end.next_multiple_of(4)..];
        }
    }

    fn sample() -> Initramfs {
        let mut initramfs = Initramfs::new();
        initramfs.file("init", 0o755, b"#!".to_vec()).unwrap();
        initramfs
            .file("etc/kedge/product.json", 0o644, b"{}\n".to_vec())
            .unwrap();
        initramfs.directory("dev", 0o755).unwrap();
        initramfs
            .character_device("dev/console", 0o600, 5, 1)
            .unwrap();
        initramfs
    }

    #[test]
    fn reads_back() {
        let entries = read(&sample().cpio());
        let names: Vec<_> = entries.iter().map(|e| e.3.as_str()).collect();
        assert_eq!(
            names,
            [
                "dev",
                "dev/console",
                "etc",
                "etc/kedge",
                "etc/kedge/product.json",
                "init"
            ]
        );
        assert_eq!(entries[1].0, 0o020_600);
        assert_eq!((entries[1].1, entries[1].2), (2, 1));
        assert_eq!(entries[4].4, b"{}\n");
        assert_eq!(entries[5].0, 0o100_755);
    }

    #[test]
    fn order_of_adding_does_not_show() {
        let mut other = Initramfs::new();
        other.character_device("dev/console", 0o600, 5, 1).unwrap();
        other
            .file("etc/kedge/product.json", 0o644, b"{}\n".to_vec())
            .unwrap();
        other.file("init", 0o755, b"#!".to_vec()).unwrap();
        other.directory("dev", 0o755).unwrap();
        assert_eq!(other.compressed().unwrap(), sample().compressed().unwrap());
    }

    #[test]
    fn compressed_frame_has_a_small_window() {
        let mut initramfs = sample();
        initramfs.file("big", 0o644, vec![7; 12 << 20]).unwrap();
        let bytes = initramfs.compressed().unwrap();
        // Frame header descriptor: no content size, so not a single segment; then the window descriptor.
        assert_eq!(bytes[4] & 0b1110_0000, 0);
        assert_eq!(bytes[5] >> 3, u8::try_from(WINDOW_LOG - 10).unwrap());
        assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), initramfs.cpio());
    }

    #[test]
    fn refused_paths() {
        let mut initramfs = sample();
        for path in ["", "/init", "a/../b", "a//b", "init/x", "init", "a\0"] {
            assert!(initramfs.file(path, 0o644, Vec::new()).is_err(), "{path:?}");
        }
    }
}
