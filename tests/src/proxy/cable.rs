//! A cable between device and hub that breaks in ways of its own, below TLS.

use super::{Listener, lock};
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to one connection; bytes are those that the hub sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// Nothing.
    None,
    /// It ends before the first byte.
    Refused,
    /// It ends after so many bytes.
    Cut(usize),
    /// It ends after so many bytes that the device, or an operator, sends.
    CutSent(u64),
    /// One bit of this byte is another one.
    Flip(usize),
    /// The segment in which this byte is comes twice.
    Twice(usize),
    /// Each segment takes so long.
    Slow(Duration),
    /// These bytes come instead of the hub's, over and over.
    Endless(Vec<u8>),
    /// These bytes come instead of the hub's, one at a time with a pause.
    Drip(Vec<u8>, Duration),
}

#[derive(Debug)]
struct Shared {
    hub: Mutex<Option<SocketAddr>>,
    breaks: Mutex<VecDeque<Break>>,
    connections: AtomicUsize,
}

/// See the module.
#[derive(Debug)]
pub struct Cable {
    listener: Listener,
    shared: Arc<Shared>,
}

impl Cable {
    /// A whole cable to a hub.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new(hub: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared {
            hub: Mutex::new(Some(hub)),
            breaks: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let listener = Listener::start({
            let shared = Arc::clone(&shared);
            // What breaks off is what this is for.
            move |device| drop(shared.connect(&device))
        });
        Ok(Self {
            listener: listener.context("no port")?,
            shared,
        })
    }

    /// Where devices find it.
    #[must_use]
    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// Leads to another hub from the next connection on; none: to nothing.
    pub fn lead_to(&self, hub: Option<SocketAddr>) {
        *lock(&self.shared.hub) = hub;
    }

    /// What happens to the next connections, one after the other; those behind are whole.
    pub fn breaks(&self, breaks: impl IntoIterator<Item = Break>) {
        *lock(&self.shared.breaks) = breaks.into_iter().collect();
    }

    /// How many breaks are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        lock(&self.shared.breaks).len()
    }

    /// Connections that were made.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn connect(&self, device: &TcpStream) -> Result<()> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let how = lock(&self.breaks).pop_front().unwrap_or(Break::None);
        match how {
            Break::Refused => return Ok(()),
            Break::Endless(piece) => loop {
                (&*device).write_all(&piece)?;
            },
            Break::Drip(bytes, pause) => {
                for byte in bytes {
                    (&*device).write_all(&[byte])?;
                    std::thread::sleep(pause);
                }
                return Ok(());
            }
            Break::None
            | Break::Cut(_)
            | Break::CutSent(_)
            | Break::Flip(_)
            | Break::Twice(_)
            | Break::Slow(_) => {}
        }
        let sent = if let Break::CutSent(bytes) = how {
            bytes
        } else {
            u64::MAX
        };
        let address = lock(&self.hub).context("no hub")?;
        let hub = TcpStream::connect(address)?;
        hub.set_nodelay(true)?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // It has ended either way.
                std::io::copy(&mut device.take(sent), &mut &hub).ok();
                hub.shutdown(Shutdown::Both).ok();
            });
            let ended = carry(&hub, device, &how);
            device.shutdown(Shutdown::Both).ok();
            hub.shutdown(Shutdown::Both).ok();
            ended
        })
    }
}

/// Carries what the hub sends, with what happens to it.
fn carry(mut hub: &TcpStream, mut device: &TcpStream, how: &Break) -> Result<()> {
    let mut buffer = vec![0; 4096];
    let mut at = 0;
    loop {
        let count = hub.read(&mut buffer)?;
        let segment = buffer.get_mut(..count).unwrap_or_default();
        if segment.is_empty() {
            return Ok(());
        }
        let within = |place: usize| place.checked_sub(at).filter(|offset| *offset < count);
        match how {
            Break::Cut(place) => {
                if let Some(kept) = within(*place) {
                    device.write_all(segment.get(..kept).unwrap_or_default())?;
                    return Ok(());
                }
            }
            Break::Flip(place) => {
                if let Some(byte) = within(*place).and_then(|offset| segment.get_mut(offset)) {
                    *byte ^= 0x10;
                }
            }
            Break::Twice(place) => {
                if within(*place).is_some() {
                    device.write_all(segment)?;
                }
            }
            Break::Slow(pause) => std::thread::sleep(*pause),
            Break::None
            | Break::CutSent(_)
            | Break::Refused
            | Break::Endless(_)
            | Break::Drip(..) => {}
        }
        device.write_all(segment)?;
        at += count;
    }
}
