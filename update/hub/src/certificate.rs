//! Reading what the hub must know of a client's certificate: how long it holds, and whose key is in it.
//!
//! A certificate that gets here was issued by the hub's own authority, which TLS has judged. So this reads no more than
//! the way to three fields (RFC 5280, section 4.1), and whatever is not as the hub writes it is refused.

use kedge_revision::{KeyId, PublicKey};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// 1.3.101.112, Ed25519 (RFC 8410).
const ED25519: [u8; 3] = [0x2b, 0x65, 0x70];

/// What a certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// First second of its time, since 1970.
    pub(crate) not_before: u64,
    /// Last second of its time, since 1970.
    pub(crate) not_after: u64,
    /// Its key, if that is an ed25519 one.
    pub(crate) key: Option<PublicKey>,
}

impl Certificate {
    /// The device that the key makes.
    pub(crate) fn device(&self) -> Option<KeyId> {
        self.key.map(|key| key.id())
    }

    /// Whether it holds at this time, seconds since 1970.
    pub(crate) const fn is_in_time(&self, now: u64) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Reads a certificate; none if it is not as the hub writes them.
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let (mut certificate, _) = element(der, SEQUENCE)?;
        let mut fields = take(&mut certificate, SEQUENCE)?;
        if fields.first() == Some(&VERSION) {
            take(&mut fields, VERSION)?;
        }
        take(&mut fields, INTEGER)?;
        // The algorithm, and who issued it.
        take(&mut fields, SEQUENCE)?;
        take(&mut fields, SEQUENCE)?;
        let mut validity = take(&mut fields, SEQUENCE)?;
        let not_before = time(&mut validity)?;
        let not_after = time(&mut validity)?;
        // The subject; the key names the device.
        take(&mut fields, SEQUENCE)?;
        let mut key = take(&mut fields, SEQUENCE)?;
        Some(Self {
            not_before,
            not_after,
            key: ed25519(&mut key),
        })
    }
}

fn ed25519(info: &mut &[u8]) -> Option<PublicKey> {
    let mut algorithm = take(info, SEQUENCE)?;
    if take(&mut algorithm, OID)? != ED25519 {
        return None;
    }
    // The first byte counts unused bits: none.
    match take(info, BIT_STRING)? {
        [0, key @ ..] => Some(PublicKey::from_bytes(key.try_into().ok()?)),
        _ => None,
    }
}

/// The contents of the first element, which must be `tag`; `from` goes on behind it.
fn take<'a>(from: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (contents, rest) = element(from, tag)?;
    *from = rest;
    Some(contents)
}

/// An element of DER (X.690, 8.1): tag, length, contents; and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    if *found != tag {
        return None;
    }
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let count = usize::from(*first & 0x7f);
        if !(1..=2).contains(&count) {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(count)?;
        let length = digits
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        (length, rest)
    };
    rest.split_at_checked(length)
}

/// A time as RFC 5280 has it: `YYMMDDhhmmssZ` up to 2049, `YYYYMMDDhhmmssZ` from 2050 on.
fn time(from: &mut &[u8]) -> Option<u64> {
    let (text, century) = match from.first()? {
        &UTC_TIME => (take(from, UTC_TIME)?, true),
        _ => (take(from, GENERALIZED_TIME)?, false),
    };
    let text = core::str::from_utf8(text).ok()?;
    let (year, rest) = if century {
        let two: u32 = text.get(..2)?.parse().ok()?;
        (if two < 50 { 2000 } else { 1900 } + two, text.get(2..)?)
    } else {
        (text.get(..4)?.parse().ok()?, text.get(4..)?)
    };
    let part = |at: usize| rest.get(at..at + 2);
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    let stamp = format!("{year:04}-{month}-{day}T{hour}:{minute}:{second}Z");
    if rest.get(10..) != Some("Z") {
        return None;
    }
    Some(stamp.parse::<kedge_revision::Timestamp>().ok()?.unix())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::identity::Identity;
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    fn issued() -> (Vec<u8>, PublicKey) {
        let data = tempfile::tempdir().unwrap();
        let identity = Identity::open(data.path()).unwrap();
        let key = SigningKey::from_bytes(&[5; 32]).verifying_key();
        let key = PublicKey::from_bytes(key.to_bytes());
        (identity.issue(&key).unwrap().der, key)
    }

    thread_local! {
        static DER: Vec<u8> = issued().0;
    }

    #[test]
    fn what_the_hub_issues_is_read_and_no_part_of_it() {
        let (der, key) = issued();
        let read = Certificate::read(&der).unwrap();
        assert_eq!(read.device(), Some(key.id()));
        let now = clock::unix();
        for (at, holds) in [
            (read.not_before - 1, false),
            (read.not_before, true),
            (now, true),
            (read.not_after, true),
            (read.not_after + 1, false),
        ] {
            assert_eq!(read.is_in_time(at), holds, "{at}");
        }
        for end in 0..der.len() {
            assert_eq!(Certificate::read(&der[..end]), None, "{end}");
        }
    }

    #[test]
    fn another_kind_of_key_makes_no_device() {
        let data = tempfile::tempdir().unwrap();
        let identity = Identity::open(data.path()).unwrap();
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(["hub.test".to_owned()]).unwrap();
        let made = params.self_signed(&other).unwrap();
        assert_eq!(Certificate::read(made.der()).unwrap().device(), None);
        // The authority lasts beyond 2049, from where on times are written otherwise.
        let authority = Certificate::read(identity.authority()).unwrap();
        assert!(authority.not_after > clock::unix() + 29 * 365 * 86_400);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(at in 0_usize..400, byte: u8, noise: Vec<u8>) {
            let mut der = DER.with(Clone::clone);
            if let Some(place) = der.get_mut(at) {
                *place = byte;
            }
            let both = [der, noise].map(|bytes| Certificate::read(&bytes));
            prop_assert_eq!(both.len(), 2);
        }
    }
}
