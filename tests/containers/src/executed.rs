//! What is executed in a container that runs: such commands end by themselves, and by any signal.

use crate::{exit_code, facts, linger, loads, pause, say};
use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Runs the command of that name; `None`: it is none of these.
pub(crate) fn run(name: &str, number: u64) -> Option<ExitCode> {
    match name {
        "end" => {
            say("ended");
            return Some(exit_code(number));
        }
        "end-slowly" => pause(600_000),
        "look" => facts::all()
            .iter()
            .for_each(|(name, value)| say(&format!("fact {name} {value}"))),
        "apart" => return Some(facts::apart()),
        "copy" => copy(),
        "descriptors" => descriptors(),
        "terminal" => terminal(),
        "beside" => beside(),
        "said" => said(),
        "snoop" => snoop(Duration::from_secs(number)),
        "spin" => loads::spin(number),
        "swell" => loads::swell(number),
        "gather" => drop(loads::gather(number)),
        "hoard" => {
            let held = loads::gather(number);
            pause(60_000);
            drop(held);
        }
        "write" => loads::write(&folder(), number),
        "read-disk" => loads::read(&folder(), number),
        "seek" => loads::seek(&folder(), number),
        "sync" => loads::sync(&folder(), number),
        "show" => std::env::args().skip(2).for_each(|path| show(&path)),
        "bomb" => loads::bomb(number),
        "stuff" => loads::stuff("/sized", number),
        "give" => linger::give(),
        "background" => background(),
        "multiply" => loads::multiply(number),
        "unbind" => std::env::args().skip(2).for_each(|path| unbind(&path)),
        "room" => std::env::args().skip(2).for_each(|path| room(&path)),
        "fill" => std::env::args().skip(2).for_each(|path| fill(&path)),
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
}

/// The folder behind a number.
fn folder() -> String {
    std::env::args().nth(3).unwrap_or_default()
}

/// What is in a file, a line each: `FILE LINE`.
fn show(path: &str) {
    match std::fs::read_to_string(path) {
        Ok(text) => text.lines().for_each(|line| say(&format!("{path} {line}"))),
        Err(error) => say(&format!("{path} error {error}")),
    }
}

/// Starts one that it waits for, and which waits for long.
fn background() {
    let waited = Command::new("/proc/self/exe").arg("end-slowly").status();
    say(&format!("waited: {waited:?}"));
}

/// Where a command has its output that goes on beside others.
const SAID: &str = "/dev/shm/said";

/// Starts itself with the other words, to go on when this one has ended: a device's control port has one client at a time.
fn beside() {
    let started = std::fs::File::create(SAID).and_then(|output| {
        Command::new("/proc/self/exe")
            .args(std::env::args().skip(2))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
    });
    match started {
        Ok(_) => say("started"),
        Err(error) => say(&format!("not started: {error}")),
    }
}

/// What it has said.
fn said() {
    match std::fs::read_to_string(SAID) {
        Ok(text) => say(text.trim_end()),
        Err(error) => say(&format!("nothing: {error}")),
    }
}

fn copy() {
    let copied = io::copy(&mut io::stdin().lock(), &mut io::stdout().lock());
    let text = copied.map_or_else(|error| error.to_string(), |count| count.to_string());
    writeln!(io::stderr(), "copied {text}").ok();
}

/// Tries to leave the project of a folder, and to raise its limits: `unbind PATH ERRNO ERRNO`, 0 where it may.
fn unbind(folder: &str) {
    let asked = std::fs::File::open(folder).map(|folder| {
        let code = |result: Result<(), kedge_sys::Error>| {
            result.map_or_else(|error| error.errno.raw_os_error(), |()| 0)
        };
        let project = code(kedge_sys::ext4::set_project(&folder, 7));
        (project, code(kedge_sys::ext4::set_quota(&folder, 7, 0, 0)))
    });
    match asked {
        Ok((project, quota)) => say(&format!("unbind {folder} {project} {quota}")),
        Err(error) => say(&format!("unbind {folder} error {error}")),
    }
}

/// What may be in a folder, as it is told there: `room PATH BYTES FILES`.
fn room(folder: &str) {
    match rustix::fs::statvfs(folder) {
        Ok(room) => {
            let bytes = room.f_blocks.saturating_mul(room.f_frsize);
            say(&format!("room {folder} {bytes} {}", room.f_files));
        }
        Err(error) => say(&format!("no room {folder}: {error}")),
    }
}

/// Writes into a folder until it is refused, and takes away again what it wrote:
/// `filled PATH BYTES refused ERRNO`, `files PATH COUNT refused ERRNO`.
fn fill(folder: &str) {
    const MOST_BYTES: u64 = 8 << 20;
    const MOST_FILES: u32 = 3000;
    let code = |error: io::Error| error.raw_os_error().unwrap_or(0);
    let large = format!("{folder}/large");
    let mut bytes = 0_u64;
    let filled = std::fs::File::create(&large).and_then(|mut file| {
        while bytes < MOST_BYTES {
            let written = file.write(&[b'x'; 16 << 10])?;
            bytes = bytes.saturating_add(u64::try_from(written).unwrap_or(0));
        }
        Ok(())
    });
    say(&format!(
        "filled {folder} {bytes} refused {}",
        filled.err().map_or(0, code)
    ));
    std::fs::remove_file(&large).ok();
    let name = |number: u32| format!("{folder}/{number}");
    let mut files = 0_u32;
    let refused = loop {
        match std::fs::File::create(name(files)) {
            Ok(_) if files < MOST_FILES => files = files.saturating_add(1),
            Ok(_) => break 0,
            Err(error) => break code(error),
        }
    };
    say(&format!("files {folder} {files} refused {refused}"));
    (0..=files).for_each(|number| drop(std::fs::remove_file(name(number))));
}

/// The numbers of all descriptors but that of the look itself.
fn descriptors() {
    let folder = std::fs::read_dir("/proc/self/fd");
    let names = folder.into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = names
        .filter(|entry| {
            let own = format!("/proc/{}/fd", std::process::id());
            std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy() != own)
        })
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    numbers.sort_unstable();
    let words: Vec<String> = numbers.iter().map(u32::to_string).collect();
    say(&words.join(" "));
}

/// Looks for so long into all processes that come and go here, and tries to write to their programs (CVE-2019-5736): one
/// that is not yet the program is still the device's. `snooped PROCESSES`, or before that `leak WHAT`.
fn snoop(long: Duration) {
    let begun = Instant::now();
    let own = std::process::id();
    let mut met = BTreeSet::new();
    while begun.elapsed() < long {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for number in numbers.filter(|number| *number != own) {
            if let Some(leak) = look_into(number) {
                say(&format!("leak {number} {leak}"));
            }
            met.insert(number);
        }
    }
    say(&format!("snooped {}", met.len()));
}

/// What a process shows that is none of the container's; the kernel asks the same question as before it is traced.
fn look_into(number: u32) -> Option<String> {
    let place = format!("/proc/{number}");
    let link = |name: &str| std::fs::read_link(format!("{place}/{name}"));
    if std::fs::File::options()
        .write(true)
        .open(format!("{place}/exe"))
        .is_ok()
    {
        return Some("its program can be written to".to_owned());
    }
    let known = ["/probe", "/probe (deleted)"];
    let program = link("exe").ok()?.to_string_lossy().into_owned();
    if !known.contains(&program.as_str()) {
        return Some(format!("runs {program}"));
    }
    let root = |path: &str| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    if root(&format!("{place}/root/")).is_some_and(|theirs| Some(theirs) != root("/")) {
        return Some("has another root".to_owned());
    }
    let files = std::fs::read_dir(format!("{place}/fd")).ok()?;
    let mut links = files
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    // Of the container's own there are pipes, terminals, the first process's signals, and what another look has open.
    let own = ["pipe:", "/dev/", "anon_inode:", "/proc"];
    let strange = links.find(|to| !own.iter().any(|own| to.to_string_lossy().starts_with(own)));
    strange.map(|to| format!("has open {}", to.display()))
}

/// Its terminal's size and name, now and with each line that is typed.
fn terminal() {
    let tell = || {
        let size = rustix::termios::tcgetwinsize(io::stdin());
        let name = std::fs::read_link("/proc/self/fd/0").unwrap_or_default();
        match size {
            Ok(size) => say(&format!(
                "terminal {} {} {}",
                size.ws_row,
                size.ws_col,
                name.display()
            )),
            Err(errno) => say(&format!("no terminal: {errno}")),
        }
    };
    tell();
    io::stdin().lock().lines().for_each(|_| tell());
}
