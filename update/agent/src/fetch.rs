//! A revision on its way from a hub to PID 1: the head first, then what of its objects is missing.
//!
//! The agent judges none of it: PID 1's helper does, block by block, and keeps what was good over a cut.

use crate::agent::{Agent, Ended};
use crate::decide::Target;
use crate::error::Error;
use crate::http::Request;
use crate::hub::{Address, Connection};
use crate::local::Missing;
use crate::tls::Stream;
use kedge_api::device::Phase;
use kedge_revision::verity;
use std::time::{Duration, Instant};

/// Offers for one revision: each answer lists what fits in it.
const MOST_OFFERS: u32 = 256;
/// Largest tree: of an object of 64 GiB.
const MAX_TREE: u64 = 1 << 30;
/// The least that a transfer may bring in a minute, bytes: a hub that sends a byte now and then holds up everything else.
const LEAST: u64 = 16 * 1024;
/// Progress is told at most so often.
const TELL: Duration = Duration::from_secs(5);

/// Keeps a transfer below a rate.
struct Rate {
    limit: Option<u64>,
    start: Instant,
    bytes: u64,
}

impl Rate {
    fn new(limit: Option<u64>) -> Self {
        Self {
            limit: limit.map(|limit| limit.max(1024)),
            start: Instant::now(),
            bytes: 0,
        }
    }

    /// So many bytes have come: waits as long as they should have taken.
    fn took(&mut self, bytes: usize) {
        let Some(limit) = self.limit else {
            return;
        };
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(0));
        let due = self.bytes.saturating_mul(1000) / limit;
        let due = Duration::from_millis(due);
        let ahead = due.saturating_sub(self.start.elapsed());
        if ahead > Duration::from_millis(20) {
            std::thread::sleep(ahead.min(Duration::from_secs(1)));
        }
    }
}

impl Agent<'_> {
    /// Brings everything of a revision to PID 1.
    pub(crate) fn fetch(&mut self, hub: &Address, target: Target) -> Result<(), Error> {
        self.phase = Phase::Checking;
        let mut connection = self.connect(hub)?;
        let head = connection.revision(target.revision, target.parameters)?;
        self.answered()?;
        let mut done = 0_u64;
        let mut told = Instant::now();
        for _ in 0..MOST_OFFERS {
            let offer = match self.local.offer(&head) {
                Err(
                    error @ Error::Refused {
                        status: 400 | 409 | 413 | 422 | 507,
                        ..
                    },
                ) => {
                    self.refuse(target, &error);
                    return Ok(());
                }
                offer => offer?,
            };
            if offer.revision != target.revision {
                return Err(Error::Protocol {
                    doing: "fetch the revision",
                    what: "another revision than was asked for",
                });
            }
            if offer.missing.is_empty() {
                self.staged = Some(target);
                self.phase = Phase::Staged;
                return Ok(());
            }
            let left = offer.missing.iter().fold(0, |sum: u64, missing| {
                sum.saturating_add(missing.size.saturating_sub(missing.have))
            });
            let total = done.saturating_add(left);
            for missing in &offer.missing {
                self.phase = Phase::Downloading { done, total };
                if told.elapsed() >= TELL || done == 0 {
                    told = Instant::now();
                    self.progress(&mut connection)?;
                }
                self.object(&mut connection, missing)?;
                done = done.saturating_add(missing.size.saturating_sub(missing.have));
            }
        }
        Err(Error::Protocol {
            doing: "fetch the revision",
            what: "more objects than it can have",
        })
    }

    /// Brings one object: its tree, then the bytes that are not there.
    fn object(
        &mut self,
        connection: &mut Connection<Stream>,
        missing: &Missing,
    ) -> Result<(), Error> {
        let Missing { id, size, have } = *missing;
        let doing = "fetch a tree";
        let wrong = Error::Protocol {
            doing,
            what: "a tree of another size",
        };
        let tree_size = verity::tree_size(size);
        if tree_size > MAX_TREE || have > size {
            return Err(wrong);
        }
        let tree = connection.tree(id, tree_size)?;
        let tree_length = u64::try_from(tree.len()).unwrap_or(0);
        if tree_length != tree_size {
            return Err(wrong);
        }
        let place = format!("/v1/update/objects/{}?offset={have}", id.hex());
        let mut upload = self.local.upload(Request {
            doing: "hand an object to PID 1",
            method: "POST",
            target: &place,
            fields: "",
            length: tree_length.saturating_add(size.saturating_sub(have)),
        })?;
        upload.send(&tree)?;
        drop(tree);
        let mut rate = Rate::new(self.rate());
        let mut pieces = 0_u32;
        let (mut minute, mut brought) = (Instant::now(), 0_u64);
        connection.object(id, have, size, &mut |piece| {
            pieces = pieces.wrapping_add(1);
            // A device that goes down must not wait for the network.
            if pieces.is_multiple_of(16) {
                match self.take_frames() {
                    Ok(()) => {}
                    Err(Ended::Closed) => {
                        return Err(Error::Connection {
                            doing: "hand an object to PID 1",
                            source: std::io::ErrorKind::Interrupted.into(),
                        });
                    }
                    Err(Ended::Failed(error)) => return Err(error),
                }
            }
            brought = brought.saturating_add(u64::try_from(piece.len()).unwrap_or(0));
            if minute.elapsed() >= Duration::from_secs(60) {
                if brought < LEAST {
                    return Err(Error::Connection {
                        doing: "fetch an object",
                        source: std::io::ErrorKind::TimedOut.into(),
                    });
                }
                (minute, brought) = (Instant::now(), 0);
            }
            upload.send(piece)?;
            rate.took(piece.len());
            Ok(())
        })?;
        upload.finish().map(drop)
    }
}
