//! PAX records: `length key=value\n`, where the length counts itself (POSIX `pax`, "pax Extended Header").
//!
//! Pure: bytes in, fields out. The caller caps the size.

use super::Mtime;
use crate::error::TarFault;

/// The records of one extended header that mean something here.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Mtime>,
    /// `SCHILY.xattr.*`, in order.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<SparseVersion>,
    pub(crate) sparse_name: Option<Vec<u8>>,
    pub(crate) sparse_size: Option<u64>,
}

/// GNU's three ways to write a sparse file in PAX; the map of 1.0 stands before the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SparseVersion {
    Old,
    V1,
}

impl Pax {
    /// Parses a whole extended header.
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, TarFault> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let space = bytes
                .iter()
                .position(|b| *b == b' ')
                .ok_or(TarFault::PaxRecord)?;
            let length = decimal(bytes.get(..space).unwrap_or_default())?;
            let length = usize::try_from(length).map_err(|_| TarFault::PaxRecord)?;
            let record = bytes.get(space + 1..length).ok_or(TarFault::PaxRecord)?;
            let Some((b'\n', record)) = record.split_last() else {
                return Err(TarFault::PaxRecord);
            };
            let equals = record
                .iter()
                .position(|b| *b == b'=')
                .ok_or(TarFault::PaxRecord)?;
            let (key, value) = record.split_at(equals);
            pax.set(key, value.get(1..).unwrap_or_default())?;
            bytes = bytes.get(length..).ok_or(TarFault::PaxRecord)?;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarFault> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(mtime(value)?),
            b"GNU.sparse.major" if value == b"1" => self.sparse = Some(SparseVersion::V1),
            b"GNU.sparse.major" | b"GNU.sparse.map" | b"GNU.sparse.numblocks" => {
                self.sparse = Some(SparseVersion::Old);
            }
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => self.sparse_size = Some(decimal(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    // As with every key, the last record holds.
                    self.xattrs.retain(|(n, _)| n != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// An unsigned decimal number without sign or blanks.
pub(crate) fn decimal(digits: &[u8]) -> Result<u64, TarFault> {
    if digits.is_empty() || digits.len() > 20 {
        return Err(TarFault::Number);
    }
    digits.iter().try_fold(0_u64, |n, d| {
        let d = d
            .checked_sub(b'0')
            .filter(|d| *d < 10)
            .ok_or(TarFault::Number)?;
        n.checked_mul(10)
            .and_then(|n| n.checked_add(u64::from(d)))
            .ok_or(TarFault::Number)
    })
}

/// `seconds[.fraction]`; times before 1970 become 1970, digits after the ninth are dropped.
fn mtime(value: &[u8]) -> Result<Mtime, TarFault> {
    if let Some(rest) = value.strip_prefix(b"-") {
        mtime(rest)?;
        return Ok(Mtime::default());
    }
    let mut parts = value.splitn(2, |b| *b == b'.');
    let seconds = decimal(parts.next().unwrap_or_default())?;
    let mut nanoseconds = 0;
    if let Some(fraction) = parts.next() {
        let mut digits = [b'0'; 9];
        for (digit, given) in digits.iter_mut().zip(fraction) {
            *digit = *given;
        }
        nanoseconds = u32::try_from(decimal(&digits)?).map_err(|_| TarFault::Number)?;
    }
    Ok(Mtime::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_value_with_newline_survives() {
        let pax = Pax::parse(b"26 SCHILY.xattr.user.a=\n\0\n").unwrap();
        assert_eq!(pax.xattrs, vec![(b"user.a".to_vec(), b"\n\0".to_vec())]);
    }

    #[test]
    fn lying_record_length() {
        for bytes in [
            &b"99 path=a\n"[..],
            b"2 path=a\n",
            b"0 path=a\n",
            b"x path=a\n",
            b"10 path=ab",
            b"99999999999999999999999 a=b\n",
        ] {
            assert!(Pax::parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn fraction_of_a_second() {
        assert_eq!(mtime(b"12.5").unwrap(), Mtime::new(12, 500_000_000));
        assert_eq!(mtime(b"-12.5").unwrap(), Mtime::default());
        assert!(mtime(b"12.x").is_err());
    }
}
