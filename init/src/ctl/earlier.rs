//! Logs of a boot from the disk, which come a page at a time.

use super::{ClientError, show};
use crate::log::LogLine;
use kedge_revision::Name;
use serde::Deserialize;
use std::collections::VecDeque;
use std::io::Write;

/// What has come, and what is still to come.
#[derive(Debug)]
pub(super) struct Told<'a> {
    source: Option<&'a Name>,
    limit: Option<usize>,
    /// With a limit, the last lines.
    last: VecDeque<Vec<u8>>,
    /// Whether anything came at all.
    began: bool,
    next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Beginning,
    Place(u64),
    Nothing,
}

/// The last line of a page that is not the last one.
#[derive(Deserialize)]
struct Place {
    next: u64,
}

impl<'a> Told<'a> {
    /// Of everybody or of one, and of that so many lines, the last.
    pub(super) fn new(source: Option<&'a Name>, limit: Option<u64>) -> Self {
        Self {
            source,
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            last: VecDeque::new(),
            began: false,
            next: Next::Beginning,
        }
    }

    /// What is to be asked for next; none: all is there.
    pub(super) fn path(&self, back: u32) -> Option<String> {
        let from = match self.next {
            Next::Beginning => String::new(),
            Next::Place(place) => format!("&from={place}"),
            Next::Nothing => return None,
        };
        Some(format!("/v1/logs/earlier?back={back}{from}"))
    }

    /// Takes a page. The boot's head is no line of a log, and neither is what a power cut tore.
    pub(super) fn take(&mut self, page: &[u8], out: &mut dyn Write) -> Result<(), ClientError> {
        let before = self.next;
        self.next = Next::Nothing;
        for line in page.split(|byte| *byte == b'\n') {
            self.began |= !line.is_empty();
            if let Ok(Place { next }) = kedge_revision::json::read(line) {
                // A page that leads nowhere would be asked for for ever.
                let on =
                    before == Next::Beginning || matches!(before, Next::Place(at) if at < next);
                let nowhere = ClientError::Protocol("place of the next page");
                self.next = on.then_some(Next::Place(next)).ok_or(nowhere)?;
            } else if self.is_wanted(line) {
                self.keep(line, out)?;
            }
        }
        Ok(())
    }

    fn is_wanted(&self, line: &[u8]) -> bool {
        let line: Result<LogLine<'_>, _> = kedge_revision::json::read(line);
        let wanted =
            |line: LogLine<'_>| self.source.is_none_or(|name| line.source == name.as_str());
        line.is_ok_and(wanted)
    }

    fn keep(&mut self, line: &[u8], out: &mut dyn Write) -> Result<(), ClientError> {
        let Some(limit) = self.limit else {
            return print(line, out);
        };
        self.last.push_back(line.to_vec());
        if self.last.len() > limit {
            self.last.pop_front();
        }
        Ok(())
    }

    /// Prints the last lines, where only those were wanted.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: there is no such boot on the disk, or not any more.
    pub(super) fn end(&mut self, out: &mut dyn Write) -> Result<(), ClientError> {
        if !self.began {
            return Err(ClientError::Refused {
                status: 404,
                detail: "the disk has no logs of that boot".to_owned(),
            });
        }
        self.last.drain(..).try_for_each(|line| print(&line, out))
    }
}

fn print(line: &[u8], mut out: &mut dyn Write) -> Result<(), ClientError> {
    let line: LogLine<'_> =
        kedge_revision::json::read(line).map_err(|_| ClientError::Protocol("log line"))?;
    show::line(&mut out, &line).map_err(ClientError::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, source: &str) -> String {
        format!(
            "{{\"seq\":{seq},\"time-ms\":{seq},\"source\":\"{source}\",\"stream\":\"out\",\"text\":\"line {seq}\"}}\n"
        )
    }

    /// What is printed of two pages, and what was asked for.
    fn told(source: Option<&str>, limit: Option<u64>) -> (String, Vec<String>) {
        let name = source.map(|name| name.parse().unwrap());
        let mut told = Told::new(name.as_ref(), limit);
        let first = format!(
            "{{\"boot-id\":\"x\"}}\n{}{}{{\"next\":70}}\n",
            line(1, "web"),
            line(2, "db")
        );
        let second = format!("torn {{\n{}{}", line(3, "web"), line(4, "web"));
        let (mut pages, mut out, mut asked) = ([second, first].to_vec(), Vec::new(), Vec::new());
        while let Some(path) = told.path(1) {
            asked.push(path);
            let page = pages.pop().unwrap();
            told.take(page.as_bytes(), &mut out).unwrap();
        }
        told.end(&mut out).unwrap();
        (String::from_utf8(out).unwrap(), asked)
    }

    #[test]
    fn pages_are_taken_until_there_is_none() {
        let (out, asked) = told(None, None);
        assert_eq!(out.lines().count(), 4);
        let first = "/v1/logs/earlier?back=1";
        assert_eq!(asked, [first.to_owned(), format!("{first}&from=70")]);
        let (out, _) = told(Some("web"), Some(2));
        assert_eq!(out.lines().count(), 2);
        assert!(out.contains("line 3") && out.contains("line 4"), "{out}");
    }

    #[test]
    fn nothing_and_a_page_that_leads_back_are_errors() {
        let mut told = Told::new(None, None);
        told.take(b"", &mut Vec::new()).unwrap();
        assert_eq!(told.path(9), None);
        told.end(&mut Vec::new()).unwrap_err();
        let mut told = Told::new(None, None);
        told.take(b"{\"next\":70}\n", &mut Vec::new()).unwrap();
        told.take(b"{\"next\":70}\n", &mut Vec::new()).unwrap_err();
    }
}
