//! Images of registries (OCI distribution specification 1.1): pulled into the cache, and from there read as an OCI layout.
//!
//! A pull is four requests: the manifest by its tag or digest, perhaps the manifest of the board's platform behind an index,
//! the configuration, and each layer. Everything is bounded before it is read, and compared with its digest before it has a
//! name. What a tag came to is part of the name that a project keeps, so that the same project gives the same layers later;
//! what has a digest and is in the cache needs no registry.
//!
//! It pushes nothing, and keeps no logins: it reads those of docker, podman and skopeo.

mod blobs;
pub mod challenge;
mod client;
pub mod credentials;
pub mod manifest;
mod origin;
pub mod reference;
mod tls;

use crate::cache::Cache;
use crate::files;
use anyhow::{Context, Result, bail, ensure};
use blobs::Blobs;
use client::Client;
use credentials::Login;
use kedge_rootfs::Bounds;
use manifest::{Descriptor, Document, LARGEST, Platform};
use reference::{Digest, Reference};
use std::path::PathBuf;
use std::time::Duration;

/// Indexes within indexes: far above what any tool writes.
const MOST_NESTING: usize = 3;

/// What of the usual care is given up for a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insecure {
    /// Plain HTTP.
    Http,
    /// TLS with whoever answers.
    UnverifiedTls,
}

/// How a registry is asked.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Who asks; else what the user's own files say.
    pub login: Option<Login>,
    /// What is given up; nothing if absent.
    pub insecure: Option<Insecure>,
    /// Authorities that are believed beside the machine's own.
    pub authority: Option<PathBuf>,
}

/// What happens meanwhile.
#[derive(Debug, Clone, Copy)]
pub enum News<'a> {
    /// So many bytes are to come, or are here already.
    Total(u64),
    /// So many more bytes are here.
    Bytes(u64),
    /// So many bytes have to come again.
    Back(u64),
    /// A request failed and is made again after a pause.
    Waiting {
        /// Why it failed.
        why: &'a anyhow::Error,
        /// How long the pause is.
        pause: Duration,
    },
}

/// Tells a person who waits of what does not go well; for verbs that show no bytes.
pub fn tell(news: News<'_>) {
    if let News::Waiting { why, pause } = news {
        crate::progress::say(format_args!(
            "! {}; again in {}",
            why.root_cause(),
            crate::progress::seconds(pause)
        ));
    }
}

/// An image that is in the cache.
#[derive(Debug)]
pub struct Pulled {
    /// Its name with the digest that it came to.
    pub reference: Reference,
    /// An OCI layout with this image alone.
    pub layout: PathBuf,
}

/// Pulls an image for a platform.
///
/// # Errors
/// The registry cannot be reached, refuses, or lies; there is no such image, or none for the platform; a bound is exceeded.
pub fn pull(
    reference: &Reference,
    access: &Access,
    platform: &Platform,
    bounds: &Bounds,
    news: &mut dyn FnMut(News<'_>),
) -> Result<Pulled> {
    let cache = Cache::open()?;
    let mut pull = Pull {
        reference,
        access,
        blobs: Blobs::open(&cache)?,
        client: None,
        news,
    };
    let (digest, image) = pull
        .image(platform, bounds)
        .with_context(|| format!("cannot pull {reference}"))?;
    let layout = layout(&cache, &image)?;
    Ok(Pulled {
        reference: reference.pinned(digest),
        layout,
    })
}

/// What a manifest named.
struct Image {
    manifest: Descriptor,
}

struct Pull<'a> {
    reference: &'a Reference,
    access: &'a Access,
    blobs: Blobs,
    client: Option<Client>,
    news: &'a mut dyn FnMut(News<'_>),
}

impl Pull<'_> {
    /// Everything of the image; returns what its name came to, and its own manifest.
    fn image(&mut self, wanted: &Platform, bounds: &Bounds) -> Result<(Digest, Image)> {
        let mut version = self.reference.version();
        let mut named = None;
        for _ in 0..=MOST_NESTING {
            let (bytes, stated) = self.manifest(&version)?;
            let digest = Digest::of(&bytes);
            let named = named.get_or_insert_with(|| digest.clone()).clone();
            let document = manifest::parse(&bytes, stated.as_deref(), bounds.layers)
                .with_context(|| format!("the manifest {digest}"))?;
            match document {
                Document::Index(entries) => {
                    let entry = manifest::pick(&entries, wanted)?;
                    version = entry.descriptor.digest.to_string();
                }
                Document::Manifest {
                    media_type,
                    config,
                    layers,
                } => {
                    self.contents(&config, &layers, wanted, bounds)?;
                    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    let manifest = Descriptor {
                        media_type,
                        digest,
                        size,
                    };
                    return Ok((named, Image { manifest }));
                }
            }
        }
        bail!("its indexes name indexes more than {MOST_NESTING} deep")
    }

    /// By its digest a manifest is taken from the cache; a tag is asked for each time.
    fn manifest(&mut self, version: &str) -> Result<(Vec<u8>, Option<String>)> {
        if let Ok(digest) = version.parse()
            && let Some(bytes) = self.blobs.manifest(&digest)?
        {
            return Ok((bytes, None));
        }
        let client = match &mut self.client {
            Some(client) => client,
            None => self
                .client
                .insert(Client::new(self.reference, self.access)?),
        };
        self.blobs.fetch_manifest(client, version, self.news)
    }

    fn contents(
        &mut self,
        config: &Descriptor,
        layers: &[Descriptor],
        wanted: &Platform,
        bounds: &Bounds,
    ) -> Result<()> {
        ensure!(
            config.size <= LARGEST,
            "its configuration has {} bytes, and {LARGEST} are taken at most",
            config.size
        );
        let mut total = config.size;
        for layer in layers {
            total = total.saturating_add(layer.size);
        }
        ensure!(
            total <= bounds.unpacked,
            "its layers have {total} bytes, and {} are taken at most",
            bounds.unpacked
        );
        (self.news)(News::Total(total));
        let path = self.fetch(config)?;
        self.check(&path, wanted)?;
        for layer in layers {
            self.fetch(layer)?;
        }
        Ok(())
    }

    fn fetch(&mut self, blob: &Descriptor) -> Result<PathBuf> {
        let (reference, access) = (self.reference, self.access);
        let mut make = || Client::new(reference, access);
        self.blobs
            .fetch(&mut make, &mut self.client, blob, self.news)
    }

    /// Before hundreds of megabytes come for another machine.
    fn check(&self, config: &std::path::Path, wanted: &Platform) -> Result<()> {
        let platform: Platform = serde_json::from_slice(&files::read(config)?)
            .context("its configuration does not say what it is for")?;
        ensure!(
            platform.rank(wanted) > 0,
            "the board needs an image for {wanted}, and this one is for {platform}\nhelp: build and push it for {wanted}, too, or choose another tag"
        );
        Ok(())
    }
}

/// A layout with this image alone; its blobs are the cache's.
fn layout(cache: &Cache, image: &Image) -> Result<PathBuf> {
    let Image { manifest } = image;
    cache.entry("registry/images", manifest.digest.hex(), |folder| {
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": manifest.media_type,
                "digest": manifest.digest.to_string(),
                "size": manifest.size,
            }],
        });
        files::write(&folder.join("index.json"), index.to_string())?;
        files::write(
            &folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        let blobs = folder.join("blobs");
        std::os::unix::fs::symlink("../../blobs", &blobs)
            .with_context(|| format!("cannot make {}", blobs.display()))
    })
}
