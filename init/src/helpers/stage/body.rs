//! A body that is coming in: the head of a bundle, or an object.

use super::Body;
use super::head::Head;
use super::offer::Offer;
use super::refused::Refused;
use kedge_revision::ObjectId;
use kedge_store::{Arrival, Store};

/// What was begun and has not come whole.
#[derive(Debug)]
pub(super) struct Incoming {
    what: What,
    /// Bytes to come.
    left: u64,
}

#[derive(Debug)]
enum What {
    Head(Vec<u8>),
    Root(Vec<u8>),
    Object(ObjectId, Box<Arrival>),
}

/// What came whole.
#[derive(Debug)]
pub(super) enum Whole {
    /// The head of a bundle, to be judged.
    Head(Vec<u8>),
    /// The next root, to be judged.
    Root(Vec<u8>),
    /// The bytes of an object that one request brought. So many of it are there now.
    Part(u64),
    /// An object, sealed and named.
    Object(ObjectId, u64),
}

impl Incoming {
    /// Before the first byte. Only what the last accepted offer lacks is taken in.
    pub(super) fn begin(
        store: &Store,
        offer: Option<&Offer>,
        body: Body,
        length: u64,
    ) -> Result<Self, Refused> {
        let what = match body {
            Body::Offer | Body::Root => {
                if length > u64::try_from(Head::CAP).unwrap_or(u64::MAX) {
                    return Err(Refused::new(
                        413,
                        format_args!("the head of a bundle has at most {} bytes", Head::CAP),
                    ));
                }
                if body == Body::Root {
                    What::Root(Vec::new())
                } else {
                    What::Head(Vec::new())
                }
            }
            Body::Object { id, offset } => {
                let mut missing = offer.into_iter().flat_map(|offer| &offer.missing);
                let wanted = missing.find(|missing| missing.id == id);
                let wanted = wanted.ok_or_else(|| {
                    Refused::conflict(format_args!("no offer was accepted that lacks {id}"))
                })?;
                let arrival = Arrival::begin(store, id, wanted.object, offset)?;
                if length > arrival.length() {
                    return Err(Refused::conflict(format_args!(
                        "{length} bytes are more than the {} that {id} lacks",
                        arrival.length()
                    )));
                }
                What::Object(id, Box::new(arrival))
            }
        };
        Ok(Self { what, left: length })
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| Refused::new(400, "the body is longer than it was said to be"))?;
        match &mut self.what {
            What::Head(head) | What::Root(head) => head.extend_from_slice(bytes),
            What::Object(_, arrival) => arrival.write(bytes)?,
        }
        Ok(())
    }

    /// Whether all of the body is there.
    pub(super) const fn is_whole(&self) -> bool {
        self.left == 0
    }

    /// Seals a complete object.
    pub(super) fn finish(self) -> Result<Whole, Refused> {
        match self.what {
            What::Head(head) => Ok(Whole::Head(head)),
            What::Root(head) => Ok(Whole::Root(head)),
            What::Object(id, arrival) => {
                let done = arrival.done();
                if arrival.is_complete() {
                    arrival.finish()?;
                    Ok(Whole::Object(id, done))
                } else {
                    Ok(Whole::Part(done))
                }
            }
        }
    }
}
