//! The head of a bundle: the documents that a device is offered.
//!
//! `kedge.bundle/1\n`, then sections: kind u8, seven zero bytes, length u64 LE, and so many bytes. Kinds in this
//! order: 1 the revision, 2 its signatures, 3 parameters, which may be absent. Nothing is judged here.

use kedge_revision::parameters::Parameters;
use kedge_revision::{SignatureSet, revision};

const MAGIC: [u8; 15] = *b"kedge.bundle/1\n";
/// Bytes before those of a section.
const HEADER: usize = 16;

/// The documents, as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// The revision.
    pub revision: &'a [u8],
    /// Its signatures.
    pub signatures: &'a [u8],
    /// Parameters for this device.
    pub parameters: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    /// Longest head, bytes.
    pub const CAP: usize =
        MAGIC.len() + 3 * HEADER + revision::CAP + SignatureSet::CAP + Parameters::CAP;

    /// Takes a head apart.
    ///
    /// # Errors
    /// What of it is not as described.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut rest = bytes
            .strip_prefix(&MAGIC)
            .ok_or("this is no bundle: it does not begin with kedge.bundle/1")?;
        let revision = section(&mut rest, 1)?.ok_or("the bundle has no revision")?;
        let signatures = section(&mut rest, 2)?.ok_or("the bundle has no signatures")?;
        let parameters = section(&mut rest, 3)?;
        if rest.is_empty() {
            Ok(Self {
                revision,
                signatures,
                parameters,
            })
        } else {
            Err("something follows the head of the bundle")
        }
    }
}

/// The section that begins here, if it is of this kind.
fn section<'a>(rest: &mut &'a [u8], kind: u8) -> Result<Option<&'a [u8]>, &'static str> {
    let Some((found, after)) = rest.split_first() else {
        return Ok(None);
    };
    if *found != kind {
        return Ok(None);
    }
    let torn = "a section of the bundle is cut short";
    let (padding, after) = after.split_first_chunk::<7>().ok_or(torn)?;
    let (length, after) = after.split_first_chunk().ok_or(torn)?;
    if *padding != [0; 7] {
        return Err("the header of a section of the bundle has bytes that must be zero");
    }
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| torn)?;
    let (section, after) = after.split_at_checked(length).ok_or(torn)?;
    *rest = after;
    Ok(Some(section))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A head of these sections.
    pub(in super::super) fn head(sections: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (kind, section) in sections {
            bytes.extend_from_slice(&[*kind, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(&(section.len() as u64).to_le_bytes());
            bytes.extend_from_slice(section);
        }
        bytes
    }

    #[test]
    fn a_head_is_taken_apart_and_none_torn() {
        let all = head(&[(1, b"revision"), (2, b"signatures"), (3, b"")]);
        let parsed = Head::parse(&all).unwrap();
        assert_eq!(parsed.revision, b"revision");
        assert_eq!(parsed.signatures, b"signatures");
        assert_eq!(parsed.parameters, Some(&b""[..]));
        let without = head(&[(1, b"r"), (2, b"s")]);
        assert_eq!(Head::parse(&without).unwrap().parameters, None);
        // Cut behind the signatures it is whole again: parameters may be absent.
        let whole = all.len() - HEADER;
        for cut in (0..all.len()).filter(|cut| *cut != whole) {
            assert!(Head::parse(&all[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn sections_out_of_order_twice_or_more_are_refused() {
        for sections in [
            &[(2, &b"s"[..]), (1, b"r")][..],
            &[(1, b"r"), (1, b"r"), (2, b"s")],
            &[(1, b"r"), (3, b"p"), (2, b"s")],
            &[(1, b"r"), (2, b"s"), (3, b"p"), (3, b"p")],
            &[(1, b"r"), (2, b"s"), (4, b"tree")],
            &[(1, b"r"), (2, b"s"), (6, b"")],
            &[(1, b"r")],
        ] {
            assert!(Head::parse(&head(sections)).is_err(), "{sections:?}");
        }
        let mut padded = head(&[(1, b"r"), (2, b"s")]);
        padded[MAGIC.len() + 7] = 1;
        Head::parse(&padded).unwrap_err();
        let mut endless = head(&[(1, b"r"), (2, b"s")]);
        endless[MAGIC.len() + 8..MAGIC.len() + 16].fill(0xff);
        Head::parse(&endless).unwrap_err();
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(0_u8..4, 0..80)) {
            let bytes = [&MAGIC[..], &bytes].concat();
            if let Ok(parsed) = Head::parse(&bytes) {
                let mut sections = vec![(1, parsed.revision), (2, parsed.signatures)];
                sections.extend(parsed.parameters.map(|bytes| (3, bytes)));
                prop_assert_eq!(head(&sections), bytes);
            }
        }
    }
}
