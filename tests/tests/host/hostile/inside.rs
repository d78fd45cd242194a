//! Faults above TLS: a hub, or whoever has its keys, answers with whatever it likes.

use super::{Bench, HUB, side_by_side};
use anyhow::{Result, ensure};
use kedge_tests::proxy::{Answer, Fault};
use kedge_tests::releases::{Fleet, Plan, Release};

/// Answers that are none, or another one, for any request.
fn faults() -> Vec<(&'static str, Fault)> {
    let mut faults = wrong();
    faults.extend(endless());
    faults.extend(changed());
    faults
}

/// Something else instead.
fn wrong() -> Vec<(&'static str, Fault)> {
    let raw = |name, head: &str, body: &[u8]| {
        let answer = Answer {
            head: head.as_bytes().to_vec(),
            body: body.to_vec(),
        };
        (name, Fault::Instead(answer))
    };
    let refusal = |name, status, fields| {
        let answer = Answer::refusal(status, fields, "busy");
        (name, Fault::Instead(answer))
    };
    let json = |name, body: &str| (name, Fault::Instead(Answer::json(200, "", body)));
    vec![
        refusal("a refusal", 503, ""),
        refusal("a refusal with a pause", 429, "retry-after: 1\r\n"),
        refusal("a pause of nonsense", 503, "retry-after: -1e99\r\n"),
        raw("nothing", "", b""),
        raw("garbage", "SSH-2.0-OpenSSH_9.2\r\n\r\n", b""),
        raw(
            "a portal",
            "HTTP/1.0 302 Found\r\nlocation: /\r\n\r\n",
            b"<html>",
        ),
        raw("no length", "HTTP/1.1 200 OK\r\n\r\n", b"{}"),
        raw(
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n",
            b"{}",
        ),
        raw(
            "a length and chunks",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
            b"{}",
        ),
        raw(
            "the longest length",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n",
            &[b'0'; 0x10000],
        ),
        json("deep JSON", &"[".repeat(60_000)),
        json("an empty object", "{}"),
        ("another answer", Fault::Other("GET /v1/hub")),
    ]
}

/// Something that does not end.
fn endless() -> Vec<(&'static str, Fault)> {
    let over = |name, first: &str, piece: &[u8]| {
        let fault = Fault::Endless(first.as_bytes().to_vec(), piece.to_vec());
        (name, fault)
    };
    let zeros = vec![b'0'; 0x10000];
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let large = [b"4000\r\n".as_slice(), &vec![b' '; 0x4000], b"\r\n"].concat();
    let small = b"1;abcdefghijklmnopqrstuvwxyz\r\n \r\n".repeat(100);
    let bomb = format!("{chunks}ffffffffffffff\r\n");
    let early = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100);
    vec![
        over("fields", "HTTP/1.1 200 OK\r\n", &b"a: b\r\n".repeat(500)),
        over("a field", "HTTP/1.1 200 OK\r\na: ", &zeros),
        over(
            "a body",
            "HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775807\r\n\r\n",
            &zeros,
        ),
        over("chunks", chunks, &large),
        over("small chunks", chunks, &small),
        over("a chunk's size", chunks, &zeros),
        over("a chunk bomb", &bomb, &zeros),
        over("beginnings", "HTTP/1.1 100 Continue\r\n\r\n", &early),
    ]
}

/// The right one, but not quite.
fn changed() -> Vec<(&'static str, Fault)> {
    let half = |bytes: &[u8]| bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec();
    vec![
        (
            "half of the body",
            Fault::changed(move |answer| Answer {
                body: half(&answer.body),
                ..answer
            }),
        ),
        (
            "half of the head",
            Fault::changed(move |answer| Answer {
                head: half(&answer.head),
                body: Vec::new(),
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
            "a flipped bit",
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
const STEPS: [&str; 11] = [
    "POST /v1/time",
    "GET /v1/authority",
    "POST /v1/enroll",
    "GET /v1/device/state",
    "PUT /v1/device/report",
    "POST /v1/device/assignment",
    "/head?",
    "/tree",
    "/index",
    "/frames",
    "GET /v1/objects/",
];

/// At how many of them each device meets its fault.
const MET: usize = 4;

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
    // Three devices a fault, which meet it at all of the steps.
    let cases = faults()
        .into_iter()
        .enumerate()
        .flat_map(|(number, (name, fault))| {
            (0..STEPS.len().div_ceil(MET)).map(move |first| {
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
