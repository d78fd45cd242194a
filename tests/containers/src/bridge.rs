//! Leads connections of the network to the control interface, for tests of machines without a port for that.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

pub(crate) fn run(port: u64) -> ExitCode {
    let listener = match TcpListener::bind(("::", u16::try_from(port).unwrap_or(0))) {
        Ok(listener) => listener,
        Err(error) => {
            crate::say(&format!("cannot listen on {port}: {error}"));
            return ExitCode::FAILURE;
        }
    };
    crate::say(&format!("leading {port} to the control interface"));
    thread::spawn(|| {
        crate::waits::for_any();
        crate::serve::end()
    });
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            if let Err(error) = lead(&stream) {
                crate::say(&format!("bridge error {error}"));
            }
        });
    }
    ExitCode::FAILURE
}

/// Until both sides have said everything.
fn lead(outside: &TcpStream) -> io::Result<()> {
    let path = std::env::var("KEDGE_CONTROL").map_err(io::Error::other)?;
    let inside = UnixStream::connect(path)?;
    let (mut from, mut to) = (outside.try_clone()?, inside.try_clone()?);
    let asks = thread::spawn(move || {
        let copied = io::copy(&mut from, &mut to);
        // The other side may be gone.
        to.shutdown(Shutdown::Write).ok();
        copied
    });
    let answered = io::copy(&mut &inside, &mut &*outside);
    // What is answered is all: whoever asks waits for the end.
    outside.shutdown(Shutdown::Both).ok();
    asks.join().ok();
    answered.map(drop)
}
