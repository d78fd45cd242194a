//! What `docker save` writes: `manifest.json` with one entry an image (Docker image specification 1.2, "Combined image JSON").
//!
//! It states no sizes and no digests but the configuration's file name and the `diff_ids` in it; both are checked.

use serde::Deserialize;

use super::layout::{parse_config, rank};
use super::{LayerRef, Resolved, Store};
use crate::bounds::{Limit, check, len};
use crate::error::Error;
use crate::options::{ImportOptions, oci_architecture};
use crate::stream;

/// Docker adds fields now and then, so unknown ones pass.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(crate) fn resolve(store: &Store, options: &ImportOptions) -> Result<Resolved, Error> {
    let bounds = &options.bounds;
    let bytes = store.document("manifest.json", "the docker archive", bounds)?;
    let entries: Vec<Entry> = serde_json::from_slice(&bytes).map_err(|e| Error::Document {
        name: "manifest.json".to_owned(),
        why: e.to_string(),
    })?;
    let entry = choose(entries, options)?;
    let config = store.document(&entry.config, "manifest.json", bounds)?;
    let hash = entry
        .config
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".json");
    let found = stream::digest(&config);
    if hash.len() == 64 && found != format!("sha256:{hash}") {
        return Err(Error::Digest {
            name: entry.config.clone(),
            stated: format!("sha256:{hash}"),
            found,
        });
    }
    let parsed = parse_config(&config, &entry.config)?;
    let architecture = parsed.architecture().to_string();
    let wanted = options.architecture.as_deref().map(oci_architecture);
    if wanted.is_some_and(|w| w != architecture) || rank(&parsed) == 0 {
        return Err(Error::Architecture {
            wanted: wanted.unwrap_or("linux").to_owned(),
            found: vec![format!("{}/{architecture}", parsed.os())],
        });
    }
    let diff_ids = parsed.rootfs().diff_ids();
    check(
        len(entry.layers.len()),
        len(bounds.layers),
        Limit::Layers,
        "manifest.json",
    )?;
    if entry.layers.len() != diff_ids.len() {
        return Err(Error::LayerCount {
            layers: entry.layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let layers = entry
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(name, diff_id)| LayerRef {
            name: name.clone(),
            stated: None,
            diff_id: diff_id.clone(),
        });
    Ok(Resolved {
        layers: layers.collect(),
        config,
    })
}

fn choose(mut entries: Vec<Entry>, options: &ImportOptions) -> Result<Entry, Error> {
    let tags = |e: &Entry| e.repo_tags.clone().unwrap_or_default();
    let all: Vec<_> = entries.iter().flat_map(tags).collect();
    if let Some(wanted) = &options.reference {
        entries.retain(|e| tags(e).contains(wanted));
        if entries.is_empty() {
            return Err(Error::Reference {
                wanted: wanted.clone(),
                found: all,
            });
        }
    }
    if entries.len() > 1 {
        return Err(Error::Ambiguous { choices: all });
    }
    entries.pop().ok_or_else(|| Error::Document {
        name: "manifest.json".to_owned(),
        why: "it lists no image".to_owned(),
    })
}
