//! A connection while a command runs: frames in, frames out ([`crate::control::exec`]).

use super::{Connection, Reply, State, Transport};
use crate::control::exec::{
    ERRORS, EXIT, FRAME_FILL, FRAME_HEAD, INPUT, OUTPUT, Said, WINDOW, frame_head,
};
use crate::control::stream::LOG_FILL;
use crate::log::Stream;

impl Connection {
    /// Answers [`super::Call::Exec`]: the command is on its way.
    pub fn begin_exec(&mut self) {
        let Some(reply) = self.asked() else { return };
        // A socket ends with its command, whatever its client said; the head does not speak of that.
        let kept = Reply {
            keep_alive: true,
            ..reply.clone()
        };
        let fields = format_args!("connection: upgrade\r\nupgrade: kedge-exec\r\n");
        self.head(101, "Switching Protocols", &kept, fields);
        self.state = State::Executing { left: 0 };
    }

    /// Whether a command runs here whose client has not gone.
    #[must_use]
    pub const fn is_executing(&self) -> bool {
        matches!(self.state, State::Executing { .. }) && !self.input_ended
    }

    /// What the client has sent next; heads of frames are taken here.
    pub fn said(&mut self) -> Said<'_> {
        let State::Executing { left } = self.state else {
            return Said::Nothing;
        };
        if left > 0 {
            return self.input_here(left);
        }
        match *self.input.as_slice() {
            [INPUT, high, low, ..] => {
                self.consume(FRAME_HEAD);
                let left = u16::from_be_bytes([high, low]).into();
                if left == 0 {
                    return Said::End;
                }
                self.state = State::Executing { left };
                self.input_here(left)
            }
            [WINDOW, 0, 4, r0, r1, c0, c1, ..] => {
                self.consume(FRAME_HEAD + 4);
                Said::Window {
                    rows: u16::from_be_bytes([r0, r1]),
                    columns: u16::from_be_bytes([c0, c1]),
                }
            }
            [] | [INPUT, ..] | [WINDOW] | [WINDOW, 0] | [WINDOW, 0, 4, ..] => Said::Nothing,
            _ => Said::Nonsense,
        }
    }

    fn input_here(&self, left: usize) -> Said<'_> {
        match self.input.get(..left).unwrap_or(&self.input) {
            [] => Said::Nothing,
            bytes => Said::Input(bytes),
        }
    }

    /// So many bytes of [`Said::Input`] were taken.
    pub fn took_input(&mut self, bytes: usize) {
        if let State::Executing { left } = &mut self.state {
            let bytes = bytes.min(*left).min(self.input.len());
            *left = left.saturating_sub(bytes);
            self.consume(bytes);
        }
    }

    /// How much more the command may say now.
    #[must_use]
    pub fn room_for_output(&self) -> usize {
        let room = LOG_FILL.saturating_sub(self.pending());
        room.saturating_sub(FRAME_HEAD).min(FRAME_FILL)
    }

    /// What the command has said.
    pub fn tell_output(&mut self, stream: Stream, bytes: &[u8]) {
        let kind = if stream == Stream::Out {
            OUTPUT
        } else {
            ERRORS
        };
        self.frame(kind, &[bytes]);
    }

    /// The command has ended. A sentence says why, where the code does not.
    pub fn end_exec(&mut self, code: u8, sentence: &str) {
        self.frame(EXIT, &[&[code], sentence.as_bytes()]);
        self.leave_exec();
    }

    /// The client speaks of something else: the command's end is not told. On a serial port the next request may
    /// be here already.
    pub fn leave_exec(&mut self) {
        if matches!(self.state, State::Executing { .. }) {
            self.state = match self.transport {
                Transport::Socket => State::Closing,
                Transport::Serial => State::Idle,
            };
        }
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]]) {
        let length = parts.iter().map(|part| part.len()).sum();
        self.output.drain(..self.written);
        self.written = 0;
        self.output.extend_from_slice(&frame_head(kind, length));
        for part in parts {
            self.output.extend_from_slice(part);
        }
    }
}
