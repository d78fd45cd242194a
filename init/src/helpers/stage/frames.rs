//! Frames between PID 1 and the stage helper; none has more than [`MAX_FRAME`] bytes.
//!
//! | from PID 1 | kind | then |
//! |---|---|---|
//! | configure | 1 | floor: root u32, counter u64; committed revision [32]; counters of parameters u64, u64; Secure Boot u8 (0, 1); product u16 and its bytes; newest root u16 and its bytes |
//! | begin | 2 | what u8 (1 offer, 2 object), object [32], offset u64, length of the body u64 |
//! | data | 3 | at most [`MAX_DATA`] bytes of the body |
//! | abort | 4 | |
//! | write slot | 5 | slot u8 (1 a, 2 b), who tells PID 1 that it was started u8 (0 the loader, 1 the slot, 2 the slot, also from which disk: its GUID [16]), revision [32], path of the device |
//! | collect | 6 | revisions to keep, [32] each |
//! | snapshot | 7 | revision [32], JSON list of `["container","volume"]` |
//! | restore | 8 | revision [32] |
//! | discard | 9 | |
//!
//! | to PID 1 | kind | then |
//! |---|---|---|
//! | credit | 1 | bytes u32 of data that are worked off |
//! | answer | 2 | status u16, JSON |
//! | slot written | 3 | ok u8, text |
//! | collected | 4 | objects u32, bytes u64 |
//! | snapshot | 5 | ok u8, text; the answer to snapshot, restore and discard |
//!
//! PID 1 sends at most [`WINDOW`] bytes of data ahead of the credit that it has. An answer ends the body:
//! data of it that is still on its way is dropped and gives no credit.

use super::super::FrameError;
use super::super::wire::{frame, take, text};
use kedge_board_support::loading::gpt::Guid;
use kedge_board_support::record::Slot;
use kedge_board_support::slot::Teller;
use kedge_revision::{Floor, ObjectId};

/// Largest frame either way, bytes.
pub const MAX_FRAME: usize = 20 * 1024;
/// Most bytes of one data frame.
pub const MAX_DATA: usize = 16 * 1024;
/// Most bytes of data ahead of the credit.
pub const WINDOW: usize = 64 * 1024;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// The head of a bundle.
    Offer,
    /// The next root with its signatures, in the form of a head.
    Root,
    /// An object: its tree, then its bytes.
    Object {
        /// Which.
        id: ObjectId,
        /// Where its bytes go on.
        offset: u64,
    },
}

/// From PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// What offers are judged by; first of all, and again after each commit.
    Configure {
        /// The device's floor.
        floor: Floor,
        /// The committed revision.
        committed: ObjectId,
        /// Counters of the parameters that must stay: the committed ones, and those on trial; 0: none.
        parameters: [u64; 2],
        /// The firmware verifies what it starts.
        secure_boot: bool,
        /// The product's document.
        product: &'a [u8],
        /// The newest trusted root's document.
        root: &'a [u8],
    },
    /// A body follows.
    Begin {
        /// Of what.
        body: Body,
        /// Its length, bytes.
        length: u64,
    },
    /// The next bytes of the body.
    Data(&'a [u8]),
    /// The body ends here, unanswered; what was verified stays.
    Abort,
    /// Writes a slot; answered with [`Report::SlotWritten`].
    WriteSlot {
        /// Which.
        slot: Slot,
        /// Who tells PID 1 that it was started.
        teller: Teller,
        /// With the kernel, initramfs and arguments of this revision.
        revision: ObjectId,
        /// The slot's partition.
        device: &'a str,
    },
    /// Removes what none of these revisions needs; answered with [`Report::Collected`]. The committed and the factory
    /// revision and an offer in progress are kept in any case. The list is remembered: an offer that does not fit
    /// removes by it what is needless before it is refused, and without one removes nothing.
    Collect(Ids<'a>),
    /// Keeps copies of volumes; answered with [`Report::Snapshot`].
    Snapshot {
        /// The revision that is about to be tried.
        revision: ObjectId,
        /// JSON list of `["container","volume"]`.
        volumes: &'a str,
    },
    /// Brings the copies back; answered with [`Report::Snapshot`].
    Restore {
        /// The revision that was tried.
        revision: ObjectId,
    },
    /// Drops all copies; answered with [`Report::Snapshot`].
    Discard,
}

/// A list of revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids<'a>(&'a [[u8; 32]]);

impl<'a> Ids<'a> {
    /// A list of these digests.
    #[must_use]
    pub const fn new(digests: &'a [[u8; 32]]) -> Self {
        Self(digests)
    }

    /// The revisions.
    pub fn iter(self) -> impl Iterator<Item = ObjectId> + 'a {
        self.0.iter().map(|digest| ObjectId::from_digest(*digest))
    }
}

impl<'a> Request<'a> {
    /// The frame. A document that is longer than its length can say, which none of ours is, is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Configure {
                floor,
                committed,
                parameters: [counter, on_trial],
                secure_boot,
                product,
                root,
            } => {
                let ((product_length, product), (root_length, root)) =
                    (measured(product), measured(root));
                let parts: [&[u8]; 10] = [
                    &floor.root.to_le_bytes(),
                    &floor.counter.to_le_bytes(),
                    committed.digest(),
                    &counter.to_le_bytes(),
                    &on_trial.to_le_bytes(),
                    &[u8::from(*secure_boot)],
                    &product_length,
                    product,
                    &root_length,
                    root,
                ];
                frame(1, &parts)
            }
            Self::Begin { body, length } => {
                let (what, id, offset) = match body {
                    Body::Offer => (1, [0; 32], 0),
                    Body::Root => (3, [0; 32], 0),
                    Body::Object { id, offset } => (2, *id.digest(), *offset),
                };
                let parts: [&[u8]; 4] =
                    [&[what], &id, &offset.to_le_bytes(), &length.to_le_bytes()];
                frame(2, &parts)
            }
            Self::Data(bytes) => frame(3, &[bytes]),
            Self::Abort => frame(4, &[]),
            Self::WriteSlot {
                slot,
                teller,
                revision,
                device,
            } => {
                let slot = match slot {
                    Slot::A => 1,
                    Slot::B => 2,
                };
                let (teller, disk) = match &teller {
                    Teller::Loader => (0, [].as_slice()),
                    Teller::Slot(None) => (1, [].as_slice()),
                    Teller::Slot(Some(disk)) => (2, disk.bytes().as_slice()),
                };
                let device = device.as_bytes();
                frame(5, &[&[slot, teller], disk, revision.digest(), device])
            }
            Self::Collect(ids) => frame(6, &[ids.0.as_flattened()]),
            Self::Snapshot { revision, volumes } => {
                frame(7, &[revision.digest(), volumes.as_bytes()])
            }
            Self::Restore { revision } => frame(8, &[revision.digest()]),
            Self::Discard => frame(9, &[]),
        }
    }

    /// From a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, mut bytes) = frame.split_first().ok_or(FrameError)?;
        let rest = &mut bytes;
        let request = match kind {
            1 => Self::Configure {
                floor: Floor {
                    root: u32::from_le_bytes(take(rest)?),
                    counter: u64::from_le_bytes(take(rest)?),
                },
                committed: id(rest)?,
                parameters: [
                    u64::from_le_bytes(take(rest)?),
                    u64::from_le_bytes(take(rest)?),
                ],
                secure_boot: match take(rest)? {
                    [0] => false,
                    [1] => true,
                    _ => return Err(FrameError),
                },
                product: document(rest)?,
                root: document(rest)?,
            },
            2 => begin(rest)?,
            3 if rest.len() <= MAX_DATA => Self::Data(std::mem::take(rest)),
            4 => Self::Abort,
            5 => Self::WriteSlot {
                slot: match take(rest)? {
                    [1] => Slot::A,
                    [2] => Slot::B,
                    _ => return Err(FrameError),
                },
                teller: match take(rest)? {
                    [0] => Teller::Loader,
                    [1] => Teller::Slot(None),
                    [2] => Teller::Slot(Some(Guid::from_bytes(take(rest)?))),
                    _ => return Err(FrameError),
                },
                revision: id(rest)?,
                device: text(std::mem::take(rest))?,
            },
            6 => {
                let (digests, []) = std::mem::take(rest).as_chunks() else {
                    return Err(FrameError);
                };
                Self::Collect(Ids(digests))
            }
            7 => Self::Snapshot {
                revision: id(rest)?,
                volumes: text(std::mem::take(rest))?,
            },
            8 => Self::Restore {
                revision: id(rest)?,
            },
            9 => Self::Discard,
            _ => return Err(FrameError),
        };
        if rest.is_empty() {
            Ok(request)
        } else {
            Err(FrameError)
        }
    }
}

fn begin<'a>(rest: &mut &[u8]) -> Result<Request<'a>, FrameError> {
    let [what] = take(rest)?;
    let id = id(rest)?;
    let offset = u64::from_le_bytes(take(rest)?);
    let body = match what {
        1 if *id.digest() == [0; 32] && offset == 0 => Body::Offer,
        2 => Body::Object { id, offset },
        3 if *id.digest() == [0; 32] && offset == 0 => Body::Root,
        _ => return Err(FrameError),
    };
    let length = u64::from_le_bytes(take(rest)?);
    Ok(Request::Begin { body, length })
}

fn id(rest: &mut &[u8]) -> Result<ObjectId, FrameError> {
    take(rest).map(ObjectId::from_digest)
}

/// A document, with its length before it.
fn document<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FrameError> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (document, after) = rest.split_at_checked(length).ok_or(FrameError)?;
    *rest = after;
    Ok(document)
}

fn measured(document: &[u8]) -> ([u8; 2], &[u8]) {
    let length = u16::try_from(document.len()).unwrap_or(u16::MAX);
    let cut = document.get(..usize::from(length)).unwrap_or_default();
    (length.to_le_bytes(), cut)
}

/// To PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report<'a> {
    /// Data is worked off.
    Credit {
        /// So much of it.
        bytes: u32,
    },
    /// The answer to a body, as HTTP has it.
    Answer {
        /// 200, or that of the problem.
        status: u16,
        /// JSON.
        body: &'a [u8],
    },
    /// A slot was written and read back, or not.
    SlotWritten {
        /// Whether it holds the revision now.
        ok: bool,
        /// What failed.
        text: &'a str,
    },
    /// What a collection did.
    Collected {
        /// Objects removed.
        objects: u32,
        /// Bytes given back.
        bytes: u64,
    },
    /// Volumes were kept, brought back or dropped, or not.
    Snapshot {
        /// Whether it was done.
        ok: bool,
        /// What failed, or what is worth telling.
        text: &'a str,
    },
}

impl<'a> Report<'a> {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Credit { bytes } => frame(1, &[&bytes.to_le_bytes()]),
            Self::Answer { status, body } => frame(2, &[&status.to_le_bytes(), body]),
            Self::SlotWritten { ok, text } => frame(3, &[&[u8::from(*ok)], text.as_bytes()]),
            Self::Collected { objects, bytes } => {
                frame(4, &[&objects.to_le_bytes(), &bytes.to_le_bytes()])
            }
            Self::Snapshot { ok, text } => frame(5, &[&[u8::from(*ok)], text.as_bytes()]),
        }
    }

    /// From a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, mut bytes) = frame.split_first().ok_or(FrameError)?;
        let rest = &mut bytes;
        let report = match kind {
            1 => Self::Credit {
                bytes: u32::from_le_bytes(take(rest)?),
            },
            2 => Self::Answer {
                status: u16::from_le_bytes(take(rest)?),
                body: std::mem::take(rest),
            },
            3 => Self::SlotWritten {
                ok: flag(rest)?,
                text: text(std::mem::take(rest))?,
            },
            4 => Self::Collected {
                objects: u32::from_le_bytes(take(rest)?),
                bytes: u64::from_le_bytes(take(rest)?),
            },
            5 => Self::Snapshot {
                ok: flag(rest)?,
                text: text(std::mem::take(rest))?,
            },
            _ => return Err(FrameError),
        };
        if rest.is_empty() {
            Ok(report)
        } else {
            Err(FrameError)
        }
    }
}

fn flag(rest: &mut &[u8]) -> Result<bool, FrameError> {
    match take(rest)? {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(FrameError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: ObjectId = ObjectId::from_digest([7; 32]);

    /// Every request, and how many bytes of it are the least that a decoder may take.
    fn requests() -> Vec<(Request<'static>, usize)> {
        let configure = Request::Configure {
            floor: Floor {
                root: 3,
                counter: 1 << 40,
            },
            committed: ID,
            parameters: [1 << 41, 9],
            secure_boot: true,
            product: b"{}",
            root: b"root",
        };
        let body = Body::Object { id: ID, offset: 9 };
        let write = Request::WriteSlot {
            slot: Slot::B,
            teller: Teller::Loader,
            revision: ID,
            device: "",
        };
        let snapshot = Request::Snapshot {
            revision: ID,
            volumes: "",
        };
        vec![
            (configure, 72),
            (Request::Begin { body, length: 5 }, 50),
            (
                Request::Begin {
                    body: Body::Offer,
                    length: 6,
                },
                50,
            ),
            (Request::Data(b""), 1),
            (Request::Abort, 1),
            (write, 35),
            (Request::Collect(Ids::new(&[])), 1),
            (snapshot, 33),
            (Request::Restore { revision: ID }, 33),
            (Request::Discard, 1),
        ]
    }

    #[test]
    fn every_request_comes_back_and_none_torn() {
        for (request, least) in requests() {
            let frame = request.encode();
            assert_eq!(frame.len(), least);
            assert_eq!(Request::decode(&frame), Ok(request));
            for cut in 0..least {
                assert_eq!(
                    Request::decode(&frame[..cut]),
                    Err(FrameError),
                    "{request:?}"
                );
            }
        }
        let digests = [[1; 32], [2; 32]];
        for request in [
            Request::Data(b"bytes"),
            Request::Collect(Ids::new(&digests)),
            Request::WriteSlot {
                slot: Slot::A,
                teller: Teller::Slot(None),
                revision: ID,
                device: "/dev/vda2",
            },
            Request::WriteSlot {
                slot: Slot::B,
                teller: Teller::Slot(Some(Guid::from_bytes([7; 16]))),
                revision: ID,
                device: "/dev/mmcblk0p3",
            },
            Request::Snapshot {
                revision: ID,
                volumes: r#"[["web","data"]]"#,
            },
        ] {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        let ids: Vec<_> = Ids::new(&digests).iter().collect();
        assert_eq!(ids[1], ObjectId::from_digest([2; 32]));
    }

    #[test]
    fn nothing_may_follow_what_has_an_end() {
        for (request, _) in requests() {
            let longer = [&request.encode()[..], b"x"].concat();
            let open = matches!(
                request,
                Request::Data(_) | Request::WriteSlot { .. } | Request::Snapshot { .. }
            );
            assert_eq!(Request::decode(&longer).is_ok(), open, "{request:?}");
        }
        let long = vec![0; MAX_DATA + 1];
        assert!(Request::decode(&Request::Data(&long).encode()).is_err());
    }

    #[test]
    fn every_report_comes_back_and_none_torn() {
        let reports = [
            (Report::Credit { bytes: 16384 }, 5),
            (
                Report::Answer {
                    status: 409,
                    body: b"",
                },
                3,
            ),
            (Report::SlotWritten { ok: true, text: "" }, 2),
            (
                Report::Collected {
                    objects: 2,
                    bytes: 1 << 40,
                },
                13,
            ),
            (
                Report::Snapshot {
                    ok: false,
                    text: "",
                },
                2,
            ),
        ];
        for (report, least) in reports {
            let frame = report.encode();
            assert_eq!(frame.len(), least);
            assert_eq!(Report::decode(&frame), Ok(report));
            for cut in 0..least {
                assert_eq!(Report::decode(&frame[..cut]), Err(FrameError));
            }
        }
        let report = Report::Answer {
            status: 200,
            body: b"{}",
        };
        assert_eq!(Report::decode(&report.encode()), Ok(report));
        assert!(Report::decode(&[3, 2]).is_err() && Report::decode(&[3, 1, 0xff]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in 0_u8..11, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let bytes = [&[kind], &bytes[..]].concat();
            if let Ok(report) = Report::decode(&bytes) {
                prop_assert_eq!(report.encode(), bytes.clone());
            }
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes);
            }
        }
    }
}
