//! The device binary: PID 1, its helpers and `ctl`, told apart by the name they are called by.
//!
//! | module | does |
//! |---|---|
//! | [`boot`] | the phases from the kernel's `exec` to the first container |
//! | [`machine`] | decides: containers, groups, goals, restarts, shutdown; pure |
//! | [`devices`] | decides: which device goes to which container |
//! | [`driver`] | performs: one thread, one epoll |
//! | [`judge`] | decides: the verdict of a trial; pure |
//! | [`condition`] | decides: the state of the device in a word, for a LED and the console; pure |
//! | [`control`] | the control API, without I/O |
//! | [`ctl`] | its client |
//! | [`evidence`] | why the last run ended |
//! | [`lock`] | decides: whether containers hold updates back; pure |
//! | [`history`] | what happened to the device, until the disk helper has kept it |
//! | [`log`] | the bounded ring of what containers and kernel say |
//! | [`helpers`] | processes that may block: `disk`, `net`, `stage`, `agent`, `stick` |
//! | [`last_resort`] | the end when nothing else is left |
//!
//! What is not here: networking, TLS and regular expressions in PID 1's path; TOML; unpacking of
//! archives; any `unsafe` code.

pub mod boot;
pub mod condition;
pub mod control;
pub mod ctl;
pub mod devices;
pub mod driver;
pub mod error;
pub mod evidence;
mod few;
pub mod helpers;
pub mod history;
pub mod judge;
pub mod last_resort;
pub mod lock;
pub mod log;
pub mod machine;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

/// Becomes what the binary was called as: PID 1 if it is that, else `disk`, `net`, `stage`, `agent`, `stick` or `ctl`.
#[must_use]
pub fn run() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called).file_name().map(OsString::from);
    let name = name.as_deref().and_then(|name| name.to_str());
    if std::process::id() == 1 && !matches!(name, Some("ctl")) {
        driver::run();
    }
    let socket = std::io::stdin();
    #[cfg(feature = "agent")]
    if name == Some("agent") {
        return told(helpers::agent::run(socket.as_fd()));
    }
    told(match name {
        Some("disk") => helpers::disk::run(socket.as_fd(), Path::new(helpers::disk::DIRECTORY)),
        Some("net") => helpers::net::run(socket.as_fd(), Path::new(driver::RESOLV_CONF)),
        Some("stage") => helpers::stage::run(socket.as_fd(), Path::new(boot::DATA)),
        Some("stick") => helpers::stick::run(socket.as_fd()),
        Some("ctl") => return ctl::run(arguments),
        _ if arguments.next().is_some_and(|word| word == "ctl") => return ctl::run(arguments),
        _ => {
            use std::io::Write;
            let text = b"init: this is PID 1 of Kedge; init ctl --help tells what else it does\n";
            std::io::stderr().write_all(text).ok();
            return ExitCode::from(2);
        }
    })
}

/// The exit status of a helper; why it ended goes to standard error, which nobody reads but a person who starts it by hand.
fn told<E: core::fmt::Display>(ended: Result<(), E>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            writeln!(std::io::stderr(), "kedge: {error}").ok();
            ExitCode::FAILURE
        }
    }
}
