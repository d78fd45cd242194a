//! Starting a container: the parent's side. The only fork of containers.
//!
//! ```text
//! parent                                  child
//! cgroup, pipes, socket pair
//! clone3 ───────────────────────────────▶ waits for the message
//! id maps, limits, mounts ── message ───▶ mounts, pivot, identity, confinement
//! returns                    ◀─ report ── only if something fails; else the exec closes the socket
//! ```
//! The parent never waits for the child: what becomes of it arrives on descriptors of [`Spawned`]. A child in a pool waits
//! for its interface before it goes on, which somebody else has to put into its namespace: [`crate::INTERFACE`].

use std::os::fd::{AsFd, OwnedFd};

use kedge_sys::Errno;
use kedge_sys::clone::{self, Child, Namespaces};
use kedge_sys::process::{Pid, Resource, Rlimit, Signal, prlimit, send_signal, wait_pidfd};
use kedge_sys::rustix::fs::{Gid, Mode, OFlags, Uid, fchown, openat};
use kedge_sys::rustix::path::DecInt;
use kedge_sys::rustix::pipe::{PipeFlags, pipe_with};
use kedge_sys::sock::{Kind, pair};

use crate::cgroup::write_file;
use crate::child;
use crate::engine::Engine;
use crate::exec::Input;
use crate::plan::{Plan, UserPlan};
use crate::stage::{At, Failure, SpawnError, Stage};

/// A process that was started. Dropping it neither kills nor reaps it.
#[derive(Debug)]
pub struct Spawned {
    /// Its id outside.
    pub pid: Pid,
    /// Readable when it has ended; also names its namespaces for [`Engine::exec`] and probes.
    pub pidfd: OwnedFd,
    /// Readable when it was executed or failed before: [`crate::Report::receive`].
    pub report: OwnedFd,
    /// What it reads, of a command that was given a pipe.
    pub stdin: Option<OwnedFd>,
    /// What it writes; the end is reached when the last of its processes is gone. Blocking.
    pub stdout: OwnedFd,
    /// Likewise.
    pub stderr: OwnedFd,
}

/// Every namespace but those of the network, which is a choice, and of cgroups: that one would show
/// the parent's cgroup as its root, so the child makes its own after it has arrived in its cgroup.
const NAMESPACES: Namespaces = Namespaces::USER
    .union(Namespaces::MOUNT)
    .union(Namespaces::PID)
    .union(Namespaces::IPC)
    .union(Namespaces::UTS);

/// Open files as systemd gives them: programs that use `select(2)` break above 1024, the others
/// raise it themselves. The kernel's own hard limit of 4096 is too low for servers.
pub(crate) const OPEN_FILES: Rlimit = Rlimit {
    current: Some(1024),
    maximum: Some(524_288),
};

impl Engine {
    /// Starts the container of `plan`. Nothing of a failed start is left but its directories: a cgroup that stayed would have
    /// its limits for whoever is started next. The volumes and the overlay are made if they are not there.
    ///
    /// # Errors
    /// Stages up to `Handshake`; what fails later is in the report.
    pub fn spawn(&self, plan: &Plan) -> Result<Spawned, SpawnError> {
        self.start(plan).map_err(|failure| {
            let error = SpawnError::from(failure);
            if let (Some(parent), Ok(name)) = (&self.cgroup, plan.name.to_str()) {
                // One with processes in it is in use, and stays with its `/dev`.
                if parent.remove(name).is_ok() && plan.devices.is_some() {
                    self.remove_devices(&plan.name);
                }
            }
            error
        })
    }

    fn start<'p>(&'p self, plan: &'p Plan) -> Result<Spawned, Failure<'p>> {
        let cgroup = match &self.cgroup {
            Some(parent) => Some(parent.make(&plan.name, &plan.limits)?),
            None => None,
        };
        self.judge_devices(plan, cgroup.as_ref())?;
        let namespaces = if plan.network.is_own() {
            NAMESPACES.union(Namespaces::NETWORK)
        } else {
            NAMESPACES
        };
        let image = plan.image();
        let ends = Ends::open(plan, &plan.user, Input::Nothing)?;
        let child = clone::spawn(namespaces, cgroup.as_ref().map(AsFd::as_fd), || {
            child::run(self, plan, &image, &ends.inner)
        });
        let child = child.at(Stage::Clone, &plan.name)?;
        match self.furnish(plan, &child, &ends.report) {
            Ok(()) => Ok(ends.of(child)),
            Err(failure) => {
                // It waits for us, so it ends at once.
                send_signal(child.pidfd.as_fd(), Signal::KILL).ok();
                wait_pidfd(child.pidfd.as_fd()).ok();
                Err(failure)
            }
        }
    }

    /// Gives a waiting child what only its parent can: ids, limits, mounts.
    fn furnish<'p>(
        &'p self,
        plan: &'p Plan,
        child: &Child,
        socket: &OwnedFd,
    ) -> Result<(), Failure<'p>> {
        let number = DecInt::new(child.pid.as_raw_nonzero().get());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = openat(&self.proc, number, flags, Mode::empty());
        let process = process.at(Stage::IdMap, c"/proc")?;
        for file in [c"gid_map", c"uid_map"] {
            write_file(&process, file, plan.id_map.as_bytes()).at(Stage::IdMap, file)?;
        }
        match prlimit(Some(child.pid), Resource::Nofile, OPEN_FILES) {
            // Without CAP_SYS_RESOURCE (never on a device) what was inherited has to do.
            Err(Errno::PERM) => {}
            other => drop(other.at(Stage::Limits, c"open files")?),
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let ids = openat(&process, c"ns/user", flags, Mode::empty());
        let ids = ids.at(Stage::IdMap, c"ns/user")?;
        let mounts = self.mounts(plan, ids.as_fd())?;
        mounts.send(socket).at(Stage::Handshake, &plan.name)
    }
}

/// Both ends of everything between PID 1 and a process of a container.
#[derive(Debug)]
pub(crate) struct Ends {
    report: OwnedFd,
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    pub(crate) inner: Inner,
}

/// The ends that the process has.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) report: OwnedFd,
    pub(crate) streams: Input,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Ends {
    /// For a process of `user`.
    pub(crate) fn open<'p>(
        plan: &'p Plan,
        user: &UserPlan,
        streams: Input,
    ) -> Result<Self, Failure<'p>> {
        let (report, inner_report) = pair(Kind::Messages).at(Stage::Pipes, c"report")?;
        // The process's own user must be able to open /dev/stdout anew, which asks for the pipe's
        // permissions: it owns the pipe.
        let id = |id: u16| plan.id_base.saturating_add(id.into());
        let owner = (Uid::from_raw(id(user.uid)), Gid::from_raw(id(user.gid)));
        let pipe = |name| {
            let (outer, inner) = pipe_with(PipeFlags::CLOEXEC).at(Stage::Pipes, name)?;
            fchown(&inner, Some(owner.0), Some(owner.1)).at(Stage::Pipes, name)?;
            Ok((outer, inner))
        };
        let (stdout, inner_stdout) = pipe(c"stdout")?;
        let (stderr, inner_stderr) = pipe(c"stderr")?;
        let (inner_stdin, stdin) = if streams == Input::Pipe {
            let (inner, outer) = pipe_with(PipeFlags::CLOEXEC).at(Stage::Pipes, c"stdin")?;
            fchown(&inner, Some(owner.0), Some(owner.1)).at(Stage::Pipes, c"stdin")?;
            (Some(inner), Some(outer))
        } else {
            (None, None)
        };
        Ok(Self {
            report,
            stdin,
            stdout,
            stderr,
            inner: Inner {
                report: inner_report,
                streams,
                stdin: inner_stdin,
                stdout: inner_stdout,
                stderr: inner_stderr,
            },
        })
    }

    /// The outer ends, with the process; the inner ones close.
    pub(crate) fn of(self, child: Child) -> Spawned {
        Spawned {
            pid: child.pid,
            pidfd: child.pidfd,
            report: self.report,
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
        }
    }
}
