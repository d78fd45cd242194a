//! Packed images as a user makes and flashes them, and a pair for a device without a disk. What each range and each block must
//! be is tested beside the code.

use crate::command::{platform, project, workshop};
use anyhow::{Context, Result, ensure};
use kedge_image_build::files;
use kedge_tests::disk::Disk;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A path of what `kedge build` says.
fn path(folder: &Path, said: &Value, pointer: &str) -> Result<PathBuf> {
    let path = said.pointer(pointer).and_then(Value::as_str);
    Ok(folder.join(path.with_context(|| format!("no {pointer} in {said}"))?))
}

#[test]
fn host_a_packed_image_is_flashed_by_its_map() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?.display().to_string();
    let kedge = project(folder.path())?;
    let words = ["build", "--output", "raw.zst", "--platform", &platform];
    let built = kedge.ask(&words)?;
    let image = path(kedge.folder(), &built, "/image/path")?;
    let packed = path(kedge.folder(), &built, "/packed/path")?;
    let map = path(kedge.folder(), &built, "/packed/map")?;
    let size = image.metadata()?.len();

    let card = folder.path().join("card");
    File::create(&card)?.set_len(size)?;
    let (card, from) = (card.display().to_string(), packed.display().to_string());
    let words = ["flash", &card, "--image", &from, "--yes"];
    let done = kedge.ask(&words)?;
    let mapped = built.pointer("/packed/mapped").and_then(Value::as_u64);
    let left = size - mapped.context("nothing is mapped")?;
    ensure!(
        done.get("size") == Some(&json!(size)) && done.get("left") == Some(&json!(left)),
        "{done}"
    );
    Disk::copy_of(Path::new(&card))?.boot_record()?;

    // A map of another build, and one that was touched.
    let text = files::read_text(&map)?;
    let manifest = kedge.folder().join("kedge.toml");
    let other = files::read_text(&manifest)?.replace("version = \"", "version = \"9.");
    files::write(&manifest, other)?;
    kedge.ask(&["build", "--output", "raw.zst", "--platform", &platform])?;
    files::write(&map, &text)?;
    let (said, _) = kedge.refuse(&words)?;
    ensure!(
        said.contains("the image did not come onto")
            && said.contains("are not those that its block map"),
        "{said}"
    );
    files::write(&map, text.replace("<BlockSize> 4096", "<BlockSize> 512"))?;
    let (said, _) = kedge.refuse(&words)?;
    ensure!(said.contains("is no block map that can be used"), "{said}");

    // Too small is told before anything is written, and before anybody is asked.
    File::create(&card)?.set_len(size - 1)?;
    std::fs::remove_file(&map)?;
    let (said, _) = kedge.refuse(&["flash", &card, "--image", &from])?;
    ensure!(said.contains(&format!("takes {size} bytes")), "{said}");
    let first = files::read(Path::new(&card))?;
    ensure!(first.iter().all(|byte| *byte == 0), "it was written");
    Ok(())
}

#[test]
fn host_a_pair_is_the_same_twice() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?.display().to_string();
    let kedge = project(folder.path())?;
    let words = ["build", "--output", "ram", "--platform", &platform];
    let make = || -> Result<Vec<u8>> {
        let built = kedge.ask(&words)?;
        ensure!(built.get("image").is_none(), "{built}");
        let ram = path(kedge.folder(), &built, "/ram/path")?;
        files::read(&ram.join("initramfs"))
    };
    let first = make()?;
    ensure!(first == make()?, "the second differs");
    let (said, _) = kedge.refuse(&["run", "--ram", "--keep"])?;
    ensure!(said.contains("--keep"), "{said}");
    Ok(())
}
