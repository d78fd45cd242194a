//! Frames between PID 1 and the net helper.
//!
//! From PID 1: kind 1 and the configuration as JSON. To PID 1: a kind (1 up, 2 down, 3 applied, 4
//! failed, 5 leased, 6 lost), an errno i32 (0 but for failed), length of the name u8, name, and for failed what was
//! tried, for leased the lease.

use super::super::FrameError;
use super::MAX_CONFIGURATION;
use kedge_revision::configuration::NetworkConfiguration;
use kedge_sys::Errno;

/// Largest frame to PID 1, bytes.
pub const MAX_REPORT: usize = 128;

/// The frame that configures the helper; `None` where the configuration is over every bound it was checked for.
#[must_use]
pub fn configure(configuration: &NetworkConfiguration) -> Option<Vec<u8>> {
    let mut frame = vec![1];
    serde_json::to_writer(&mut frame, configuration).ok()?;
    (frame.len() <= MAX_CONFIGURATION).then_some(frame)
}

/// The configuration from its frame.
///
/// # Errors
/// [`FrameError`].
pub fn decode_configure(frame: &[u8]) -> Result<NetworkConfiguration, FrameError> {
    let json = frame.strip_prefix(&[1]).ok_or(FrameError)?;
    kedge_revision::json::read(json).map_err(|_| FrameError)
}

/// To PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report<'a> {
    /// An interface has its link.
    Up {
        /// Which.
        name: &'a str,
    },
    /// An interface has lost its link, or is gone.
    Down {
        /// Which.
        name: &'a str,
    },
    /// An interface is set up as configured.
    Applied {
        /// Which.
        name: &'a str,
    },
    /// One setting was refused.
    Failed {
        /// Why.
        errno: Errno,
        /// Of which interface; empty where it is of none.
        name: &'a str,
        /// What was tried, as in "cannot … eth0".
        doing: &'a str,
    },
    /// An interface has leased an address.
    Leased {
        /// Which.
        name: &'a str,
        /// The lease, for people.
        lease: &'a str,
    },
    /// A lease is over, or was taken back.
    Lost {
        /// Of which interface.
        name: &'a str,
    },
}

impl<'a> Report<'a> {
    /// The frame, cut at [`MAX_REPORT`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, errno, name, doing) = match *self {
            Self::Up { name } => (1, 0, name, ""),
            Self::Down { name } => (2, 0, name, ""),
            Self::Applied { name } => (3, 0, name, ""),
            Self::Failed { errno, name, doing } => (4, errno.raw_os_error(), name, doing),
            Self::Leased { name, lease } => (5, 0, name, lease),
            Self::Lost { name } => (6, 0, name, ""),
        };
        // Interface names have at most 15 bytes.
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let mut frame = vec![kind];
        frame.extend_from_slice(&errno.to_le_bytes());
        frame.push(length);
        frame.extend(name.bytes().take(usize::from(length)));
        for character in doing.chars() {
            if frame.len().saturating_add(character.len_utf8()) > MAX_REPORT {
                break;
            }
            frame.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        frame
    }

    /// From a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let ([kind], rest) = frame.split_first_chunk().ok_or(FrameError)?;
        let (errno, rest) = rest.split_first_chunk().ok_or(FrameError)?;
        let ([length], rest) = rest.split_first_chunk().ok_or(FrameError)?;
        let (name, doing) = rest
            .split_at_checked(usize::from(*length))
            .ok_or(FrameError)?;
        let text = |bytes| core::str::from_utf8(bytes).map_err(|_| FrameError);
        let name = text(name)?;
        let doing = text(doing)?;
        match (kind, i32::from_le_bytes(*errno)) {
            (1, 0) if doing.is_empty() => Ok(Self::Up { name }),
            (2, 0) if doing.is_empty() => Ok(Self::Down { name }),
            (3, 0) if doing.is_empty() => Ok(Self::Applied { name }),
            (5, 0) => Ok(Self::Leased { name, lease: doing }),
            (6, 0) if doing.is_empty() => Ok(Self::Lost { name }),
            (4, errno @ 1..4096) => Ok(Self::Failed {
                errno: Errno::from_raw_os_error(errno),
                name,
                doing,
            }),
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
        for report in [
            Report::Up { name: "eth0" },
            Report::Down { name: "eth0" },
            Report::Applied { name: "eth0" },
            Report::Lost { name: "eth0" },
            Report::Leased {
                name: "eth0",
                lease: "10.0.2.15/24 of 10.0.2.2",
            },
            Report::Failed {
                errno: Errno::NODEV,
                name: "",
                doing: "cannot write",
            },
        ] {
            assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
        let long = "ö".repeat(100);
        let report = Report::Failed {
            errno: Errno::IO,
            name: "eth0",
            doing: &long,
        };
        let frame = report.encode();
        assert!(frame.len() <= MAX_REPORT && Report::decode(&frame).is_ok());
        let configuration = NetworkConfiguration::default();
        let frame = configure(&configuration).unwrap();
        assert_eq!(decode_configure(&frame), Ok(configuration));
        assert!(decode_configure(&frame[..frame.len() - 1]).is_err());
        assert!(decode_configure(b"").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(report) = Report::decode(&bytes) {
                prop_assert_eq!(report.encode(), bytes);
            }
        }
    }
}
