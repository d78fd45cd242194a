//! The filter of system calls, loaded; and its listener, handed to whoever answers for it.
//!
//! Source: runtime specification, `config-linux.md`, "The Container Process State".

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use kedge_oci_seccomp::Compiled;
use kedge_sys::seccomp;
use kedge_sys::sock::{self, Kind};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

use crate::config::Seccomp;
use crate::state::{Saved, Status, VERSION};

/// The calls by which a listener is handed on: a process that had to ask for them would wait for itself.
const HANDING_ON: [&str; 2] = ["sendmsg", "close"];

/// Compiles a configuration.
///
/// # Errors
/// What is wrong with it; a listener that could never be handed on.
pub(crate) fn compile(seccomp: &Seccomp) -> Result<Compiled> {
    check(&seccomp.rules)?;
    let mut compiled = kedge_oci_seccomp::compile(&seccomp.rules).context("linux.seccomp")?;
    compiled.options.killable_wait = seccomp.killable_wait;
    Ok(compiled)
}

/// Refuses a configuration whose listener could never be handed on.
fn check(configuration: &LinuxSeccomp) -> Result<()> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    ensure!(
        configuration.default_action() != notify,
        "linux.seccomp.defaultAction: with SCMP_ACT_NOTIFY for all calls, nobody could hand on the listener"
    );
    for rule in configuration.syscalls().iter().flatten() {
        let name = rule
            .names()
            .iter()
            .find(|name| HANDING_ON.contains(&name.as_str()));
        if let Some(name) = name.filter(|_| rule.action() == notify) {
            anyhow::bail!(
                "linux.seccomp.syscalls: with SCMP_ACT_NOTIFY for {name}, nobody could hand on the listener"
            );
        }
    }
    Ok(())
}

/// A filter, with whoever answers for it.
#[derive(Debug)]
pub(crate) struct Filter<'a> {
    compiled: &'a Compiled,
    /// A connection to the listener's place.
    listener: Option<OwnedFd>,
    /// What is said there of the container.
    saved: &'a Saved,
    /// The process that loads it; it is known only when that is there.
    process: Cell<i32>,
}

impl<'a> Filter<'a> {
    /// Connects to the place where a listener is to be sent, which is outside of the container.
    ///
    /// # Errors
    /// Nobody is there.
    pub(crate) fn connect(compiled: &'a Compiled, saved: &'a Saved) -> Result<Self> {
        let listener = match &compiled.listener_path {
            Some(path) if compiled.needs_listener => {
                let socket = sock::connect(path, Kind::Stream);
                let what = || format!("linux.seccomp.listenerPath {}", path.display());
                Some(socket.with_context(what)?)
            }
            _ => None,
        };
        Ok(Self {
            compiled,
            listener,
            saved,
            process: Cell::new(0),
        })
    }

    /// The connection, for whoever closes all others.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Says which process loads it, by its number outside.
    pub(crate) fn of_process(&self, number: i32) {
        self.process.set(number);
    }

    /// What a listener is told.
    fn said(&self) -> Result<Vec<u8>> {
        let process = self.process.get();
        // The first process's own filter is loaded before its number is written down.
        let pid = if self.saved.pid == 0 {
            process
        } else {
            self.saved.pid
        };
        let saved = Saved {
            pid,
            ..self.saved.clone()
        };
        let said = serde_json::json!({
            "ociVersion": VERSION,
            "fds": ["seccompFd"],
            "pid": process,
            "metadata": self.compiled.listener_metadata,
            "state": saved.told(Status::Created),
        });
        Ok(serde_json::to_vec(&said)?)
    }

    /// Loads it, for this process and for what it executes.
    ///
    /// # Errors
    /// The kernel does not take it; nobody takes the listener.
    pub(crate) fn load(&self) -> Result<()> {
        let (code, options) = (&self.compiled.code, self.compiled.options);
        let Some(socket) = &self.listener else {
            return seccomp::load(code, options).context("linux.seccomp");
        };
        let said = self.said()?;
        let listener = seccomp::load_with_listener(code, options).context("linux.seccomp")?;
        let sent = sock::send(socket, &said, &[listener.as_fd()]);
        sent.map(drop)
            .context("linux.seccomp.listenerPath: nobody takes the listener")
    }
}
