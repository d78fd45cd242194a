//! Names as archives state them, into paths that cannot leave the layer.
//!
//! A path is its components joined by `/`, without a leading or trailing one; the root is empty. Bytes that are not text are kept.

use crate::bounds::{Bounds, Limit, check, len};
use crate::error::{EntryFault, Error};

/// Starts a whiteout's name.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Makes its directory hide what lower layers have there.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Starts what AUFS kept for itself; no entry of the image.
pub(crate) const AUFS: &[u8] = b".wh..wh.";

/// Why a name is no path.
#[derive(Debug)]
pub(crate) enum Unclean {
    Fault(EntryFault),
    Bound(Error),
}

impl From<EntryFault> for Unclean {
    fn from(fault: EntryFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Error> for Unclean {
    fn from(error: Error) -> Self {
        Self::Bound(error)
    }
}

/// Cleans a name: `./a//b/` is `a/b`; absolute names and `..` are refused rather than bent, because whoever wrote them expects something else.
pub(crate) fn clean(raw: &[u8], bounds: &Bounds, at: &str) -> Result<Vec<u8>, Unclean> {
    check(len(raw.len()), len(bounds.path), Limit::Path, at)?;
    if raw.is_empty() {
        return Err(EntryFault::EmptyName.into());
    }
    if raw.contains(&0) {
        return Err(EntryFault::NulByte.into());
    }
    if raw.starts_with(b"/") {
        return Err(EntryFault::AbsolutePath.into());
    }
    let mut path = Vec::with_capacity(raw.len());
    let mut depth = 0_usize;
    for component in components(raw) {
        if component == b".." {
            return Err(EntryFault::DotDot.into());
        }
        check(len(component.len()), len(bounds.name), Limit::Name, at)?;
        depth += 1;
        check(len(depth), len(bounds.depth), Limit::Depth, at)?;
        push(&mut path, component);
    }
    Ok(path)
}

/// Components, without empty ones and `.`.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
}

/// Appends a component.
pub(crate) fn push(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

/// `directory` and `name` as one path.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    push(&mut path, name);
    path
}

/// Directory and last component; of the root, both are empty.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash + 1..).unwrap_or_default(),
        ),
        None => (&[], path),
    }
}

/// All directories above a path, the root first, the path itself not among them.
pub(crate) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let root = (!path.is_empty()).then_some(&[][..]);
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
    root.into_iter()
        .chain(slashes.map(|(i, _)| path.get(..i).unwrap_or_default()))
}

/// For messages.
pub(crate) fn show(path: &[u8]) -> String {
    if path.is_empty() {
        return "/".to_owned();
    }
    String::from_utf8_lossy(path).escape_debug().to_string()
}
