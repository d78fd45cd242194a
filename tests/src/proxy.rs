//! What may happen between a device and its hub: a proxy that does it on demand.
//!
//! | | ends TLS | may |
//! |---|---|---|
//! | [`Cable`] | no | what anybody on the way may: cut, change, delay, answer in the hub's place |
//! | [`Impostor`] | yes | what a hub may that has lost its TLS keys, or is hostile: everything but signing |
//!
//! The impostor has a certificate of the hub's own authority and asks the real hub as the device itself, with the
//! device's key, so that every layer above TLS is reached. What it has not got are the keys that sign revisions.

mod cable;
mod impostor;

pub use cable::{Break, Cable};
pub use impostor::{Answer, Fault, Impostor};

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Nobody waits longer for a byte.
const SILENCE: Duration = Duration::from_secs(90);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes connections, each in a thread, until it is dropped.
#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(take: impl Fn(TcpStream) + Send + Sync + 'static) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (stop, take) = (Arc::clone(&stop), Arc::new(take));
            move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let take = Arc::clone(&take);
                    let timed = stream.set_read_timeout(Some(SILENCE)).is_ok()
                        && stream.set_write_timeout(Some(SILENCE)).is_ok()
                        && stream.set_nodelay(true).is_ok();
                    if timed {
                        std::thread::spawn(move || take(stream));
                    }
                }
            }
        });
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            // A panic in it has shown itself already.
            thread.join().ok();
        }
    }
}
