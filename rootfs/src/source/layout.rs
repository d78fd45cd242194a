//! OCI image layout: from `index.json` to the manifest for the board (OCI image specification 1.1).
//!
//! A platform in an index is a hint; what counts is the configuration's architecture, and both must agree with what is wanted.

use oci_spec::image::{
    Arch, Descriptor, DigestAlgorithm, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};

use super::{LayerRef, Resolved, Store};
use crate::bounds::{Bounds, Limit, check, len};
use crate::error::Error;
use crate::options::{ImportOptions, oci_architecture};
use crate::stream;

/// Indexes within indexes, and descriptors in all of them: far above what any tool writes.
const MAX_NESTING: usize = 4;
const MAX_MANIFESTS: usize = 256;

/// Annotation that carries an image's tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A manifest that might be the one.
struct Candidate {
    descriptor: Descriptor,
    reference: Option<String>,
}

/// A manifest with its configuration.
struct Loaded {
    digest: String,
    reference: Option<String>,
    manifest: ImageManifest,
    config: Vec<u8>,
    architecture: String,
    rank: u8,
}

pub(crate) fn resolve(store: &Store, options: &ImportOptions) -> Result<Resolved, Error> {
    let bounds = &options.bounds;
    let bytes = store.document("index.json", "the OCI image layout", bounds)?;
    let index = parse_index("index.json", &bytes)?;
    let mut candidates = Vec::new();
    collect(store, bounds, &index, None, 0, &mut candidates)?;
    if let Some(wanted) = &options.reference {
        let found: Vec<_> = candidates
            .iter()
            .filter_map(|c| c.reference.clone())
            .collect();
        candidates.retain(|c| c.reference.as_ref() == Some(wanted));
        if candidates.is_empty() {
            return Err(Error::Reference {
                wanted: wanted.clone(),
                found,
            });
        }
    }
    let wanted = options.architecture.as_deref().map(oci_architecture);
    let loaded = choose(store, bounds, candidates, wanted)?;
    layers(
        &loaded.manifest,
        &loaded.config,
        &loaded.config_name(),
        bounds,
    )
    .map(|layers| Resolved {
        layers,
        config: loaded.config,
    })
}

impl Loaded {
    fn config_name(&self) -> String {
        self.manifest.config().digest().to_string()
    }
}

fn parse_index(name: &str, bytes: &[u8]) -> Result<ImageIndex, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::Document {
        name: name.to_owned(),
        why: e.to_string(),
    })
}

fn collect(
    store: &Store,
    bounds: &Bounds,
    index: &ImageIndex,
    reference: Option<&String>,
    nesting: usize,
    out: &mut Vec<Candidate>,
) -> Result<(), Error> {
    for descriptor in index.manifests() {
        let reference = descriptor
            .annotations()
            .as_ref()
            .and_then(|a| a.get(REF_NAME))
            .or(reference)
            .cloned();
        // Attestations travel beside images as manifests for an unknown platform.
        if is_attestation(descriptor) {
            continue;
        }
        if is_index(descriptor.media_type()) {
            let at = "index.json";
            check(len(nesting + 1), len(MAX_NESTING), Limit::Depth, at)?;
            let bytes = blob(store, descriptor, at, bounds)?;
            let inner = parse_index(descriptor.digest().as_ref(), &bytes)?;
            collect(store, bounds, &inner, reference.as_ref(), nesting + 1, out)?;
        } else {
            out.push(Candidate {
                descriptor: descriptor.clone(),
                reference,
            });
        }
        check(
            len(out.len()),
            len(MAX_MANIFESTS),
            Limit::Members,
            "index.json",
        )?;
    }
    Ok(())
}

fn is_index(media_type: &MediaType) -> bool {
    let docker = "application/vnd.docker.distribution.manifest.list.v2+json";
    *media_type == MediaType::ImageIndex || matches!(media_type, MediaType::Other(t) if t == docker)
}

fn is_attestation(descriptor: &Descriptor) -> bool {
    let annotated = descriptor
        .annotations()
        .as_ref()
        .is_some_and(|a| a.contains_key("vnd.docker.reference.type"));
    annotated
        || descriptor
            .platform()
            .as_ref()
            .is_some_and(|p| matches!(p.os(), Os::Other(o) if o == "unknown"))
}

/// Loads what may fit and takes the best; two different ones that fit equally need a name.
fn choose(
    store: &Store,
    bounds: &Bounds,
    candidates: Vec<Candidate>,
    wanted: Option<&str>,
) -> Result<Loaded, Error> {
    let mut found = Vec::new();
    let mut fitting: Vec<Loaded> = Vec::new();
    for candidate in candidates {
        if let (Some(wanted), Some(platform)) = (wanted, candidate.descriptor.platform()) {
            let stated = platform.architecture().to_string();
            if stated != wanted {
                // Blobs of other platforms are often not in the layout.
                found.push(stated);
                continue;
            }
        }
        let loaded = load(store, bounds, candidate)?;
        if wanted.is_some_and(|w| w != loaded.architecture) || loaded.rank == 0 {
            found.push(loaded.architecture);
        } else if !fitting.iter().any(|f| f.digest == loaded.digest) {
            fitting.push(loaded);
        }
    }
    let best = fitting.iter().map(|f| f.rank).max().unwrap_or(0);
    fitting.retain(|f| f.rank == best);
    if fitting.len() > 1 {
        let choices = fitting
            .into_iter()
            .map(|f| f.reference.unwrap_or(f.digest) + " (" + &f.architecture + ")");
        return Err(Error::Ambiguous {
            choices: choices.collect(),
        });
    }
    fitting.pop().ok_or_else(|| {
        found.sort();
        found.dedup();
        if found.is_empty() {
            found.push("none at all".to_owned());
        }
        Error::Architecture {
            wanted: wanted.unwrap_or("any architecture").to_owned(),
            found,
        }
    })
}

fn load(store: &Store, bounds: &Bounds, candidate: Candidate) -> Result<Loaded, Error> {
    let name = candidate.descriptor.digest().to_string();
    let bytes = blob(store, &candidate.descriptor, "index.json", bounds)?;
    let manifest: ImageManifest = serde_json::from_slice(&bytes).map_err(|e| Error::Document {
        name: format!("manifest {name}"),
        why: e.to_string(),
    })?;
    let config = blob(
        store,
        manifest.config(),
        &format!("manifest {name}"),
        bounds,
    )?;
    let parsed = parse_config(&config, manifest.config().digest().as_ref())?;
    Ok(Loaded {
        digest: name,
        reference: candidate.reference,
        architecture: parsed.architecture().to_string(),
        rank: rank(&parsed),
        manifest,
        config,
    })
}

pub(crate) fn parse_config(bytes: &[u8], name: &str) -> Result<ImageConfiguration, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::Document {
        name: format!("configuration {name}"),
        why: e.to_string(),
    })
}

/// How well a configuration fits a Linux board; 0 does not. 32-bit ARM comes in variants, of which ARMv7 runs v5 to v7.
pub(crate) fn rank(config: &ImageConfiguration) -> u8 {
    if *config.os() != Os::Linux {
        return 0;
    }
    if *config.architecture() != Arch::ARM {
        return 1;
    }
    match config.variant().as_deref() {
        Some("v7") => 4,
        None | Some("") => 3,
        Some("v6") => 2,
        Some("v5") => 1,
        Some(_) => 0,
    }
}

/// Pairs the manifest's layers with the configuration's `diff_ids`.
fn layers(
    manifest: &ImageManifest,
    config: &[u8],
    config_name: &str,
    bounds: &Bounds,
) -> Result<Vec<LayerRef>, Error> {
    let parsed = parse_config(config, config_name)?;
    let diff_ids = parsed.rootfs().diff_ids();
    let layers = manifest.layers();
    check(
        len(layers.len()),
        len(bounds.layers),
        Limit::Layers,
        "the manifest",
    )?;
    if layers.len() != diff_ids.len() {
        return Err(Error::LayerCount {
            layers: layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let pair = |(descriptor, diff_id): (&Descriptor, &String)| {
        let media_type = descriptor.media_type().to_string();
        let known = media_type.starts_with("application/vnd.oci.image.layer.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.");
        if !known || media_type.contains("encrypted") {
            return Err(Error::MediaType {
                name: descriptor.digest().to_string(),
                media_type,
            });
        }
        Ok(LayerRef {
            name: blob_name(descriptor)?,
            stated: Some((descriptor.digest().to_string(), descriptor.size())),
            diff_id: diff_id.clone(),
        })
    };
    layers.iter().zip(diff_ids).map(pair).collect()
}

fn blob_name(descriptor: &Descriptor) -> Result<String, Error> {
    let digest = descriptor.digest();
    let hex = digest.digest();
    let proper = *digest.algorithm() == DigestAlgorithm::Sha256
        && hex.len() == 64
        && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !proper {
        return Err(Error::DigestAlgorithm {
            digest: digest.to_string(),
        });
    }
    Ok(format!("blobs/sha256/{hex}"))
}

/// A document by descriptor, its size and digest checked.
fn blob(
    store: &Store,
    descriptor: &Descriptor,
    wanted_by: &str,
    bounds: &Bounds,
) -> Result<Vec<u8>, Error> {
    let name = blob_name(descriptor)?;
    let bytes = store.document(&name, wanted_by, bounds)?;
    if len(bytes.len()) != descriptor.size() {
        return Err(Error::Size {
            name,
            stated: descriptor.size(),
            found: len(bytes.len()),
        });
    }
    let found = stream::digest(&bytes);
    if found != descriptor.digest().as_ref() {
        return Err(Error::Digest {
            name,
            stated: descriptor.digest().to_string(),
            found,
        });
    }
    Ok(bytes)
}
