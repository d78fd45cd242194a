//! PID 1's helpers for the suites, each as a process of its own in a directory of its own: `test-helper agent STATE SOCKET`,
//! `test-helper stage DATA` and `test-helper net RESOLV_CONF`. Their socket to PID 1 is their standard input, as on a device.

use anyhow::{Context, Result, bail};
use kedge_agent::Paths;
use kedge_agent::frames::{Level, Report};
use std::os::fd::AsFd;
use std::path::PathBuf;

fn main() -> Result<()> {
    let mut words = std::env::args_os().skip(1);
    let name = words.next().context("name the helper")?;
    let mut path = || words.next().map(PathBuf::from).context("name the place");
    let socket = std::io::stdin();
    match name.to_str() {
        Some("agent") => {
            let paths = Paths {
                state: path()?,
                control: path()?,
            };
            let ended = kedge_agent::run(socket.as_fd(), &paths);
            if let Err(error) = &ended {
                let text = &error.to_string();
                let level = Level::Error;
                // PID 1 may have gone.
                kedge_sys::sock::send(&socket, &Report::Say { level, text }.encode(), &[]).ok();
            }
            Ok(ended?)
        }
        Some("stage") => Ok(kedge_init::helpers::stage::run(socket.as_fd(), &path()?)?),
        Some("net") => Ok(kedge_init::helpers::net::run(socket.as_fd(), &path()?)?),
        _ => bail!("there is no such helper"),
    }
}
