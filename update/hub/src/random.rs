//! Random bytes from the kernel, and what is made of them.

use crate::error::Error;
use kedge_revision::id::hex;

/// `N` random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(bytes)
}

/// `2 * N` random hexadecimal digits.
pub(crate) fn digits<const N: usize>() -> Result<String, Error> {
    Ok(hex(&bytes::<N>()?))
}
