//! The digest of a container's definition: what its data of `revision` lifetime is kept under.
//!
//! It is the first 128 bits of the SHA-256 of the definition's canonical bytes. Two revisions that define a container
//! alike give it the same data, so that it can go on through an update; a new definition begins with none. It names
//! a directory and decides nothing about trust.

use crate::container::Container;
use crate::error::Error;
use crate::id::hex;
use crate::json;
use sha2::{Digest, Sha256};

/// 32 hexadecimal digits.
///
/// # Errors
/// As [`json::encode`].
pub fn digest(container: &Container) -> Result<String, Error> {
    let bytes = json::encode("container", container)?;
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    Ok(hex(digest.split_at(16).0))
}
