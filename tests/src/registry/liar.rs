//! A server on loopback that answers as a test wants it to, over plain HTTP, and remembers what it was asked.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What it says.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These bytes, with their head; then the connection ends.
    Bytes(Vec<u8>),
    /// These bytes, then those over and over, until nobody listens.
    Endless(Vec<u8>, Vec<u8>),
}

impl Reply {
    /// A whole answer; `fields` are lines with their ends.
    #[must_use]
    pub fn whole(status: u16, fields: &str, body: &[u8]) -> Self {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} x\r\nconnection: close\r\n{fields}content-length: {length}\r\n\r\n"
        );
        Self::Bytes([head.as_bytes(), body].concat())
    }
}

type Asked = Arc<Mutex<Vec<String>>>;

/// See the module. It runs until the test ends.
#[derive(Debug)]
pub struct Liar {
    address: SocketAddr,
    asked: Asked,
    sent: Arc<Mutex<u64>>,
}

impl Liar {
    /// Starts one; `answer` is given a request's head.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port")?;
        let liar = Self {
            address: listener.local_addr()?,
            asked: Asked::default(),
            sent: Arc::default(),
        };
        let (asked, sent, answer) = (
            Arc::clone(&liar.asked),
            Arc::clone(&liar.sent),
            Arc::new(answer),
        );
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, sent, answer) =
                    (Arc::clone(&asked), Arc::clone(&sent), Arc::clone(&answer));
                // A client that leaves is what many tests are about.
                std::thread::spawn(move || drop(serve(&stream, &asked, &sent, &*answer)));
            }
        });
        Ok(liar)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Bytes that it got rid of.
    #[must_use]
    pub fn sent(&self) -> u64 {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(
    mut stream: &TcpStream,
    asked: &Asked,
    sent: &Mutex<u64>,
    answer: &dyn Fn(&str) -> Reply,
) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(head.clone());
    let mut send = |bytes: &[u8]| -> Result<()> {
        stream.write_all(bytes)?;
        *sent.lock().unwrap_or_else(PoisonError::into_inner) += u64::try_from(bytes.len())?;
        Ok(())
    };
    match answer(&head) {
        Reply::Bytes(bytes) => send(&bytes),
        Reply::Endless(first, piece) => {
            send(&first)?;
            loop {
                send(&piece)?;
            }
        }
    }
}
