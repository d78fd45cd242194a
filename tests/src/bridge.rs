//! The control interface of a machine without a port for it: over the network, through a container that has a role.
//!
//! A board whose peripherals are given has no virtio port for its host. So its products have one container more, which a
//! definition grants the control socket, and which leads one port of the network to it (`tests/containers/src/bridge.rs`); QEMU
//! forwards that port, and here is the socket that stands for the port. The device knows nothing of it.

use anyhow::{Context, Result};
use kedge_board_support::boards::Board;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

/// Where the container listens.
pub const PORT: u16 = 8099;

/// Whether this board has no other way.
#[must_use]
pub fn is_needed(board: &Board) -> bool {
    board
        .qemu
        .as_ref()
        .is_some_and(|qemu| qemu.serial_bus.is_none())
}

/// The container's file.
#[must_use]
pub fn container(layer: &str) -> String {
    format!(
        "layers = [\"{layer}\"]\ngroup = \"app\"\ngoal = \"started\"\nroles = [\"operate\"]\nnetwork = \"host\"\n\n\
         [process]\narguments = [\"/probe\", \"bridge\", \"{PORT}\"]\n\n[restart]\npolicy = \"always\"\ndelay = \"200ms\"\n"
    )
}

/// Makes the socket, which leads to this port of the host's loopback until the process ends.
///
/// # Errors
/// The socket cannot be made.
pub fn lead(socket: &Path, port: u16) -> Result<()> {
    // An earlier machine in the same folder had one.
    std::fs::remove_file(socket).ok();
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot make the socket {}", socket.display()))?;
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            thread::spawn(move || one(&near, port));
        }
    });
    Ok(())
}

/// One connection; nobody hears of an error here, and whoever asked sees that nothing comes.
fn one(near: &UnixStream, port: u16) -> Option<u64> {
    let far = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let (mut from, mut to) = (near.try_clone().ok()?, far.try_clone().ok()?);
    let asks = thread::spawn(move || {
        io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Write).ok();
    });
    let answered = io::copy(&mut &far, &mut &*near).ok();
    near.shutdown(Shutdown::Both).ok();
    asks.join().ok()?;
    answered
}
