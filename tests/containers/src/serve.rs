//! A small HTTP server: what it answers, the tests ask for over a forwarded port.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health` | 200, or 500 after `/sick` |
//! | `GET /facts` | the facts as one JSON object |
//! | `GET /sick` | 200; health fails from now on |
//! | `GET /flood/N` | N lines of 100 bytes are written to standard output before the answer |
//! | `GET /exit/CODE` | the process ends |
//! | `GET /starts` | when this process was started, nanoseconds of the monotonic clock |

use crate::facts;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::ExitCode;
use std::time::Duration;

pub(crate) fn run(port: u64) -> ExitCode {
    let started = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let listener = match TcpListener::bind(("::", u16::try_from(port).unwrap_or(0))) {
        Ok(listener) => listener,
        Err(error) => {
            crate::say(&format!("cannot listen on {port}: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // Nobody takes its connections: that they are made is all.
    let name = SocketAddr::from_abstract_name(format!("kedge-{port}"));
    let _socket = name.and_then(|name| UnixListener::bind_addr(&name));
    crate::say(&format!("listening on {port}"));
    // SIGTERM ends a process that is the first of its namespace only if it takes the signal.
    std::thread::spawn(|| {
        crate::waits::for_any();
        end()
    });
    let mut sick = false;
    for stream in listener.incoming().flatten() {
        let Some(path) = request(&stream) else {
            continue;
        };
        let (status, body) = match path.as_str() {
            "/health" if sick => (500, "ill".to_owned()),
            "/health" => (200, "well".to_owned()),
            "/facts" => (200, json(&facts::all())),
            "/starts" => (200, format!("{}{:09}", started.tv_sec, started.tv_nsec)),
            "/sick" => {
                sick = true;
                (200, "falling ill".to_owned())
            }
            other if other.starts_with("/flood/") => {
                let lines = other.trim_start_matches("/flood/").parse().unwrap_or(0);
                crate::flood(lines);
                (200, "flood over".to_owned())
            }
            other => match other
                .strip_prefix("/exit/")
                .and_then(|code| code.parse::<u8>().ok())
            {
                Some(code) => {
                    answer(&stream, 200, "ending");
                    return ExitCode::from(code);
                }
                None => (404, "there is no such thing".to_owned()),
            },
        };
        answer(&stream, status, &body);
    }
    ExitCode::FAILURE
}

#[allow(
    clippy::exit,
    reason = "the thread that listens for connections cannot be told otherwise"
)]
pub(crate) fn end() -> ! {
    std::process::exit(0)
}

/// The path of a request, once its head is read.
fn request(stream: &TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    // Unread bytes at the close would make it a reset, and the answer would be lost.
    while lines.next()?.ok().is_some_and(|line| !line.is_empty()) {}
    Some(first.split(' ').nth(1)?.to_owned())
}

fn answer(mut stream: &TcpStream, status: u16, body: &str) {
    let text = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // The client may be gone.
    stream.write_all(text.as_bytes()).ok();
}

fn json(facts: &[facts::Fact]) -> String {
    let fields: Vec<String> = facts
        .iter()
        .map(|(name, value)| format!("{}:{}", quoted(name), quoted(value)))
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control < ' ' => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
