//! What frames are put together from and taken apart into.

use super::FrameError;

/// A frame: its kind, then its parts.
pub(super) fn frame(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(size.saturating_add(1));
    frame.push(kind);
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}

/// The next `N` bytes.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (first, after) = rest.split_first_chunk().ok_or(FrameError)?;
    *rest = after;
    Ok(*first)
}

/// Everything that is left, as text.
pub(super) fn text(rest: &[u8]) -> Result<&str, FrameError> {
    core::str::from_utf8(rest).map_err(|_| FrameError)
}
