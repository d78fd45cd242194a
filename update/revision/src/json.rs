//! The canonical form of every document: compact JSON, fields in declared order, maps sorted, absent is not null.
//!
//! A document is accepted only if re-encoding what was parsed gives the same bytes. That one
//! comparison refuses repeated keys, nulls, white space, alternative escapes and number forms
//! together. It is a check and not a dependency: signatures are over the bytes as they are.

mod objects;

use crate::error::Error;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Parses `bytes` as a canonical document.
///
/// # Errors
/// [`Error::TooLarge`] before anything is parsed, [`Error::Json`], [`Error::NotCanonical`].
pub fn parse<T: DeserializeOwned + Serialize>(
    kind: &'static str,
    cap: usize,
    bytes: &[u8],
) -> Result<T, Error> {
    if bytes.len() > cap {
        return Err(Error::TooLarge {
            kind,
            size: bytes.len(),
            cap,
        });
    }
    let value: T = read(bytes).map_err(|source| Error::Json { kind, source })?;
    let mut canonical = Compare {
        rest: bytes,
        offset: 0,
    };
    let same = write(&mut canonical, &value).is_ok() && canonical.rest.is_empty();
    if same {
        Ok(value)
    } else {
        Err(Error::NotCanonical {
            kind,
            offset: canonical.offset,
        })
    }
}

/// Parses JSON in any form: what is not signed. Everything that a device parses comes through here, since each way to parse
/// a type is code of its own.
///
/// # Errors
/// It is no JSON of the type.
pub fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(objects::Objects(&mut json))?;
    json.end()?;
    Ok(value)
}

/// The canonical bytes of a document.
///
/// # Errors
/// [`Error::Json`] if a type cannot be written as JSON; no document type of this crate is such.
pub fn encode<T: Serialize>(kind: &'static str, value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    write(&mut bytes, value).map_err(|source| Error::Json { kind, source })?;
    Ok(bytes)
}

/// Writes JSON. Everything that a device writes goes through here: to write a type to each kind of writer would be code of
/// its own, and so there is one kind.
///
/// # Errors
/// Those of the writer; the type cannot be written as JSON.
pub fn write<T: Serialize + ?Sized>(
    to: &mut dyn std::io::Write,
    value: &T,
) -> Result<(), serde_json::Error> {
    serde_json::to_writer(to, value)
}

/// JSON of plain data, which cannot fail: its maps' keys are text.
pub fn bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    if write(&mut bytes, value).is_err() {
        bytes.clear();
    }
    bytes
}

/// A writer that compares instead of keeping: re-encoding a 256 KiB document takes no second buffer.
struct Compare<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl std::io::Write for Compare<'_> {
    fn write(&mut self, written: &[u8]) -> std::io::Result<usize> {
        match self.rest.strip_prefix(written) {
            Some(rest) => {
                self.rest = rest;
                self.offset += written.len();
                Ok(written.len())
            }
            None => Err(std::io::ErrorKind::InvalidData.into()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    type Map = BTreeMap<String, u32>;

    #[test]
    fn repeated_keys_white_space_and_escapes_are_refused() {
        assert!(parse::<Map>("test", 100, br#"{"a":1,"b":2}"#).is_ok());
        for bad in [
            r#"{"a":1,"a":2}"#,
            r#"{"b":1,"a":2}"#,
            r#"{"a": 1}"#,
            r#"{"\u0061":1}"#,
            "{\"a\":1}\n",
        ] {
            assert!(
                matches!(
                    parse::<Map>("test", 100, bad.as_bytes()),
                    Err(Error::NotCanonical { .. })
                ),
                "{bad}"
            );
        }
        assert!(matches!(
            parse::<Map>("test", 5, br#"{"a":1}"#),
            Err(Error::TooLarge { size: 7, .. })
        ));
        assert!(matches!(
            parse::<Map>("test", 100, br#"{"a":1.0}"#),
            Err(Error::Json { .. })
        ));
    }
}
