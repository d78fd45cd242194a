//! `kedge inspect`: what a file is and says. Nothing is verified; `kedge verify` does that.

use super::Scene;
use super::disk::Disk;
use crate::payload::Payload;
use crate::project::units::human;
use crate::{bundle, compose, files};
use anyhow::{Context, Result};
use clap::Args;
use kedge_revision::{KeyId, Name, ObjectId, SignatureSet};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Show what a file is and says: a revision, a bundle, a trust root, signatures, a disk image, an object. Verifies
/// nothing.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The file.
    file: PathBuf,
}

/// What was found; `kind` names it, `document` is what it says.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Inspected {
    path: PathBuf,
    kind: &'static str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<ObjectId>,
    #[serde(skip_serializing_if = "Value::is_null")]
    document: Value,
}

impl Inspect {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let inspected = inspect(&self.file)?;
        scene.output.result(words(&inspected), &inspected)
    }
}

fn inspect(path: &Path) -> Result<Inspected> {
    let size = path
        .metadata()
        .with_context(|| format!("cannot open {}", path.display()))?
        .len();
    let found = |kind, id, document| Inspected {
        path: path.to_owned(),
        kind,
        size,
        id,
        document,
    };
    if let Some(disk) = Disk::open(path)? {
        return Ok(found("disk-image", None, disk_document(&disk)?));
    }
    if bundle::is_bundle(path)? {
        return Ok(found("bundle", None, bundle_document(path)?));
    }
    let (id, _) = compose::measure(path)?;
    let head = head(path)?;
    if head.starts_with(b"{") && size <= 1 << 20 {
        let text = files::read_text(path)?;
        if let Ok(document) = serde_json::from_str::<Value>(&text) {
            let spec = document
                .get("spec")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            let kind = match spec.split('/').next().unwrap_or_default() {
                "kedge.revision" => "revision",
                "kedge.root" => "root",
                "kedge.signatures" => "signatures",
                "kedge.product" => "product",
                "kedge.parameters" => "parameters",
                _ => "json",
            };
            return Ok(found(kind, Some(id), document));
        }
    }
    if size <= 1 << 16
        && let Ok(text) = files::read_text(path)
        && super::sign::is_key_file(path, &text)
    {
        let key = crate::keys::KeyFile::read(path)?;
        let document = serde_json::json!({
            "role": key.role(), "id": key.public().id(), "public": key.public(), "encrypted": key.is_encrypted()
        });
        return Ok(found("key", None, document));
    }
    Ok(found(object_kind(&head), Some(id), Value::Null))
}

/// The beginning of a file: enough for every magic number looked for.
fn head(path: &Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(4096)
        .read_to_end(&mut head)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(head)
}

/// By magic number: EROFS at 1024 (Linux `fs/erofs/erofs_fs.h`), zstd and gzip frames, the x86 boot protocol's `HdrS` at 0x202,
/// device trees (Devicetree Specification 0.4, 5.2).
fn object_kind(head: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    if at(1024, &[0xe2, 0xe1, 0xf5, 0xe0]) {
        "layer"
    } else if at(0x202, b"HdrS") {
        "kernel"
    } else if at(0, &[0x28, 0xb5, 0x2f, 0xfd]) {
        "initramfs"
    } else if at(0, &[0xd0, 0x0d, 0xfe, 0xed]) {
        "device-tree"
    } else {
        "object"
    }
}

/// The documents of a bundle. Of parameters only the names: values may be secrets.
fn bundle_document(path: &Path) -> Result<Value> {
    let payload = Payload::open(path)?;
    let document: Value =
        serde_json::from_slice(&payload.head().revision).context("its revision is no JSON")?;
    let signatures =
        SignatureSet::parse(&payload.head().signatures).context("its signatures cannot be read")?;
    let keys: Vec<KeyId> = signatures.keys().collect();
    let parameters = payload.parameters()?.map(|parameters| {
        let names: Vec<&Name> = parameters.values.keys().collect();
        serde_json::json!({ "counter": parameters.counter, "names": names })
    });
    Ok(serde_json::json!({
        "revision": { "id": payload.id(), "document": document },
        "signed-by": keys,
        "parameters": parameters,
    }))
}

fn disk_document(disk: &Disk) -> Result<Value> {
    let found = disk.boot_record()?;
    let state = found.state().map(|state| format!("{state:?}"));
    let mut revisions = Vec::new();
    for id in disk.revisions()? {
        let document = disk.document(&format!("/revisions/{id}/revision.json"))?;
        let document: Value = serde_json::from_slice(&document)
            .with_context(|| format!("revision {id} is no JSON"))?;
        revisions.push(serde_json::json!({ "id": format!("v1:{id}"), "document": document }));
    }
    Ok(serde_json::json!({
        "partitions": disk.partitions,
        "loader-record": found.loader().map(|loader| format!("{loader:?}")),
        "state-record": state,
        "revisions": revisions,
    }))
}

fn words(inspected: &Inspected) -> String {
    let mut text = format!(
        "{}: {}, {}",
        inspected.path.display(),
        inspected.kind,
        human(inspected.size)
    );
    if let Some(id) = inspected.id {
        line(&mut text, "id", &id.to_string());
    }
    match inspected.kind {
        "revision" => revision(&mut text, &inspected.document),
        "disk-image" => disk_image(&mut text, &inspected.document),
        "bundle" => whole_bundle(&mut text, &inspected.document),
        _ => plain(&mut text, &inspected.document),
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    write!(text, "\n  {name:<12} {value}").ok();
}

fn string(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn field(document: &Value, name: &str) -> String {
    document.get(name).map(string).unwrap_or_default()
}

fn plain(text: &mut String, document: &Value) {
    for (name, value) in document.as_object().into_iter().flatten() {
        line(text, name, &string(value));
    }
}

fn revision(text: &mut String, document: &Value) {
    for name in [
        "product", "board", "version", "counter", "floor", "root", "tries", "created",
    ] {
        line(text, name, &field(document, name));
    }
    for (id, object) in document
        .get("objects")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let size = object
            .get("size")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        line(
            text,
            &field(object, "kind"),
            &format!("{id} {}", human(size)),
        );
    }
    let containers = document
        .pointer("/content/containers")
        .and_then(Value::as_object);
    for (name, container) in containers.into_iter().flatten() {
        let layers = container
            .get("layers")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let run: Vec<String> = container
            .pointer("/process/arguments")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(string)
            .collect();
        let (group, goal) = (field(container, "group"), field(container, "goal"));
        line(
            text,
            "container",
            &format!(
                "{name} (group {group}, goal {goal}, {layers} layers): {}",
                run.join(" ")
            ),
        );
    }
}

fn whole_bundle(text: &mut String, document: &Value) {
    let keys = document.get("signed-by").and_then(Value::as_array);
    for key in keys.into_iter().flatten() {
        line(text, "signed by", &string(key));
    }
    if let Some(counter) = document.pointer("/parameters/counter") {
        let names = document.pointer("/parameters/names");
        let names = names.and_then(Value::as_array).into_iter().flatten();
        let names: Vec<String> = names.map(string).collect();
        line(
            text,
            "parameters",
            &format!("{counter}: {}", names.join(", ")),
        );
    }
    if let Some(entry) = document.get("revision") {
        line(text, "id", &field(entry, "id"));
        if let Some(document) = entry.get("document") {
            revision(text, document);
        }
    }
}

fn disk_image(text: &mut String, document: &Value) {
    for partition in document
        .get("partitions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let size = partition
            .get("size")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        line(
            text,
            "partition",
            &format!("{} {}", field(partition, "name"), human(size)),
        );
    }
    line(text, "loader", &field(document, "loader-record"));
    line(text, "state", &field(document, "state-record"));
    for entry in document
        .get("revisions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        line(text, "revision", &field(entry, "id"));
        if let Some(document) = entry.get("document") {
            revision(text, document);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_what_they_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let kind = |bytes: &[u8]| {
            files::write(&path, bytes).unwrap();
            inspect(&path).unwrap().kind
        };
        assert_eq!(kind(br#"{"spec":"kedge.root/1","version":1}"#), "root");
        assert_eq!(kind(br#"{"a":1}"#), "json");
        assert_eq!(kind(b"{"), "object");
        assert_eq!(kind(&[0x28, 0xb5, 0x2f, 0xfd, 0]), "initramfs");
        let mut layer = vec![0; 4096];
        layer[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        assert_eq!(kind(&layer), "layer");
        assert_eq!(kind(b""), "object");
    }
}
