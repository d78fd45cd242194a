//! Arguments for images of registries, and the bar that moves while one comes.

use super::Scene;
use crate::layers;
use crate::project::Project;
use crate::registry::credentials::Login;
use crate::registry::reference::Reference;
use crate::registry::{self, Access, News};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Longest password: tokens that are passwords have some kilobytes.
const LONGEST_PASSWORD: u64 = 64 * 1024;

/// How the registry of an image is asked. Without a login, those of docker, podman and skopeo are looked through.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registry")]
pub(super) struct RegistryArguments {
    /// Log in to the registry under this name, with one of the two below.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Take the password from the first line of standard input.
    #[arg(long, requires = "username", conflicts_with = "password_file")]
    password_stdin: bool,
    /// Take the password from the first line of a file.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// Believe the authorities in this file (PEM), too.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Do without encryption, or without knowing who answers; whoever is on the way then reads the login.
    #[arg(long, value_name = "HOW")]
    insecure: Option<Insecure>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Insecure {
    /// Plain HTTP.
    Http,
    /// TLS with any certificate.
    UnverifiedTls,
}

impl RegistryArguments {
    /// Whether any of them was given.
    pub(super) const fn is_given(&self) -> bool {
        self.username.is_some() || self.ca_file.is_some() || self.insecure.is_some()
    }

    /// What they say; a password is read now.
    pub(super) fn access(&self) -> Result<Access> {
        let login = match &self.username {
            Some(name) => Some(Login::new(name, self.password(name)?)?),
            None => None,
        };
        Ok(Access {
            login,
            insecure: self.insecure.map(|how| match how {
                Insecure::Http => registry::Insecure::Http,
                Insecure::UnverifiedTls => registry::Insecure::UnverifiedTls,
            }),
            authority: self.ca_file.clone(),
        })
    }

    fn password(&self, name: &str) -> Result<Zeroizing<String>> {
        if let Some(path) = &self.password_file {
            let file = std::fs::File::open(path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            return first_line(file, &path.display().to_string());
        }
        ensure!(
            self.password_stdin,
            "--username {name} comes with --password-stdin or --password-file; a password on the command line would be seen by all of this machine"
        );
        first_line(std::io::stdin().lock(), "standard input")
    }
}

fn first_line(from: impl Read, place: &str) -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    BufReader::new(from.take(LONGEST_PASSWORD))
        .read_line(&mut line)
        .with_context(|| format!("cannot read a password from {place}"))?;
    Ok(Zeroizing::new(
        line.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

/// Pulls an image for the project's board, and returns its name with the digest that it came to.
pub(super) fn pull(
    scene: &Scene,
    project: &Project,
    reference: &Reference,
    access: &Access,
) -> Result<Reference> {
    let bar = scene
        .output
        .bytes(&format!("pulling {}", reference.repository()), 0);
    let pulled = layers::pull(project, reference, access, &mut |news| match news {
        News::Total(bytes) => bar.set_length(bytes),
        News::Bytes(bytes) => bar.inc(bytes),
        News::Back(bytes) => bar.set_position(bar.position().saturating_sub(bytes)),
        News::Waiting { .. } => bar.suspend(|| registry::tell(news)),
    });
    bar.finish_and_clear();
    Ok(pulled?.reference)
}
