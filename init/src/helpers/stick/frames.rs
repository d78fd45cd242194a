//! What PID 1 asks of the `stick` helper, once, and what it is told.

use super::super::FrameError;
use super::super::wire::{frame, take, text};

/// What to look for. Kind 1, then the fields, each on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look<'a> {
    /// The device's product.
    pub product: &'a str,
    /// Its board.
    pub board: &'a str,
    /// A partition of the disk that the system is on, as `vda4`: nothing of that disk is looked at.
    pub system: &'a str,
}

impl<'a> Look<'a> {
    /// Longest frame, bytes: names have at most 32.
    pub const MOST: usize = 256;

    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            product,
            board,
            system,
        } = self;
        frame(1, &[format!("{product}\n{board}\n{system}").as_bytes()])
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(mut frame: &'a [u8]) -> Result<Self, FrameError> {
        let [kind] = take(&mut frame)?;
        let mut lines = text(frame)?.splitn(3, '\n');
        let mut line = || {
            lines
                .next()
                .filter(|line| !line.is_empty())
                .ok_or(FrameError)
        };
        let look = Self {
            product: line()?,
            board: line()?,
            system: line()?,
        };
        if kind == 1 { Ok(look) } else { Err(FrameError) }
    }
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What was done.
    Notice,
    /// What was refused, or failed.
    Warning,
}

/// What PID 1 is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report<'a> {
    /// A line for people. Kinds 1 and 2.
    Say {
        /// How much it matters.
        level: Level,
        /// What; parts of it are a stranger's.
        text: &'a str,
    },
    /// Something was in the way that passes: look again later. Kind 3.
    Again,
}

impl<'a> Report<'a> {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Say { level, text } => {
                let kind = match level {
                    Level::Notice => 1,
                    Level::Warning => 2,
                };
                let text = text.get(..text.floor_char_boundary(MOST_TEXT));
                frame(kind, &[text.unwrap_or_default().as_bytes()])
            }
            Self::Again => frame(3, &[]),
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(mut frame: &'a [u8]) -> Result<Self, FrameError> {
        let [kind] = take(&mut frame)?;
        let say = |level| {
            Ok(Self::Say {
                level,
                text: text(frame)?,
            })
        };
        match kind {
            1 => say(Level::Notice),
            2 => say(Level::Warning),
            3 if frame.is_empty() => Ok(Self::Again),
            _ => Err(FrameError),
        }
    }
}

/// Longest text, bytes: PID 1 takes no frame over 4 KiB.
const MOST_TEXT: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_as_they_went() {
        let look = Look {
            product: "gateway",
            board: "qemu-x86-64",
            system: "vda4",
        };
        assert_eq!(Look::decode(&look.encode()), Ok(look));
        for bad in [
            &b""[..],
            b"\x01a\nb",
            b"\x01a\nb\n",
            b"\x02a\nb\nc",
            b"\x01\n\n",
        ] {
            assert_eq!(Look::decode(bad), Err(FrameError), "{bad:?}");
        }
        for report in [
            Report::Say {
                level: Level::Notice,
                text: "a",
            },
            Report::Say {
                level: Level::Warning,
                text: "",
            },
            Report::Again,
        ] {
            assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
        assert_eq!(Report::decode(b"\x03x"), Err(FrameError));
        let long = "ä".repeat(5000);
        let long = Report::Say {
            level: Level::Notice,
            text: &long,
        }
        .encode();
        assert_eq!(long.len(), 1 + MOST_TEXT);
        assert!(Report::decode(&long).is_ok());
    }
}
