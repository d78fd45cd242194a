//! The head of an HTTP/1.1 request (RFC 9112), and nothing else of HTTP.
//!
//! A line ends with `\n`, with or without `\r` before it; the head ends with an empty line. Names of
//! fields are tokens; folded lines are refused. Only three fields mean anything here:
//! `content-length`, `connection` and `x-request-id`; `transfer-encoding` is refused.

use super::Refusal;

/// Largest head, bytes, with its line ends.
pub(super) const MAX_HEAD: usize = 4096;
/// Largest body of a request that is no upload, bytes.
pub(super) const MAX_BODY: usize = 4096;
/// Largest body of an upload, bytes: 1 TiB, more than any device stores.
const MAX_UPLOAD: u64 = 1 << 40;
/// Longest `x-request-id`, bytes; longer ones are not echoed.
pub(super) const MAX_ID: usize = 64;

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Read.
    Get,
    /// Act.
    Post,
    /// Anything else: known only to be answered with 405.
    Other,
}

/// A parsed head, borrowed from the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method.
    pub method: Method,
    /// The target before `?`, beginning with `/`.
    pub path: &'a str,
    /// The target behind `?`.
    pub query: &'a str,
    /// Length of the body, at most 1 TiB; what a resource takes is for its router.
    pub body: u64,
    /// Whether the connection goes on after the answer.
    pub keep_alive: bool,
    /// What to echo.
    pub id: Option<&'a str>,
}

/// Length of the head with its empty line, if it is complete.
pub(super) fn length(input: &[u8]) -> Option<usize> {
    let mut at = 0;
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        if matches!(line, b"\n" | b"\r\n") {
            return Some(at);
        }
    }
    None
}

/// Whether a line (with or without its end) is a request line of this interface: the marks by which a
/// serial port finds its way back.
pub(super) fn is_request_line(line: &[u8]) -> bool {
    let line = trim_end(line);
    (line.starts_with(b"GET /") || line.starts_with(b"POST /")) && line.ends_with(b" HTTP/1.1")
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

impl<'a> Head<'a> {
    /// Parses a complete head.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::Version`], [`Refusal::BodyTooLarge`].
    pub fn parse(head: &'a [u8]) -> Result<Self, Refusal> {
        let text =
            core::str::from_utf8(head).map_err(|_| Refusal::Malformed("the head is not UTF-8"))?;
        let mut lines = text
            .split('\n')
            .map(|line| line.strip_suffix('\r').unwrap_or(line));
        let mut parsed = Self::request_line(lines.next().unwrap_or_default())?;
        let mut length = None;
        for line in lines.take_while(|line| !line.is_empty()) {
            parsed.field(line, &mut length)?;
        }
        parsed.body = length.unwrap_or(0);
        Ok(parsed)
    }

    fn request_line(line: &'a str) -> Result<Self, Refusal> {
        let mut parts = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Malformed("the request line has not three parts"));
        };
        if !is_token(method) {
            return Err(Refusal::Malformed("the method is no token"));
        }
        if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::Malformed("the target is no path"));
        }
        if version != "HTTP/1.1" {
            return Err(Refusal::Version);
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Self {
            method: match method {
                "GET" => Method::Get,
                "POST" => Method::Post,
                _ => Method::Other,
            },
            path,
            query,
            body: 0,
            keep_alive: true,
            id: None,
        })
    }

    fn field(&mut self, line: &'a str, length: &mut Option<u64>) -> Result<(), Refusal> {
        let malformed = Refusal::Malformed("a header field is malformed");
        let (name, value) = line.split_once(':').ok_or(malformed)?;
        let value = value.trim_matches([' ', '\t']);
        if !is_token(name) || value.bytes().any(|byte| byte < b' ' && byte != b'\t') {
            return Err(malformed);
        }
        if name.eq_ignore_ascii_case("content-length") {
            // Said twice, it could mean two things to two readers.
            if length.is_some()
                || value.is_empty()
                || !value.bytes().all(|byte| byte.is_ascii_digit())
            {
                return Err(Refusal::Malformed("content-length is no number"));
            }
            let wanted = value.parse().ok().filter(|length| *length <= MAX_UPLOAD);
            *length = Some(wanted.ok_or(Refusal::BodyTooLarge)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Refusal::Malformed("bodies need a content-length"));
        } else if name.eq_ignore_ascii_case("connection") {
            self.keep_alive = !value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("x-request-id") {
            let good = value.len() <= MAX_ID && value.bytes().all(|byte| byte.is_ascii_graphic());
            self.id = Some(value).filter(|_| good);
        }
        Ok(())
    }
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(head: &str) -> Result<Head<'_>, Refusal> {
        Head::parse(head.as_bytes())
    }

    #[test]
    fn what_is_understood() {
        let head = parse(
            "POST /v1/x?a=b HTTP/1.1\r\nHost: kedge\r\nContent-Length: 12\r\nConnection: close\r\nX-Request-Id:\t7f \r\n\r\n",
        );
        assert_eq!(
            head,
            Ok(Head {
                method: Method::Post,
                path: "/v1/x",
                query: "a=b",
                body: 12,
                keep_alive: false,
                id: Some("7f"),
            })
        );
        assert!(parse("GET / HTTP/1.1\n\n").is_ok());
        assert_eq!(
            parse("DELETE / HTTP/1.1\n\n").map(|head| head.method),
            Ok(Method::Other)
        );
    }

    #[test]
    fn what_is_refused() {
        let bad = [
            ("", 400),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\n\r\n", 505),
            ("GET  / HTTP/1.1\r\n\r\n", 400),
            ("GET http://x/ HTTP/1.1\r\n\r\n", 400),
            ("G(T / HTTP/1.1\r\n\r\n", 400),
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\na: b\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nbad name: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\na: \u{1}\r\n\r\n", 400),
            (
                "POST / HTTP/1.1\r\nContent-Length: 1099511627777\r\n\r\n",
                413,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                413,
            ),
            ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
            (
                "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                400,
            ),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ];
        for (head, status) in bad {
            assert_eq!(
                parse(head).map_err(Refusal::status).unwrap_err(),
                status,
                "{head:?}"
            );
        }
        assert!(Head::parse(b"GET /\xff HTTP/1.1\n\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if Head::parse(&bytes).is_ok() {
                prop_assert!(bytes.contains(&b'/'));
            }
            if let Some(length) = length(&bytes) {
                prop_assert_eq!(bytes[length - 1], b'\n');
            }
        }
    }
}
