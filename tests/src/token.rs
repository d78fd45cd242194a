//! A token in a folder: SoftHSM, a PKCS#11 module whose keys are files, taken from Debian's package and not installed.
//!
//! It is loaded by programs of this machine, so it is of the machine's own suite.

use anyhow::{Context, Result};
use kedge_image_build::cache::{self, Cache};
use kedge_image_build::debian::{Archive, Status};
use kedge_image_build::{files, process, progress};
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "softhsm2";

/// The PIN of every token's user.
pub const PIN: &str = "271828";

/// SoftHSM with tokens of its own.
#[derive(Debug)]
pub struct Tokens {
    unpacked: PathBuf,
    /// Its configuration, for `SOFTHSM2_CONF`.
    pub configuration: PathBuf,
}

impl Tokens {
    /// Without a token; they will lie in `folder`.
    ///
    /// # Errors
    /// The package cannot be had, or the folder cannot be written.
    pub fn new(folder: &Path) -> Result<Self> {
        let tokens = folder.join("tokens");
        files::make_folder(&tokens)?;
        let configuration = folder.join("softhsm2.conf");
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        files::write(&configuration, text)?;
        Ok(Self {
            unpacked: unpacked()?,
            configuration,
        })
    }

    /// The module.
    #[must_use]
    pub fn module(&self) -> PathBuf {
        self.unpacked.join("usr/lib/softhsm/libsofthsm2.so")
    }

    /// Where the libraries are that it needs, for `LD_LIBRARY_PATH`.
    #[must_use]
    pub fn libraries(&self) -> PathBuf {
        self.unpacked.join("usr/lib/x86_64-linux-gnu")
    }

    /// The name of a key, or of a token if there is no label.
    #[must_use]
    pub fn uri(&self, token: &str, object: &str) -> String {
        let object = if object.is_empty() {
            String::new()
        } else {
            format!(";object={object}")
        };
        let module = self.module();
        format!(
            "pkcs11:token={token}{object}?module-path={}",
            module.display()
        )
    }

    /// Makes a token.
    ///
    /// # Errors
    /// SoftHSM's words.
    pub fn make(&self, label: &str) -> Result<()> {
        let so = "314159";
        self.run(&[
            "--init-token",
            "--free",
            "--label",
            label,
            "--so-pin",
            so,
            "--pin",
            PIN,
        ])
    }

    /// Puts a private key of any kind into a token, from a PKCS #8 file.
    ///
    /// # Errors
    /// SoftHSM's words.
    pub fn import(&self, token: &str, label: &str, file: &Path) -> Result<()> {
        let file = file.to_str().context("a path is not UTF-8")?;
        self.run(&[
            "--import", file, "--token", token, "--label", label, "--id", "0a", "--pin", PIN,
        ])
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(self.unpacked.join("usr/bin/softhsm2-util"));
        let module = self.module();
        command
            .args(words)
            .arg("--module")
            .arg(module)
            .env("SOFTHSM2_CONF", &self.configuration)
            .env("LD_LIBRARY_PATH", self.libraries());
        process::run(&mut command)
    }
}

fn unpacked() -> Result<PathBuf> {
    let cache = Cache::open()?;
    let release = files::read_text(Path::new("/etc/os-release"))?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no suite of Debian")?
        .trim_matches('"');
    let key = cache::key([suite, PACKAGE]);
    cache.entry("tools", &key, |folder| {
        progress::step(format!("unpacking {PACKAGE}"), || {
            let archive = Archive::open(&cache, suite)?;
            // The C library is the one of the program that loads it.
            let packages = archive.closure(&[PACKAGE], Status::Pretend(&["libc6"]))?;
            Archive::unpack(&archive.download(&packages)?, folder)
        })
    })
}
