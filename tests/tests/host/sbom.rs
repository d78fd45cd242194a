//! `kedge sbom`: what containers were made of, twice the same.

use super::command::{platform, workshop};
use anyhow::{Context, Result, ensure};
use kedge_image_build::cache::Cache;
use kedge_image_build::{files, process, python};
use kedge_tests::kedge::Kedge;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const KEDGE: &str = env!("CARGO_BIN_EXE_kedge");

#[test]
fn host_a_bill_lists_what_package_databases_list() -> Result<()> {
    let folder = workshop()?;
    let platform = platform(folder.path())?;
    let kedge = Kedge::new(KEDGE, &folder.path().join("gateway"));
    kedge.create("gateway", "qemu-x86-64")?;
    let (refused, _) = kedge.refuse(&["sbom"])?;
    ensure!(
        refused.contains("kedge build makes the revision"),
        "{refused}"
    );
    for (name, path, database) in [
        (
            "web",
            "var/lib/dpkg/status",
            "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\n",
        ),
        (
            "cache",
            "lib/apk/db/installed",
            "P:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n",
        ),
        (
            "slim",
            "var/lib/dpkg/status.d/base",
            "Package: base-files\nArchitecture: all\nVersion: 12.4\n",
        ),
        (
            "snake",
            "usr/local/lib/python3.13/site-packages/Flask_Thing-3.1.dist-info/METADATA",
            "Metadata-Version: 2.4\nName: Flask_Thing\nVersion: 3.1\nLicense-Expression: BSD-3-Clause\n\nName: no\n",
        ),
        ("bare", "etc/none", "nothing"),
    ] {
        let root = folder.path().join(name);
        files::write_executable(&root.join("server"), b"\x7fELF not really")?;
        files::write(&root.join(path), database)?;
        let image = format!("dir:{}", root.display());
        kedge.ask(&["add", &image, "--name", name, "--command", "/server"])?;
    }
    kedge.ask(&["build", "--platform", &platform.display().to_string()])?;
    for (format, list, field) in [
        ("spdx", "/packages", "/externalRefs/0/referenceLocator"),
        ("cyclonedx", "/components", "/purl"),
    ] {
        let bill = kedge.ask(&["sbom", "--format", format])?;
        let parts = bill.pointer(list).and_then(Value::as_array);
        let purls: BTreeSet<&str> = parts
            .context("no list")?
            .iter()
            .filter_map(|part| part.pointer(field)?.as_str())
            .collect();
        // Of the containers, of the initramfs, and the kernel.
        let expected = BTreeSet::from([
            "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64",
            "pkg:deb/debian/libc6@2.41-12?arch=amd64",
            "pkg:deb/debian/base-files@12.4?arch=all",
            "pkg:pypi/flask-thing@3.1",
            "pkg:cargo/serde@1.0.228",
            "pkg:generic/linux@6.12",
        ]);
        ensure!(purls == expected, "{bill}");
        let layers = bill.to_string().matches("layer 0 of bare").count();
        ensure!(layers == 1, "{bill}");
        let places = [1, 2].map(|number| folder.path().join(format!("{format}-{number}")));
        for place in &places {
            let place = place.display().to_string();
            let told = kedge.ask(&["sbom", "--format", format, "--output", &place])?;
            ensure!(told.get("packages") == Some(&json!(4)), "{told}");
        }
        let [one, two] = places;
        judged(format, &one)?;
        ensure!(files::read(&one)? == files::read(&two)?, "two bills differ");
    }
    Ok(())
}

/// Judges a bill by the validators that its format's makers publish; and that they judge at all.
fn judged(format: &str, bill: &Path) -> Result<()> {
    let modules = python::modules(
        &Cache::open()?,
        "python",
        "bills-1",
        &[
            "spdx-tools==0.8.5",
            "cyclonedx-python-lib[json-validation]==11.12.0",
        ],
        "fetching validators of SPDX and CycloneDX from PyPI",
    )?;
    let validate = |path: &Path| {
        let mut python = Command::new("/usr/bin/python3");
        python
            .env("PYTHONPATH", &modules)
            .args(["-c", JUDGE, format]);
        process::output(python.arg(path))
    };
    validate(bill)?;
    let text = files::read_text(bill)?;
    let bad = bill.with_extension("bad");
    for (good, wrong) in [("\"version\"", "\"versoin\""), ("SPDX-2.3", "SPDX-2")] {
        if text.contains(good) {
            files::write(&bad, text.replace(good, wrong))?;
            ensure!(validate(&bad).is_err(), "{format}: {wrong} was let through");
        }
    }
    Ok(())
}

/// Ends with an error that says what is wrong with a document.
const JUDGE: &str = r#"
import sys
form, path = sys.argv[1:]
if form == "spdx":
    import json
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
    document = JsonLikeDictParser().parse(json.load(open(path)))
    wrong = [message.validation_message for message in validate_full_spdx_document(document)]
else:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(path).read())
    wrong = [str(error)] if error else []
sys.exit("; ".join(wrong)[:2000])
"#;
