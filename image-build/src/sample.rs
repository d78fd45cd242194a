//! A sample product of real software, for the demonstration and for trying the system: nginx, Redis and a small Python
//! program that needs both.
//!
//! Each image is an OCI layout in the cache (`oci/<key>`) of two layers: Debian packages merged without being installed
//! ([`debian::rootfs_tar`]), and a few files of ours from `sample/`. `kedge add` takes them like any other image. They
//! serve port 80 of the device: `/` is a page, `/visits` counts, and a `POST` to `/crash` ends the program.

use crate::cache::{self, Cache};
use crate::{debian, files};
use anyhow::{Context, Result};
use kedge_board_support::boards::Architecture;
use kedge_rootfs::{ImageProcess, LayoutImage, write_layout};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The suite whose packages are used.
const SUITE: &str = "trixie";
/// Changes when the bytes would, beside packages and files.
const RECIPE: &str = "sample 2";
/// Every file's time.
const STAMP: u64 = 1_767_225_600;

/// An image that was made, and how it wants to be added.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The container's name.
    pub name: &'static str,
    /// The OCI layout.
    pub layout: PathBuf,
    /// Arguments of `kedge add` beside image and `--name`.
    pub arguments: &'static [&'static str],
}

/// What one image is made of.
struct Recipe {
    name: &'static str,
    packages: &'static [&'static str],
    /// Path and text; of mode 0644.
    files: &'static [(&'static str, &'static str)],
    entrypoint: &'static [&'static str],
    ports: &'static [&'static str],
    stop_signal: Option<&'static str>,
    arguments: &'static [&'static str],
}

/// Redis is of the first group: what needs it starts when it answers.
const RECIPES: [Recipe; 3] = [
    Recipe {
        name: "redis",
        packages: &["redis-server"],
        files: &[("etc/redis/sample.conf", include_str!("sample/redis.conf"))],
        entrypoint: &["/usr/bin/redis-server", "/etc/redis/sample.conf"],
        ports: &["6379/tcp"],
        stop_signal: None,
        arguments: &[
            "--group",
            "platform",
            "--volume",
            "data=/data",
            "--health-tcp",
            "6379",
            "--memory",
            "64MiB",
        ],
    },
    Recipe {
        name: "visits",
        packages: &["python3-minimal"],
        files: &[("srv/visits.py", include_str!("sample/visits.py"))],
        entrypoint: &["/usr/bin/python3", "/srv/visits.py"],
        ports: &["8081/tcp"],
        stop_signal: None,
        arguments: &[
            "--group",
            "app",
            "--volume",
            "starts=/var/lib/visits",
            "--health-http",
            "8081/health",
            "--memory",
            "64MiB",
        ],
    },
    Recipe {
        name: "web",
        packages: &["nginx"],
        files: &[
            ("etc/nginx/nginx.conf", include_str!("sample/nginx.conf")),
            ("srv/www/index.html", include_str!("sample/index.html")),
        ],
        entrypoint: &["/usr/sbin/nginx"],
        ports: &["80/tcp"],
        stop_signal: Some("SIGQUIT"),
        arguments: &[
            "--group",
            "app",
            "--health-http",
            "80/",
            "--memory",
            "64MiB",
        ],
    },
];

/// Makes the images for a processor, or takes them from the cache.
///
/// # Errors
/// Packages cannot be fetched, or the cache cannot be written.
pub fn images(architecture: Architecture) -> Result<Vec<Sample>> {
    let make = |recipe| image(recipe, architecture, Edition::First);
    RECIPES.iter().map(make).collect()
}

/// What the web server's image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    /// The page that says "It holds."
    First,
    /// One that says "It holds, edition 2." and so on.
    Number(u32),
    /// The same with a file of [`Edition::LARGE`] bytes beside it that no compression makes smaller.
    Large(u32),
    /// A configuration with a mistake, at which nginx ends: what a bad day brings.
    Broken,
}

impl Edition {
    /// See [`Edition::Large`].
    pub const LARGE: u64 = 6 * 1024 * 1024;

    /// A file of the image in this edition.
    fn text(self, text: &str) -> String {
        match self {
            Self::First => text.to_owned(),
            Self::Number(number) | Self::Large(number) => {
                text.replace("It holds.", &format!("It holds, edition {number}."))
            }
            Self::Broken => text.replace("listen 80;", "lisen 80;"),
        }
    }
}

/// Makes the web server's image in another edition; only its small layer differs.
///
/// # Errors
/// As [`images`].
pub fn web(architecture: Architecture, edition: Edition) -> Result<Sample> {
    let [_, _, web] = &RECIPES;
    image(web, architecture, edition)
}

fn image(recipe: &Recipe, architecture: Architecture, edition: Edition) -> Result<Sample> {
    let packages = debian::rootfs_tar(recipe.packages, SUITE, architecture.debian())?;
    let contents: Vec<(&str, String)> = recipe
        .files
        .iter()
        .map(|(path, text)| (*path, edition.text(text)))
        .collect();
    let key = key(recipe, &contents, &packages);
    let layout = Cache::open()?.entry("oci", &key, |folder| {
        let own = own_layer(&contents, edition)?;
        let mut first =
            File::open(&packages).with_context(|| format!("cannot open {}", packages.display()))?;
        let image = LayoutImage {
            architecture: architecture.oci().to_owned(),
            process: process(recipe),
            reference: Some("sample".to_owned()),
        };
        write_layout(folder, &image, &mut [&mut first, &mut own.as_slice()])
            .with_context(|| format!("cannot write the image {}", recipe.name))?;
        Ok(())
    })?;
    Ok(Sample {
        name: recipe.name,
        layout,
        arguments: recipe.arguments,
    })
}

/// The folder of the packages' tar is itself named by all that went into it.
fn key(recipe: &Recipe, contents: &[(&str, String)], packages: &Path) -> String {
    let folder = packages
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default();
    let mut parts = vec![
        RECIPE.to_owned(),
        recipe.name.to_owned(),
        folder.to_string_lossy().into_owned(),
    ];
    parts.extend(
        contents
            .iter()
            .flat_map(|(path, text)| [(*path).to_owned(), text.clone()]),
    );
    parts.extend(
        recipe
            .entrypoint
            .iter()
            .chain(recipe.ports)
            .map(|word| (*word).to_owned()),
    );
    parts.extend(recipe.stop_signal.map(str::to_owned));
    cache::key(parts)
}

fn process(recipe: &Recipe) -> ImageProcess {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    ImageProcess {
        entrypoint: owned(recipe.entrypoint),
        exposed_ports: owned(recipe.ports),
        stop_signal: recipe.stop_signal.map(str::to_owned),
        ..ImageProcess::default()
    }
}

/// A tar of our own files; folders above them are those of the layer below.
fn own_layer(contents: &[(&str, String)], edition: Edition) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in contents {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(STAMP);
        header.set_size(u64::try_from(text.len())?);
        builder.append_data(&mut header, path, text.as_bytes())?;
    }
    if let Edition::Large(_) = edition {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(STAMP);
        header.set_size(Edition::LARGE);
        builder.append_data(&mut header, "srv/www/large", noise().as_slice())?;
    }
    Ok(builder.into_inner()?)
}

/// The same bytes each time, which look like none (xorshift64, Marsaglia 2003).
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::new();
    for _ in 0..Edition::LARGE / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Makes an OCI layout of one static program for this processor in `folder`, for measuring: nothing but the folders that a
/// container needs.
///
/// # Errors
/// The program cannot be read, or the folder cannot be written.
pub fn one_program(program: &Path, folder: &Path, architecture: Architecture) -> Result<()> {
    let bytes = files::read(program)?;
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["dev/", "proc/", "sys/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(STAMP);
        header.set_size(0);
        builder.append_data(&mut header, name, std::io::empty())?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(STAMP);
    header.set_size(u64::try_from(bytes.len())?);
    builder.append_data(&mut header, "program", bytes.as_slice())?;
    let layer = builder.into_inner()?;
    let image = LayoutImage {
        architecture: architecture.oci().to_owned(),
        process: ImageProcess {
            entrypoint: vec!["/program".to_owned()],
            ..ImageProcess::default()
        },
        reference: None,
    };
    write_layout(folder, &image, &mut [&mut layer.as_slice()])
        .context("cannot write the image of one program")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_rootfs::{Bounds, Source};

    #[test]
    fn an_image_of_one_program_is_an_image() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("p");
        files::write(&program, "\x7fELF").unwrap();
        let layout = folder.path().join("layout");
        one_program(&program, &layout, Architecture::X86_64).unwrap();
        Source::open(&format!("oci:{}", layout.display()), &Bounds::default()).unwrap();
    }

    #[test]
    fn names_follow_what_an_image_is_made_of() {
        let [redis, visits, web] = &RECIPES;
        let key = |recipe: &Recipe, edition: Edition, at: &str| {
            let contents = recipe.files.iter();
            let contents: Vec<_> = contents
                .map(|(path, text)| (*path, edition.text(text)))
                .collect();
            super::key(recipe, &contents, Path::new(at))
        };
        let at = "/cache/rootfs/0a/rootfs.tar";
        let first = key(redis, Edition::First, at);
        assert_eq!(first, key(redis, Edition::First, at));
        assert_ne!(first, key(visits, Edition::First, at));
        assert_ne!(
            first,
            key(redis, Edition::First, "/cache/rootfs/0b/rootfs.tar")
        );
        let editions = [
            Edition::First,
            Edition::Number(2),
            Edition::Number(3),
            Edition::Large(4),
            Edition::Broken,
        ];
        let keys: std::collections::BTreeSet<_> = editions
            .into_iter()
            .map(|edition| key(web, edition, at))
            .collect();
        assert_eq!(keys.len(), editions.len(), "an edition changes nothing");
    }

    #[test]
    fn our_layer_has_our_files() {
        let bytes = own_layer(&[("etc/a", "x".to_owned())], Edition::First).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().into_owned())
            .collect();
        assert_eq!(names, [Path::new("etc/a")]);
    }
}
