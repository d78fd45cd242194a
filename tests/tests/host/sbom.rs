//! `kedge sbom`: what containers were made of, twice the same.

use super::command::{platform, workshop};
use anyhow::{Context, Result, ensure};
use kedge_image_build::files;
use kedge_tests::kedge::Kedge;
use serde_json::{Value, json};
use std::collections::BTreeSet;

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
            ensure!(told.get("packages") == Some(&json!(2)), "{told}");
        }
        let [one, two] = places;
        ensure!(files::read(&one)? == files::read(&two)?, "two bills differ");
    }
    Ok(())
}
