//! A slot's partition: written anew with a revision's kernel, initramfs, arguments and other files, and read back.
//!
//! ```text
//! old boot sector away, flush ─▶ tables and files, flush ─▶ read back ─▶ boot sector, flush ─▶ read back
//! ```
//! A cut leaves a partition without a file system, which no loader starts, or the whole one. Nothing else than what
//! comes back from the disk counts, once the pages are dropped: objects by their digests, the rest byte by byte.

use super::super::Error;
use super::file_error;
use super::refused::Refused;
use kedge_board_support::record::Slot;
use kedge_board_support::slot::{self, File as Entry, Layout, Piece, Teller};
use kedge_board_support::statement;
use kedge_revision::revision::Envelope;
use kedge_revision::{ObjectId, verity};
use kedge_store::{Store, durable};
use kedge_sys::rustix::fs::{Advice, CWD, Mode, OFlags, fadvise, openat};
use kedge_sys::{Errno, block};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is copied at once.
const CHUNK: usize = 64 * 1024;
/// What is overwritten first: more than the boot sector, one block of every disk.
const BLANK: [u8; 4096] = [0; 4096];

/// What a file of the slot holds.
#[derive(Debug)]
enum Source {
    Object {
        file: File,
        path: PathBuf,
        id: ObjectId,
        size: u64,
    },
    Text(Vec<u8>),
}

impl Source {
    fn length(&self) -> u64 {
        match self {
            Self::Object { size, .. } => *size,
            Self::Text(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
        }
    }
}

/// The files of a slot, by name.
type Sources<'a> = Vec<(&'a str, Source)>;

/// A slot that is written.
#[derive(Debug)]
struct Target {
    file: File,
    path: PathBuf,
}

/// Writes the revision into the partition `device`, and reads it back.
///
/// # Errors
/// What exactly failed; then the partition may hold no file system any more.
pub(super) fn write(
    store: &Store,
    (id, envelope): (ObjectId, &Envelope),
    place: (Slot, Teller),
    device: &Path,
) -> Result<(), Refused> {
    let sources = sources(store, envelope, place)?;
    let (target, size) = Target::open(device)?;
    let entries = entries(&sources);
    let [a, b, c, d, ..] = *id.digest();
    let serial = u32::from_le_bytes([a, b, c, d]);
    let layout = Layout::new(size, serial, &entries).map_err(Error::Slot)?;
    target.put(&BLANK, 0)?;
    target.sync()?;
    for piece in layout.pieces() {
        target.fill(&piece, &sources)?;
    }
    target.sync()?;
    // First what a loader would start: without a boot sector it starts nothing of a slot that was not kept. Where this is the
    // committed slot, which comes back, the loader would go on trying it.
    target.read_back(&layout, &sources)?;
    target.put(layout.boot_sector(), 0)?;
    target.sync()?;
    target.read_sector_back(&layout).inspect_err(|_| {
        if target.put(&BLANK, 0).is_ok() {
            target.sync().ok();
        }
    })?;
    Ok(())
}

fn entries<'a>(sources: &Sources<'a>) -> Vec<Entry<'a>> {
    let entry = |(name, source): &(&'a str, Source)| Entry {
        name,
        length: source.length(),
    };
    sources.iter().map(entry).collect()
}

fn sources<'a>(
    store: &Store,
    envelope: &'a Envelope,
    (slot, teller): (Slot, Teller),
) -> Result<Sources<'a>, Refused> {
    let boot = &envelope.boot;
    let open = |id: ObjectId| -> Result<Source, Refused> {
        let listed = envelope.objects.get(&id);
        let object = listed.filter(|object| store.has(id, **object));
        let object =
            object.ok_or_else(|| Refused::conflict(format_args!("{id} is not in the store")))?;
        let path = store.object_path(id);
        let file = File::open(&path).map_err(failed("open", &path))?;
        Ok(Source::Object {
            file,
            path,
            id,
            size: object.size,
        })
    };
    // As the image of a disk has it.
    let line = slot::line(&boot.arguments, slot, teller);
    let mut sources = vec![
        ("kernel", open(boot.kernel)?),
        ("initramfs", open(boot.initramfs)?),
        ("cmdline.txt", Source::Text(line.into_bytes())),
    ];
    if let Some(statement) = boot.statement {
        sources.push((statement::FILE, open(statement)?));
    }
    for (name, id) in &boot.files {
        sources.push((name.as_str(), open(*id)?));
    }
    Ok(sources)
}

impl Target {
    /// Opens the partition for this alone: one that is mounted is refused (`EBUSY`).
    fn open(path: &Path) -> Result<(Self, u64), Error> {
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| failed("open", path)(errno.into()))?;
        let file = File::from(file);
        let size = match block::size(&file) {
            // A file that stands for a partition.
            Err(error) if error.errno == Errno::NOTTY => {
                file.metadata().map_err(failed("stat", path))?.len()
            }
            size => size.map_err(|error| failed("size", path)(error.errno.into()))?,
        };
        let path = path.to_owned();
        Ok((Self { file, path }, size))
    }

    fn put(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(failed("write", &self.path))
    }

    fn sync(&self) -> Result<(), Refused> {
        Ok(durable::sync(&self.file, &self.path)?)
    }

    fn fill(&self, piece: &Piece<'_>, sources: &Sources<'_>) -> Result<(), Error> {
        match *piece {
            Piece::Bytes { offset, bytes } => self.put(bytes, offset),
            Piece::File { offset, number } => match sources.get(number) {
                Some((_, Source::Text(text))) => self.put(text, offset),
                Some((
                    _,
                    Source::Object {
                        file, path, size, ..
                    },
                )) => chunks(file, path, 0, *size, &mut |at, bytes| {
                    self.put(bytes, offset.saturating_add(at))
                }),
                None => Ok(()),
            },
        }
    }

    fn read_back(&self, layout: &Layout, sources: &Sources<'_>) -> Result<(), Error> {
        self.drop_pages()?;
        for piece in layout.pieces() {
            match piece {
                Piece::Bytes { offset, bytes } => self.compare("a table", offset, bytes)?,
                Piece::File { offset, number } => match sources.get(number) {
                    Some((name, Source::Text(text))) => self.compare(name, offset, text)?,
                    Some((name, Source::Object { id, size, .. })) => {
                        self.judge(name, offset, *id, *size)?;
                    }
                    None => {}
                },
            }
        }
        Ok(())
    }

    fn read_sector_back(&self, layout: &Layout) -> Result<(), Error> {
        self.drop_pages()?;
        self.compare("the boot sector", 0, layout.boot_sector())
    }

    /// What is read next comes from the medium.
    fn drop_pages(&self) -> Result<(), Error> {
        fadvise(&self.file, 0, None, Advice::DontNeed)
            .map_err(|errno| failed("drop pages of", &self.path)(errno.into()))
    }

    fn compare(&self, what: &str, offset: u64, expected: &[u8]) -> Result<(), Error> {
        let mut rest = expected;
        let length = u64::try_from(expected.len()).unwrap_or(u64::MAX);
        chunks(&self.file, &self.path, offset, length, &mut |_, found| {
            rest = rest.strip_prefix(found).ok_or_else(|| self.differs(what))?;
            Ok(())
        })
    }

    fn judge(&self, what: &str, offset: u64, id: ObjectId, size: u64) -> Result<(), Error> {
        let mut builder = verity::Builder::new();
        chunks(&self.file, &self.path, offset, size, &mut |_, found| {
            builder.update(found);
            Ok(())
        })?;
        if builder.finish().id == id {
            Ok(())
        } else {
            Err(self.differs(what))
        }
    }

    fn differs(&self, what: &str) -> Error {
        Error::SlotReadBack {
            what: what.to_owned(),
            path: self.path.clone(),
        }
    }
}

/// What takes a piece of a file, with its place.
type Take<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Error> + 'a;

/// Hands `length` bytes of a file from `offset` on over in pieces, each with its place from there.
fn chunks(
    file: &File,
    path: &Path,
    offset: u64,
    length: u64,
    take: &mut Take<'_>,
) -> Result<(), Error> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0_u64;
    while done < length {
        let left = usize::try_from(length.saturating_sub(done)).unwrap_or(CHUNK);
        let bytes = buffer.get_mut(..left.min(CHUNK)).unwrap_or_default();
        file.read_exact_at(bytes, offset.saturating_add(done))
            .map_err(failed("read", path))?;
        take(done, bytes)?;
        done = done.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
    Ok(())
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| file_error(doing, path, source)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Device, INITRAMFS, KERNEL, draft};
    use super::super::tests::{noise, talk};
    use super::super::{Report, Request};
    use super::*;
    use crate::helpers::stage::trust::envelope_of;
    use kedge_board_support::slot::SECTOR;
    use kedge_revision::revision::{Draft, Object, ObjectKind};
    use std::io::Write as _;

    const STATEMENT: &[u8] = b"which of these files belong together";
    const TREE: &[u8] = b"where the machine has what";

    /// A device with a revision whose kernel and initramfs are in its store, and a file that stands for a slot.
    fn device() -> (Device, ObjectId, PathBuf) {
        let device = Device::new();
        let (kernel, initramfs) = (noise(900_001), noise(300_000));
        let mut draft: Draft = draft(1, &[]);
        let mut add = |bytes: &[u8], kind| {
            let id = device.put_object(bytes, kind);
            let size = bytes.len() as u64;
            draft.objects.insert(id, Object { size, kind });
            id
        };
        let kernel = add(&kernel, ObjectKind::Kernel);
        let initramfs = add(&initramfs, ObjectKind::Initramfs);
        (draft.boot.kernel, draft.boot.initramfs) = (kernel, initramfs);
        draft.boot.statement = Some(add(STATEMENT, ObjectKind::Statement));
        let tree = add(TREE, ObjectKind::BootFile);
        draft.boot.files.insert("board.dtb".parse().unwrap(), tree);
        let (id, document, signatures) = device.sign(draft);
        device
            .store
            .put_revision(id, &document, &signatures, "test")
            .unwrap();
        let slot = device.directory.path().join("slot");
        let file = File::create(&slot).unwrap();
        file.write_all_at(&[0xa5; 8192], 0).unwrap();
        file.set_len(8 << 20).unwrap();
        (device, id, slot)
    }

    fn ask(device: &Device, revision: ObjectId, slot: &Path) -> (bool, String) {
        ask_told(device, revision, slot, Teller::Loader)
    }

    fn ask_told(
        device: &Device,
        revision: ObjectId,
        slot: &Path,
        teller: Teller,
    ) -> (bool, String) {
        ask_beside(
            device,
            ObjectId::from_digest([9; 32]),
            revision,
            slot,
            teller,
        )
    }

    /// While this one is committed.
    fn ask_beside(
        device: &Device,
        committed: ObjectId,
        revision: ObjectId,
        slot: &Path,
        teller: Teller,
    ) -> (bool, String) {
        let mut answer = None;
        talk(device, committed, |talk| {
            talk.send(Request::WriteSlot {
                slot: Slot::B,
                teller,
                revision,
                device: slot.to_str().unwrap(),
            });
            let frame = talk.receive();
            let Report::SlotWritten { ok, text } = Report::decode(&frame).unwrap() else {
                panic!("{frame:?}")
            };
            answer = Some((ok, text.to_owned()));
        });
        answer.unwrap()
    }

    #[test]
    fn a_slot_holds_its_revision() {
        let (device, id, slot) = device();
        assert_eq!(ask(&device, id, &slot), (true, String::new()));
        let image = std::fs::read(&slot).unwrap();
        let find = |bytes: &[u8]| image.windows(bytes.len()).any(|found| found == bytes);
        assert!(find(&noise(900_001)) && find(&noise(300_000)) && find(b"quiet\n"));
        assert!(find(STATEMENT) && find(TREE));
        // Once more, over what is there.
        assert!(ask(&device, id, &slot).0);
        assert_eq!(std::fs::read(&slot).unwrap(), image);
    }

    #[test]
    fn where_no_loader_tells_the_slot_says_that_it_is_slot_b() {
        let (device, id, slot) = device();
        let read = || {
            let image = std::fs::read(&slot).unwrap();
            let find = |bytes: &[u8]| image.windows(bytes.len()).any(|found| found == bytes);
            (find(b"kedge.written-to=b quiet\n"), find(b"kedge."))
        };
        assert!(ask_told(&device, id, &slot, Teller::Slot(None)).0);
        assert_eq!(read(), (true, true));
        assert!(ask_told(&device, id, &slot, Teller::Loader).0);
        assert_eq!(read(), (false, false));
    }

    #[test]
    fn what_reads_back_otherwise_is_named() {
        let (device, id, slot) = device();
        let envelope = envelope_of(&device.store, id).unwrap();
        let place = (Slot::B, Teller::Loader);
        write(&device.store, (id, &envelope), place, &slot).unwrap();
        let sources = sources(&device.store, &envelope, place).unwrap();
        let entries = entries(&sources);
        let serial = u32::from_le_bytes(*id.digest().first_chunk().unwrap());
        let layout = Layout::new(8 << 20, serial, &entries).unwrap();
        let (target, _) = Target::open(&slot).unwrap();
        let read_back = || {
            target.read_sector_back(&layout)?;
            target.read_back(&layout, &sources)
        };
        read_back().unwrap();
        let places: Vec<u64> = layout
            .pieces()
            .map(|piece| match piece {
                Piece::Bytes { offset, .. } | Piece::File { offset, .. } => offset,
            })
            .collect();
        for (place, name) in [
            (0, "the boot sector"),
            (places[0] + 100, "a table"),
            (places[2] + 11, "a table"),
            (places[3] + 900_000, "kernel"),
            (places[4], "initramfs"),
            (places[5] + 5, "cmdline.txt"),
            (places[6] + 7, "statement.efi"),
            (places[7] + 7, "board.dtb"),
        ] {
            let mut byte = [0];
            target.file.read_exact_at(&mut byte, place).unwrap();
            target.put(&[byte[0] ^ 0x20], place).unwrap();
            let error = read_back().unwrap_err();
            assert!(
                matches!(&error, Error::SlotReadBack { what, .. } if what == name),
                "{error} instead of {name}"
            );
            target.put(&byte, place).unwrap();
        }
        read_back().unwrap();
    }

    /// A root that came since judges what is offered, and not what the device has committed.
    #[test]
    fn the_committed_revision_comes_back_under_a_newer_root() {
        let (mut device, id, slot) = device();
        let mut root = kedge_revision::Root::parse(&device.root).unwrap();
        root.version = 2;
        device.root = root.encode().unwrap();
        let (ok, text) = ask(&device, id, &slot);
        assert!(!ok && text.contains("root"), "{text}");
        let told = ask_beside(&device, id, id, &slot, Teller::Loader);
        assert_eq!(told, (true, String::new()));
        let path = device.store.revision_directory(id).join("revision.json");
        durable::write(&path, b"{}").unwrap();
        let (ok, text) = ask_beside(&device, id, id, &slot, Teller::Loader);
        assert!(!ok && text.contains("is lost"), "{text}");
    }

    /// What was written is not what was meant, as on a medium that is dying: no loader takes it for a slot.
    #[test]
    fn a_slot_that_was_not_kept_has_no_boot_sector() {
        let (device, id, slot) = device();
        assert!(ask(&device, id, &slot).0);
        let kernel = envelope_of(&device.store, id).unwrap().boot.kernel;
        let path = device.store.object_path(kernel);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[7] ^= 1;
        std::fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().write_all(&bytes).unwrap();
        let (ok, text) = ask(&device, id, &slot);
        assert!(!ok && text.contains("kernel"), "{text}");
        assert_eq!(std::fs::read(&slot).unwrap()[..SECTOR], [0; SECTOR]);
    }

    #[test]
    fn what_cannot_be_written_is_said_and_the_slot_is_left_alone_if_it_can_be_known_before() {
        let (device, id, slot) = device();
        let (ok, text) = ask(&device, id, Path::new("/nonexistent/slot"));
        assert!(
            !ok && text.contains("cannot open /nonexistent/slot"),
            "{text}"
        );
        let before = std::fs::read(&slot).unwrap();
        let file = File::options().write(true).open(&slot).unwrap();
        file.set_len(3 << 20).unwrap();
        file.set_len(8 << 20).unwrap();
        file.set_len(1 << 20).unwrap();
        let (ok, text) = ask(&device, id, &slot);
        assert!(!ok && text.contains("too few"), "{text}");
        assert_eq!(std::fs::read(&slot).unwrap(), before[..1 << 20]);
        let bare = device.put(2, &[], "test");
        for bytes in [KERNEL, INITRAMFS] {
            let (ok, text) = ask(&device, bare, &slot);
            assert!(!ok && text.contains("is not in the store"), "{text}");
            device.put_object(bytes, ObjectKind::Kernel);
        }
    }
}
