//! Frames between PID 1 and the disk helper.
//!
//! | from PID 1 | kind | then |
//! |---|---|---|
//! | configure | 1 | bytes of logs at most u64, boot id |
//! | append | 2 | a batch ([`crate::log::Batch`]) |
//! | grow | 3 | path of the block device |
//! | sync | 5 | token u32 |
//! | note | 6 | an event, an object of JSON ([`crate::history`]) |
//! | history | 7 | token u32 |
//! | earlier | 10 | token u32, boots back u32, place u64 (all ones: the boot's beginning) |
//!
//! | to PID 1 | kind | then |
//! |---|---|---|
//! | logs | 1 | errno i32, 0: well again |
//! | grown | 2 | blocks before u64, after u64 |
//! | grow failed | 3 | errno i32 |
//! | synced | 5 | token u32, errno i32 |
//! | noted | 6 | errno i32 |
//! | history | 7 | token u32, 1 if more follows u8, bytes |
//! | growing | 8 | nothing: it takes a while, and grown or grow failed follows |

use super::super::FrameError;
use super::super::wire::{frame, take, text};
use kedge_sys::Errno;

/// From PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Opens the logs; first of all, and again when the configuration has changed.
    Configure {
        /// Most bytes of all segments.
        disk_max: u64,
        /// Stands at the head of what this boot writes.
        boot_id: &'a str,
    },
    /// Appends a batch of records.
    Append(&'a [u8]),
    /// Grows the mounted file system to the size of its device, once; the privilege for it is given up then.
    Grow {
        /// The block device that is mounted.
        device: &'a str,
    },
    /// Brings everything to disk; answered with [`Report::Synced`].
    Sync {
        /// Comes back.
        token: u32,
    },
    /// Keeps an event for ever, or as long as there is room; answered with [`Report::Noted`].
    Note(&'a [u8]),
    /// Keeps the values that the device was provisioned with, `kedge.parameters/1`; nothing is answered.
    Provision(&'a [u8]),
    /// A hub has taken the device in: what it was provisioned with on the disk is removed, a token among it; nothing is
    /// answered.
    Provisioned,
    /// Asks for what was kept; answered with one or more [`Report::History`].
    History {
        /// Comes back.
        token: u32,
    },
    /// Asks for a page of what a boot has left in the logs; answered as the history is.
    Earlier {
        /// Comes back.
        token: u32,
        /// How many boots before this one.
        back: u32,
        /// The place that the page before it has named; none: the boot's beginning.
        from: Option<u64>,
    },
}

impl<'a> Request<'a> {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Configure { disk_max, boot_id } => {
                frame(1, &[&disk_max.to_le_bytes(), boot_id.as_bytes()])
            }
            Self::Append(batch) => frame(2, &[batch]),
            Self::Grow { device } => frame(3, &[device.as_bytes()]),
            Self::Sync { token } => frame(5, &[&token.to_le_bytes()]),
            Self::Note(event) => frame(6, &[event]),
            Self::History { token } => frame(7, &[&token.to_le_bytes()]),
            Self::Provision(document) => frame(8, &[document]),
            Self::Provisioned => frame(9, &[]),
            Self::Earlier { token, back, from } => {
                let from = from.unwrap_or(u64::MAX).to_le_bytes();
                frame(10, &[&token.to_le_bytes(), &back.to_le_bytes(), &from])
            }
        }
    }

    /// From a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, rest) = frame.split_first().ok_or(FrameError)?;
        let token = || {
            rest.try_into()
                .map(u32::from_le_bytes)
                .map_err(|_| FrameError)
        };
        Ok(match kind {
            1 => {
                let (disk_max, boot_id) = rest.split_first_chunk().ok_or(FrameError)?;
                Self::Configure {
                    disk_max: u64::from_le_bytes(*disk_max),
                    boot_id: text(boot_id)?,
                }
            }
            2 => Self::Append(rest),
            3 => Self::Grow {
                device: text(rest)?,
            },
            5 => Self::Sync { token: token()? },
            6 => Self::Note(rest),
            7 => Self::History { token: token()? },
            8 => Self::Provision(rest),
            9 if rest.is_empty() => Self::Provisioned,
            10 => {
                let mut rest = rest;
                let token = u32::from_le_bytes(take(&mut rest)?);
                let back = u32::from_le_bytes(take(&mut rest)?);
                let from = u64::from_le_bytes(take(&mut rest)?);
                if !rest.is_empty() {
                    return Err(FrameError);
                }
                let from = (from != u64::MAX).then_some(from);
                Self::Earlier { token, back, from }
            }
            _ => return Err(FrameError),
        })
    }
}

/// To PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report<'a> {
    /// The logs began to fail, or are well again.
    Logs {
        /// Why; `None`: well again.
        failed: Option<Errno>,
    },
    /// The file system is smaller than its device, and is being grown.
    Growing,
    /// The file system has the size of its device.
    Grown {
        /// Blocks before.
        before: u64,
        /// Blocks now.
        after: u64,
    },
    /// It could not be grown.
    GrowFailed(Errno),
    /// The answer to a sync.
    Synced {
        /// The request's.
        token: u32,
        /// What failed.
        failed: Option<Errno>,
    },
    /// The answer to a note, in the order of notes.
    Noted {
        /// What failed; `None`: the event is on disk.
        failed: Option<Errno>,
    },
    /// A part of the history or of a page of logs, in order: lines of JSON, cut anywhere.
    History {
        /// The request's.
        token: u32,
        /// Whether another part follows.
        more: bool,
        /// At most [`Self::PART`] bytes.
        bytes: &'a [u8],
    },
}

impl<'a> Report<'a> {
    /// Most bytes of a part of the history.
    pub const PART: usize = 3 * 1024;

    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let errno = |failed: &Option<Errno>| failed.map_or(0, Errno::raw_os_error).to_le_bytes();
        match self {
            Self::Logs { failed } => frame(1, &[&errno(failed)]),
            Self::Grown { before, after } => {
                frame(2, &[&before.to_le_bytes(), &after.to_le_bytes()])
            }
            Self::Growing => frame(8, &[]),
            Self::GrowFailed(failed) => frame(3, &[&errno(&Some(*failed))]),
            Self::Synced { token, failed } => frame(5, &[&token.to_le_bytes(), &errno(failed)]),
            Self::Noted { failed } => frame(6, &[&errno(failed)]),
            Self::History { token, more, bytes } => {
                frame(7, &[&token.to_le_bytes(), &[u8::from(*more)], bytes])
            }
        }
    }

    /// From a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, mut rest) = frame.split_first().ok_or(FrameError)?;
        let rest = &mut rest;
        let report = match kind {
            1 => Self::Logs {
                failed: errno(rest)?,
            },
            2 => Self::Grown {
                before: u64::from_le_bytes(take(rest)?),
                after: u64::from_le_bytes(take(rest)?),
            },
            3 => Self::GrowFailed(errno(rest)?.ok_or(FrameError)?),
            5 => Self::Synced {
                token: u32::from_le_bytes(take(rest)?),
                failed: errno(rest)?,
            },
            6 => Self::Noted {
                failed: errno(rest)?,
            },
            7 => Self::History {
                token: u32::from_le_bytes(take(rest)?),
                more: match take(rest)? {
                    [0] => false,
                    [1] => true,
                    _ => return Err(FrameError),
                },
                bytes: std::mem::take(rest),
            },
            8 => Self::Growing,
            _ => return Err(FrameError),
        };
        if rest.is_empty() {
            Ok(report)
        } else {
            Err(FrameError)
        }
    }
}

/// An errno, 1 to 4095 as the kernel has them; 0 is none.
fn errno(rest: &mut &[u8]) -> Result<Option<Errno>, FrameError> {
    match i32::from_le_bytes(take(rest)?) {
        0 => Ok(None),
        raw @ 1..4096 => Ok(Some(Errno::from_raw_os_error(raw))),
        _ => Err(FrameError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_frame_comes_back_and_none_torn() {
        for request in [
            Request::Configure {
                disk_max: 1 << 40,
                boot_id: "x",
            },
            Request::Append(b"batch"),
            Request::Grow {
                device: "/dev/vda4",
            },
            Request::Sync { token: 2 },
            Request::Note(b"{}"),
            Request::History { token: 3 },
            Request::Provision(b"{}"),
        ] {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        for report in [
            Report::Logs { failed: None },
            Report::Grown {
                before: 1,
                after: 2,
            },
            Report::GrowFailed(Errno::PERM),
            Report::Growing,
            Report::Synced {
                token: 3,
                failed: Some(Errno::IO),
            },
            Report::Noted {
                failed: Some(Errno::NOSPC),
            },
        ] {
            let frame = report.encode();
            assert_eq!(Report::decode(&frame), Ok(report));
            for cut in 0..frame.len() {
                assert_eq!(Report::decode(&frame[..cut]), Err(FrameError));
            }
            assert!(Report::decode(&[&frame[..], b"x"].concat()).is_err());
        }
    }

    #[test]
    fn pages_are_asked_for_from_a_place_on() {
        for from in [None, Some(0), Some(1 << 40)] {
            let request = Request::Earlier {
                token: 3,
                back: 2,
                from,
            };
            let frame = request.encode();
            assert_eq!(Request::decode(&frame), Ok(request));
            assert_eq!(Request::decode(&frame[..frame.len() - 1]), Err(FrameError));
            let longer = [&frame[..], b"x"].concat();
            assert_eq!(Request::decode(&longer), Err(FrameError));
        }
    }

    #[test]
    fn parts_of_the_history_come_back() {
        for (more, bytes) in [(true, b"{\"seq\"".as_slice()), (false, b"")] {
            let report = Report::History {
                token: 4,
                more,
                bytes,
            };
            let frame = report.encode();
            assert_eq!(Report::decode(&frame), Ok(report));
            assert_eq!(Report::decode(&frame[..5]), Err(FrameError));
        }
        assert_eq!(Report::decode(&[7, 0, 0, 0, 0, 2]), Err(FrameError));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(report) = Report::decode(&bytes) {
                prop_assert_eq!(report.encode(), bytes.clone());
            }
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes);
            }
        }
    }
}
