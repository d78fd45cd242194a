//! `kedge key secure-boot`: the keys that a machine's firmware is given by its owner.

use super::super::{PassphraseArguments, Scene};
use crate::keys::may_be_open;
use crate::secure_boot::Certificate;
use crate::secure_boot::keys::{self, ROLES};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Where they are, relative to the project.
const FOLDER: &str = "keys/secure-boot";

/// Make keys for Secure Boot, for the firmware of UEFI boards.
///
/// Three RSA keys with certificates, in keys/secure-boot: PK and KEK, which say who may change what a firmware trusts, and db, which
/// signs what it starts. With `[secure-boot]` in kedge.toml, `kedge build` signs with db; the .cer files are for the menus of firmware
/// (docs/uefi.md). The .key and .pem files are as sbsign takes them, and yours may stand in their place.
#[derive(Debug, Args)]
pub(super) struct SecureBoot {
    /// Keep them without a passphrase; development projects only.
    #[arg(long, conflicts_with_all = ["passphrase_file", "passphrase_fd"])]
    no_passphrase: bool,
    #[command(flatten)]
    passphrase: PassphraseArguments,
}

#[derive(Serialize)]
struct Made {
    folder: PathBuf,
    certificates: Vec<Named>,
}

#[derive(Serialize)]
struct Named {
    role: &'static str,
    subject: String,
}

impl SecureBoot {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let project = scene.project()?;
        let manifest = project.manifest();
        let phrase = if self.no_passphrase {
            may_be_open(manifest.mode)?;
            None
        } else {
            Some(
                self.passphrase
                    .source()?
                    .new_one("the keys for Secure Boot")?,
            )
        };
        let folder = project.folder().join(FOLDER);
        let phrase = phrase.as_ref().map(|text| text.as_str());
        keys::make(&folder, manifest.product.as_str(), phrase)?;
        let mut certificates = Vec::new();
        for role in ROLES {
            let certificate = Certificate::read(&folder.join(format!("{role}.pem")))?;
            let subject = certificate.subject();
            certificates.push(Named { role, subject });
        }
        let names: String = certificates
            .iter()
            .map(|named| format!("  {:<4} {}\n", named.role, named.subject))
            .collect();
        let mut words = format!("Keys for Secure Boot in {}:\n{names}", folder.display());
        if manifest.secure_boot.is_none() {
            words.push_str(&format!(
                "To sign with db, add to kedge.toml:\n\n[secure-boot]\nkey = \"{FOLDER}/db.key\"\ncertificate = \"{FOLDER}/db.pem\"\n"
            ));
        }
        let made = Made {
            folder,
            certificates,
        };
        scene.output.result(words.trim_end(), &made)
    }
}
