//! Slots as a device lays them out, read by tools that share no code with it: mtools and fsck.vfat.

use anyhow::{Context, Result, ensure};
use kedge_board_support::slot::{File, Layout, Piece};
use kedge_image_build::image::fat;
use kedge_image_build::{files, process};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// A partition of `size` bytes in which something else stood, with these files.
fn write(path: &Path, size: u64, contents: &[(&str, Vec<u8>)]) -> Result<()> {
    let list: Vec<_> = contents
        .iter()
        .map(|(name, bytes)| File {
            name,
            length: bytes.len() as u64,
        })
        .collect();
    let layout = Layout::new(size, 0x4b45_4447, &list)?;
    let image = fs::File::create(path)?;
    for block in 0..64 {
        image.write_all_at(&[0xa5; 4096], block * 4096)?;
    }
    image.set_len(size)?;
    for piece in layout.pieces() {
        match piece {
            Piece::Bytes { offset, bytes } => image.write_all_at(bytes, offset)?,
            Piece::File { offset, number } => {
                let (_, bytes) = contents.get(number).context("a file of no number")?;
                image.write_all_at(bytes, offset)?;
            }
        }
    }
    image.write_all_at(layout.boot_sector(), 0)?;
    Ok(())
}

#[test]
fn host_a_slot_of_the_device_is_clean_and_every_tool_finds_its_files() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let contents = [
        ("kernel", vec![1; 3_000_001]),
        ("initramfs", vec![2; 1 << 20]),
        ("cmdline.txt", b"quiet panic=1\n".to_vec()),
        ("board-4-model-b.dtb", vec![3; 20_000]),
    ];
    for size in [5 << 20, 16 << 20, 64 << 20, 600 << 20] {
        let image = folder.path().join("slot");
        write(&image, size, &contents)?;
        let check = process::output(Command::new("fsck.vfat").arg("-n").arg(&image))?;
        let check = String::from_utf8(check)?;
        ensure!(check.contains("4 files"), "{size}: {check}");
        let listing = process::output(
            Command::new("mdir")
                .args(["-b", "-i"])
                .arg(&image)
                .arg("::/"),
        )?;
        let listing = String::from_utf8(listing)?;
        let names: Vec<_> = listing.lines().collect();
        ensure!(
            names
                == [
                    "::/kernel",
                    "::/initramfs",
                    "::/cmdline.txt",
                    "::/board-4-model-b.dtb"
                ],
            "{size}: {names:?}"
        );
        for (name, bytes) in &contents {
            let to = folder.path().join(name);
            fat::extract(&image, 0, name, &to)?;
            ensure!(files::read(&to)? == *bytes, "{size}: {name}");
            fs::remove_file(&to).context("cannot remove what was read")?;
        }
    }
    Ok(())
}
