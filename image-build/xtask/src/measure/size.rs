//! Sizes, of the product with one tiny container: what the system itself needs.
//!
//! `size.image` is what the disk image occupies: kernel, initramfs and an empty store; its holes are free.

use super::{Figure, subject};
use anyhow::Result;
use std::path::Path;

pub(super) fn measure(platform: &Path) -> Result<Vec<Figure>> {
    let folder = subject::fast_folder()?;
    let built = subject::build(folder.path(), platform, 1)?;
    Ok(vec![
        // The device binary is built without TLS as long as nothing on the device speaks it.
        Figure::bytes(
            "size.device-binary-without-tls",
            built.size("device-binary")?,
            Some(700_000),
        ),
        Figure::bytes("size.initramfs", built.size("initramfs")?, Some(1_000_000)),
        Figure::bytes("size.image", built.image_bytes, None),
    ])
}
