//! The guides' commands, typed as they stand.

use anyhow::Result;
use kedge_image_build::{debian, platform};
use kedge_tests::guide::Guide;
use kedge_tests::product::BOARD;
use std::net::TcpListener;
use std::time::Duration;

const KEDGE: &str = env!("CARGO_BIN_EXE_kedge");
const HUB: &str = env!("CARGO_BIN_EXE_test-kedge-hub");
/// Boots and some trials.
const PATIENCE: Duration = Duration::from_secs(900);

fn run(name: &str, ports: &[&str]) -> Result<()> {
    debian::require(&["busybox-static", "curl"], "run the guides")?;
    // In the cache, where `kedge build` looks for it.
    platform::make(BOARD, platform::cheapest(BOARD)?)?;
    let mut guide = Guide::new(name, &[("kedge", KEDGE), ("kedge-hub", HUB)])?;
    let listeners: Vec<_> = ports
        .iter()
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    for (port, free) in ports.iter().zip(&listeners) {
        guide = guide.with(port, &free.local_addr()?.port().to_string());
    }
    drop(listeners);
    guide.run(PATIENCE)
}

#[test]
fn vm_guide_for_developers() -> Result<()> {
    run("docs/guides/developer.md", &["8080"])
}

#[test]
fn vm_guide_for_operators() -> Result<()> {
    run("docs/guides/operator.md", &["8080", "8443"])
}
