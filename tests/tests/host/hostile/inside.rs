//! Faults above TLS: a hub, or whoever has its keys, answers with whatever it likes.

use super::{Bench, HUB, side_by_side};
use anyhow::{Result, ensure};
use kedge_tests::fleet::{Fleet, Plan, Release};
use kedge_tests::proxy::{Answer, Fault};

/// Answers that are none, or another one, for any request.
fn faults() -> Vec<(&'static str, Fault)> {
    let instead = |head: &str, body: &[u8]| {
        Fault::Instead(Answer {
            head: head.as_bytes().to_vec(),
            body: body.to_vec(),
        })
    };
    let zeros = vec![b'0'; 64 * 1024];
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    vec![
        (
            "a refusal",
            Fault::Instead(Answer::refusal(503, "", "busy")),
        ),
        (
            "a refusal with a pause",
            Fault::Instead(Answer::refusal(429, "retry-after: 1\r\n", "busy")),
        ),
        (
            "a pause of nonsense",
            Fault::Instead(Answer::refusal(503, "retry-after: -1e99\r\n", "busy")),
        ),
        ("garbage", instead("SSH-2.0-OpenSSH_9.2\r\n\r\n", b"")),
        (
            "a portal",
            instead("HTTP/1.0 302 Found\r\nlocation: /\r\n\r\n", b"<html>"),
        ),
        ("nothing", Fault::Instead(Answer::default())),
        ("no length", instead("HTTP/1.1 200 OK\r\n\r\n", b"{}")),
        (
            "two lengths",
            instead(
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n",
                b"{}",
            ),
        ),
        (
            "a length and chunks",
            instead(
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
                b"{}",
            ),
        ),
        (
            "a length without end",
            instead(
                "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n",
                &zeros,
            ),
        ),
        (
            "deep JSON",
            Fault::Instead(Answer::json(200, "", &"[".repeat(60_000))),
        ),
        (
            "an empty object",
            Fault::Instead(Answer::json(200, "", "{}")),
        ),
        (
            "a head without end",
            Fault::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(500)),
        ),
        (
            "a field without end",
            Fault::Endless(b"HTTP/1.1 200 OK\r\na: ".to_vec(), zeros.clone()),
        ),
        (
            "a body without end",
            Fault::Endless(
                b"HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775807\r\n\r\n".to_vec(),
                zeros.clone(),
            ),
        ),
        (
            "chunks without end",
            Fault::Endless(
                chunked.clone(),
                [b"4000\r\n".as_slice(), &vec![b' '; 0x4000], b"\r\n"].concat(),
            ),
        ),
        (
            "small chunks without end",
            Fault::Endless(
                chunked.clone(),
                b"1;abcdefghijklmnopqrstuvwxyz\r\n \r\n".repeat(100),
            ),
        ),
        (
            "a chunk size without end",
            Fault::Endless(chunked.clone(), zeros.clone()),
        ),
        (
            "a chunk bomb",
            Fault::Endless([chunked, b"ffffffffffffff\r\n".to_vec()].concat(), zeros),
        ),
        (
            "beginnings without end",
            Fault::Endless(
                b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
                b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100),
            ),
        ),
        ("another answer", Fault::Other("GET /v1/hub")),
        (
            "half of the body",
            Fault::changed(|answer| {
                let body = answer
                    .body
                    .get(..answer.body.len() / 2)
                    .unwrap_or_default()
                    .to_vec();
                Answer { body, ..answer }
            }),
        ),
        (
            "half of the head",
            Fault::changed(|answer| {
                let head = answer
                    .head
                    .get(..answer.head.len() / 2)
                    .unwrap_or_default()
                    .to_vec();
                Answer {
                    head,
                    body: Vec::new(),
                }
            }),
        ),
        (
            "the answer twice",
            Fault::changed(|answer| Answer {
                body: [answer.body.as_slice(), &answer.head, &answer.body].concat(),
                ..answer
            }),
        ),
        (
            "a byte of the body flipped",
            Fault::changed(|mut answer| {
                let middle = answer.body.len() / 2;
                if let Some(byte) = answer.body.get_mut(middle) {
                    *byte ^= 4;
                }
                answer
            }),
        ),
    ]
}

/// What a device asks until it runs something else, one request of each kind.
const STEPS: [&str; 9] = [
    "POST /v1/time",
    "GET /v1/authority",
    "POST /v1/enroll",
    "GET /v1/device/state",
    "PUT /v1/device/report",
    "POST /v1/device/assignment",
    "/head?",
    "/tree",
    "GET /v1/objects/",
];

/// Brings a device from nothing to the release, with these faults on the way.
fn survive(fleet: &Fleet, release: &Release, played: &[(&'static str, Fault)]) -> Result<()> {
    let mut bench = Bench::new(fleet)?;
    for (step, fault) in played {
        bench.proxy.plays(step, 1, fault.clone());
    }
    bench.enrol()?;
    bench.update(fleet, release)?;
    let left = bench.proxy.left();
    ensure!(left == 0, "{left} faults were not met");
    bench.audit(&[release])
}

#[test]
fn host_an_update_survives_every_answer_at_every_step() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let release = fleet.publish(&Plan::new(2, 600_000))?;
    // One device a fault, which meets it at three of the steps: others at the others.
    let cases = faults()
        .into_iter()
        .enumerate()
        .flat_map(|(number, (name, fault))| {
            (0..3).map(move |first| {
                let played: Vec<_> = (0..3)
                    .map(|turn| STEPS[(first + turn * 3 + number) % STEPS.len()])
                    .map(|step| (step, fault.clone()))
                    .collect();
                (format!("{name} ({first})"), played)
            })
        });
    side_by_side(cases.collect(), |_, played| {
        survive(&fleet, &release, &played)
    })
}
