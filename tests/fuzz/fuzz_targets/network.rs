//! What comes from a network: answers of a hub, what PID 1 and the agent tell each other, messages.

use kedge_agent::Peer;
use kedge_agent::frames::{Order, Report};
use kedge_agent::http::{Http, PIECE, Request, parse_head};
use kedge_agent::hub::Address;
use kedge_agent::unpack::Frame;
use kedge_api::device::{Acknowledged, Ask, Enrolled, Reports, State};
use kedge_api::{Problem, Signed};
use kedge_revision::enrolment::Provision;
use kedge_revision::json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// Most bytes of a body.
const MOST: u64 = 3000;

pub(crate) fn parse(choice: u8, bytes: &[u8]) {
    match choice {
        0 => head(bytes),
        1 => answers(bytes),
        2 => frames(bytes),
        3 => messages(bytes),
        4 => unpack(bytes),
        _ => {
            let _ = Provision::parse(bytes);
            if let Ok(text) = std::str::from_utf8(bytes) {
                let _ = Address::parse(text);
            }
        }
    }
}

/// A head that is accepted is one whatever follows it, and no part of it is one.
fn head(bytes: &[u8]) {
    let Ok(Some((head, length))) = parse_head(bytes) else {
        return;
    };
    let (own, _) = bytes.split_at(length);
    assert_eq!(parse_head(own), Ok(Some((head.clone(), length))));
    assert_eq!(parse_head(&[own, b"x"].concat()), Ok(Some((head, length))));
    for end in 0..length {
        assert!(
            !matches!(parse_head(&own[..end]), Ok(Some(_))),
            "half a head"
        );
    }
}

/// A stream that answers with these bytes, some at a time.
struct Played<'a> {
    bytes: &'a [u8],
    at_a_time: usize,
}

impl Read for Played<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.at_a_time);
        self.bytes.read(&mut buffer[..most])
    }
}

impl Write for Played<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Two questions, and the same answers to them in whatever pieces they come.
fn answers(bytes: &[u8]) {
    let ask = |at_a_time| {
        let stream = Played { bytes, at_a_time };
        let mut http = Http::new(Peer::Hub, stream, "hub".to_owned());
        let request = Request {
            doing: "ask",
            method: "GET",
            target: "/",
            fields: "",
            length: 0,
        };
        [(); 2].map(|()| {
            let answer = http.ask(&request, &[], MOST).ok()?;
            assert!(answer.1.len() as u64 <= MOST, "a body over its bound");
            Some(answer)
        })
    };
    let whole = ask(PIECE);
    // Who gives up in the middle of an answer asks nothing more over the connection.
    let first = ask(1 + bytes.len() % 7);
    assert_eq!(whole[0], first[0], "pieces make a difference");
}

fn frames(bytes: &[u8]) {
    if let Ok(report) = Report::decode(bytes) {
        assert_eq!(report.encode(), bytes);
    }
    if let Ok(order) = Order::decode(bytes) {
        let again = order.encode().expect("it was a frame");
        assert_eq!(Order::decode(&again), Ok(order));
    }
}

fn messages(bytes: &[u8]) {
    same::<Signed>(bytes);
    same::<Problem>(bytes);
    same::<State>(bytes);
    same::<Ask>(bytes);
    same::<Enrolled>(bytes);
    same::<Reports>(bytes);
    same::<Acknowledged>(bytes);
}

/// What was read is read again from what is written of it.
fn same<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(value) = json::read::<T>(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&value).expect("plain data");
    assert_eq!(json::read::<T>(&written).expect("what we wrote"), value);
}

/// Frames of zstd give no more than they are asked for, and the same in whatever pieces they come.
fn unpack(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let size = usize::from(u16::from_le_bytes(*size));
    let take = |piece: usize| {
        let mut frame = Frame::new(size);
        for mut part in bytes.chunks(piece) {
            while !part.is_empty() && !frame.is_done() {
                part = frame.take(part).ok()?;
            }
        }
        assert!(frame.out().len() <= size, "more than was asked for");
        frame.is_done().then(|| frame.out().to_vec())
    };
    assert_eq!(take(4096), take(3), "pieces make a difference");
}
