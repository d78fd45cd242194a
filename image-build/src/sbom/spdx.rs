//! SPDX 2.3 as JSON.

use super::{Bill, Package};
use serde_json::{Value, json};

/// The document. Its namespace is made of the revision's id, so that the same revision has the same one.
#[must_use]
pub fn document(bill: &Bill) -> Value {
    let mut packages = Vec::new();
    let mut relations = vec![relation(
        "SPDXRef-DOCUMENT",
        "DESCRIBES",
        "SPDXRef-revision",
    )];
    packages.push(package(
        "SPDXRef-revision",
        &bill.name,
        &bill.version,
        "FIRMWARE",
        None,
    ));
    for (place, container) in bill.containers.iter().enumerate() {
        let own = format!("SPDXRef-container-{place}");
        packages.push(package(
            &own,
            container.name.as_str(),
            "NOASSERTION",
            "CONTAINER",
            None,
        ));
        relations.push(relation("SPDXRef-revision", "CONTAINS", &own));
        for (number, layer) in container.layers.iter().enumerate() {
            let id = format!("{own}-layer-{number}");
            let name = format!("layer {number} of {}", container.name);
            packages.push(package(&id, &name, &layer.to_string(), "ARCHIVE", None));
            relations.push(relation(&own, "CONTAINS", &id));
        }
        contents(&own, &container.packages, &mut packages, &mut relations);
    }
    for (number, piece) in bill.boot.iter().enumerate() {
        let own = format!("SPDXRef-boot-{number}");
        let id = piece.id.to_string();
        packages.push(package(&own, piece.kind, &id, "FIRMWARE", None));
        relations.push(relation("SPDXRef-revision", "CONTAINS", &own));
        contents(&own, &piece.packages, &mut packages, &mut relations);
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{}-{}", bill.name, bill.version),
        "documentNamespace": format!("urn:kedge:revision:{}", bill.revision),
        "creationInfo": {
            "created": bill.created,
            "creators": [format!("Tool: kedge-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relations,
    })
}

/// The packages that something contains.
fn contents(own: &str, found: &[Package], packages: &mut Vec<Value>, relations: &mut Vec<Value>) {
    for (number, found) in found.iter().enumerate() {
        let id = format!("{own}-package-{number}");
        let purl = found.purl();
        let mut entry = package(&id, &found.name, &found.version, "LIBRARY", Some(&purl));
        if let (Some(licence), Some(fields)) = (&found.licence, entry.as_object_mut()) {
            // As it is written there: not every database has expressions of SPDX.
            fields.insert(
                "licenseComments".to_owned(),
                format!("the package database says: {licence}").into(),
            );
        }
        packages.push(entry);
        relations.push(relation(own, "CONTAINS", &id));
    }
}

fn package(id: &str, name: &str, version: &str, purpose: &str, purl: Option<&str>) -> Value {
    let mut package = json!({
        "SPDXID": id,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": purpose,
    });
    if let (Some(purl), Some(fields)) = (purl, package.as_object_mut()) {
        let reference = json!({"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl});
        fields.insert("externalRefs".to_owned(), json!([reference]));
    }
    package
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}
