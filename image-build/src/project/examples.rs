//! The complete examples in `image-build/examples`: they parse, name every field, and pass a device's checks together.

use super::container::ContainerText;
use super::manifest::Manifest;
use super::users;
use kedge_revision::pool::Network;
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
    if let Network::Pool(place) = &mut database.network {
        place.ports.clear();
    }
    let name = |text: &str| text.parse::<Name>().unwrap();
    let containers = BTreeMap::from([(name("web"), web), (name("database"), database)]);
    let content = manifest.content(containers);
    content.check().unwrap();
    let address = |name: &Name| {
        Some(
            content.containers[name]
                .network
                .place()?
                .address
                .to_string(),
        )
    };
    assert_eq!(address(&name("database")).as_deref(), Some("10.88.0.2/24"));
    assert_eq!(address(&name("web")).as_deref(), Some("10.88.0.3/24"));
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
        "networks",
        "prefix",
        "pool",
        "address",
        "ports",
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
        "memory-swap-max",
        "io-read-max",
        "io-write-max",
        "io-reads-max",
        "io-writes-max",
        "root-max",
        "unified",
        "pids-max",
        "network",
        "devices",
        "capabilities",
        "roles",
        "after",
        "groups",
        "parameters",
    ] {
        assert!(text.contains(&format!("\"{field}\":")), "{field}");
    }
    for words in [
        "tty vendor=0403 product=6001 name=modem required serial=",
        "video4linux path=/devices/",
        " access=r",
    ] {
        assert!(text.contains(words), "{words}");
    }
}
