//! How long an answer may take: a hub that sends a byte now and then must not hold up everything else, above all not
//! the other hubs that could be asked.
//!
//! An answer has [`GRACE_MS`] and as much more as what has come of it takes at [`LEAST`] a minute. What is counted is
//! what is of use, not what came: padding, tickets and the frames of chunks give no time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// For a handshake, and for the hub to think.
const GRACE_MS: u64 = 60_000;
/// The least that a transfer may bring in a minute, bytes.
pub const LEAST: u64 = 16 * 1024;

/// Until when something may take; one question at a time.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    /// Milliseconds since the start. Not an atomic number: 32-bit MIPS has none of 64 bits.
    until: Mutex<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            until: Mutex::new(GRACE_MS),
        }
    }
}

/// How long these bytes may take.
const fn time(bytes: u64) -> u64 {
    bytes.saturating_mul(60_000) / LEAST
}

impl Pace {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something begins, in which so many bytes are to be sent.
    pub fn begin(&self, bytes: u64) {
        let allowed = GRACE_MS.saturating_add(time(bytes));
        let until = self.now().saturating_add(allowed);
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// So many bytes of use have come.
    pub fn add(&self, bytes: u64) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = until.saturating_add(time(bytes));
    }

    /// # Errors
    /// `TimedOut`: it has taken too long.
    fn check(&self) -> io::Result<()> {
        if self.now() > *self.until.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// A socket that gives up by its pace. How long it may be silent is the socket's own timeout.
#[derive(Debug)]
pub struct Paced {
    socket: TcpStream,
    pace: Arc<Pace>,
}

impl Paced {
    /// Over a connected socket.
    #[must_use]
    pub fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            pace: Arc::default(),
        }
    }

    /// Its pace.
    #[must_use]
    pub fn pace(&self) -> Arc<Pace> {
        Arc::clone(&self.pace)
    }

    /// The socket.
    #[must_use]
    pub const fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pace.check()?;
        self.socket.read(buffer)
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pace.check()?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_is_earned_by_what_is_of_use() {
        let pace = Pace::default();
        *pace.until.lock().unwrap() = 0;
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(pace.check().unwrap_err().kind(), io::ErrorKind::TimedOut);
        pace.add(LEAST);
        assert_eq!(*pace.until.lock().unwrap(), 60_000);
        pace.check().unwrap();
        pace.begin(2 * LEAST);
        assert!(*pace.until.lock().unwrap() >= GRACE_MS + 120_000);
    }
}
