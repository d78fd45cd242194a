//! Manifests and indexes as a registry sends them: what of them a pull needs, and which image fits a board.
//!
//! `kedge-rootfs` reads the chosen manifest again and judges it as a whole; here only what leads to the next request is read.

use super::reference::{Digest, shown};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::fmt;

/// The media types that are asked for.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Largest manifest, index and configuration: what registries take at most (distribution specification 1.1, "Pushing manifests").
pub const LARGEST: u64 = 4 << 20;
/// Most entries of an index.
const MOST_ENTRIES: usize = 256;

/// Something in the registry, by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// What a program runs on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// As OCI names it: `linux`.
    pub os: String,
    /// As OCI names it: `amd64`.
    pub architecture: String,
    /// As OCI names it: `v7` of `arm`.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// What a board needs.
    #[must_use]
    pub fn linux(architecture: &str) -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// How well an image for `self` fits a board that needs `wanted`; 0 does not. 32-bit ARM boards are ARMv7, which runs
    /// what is older; AMD64 and ARM64 boards are the first of their variants.
    #[must_use]
    pub fn rank(&self, wanted: &Self) -> u8 {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return 0;
        }
        let variant = self.variant.as_deref().unwrap_or_default();
        match (self.architecture.as_str(), variant) {
            ("arm", "v7") => 4,
            ("arm", "") => 3,
            ("arm", "v6") => 2,
            ("arm", "v5") => 1,
            ("arm64", "" | "v8") | ("amd64", "" | "v1") => 4,
            ("arm" | "arm64" | "amd64", _) => 0,
            (_, "") => 4,
            (_, _) => 3,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", shown(&self.os), shown(&self.architecture))?;
        match self.variant.as_deref() {
            Some("") | None => Ok(()),
            Some(variant) => write!(f, "/{}", shown(variant)),
        }
    }
}

/// An image of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// What it is for, if the index says so.
    pub platform: Option<Platform>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Several images.
    Index(Vec<Entry>),
    /// One.
    Manifest {
        /// Its media type.
        media_type: String,
        /// Its configuration.
        config: Descriptor,
        /// Its layers, the lowest first.
        layers: Vec<Descriptor>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<std::collections::BTreeMap<String, serde_json::Value>>,
}

/// Reads what a registry sent as a manifest. `stated` is the media type that it stated for it.
///
/// # Errors
/// It is nothing that is known, is two things at once, or names something otherwise than by SHA-256.
pub fn parse(bytes: &[u8], stated: Option<&str>, most_layers: usize) -> Result<Document> {
    let raw: Raw = serde_json::from_slice(bytes).context("it is no manifest of an image")?;
    if raw.schema_version != 2 {
        bail!(
            "it is a manifest of schema {}, which was given up in 2017: push the image again with a newer tool",
            raw.schema_version
        );
    }
    // One document that two programs read differently is how a digest comes to stand for two images (CVE-2021-41190).
    let stated = stated
        .and_then(|stated| stated.split(';').next())
        .map(str::trim);
    if let (Some(own), Some(stated)) = (&raw.media_type, stated)
        && kind(own) != Kind::Unknown
        && kind(stated) != Kind::Unknown
    {
        ensure!(
            kind(own) == kind(stated),
            "the registry sends it as {}, and it calls itself {}",
            shown(stated),
            shown(own)
        );
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) => {
            ensure!(
                manifests.len() <= MOST_ENTRIES,
                "it lists {} images, and {MOST_ENTRIES} are read at most",
                manifests.len()
            );
            ensure!(
                raw.media_type
                    .as_deref()
                    .is_none_or(|own| kind(own) != Kind::Manifest),
                "it calls itself a manifest, and is an index"
            );
            let images = manifests.into_iter().filter(|raw| !raw.is_attestation());
            Ok(Document::Index(
                images.map(RawDescriptor::entry).collect::<Result<_>>()?,
            ))
        }
        (None, Some(config), Some(layers)) => {
            ensure!(
                layers.len() <= most_layers,
                "it has {} layers, and {most_layers} are taken at most",
                layers.len()
            );
            let own = raw.media_type.as_deref();
            ensure!(
                own.is_none_or(|own| kind(own) != Kind::Index),
                "it calls itself an index, and is a manifest"
            );
            let media_type = own.or(stated.filter(|stated| kind(stated) == Kind::Manifest));
            Ok(Document::Manifest {
                media_type: media_type
                    .unwrap_or("application/vnd.oci.image.manifest.v1+json")
                    .to_owned(),
                config: config.descriptor()?,
                layers: layers
                    .into_iter()
                    .map(RawDescriptor::descriptor)
                    .collect::<Result<_>>()?,
            })
        }
        (Some(_), _, _) => bail!("it is an index and a manifest at once"),
        (None, _, _) => {
            bail!("it has neither images nor a configuration with layers: it is no image")
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Index,
    Manifest,
    Unknown,
}

fn kind(media_type: &str) -> Kind {
    match media_type {
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => Kind::Index,
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json" => Kind::Manifest,
        _ => Kind::Unknown,
    }
}

impl RawDescriptor {
    /// Attestations travel beside images as manifests for an unknown platform.
    fn is_attestation(&self) -> bool {
        let annotated = self
            .annotations
            .as_ref()
            .is_some_and(|all| all.contains_key("vnd.docker.reference.type"));
        annotated
            || self
                .platform
                .as_ref()
                .is_some_and(|one| one.os == "unknown")
    }

    fn descriptor(self) -> Result<Descriptor> {
        Ok(Descriptor {
            media_type: self.media_type.unwrap_or_default(),
            digest: self.digest.parse()?,
            size: self.size,
        })
    }

    fn entry(mut self) -> Result<Entry> {
        let platform = self.platform.take();
        Ok(Entry {
            platform,
            descriptor: self.descriptor()?,
        })
    }
}

/// The image of an index that fits best; of equal ones the first, as container runtimes have it.
///
/// # Errors
/// None fits: with a list of those that are there.
pub fn pick<'a>(entries: &'a [Entry], wanted: &Platform) -> Result<&'a Entry> {
    let rank = |entry: &Entry| {
        // What does not say what it is for is judged by its configuration, once that is here.
        let platform = entry.platform.as_ref();
        platform.map_or(1, |platform| platform.rank(wanted).saturating_mul(2))
    };
    let mut best: Option<&Entry> = None;
    for entry in entries.iter().filter(|entry| rank(entry) > 0) {
        if best.is_none_or(|best| rank(entry) > rank(best)) {
            best = Some(entry);
        }
    }
    best.with_context(|| {
        let mut there: Vec<String> = entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .map(ToString::to_string)
            .collect();
        there.sort();
        there.dedup();
        if there.is_empty() {
            there.push("nothing at all".to_owned());
        }
        format!(
            "the board needs an image for {wanted}, and there are only those for {}\nhelp: build and push it for {wanted}, too, or choose another tag",
            there.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(architecture: &str, variant: &str, number: u8) -> Entry {
        Entry {
            descriptor: Descriptor {
                media_type: String::new(),
                digest: Digest::of(&[number]),
                size: 1,
            },
            platform: Some(Platform {
                os: "linux".into(),
                architecture: architecture.into(),
                variant: Some(variant.into()).filter(|variant: &String| !variant.is_empty()),
            }),
        }
    }

    #[test]
    fn the_best_variant_of_the_board_is_taken() {
        let all = [
            entry("amd64", "v3", 0),
            entry("amd64", "", 1),
            entry("arm", "v6", 2),
            entry("arm", "v7", 3),
            entry("arm", "v8", 4),
            entry("arm64", "v8", 5),
            entry("riscv64", "", 6),
        ];
        for (architecture, number) in [("amd64", 1), ("arm", 3), ("arm64", 5), ("riscv64", 6)] {
            let taken = pick(&all, &Platform::linux(architecture)).unwrap();
            assert_eq!(
                taken.descriptor.digest,
                Digest::of(&[number]),
                "{architecture}"
            );
        }
        let error = pick(&all, &Platform::linux("mipsle"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("linux/mipsle") && error.contains("linux/arm/v7"),
            "{error}"
        );
        pick(&all[..1], &Platform::linux("amd64")).unwrap_err();
    }

    #[test]
    fn a_document_that_is_two_things_is_refused() {
        let digest = Digest::of(b"x");
        let one = format!(r#"{{"digest":"{digest}","size":1}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{one}]}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{one}]}}"#);
        let both =
            format!(r#"{{"schemaVersion":2,"manifests":[{one}],"config":{one},"layers":[{one}]}}"#);
        let read = |text: &str, stated| parse(text.as_bytes(), stated, 4);
        assert!(matches!(read(&index, None), Ok(Document::Index(all)) if all.len() == 1));
        assert!(matches!(
            read(&manifest, None),
            Ok(Document::Manifest { .. })
        ));
        let disguised = manifest.replacen(
            '{',
            r#"{"mediaType":"application/vnd.oci.image.index.v1+json","#,
            1,
        );
        let manifest_type = Some("application/vnd.oci.image.manifest.v1+json");
        for (bad, stated) in [
            (both.as_str(), None),
            (&disguised, None),
            (&disguised, manifest_type),
            (r#"{"schemaVersion":1}"#, None),
            (r#"{"schemaVersion":2}"#, None),
            ("[]", None),
            (&manifest.replace("sha256:", "sha512:"), None),
            (&manifest.replace(":1}", ":-1}"), None),
        ] {
            read(bad, stated).unwrap_err();
        }
        parse(manifest.as_bytes(), None, 0).unwrap_err();
    }
}
