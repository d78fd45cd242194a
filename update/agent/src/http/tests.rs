//! Answers as they should be, and as they should not.

use super::*;
use proptest::prelude::*;
use std::io::Cursor;

/// A stream that answers with these bytes, some at a time.
struct Played {
    answer: Cursor<Vec<u8>>,
    at_a_time: usize,
    asked: Vec<u8>,
}

impl Read for Played {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.at_a_time);
        self.answer.read(&mut buffer[..most])
    }
}

impl Write for Played {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.asked.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn http(answer: &str, at_a_time: usize) -> Http<Played> {
    let stream = Played {
        answer: Cursor::new(answer.as_bytes().to_vec()),
        at_a_time,
        asked: Vec::new(),
    };
    Http::new(Peer::Hub, stream, "hub:8443".to_owned())
}

const ASK: Request<'static> = Request {
    doing: "ask",
    method: "GET",
    target: "/v1/x",
    fields: "",
    length: 0,
};

fn ask(answer: &str) -> Result<(Head, Vec<u8>), Error> {
    http(answer, 7).ask(&ASK, &[], 100)
}

#[test]
fn bodies_with_a_length_and_in_chunks_and_one_after_the_other() {
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\nhello\
               HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
    for at_a_time in [1, 3, 1000] {
        let mut http = http(two, at_a_time);
        let (head, body) = http.ask(&ASK, &[], 100).unwrap();
        assert_eq!(
            (head.etag.as_deref(), body.as_slice()),
            (Some("\"a\""), &b"hello"[..])
        );
        // What has come behind it is no answer to a question that nobody has asked yet.
        let rest = http.taken < http.input.len();
        assert_eq!(http.is_usable(), !rest);
        let (_, body) = http.ask(&ASK, &[], 100).unwrap();
        assert_eq!(body, b"hello!");
        assert!(http.is_usable());
        let asked = String::from_utf8(http.stream.asked.clone()).unwrap();
        assert!(
            asked.starts_with("GET /v1/x HTTP/1.1\r\nhost: hub:8443\r\n"),
            "{asked}"
        );
    }
}

#[test]
fn an_answer_that_nothing_has_changed_has_no_body_whatever_length_it_tells() {
    let two = "HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\n\r\n\
               HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let mut http = http(two, 5);
    let (head, body) = http.ask(&ASK, &[], 100).unwrap();
    assert_eq!((head.status, body.len()), (304, 0));
    assert_eq!(http.ask(&ASK, &[], 100).unwrap().1, b"ok");
}

#[test]
fn a_refusal_says_why_and_when_to_ask_again() {
    let body =
        r#"{"status":403,"type":"token-spent","title":"Forbidden","detail":"this token was used"}"#;
    let answer = format!(
        "HTTP/1.1 403 Forbidden\r\nretry-after: 90\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    match ask(&answer) {
        Err(Error::Refused {
            status,
            kind,
            detail,
            retry_after,
            ..
        }) => {
            assert_eq!(
                (status, kind.as_str(), retry_after),
                (403, "token-spent", Some(90))
            );
            assert_eq!(detail, "this token was used");
        }
        other => panic!("{other:?}"),
    }
    // A proxy's own page.
    let answer = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\n<p>x";
    assert_eq!(ask(answer).unwrap_err().status(), Some(502));
}

#[test]
fn what_is_no_answer_is_refused() {
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(4000));
    for (answer, what) in [
        ("SSH-2.0-OpenSSH\r\n", "no HTTP"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n",
            "a body that is too long",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
            "two lengths",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "a length that is no number",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "a length and chunks",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nhello", "a body without an end"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "a transfer encoding that was not asked for",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfff\r\n",
            "a body that is too long",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
            "a chunk without a size",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
            "a chunk without an end",
        ),
        (&endless, "no HTTP"),
    ] {
        match ask(answer) {
            Err(Error::Protocol { what: why, .. }) => assert_eq!(why, what, "{answer:.60}"),
            other => panic!("{answer:.60}: {other:?}"),
        }
    }
    for cut in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
    ] {
        assert!(matches!(ask(cut), Err(Error::Connection { .. })), "{cut}");
    }
}

proptest! {
    #[test]
    fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300), at_a_time in 1_usize..50) {
        let stream = Played { answer: Cursor::new(bytes), at_a_time, asked: Vec::new() };
        let mut http = Http::new(Peer::Hub, stream, "hub".to_owned());
        if let Ok((_, body)) = http.ask(&ASK, &[], 64) {
            prop_assert!(body.len() <= 64);
        }
    }
}
