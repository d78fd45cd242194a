//! A trial without a reboot, seen by clients: two servers of one group, one as before and one whose definition changes.
//!
//! Both have the device's network; a thread of the host for each asks it every few milliseconds, before, during and after
//! the trial.
//!
//! - `trial.live-downtime-unchanged` is the longest gap between two answers in which a request failed; if the server's
//!   process is another, the longest gap of all, at least 1 ms. A busy host makes answers late, so that lateness alone
//!   does not count. The goal is none.
//! - `trial.live-downtime-changed` is the longest gap of the other server.
//!
//! Both are beyond the usual gap. QEMU's user network takes a connection before the guest does: a server that is gone
//! shows as a connection that ends without an answer.

use super::super::subject::{self, Program};
use super::super::{Figure, note};
use super::gaps::{self, Answer};
use super::{PATIENCE, ensure_change, push, shorten_window, verdict};
use crate::device::{Device, container, fetch, free_port};
use crate::kedge::Kedge;
use crate::project;
use anyhow::{Context, Result, anyhow, ensure};
use kedge_image_build::progress;
use kedge_image_build::qemu::Forward;
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(3);
/// How long is watched before and after the trial.
const BESIDE: Duration = Duration::from_secs(3);
/// How long a server may be silent at the end.
const SILENCE: Duration = Duration::from_secs(60);

/// A server: its container's name, and its port in the guest.
const SERVERS: [(&str, u16); 2] = [("unchanged", 8081), ("changed", 8082)];

pub(super) fn measure(folder: &Path, platform: &Path) -> Result<Vec<Figure>> {
    let board = project::board(platform)?;
    let image = subject::image(folder, Program::Serve, &board)?;
    let kedge = Kedge::new_project(&folder.join("measure-live"), board.name.as_str())?;
    shorten_window(&kedge)?;
    for (name, port) in SERVERS {
        add(&kedge, &image, name, port, &[])?;
    }
    let built = project::build(board, kedge.clone(), platform)?;
    let mut config = built.machine();
    let ports = [free_port()?, free_port()?];
    let pairs = ports.into_iter().zip(SERVERS);
    config.forwards = pairs
        .map(|(host, (_, guest))| Forward { host, guest })
        .collect();
    let mut device = Device::start(&kedge, config, false)?;
    device.until_goals(PATIENCE)?;
    device.until("both servers answer", PATIENCE, |_| {
        ports
            .iter()
            .try_for_each(|port| fetch(*port, "GET", "/").map(drop))
    })?;
    let before = pids(&device)?;
    let [_, (name, port)] = SERVERS;
    add(
        &kedge,
        &image,
        name,
        port,
        &["--env", "ROUND=2", "--replace"],
    )?;
    let seen = progress::step("a trial without a reboot, under requests", || {
        watched(ports, || {
            device.listen(BESIDE);
            let pushed = push(&device, &kedge, platform, &[])?;
            device.listen(BESIDE);
            ensure_change(&pushed, "restart")
        })
    })?;
    let after = pids(&device)?;
    let took = verdict(&device.ctl(&["history"])?)?;
    ensure!(device.boots() == 1, "the device was restarted");
    device.cut_power()?;
    for ((name, _), answers) in SERVERS.iter().zip(&seen) {
        note(format_args!(
            "{name}: {} answers, {} failures, usually every {:?}, longest gap {:?} more",
            answers.len(),
            gaps::failures(answers),
            gaps::usual(answers),
            gaps::longest(answers)
        ));
    }
    figures(&seen, before, after, took)
}

fn figures(
    [unchanged, changed]: &[Vec<Answer>; 2],
    before: [u64; 2],
    after: [u64; 2],
    took: i64,
) -> Result<Vec<Figure>> {
    ensure!(
        before[1] != after[1],
        "the process of the changed server is the same"
    );
    let same = before[0] == after[0];
    let lost = if same {
        gaps::longest_failure(unchanged)
    } else {
        gaps::longest(unchanged).max(Duration::from_millis(1))
    };
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Ok(vec![
        Figure::time("trial.live-downtime-unchanged", nanoseconds(lost), Some(0)),
        Figure::time(
            "trial.live-downtime-changed",
            nanoseconds(gaps::longest(changed)),
            None,
        ),
        Figure::seconds("trial.live-verdict", took),
    ])
}

fn add(kedge: &Kedge, image: &str, name: &str, port: u16, more: &[&str]) -> Result<()> {
    let port = port.to_string();
    let mut words = vec!["add", image, "--name", name, "--group", "app"];
    words.extend(["--network", "host", "--root", "refused"]);
    words.extend(more);
    words.extend(["--command", "/program", &port]);
    kedge.ask(&words).map(drop)
}

fn pids(device: &Device) -> Result<[u64; 2]> {
    let status = device.status()?;
    let pid = |name: &str| {
        let pid = container(&status, name).and_then(|entry| entry.get("pid"));
        pid.and_then(Value::as_u64)
            .with_context(|| format!("the container {name} does not run: {status}"))
    };
    Ok([pid(SERVERS[0].0)?, pid(SERVERS[1].0)?])
}

/// Does something while both servers are asked; every client's last request was answered.
fn watched(ports: [u16; 2], what: impl FnOnce() -> Result<()>) -> Result<[Vec<Answer>; 2]> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = ports.map(|port| {
            let stop = &stop;
            scope.spawn(move || ask(port, stop))
        });
        let done = what();
        stop.store(true, Ordering::Relaxed);
        let [first, second] = clients.map(|client| {
            let seen = client.join().map_err(|_| anyhow!("a client panicked"))?;
            seen.context("a server is silent after the trial")
        });
        done?;
        Ok([first?, second?])
    })
}

/// Asks until it is told to stop and was answered; none if that takes too long.
fn ask(port: u16, stop: &AtomicBool) -> Option<Vec<Answer>> {
    let start = Instant::now();
    let mut stopped: Option<Instant> = None;
    let mut answers = Vec::new();
    loop {
        let good = matches!(fetch(port, "GET", "/"), Ok((200, _)));
        let at = start.elapsed();
        answers.push(Answer { at, good });
        if stop.load(Ordering::Relaxed) {
            let since = *stopped.get_or_insert_with(Instant::now);
            if good {
                return Some(answers);
            }
            if since.elapsed() > SILENCE {
                return None;
            }
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Value;
    use super::*;

    fn answers(list: &[(u64, bool)]) -> Vec<Answer> {
        let answer = |(at, good): &(u64, bool)| Answer {
            at: Duration::from_millis(*at),
            good: *good,
        };
        list.iter().map(answer).collect()
    }

    #[test]
    fn an_unchanged_server_must_be_the_same_and_answer() {
        let late = answers(&[(0, true), (10, true), (20, true), (70, true)]);
        let broken = answers(&[(0, true), (10, true), (20, true), (30, false), (55, true)]);
        let value = |unchanged: &[Answer], pid: u64| {
            let seen = [unchanged.to_vec(), broken.clone()];
            let figures = figures(&seen, [7, 8], [pid, 9], 40).unwrap();
            assert_eq!(figures[1].value, Value::Time(25.0));
            assert_eq!(figures[2], Figure::seconds("trial.live-verdict", 40));
            (figures[0].value, figures[0].holds())
        };
        assert_eq!(value(&late, 7), (Value::Time(0.0), Some(true)));
        assert_eq!(value(&late, 10), (Value::Time(40.0), Some(false)));
        assert_eq!(value(&broken, 7), (Value::Time(25.0), Some(false)));
        let steady = answers(&[(0, true), (10, true), (20, true)]);
        assert_eq!(value(&steady, 10), (Value::Time(1.0), Some(false)));
        figures(&[late, broken], [7, 8], [7, 8], 0).unwrap_err();
    }

    /// Answers one request, read to its end: a connection that is closed before is reset, and the answer is lost.
    fn answer(stream: &std::net::TcpStream) {
        stream.set_nonblocking(false).unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stream));
        let ends = |line: &std::io::Result<String>| line.as_ref().map_or(true, String::is_empty);
        if lines.into_iter().any(|line| ends(&line)) {
            std::io::Write::write_all(&mut (&*stream), b"HTTP/1.0 200 OK\r\n\r\nok\n").ok();
        }
    }

    #[test]
    fn a_client_sees_a_server_go() {
        let port = free_port().unwrap();
        let stop = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            let client = scope.spawn(|| ask(port, &stop));
            thread::sleep(Duration::from_millis(50));
            let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            stop.store(true, Ordering::Relaxed);
            // A request that was begun while nobody listened may come to nothing; the client asks again.
            while !client.is_finished() {
                if let Ok((stream, _)) = listener.accept() {
                    answer(&stream);
                }
                thread::sleep(Duration::from_millis(1));
            }
            client.join().unwrap()
        });
        let seen = seen.unwrap();
        assert!(gaps::failures(&seen) > 0);
        assert!(seen.last().unwrap().good);
    }
}
