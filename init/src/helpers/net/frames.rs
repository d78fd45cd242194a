//! Frames between PID 1 and the net helper.
//!
//! From PID 1: kind 1, a number u32, and the configuration as JSON. To PID 1: a kind (1 up, 2 down, 3 applied, 4
//! failed, 5 leased, 6 lost), an errno i32 (0 but for failed), length of the name u8, name, and for failed what was
//! tried, for leased the lease. How all ports stand is kind 7 for each but the last and kind 8 for the last, the number
//! of the configuration u32, and a port's status as JSON; where there is no port, one frame of kind 8 without.

use super::super::FrameError;
use super::MAX_CONFIGURATION;
use crate::control::PortStatus;
use kedge_revision::configuration::NetworkConfiguration;
use kedge_sys::Errno;

/// Largest frame to PID 1, bytes: a port with all that its status shows has less than 3 KiB.
pub const MAX_REPORT: usize = 4096;
/// Largest of those with a text, bytes.
const MAX_TEXT: usize = 128;

/// The frame that configures the helper; `None` where the configuration is over every bound it was checked for. How ports
/// stand is told with this number from then on.
#[must_use]
pub fn configure(number: u32, configuration: &NetworkConfiguration) -> Option<Vec<u8>> {
    let mut frame = vec![1];
    frame.extend_from_slice(&number.to_le_bytes());
    kedge_revision::json::write(&mut frame, configuration).ok()?;
    (frame.len() <= MAX_CONFIGURATION).then_some(frame)
}

/// The configuration from its frame, and its number.
///
/// # Errors
/// [`FrameError`].
pub fn decode_configure(frame: &[u8]) -> Result<(u32, NetworkConfiguration), FrameError> {
    let rest = frame.strip_prefix(&[1]).ok_or(FrameError)?;
    let (number, json) = rest.split_first_chunk().ok_or(FrameError)?;
    let configuration = kedge_revision::json::read(json).map_err(|_| FrameError)?;
    Ok((u32::from_le_bytes(*number), configuration))
}

/// How all ports stand, under the configuration of this number.
#[must_use]
pub(super) fn ports(number: u32, ports: &[PortStatus]) -> Vec<Vec<u8>> {
    let frame = |kind, port: Option<&PortStatus>| {
        let mut frame = vec![kind];
        frame.extend_from_slice(&number.to_le_bytes());
        if let Some(port) = port {
            // Text alone: nothing that can be refused.
            kedge_revision::json::write(&mut frame, port).ok();
        }
        frame
    };
    match ports.split_last() {
        Some((last, others)) => {
            let others = others.iter().map(|port| frame(7, Some(port)));
            others.chain([frame(8, Some(last))]).collect()
        }
        None => vec![frame(8, None)],
    }
}

/// One of the frames of [`ports`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The number of the configuration.
    pub number: u32,
    /// A port.
    pub port: Option<PortStatus>,
    /// Whether it is the last.
    pub last: bool,
}

impl Standing {
    /// From a frame, if it is one of those.
    ///
    /// # Errors
    /// [`FrameError`] for a broken one.
    pub fn decode(frame: &[u8]) -> Result<Option<Self>, FrameError> {
        let ([kind @ 7..9], rest) = frame.split_first_chunk().ok_or(FrameError)? else {
            return Ok(None);
        };
        let (number, json) = rest.split_first_chunk().ok_or(FrameError)?;
        let port = match json {
            [] if *kind == 8 => None,
            _ => Some(kedge_revision::json::read(json).map_err(|_| FrameError)?),
        };
        Ok(Some(Self {
            number: u32::from_le_bytes(*number),
            port,
            last: *kind == 8,
        }))
    }
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
    /// The frame; its text may be cut.
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
            if frame.len().saturating_add(character.len_utf8()) > MAX_TEXT {
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
        assert!(frame.len() <= MAX_TEXT && Report::decode(&frame).is_ok());
        let configuration = NetworkConfiguration::default();
        let frame = configure(9, &configuration).unwrap();
        assert_eq!(decode_configure(&frame), Ok((9, configuration)));
        assert!(decode_configure(&frame[..frame.len() - 1]).is_err());
        assert!(decode_configure(b"").is_err());
    }

    #[test]
    fn how_ports_stand() {
        let port = |name: &str| PortStatus {
            name: name.to_owned(),
            addresses: vec!["10.0.2.15/24".to_owned(); 16],
            ..PortStatus::default()
        };
        let both = [port("eth0"), port("eth1")];
        for list in [&both[..0], &both[..1], &both] {
            let frames = ports(5, list);
            let decoded: Vec<Standing> = frames
                .iter()
                .map(|frame| Standing::decode(frame).unwrap().unwrap())
                .collect();
            assert!(decoded.iter().all(|standing| standing.number == 5));
            let last: Vec<bool> = decoded.iter().map(|standing| standing.last).collect();
            assert_eq!(last.iter().filter(|last| **last).count(), 1);
            assert!(last[last.len() - 1]);
            let found: Vec<PortStatus> = decoded.into_iter().filter_map(|s| s.port).collect();
            assert_eq!(found, list);
        }
        let other = Report::Up { name: "eth0" }.encode();
        assert_eq!(Standing::decode(&other), Ok(None));
        for broken in [
            &[][..],
            &[7, 0, 0, 0, 0],
            &[8, 0, 0],
            &[8, 0, 0, 0, 0, b'{'],
        ] {
            assert!(Standing::decode(broken).is_err());
        }
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
