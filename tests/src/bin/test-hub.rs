//! A hub for the suites, as a process of its own: `test-hub DATA` serves the loopback on a free port.

use anyhow::{Context, Result};
use kedge_revision::Mode;
use std::io::Write;

fn main() -> Result<()> {
    let data = std::env::args_os()
        .nth(1)
        .context("name the hub's directory")?;
    let settings = kedge_hub::Settings {
        data: data.into(),
        listen: "127.0.0.1:0".to_owned(),
        // The machine and, as QEMU has it, its loopback seen from a guest through its first and its second card.
        names: ["127.0.0.1", "10.0.2.2", "10.0.3.2"]
            .map(str::to_owned)
            .to_vec(),
        mode: Mode::Development,
        connections: 1000,
    };
    kedge_hub::run(&settings, |ready| {
        let mut out = std::io::stdout();
        let (address, token) = (ready.address, ready.first_token.unwrap_or_default());
        // Whoever started it and does not read is told by what it asks in vain.
        writeln!(out, "{address} {token}")
            .and_then(|()| out.flush())
            .ok();
    })?;
    Ok(())
}
