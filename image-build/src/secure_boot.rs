//! Secure Boot: what firmware starts is signed with the owner's key, and nothing else is started.
//!
//! Signed are the loader and each slot's [`statement`], which binds a kernel to its initramfs and arguments. The initramfs holds PID 1
//! and the trust root, so that what the firmware believes reaches to what the containers are. A kernel is not signed: whoever has one that
//! is can start it with an initramfs and arguments of his own, by anything that starts programs of the firmware.
//!
//! | module | does |
//! |---|---|
//! | [`keys`] | makes and reads the key and its certificate, PEM files as `sbsign` takes them |
//! | [`authenticode`] | signs a program |
//! | `program` | reads a program's headers |
//! | [`statement`] | makes a slot's statement |
//! | [`enrolment`] | gives a virtual machine's firmware the certificate |
//!
//! The same key and program give the same bytes: the signature has no time in it.

pub mod authenticode;
pub mod enrolment;
pub mod keys;
pub(crate) mod program;
pub mod statement;

pub use keys::{Certificate, Signer};

use crate::keys::{Passphrase, may_be_open};
use crate::project::Project;
use anyhow::{Context, Result};
use kedge_board_support::boards::{self, Backend};
use std::path::PathBuf;

impl Signer {
    /// The key that a project names, if it names one.
    ///
    /// # Errors
    /// As [`Signer::open`]; the project's board is not started by UEFI, or the project is one for production and the key without a
    /// passphrase.
    pub fn of(project: &Project, passphrase: &Passphrase) -> Result<Option<Self>> {
        let Some(text) = &project.manifest().secure_boot else {
            return Ok(None);
        };
        let name = project.manifest().board.as_str();
        let is_uefi = boards::find(name).is_ok_and(|board| board.boot.backend == Backend::Uefi);
        if !is_uefi {
            let why =
                format!("the board {name} is not started by UEFI, which Secure Boot is part of");
            let mistake = project.source().mistake(&["secure-boot"], why, None);
            return Err(mistake.into());
        }
        let path = |relative: &PathBuf| project.folder().join(relative);
        let key = path(&text.key);
        let signer = Self::open(&key, &path(&text.certificate), passphrase)?;
        if !signer.is_protected() {
            may_be_open(project.manifest().mode)
                .with_context(|| format!("{} has no passphrase", key.display()))?;
        }
        Ok(Some(signer))
    }
}
