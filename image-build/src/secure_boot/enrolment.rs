//! A virtual machine whose firmware trusts one certificate: OVMF's variables with it in the three places, and Secure Boot on.
//!
//! A real machine's firmware is told by its owner, in its own menus; docs/uefi.md says how. The variables' file has a format of
//! EDK II's own, which virt-firmware writes.

use crate::cache::Cache;
use crate::{process, python};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// On PyPI, with the one thing that it needs for this and does not bring.
const REQUIREMENTS: [&str; 2] = ["virt-firmware==26.10", "setuptools==80.9.0"];
/// Whom the entries are said to be of: nobody asks.
const OWNER: &str = "6b656467-6500-4000-8000-6f776e657200";

/// Writes `variables`: those of `fresh`, and the certificate as platform key, key exchange key, and in `db`.
///
/// # Errors
/// The tool cannot be fetched, or refuses one of the files.
pub fn enrol(fresh: &Path, variables: &Path, certificate: &Path) -> Result<()> {
    let modules = python::modules(
        &Cache::open()?,
        "tools",
        "virt-firmware-26.10",
        &REQUIREMENTS,
        "fetching virt-firmware from PyPI: keys in a virtual machine's firmware",
    )?;
    let mut command = Command::new("/usr/bin/python3");
    command
        .env("PYTHONPATH", modules)
        .args(["-m", "virt.firmware.vars", "--loglevel", "warning"])
        .arg("--input")
        .arg(fresh)
        .arg("--output")
        .arg(variables);
    for place in ["--set-pk", "--add-kek", "--add-db"] {
        command.args([place, OWNER]).arg(certificate);
    }
    command.arg("--secure-boot");
    process::run(&mut command).context("cannot give the firmware the certificate for Secure Boot")
}
