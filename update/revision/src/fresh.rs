//! A hub's signed answer: what time it is, and which of the signed revisions this device should run.
//!
//! ```json
//! {"spec":"kedge.fresh/1","device":"<key id>","nonce":"<64 hex>","time":"2026-11-22T10:00:00Z",
//!  "assignment":{"revision":"v1:…","parameters":3},"holds-s":86400}
//! ```
//! (compact in its canonical form). An answer without `assignment` tells the time alone, before
//! the device can judge certificates.

use crate::error::Error;
use crate::id::{KeyId, ObjectId, parse_hex32, serde_as_text};
use crate::json;
use crate::root::Root;
use crate::signing::SignatureSet;
use crate::time::Timestamp;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// 32 random bytes that a device sends and must find in the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; 32]);

impl Nonce {
    /// From the kernel's random source.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::id::hex(&self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Nonce {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_hex32(text)
            .map(Self)
            .ok_or_else(|| Error::invalid("nonce", "is not 64 hexadecimal digits"))
    }
}
serde_as_text!(Nonce, "a nonce, 64 hexadecimal digits", "^[0-9a-f]{64}$");

/// A hub's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fresh {
    spec: String,
    /// The device it is for.
    pub device: KeyId,
    /// The device's nonce.
    pub nonce: Nonce,
    /// The hub's time.
    pub time: Timestamp,
    /// What the device should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Assignment>,
    /// Seconds for which the answer holds, at most [`Fresh::LONGEST`].
    pub holds_s: u32,
}

/// What a device should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Assignment {
    /// The revision; must be signed by release keys and at or above the floor.
    pub revision: ObjectId,
    /// Counter of the parameters.
    pub parameters: u64,
}

impl Fresh {
    /// Format and version.
    pub const SPEC: &'static str = "kedge.fresh/1";
    /// Largest answer, bytes.
    pub const CAP: usize = 4096;
    /// Longest time for which an answer may hold: 31 days.
    pub const LONGEST: u32 = 31 * 86_400;

    /// An answer to `nonce` of `device`.
    #[must_use]
    pub fn new(
        device: KeyId,
        nonce: Nonce,
        time: Timestamp,
        assignment: Option<Assignment>,
        holds_s: u32,
    ) -> Self {
        Self {
            spec: Self::SPEC.to_owned(),
            device,
            nonce,
            time,
            assignment,
            holds_s,
        }
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`json::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        json::encode("fresh", self)
    }

    /// Judges an answer: signed by the hub's keys under `root`, for this device, to this nonce.
    ///
    /// # Errors
    /// As [`SignatureSet::verify`] and [`json::parse`]; [`Error::Spec`]; [`Error::Invalid`] for
    /// another device's answer, an older answer (another nonce), and one that holds too long.
    pub fn verify(
        bytes: &[u8],
        signatures: &SignatureSet,
        root: &Root,
        device: KeyId,
        nonce: Nonce,
    ) -> Result<Self, Error> {
        if bytes.len() > Self::CAP {
            return Err(Error::TooLarge {
                kind: "fresh",
                size: bytes.len(),
                cap: Self::CAP,
            });
        }
        root.verify_hub(bytes, signatures)?;
        let fresh: Self = json::parse("fresh", Self::CAP, bytes)?;
        if fresh.spec != Self::SPEC {
            return Err(Error::Spec {
                expected: Self::SPEC,
                found: fresh.spec,
            });
        }
        if fresh.device != device {
            return Err(Error::invalid("device", "is another device"));
        }
        if fresh.nonce != nonce {
            return Err(Error::invalid("nonce", "answers another question"));
        }
        if fresh.holds_s == 0 || fresh.holds_s > Self::LONGEST {
            return Err(Error::invalid("holds-s", "is not 1 second to 31 days"));
        }
        Ok(fresh)
    }
}
