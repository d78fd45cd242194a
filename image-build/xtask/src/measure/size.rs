//! Sizes, of the product with one tiny container: what the system itself needs.
//!
//! `size.image` is what the disk image occupies: kernel, initramfs and an empty store; its holes are free.

use super::{Figure, subject};
use crate::project;
use anyhow::{Context, Result};
use kedge_image_build::toolchain;
use std::path::Path;

pub(super) fn measure(platform: &Path) -> Result<Vec<Figure>> {
    let folder = subject::fast_folder()?;
    let built = subject::build(folder.path(), platform, 1)?;
    Ok(vec![
        Figure::bytes(
            "size.device-binary",
            built.size("device-binary")?,
            Some(2_000_000),
        ),
        Figure::bytes(
            "size.device-binary-without-tls",
            without_tls(platform)?,
            Some(700_000),
        ),
        Figure::bytes("size.initramfs", built.size("initramfs")?, Some(1_000_000)),
        Figure::bytes("size.image", built.image_bytes, None),
    ])
}

/// What is left of the device binary when nobody talks to a hub.
fn without_tls(platform: &Path) -> Result<u64> {
    let binary = toolchain::build_device(&project::board(platform)?, &[])?;
    let size =
        std::fs::metadata(&binary).with_context(|| format!("cannot see {}", binary.display()));
    Ok(size?.len())
}
