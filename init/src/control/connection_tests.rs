//! Tests of [`super::Connection`]: whole, torn, hostile, and on a line that has no beginning.

use super::*;
use crate::control::{Memory, Said, StateStatus, Trial};
use crate::log::{SourceId, Stream};
use kedge_revision::Mode;
use proptest::prelude::*;

const STATUS: &str = "GET /v1/status HTTP/1.1\r\nHost: kedge\r\n\r\n";

fn status() -> Status<'static> {
    Status {
        product: "gateway".into(),
        board: "qemu-x86-64".into(),
        mode: Mode::Development,
        revision: None,
        slot: "a".into(),
        secure_boot: false,
        from_memory: false,
        state: StateStatus {
            word: "good".into(),
            text: "it runs what it should".into(),
        },
        phase: "running".into(),
        boot_id: "0".into(),
        uptime_ms: 12,
        trial: Trial::Committed,
        update: None,
        goals_missing: Vec::new(),
        containers: Vec::new(),
        network: Vec::new(),
        memory: Memory::default(),
        processes: Vec::new(),
    }
}

fn journal() -> Journal {
    let mut journal = Journal::new();
    let web = journal.source("web");
    for number in 1..=3 {
        journal.output(
            web,
            Stream::Out,
            format!("line {number}\n").as_bytes(),
            number,
        );
    }
    journal.output(web, Stream::Err, b"\xff\x01\n", 4);
    journal
}

/// Answers every call; gives back all output, and whether the connection ended.
fn drive(connection: &mut Connection, chunks: &[&[u8]], journal: &Journal) -> String {
    let mut out = Vec::new();
    let sum = &mut 0_u64;
    for chunk in chunks {
        let mut rest = *chunk;
        loop {
            let taken = connection.input(rest);
            rest = &rest[taken..];
            while let Some(call) = connection.next_call() {
                match call {
                    Call::Status => connection.answer_status(&status()),
                    Call::Logs(query) => connection.answer_logs(&query, journal),
                    Call::Command(_) => connection.answer_done(),
                    Call::History | Call::Earlier(_) => {
                        connection.answer_bytes(200, "application/x-ndjson", b"{}\n");
                    }
                    Call::Usage | Call::Inspect(_) => {
                        connection.answer_bytes(200, "application/json", b"{}");
                    }
                    Call::Exec { .. } => connection.begin_exec(),
                    Call::Upload { length: 0, .. } => {
                        connection.answer_bytes(200, "text/plain", b"");
                    }
                    Call::Upload { .. } => {}
                }
            }
            // An upload's body is taken as it comes, and answered with its sum.
            let body: u64 = connection.body().iter().map(|byte| u64::from(*byte)).sum();
            *sum = sum.wrapping_add(body);
            if connection.took(connection.body().len()) {
                let text = sum.to_string();
                connection.answer_bytes(200, "text/plain", text.as_bytes());
                *sum = 0;
                continue;
            }
            echo(connection);
            connection.pump(journal);
            let some = connection.output().len().div_ceil(2);
            out.extend_from_slice(&connection.output()[..some]);
            connection.wrote(some);
            let idle = connection.output().is_empty();
            if rest.is_empty() && idle || connection.is_finished() {
                break;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

/// A command that says what it reads, and ends with its input.
fn echo(connection: &mut Connection) {
    loop {
        let room = connection.room_for_output();
        let bytes = match connection.said() {
            Said::Nothing => return,
            Said::Window { rows, columns } => format!("{rows}x{columns}").into_bytes(),
            Said::Nonsense => return connection.leave_exec(),
            Said::End => return connection.end_exec(3, "over"),
            Said::Input(_) if room == 0 => return,
            Said::Input(bytes) => bytes[..bytes.len().min(room)].to_vec(),
        };
        connection.took_input(bytes.len());
        connection.tell_output(Stream::Out, &bytes);
    }
}

const EXEC: &str =
    "POST /v1/containers/web/exec HTTP/1.1\r\ncontent-length: 21\r\n\r\n{\"arguments\":[\"cat\"]}";

#[test]
fn a_command_takes_and_gives_frames() {
    let input = format!("{EXEC}w\0\x04\0\x18\0\x50i\0\x05helloi\0\0");
    let (out, finished) = socket(Role::Operate, &input);
    assert!(finished);
    let (head, frames) = out.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n"));
    assert_eq!(frames, "o\0\x0524x80o\0\x05hellox\0\x05\x03over");
    // Byte by byte it is the same, but that a frame is passed on as it comes.
    let mut connection = Connection::new(Role::Operate, Transport::Socket);
    let torn: Vec<&[u8]> = input.as_bytes().chunks(1).collect();
    let out = drive(&mut connection, &torn, &journal());
    assert!(out.ends_with("o\0\x0524x80o\0\x01ho\0\x01eo\0\x01lo\0\x01lo\0\x01ox\0\x05\x03over"));
    assert!(connection.is_finished());
    let (out, _) = socket(Role::Operate, &EXEC.replace("cat", "ca\n"));
    assert!(out.starts_with("HTTP/1.1 400 "), "{out}");
    let (out, _) = socket(Role::Lock, EXEC);
    assert!(out.starts_with("HTTP/1.1 403 "), "{out}");
}

#[test]
fn on_a_serial_port_the_next_client_ends_a_command() {
    let mut connection = Connection::new(Role::Operate, Transport::Serial);
    let input = format!("\r\n{EXEC}i\0\x02hi\r\n{STATUS}");
    let out = drive(&mut connection, &[input.as_bytes()], &journal());
    assert!(!connection.is_executing());
    // What came behind is looked at by whoever drives it.
    let more = drive(&mut connection, &[b"\r\n"], &journal());
    let all = out + &more;
    let (_, answer) = all.split_once("o\0\x02hi").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn a_command_that_nobody_hears_or_that_hears_nobody_is_bounded() {
    let mut connection = Connection::new(Role::Operate, Transport::Socket);
    connection.input(EXEC.as_bytes());
    assert!(matches!(connection.next_call(), Some(Call::Exec { .. })));
    connection.begin_exec();
    while connection.room_for_output() > 0 {
        let bytes = vec![b'x'; connection.room_for_output()];
        connection.tell_output(Stream::Err, &bytes);
    }
    assert!(connection.output().len() <= LOG_FILL);
    connection.input(b"i\xff\xff");
    while connection.wants_input() {
        connection.input(&[7; 1000]);
    }
    let Said::Input(bytes) = connection.said() else {
        panic!("there is input")
    };
    assert_eq!(bytes.len(), Connection::MAX_INPUT - 3);
    connection.took_input(100);
    assert!(connection.wants_input() && connection.is_executing());
    connection.end_input();
    assert!(!connection.is_executing());
}

fn socket(role: Role, input: &str) -> (String, bool) {
    let mut connection = Connection::new(role, Transport::Socket);
    let out = drive(&mut connection, &[input.as_bytes()], &journal());
    (out, connection.is_finished())
}

#[test]
fn status_twice_over_one_connection() {
    let (out, finished) = socket(Role::Observe, &STATUS.repeat(2));
    assert_eq!(out.matches("HTTP/1.1 200 OK\r\n").count(), 2);
    assert!(out.contains("\"product\":\"gateway\"") && !finished);
    let body = &out[out.find('{').unwrap()..out.rfind("HTTP/1.1").unwrap()];
    assert!(out.contains(&format!("content-length: {}\r\n", body.len())));
    let parsed: Status<'_> = serde_json::from_str(body).unwrap();
    assert_eq!(parsed, status());
}

#[test]
fn close_is_honoured_and_ids_come_back() {
    let request = "POST /v1/reboot HTTP/1.1\r\nConnection: close\r\nX-Request-Id: q1\r\n\r\n";
    let (out, finished) = socket(Role::Operate, request);
    assert_eq!(
        out,
        "HTTP/1.1 204 No Content\r\nconnection: close\r\nx-request-id: q1\r\n\r\n"
    );
    assert!(finished);
    let (out, _) = socket(Role::Observe, request);
    assert!(out.starts_with("HTTP/1.1 403 Forbidden\r\n"));
}

#[test]
fn the_answer_to_one_too_many_is_well_formed() {
    let text = core::str::from_utf8(crate::control::busy()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len())),
        "{}",
        body.len()
    );
    assert_eq!(
        serde_json::from_str::<Problem<'_>>(body).unwrap().status,
        503
    );
}

#[test]
fn logs_as_chunks() {
    let (out, finished) = socket(
        Role::Observe,
        "GET /v1/logs?container=web&limit=2 HTTP/1.1\r\n\r\n",
    );
    let (_, chunks) = out.split_once("\r\n\r\n").unwrap();
    let third =
        "{\"seq\":3,\"time-ms\":3,\"source\":\"web\",\"stream\":\"out\",\"text\":\"line 3\"}\n";
    let fourth = "{\"seq\":4,\"time-ms\":4,\"source\":\"web\",\"stream\":\"err\",\"text\":\"\u{fffd}\\u0001\"}\n";
    let expected = format!(
        "{:x}\r\n{third}\r\n{:x}\r\n{fourth}\r\n0\r\n\r\n",
        third.len(),
        fourth.len()
    );
    assert_eq!(chunks, expected);
    assert!(!finished);
    let (out, _) = socket(
        Role::Observe,
        "GET /v1/logs?container=nobody HTTP/1.1\r\n\r\n",
    );
    assert!(out.starts_with("HTTP/1.1 404 "));
}

#[test]
fn following_goes_on_until_the_next_request() {
    let mut journal = journal();
    let mut connection = Connection::new(Role::Observe, Transport::Socket);
    let request = b"GET /v1/logs?follow=1&since=4 HTTP/1.1\r\n\r\n";
    let out = drive(&mut connection, &[request], &journal);
    assert!(out.contains("\"seq\":4") && connection.is_streaming());
    journal.say(Stream::Notice, format_args!("more"), 9);
    connection.pump(&journal);
    assert!(connection.output().ends_with(b"\"text\":\"more\"}\n\r\n"));
    let out = drive(&mut connection, &[STATUS.as_bytes()], &journal);
    assert!(out.contains("0\r\n\r\nHTTP/1.1 200 OK\r\n"), "{out}");
    assert!(!connection.is_streaming());
}

#[test]
fn a_reader_that_does_not_read_costs_its_bound() {
    let mut journal = Journal::new();
    for number in 0..100 {
        let text = [b'\x01'; 4000];
        journal.output(SourceId::KEDGE, Stream::Out, &text, number * 1000);
        journal.output(SourceId::KEDGE, Stream::Out, b"\n", number * 1000);
    }
    let mut connection = Connection::new(Role::Observe, Transport::Socket);
    connection.input(b"GET /v1/logs?follow=1 HTTP/1.1\r\n\r\n");
    let Some(Call::Logs(query)) = connection.next_call() else {
        panic!("no call");
    };
    connection.answer_logs(&query, &journal);
    for _ in 0..10 {
        connection.pump(&journal);
        connection.input(STATUS.as_bytes());
        assert_eq!(connection.next_call(), None);
    }
    assert!(connection.output().len() < LOG_FILL + 6 * 4096 + 300);
    while connection.room() > 0 {
        connection.input(&[b'x'; 100]);
    }
    assert!(!connection.wants_input());
    assert_eq!(connection.input(b"x"), 0);
}

#[test]
fn oversized_heads_and_bodies_end_a_socket() {
    let long = format!("GET /v1/status HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(4096));
    let (out, finished) = socket(Role::Observe, &long);
    assert!(out.starts_with("HTTP/1.1 431 ") && finished, "{out}");
    let (out, finished) = socket(
        Role::Operate,
        "POST /v1/reboot HTTP/1.1\r\nContent-Length: 5000\r\n\r\n",
    );
    assert!(out.starts_with("HTTP/1.1 413 ") && finished);
    let (out, finished) = socket(Role::Operate, "nonsense\r\n\r\n");
    assert!(out.starts_with("HTTP/1.1 400 ") && finished);
    let (out, finished) = socket(Role::Operate, "GET / HTTP/1.1\r\n\r\n");
    assert!(out.starts_with("HTTP/1.1 404 ") && !finished);
    let (out, _) = socket(Role::Operate, "PUT /v1/logs HTTP/1.1\r\n\r\n");
    assert!(out.starts_with("HTTP/1.1 405 ") && out.contains("allow: "));
}

#[test]
fn a_body_is_read_past() {
    let request = format!("POST /v1/poweroff HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}{STATUS}");
    let (out, _) = socket(Role::Operate, &request);
    assert!(out.starts_with("HTTP/1.1 204 ") && out.contains("HTTP/1.1 200 "));
}

const OFFER: &str = "POST /v1/update/offer HTTP/1.1\r\nX-Request-Id: up\r\nContent-Length: ";

#[test]
fn an_upload_passes_through_in_bounded_parts() {
    for transport in [Transport::Socket, Transport::Serial] {
        let mut connection = Connection::new(Role::Operate, transport);
        // On a serial line, too, a request line in a body is no request.
        let body = STATUS.repeat(4000);
        let sum: u64 = body.bytes().map(u64::from).sum();
        let request = format!("{OFFER}{}\r\n\r\n{body}{STATUS}", body.len());
        let out = drive(&mut connection, &[request.as_bytes()], &journal());
        assert!(
            out.contains(&format!("x-request-id: up\r\n\r\n{sum}HTTP/1.1 200 OK")),
            "{out}"
        );
        assert_eq!(out.matches("HTTP/1.1 ").count(), 2);
    }
}

#[test]
fn an_upload_that_is_refused_before_its_end_is_read_past() {
    for transport in [Transport::Socket, Transport::Serial] {
        let mut connection = Connection::new(Role::Operate, transport);
        connection.input(format!("{OFFER}9000\r\n\r\n").as_bytes());
        assert!(matches!(
            connection.next_call(),
            Some(Call::Upload {
                what: Upload::Offer,
                length: 9000
            })
        ));
        connection.input(b"some of it");
        assert!(connection.is_asking());
        connection.answer_bytes(409, "application/problem+json", b"{}");
        assert!(!connection.is_asking() && connection.body().is_empty());
        let rest = [b'x'; 8990];
        let out = drive(&mut connection, &[&rest, STATUS.as_bytes()], &journal());
        assert!(out.starts_with("HTTP/1.1 409 Conflict"), "{out}");
        assert_eq!(out.matches("HTTP/1.1 200 OK").count(), 1, "{out}");
    }
}

#[test]
fn an_upload_whose_client_has_gone_waits_for_nothing() {
    let mut connection = Connection::new(Role::Operate, Transport::Socket);
    connection.input(format!("{OFFER}9000\r\n\r\nhalf").as_bytes());
    connection.next_call().unwrap();
    assert!(connection.is_asking());
    connection.end_input();
    assert!(!connection.is_asking());
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let mut connection = Connection::new(Role::Observe, Transport::Socket);
    connection.input(STATUS.as_bytes());
    connection.end_input();
    assert_eq!(connection.next_call(), Some(Call::Status));
    connection.answer_status(&status());
    assert!(!connection.is_finished());
    connection.wrote(connection.output().len());
    assert_eq!(connection.next_call(), None);
    assert!(connection.is_finished());
}

#[test]
fn a_serial_port_finds_its_way_back() {
    let mut connection = Connection::new(Role::Operate, Transport::Serial);
    for broken in [
        "login: root\r\n",
        "\0\0\u{1b}[A garbage without an end \r\n",
        "GET /v1/status HTTP/1.1\r\nHost: went aw",
        "GET /v1/status HTTP/1.1\r\nbroken field\r\n\r\n",
        "POST /v1/reboot HTTP/1.1\r\nContent-Length: 9999\r\n\r\n{}",
    ] {
        let again = format!("{broken}\r\nGET /v1/status HTTP/1.1\r\nX-Request-Id: 77\r\n\r\n");
        let out = drive(&mut connection, &[again.as_bytes()], &journal());
        assert_eq!(
            out.matches("x-request-id: 77\r\n").count(),
            1,
            "{broken:?} {out}"
        );
        assert!(!connection.is_finished());
    }
    let noise = vec![b'z'; 3 * Connection::MAX_INPUT];
    drive(&mut connection, &[&noise], &journal());
    assert!(connection.wants_input());
    connection.input(b"GET /v1/st");
    connection.reset();
    let out = drive(&mut connection, &[STATUS.as_bytes()], &journal());
    assert!(out.starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_hang_up_that_is_told_late_takes_nothing_from_the_next_client() {
    let serial = || Connection::new(Role::Operate, Transport::Serial);
    // The beginning of a request.
    let mut connection = serial();
    let (head, tail) = STATUS.split_at(10);
    connection.input(head.as_bytes());
    assert!(connection.hang_up());
    let out = drive(&mut connection, &[tail.as_bytes()], &journal());
    assert!(out.starts_with("HTTP/1.1 200 "), "{out}");
    // An answer that could not be written yet.
    let mut connection = serial();
    connection.input(STATUS.as_bytes());
    assert_eq!(connection.next_call(), Some(Call::Status));
    connection.answer_bytes(200, "text/plain", b"here");
    assert!(connection.hang_up());
    assert!(connection.output().ends_with(b"here"));
    // One of which the former client has got something.
    connection.wrote(1);
    assert!(!connection.hang_up());
    assert!(connection.output().is_empty());
    // Nothing, who waits for an answer, and what fills the connection.
    assert!(!serial().hang_up());
    connection.input(STATUS.as_bytes());
    assert_eq!(connection.next_call(), Some(Call::Status));
    assert!(!connection.hang_up());
    connection.input(&[b'z'; Connection::MAX_INPUT]);
    assert!(!connection.hang_up());
    assert!(connection.wants_input());
}

fn requests() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just(STATUS.to_owned()),
        Just("GET /v1/logs?limit=2 HTTP/1.1\r\nX-Request-Id: 1\r\n\r\n".to_owned()),
        Just("POST /v1/reboot HTTP/1.1\nContent-Length: 3\n\n{ }".to_owned()),
        Just("POST /v1/containers/a/stop HTTP/1.1\r\n\r\n".to_owned()),
        Just(format!("{OFFER}5\r\n\r\nGET /")),
        Just("\r\n".to_owned()),
        Just("GET /nothing HTTP/1.1\r\n\r\n".to_owned()),
        Just("GET /v1/status HTTP/1.1\r\nbad\r\n\r\n".to_owned()),
        "[ -~\r\n]{0,40}",
    ];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn torn_is_as_whole(input in requests(), cut in 1_usize..50) {
        let journal = journal();
        for transport in [Transport::Socket, Transport::Serial] {
            let outcomes: Vec<_> = [input.len().max(1), cut, 1]
                .map(|size| {
                    let mut connection = Connection::new(Role::Observe, transport);
                    let chunks: Vec<&[u8]> = input.as_bytes().chunks(size).collect();
                    (drive(&mut connection, &chunks, &journal), connection.is_finished())
                })
                .into();
            prop_assert_eq!(&outcomes[0], &outcomes[1]);
            prop_assert_eq!(&outcomes[0], &outcomes[2]);
        }
    }

    #[test]
    fn any_bytes_are_survived(input in proptest::collection::vec(any::<u8>(), 0..9000)) {
        for transport in [Transport::Socket, Transport::Serial] {
            let mut connection = Connection::new(Role::Operate, transport);
            drive(&mut connection, &[&input], &journal());
        }
    }
}
