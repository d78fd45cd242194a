//! The complete examples in `image-build/examples`: they parse, name every field, and pass a device's checks together.

use super::container::ContainerText;
use super::manifest::Manifest;
use super::users;
use kedge_revision::{Container, Name};
use std::collections::BTreeMap;

const MANIFEST: &str = include_str!("../../examples/kedge.toml");
const CONTAINER: &str = include_str!("../../examples/web.toml");

fn container(text: &str) -> Container {
    let text: ContainerText = toml::from_str(text).unwrap();
    text.container(&|user| users::numeric(user).ok_or_else(|| format!("`{user}` is no number")))
        .unwrap()
}

#[test]
fn the_examples_make_a_content_that_a_device_takes() {
    let manifest: Manifest = toml::from_str(MANIFEST).unwrap();
    let web = container(CONTAINER);
    let mut database = web.clone();
    database.after.clear();
    database.volumes.clear();
    let name = |text: &str| text.parse::<Name>().unwrap();
    let containers = BTreeMap::from([(name("web"), web), (name("database"), database)]);
    let content = manifest.content(containers);
    content.check().unwrap();
}

#[test]
fn the_examples_name_every_field() {
    let manifest: Manifest = toml::from_str(MANIFEST).unwrap();
    let content = manifest.content(BTreeMap::from([(
        "web".parse().unwrap(),
        container(CONTAINER),
    )]));
    let text = serde_json::to_string(&content).unwrap();
    // Fields that are left out when they have their default: an example without one would not show it.
    for field in [
        "max-length",
        "default",
        "secret",
        "hostname",
        "interfaces",
        "nameservers",
        "gateways",
        "hubs",
        "sticks",
        "health",
        "max-retries",
        "root",
        "volumes",
        "owner",
        "size",
        "cpu-weight",
        "cpu-max-percent",
        "memory-max",
        "memory-high",
        "memory-min",
        "pids-max",
        "network",
        "capabilities",
        "roles",
        "after",
        "groups",
        "parameters",
    ] {
        assert!(text.contains(&format!("\"{field}\":")), "{field}");
    }
}
