//! What a bundle on a disk claims to be, and which one is offered first. Pure.
//!
//! Nothing here is verified: a claim that is not true is refused behind the control socket, and the next bundle follows.

use core::fmt;
use kedge_revision::bundle::{Fault, HEADER, Head, Kind, MAGIC, Section};
use kedge_revision::revision::{self, Envelope};
use kedge_revision::{Error, Order, SignatureSet, json};
use std::cmp::Reverse;

/// So much of a file is read before it is known what it is, bytes: no head of a bundle is longer.
pub const HEAD: u64 = 1 << 19;
const _: () = assert!(Head::CAP < 1 << 19);

/// A bundle that is made for this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<F> {
    /// Its name and disk, for people.
    pub label: String,
    /// Where its revision says that it stands.
    pub order: Order,
    /// What its author calls it.
    pub version: String,
    /// The file.
    pub file: F,
}

/// Why a file is not offered.
#[derive(Debug)]
pub enum Unfit {
    /// It cannot be read.
    File(std::io::Error),
    /// It is no bundle, or a damaged one.
    Bundle(Error),
    /// It is another product's, or another board's: which of the two, and whose.
    Other(&'static str, String),
    /// It carries values of parameters. Signatures are over the revision alone: who carries a stick could set any.
    Parameters,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "cannot be read: {error}"),
            Self::Bundle(error) => write!(f, "is no bundle, or a damaged one: {error}"),
            Self::Other(what, whose) => write!(f, "is for the {what} {whose}"),
            Self::Parameters => {
                f.write_str("carries values of parameters, which nobody signs: sticks bring none")
            }
        }
    }
}

impl core::error::Error for Unfit {}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Self::Bundle(error)
    }
}

impl From<std::io::Error> for Unfit {
    fn from(error: std::io::Error) -> Self {
        Self::File(error)
    }
}

/// Whether a file's name is that of a bundle. Names that begin with a dot are what other systems leave beside a file.
#[must_use]
pub fn is_bundle(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    !name.starts_with('.') && extension.is_some_and(|word| word.eq_ignore_ascii_case("kedge"))
}

/// The revision at the beginning of a bundle, from the first bytes of a file.
///
/// # Errors
/// [`Unfit::Bundle`], [`Unfit::Parameters`].
pub fn peek(bytes: &[u8]) -> Result<Envelope, Unfit> {
    let mut rest = bytes
        .strip_prefix(&MAGIC)
        .ok_or(Error::Bundle(Fault::Magic))?;
    let document = section(&mut rest, Kind::Revision, revision::CAP)?;
    section(&mut rest, Kind::Signatures, SignatureSet::CAP)?;
    let next = rest
        .first_chunk::<HEADER>()
        .ok_or(Error::Bundle(Fault::Truncated("head")))?;
    if Section::parse(next)?.kind == Kind::Parameters {
        return Err(Unfit::Parameters);
    }
    Ok(json::parse("revision", revision::CAP, document)?)
}

/// The section that begins here.
fn section<'a>(rest: &mut &'a [u8], kind: Kind, cap: usize) -> Result<&'a [u8], Error> {
    let cut = Error::Bundle(Fault::Truncated(kind.word()));
    let Some((header, after)) = rest.split_first_chunk::<HEADER>() else {
        return Err(cut);
    };
    let Section { kind: is, length } = Section::parse(header)?;
    if is != kind {
        let (after, found) = (None, is);
        return Err(Error::Bundle(Fault::Order { after, found }));
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= cap);
    let Some((section, after)) = length.and_then(|length| after.split_at_checked(length)) else {
        return Err(cut);
    };
    *rest = after;
    Ok(section)
}

/// Whether a revision says that it is for this product and board.
///
/// # Errors
/// [`Unfit::Other`].
pub fn made_for(envelope: &Envelope, product: &str, board: &str) -> Result<(), Unfit> {
    if envelope.product.as_str() != product {
        return Err(Unfit::Other("product", envelope.product.to_string()));
    }
    if envelope.board.as_str() != board {
        return Err(Unfit::Other("board", envelope.board.to_string()));
    }
    Ok(())
}

/// The order in which they are offered; of those that claim the same place each is, since only one may be genuine.
#[must_use]
pub fn newest_first<F>(mut found: Vec<Found<F>>) -> Vec<Found<F>> {
    // Stable: by disk and name among those.
    found.sort_by_key(|found| Reverse(found.order));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helpers::stage::fixture::{Device, draft};

    fn end(mut head: Vec<u8>) -> Vec<u8> {
        head.extend_from_slice(&kedge_revision::bundle::END);
        head
    }

    #[test]
    fn names_of_bundles() {
        for name in ["update.kedge", "UPDATE.KEDGE", "a.b.Kedge"] {
            assert!(is_bundle(name), "{name}");
        }
        for name in [
            "update.kedge.part",
            "._update.kedge",
            ".kedge",
            "kedge",
            "updatekedge",
            "",
        ] {
            assert!(!is_bundle(name), "{name}");
        }
    }

    #[test]
    fn a_bundle_says_what_it_is_and_a_torn_one_is_none() {
        let device = Device::new();
        let (_, head) = device.offer(draft(7, &[]), None);
        let bundle = end(head.clone());
        let envelope = peek(&bundle).unwrap();
        assert_eq!(envelope.counter, 7);
        let (product, board) = (envelope.product.as_str(), envelope.board.as_str());
        made_for(&envelope, product, board).unwrap();
        for (product, board, word) in [("other", board, "product"), (product, "other", "board")] {
            let unfit = made_for(&envelope, product, board).unwrap_err();
            assert!(unfit.to_string().contains(word), "{unfit}");
        }
        for cut in 0..head.len() + HEADER {
            let unfit = peek(&bundle[..cut]).unwrap_err();
            assert!(matches!(unfit, Unfit::Bundle(_)), "{cut}: {unfit}");
        }
        let mut endless = bundle.clone();
        endless[MAGIC.len() + 8..MAGIC.len() + 16].fill(0xff);
        peek(&endless).unwrap_err();
    }

    #[test]
    fn unsigned_values_are_refused() {
        let device = Device::new();
        let values = kedge_revision::parameters::Parameters::new(3, Default::default());
        let (_, head) = device.offer(draft(7, &[]), Some(&values.encode().unwrap()));
        let unfit = peek(&end(head)).unwrap_err();
        assert!(matches!(unfit, Unfit::Parameters), "{unfit}");
    }

    #[test]
    fn the_newest_comes_first_by_root_and_counter() {
        let found = |label: &str, root, counter| Found {
            label: label.to_owned(),
            order: Order { root, counter },
            version: "1".to_owned(),
            file: (),
        };
        let all = vec![
            found("a", 1, 9),
            found("b", 2, 1),
            found("c", 1, 30),
            found("d", 1, 9),
        ];
        let labels: Vec<_> = newest_first(all).into_iter().map(|f| f.label).collect();
        assert_eq!(labels, ["b", "c", "a", "d"]);
    }
}
