//! The program in the containers of the tests: one static binary, told by its first argument what to be.
//!
//! It says what it sees and what it is refused ([`facts`]), misbehaves on request, and answers over HTTP ([`serve`]).
//! It never decides whether what it sees is right: that is the tests' work, on the host.

mod bridge;
mod escapes;
mod executed;
mod facts;
mod linger;
mod loads;
mod modules;
mod serve;
mod waits;

use kedge_sys::watchdog::Watchdog;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// One line for the device's log.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    // A reader that is gone is none of our business: the process goes on.
    out.write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .ok();
}

/// A number among the arguments; zero if it is absent or none.
fn number(arguments: &[String], index: usize) -> u64 {
    arguments
        .get(index)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

fn main() -> ExitCode {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let first = arguments.first().map_or("", String::as_str);
    if let Some(code) = executed::run(first, number(&arguments, 1)) {
        return code;
    }
    waits::block_all();
    match first {
        "sleep" => say("sleeping"),
        "clock" => say(&format!("clock {}.{:09}", clock.tv_sec, clock.tv_nsec)),
        "finish" => {
            say("finished");
            return exit_code(number(&arguments, 1));
        }
        "crash" => {
            // What nanoseconds are counted in differs between processors.
            let nanoseconds = u32::try_from(clock.tv_nsec).unwrap_or(0);
            let milliseconds = clock.tv_sec * 1000 + i64::from(nanoseconds / 1_000_000);
            say(&format!("starting at {milliseconds} ms"));
            pause(number(&arguments, 1));
            return exit_code(number(&arguments, 2));
        }
        "notify" => notify(number(&arguments, 1)),
        "facts" => facts::all()
            .iter()
            .for_each(|(name, value)| say(&format!("fact {name} {value}"))),
        "volumes" => arguments.iter().skip(1).for_each(|path| count(path)),
        "hold" => {
            let folder = arguments.get(2).map_or("", String::as_str);
            loads::hold(folder, number(&arguments, 1));
        }
        "listen" => listen(number(&arguments, 1), number(&arguments, 2)),
        "hog" => arguments.iter().skip(1).for_each(|path| loads::hog(path)),
        "reverse" => arguments.iter().skip(1).for_each(|path| reverse(path)),
        "reach" => {
            let patience = Duration::from_secs(number(&arguments, 1));
            arguments
                .iter()
                .skip(2)
                .for_each(|place| reach(place, patience));
        }
        "read" => arguments.iter().skip(1).for_each(|path| read(path)),
        "open" => return open(&arguments),
        "eat" => eat(),
        "threads" => threads(),
        "stubborn" => waits::stubborn(),
        "hang" => hang(),
        "leave" => return leave(),
        "lock" => lock(number(&arguments, 1)),
        "polite" => return polite(&arguments),
        "bridge" => return bridge::run(number(&arguments, 1)),
        "serve" => return serve::run(number(&arguments, 1)),
        other => {
            say(&format!("unknown: {other}"));
            return ExitCode::from(64);
        }
    }
    waits::for_stop()
}

fn exit_code(code: u64) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// `READY=1` after a while, as sd_notify(3) has it.
fn notify(milliseconds: u64) {
    pause(milliseconds);
    let sent = std::env::var("NOTIFY_SOCKET")
        .map_err(|_| io::Error::other("NOTIFY_SOCKET is not set"))
        .and_then(|path| UnixDatagram::unbound()?.send_to(b"READY=1", path));
    match sent {
        Ok(_) => say("said READY=1"),
        Err(error) => say(&format!("cannot say READY=1: {error}")),
    }
}

/// Holds updates back for so many seconds, as a program does that is at work: `lock STATUS BODY`.
fn lock(seconds: u64) {
    let asked = || -> io::Result<String> {
        let path = std::env::var("KEDGE_CONTROL").map_err(io::Error::other)?;
        let mut stream = UnixStream::connect(path)?;
        write!(
            stream,
            "POST /v1/update/lock?seconds={seconds} HTTP/1.1\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        let body = answer.rsplit("\r\n").next().unwrap_or_default();
        Ok(format!("lock {status} {body}"))
    };
    match asked() {
        Ok(text) => say(&text),
        Err(error) => say(&format!("lock error {error}")),
    }
}

/// Connects to `HOST:PORT` within a time: `reach PLACE yes` or `reach PLACE no`.
fn reach(place: &str, patience: Duration) {
    let until = Instant::now() + patience;
    let connects = || -> io::Result<TcpStream> {
        let mut addresses = place.to_socket_addrs()?;
        let address = addresses.next().ok_or(io::ErrorKind::NotFound)?;
        TcpStream::connect_timeout(&address, Duration::from_secs(1))
    };
    let mut reached = connects().is_ok();
    while !reached && Instant::now() < until {
        pause(200);
        reached = connects().is_ok();
    }
    say(&format!(
        "reach {place} {}",
        if reached { "yes" } else { "no" }
    ));
}

/// Listens on a port for so many milliseconds, and is deaf from then on.
fn listen(port: u64, milliseconds: u64) {
    match TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap_or(0))) {
        Ok(listener) => {
            say("listening");
            pause(milliseconds);
            drop(listener);
            say("deaf");
        }
        Err(error) => say(&format!("cannot listen: {error}")),
    }
}

/// Counts the starts in a volume and says the number: `volume PATH N`.
fn count(folder: &str) {
    let path = format!("{folder}/starts");
    let before: u64 = fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let now = before + 1;
    let written = fs::File::create(&path).and_then(|mut file| {
        file.write_all(now.to_string().as_bytes())?;
        file.sync_all()
    });
    match written {
        Ok(()) => say(&format!("volume {folder} {now}")),
        Err(error) => say(&format!("volume {folder} error {error}")),
    }
}

/// Reads a file to its end: `read PATH ok BYTES` or `read PATH error ERRNO`.
fn read(path: &str) {
    match fs::read(path) {
        Ok(bytes) => say(&format!("read {path} ok {}", bytes.len())),
        Err(error) => say(&format!(
            "read {path} error {}",
            error.raw_os_error().unwrap_or(0)
        )),
    }
}

/// Opens a device for `r`, `w` or `rw`: `open PATH MODE ok` and how it begins where it was for reading, or
/// `open PATH MODE error ERRNO`.
fn open(arguments: &[String]) -> ExitCode {
    let argument = |index| arguments.get(index).map_or("", String::as_str);
    let (path, mode) = (argument(1), argument(2));
    let opened = fs::File::options()
        .read(mode.contains('r'))
        .write(mode.contains('w'))
        .open(path)
        .and_then(|mut file| {
            let mut begin = [0; 16];
            if mode == "r" {
                file.read_exact(&mut begin)?;
            }
            Ok(begin)
        });
    match opened {
        Ok(begin) => {
            let begin = String::from_utf8_lossy(&begin).replace(char::is_control, "");
            say(&format!("open {path} {mode} ok {begin}"));
        }
        Err(error) => say(&format!(
            "open {path} {mode} error {}",
            error.raw_os_error().unwrap_or(0)
        )),
    }
    ExitCode::SUCCESS
}

/// What a file holds, backwards, so that its words are in no log: `reverse PATH TEXT`.
fn reverse(path: &str) {
    match fs::read_to_string(path) {
        Ok(text) => say(&format!(
            "reverse {path} {}",
            text.chars().rev().collect::<String>()
        )),
        Err(error) => say(&format!("reverse {path} error {error}")),
    }
}

/// Takes memory until the kernel ends it.
fn eat() {
    say("eating");
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    loop {
        // Written, not only reserved: pages that nobody touched are not counted.
        eaten.push(vec![
            u8::try_from(eaten.len() % 255 + 1).unwrap_or(1);
            1 << 20
        ]);
        pause(5);
    }
}

/// Threads until one is refused: `threads N refused ERRNO`.
fn threads() {
    let mut count = 0_u32;
    loop {
        let started = thread::Builder::new().stack_size(64 * 1024).spawn(|| {
            loop {
                thread::park();
            }
        });
        match started {
            Ok(_) if count < 10_000 => count += 1,
            Ok(_) => return say("threads never refused"),
            Err(error) => {
                return say(&format!(
                    "threads {count} refused {}",
                    error.raw_os_error().unwrap_or(0)
                ));
            }
        }
    }
}

/// As many lines of 100 bytes as fast as they are taken.
fn flood(lines: u64) {
    let mut out = io::stdout().lock();
    for number in 0..lines {
        let text = format!("{number:08} {}\n", "x".repeat(90));
        if out.write_all(text.as_bytes()).is_err() {
            break;
        }
    }
    drop(out);
    say("flood over");
}

/// As `/init` of a machine that hangs: starts the hardware watchdog and does not feed it.
fn hang() {
    use kedge_sys::rustix::mount::{MountFlags, mount};
    let started = || -> io::Result<Watchdog> {
        modules::load()?;
        mount("dev", "/dev", "devtmpfs", MountFlags::empty(), None)?;
        let watchdog = Watchdog::open(Path::new("/dev/watchdog")).map_err(io::Error::other)?;
        watchdog.set_timeout(4).map_err(io::Error::other)?;
        Ok(watchdog)
    };
    match started() {
        Ok(_watchdog) => {
            say("hanging under a watchdog");
            loop {
                thread::park();
            }
        }
        Err(error) => say(&format!("cannot start the watchdog: {error}")),
    }
}

/// As `/init` of a machine: ends once the kernel has its modules, and the kernel panics.
fn leave() -> ExitCode {
    if let Err(error) = modules::load() {
        say(&format!("cannot load modules: {error}"));
    }
    ExitCode::FAILURE
}

/// Waits for the signal of the given number, writes a file, and ends well.
fn polite(arguments: &[String]) -> ExitCode {
    say("waiting politely");
    let got = waits::for_any();
    say(&format!("asked to stop by signal {got}"));
    if let Some(path) = arguments.get(1)
        && let Err(error) =
            fs::File::create(path).and_then(|mut file| file.write_all(got.to_string().as_bytes()))
    {
        say(&format!("cannot write {path}: {error}"));
    }
    ExitCode::SUCCESS
}
