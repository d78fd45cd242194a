//! CycloneDX 1.6 as JSON.

use super::{Bill, Package};
use serde_json::{Value, json};

/// The document. Its serial number is made of the revision's id, so that the same revision has the same one.
#[must_use]
pub fn document(bill: &Bill) -> Value {
    let root = format!("revision:{}", bill.revision);
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    let mut parts: Vec<String> = Vec::new();
    for container in &bill.containers {
        let own = format!("container:{}", container.name);
        let mut needs = Vec::new();
        contents(&own, &container.packages, &mut components, &mut needs);
        for (number, layer) in container.layers.iter().enumerate() {
            let reference = format!("{own}/layer:{number}");
            components.push(json!({
                "type": "file", "bom-ref": reference, "name": format!("layer {number} of {}", container.name), "version": layer.to_string(),
            }));
            needs.push(reference);
        }
        components.push(json!({"type": "container", "bom-ref": own, "name": container.name}));
        dependencies.push(json!({"ref": own, "dependsOn": needs}));
        parts.push(own);
    }
    for piece in &bill.boot {
        let reference = format!("{}:{}", piece.kind, piece.id);
        let mut needs = Vec::new();
        contents(&reference, &piece.packages, &mut components, &mut needs);
        components.push(json!({"type": "firmware", "bom-ref": reference, "name": piece.kind, "version": piece.id.to_string()}));
        dependencies.push(json!({"ref": reference, "dependsOn": needs}));
        parts.push(reference);
    }
    dependencies.push(json!({"ref": root, "dependsOn": parts}));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid(&bill.revision.hex())),
        "version": 1,
        "metadata": {
            "timestamp": bill.created,
            "tools": {"components": [{"type": "application", "name": "kedge", "version": env!("CARGO_PKG_VERSION")}]},
            "component": {"type": "firmware", "bom-ref": root, "name": bill.name, "version": bill.version},
        },
        "components": components,
        "dependencies": dependencies,
    })
}

/// The packages that something contains.
fn contents(own: &str, found: &[Package], components: &mut Vec<Value>, needs: &mut Vec<String>) {
    for package in found {
        let reference = format!("{own}/{}", package.purl());
        let mut component = json!({
            "type": "library", "bom-ref": reference, "name": package.name, "version": package.version, "purl": package.purl(),
        });
        if let (Some(licence), Some(fields)) = (&package.licence, component.as_object_mut()) {
            fields.insert(
                "licenses".to_owned(),
                json!([{"license": {"name": licence}}]),
            );
        }
        components.push(component);
        needs.push(reference);
    }
}

/// A UUID of version 8 (RFC 9562: contents of one's own) from the first digits of an id.
fn uuid(hex: &str) -> String {
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-8{}-8{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 15),
        part(15, 18),
        part(18, 30)
    )
}
