//! What a connection does, so that one that does nothing is noticed.
//!
//! Three things may take long: nothing at all between two requests ([`IDLE`]), a held poll or a long answer (as long as it
//! takes: those have bounds of their own), and the head of a request, which must come within [`HEAD`] from its first byte:
//! whoever sends a byte a minute would keep a place for nothing (slowloris).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Between two requests: polls come every minute.
const IDLE: Duration = Duration::from_secs(300);
/// From the first byte of a request to the last one of its head.
const HEAD: Duration = Duration::from_secs(15);
/// An answer of which not a byte could be sent for so long.
const STUCK: Duration = Duration::from_secs(60);
/// How often a connection is looked at.
pub(super) const LOOK: Duration = Duration::from_secs(20);

/// What the service and the bytes of a connection tell of it.
#[derive(Debug)]
pub(super) struct Activity {
    begun: Instant,
    /// A request is being answered.
    busy: AtomicBool,
    /// When a byte was last read or written, milliseconds since the beginning.
    last: AtomicU64,
    /// When the head began that has not come whole; 0: there is none.
    head: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            busy: AtomicBool::new(false),
            last: AtomicU64::new(1),
            // Whoever connects has something to ask.
            head: AtomicU64::new(1),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn bytes(&self, read: bool) {
        let now = self.now();
        self.last.store(now, Ordering::Relaxed);
        if read && !self.busy.load(Ordering::Relaxed) && self.head.load(Ordering::Relaxed) == 0 {
            self.head.store(now, Ordering::Relaxed);
        }
    }

    /// A head has come whole.
    pub(super) fn begin(&self) {
        self.head.store(0, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
    }

    /// Its answer is known; it may still have to be sent.
    pub(super) fn end(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
        self.busy.store(false, Ordering::Relaxed);
    }

    /// Whether the connection is to be ended.
    pub(super) fn is_over(&self) -> bool {
        let since = |at: u64| Duration::from_millis(self.now().saturating_sub(at));
        let head = self.head.load(Ordering::Relaxed);
        if head > 0 {
            return since(head) > HEAD;
        }
        let last = since(self.last.load(Ordering::Relaxed));
        !self.busy.load(Ordering::Relaxed) && last > IDLE
    }
}

/// A stream whose bytes are noticed, and whose writes do not wait for ever.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Since when nothing could be written.
    stuck: Option<Instant>,
}

impl<S> Watched<S> {
    pub(super) const fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            stuck: None,
        }
    }

    fn wrote<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stuck = None;
            self.activity.bytes(false);
        } else if self.stuck.get_or_insert_with(Instant::now).elapsed() > STUCK {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.bytes(true);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.wrote(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_whole_ends_the_connection() {
        let activity = Activity::new();
        tokio::time::advance(Duration::from_secs(14)).await;
        activity.bytes(true);
        assert!(!activity.is_over());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(activity.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_takes_as_long_as_it_takes_and_idleness_ends() {
        let activity = Activity::new();
        activity.begin();
        tokio::time::advance(Duration::from_secs(100_000)).await;
        assert!(!activity.is_over());
        activity.end();
        tokio::time::advance(Duration::from_secs(299)).await;
        assert!(!activity.is_over());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(activity.is_over());
    }
}
