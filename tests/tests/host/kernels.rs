//! Our own kernels: the same bytes from the same sources. Builds for a quarter of an hour, so `cargo xtask test host --long` alone.

use anyhow::{Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::cache::Cache;
use kedge_image_build::{files, kernel};
use std::os::unix::fs::symlink;

#[test]
fn host_kernels_are_the_same_bytes_wherever_they_are_built() -> Result<()> {
    let real = Cache::open()?;
    let board = boards::find("qemu-x86-64")?;
    let one = kernel::own(&real, &board)?;
    // In the cache's place: a build is larger than many machines' `/tmp`. And a path of another length.
    let folder = tempfile::Builder::new()
        .prefix("a-kernel-once-more-")
        .tempdir_in(real.root())?;
    for shared in ["apt", "debs"] {
        symlink(real.root().join(shared), folder.path().join(shared))?;
    }
    let other = kernel::own(&Cache::at(folder.path())?, &board)?;
    for name in ["vmlinuz", "config"] {
        let [first, second] =
            [&one, &other].map(|kernel| files::read(&kernel.image.with_file_name(name)));
        ensure!(first? == second?, "two builds, and {name} is not the same");
    }
    let config = files::read_text(&one.image.with_file_name("config"))?;
    for (symbol, why) in [
        ("RUSTC_VERSION", "a Rust compiler"),
        ("PAHOLE_VERSION", "pahole"),
    ] {
        let line = format!("CONFIG_{symbol}=0");
        ensure!(
            config.lines().any(|found| found == line),
            "{why} of this machine is in it"
        );
    }
    Ok(())
}
