//! Databases as distributions write them, and documents that stay the same.

use super::*;

const DPKG: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12+deb13u1\nDescription: GNU C Library\n text: with colons\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nVersion: 7\n";
const APK: &str = "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nF:lib\n\nP:no-version\n";

fn bill() -> Bill {
    let mut packages = dpkg(DPKG);
    packages.extend(apk(APK));
    Bill {
        revision: ObjectId::from_digest([0xab; 32]),
        name: "gateway-qemu-x86-64".to_owned(),
        version: "1".to_owned(),
        created: "2026-11-25T20:49:38Z".to_owned(),
        containers: vec![Part {
            name: "web".parse().unwrap(),
            layers: vec![ObjectId::from_digest([1; 32])],
            packages,
        }],
        boot: vec![Piece {
            kind: "initramfs",
            id: ObjectId::from_digest([2; 32]),
            packages: vec![of_crate(&Crate {
                name: "serde".to_owned(),
                version: "1.0.228".to_owned(),
                licence: "MIT OR Apache-2.0".to_owned(),
            })],
        }],
    }
}

#[test]
fn installed_packages_are_read_and_others_are_not() {
    let purls: Vec<String> = bill().containers[0]
        .packages
        .iter()
        .map(Package::purl)
        .collect();
    assert_eq!(
        purls,
        [
            "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64",
            "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64"
        ]
    );
    assert_eq!(
        bill().containers[0].packages[1].licence.as_deref(),
        Some("MIT")
    );
}

#[test]
fn every_reference_leads_to_something_that_is_there_once() {
    let document = cyclonedx::document(&bill());
    let mut known: Vec<&str> = document["components"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["bom-ref"].as_str())
        .collect();
    known.push(
        document["metadata"]["component"]["bom-ref"]
            .as_str()
            .unwrap(),
    );
    for dependency in document["dependencies"].as_array().unwrap() {
        for reference in dependency["dependsOn"].as_array().unwrap() {
            assert_eq!(
                known.iter().filter(|one| **one == reference).count(),
                1,
                "{reference}"
            );
        }
    }
    assert_eq!(
        document["serialNumber"],
        "urn:uuid:abababab-abab-8aba-8bab-abababababab"
    );
    let document = spdx::document(&bill());
    let known: Vec<&str> = document["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["SPDXID"].as_str())
        .collect();
    for relation in document["relationships"].as_array().unwrap() {
        let to = relation["relatedSpdxElement"].as_str().unwrap();
        assert_eq!(known.iter().filter(|one| **one == to).count(), 1, "{to}");
    }
}
