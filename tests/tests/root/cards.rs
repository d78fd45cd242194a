//! Cards that fail while they are flashed, as block devices of this kernel: one whose memory runs out, one that is too
//! small, and one that is pulled out. A loop device stands for the card: what it refuses comes as from any other, when it is
//! to be kept.

use anyhow::{Context, Result, ensure};
use kedge_image_build::flash::{Image, Stage, Target};
use kedge_image_build::process;
use kedge_sys::rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;

/// A block device over a file in a file system of its own size; both are gone with this value.
struct Card {
    folder: PathBuf,
    device: PathBuf,
}

impl Card {
    /// It says that it has `size` bytes, and keeps `kept` MiB.
    fn new(folder: &Path, size: u64, kept: u64) -> Result<Self> {
        std::fs::create_dir(folder)?;
        let options = std::ffi::CString::new(format!("size={kept}m"))?;
        mount(
            "kedge-test",
            folder,
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        )?;
        let backing = folder.join("card");
        File::create(&backing)?.set_len(size)?;
        let mut losetup = Command::new("losetup");
        let device = process::text(losetup.args(["--find", "--show"]).arg(&backing))?;
        Ok(Self {
            folder: folder.to_owned(),
            device: device.into(),
        })
    }

    /// What it kept is gone, and it takes and gives nothing more: as a card reader without its card.
    fn pull_out(&self) -> Result<()> {
        let backing = File::options().write(true).open(self.folder.join("card"))?;
        backing.set_len(0)?;
        process::run(
            Command::new("losetup")
                .arg("--set-capacity")
                .arg(&self.device),
        )
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // A test that failed has said why already.
        process::run(Command::new("losetup").arg("--detach").arg(&self.device)).ok();
        unmount(&self.folder, UnmountFlags::DETACH).ok();
    }
}

/// An image of so many MiB that is all data.
fn image(folder: &Path, size: usize) -> Result<Image> {
    let path = folder.join("image");
    let file = File::create(&path)?;
    file.write_all_at(&vec![7; size << 20], 0)?;
    Image::open(&path)
}

fn refusal(card: &Card, image: &Image) -> Result<String> {
    let target = Target::open(&card.device)?;
    let flashed = target.flash(image, &mut |_, _| {});
    let error = flashed.err().context("it was flashed")?;
    Ok(format!("{error:#}"))
}

#[test]
fn root_a_card_that_keeps_less_than_it_says_is_told_with_the_bytes() -> Result<()> {
    crate::own_mounts()?;
    let folder = tempfile::tempdir()?;
    let image = image(folder.path(), 24)?;
    let card = Card::new(&folder.path().join("card"), 32 * MIB, 8)?;
    let said = refusal(&card, &image)?;
    let device = card.device.display();
    for part in [
        format!("{device} has a part of the image"),
        format!("{device} did not keep what was written: some of bytes 0 to 25165824 is lost"),
        "it is still there".to_owned(),
        "Input/output error".to_owned(),
    ] {
        ensure!(said.contains(&part), "{part} is missing in: {said}");
    }
    Ok(())
}

#[test]
fn root_a_card_that_is_smaller_than_the_image_stays_as_it_was() -> Result<()> {
    crate::own_mounts()?;
    let folder = tempfile::tempdir()?;
    let image = image(folder.path(), 24)?;
    let card = Card::new(&folder.path().join("card"), 23 * MIB, 32)?;
    let said = refusal(&card, &image)?;
    ensure!(
        said.contains("takes 25165824 bytes, and /dev/loop") && said.contains("has 24117248"),
        "{said}"
    );
    let mut first = [1; 4096];
    File::open(&card.device)?.read_exact_at(&mut first, 0)?;
    ensure!(first == [0; 4096], "it was written");
    Ok(())
}

/// What is said of a card of 64 MiB that is pulled out when so much of an image of 48 MiB was written, or compared.
fn pulled_out(when: Stage, after: u64) -> Result<(PathBuf, String)> {
    crate::own_mounts()?;
    let folder = tempfile::tempdir()?;
    let image = image(folder.path(), 48)?;
    let card = Card::new(&folder.path().join("card"), 64 * MIB, 80)?;
    let target = Target::open(&card.device)?;
    let mut done = 0;
    let mut pulled = None;
    let flashed = target.flash(&image, &mut |stage, bytes| {
        if stage == when {
            done += bytes;
            if done >= after && pulled.is_none() {
                pulled = Some(card.pull_out());
            }
        }
    });
    pulled.context("it was not pulled out")??;
    let error = flashed.err().context("it was flashed")?;
    Ok((card.device.clone(), format!("{error:#}")))
}

#[test]
fn root_a_card_that_is_pulled_out_while_it_is_written_is_told_with_the_bytes() -> Result<()> {
    // The first 32 MiB are kept by then, and what comes next is refused as it is written.
    let (device, said) = pulled_out(Stage::Writing, 36 * MIB)?;
    for part in [
        format!(
            "{} has a part of the image, its first 37748736 bytes at most",
            device.display()
        ),
        "bytes 37748736 to 41943040 were not taken".to_owned(),
        "it is gone: was it pulled out?".to_owned(),
    ] {
        ensure!(said.contains(&part), "{part} is missing in: {said}");
    }
    Ok(())
}

/// Whether the kernel fails the last sync or forgets what it could not write is the kernel's: the card is never called good.
#[test]
fn root_a_card_that_is_pulled_out_before_it_kept_the_last_bytes_is_told() -> Result<()> {
    let (device, said) = pulled_out(Stage::Writing, 48 * MIB)?;
    let device = device.display();
    let lost =
        format!("{device} did not keep what was written: some of bytes 33554432 to 50331648");
    let unread = format!("bytes 0 to 4194304 of {device} cannot be read back");
    ensure!(said.contains(&lost) || said.contains(&unread), "{said}");
    ensure!(said.contains("it is gone: was it pulled out?"), "{said}");
    Ok(())
}

#[test]
fn root_a_card_that_is_pulled_out_while_it_is_compared_is_told_with_the_bytes() -> Result<()> {
    let (device, said) = pulled_out(Stage::Comparing, 1)?;
    for part in [
        format!("of {} cannot be read back", device.display()),
        "bytes 4194304 to 8388608".to_owned(),
        "it is gone: was it pulled out?".to_owned(),
    ] {
        ensure!(said.contains(&part), "{part} is missing in: {said}");
    }
    Ok(())
}
