//! What is executed in a container that runs: such commands end by themselves, and by any signal.

use crate::{exit_code, facts, pause, say};
use std::io::{self, BufRead, Write};
use std::process::ExitCode;

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
        "unbind" => std::env::args().skip(2).for_each(|path| unbind(&path)),
        "fill" => std::env::args().skip(2).for_each(|path| fill(&path)),
        _ => return None,
    }
    Some(ExitCode::SUCCESS)
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
