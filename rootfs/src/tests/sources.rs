//! Layouts and archives that lie, are cut off, or are for another machine. None of these gets as far as mkfs.erofs.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;

use super::fixture::*;
use crate::bounds::{Bounds, Limit};
use crate::config::ImageProcess;
use crate::error::Error;
use crate::import::{Image, import, normalise_directory};
use crate::oci_write::{LayoutImage, write_layout};
use crate::options::{ImportOptions, Owners, Policy};
use crate::source::{Source, SourceKind};
use crate::stream;

fn process() -> ImageProcess {
    ImageProcess {
        entrypoint: vec!["/bin/web".to_owned()],
        env: vec!["A=b".to_owned()],
        ..ImageProcess::default()
    }
}

fn write(directory: &Path, architecture: &str, process: ImageProcess, layer: &[u8]) {
    let image = LayoutImage {
        architecture: architecture.to_owned(),
        process,
        reference: Some("latest".to_owned()),
    };
    write_layout(directory, &image, &mut [&mut &layer[..]]).unwrap();
}

/// A sound layout for amd64 with one layer.
fn layout(directory: &Path) {
    write(
        directory,
        "x86_64",
        process(),
        &tar(&[file("bin/web", "program")]),
    );
}

fn options() -> ImportOptions {
    ImportOptions {
        architecture: Some("x86_64".to_owned()),
        ..ImportOptions::default()
    }
}

/// Imports with a mkfs that cannot start: whoever gets that far passed every check.
fn try_import(name: &str, options: &ImportOptions) -> Result<Image, Error> {
    let out = tempfile::tempdir().unwrap();
    let source = Source::open(name, &options.bounds)?;
    import(
        &source,
        options,
        &[OsString::from("/nonexistent/mkfs.erofs")],
        out.path(),
        &mut |_| {},
    )
}

fn failure(directory: &Path, options: &ImportOptions) -> Error {
    try_import(directory.to_str().unwrap(), options).unwrap_err()
}

fn is_sound(result: &Result<Image, Error>) {
    assert!(matches!(result, Err(Error::Mkfs { .. })), "{result:?}");
}

fn only_layer(directory: &Path) -> std::path::PathBuf {
    let blobs = fs::read_dir(directory.join("blobs/sha256")).unwrap();
    blobs
        .map(|e| e.unwrap().path())
        .find(|p| fs::read(p).unwrap().windows(5).any(|w| w == b"ustar"))
        .unwrap()
}

/// Changes the manifest's text and everything that names it.
fn edit_manifest(directory: &Path, from: &str, to: &str) {
    let index = fs::read_to_string(directory.join("index.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&index).unwrap();
    let old = value["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let size = value["manifests"][0]["size"].as_u64().unwrap();
    let blobs = directory.join("blobs/sha256");
    let manifest = fs::read_to_string(blobs.join(&old[7..])).unwrap();
    assert!(manifest.contains(from), "{manifest}");
    let manifest = manifest.replace(from, to);
    let new = stream::digest(manifest.as_bytes());
    put(&blobs.join(&new[7..]), manifest.as_bytes());
    let index = index.replace(&old, &new).replace(
        &format!("\"size\":{size}"),
        &format!("\"size\":{}", manifest.len()),
    );
    put(&directory.join("index.json"), index.as_bytes());
}

#[test]
fn layout_written_here_is_sound_and_the_same_twice() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    layout(a.path());
    layout(b.path());
    assert_eq!(
        fs::read(a.path().join("index.json")).unwrap(),
        fs::read(b.path().join("index.json")).unwrap()
    );
    is_sound(&try_import(a.path().to_str().unwrap(), &options()));
    is_sound(&try_import(
        &format!("oci:{}", a.path().display()),
        &options(),
    ));
    let source = Source::open(a.path().to_str().unwrap(), &Bounds::default()).unwrap();
    let resolved = source.resolve(&options()).unwrap().unwrap();
    assert_eq!(ImageProcess::parse(&resolved.config).unwrap(), process());
}

#[test]
fn lying_digest() {
    let d = tempfile::tempdir().unwrap();
    layout(d.path());
    let layer = only_layer(d.path());
    let mut bytes = fs::read(&layer).unwrap();
    let at = bytes.windows(7).position(|w| w == b"program").unwrap();
    bytes[at] ^= 1;
    put(&layer, &bytes);
    let error = failure(d.path(), &options());
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    // Damage that breaks the tar first is still named for what it is.
    bytes[0] ^= 1;
    put(&layer, &bytes);
    let error = failure(d.path(), &options());
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[test]
fn lying_size() {
    let d = tempfile::tempdir().unwrap();
    layout(d.path());
    let size = fs::metadata(only_layer(d.path())).unwrap().len();
    edit_manifest(
        d.path(),
        &format!("\"size\":{size}"),
        &format!("\"size\":{}", size + 1),
    );
    let error = failure(d.path(), &options());
    assert!(
        matches!(error, Error::Size { stated, found, .. } if stated == size + 1 && found == size),
        "{error}"
    );
}

#[test]
fn truncated_layout() {
    let d = tempfile::tempdir().unwrap();
    layout(d.path());
    let layer = only_layer(d.path());
    let bytes = fs::read(&layer).unwrap();
    put(&layer, &bytes[..bytes.len() / 2]);
    let error = failure(d.path(), &options());
    assert!(matches!(error, Error::Size { .. }), "{error}");
    fs::remove_file(&layer).unwrap();
    let error = failure(d.path(), &options());
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    let index = fs::read(d.path().join("index.json")).unwrap();
    put(&d.path().join("index.json"), &index[..index.len() / 2]);
    let error = failure(d.path(), &options());
    assert!(matches!(error, Error::Document { .. }), "{error}");
}

#[test]
fn lying_diff_id() {
    let d = tempfile::tempdir().unwrap();
    layout(d.path());
    // The same layer compressed has another digest but the same diff_id; a changed one has not.
    let layer = only_layer(d.path());
    let bytes = tar(&[file("bin/web", "another")]);
    let old = layer.file_name().unwrap().to_str().unwrap().to_owned();
    let new = stream::digest(&bytes);
    put(&layer.with_file_name(&new[7..]), &bytes);
    edit_manifest(d.path(), &format!("sha256:{old}"), &new);
    let error = failure(d.path(), &options());
    assert!(
        matches!(&error, Error::Digest { name, .. } if name.contains("diff_id")),
        "{error}"
    );
}

#[test]
fn wrong_architecture() {
    let d = tempfile::tempdir().unwrap();
    write(d.path(), "aarch64", process(), &tar(&[]));
    let error = failure(d.path(), &options());
    assert!(
        matches!(&error, Error::Architecture { wanted, found } if wanted == "amd64" && found == &["arm64"]),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains("amd64") && text.contains("arm64"), "{text}");
}

#[test]
fn no_entrypoint() {
    let d = tempfile::tempdir().unwrap();
    write(d.path(), "amd64", ImageProcess::default(), &tar(&[]));
    assert!(matches!(failure(d.path(), &options()), Error::NoEntrypoint));
    let command = Some(vec!["/bin/sh".to_owned()]);
    is_sound(&try_import(
        d.path().to_str().unwrap(),
        &ImportOptions {
            command,
            ..options()
        },
    ));
}

#[test]
fn sha512_is_refused() {
    let d = tempfile::tempdir().unwrap();
    layout(d.path());
    let name = only_layer(d.path());
    let name = name.file_name().unwrap().to_str().unwrap();
    edit_manifest(
        d.path(),
        &format!("sha256:{name}"),
        &format!("sha512:{name}{name}"),
    );
    let error = failure(d.path(), &options());
    assert!(matches!(error, Error::DigestAlgorithm { .. }), "{error}");
}

#[test]
fn encrypted_layer() {
    let d = tempfile::tempdir().unwrap();
    layout(d.path());
    edit_manifest(
        d.path(),
        "image.layer.v1.tar\"",
        "image.layer.v1.tar+encrypted\"",
    );
    let error = failure(d.path(), &options());
    assert!(matches!(error, Error::MediaType { .. }), "{error}");
}

#[test]
fn oversized_document() {
    let d = tempfile::tempdir().unwrap();
    layout(d.path());
    let bounds = Bounds {
        document: 10,
        ..Bounds::default()
    };
    let error = failure(
        d.path(),
        &ImportOptions {
            bounds,
            ..options()
        },
    );
    assert!(
        matches!(
            error,
            Error::Bound {
                limit: Limit::Document,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn unknown_reference() {
    let d = tempfile::tempdir().unwrap();
    layout(d.path());
    let reference = Some("other".to_owned());
    let error = failure(
        d.path(),
        &ImportOptions {
            reference,
            ..options()
        },
    );
    assert!(
        matches!(&error, Error::Reference { found, .. } if found == &["latest"]),
        "{error}"
    );
}

fn docker_archive(diff_id: &str, config_name: Option<&str>) -> Vec<u8> {
    let layer = tar(&[file("bin/web", "program")]);
    let diff_id = if diff_id.is_empty() {
        stream::digest(&layer)
    } else {
        diff_id.to_owned()
    };
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/bin/web"]}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let name = config_name.map_or_else(
        || stream::digest(config.as_bytes())[7..].to_owned() + ".json",
        ToOwned::to_owned,
    );
    let hash = "0".repeat(64);
    let manifest =
        format!(r#"[{{"Config":"{name}","RepoTags":["web:1"],"Layers":["{hash}/layer.tar"]}}]"#);
    let mut content = file(&format!("{hash}/layer.tar"), "");
    content.content = layer;
    tar(&[
        file("manifest.json", &manifest),
        file(&name, &config),
        content,
    ])
}

#[test]
fn docker_archive_plain_and_compressed() {
    let d = tempfile::tempdir().unwrap();
    let bytes = docker_archive("", None);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    for (name, bytes) in [("plain", bytes), ("gzip", encoder.finish().unwrap())] {
        let path = d.path().join(name);
        put(&path, &bytes);
        let source = Source::open(path.to_str().unwrap(), &Bounds::default()).unwrap();
        assert!(matches!(source.kind(), SourceKind::Docker(_)));
        is_sound(&try_import(path.to_str().unwrap(), &options()));
    }
}

#[test]
fn docker_archive_lies() {
    let d = tempfile::tempdir().unwrap();
    let path = d.path().join("image.tar");
    for bytes in [
        docker_archive(&format!("sha256:{}", "1".repeat(64)), None),
        docker_archive("", Some(&("2".repeat(64) + ".json"))),
    ] {
        put(&path, &bytes);
        let error = failure(&path, &options());
        assert!(matches!(error, Error::Digest { .. }), "{error}");
    }
    let whole = docker_archive("", None);
    put(&path, &whole[..whole.len() - 2048]);
    let error = failure(&path, &options());
    assert!(matches!(error, Error::Tar { .. }), "{error}");
}

#[test]
fn root_file_system_tar_is_no_archive() {
    let d = tempfile::tempdir().unwrap();
    let path = d.path().join("root.tar.zst");
    put(
        &path,
        &zstd::encode_all(&tar(&[file("etc/x", "")])[..], 1).unwrap(),
    );
    let source = Source::open(path.to_str().unwrap(), &Bounds::default()).unwrap();
    assert!(matches!(source.kind(), SourceKind::Tar(_)));
    assert!(matches!(
        failure(&path, &ImportOptions::default()),
        Error::NoEntrypoint
    ));
}

#[test]
fn named_kind_that_it_is_not() {
    let d = tempfile::tempdir().unwrap();
    for kind in ["oci", "tar"] {
        let error = Source::open(
            &format!("{kind}:{}", d.path().display()),
            &Bounds::default(),
        )
        .unwrap_err();
        assert!(matches!(error, Error::UnknownSource { .. }), "{error}");
    }
}

#[test]
fn what_is_no_archive_is_told_as_that() {
    let d = tempfile::tempdir().unwrap();
    let path = d.path().join("passwd");
    for bytes in [&b"root:x:0:0:root:/root:/bin/sh\n"[..], &[b'x'; 4096]] {
        put(&path, bytes);
        let error = Source::open(path.to_str().unwrap(), &Bounds::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no tar, no archive"), "{text}");
    }
    // What begins as one and is damaged further on is a damaged one.
    let mut bytes = tar(&[file("etc/x", ""), file("etc/y", "")]);
    bytes[600] ^= 0xff;
    put(&path, &bytes);
    let opened = Source::open(path.to_str().unwrap(), &Bounds::default());
    assert!(!matches!(opened, Err(Error::UnknownSource { .. })));
}

#[test]
fn directory_without_following_links() {
    let d = tempfile::tempdir().unwrap();
    put(&d.path().join("root/etc/x"), b"x");
    fs::hard_link(d.path().join("root/etc/x"), d.path().join("root/a")).unwrap();
    std::os::unix::fs::symlink("/", d.path().join("root/escape")).unwrap();
    let mut out = Vec::new();
    let policy = Policy {
        owners: Owners::Root,
        ..Policy::default()
    };
    normalise_directory(
        &d.path().join("root"),
        Bounds::default(),
        policy,
        d.path(),
        &mut out,
    )
    .unwrap();
    assert_eq!(names(&out), ["./", "a", "escape", "etc/", "etc/x"]);
    put(&d.path().join("root/.wh.etc"), b"");
    let error = normalise_directory(
        &d.path().join("root"),
        Bounds::default(),
        policy,
        d.path(),
        &mut out,
    )
    .unwrap_err();
    assert!(error.to_string().contains(".wh."), "{error}");
}

/// One index with an image for each of two architectures, as `docker buildx` makes them.
fn two_platforms(directory: &Path) {
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let mut process = process();
        process.env = vec![format!("FOR={architecture}")];
        write(
            directory,
            architecture,
            process,
            &tar(&[file("bin/web", architecture)]),
        );
        let index = fs::read_to_string(directory.join("index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        manifests.push(index["manifests"][0].clone());
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
    put(&directory.join("index.json"), index.to_string().as_bytes());
}

#[test]
fn index_of_two_platforms() {
    let d = tempfile::tempdir().unwrap();
    two_platforms(d.path());
    let source = Source::open(d.path().to_str().unwrap(), &Bounds::default()).unwrap();
    for (board, oci) in [("x86_64", "amd64"), ("aarch64", "arm64")] {
        let options = ImportOptions {
            architecture: Some(board.to_owned()),
            ..ImportOptions::default()
        };
        let resolved = source.resolve(&options).unwrap().unwrap();
        let process = ImageProcess::parse(&resolved.config).unwrap();
        assert_eq!(process.env, [format!("FOR={oci}")]);
    }
    let error = failure(d.path(), &ImportOptions::default());
    assert!(
        matches!(&error, Error::Ambiguous { choices } if choices.len() == 2),
        "{error}"
    );
    let riscv = ImportOptions {
        architecture: Some("riscv64".to_owned()),
        ..ImportOptions::default()
    };
    let error = failure(d.path(), &riscv);
    assert!(
        matches!(&error, Error::Architecture { found, .. } if found == &["amd64", "arm64"]),
        "{error}"
    );
}

#[test]
fn oci_archive_compressed() {
    let d = tempfile::tempdir().unwrap();
    layout(&d.path().join("layout"));
    let mut bytes = Vec::new();
    let (bounds, policy) = (Bounds::default(), Policy::default());
    let folder = d.path().join("layout");
    normalise_directory(
        &folder,
        bounds,
        Policy {
            owners: Owners::Root,
            ..policy
        },
        d.path(),
        &mut bytes,
    )
    .unwrap();
    let path = d.path().join("image.tar.zst");
    put(&path, &zstd::encode_all(&bytes[..], 1).unwrap());
    let source = Source::open(path.to_str().unwrap(), &bounds).unwrap();
    assert!(matches!(source.kind(), SourceKind::Layout(_)));
    is_sound(&try_import(path.to_str().unwrap(), &options()));
}
