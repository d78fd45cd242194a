//! Bodies: bounded ones that are read whole, and files that are sent in pieces.

use crate::error::Refusal;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Longest request of an operator, bytes.
pub(super) const REQUEST: usize = 256 * 1024;
/// A body that is read whole must have come by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a body that is too large that are still taken.
const DRAINED: usize = 2 << 20;
/// Bytes of a file that are read at a time. Two of them are in memory for each download.
const PIECE: u64 = 128 * 1024;

/// Reads a body of at most `cap` bytes.
pub(super) async fn read(body: Body, cap: usize) -> Result<Bytes, Refusal> {
    if http_body::Body::size_hint(&body).lower() > u64::try_from(cap).unwrap_or(u64::MAX) {
        drain(body).await;
        return Err(Refusal::too_large(cap));
    }
    let collected = tokio::time::timeout(PATIENCE, Limited::new(body, cap).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::too_large(cap)),
        Ok(Err(_)) => Err(Refusal::bad("body", "the body ended before its end")),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "too-slow",
            "the body did not come within 30 seconds",
        )),
    }
}

/// Takes a body that nobody wants, up to a bound: many clients read no answer before they have sent everything, and a
/// connection that is closed under them takes the answer along. Tells whether it came to its end.
pub(crate) async fn drain(mut body: impl http_body::Body<Data = Bytes> + Unpin) -> bool {
    let draining = async {
        let mut left = DRAINED;
        loop {
            match body.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    let Some(rest) = left.checked_sub(length) else {
                        return false;
                    };
                    left = rest;
                }
            }
        }
    };
    // Slow ones lose their answer.
    let drained = tokio::time::timeout(Duration::from_secs(5), draining).await;
    drained.unwrap_or(false)
}

/// A message of a device: fields that are not known are passed over.
pub(super) async fn lenient<T: DeserializeOwned>(body: Body, cap: usize) -> Result<T, Refusal> {
    let bytes = read(body, cap).await?;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::bad("json", error.to_string()))
}

/// A request of a person: a field that is not known is a mistake, and is named.
pub(super) async fn strict<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = read(body, REQUEST).await?;
    let mut unknown = None;
    let mut reader = serde_json::Deserializer::from_slice(&bytes);
    let value = serde_ignored::deserialize(&mut reader, |path| {
        // A field that may be absent has a `?` in its path.
        unknown.get_or_insert_with(|| path.to_string().replace(".?", ""));
    });
    let value = value.and_then(|value| reader.end().map(|()| value));
    let value = value.map_err(|error| Refusal::bad("json", error.to_string()))?;
    match unknown {
        None => Ok(value),
        Some(field) => Err(Refusal::bad(
            "unknown-field",
            format!("there is no field {field}"),
        )),
    }
}

/// A part of a file, read as it is sent: no thread waits for a slow reader.
pub(super) struct FileBody {
    file: Arc<File>,
    at: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    pub(super) fn new(file: File, at: u64, length: u64) -> Self {
        Self {
            file: Arc::new(file),
            at,
            left: length,
            reading: None,
        }
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (at, length) = (self.at, self.left.min(PIECE));
        let file = Arc::clone(&self.file);
        let reading = self
            .reading
            .get_or_insert_with(|| tokio::task::spawn_blocking(move || piece(&file, at, length)));
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()));
        if read.is_ok() {
            self.at += length;
            self.left -= length;
        }
        Poll::Ready(Some(read.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn piece(file: &File, at: u64, length: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.into())
}
