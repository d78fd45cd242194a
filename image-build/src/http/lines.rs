//! A body that comes in pieces, as lines: each piece is gone through once, however many lines it has.

use anyhow::{Result, ensure};

/// Longest line, bytes: an event or a line of a log has some kB. One without an end would fill the memory.
const LONGEST: usize = 1024 * 1024;

/// What came of a line that has not ended yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes a piece; `line` is told of each line that ends in it, without its end.
    ///
    /// # Errors
    /// A line is too long; or whatever `line` says.
    pub(crate) fn take(
        &mut self,
        piece: &[u8],
        line: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut piece = piece;
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (first, rest) = piece.split_at(end);
            if self.rest.is_empty() {
                line(first.trim_ascii_end())?;
            } else {
                self.keep(first)?;
                let whole = core::mem::take(&mut self.rest);
                line(whole.trim_ascii_end())?;
            }
            piece = rest.get(1..).unwrap_or_default();
        }
        self.keep(piece)
    }

    fn keep(&mut self, part: &[u8]) -> Result<()> {
        ensure!(
            self.rest.len().saturating_add(part.len()) <= LONGEST,
            "a line of the answer is over {LONGEST} bytes"
        );
        self.rest.extend_from_slice(part);
        Ok(())
    }

    /// What stands behind the last line's end.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn of(pieces: &[&[u8]]) -> Result<(Vec<String>, String)> {
        let (mut lines, mut told) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.take(piece, &mut |line| {
                told.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            })?;
        }
        Ok((told, String::from_utf8_lossy(lines.rest()).into_owned()))
    }

    #[test]
    fn lines_are_whole_wherever_pieces_end() {
        let text = b"one\ntwo\r\n\nfour\nfi";
        let whole = of(&[text]).unwrap();
        let expected = ["one", "two", "", "four"].map(str::to_owned).to_vec();
        assert_eq!(whole, (expected, "fi".to_owned()));
        for size in 1..text.len() {
            let pieces: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(of(&pieces).unwrap(), whole, "pieces of {size}");
        }
    }

    #[test]
    fn a_line_has_a_bound_and_a_body_of_many_has_none() {
        let piece = vec![b'x'; 64 * 1024];
        of(&vec![piece.as_slice(); 16]).unwrap();
        let error = of(&vec![piece.as_slice(); 17]).unwrap_err();
        assert!(error.to_string().contains("1048576"), "{error}");
        // A reader that moves the rest for every line takes hours for this.
        let (piece, start) = (vec![b'\n'; 16 * 1024 * 1024], Instant::now());
        let mut count = 0;
        let mut told = |_: &[u8]| -> Result<()> {
            count += 1;
            Ok(())
        };
        Lines::default().take(&piece, &mut told).unwrap();
        assert_eq!(count, piece.len());
        assert!(start.elapsed() < Duration::from_mins(1));
    }
}
