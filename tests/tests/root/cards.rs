//! Cards that fail while they are flashed, as block devices of this kernel: one whose memory runs out, and one that is too
//! small. A loop device stands for the card: what it refuses comes as from any other, when it is to be kept.

use anyhow::{Context, Result, ensure};
use kedge_image_build::flash::{Image, Target};
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
}

impl Drop for Card {
    fn drop(&mut self) {
        // A test that failed has said why already.
        process::run(Command::new("losetup").arg("--detach").arg(&self.device)).ok();
        unmount(&self.folder, UnmountFlags::DETACH).ok();
    }
}

/// An image of 24 MiB that is all data.
fn image(folder: &Path) -> Result<Image> {
    let path = folder.join("image");
    let file = File::create(&path)?;
    file.write_all_at(&vec![7; 24 << 20], 0)?;
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
    let image = image(folder.path())?;
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
    let image = image(folder.path())?;
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
