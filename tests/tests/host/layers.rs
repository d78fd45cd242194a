//! Layers made by the real mkfs.erofs, read back by fsck.erofs.

use anyhow::{Context, Result, ensure};
use kedge_image_build::{files, process, tools};
use kedge_rootfs::{Error, Image, ImportOptions, Initramfs, Source};
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Imports a tar and returns what came of it.
fn import(tar: &[u8], out: &Path, mkfs: &[OsString]) -> Result<Image> {
    files::make_folder(out)?;
    let path = out.join("image.tar");
    files::write(&path, tar)?;
    import_path(&format!("tar:{}", path.display()), out, mkfs)
}

fn import_path(name: &str, out: &Path, mkfs: &[OsString]) -> Result<Image> {
    let options = ImportOptions {
        command: Some(vec!["/bin/true".into()]),
        ..ImportOptions::default()
    };
    let source = Source::open(name, &options.bounds)?;
    Ok(kedge_rootfs::import(
        &source,
        &options,
        mkfs,
        out,
        &mut |_| (),
    )?)
}

/// Unpacks the only layer; owners are kept where the user is root.
fn extract(image: &Image, to: &Path) -> Result<()> {
    ensure!(image.layers.len() == 1, "{} layers", image.layers.len());
    let layer = image.layers.first().context("no layer")?;
    let mut fsck = tools::fsck_erofs()?.command();
    process::run(
        fsck.arg(format!("--extract={}", to.display()))
            .arg("--overwrite")
            .arg(&layer.path),
    )
}

/// A member of a tar.
fn add(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    content: &[u8],
    change: impl FnOnce(&mut tar::Header),
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(u64::try_from(content.len())?);
    header.set_mtime(1_700_000_000);
    header.set_entry_type(tar::EntryType::Regular);
    change(&mut header);
    Ok(tar.append_data(&mut header, path, content)?)
}

fn sample() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let folder = |header: &mut tar::Header| {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o750);
        header.set_uid(33);
        header.set_gid(34);
    };
    add(&mut tar, "srv/", b"", folder)?;
    add(&mut tar, "srv/page", &b"hello ".repeat(2000), |header| {
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mode(0o640);
    })?;
    // Without owner: some writers leave blank what they do not know.
    add(&mut tar, "srv/empty", b"", |_| ())?;
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o777);
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    tar.append_link(&mut header, "srv/link", "page")?;
    Ok(tar.into_inner()?)
}

#[test]
fn host_layer_same_bytes_twice() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mkfs = tools::mkfs_erofs()?;
    let one = import(&sample()?, &folder.path().join("one"), &mkfs.argv)?;
    // A second later, in another folder: neither may be seen in the bytes.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let two = import(&sample()?, &folder.path().join("another"), &mkfs.argv)?;
    let bytes = |image: &Image| files::read(&image.layers.first().context("no layer")?.path);
    ensure!(bytes(&one)? == bytes(&two)?, "two imports differ");
    let ids: Vec<_> = [&one, &two]
        .iter()
        .flat_map(|image| &image.layers)
        .map(|layer| layer.id)
        .collect();
    ensure!(ids.first() == ids.last(), "{ids:?}");
    Ok(())
}

#[test]
fn host_layer_content_equals_source() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source");
    files::make_folder(&source.join("etc/deep/er"))?;
    files::write(
        &source.join("etc/deep/er/file"),
        (0..70_000_u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>(),
    )?;
    files::write(&source.join("empty"), b"")?;
    files::write_executable(&source.join("run"), b"#!/bin/sh\n")?;
    symlink("../run", source.join("etc/link"))?;
    fs::hard_link(source.join("run"), source.join("etc/same"))?;
    let out = folder.path().join("out");
    files::make_folder(&out)?;
    let image = import_path(
        &format!("dir:{}", source.display()),
        &out,
        &tools::mkfs_erofs()?.argv,
    )?;
    let back = folder.path().join("back");
    extract(&image, &back)?;
    process::run(
        Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(&source)
            .arg(&back),
    )?;
    let inode = |name: &str| -> Result<u64> { Ok(fs::metadata(back.join(name))?.nlink()) };
    let layer = &image.layers.first().context("no layer")?.path;
    let dump = process::text(tools::dump_erofs()?.command().arg("--path=/run").arg(layer))?;
    ensure!(
        dump.contains("Links: 2") || inode("run")? == 2,
        "a hard link became two files: {dump}"
    );
    Ok(())
}

#[test]
fn host_whiteout_is_char_0_0_and_opaque_xattr() -> Result<()> {
    let folder_in = |tar: &mut tar::Builder<Vec<u8>>, path: &str| {
        add(tar, path, b"", |header| {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
        })
    };
    let mut lower = tar::Builder::new(Vec::new());
    folder_in(&mut lower, "etc/")?;
    add(&mut lower, "etc/gone", b"x", |_| ())?;
    folder_in(&mut lower, "etc/old/")?;
    add(&mut lower, "etc/old/file", b"x", |_| ())?;
    let mut upper = tar::Builder::new(Vec::new());
    folder_in(&mut upper, "etc/")?;
    // A whiteout hides one name, an opaque mark all that lower layers have in a folder.
    add(&mut upper, "etc/.wh.gone", b"", |_| ())?;
    folder_in(&mut upper, "etc/old/")?;
    add(&mut upper, "etc/old/.wh..wh..opq", b"", |_| ())?;
    let folder = tempfile::tempdir()?;
    let layers = [lower.into_inner()?, upper.into_inner()?];
    let layout = layout(folder.path(), &layers)?;
    let out = folder.path().join("out");
    files::make_folder(&out)?;
    let image = import_path(
        &format!("oci:{}", layout.display()),
        &out,
        &tools::mkfs_erofs()?.argv,
    )?;
    let layer = &image.layers.get(1).context("no second layer")?.path;
    let gone = process::text(
        tools::dump_erofs()?
            .command()
            .arg("--path=/etc/gone")
            .arg(layer),
    )?;
    ensure!(gone.contains("char dev"), "{gone}");
    let bytes = files::read(layer)?;
    // EROFS keeps the name without its namespace: "overlay.opaque" of "trusted.".
    let opaque = bytes.windows(14).any(|window| window == b"overlay.opaque");
    ensure!(opaque, "no opaque mark in the layer");
    Ok(())
}

/// An OCI layout with these tars as layers.
fn layout(folder: &Path, layers: &[Vec<u8>]) -> Result<PathBuf> {
    let path = folder.join("layout");
    let image = kedge_rootfs::LayoutImage {
        architecture: "amd64".into(),
        ..kedge_rootfs::LayoutImage::default()
    };
    let mut readers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let mut readers: Vec<&mut dyn Read> = readers
        .iter_mut()
        .map(|reader| reader as &mut dyn Read)
        .collect();
    kedge_rootfs::write_layout(&path, &image, &mut readers)?;
    Ok(path)
}

#[test]
fn host_mtime_ids_and_modes_are_kept() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let image = import(&sample()?, folder.path(), &tools::mkfs_erofs()?.argv)?;
    let layer = &image.layers.first().context("no layer")?.path;
    let dump = process::text(
        tools::dump_erofs()?
            .command()
            .arg("--path=/srv/page")
            .arg(layer),
    )?;
    for wanted in ["Uid: 1000", "Gid: 1001", "Access: 0640", "2023-11-14"] {
        ensure!(dump.contains(wanted), "no {wanted:?} in: {dump}");
    }
    let dump = process::text(tools::dump_erofs()?.command().arg("--path=/srv").arg(layer))?;
    for wanted in ["Uid: 33", "Gid: 34", "Access: 0750"] {
        ensure!(dump.contains(wanted), "no {wanted:?} in: {dump}");
    }
    Ok(())
}

#[test]
fn host_mkfs_missing_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let missing = [OsString::from("/nonexistent/mkfs.erofs")];
    let Err(error) = import(&sample()?, folder.path(), &missing) else {
        anyhow::bail!("a missing mkfs.erofs was not noticed")
    };
    let words = format!("{error:#}");
    ensure!(words.contains("/nonexistent/mkfs.erofs"), "{words}");
    ensure!(
        error.downcast_ref::<Error>().is_some(),
        "no error of the importer: {error:?}"
    );
    Ok(())
}

#[test]
fn host_initramfs_read_by_cpio() -> Result<()> {
    kedge_image_build::debian::require(&["cpio", "zstd"], "read an initramfs")?;
    let mut archive = Initramfs::new();
    archive.directory("dev", 0o755)?;
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, b"program".to_vec())?;
    archive.file("etc/kedge/product.json", 0o644, b"{}".to_vec())?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("initramfs");
    files::write(&path, archive.compressed()?)?;
    let plain = folder.path().join("plain");
    process::run(
        Command::new("zstd")
            .args(["-q", "-d"])
            .arg(&path)
            .arg("-o")
            .arg(&plain),
    )?;
    let listing = process::text(
        Command::new("cpio")
            .args(["-t", "-v", "--quiet", "-n", "-F"])
            .arg(&plain),
    )?;
    for wanted in [
        "-rwxr-xr-x",
        "crw-------",
        "5,   1",
        "etc/kedge/product.json",
    ] {
        ensure!(listing.contains(wanted), "no {wanted:?} in:\n{listing}");
    }
    let target = folder.path().join("target");
    files::make_folder(&target)?;
    process::run(
        Command::new("cpio")
            .current_dir(&target)
            .args(["-i", "--quiet", "init", "etc/kedge/product.json", "-F"])
            .arg(&plain),
    )
    .ok();
    let console = fs::symlink_metadata(target.join("dev/console"));
    ensure!(
        console.is_err() || console.is_ok_and(|node| node.file_type().is_char_device()),
        "the console is no device"
    );
    Ok(())
}
