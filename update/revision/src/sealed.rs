//! Secrets that only one device can read: sealed by the operator's tool, carried by a hub, opened by the device.
//!
//! HPKE (RFC 9180) in base mode, once for each value: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305. `info`
//! is [`INFO`] and the parameter's name, so that a hub cannot give one secret for another. As text, in the place of the
//! value:
//! ```text
//! sealed:v1:<64 hex: the sender's key><hex: what is sealed, 16 bytes longer than the value>
//! ```
//! The key is the device's ed25519 key on the other form of the same curve (RFC 7748, section 4.1). So whoever knows a
//! device knows what to seal for: its id is the digest of that key, and a hub cannot put another key in its place. A
//! second key would have to be signed, kept, backed up and renewed beside the first. Both uses together are proven
//! sound (E. Thormarker, "On using the same key pair for Ed25519 and an X25519 based KEM", 2021).
//!
//! What it does not do: it does not tell who sealed a value; a hub can seal one itself, or give an older one again. What
//! values do is bounded by the signed revision.

#[cfg(feature = "seal")]
mod hpke;

use crate::error::Error;

/// What every sealed value begins with.
pub const PREFIX: &str = "sealed:v1:";
/// What the context of a seal begins with.
#[cfg(feature = "seal")]
const INFO: &[u8] = b"kedge.parameters/1 ";
/// Hexadecimal digits of the sender's key and of what sealing adds.
const OVERHEAD: usize = 2 * (32 + 16);

/// Whether a value is sealed, at least by its first letters.
#[must_use]
pub fn is_sealed(value: &str) -> bool {
    value.starts_with(PREFIX)
}

/// Whether a value is the form of one that seals at most `longest` bytes.
///
/// # Errors
/// [`Error::Invalid`] with `field`.
pub fn check(value: &str, longest: usize, field: &str) -> Result<(), Error> {
    let digits = value.strip_prefix(PREFIX).unwrap_or_default();
    let least = OVERHEAD;
    let most = OVERHEAD.saturating_add(longest.saturating_mul(2));
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if (least..=most).contains(&digits.len())
        && digits.len().is_multiple_of(2)
        && digits.bytes().all(hex)
    {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        "is a secret, and must be sealed for the device (kedge parameters --secret-file)",
    ))
}

/// Seals a parameter's value for the device with this key. `chance` is 32 random bytes that are used for nothing else.
///
/// # Errors
/// [`Error::BadKey`].
#[cfg(feature = "seal")]
pub fn seal(
    device: crate::signing::PublicKey,
    name: &crate::Name,
    value: &str,
    chance: [u8; 32],
) -> Result<String, Error> {
    let bad = || Error::BadKey {
        key: device.id().to_string(),
    };
    device.check()?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(device.bytes()).map_err(|_| bad())?;
    let info = [INFO, name.as_str().as_bytes()].concat();
    let sealed = hpke::seal(key.to_montgomery(), &info, b"", value.as_bytes(), chance);
    let sealed = sealed.ok_or_else(bad)?;
    let mut text = PREFIX.to_owned();
    for byte in sealed {
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

/// Opens a parameter's value with the device's key.
///
/// # Errors
/// [`Error::Invalid`] with the parameter's name: it was sealed for another device or parameter, or is damaged.
#[cfg(feature = "seal")]
pub fn open(
    device: &ed25519_dalek::SigningKey,
    name: &crate::Name,
    value: &str,
) -> Result<String, Error> {
    let opened = || {
        let digits = value.strip_prefix(PREFIX)?.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        let bytes = pairs
            .iter()
            .map(|[high, low]| u8::try_from(nibble(*high)? << 4 | nibble(*low)?).ok());
        let sealed: Vec<u8> = bytes.collect::<Option<_>>().filter(|_| rest.is_empty())?;
        let info = [INFO, name.as_str().as_bytes()].concat();
        let value = hpke::open(device.to_scalar_bytes(), &info, b"", &sealed)?;
        String::from_utf8(value).ok()
    };
    opened().ok_or_else(|| {
        Error::invalid(
            format!("parameters.{name}"),
            "cannot be opened: it was sealed for another device or parameter, or is damaged",
        )
    })
}

#[cfg(all(test, feature = "seal"))]
mod tests {
    use super::*;
    use crate::signing::PublicKey;
    use ed25519_dalek::SigningKey;

    fn device(seed: u8) -> (SigningKey, PublicKey) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = PublicKey::from_bytes(key.verifying_key().to_bytes());
        (key, public)
    }

    #[test]
    fn only_its_device_opens_it_and_only_under_its_name() {
        let (key, public) = device(1);
        let name = "mqtt-password".parse().unwrap();
        let sealed = seal(public, &name, "hunter2 ü", [7; 32]).unwrap();
        assert!(is_sealed(&sealed) && !sealed.contains("hunter2"));
        check(&sealed, 10, "p").unwrap();
        check(&sealed, 9, "p").unwrap_err();
        assert_eq!(open(&key, &name, &sealed).unwrap(), "hunter2 ü");
        open(&key, &"other".parse().unwrap(), &sealed).unwrap_err();
        open(&device(2).0, &name, &sealed).unwrap_err();
        let again = seal(public, &name, "hunter2 ü", [8; 32]).unwrap();
        assert_ne!(again, sealed);
        for place in PREFIX.len()..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
            let damaged = String::from_utf8(bytes).unwrap();
            let error = open(&key, &name, &damaged).unwrap_err();
            assert!(!error.to_string().contains(&damaged));
        }
        for bad in [
            "",
            "sealed:v1:",
            "sealed:v1:zz",
            "sealed:v2:00",
            &sealed[..sealed.len() - 1],
        ] {
            open(&key, &name, bad).unwrap_err();
            check(bad, 100, "p").unwrap_err();
        }
    }

    #[test]
    fn a_key_that_is_no_point_is_refused() {
        let name = "p".parse().unwrap();
        for bad in [[0; 32], [2; 32]] {
            seal(PublicKey::from_bytes(bad), &name, "x", [7; 32]).unwrap_err();
        }
    }
}
