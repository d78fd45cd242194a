//! Where a passphrase comes from: a prompt on the terminal, a file, an open descriptor. Never an argument or the
//! environment, which other processes can read.

use crate::terminal;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Longest passphrase, bytes.
const LONGEST: u64 = 1024;

/// A source of a passphrase.
#[derive(Clone)]
pub enum Passphrase {
    /// Ask on `/dev/tty`, without echo.
    Prompt,
    /// The first line of a file.
    File(PathBuf),
    /// The first line of what an inherited descriptor gives.
    Descriptor(u32),
    /// There is none to be had: a key that needs one is an error.
    Never,
    /// There is one, but it is the PIN of the release key's token, and no other key's business: a key for Secure Boot that needs a
    /// passphrase is an error.
    Withheld,
    /// Already known.
    Given(Zeroizing<String>),
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Prompt => "Prompt",
            Self::File(_) => "File",
            Self::Descriptor(_) => "Descriptor",
            Self::Never => "Never",
            Self::Withheld => "Withheld",
            Self::Given(_) => "Given",
        })
    }
}

impl Passphrase {
    /// A passphrase that is already known.
    #[must_use]
    pub fn given(text: &str) -> Self {
        Self::Given(Zeroizing::new(text.to_owned()))
    }

    /// Reads a file or descriptor now, so that several keys can be opened with what can be read only once.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_once(self) -> Result<Self> {
        match self {
            Self::File(_) | Self::Descriptor(_) => Ok(Self::Given(self.existing("")?)),
            Self::Prompt | Self::Never | Self::Withheld | Self::Given(_) => Ok(self),
        }
    }

    /// The passphrase of something that exists; `what` stands in the prompt.
    ///
    /// # Errors
    /// It cannot be had; the text says from where it could be.
    pub fn existing(&self, what: &str) -> Result<Zeroizing<String>> {
        match self {
            Self::Prompt => ask(&format!("Passphrase of {what}: ")),
            Self::File(path) => first_line(File::open(path), path),
            Self::Descriptor(number) => {
                let path = PathBuf::from(format!("/proc/self/fd/{number}"));
                first_line(File::open(&path), &path)
            }
            Self::Never => {
                bail!("{what} needs its passphrase: use --passphrase-file or --passphrase-fd")
            }
            Self::Withheld => bail!(
                "{what} needs its passphrase, and what is given is the PIN of the release key's token: use --secure-boot-passphrase-file or --secure-boot-passphrase-fd"
            ),
            Self::Given(text) => Ok(text.clone()),
        }
    }

    /// A passphrase for something new: a prompt asks twice.
    ///
    /// # Errors
    /// As [`Passphrase::existing`], or the two differ.
    pub fn new_one(&self, what: &str) -> Result<Zeroizing<String>> {
        let first = match self {
            Self::Prompt => ask(&format!("New passphrase for {what}: "))?,
            Self::File(_) | Self::Descriptor(_) | Self::Never | Self::Withheld | Self::Given(_) => {
                return self.existing(what);
            }
        };
        let second = ask("The same again: ")?;
        ensure!(
            *first == *second,
            "the two passphrases differ; nothing was written"
        );
        Ok(first)
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<String>> {
    let line = terminal::hidden(prompt).map_err(|error| {
        let given_up = error.is::<terminal::Interrupted>();
        let why = "cannot ask for a passphrase: use --passphrase-file or --passphrase-fd";
        if given_up { error } else { error.context(why) }
    })?;
    ensure!(!line.is_empty(), "the passphrase is empty");
    Ok(line)
}

fn first_line(file: std::io::Result<File>, path: &Path) -> Result<Zeroizing<String>> {
    let file =
        file.with_context(|| format!("cannot read the passphrase from {}", path.display()))?;
    let mut line = Zeroizing::new(String::with_capacity(256));
    BufReader::new(file.take(LONGEST))
        .read_line(&mut line)
        .with_context(|| format!("cannot read the passphrase from {}", path.display()))?;
    let length = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(length);
    ensure!(
        length > 0,
        "the first line of {} is empty; it must be the passphrase",
        path.display()
    );
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    #[test]
    fn a_file_gives_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        files::write(&path, "correct horse\nbattery").unwrap();
        assert_eq!(
            *Passphrase::File(path.clone()).existing("x").unwrap(),
            "correct horse"
        );
        files::write(&path, "\n").unwrap();
        assert!(
            Passphrase::File(path)
                .existing("x")
                .unwrap_err()
                .to_string()
                .contains("is empty")
        );
    }

    #[test]
    fn without_a_source_the_error_says_what_to_use() {
        let error = Passphrase::Never
            .existing("the key")
            .unwrap_err()
            .to_string();
        assert!(error.contains("--passphrase-file"), "{error}");
    }
}
