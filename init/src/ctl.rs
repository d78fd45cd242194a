//! The client of the control interface: `ctl`, on the device and on the host.
//!
//! It speaks HTTP/1.1 over a unix socket: PID 1's own, or the one that QEMU makes of the serial port
//! `kedge.control`. On the latter, bytes of an earlier client's answer may still come: an empty line goes
//! first, each request carries an id, and what does not answer it is passed over.

mod apply;
mod arguments;
mod client;
mod earlier;
mod exec;
mod show;
mod tree;

pub(crate) use apply::apply_file;
pub use arguments::{Arguments, Ask, Executed, Logs, USAGE, UsageError};
pub use client::{Body, Client, ClientError};

use crate::control::Action;
use crate::log::LogLine;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Runs `ctl` with the arguments behind its name. Exit codes: 0 done, 1 refused or failed, 2 wrong usage; those of
/// `exec` are its command's, and 125 if that was refused or broke off.
#[inline(never)]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let error = match Arguments::parse(arguments) {
        Ok(Arguments {
            socket,
            ask: Ask::Exec(asked),
        }) => {
            drop(out);
            match execute(&socket, &asked) {
                Ok((code, sentence)) if sentence.is_empty() => return ExitCode::from(code),
                Ok((code, sentence)) => (sentence, code),
                Err(error) => (error.to_string(), 125),
            }
        }
        Ok(arguments) => match perform(&arguments, &mut out) {
            // Whoever reads has seen enough, as `ctl logs | head`.
            Err(ClientError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error.to_string(), 1),
        },
        Err(error) => (format!("{error}; ctl --help tells more"), 2),
    };
    // Standard error is all there is to say it on.
    drop(writeln!(std::io::stderr(), "ctl: error: {}", error.0));
    ExitCode::from(error.1)
}

fn execute(socket: &Path, asked: &Executed) -> Result<(u8, String), ClientError> {
    let client = Client::connect(socket)?;
    exec::exec(client, &asked.container, &asked.exec, asked.has_terminal)
}

fn perform(arguments: &Arguments, out: &mut impl Write) -> Result<(), ClientError> {
    let connect = || Client::connect(&arguments.socket);
    let get = |path: &str| {
        let mut body = Vec::new();
        connect()?.request("GET", path, &mut |part| {
            body.extend_from_slice(part);
            Ok(())
        })?;
        Ok(body)
    };
    let post = |path: &str| connect()?.request("POST", path, &mut |_| Ok(()));
    match &arguments.ask {
        Ask::Help => out.write_all(USAGE.as_bytes()).map_err(ClientError::Output),
        // Dealt with before.
        Ask::Exec(_) => Ok(()),
        Ask::Inspect { container, json } => {
            let body = get(&format!("/v1/containers/{container}"))?;
            values(body, *json, out)
        }
        Ask::Top { json } => values(get("/v1/usage")?, *json, out),
        // The host's command has a table of it; here it is a line a value, which takes no code that knows each of them.
        Ask::Status { json } => values(get("/v1/status")?, *json, out),
        Ask::Logs(Logs {
            boot: Some(back),
            source,
            limit,
            ..
        }) => {
            let mut told = earlier::Told::new(source.as_ref(), *limit);
            while let Some(path) = told.path(*back) {
                told.take(&get(&path)?, out)?;
            }
            told.end(out)
        }
        Ask::Logs(asked) => {
            let path = asked.path();
            connect()?.request("GET", &path, &mut |chunk| logs(out, chunk))
        }
        Ask::Apply { file } => apply::apply(&mut connect()?, file, out),
        Ask::Rollback => post("/v1/update/rollback"),
        // JSON has no control characters: it is safe on a terminal as it is.
        Ask::History => connect()?.request("GET", "/v1/history", &mut |part| {
            out.write_all(part).map_err(ClientError::Output)
        }),
        Ask::Container { name, action } => {
            let verb = match action {
                Action::Start => "start",
                Action::Stop => "stop",
                Action::Restart => "restart",
            };
            post(&format!("/v1/containers/{name}/{verb}"))
        }
        Ask::Reboot => post("/v1/reboot"),
        Ask::PowerOff => post("/v1/poweroff"),
    }
}

/// An answer as it came, or a line a value.
fn values(mut body: Vec<u8>, json: bool, out: &mut dyn Write) -> Result<(), ClientError> {
    if !json {
        return tree::tree(out, &body).map_err(ClientError::Output);
    }
    body.push(b'\n');
    out.write_all(&body).map_err(ClientError::Output)
}

/// A chunk holds whole lines.
fn logs(out: &mut impl Write, chunk: &[u8]) -> Result<(), ClientError> {
    for line in chunk.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let line: LogLine<'_> =
            kedge_revision::json::read(line).map_err(|_| ClientError::Protocol("log line"))?;
        show::line(out, &line).map_err(ClientError::Output)?;
    }
    out.flush().map_err(ClientError::Output)
}
