//! Frames between PID 1 and the agent, over a pair of sockets that keeps messages whole; little-endian.
//!
//! | from PID 1 | kind | then |
//! |---|---|---|
//! | configure | 1 | JSON, [`Configure`]; first of all, and again when something of it has changed |
//! | changed | 2 | what the control interface tells may have changed |
//!
//! | to PID 1 | kind | then |
//! |---|---|---|
//! | say | 1 | level u8 (3 error, 4 warning, 5 notice, as syslog(3) counts), text |
//! | hub | 2 | u8: 1 a hub gave an authenticated answer, 0 none has for longer than an hour |
//! | clock | 3 | seconds since the epoch u64, from an answer that the hub's key signed |
//!
//! What takes more than a word (status, logs, offers, objects) goes over the control interface.

use core::fmt;
use kedge_revision::{Timestamp, json};
use serde::{Deserialize, Serialize};

/// Largest frame from PID 1, bytes: a root of 16 KiB and a provisioning of 64 KiB, escaped.
pub const MAX_CONFIGURE: usize = 192 * 1024;
/// Largest frame to PID 1, bytes.
pub const MAX_REPORT: usize = 512;

/// A frame is not what its kind says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameError;

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed frame")
    }
}

impl core::error::Error for FrameError {}

/// What an agent must know before it asks anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Configure {
    /// Addresses of hubs, in order.
    pub hubs: Vec<String>,
    /// The product's document, `kedge.product/1`.
    pub product: String,
    /// The newest trusted root's document, `kedge.root/1`.
    pub root: String,
    /// Random for each boot.
    pub boot_id: String,
    /// When the revision that runs was made: it is later than that, whatever the clock says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Whether PID 1 and its helpers alone run, and wait to be mended.
    pub repair: bool,
    /// What the device was provisioned with, `kedge.provision/1`, as it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provision: Option<String>,
}

/// From PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// See the module.
    Configure(Box<Configure>),
    /// See the module.
    Changed,
}

impl Order {
    /// The frame; none where it would be larger than [`MAX_CONFIGURE`].
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let frame = match self {
            Self::Configure(configure) => {
                let mut frame = vec![1];
                kedge_revision::json::write(&mut frame, configure).ok()?;
                frame
            }
            Self::Changed => vec![2],
        };
        (frame.len() <= MAX_CONFIGURE).then_some(frame)
    }

    /// From a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        match frame.split_first() {
            Some((1, json)) => json::read(json)
                .map(|configure| Self::Configure(Box::new(configure)))
                .map_err(|_| FrameError),
            Some((2, [])) => Ok(Self::Changed),
            Some(_) | None => Err(FrameError),
        }
    }
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something is lost or must be done by a person.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Worth telling.
    Notice,
}

/// To PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report<'a> {
    /// A line for the log; never with a secret in it.
    Say {
        /// How much it matters.
        level: Level,
        /// Its words.
        text: &'a str,
    },
    /// Whether a hub answers.
    Hub {
        /// See the module.
        answered: bool,
    },
    /// What time it is.
    Clock {
        /// Seconds since the epoch.
        unix: u64,
    },
}

impl<'a> Report<'a> {
    /// The frame; a long text is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Say { level, text } => {
                let level = match level {
                    Level::Error => 3,
                    Level::Warning => 4,
                    Level::Notice => 5,
                };
                let mut frame = vec![1, level];
                for character in text.chars() {
                    if frame.len().saturating_add(character.len_utf8()) > MAX_REPORT {
                        break;
                    }
                    frame.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                frame
            }
            Self::Hub { answered } => vec![2, u8::from(*answered)],
            Self::Clock { unix } => {
                let mut frame = vec![3];
                frame.extend_from_slice(&unix.to_le_bytes());
                frame
            }
        }
    }

    /// From a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        if frame.len() > MAX_REPORT {
            return Err(FrameError);
        }
        match frame {
            [1, level, text @ ..] => {
                let level = match level {
                    3 => Level::Error,
                    4 => Level::Warning,
                    5 => Level::Notice,
                    _ => return Err(FrameError),
                };
                let text = core::str::from_utf8(text).map_err(|_| FrameError)?;
                Ok(Self::Say { level, text })
            }
            [2, 0] => Ok(Self::Hub { answered: false }),
            [2, 1] => Ok(Self::Hub { answered: true }),
            [3, unix @ ..] => {
                let unix = unix.try_into().map_err(|_| FrameError)?;
                Ok(Self::Clock {
                    unix: u64::from_le_bytes(unix),
                })
            }
            _ => Err(FrameError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_frame_comes_back() {
        let configure = Configure {
            hubs: vec!["https://hub".to_owned()],
            product: "{}".to_owned(),
            root: "{}".to_owned(),
            boot_id: "b".to_owned(),
            created: Some(Timestamp::from_unix(7)),
            repair: false,
            provision: None,
        };
        for order in [Order::Configure(Box::new(configure)), Order::Changed] {
            assert_eq!(Order::decode(&order.encode().unwrap()), Ok(order));
        }
        for report in [
            Report::Say {
                level: Level::Warning,
                text: "words",
            },
            Report::Hub { answered: true },
            Report::Hub { answered: false },
            Report::Clock { unix: 1 << 40 },
        ] {
            assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
        let long = "ö".repeat(MAX_REPORT);
        let frame = Report::Say {
            level: Level::Notice,
            text: &long,
        }
        .encode();
        assert!(frame.len() <= MAX_REPORT && Report::decode(&frame).is_ok());
        let longer = [&[1, 4][..], &[b'x'; MAX_REPORT]].concat();
        assert_eq!(Report::decode(&longer), Err(FrameError));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(report) = Report::decode(&bytes) {
                prop_assert_eq!(report.encode(), bytes.clone());
            }
            Order::decode(&bytes).ok();
        }
    }
}
