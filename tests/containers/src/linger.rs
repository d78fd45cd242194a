//! What a hostile program gives PID 1 to close.

use crate::say;
use kedge_sys::sock::{self, Kind};
use rustix::net::sockopt::set_socket_linger;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// Longer than any watchdog waits.
const LONG: Duration = Duration::from_secs(3600);
/// How many are given over each socket.
const MANY: usize = 5;

/// Sends connections, whose last closing waits for an hour, to PID 1 over both sockets that it reads. What they wait for
/// is not taken as long as this process lives.
pub(crate) fn give() {
    let mut peers = Vec::new();
    for (path, kind) in [
        ("/dev/kedge/notify", Kind::Datagrams),
        ("/dev/kedge/control", Kind::Stream),
    ] {
        for _ in 0..MANY {
            match give_one(path, kind) {
                Ok(peer) => peers.push(peer),
                Err(error) => say(&format!("{path}: {error}")),
            }
        }
    }
    say(&format!("given {}", peers.len()));
    crate::pause(600_000);
}

fn give_one(path: &str, kind: Kind) -> io::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    while stream.write(&[0; 65536]).is_ok() {}
    set_socket_linger(&stream, Some(LONG))?;
    let socket = sock::connect(Path::new(path), kind).map_err(|error| error.errno)?;
    sock::send(&socket, b"X=1\n", &[stream.as_fd()]).map_err(|error| error.errno)?;
    // Whoever closes it last waits: if that is not PID 1, it is not this thread either.
    std::thread::spawn(move || drop(stream));
    Ok(peer)
}
