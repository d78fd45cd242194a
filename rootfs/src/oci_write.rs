//! Writes OCI image layouts, so that images can be assembled from packages without a container tool.
//!
//! The same layers and process give the same bytes: no times, sorted maps, layers stored as they are. Not a registry client and
//! not a builder: one image, one platform.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::Serialize;

use crate::config::{Healthcheck, ImageProcess};
use crate::error::Error;
use crate::options::oci_architecture;
use crate::stream::Tallied;

/// What an image is, beside its layers.
#[derive(Debug, Clone, Default)]
pub struct LayoutImage {
    /// OCI's word or the kernel's.
    pub architecture: String,
    /// What to run.
    pub process: ImageProcess,
    /// Tag of the image in the layout.
    pub reference: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<&'static str, String>>,
}

#[derive(Serialize, Clone)]
struct Platform {
    architecture: String,
    os: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
struct Configuration<'a> {
    architecture: String,
    os: &'static str,
    config: Process<'a>,
    rootfs: RootFs,
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Process<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<&'a str, Empty>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    env: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cmd: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<&'a str, Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<&'a Healthcheck>,
}

#[derive(Serialize)]
struct Empty {}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes a layout into `directory`, which is created if it is not there; the index is replaced. `layers` are uncompressed tars,
/// lowest first. Returns the manifest's digest, `sha256:…`.
///
/// # Errors
/// [`Error::Io`] if a file cannot be written or a layer not be read.
pub fn write_layout(
    directory: &Path,
    image: &LayoutImage,
    layers: &mut [&mut dyn Read],
) -> Result<String, Error> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(Error::io("create", &blobs))?;
    let mut descriptors = Vec::new();
    for layer in layers {
        descriptors.push(blob(&blobs, LAYER, layer)?);
    }
    let platform = Platform {
        architecture: oci_architecture(&image.architecture).to_owned(),
        os: "linux",
    };
    let configuration = Configuration {
        architecture: platform.architecture.clone(),
        os: platform.os,
        config: process(&image.process),
        rootfs: RootFs {
            kind: "layers",
            // Uncompressed, so a layer's digest is its diff_id.
            diff_ids: descriptors.iter().map(|d| d.digest.clone()).collect(),
        },
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST,
        config: document(&blobs, CONFIG, &configuration)?,
        layers: descriptors,
    };
    let mut descriptor = document(&blobs, MANIFEST, &manifest)?;
    let digest = descriptor.digest.clone();
    descriptor.platform = Some(platform);
    descriptor.annotations = image
        .reference
        .clone()
        .map(|r| BTreeMap::from([("org.opencontainers.image.ref.name", r)]));
    let index = Index {
        schema_version: 2,
        media_type: INDEX,
        manifests: vec![descriptor],
    };
    file(
        directory,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    file(directory, "index.json", &json(&index, directory)?)?;
    Ok(digest)
}

fn process(process: &ImageProcess) -> Process<'_> {
    Process {
        user: process.user.as_deref(),
        exposed_ports: process
            .exposed_ports
            .iter()
            .map(|p| (p.as_str(), Empty {}))
            .collect(),
        env: &process.env,
        entrypoint: &process.entrypoint,
        cmd: &process.cmd,
        volumes: process
            .volumes
            .iter()
            .map(|p| (p.as_str(), Empty {}))
            .collect(),
        working_dir: process.working_dir.as_deref(),
        labels: &process.labels,
        stop_signal: process.stop_signal.as_deref(),
        healthcheck: process.healthcheck.as_ref(),
    }
}

fn json(value: &impl Serialize, directory: &Path) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|e| Error::io("write JSON into", directory)(e.into()))
}

fn document(
    blobs: &Path,
    media_type: &'static str,
    value: &impl Serialize,
) -> Result<Descriptor, Error> {
    blob(blobs, media_type, &mut json(value, blobs)?.as_slice())
}

/// Stores bytes under their digest. Whoever reads the layout meanwhile sees whole blobs only.
fn blob(blobs: &Path, media_type: &'static str, bytes: &mut dyn Read) -> Result<Descriptor, Error> {
    let mut temporary =
        tempfile::NamedTempFile::new_in(blobs).map_err(Error::io("create a file in", blobs))?;
    let (mut tallied, tally) = Tallied::new(bytes);
    let size = io::copy(&mut tallied, temporary.as_file_mut())
        .map_err(Error::io("write a file in", blobs))?;
    let digest = tally.digest();
    keep(temporary, &blobs.join(digest.trim_start_matches("sha256:")))?;
    Ok(Descriptor {
        media_type,
        digest,
        size,
        platform: None,
        annotations: None,
    })
}

fn file(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let mut temporary = tempfile::NamedTempFile::new_in(directory)
        .map_err(Error::io("create a file in", directory))?;
    temporary
        .write_all(bytes)
        .map_err(Error::io("write a file in", directory))?;
    keep(temporary, &directory.join(name))
}

fn keep(temporary: tempfile::NamedTempFile, path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    // Temporary files are private; an image is not.
    let public = fs::Permissions::from_mode(0o644);
    temporary
        .as_file()
        .set_permissions(public)
        .map_err(Error::io("write", path))?;
    temporary
        .persist(path)
        .map(drop)
        .map_err(|e| Error::io("write", path)(e.error))
}
