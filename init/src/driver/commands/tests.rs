//! Tests of the relay: real processes, real sockets, no containers.

use super::*;
use crate::control::Call;
use crate::driver::clients::Listener;
use kedge_sys::process::open_pidfd;
use kedge_sys::rustix::net::sockopt::set_socket_linger;
use kedge_sys::sock;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn codes_are_a_shells() {
    let failed = |stage, errno| SpawnError {
        stage,
        errno,
        path: "/x".to_owned(),
    };
    let ended = ExitStatus::Exited(127);
    let killed = ExitStatus::Signaled {
        signal: 9,
        core: false,
    };
    assert_eq!(verdict(ExitStatus::Exited(7), None), (7, String::new()));
    assert_eq!(verdict(killed, None), (137, String::new()));
    for (stage, errno, code, sentence) in [
        (Stage::Execute, Errno::NOENT, 127, "/x is not found"),
        (Stage::Execute, Errno::ACCESS, 126, "/x cannot be run: "),
        (
            Stage::WorkingDirectory,
            Errno::NOENT,
            126,
            "it cannot be run: working directory: /x",
        ),
    ] {
        let (given, text) = verdict(ended, Some(&failed(stage, errno)));
        assert_eq!(given, code);
        assert!(text.starts_with(sentence), "{text}");
    }
}

/// PID 1's side of one client and one command.
struct Scene {
    clients: Clients,
    poller: Poller,
    session: Session,
    /// How often it was woken.
    woken: u32,
    _folder: tempfile::TempDir,
}

const CLIENT: ClientId = ClientId::Slot(0);

/// A process as the engine would have started it: it leads a group, and it was executed.
#[allow(clippy::zombie_processes, reason = "the session reaps it")]
fn spawned(script: &str) -> Spawned {
    // Who runs the tests may ignore hang-ups (nohup(1)), and would hand that down.
    let mut child = std::process::Command::new("env")
        .args(["--default-signal=HUP", "sh", "-c", script])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let (report, _) = sock::pair(sock::Kind::Messages).unwrap();
    Spawned {
        pid,
        pidfd: open_pidfd(pid).unwrap(),
        report,
        stdin: child.stdin.take().map(OwnedFd::from),
        stdout: child.stdout.take().unwrap().into(),
        stderr: child.stderr.take().unwrap().into(),
    }
}

impl Scene {
    fn new(script: &str) -> (Self, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let poller = Poller::new().unwrap();
        let listener = Listener::bind(&path, Role::Operate, 0o600).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        let mut clients = Clients::default();
        clients.accept(0, &listener, &poller);
        let body = r#"{"arguments":["x"],"input":true}"#;
        let length = body.len();
        let asked = format!(
            "POST /v1/containers/web/exec HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(asked.as_bytes()).unwrap();
        let ready = Ready {
            input: true,
            ..Ready::default()
        };
        let call = clients.take(CLIENT, ready);
        assert!(matches!(call, Some(Call::Exec { .. })), "{call:?}");
        clients.connection(CLIENT).unwrap().begin_exec();
        clients.settle(CLIENT, &poller);
        let generation = clients.generation(CLIENT).unwrap();
        let session = Session::new((CLIENT, generation), spawned(script), false);
        session.watch(&poller);
        let scene = Self {
            clients,
            poller,
            session,
            woken: 0,
            _folder: folder,
        };
        (scene, stream)
    }

    /// Turns as the driver does, until it is over or `done`; milliseconds are those since the beginning.
    fn turn_until(&mut self, mut done: impl FnMut(&Self) -> bool) -> bool {
        let begun = Instant::now();
        loop {
            let now = u64::try_from(begun.elapsed().as_millis()).unwrap();
            assert!(now < 30_000, "it takes too long: {:?}", self.session);
            if !self.session.turn(&mut self.clients, &self.poller, now) {
                self.clients.settle(CLIENT, &self.poller);
                return true;
            }
            if done(self) {
                return false;
            }
            if self.session.again || self.session.kill_at.is_some() {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let mut events = Vec::new();
            self.poller.wait(&mut events).unwrap();
            self.woken += 1;
            for (token, ready) in events {
                if token == Token::Client(0) {
                    assert!(self.clients.take(CLIENT, ready).is_none());
                    self.clients.settle(CLIENT, &self.poller);
                    if ready.hung_up {
                        self.clients.hung_up(CLIENT, &self.poller);
                    }
                }
            }
        }
    }
}

/// Everything of one kind that came, and the rest of the last frame.
fn frames(answer: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let head = b"\r\n\r\n";
    let at = answer.windows(4).position(|some| some == head).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    let (mut output, mut errors, mut exit) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = &answer[at + head.len()..];
    while let [kind, high, low, more @ ..] = rest {
        let (frame, next) = more.split_at(u16::from_be_bytes([*high, *low]).into());
        match kind {
            b'o' => output.extend_from_slice(frame),
            b'e' => errors.extend_from_slice(frame),
            b'x' => exit = frame.to_vec(),
            other => panic!("a frame {other}"),
        }
        rest = next;
    }
    (output, errors, exit)
}

#[test]
fn much_goes_through_both_ways_and_nothing_is_lost_at_the_end() {
    let (mut scene, stream) = Scene::new("cat; echo over >&2; exit 7");
    let much: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = much.clone();
    let writing = std::thread::spawn(move || {
        for piece in sent.chunks(5000) {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            writer
                .write_all(&[&b"i"[..], &length, piece].concat())
                .unwrap();
        }
        writer.write_all(b"i\0\0").unwrap();
    });
    let mut reader = stream;
    let reading = std::thread::spawn(move || {
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).unwrap();
        answer
    });
    assert!(scene.turn_until(|_| false));
    drop(scene);
    writing.join().unwrap();
    let (output, errors, exit) = frames(&reading.join().unwrap());
    assert!(output == much, "{} bytes came back", output.len());
    assert_eq!((errors, exit), (b"over\n".to_vec(), vec![7]));
}

#[test]
fn a_command_that_reads_nothing_holds_nobody() {
    let (mut scene, stream) = Scene::new("exec <&-; sleep 1; echo done");
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        // Whoever has ended takes no more.
        while writer
            .write_all(&[&b"i\x10\0"[..], &[b'x'; 4096]].concat())
            .is_ok()
        {}
    });
    let mut reader = stream;
    let reading = std::thread::spawn(move || {
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).ok();
        answer
    });
    assert!(scene.turn_until(|_| false));
    drop(scene);
    writing.join().unwrap();
    let (output, _, exit) = frames(&reading.join().unwrap());
    assert_eq!((output, exit), (b"done\n".to_vec(), vec![0]));
}

#[test]
fn a_side_that_has_gone_wakes_nobody_again_and_again() {
    // Input that nobody will read, of a client that sends none; and output that a client does not take, of a command that ended.
    for script in ["exec <&-; sleep 1", "head -c 900000 /dev/zero & sleep 1"] {
        let (mut scene, stream) = Scene::new(script);
        let until = Instant::now() + Duration::from_secs(2);
        let ender = std::thread::spawn(move || {
            std::thread::sleep(until - Instant::now());
            drop(stream);
        });
        scene.turn_until(|_| false);
        ender.join().unwrap();
        assert!(scene.woken < 200, "{script}: woken {} times", scene.woken);
    }
}

#[test]
fn a_command_ends_with_its_client_whether_it_wants_or_not() {
    for (script, signal, least) in [
        ("echo ready; sleep 60", Signal::HUP, 0),
        (
            "trap '' HUP; echo ready; sleep 60; sleep 60",
            Signal::KILL,
            5,
        ),
    ] {
        let (mut scene, mut stream) = Scene::new(script);
        stream.set_nonblocking(true).unwrap();
        let mut answer = Vec::new();
        let over = scene.turn_until(|_| {
            stream.read_to_end(&mut answer).ok();
            answer.ends_with(b"ready\n")
        });
        assert!(!over);
        let begun = Instant::now();
        drop(stream);
        assert!(scene.turn_until(|_| false));
        let ended = scene.session.ended;
        let by = signal.as_raw();
        assert!(matches!(ended, Some(ExitStatus::Signaled { signal, .. }) if signal == by));
        let took = begun.elapsed().as_secs();
        assert!((least..least + 5).contains(&took), "{script}: {took} s");
    }
}

#[test]
fn a_client_that_closes_its_half_is_let_go() {
    let (mut scene, mut stream) = Scene::new("sleep 60");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(scene.turn_until(|_| false));
    let mut answer = Vec::new();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.read_to_end(&mut answer).unwrap();
    assert!(matches!(
        scene.session.ended,
        Some(ExitStatus::Signaled { .. })
    ));
}

#[test]
fn a_client_that_speaks_of_something_else_ends_its_command() {
    let (mut scene, mut stream) = Scene::new("sleep 60");
    stream
        .write_all(b"GET /v1/status HTTP/1.1\r\n\r\n")
        .unwrap();
    assert!(scene.turn_until(|_| false));
    assert!(matches!(
        scene.session.ended,
        Some(ExitStatus::Signaled { .. })
    ));
}

/// How long the closing of a stand-in takes.
const SLOW: Duration = Duration::from_secs(4);

/// Stands for a terminal that is slow to hang up: a connection with data that its peer, which is given, too, does not take.
fn slow_to_close() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    // What the peer's buffer takes a moment later must not empty ours: full is what stays full.
    let mut full = 0;
    while full < 3 {
        full += 1;
        if stream.write(&[0; 65536]).is_ok() {
            full = 0;
        } else {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    set_socket_linger(&stream, Some(SLOW)).unwrap();
    (stream.into(), peer)
}

#[test]
fn nobody_waits_for_a_terminal_that_is_slow_to_hang_up() {
    for ends in [true, false] {
        let (mut scene, _stream) = Scene::new("exit 0");
        let (terminal, _peer) = slow_to_close();
        scene.session.has_terminal = true;
        scene.session.output = Some(terminal);
        let begun = Instant::now();
        if ends {
            scene.session.hang_up(&scene.poller, 0);
            assert!(scene.session.output.is_none());
        }
        drop(scene);
        assert!(begun.elapsed() < SLOW / 2, "{ends}");
    }
}

#[test]
fn nor_for_one_that_comes_after_its_client_has_gone() {
    let (mut scene, _stream) = Scene::new("exit 0");
    let (terminal, _peer) = slow_to_close();
    let (ours, childs) = sock::pair(sock::Kind::Messages).unwrap();
    sock::send(&childs, b"t", &[terminal.as_fd()]).unwrap();
    drop(terminal);
    scene.session.report = Some(ours);
    scene.session.client = None;
    scene.session.output = None;
    let begun = Instant::now();
    scene.session.hear(&scene.poller);
    assert!(begun.elapsed() < SLOW / 2 && scene.session.output.is_none());
}
