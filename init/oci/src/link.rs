//! What a container's process and whoever starts it say to each other, over a pair of sockets that an exec closes.
//!
//! ```text
//! parent                                       child
//! clone3, maps, limits ── Go, its number ────▶ waits
//!                       mounts ── Mount, fd ─▶ takes them in their order
//!                              ◀── Hooks ──── namespaces are made; only if there are hooks for that moment
//!            createRuntime     ── Go ────────▶
//!                              ◀── Terminal ─ only if the parent itself serves it
//!                              ◀── Ready ──── everything is made: `create` ends here
//!                       (run)  ── Go ────────▶ else it waits on its socket for `start`
//!                              ◀── Failed ─── at any time; a closed socket without it is an exec that succeeded
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use kedge_sys::sock::{self, Kind};

/// A message's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Go on.
    Go,
    /// A mount that only the parent can make.
    Mount,
    /// The moment for hooks.
    Hooks,
    /// The master's side of a terminal.
    Terminal,
    /// It waits to be started.
    Ready,
    /// It failed; the text says why.
    Failed,
}

impl Word {
    const ALL: [(Self, u8); 6] = [
        (Self::Go, b'g'),
        (Self::Mount, b'm'),
        (Self::Hooks, b'h'),
        (Self::Terminal, b't'),
        (Self::Ready, b'r'),
        (Self::Failed, b'f'),
    ];

    fn of(byte: u8) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known)| *known == byte);
        found.map(|(word, _)| *word)
    }

    fn byte(self) -> u8 {
        let found = Self::ALL.iter().find(|(word, _)| *word == self);
        found.map_or(0, |(_, byte)| *byte)
    }
}

/// The longest message, bytes.
const LONGEST: usize = 4096;

/// A message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) word: Word,
    pub(crate) text: String,
    pub(crate) descriptor: Option<OwnedFd>,
}

/// One end.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    /// Both ends.
    ///
    /// # Errors
    /// Those of `socketpair(2)`.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (one, other) = sock::pair(Kind::Messages).context("a pair of sockets")?;
        Ok((Self(one), Self(other)))
    }

    /// The end that a connection is.
    pub(crate) fn of(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Says `word`.
    ///
    /// # Errors
    /// The other end is closed.
    pub(crate) fn say(&self, word: Word) -> Result<()> {
        self.send(word, "", &[])
    }

    /// Sends a message, with a descriptor.
    ///
    /// # Errors
    /// The other end is closed.
    pub(crate) fn send(
        &self,
        word: Word,
        text: &str,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let mut bytes = vec![word.byte()];
        bytes.extend(text.bytes().take(LONGEST - 1));
        let sent = sock::send(&self.0, &bytes, descriptors);
        sent.map(drop)
            .context("the other side does not listen any more")
    }

    /// The next message; none: the other end is closed.
    ///
    /// # Errors
    /// It is no message.
    pub(crate) fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0; LONGEST];
        let mut received = loop {
            match sock::receive(&self.0, &mut buffer) {
                Err(error) if error.errno == kedge_sys::Errno::INTR => {}
                other => break other.context("receive")?,
            }
        };
        let Some((first, rest)) = buffer.get(..received.bytes).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let Some(word) = Word::of(*first) else {
            bail!("{first:#x} is no message");
        };
        Ok(Some(Message {
            word,
            text: String::from_utf8_lossy(rest).into_owned(),
            descriptor: received.descriptors.pop(),
        }))
    }

    /// Waits for `word`.
    ///
    /// # Errors
    /// Another message; what failed on the other side; that it has ended.
    pub(crate) fn wait_for(&self, word: Word) -> Result<Message> {
        match self.receive()? {
            Some(message) if message.word == word => Ok(message),
            Some(message) if message.word == Word::Failed => bail!("{}", message.text),
            Some(message) => bail!("{:?} came where {word:?} was due", message.word),
            None => bail!("the other side ended"),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_with_text_and_descriptor() {
        let (one, other) = Link::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        one.send(Word::Mount, "text", &[file.as_fd()]).unwrap();
        let message = other.receive().unwrap().unwrap();
        assert_eq!((message.word, message.text.as_str()), (Word::Mount, "text"));
        assert!(message.descriptor.is_some());
        one.send(Word::Failed, "no such program", &[]).unwrap();
        let error = other.wait_for(Word::Ready).unwrap_err().to_string();
        assert_eq!(error, "no such program");
        one.say(Word::Hooks).unwrap();
        other.wait_for(Word::Ready).unwrap_err();
        drop(one);
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn every_word_has_a_byte_of_its_own() {
        for (word, byte) in Word::ALL {
            assert_eq!(Word::of(byte), Some(word));
            assert_eq!(word.byte(), byte);
        }
        assert_eq!(Word::of(0), None);
    }
}
