//! Lines out of the bytes of a pipe.
//!
//! A line ends at `\n`; one `\r` before it is dropped. What is longer than [`MAX_TEXT`] comes out in
//! parts. Only an unfinished line is kept between two reads, so a quiet pipe takes no memory.

use super::MAX_TEXT;

/// The unfinished line of one pipe.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// Whether parts of the unfinished line were handed out already.
    cut: bool,
}

impl Lines {
    /// Takes what was read and hands out each complete line, without its end.
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    let mut whole = core::mem::take(&mut self.partial);
                    let text = if whole.is_empty() {
                        end
                    } else {
                        whole.extend_from_slice(end);
                        &whole
                    };
                    emit(text, core::mem::take(&mut self.cut), &mut line);
                }
                None => self.keep(part, &mut line),
            }
        }
    }

    /// Hands out what is left when the pipe has ended.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        let rest = core::mem::take(&mut self.partial);
        if !rest.is_empty() {
            emit(&rest, core::mem::take(&mut self.cut), &mut line);
        }
    }

    /// Keeps the beginning of a line, at most [`MAX_TEXT`] of it. A part is handed out only when
    /// more follows, so that the result does not depend on how the bytes were torn.
    fn keep(&mut self, mut part: &[u8], line: &mut impl FnMut(&[u8])) {
        while let Some((fits, rest)) =
            part.split_at_checked(MAX_TEXT.saturating_sub(self.partial.len()))
        {
            if rest.is_empty() {
                break;
            }
            let mut whole = core::mem::take(&mut self.partial);
            whole.extend_from_slice(fits);
            line(&whole);
            self.cut = true;
            part = rest;
        }
        self.partial.extend_from_slice(part);
    }
}

/// Hands out the end of a line, in parts if it is too long for a record. `cut`: parts of it went before.
fn emit(text: &[u8], cut: bool, line: &mut impl FnMut(&[u8])) {
    // A `\r` that is part of the line end must not become a part of its own.
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.is_empty() && !cut {
        line(text);
    }
    text.chunks(MAX_TEXT).for_each(line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for chunk in chunks {
            lines.feed(chunk, |line| all.push(line.to_vec()));
            assert!(lines.partial.len() <= MAX_TEXT);
        }
        lines.finish(|line| all.push(line.to_vec()));
        all
    }

    #[test]
    fn lines_parts_and_rests() {
        assert_eq!(
            split(&[b"one\r\ntw", b"o\n\nrest"]),
            [&b"one"[..], b"two", b"", b"rest"]
        );
        let long = [b'x'; MAX_TEXT + 1];
        let parts = split(&[&long, b"\n"]);
        assert_eq!(
            parts.iter().map(Vec::len).collect::<Vec<_>>(),
            [MAX_TEXT, 1]
        );
    }

    proptest! {
        #[test]
        fn torn_is_as_whole(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a')], 0..400),
            long in 0_usize..3 * MAX_TEXT,
            cut in 1_usize..MAX_TEXT,
        ) {
            let mut bytes = bytes;
            let middle = bytes.len() / 2;
            bytes.splice(middle..middle, std::iter::repeat_n(b'y', long));
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            let whole = split(&[&bytes]);
            prop_assert_eq!(&split(&chunks), &whole);
            prop_assert_eq!(&split(&single), &whole);
        }
    }
}
