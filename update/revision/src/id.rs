//! Names: of objects (fs-verity digests), of keys (digests of public keys), and of things people name.
//!
//! All are newtypes that cannot be built wrong: a [`Name`] is safe as a path component, an
//! [`ObjectId`] is always 32 bytes of a known algorithm.

use crate::error::Error;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Writes bytes as lower-case hexadecimal.
fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads exactly 32 bytes of lower-case hexadecimal; upper case is refused, so each value has one spelling.
pub(crate) fn parse_hex32(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    parse_hex(text, &mut bytes).then_some(bytes)
}

/// Fills `into` from lower-case hexadecimal of exactly its length; false if the text is anything else.
pub(crate) fn parse_hex(text: &str, into: &mut [u8]) -> bool {
    let digits = text.as_bytes();
    if Some(digits.len()) != into.len().checked_mul(2) {
        return false;
    }
    for (byte, pair) in into.iter_mut().zip(digits.chunks_exact(2)) {
        let mut value = 0_u8;
        for digit in pair {
            let nibble = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return false,
            };
            value = (value << 4) | nibble;
        }
        *byte = value;
    }
    true
}

/// Lower-case hexadecimal of any bytes, as all documents write them.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    struct Hex<'a>(&'a [u8]);
    impl fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_hex(self.0, f)
        }
    }
    Hex(bytes).to_string()
}

/// Implements `Serialize` by `Display` and `Deserialize` by `FromStr`. The pattern, of JSON Schema, is for the hub's description of
/// its API; a text that it lets through may still be none.
macro_rules! serde_as_text {
    ($name:ty, $expects:literal, $pattern:literal) => {
        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some($expects))
                    .pattern(Some($pattern))
                    .into()
            }
        }
        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expects)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                        text.parse()
                            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}
pub(crate) use serde_as_text;

/// The name of an object: its fs-verity digest (SHA-256, 4 KiB blocks, no salt), written `v1:<64 hex>`.
///
/// Source: Linux `Documentation/filesystems/fsverity.rst`, "fs-verity descriptor".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId([u8; 32]);

impl ObjectId {
    /// From the digest that [`crate::verity`] or the kernel (`FS_IOC_MEASURE_VERITY`) gives.
    #[must_use]
    pub const fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The 32 bytes of the digest.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest as 64 hexadecimal digits: the object's file name in a store.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("v1:")?;
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.strip_prefix("v1:")
            .and_then(parse_hex32)
            .map(Self)
            .ok_or_else(|| Error::invalid("object id", "is not v1: and 64 hexadecimal digits"))
    }
}
serde_as_text!(ObjectId, "an object id, v1:<64 hex>", "^v1:[0-9a-f]{64}$");

/// The name of a key, and of a device: the SHA-256 of its public key, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// From the SHA-256 of a public key.
    #[must_use]
    pub const fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The 32 bytes of the digest.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_hex32(text)
            .map(Self)
            .ok_or_else(|| Error::invalid("key id", "is not 64 hexadecimal digits"))
    }
}
serde_as_text!(KeyId, "a key id, 64 hexadecimal digits", "^[0-9a-f]{64}$");

/// A name that people give (container, group, volume, product, parameter): 1 to 32 characters of
/// `a-z`, `0-9` and `-`, beginning with a letter, not ending in `-`. Safe as a path component, a
/// cgroup's name and a host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Longest name, bytes: an interface name derived from it still fits its 15, and a host name its 63.
    pub const MAX: usize = 32;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let good = (1..=Self::MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid(
                "name",
                "is not 1 to 32 of a-z, 0-9 and -, beginning with a letter",
            ))
        }
    }
}
serde_as_text!(
    Name,
    "a name: 1 to 32 of a-z, 0-9 and -, beginning with a letter",
    "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$"
);

/// The name of a file of the slot that not every slot has: 1 to 64 characters of `a-z`, `0-9`, `-`, `_` and `.`, beginning with a
/// letter, not ending in `.`. None of [`FileName::RESERVED`], and none that stands for a device on systems that read FAT.
///
/// FAT does not tell upper from lower case; without upper case no two names are one there. Source: Microsoft, "FAT: General
/// Overview of On-Disk Format", version 1.03; for devices mtools, `namematch.c`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

impl FileName {
    /// Longest name, bytes.
    pub const MAX: usize = 64;
    /// Files of every slot, and what is said of them.
    pub const RESERVED: [&str; 4] = ["kernel", "initramfs", "cmdline.txt", "statement.efi"];
    /// Names of devices, whatever stands behind a first `.`; `com` and `lpt` with a digit are others.
    const DEVICES: [&str; 4] = ["aux", "con", "nul", "prn"];

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_device(text: &str) -> bool {
        let base = text.split('.').next().unwrap_or_default();
        let port = |kind| {
            let number: Option<&str> = base.strip_prefix(kind);
            number
                .is_some_and(|digit| digit.len() == 1 && digit.bytes().all(|b| b.is_ascii_digit()))
        };
        Self::DEVICES.contains(&base) || port("com") || port("lpt")
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FileName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let good = (1..=Self::MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('.')
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
            && !Self::RESERVED.contains(&text)
            && !Self::is_device(text);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid(
                "file name",
                "is not 1 to 64 of a-z, 0-9, -, _ and ., beginning with a letter, or is a name of another use",
            ))
        }
    }
}
serde_as_text!(
    FileName,
    "a file's name in the slot: 1 to 64 of a-z, 0-9, -, _ and ., beginning with a letter; no name of another use",
    "^[a-z][a-z0-9._-]{0,63}$"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slots_file_has_a_name_that_every_fat_can_have_and_no_other_file() {
        for good in [
            "a",
            "bcm2837-rpi-3-b.dtb",
            "start4.elf",
            "sun8i_h3.dtb",
            "kernel.dtb",
            "console",
            "com10",
            "x".repeat(64).as_str(),
        ] {
            assert_eq!(good.parse::<FileName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "a.",
            "a/b",
            "a\\b",
            "Board.dtb",
            "1a",
            "-a",
            "a b",
            "a~1",
            "a:b",
            "a\0",
            "ä",
            "kernel",
            "initramfs",
            "cmdline.txt",
            "statement.efi",
            "con",
            "con.dtb",
            "nul",
            "aux.a.b",
            "prn",
            "com1",
            "lpt9.txt",
            "x".repeat(65).as_str(),
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn object_id_has_one_spelling() {
        let text = format!("v1:{}", "0a".repeat(32));
        assert_eq!(text.parse::<ObjectId>().unwrap().to_string(), text);
        for bad in [
            text.to_uppercase(),
            text.replace("v1", "v2"),
            text[..66].to_owned(),
            format!("{text}0"),
        ] {
            assert!(bad.parse::<ObjectId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_safe_path_components() {
        for good in ["a", "web", "a-1", "x".repeat(32).as_str()] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "A",
            "1a",
            "-a",
            "a-",
            "a.b",
            "a\0",
            "x".repeat(33).as_str(),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
