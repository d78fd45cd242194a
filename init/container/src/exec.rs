//! Commands in a running container: health checks, and what an operator executes.
//!
//! The command is a child of PID 1 in all namespaces of the container, in its cgroup, and confined
//! exactly as its process is. It is born in the container's pid namespace: the parent points its own
//! "pid namespace for children" there for the moment of the clone, so that no process stands between.
//!
//! From the moment on which it is in the container's user namespace, processes of the container
//! could try to trace it while it still is a copy of PID 1. It is not dumpable until its exec, which
//! refuses that to everyone who is not privileged outside (`ptrace(2)`, "Ptrace access mode checking").

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd};

use kedge_revision::container::User;
use kedge_sys::Errno;
use kedge_sys::clone::{self, Namespaces};
use kedge_sys::descriptors::close_all_but_one;
use kedge_sys::process::{Resource, enter_namespace, enter_namespaces_of, prlimit, set_dumpable};

use crate::become_program::{Who, become_program, let_go};
use crate::child::{NOT_EXECUTED, become_root};
use crate::engine::Engine;
use crate::landlock::Fence;
use crate::plan::Plan;
use crate::plan::command::Execution;
use crate::spawn::{Ends, Inner, OPEN_FILES, Spawned};
use crate::stage::{At, Failure, SpawnError, Stage, report};

/// Where a command's input comes from, and where its output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Nowhere: `/dev/null`. Output and errors have a pipe each.
    Nothing,
    /// Nowhere, and all that it writes goes nowhere, too; the pipes end at once.
    Discard,
    /// A pipe, as output and errors have.
    Pipe,
    /// A terminal of the container's own is all three. Its other side comes with the report
    /// ([`crate::Report::receive_with`]); pipes end at once.
    Terminal {
        /// Its height.
        rows: u16,
        /// Its width.
        columns: u16,
    },
}

/// A command in a container. What is absent is as of the container's process.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// Program and arguments.
    pub arguments: &'a [String],
    /// Further variables, `NAME=value`; each takes the place of the container's own of that name.
    pub environment: &'a [String],
    /// User and groups.
    pub user: Option<&'a User>,
    /// A path inside the container.
    pub working_directory: Option<&'a str>,
    /// Its streams.
    pub input: Input,
    /// Whether Landlock is around it as around the container's process, which it then cannot look into (`crate::landlock`).
    /// Everything else that confines the container confines its commands always.
    pub fenced: bool,
}

impl<'a> Command<'a> {
    /// Runs `arguments` just as the container's process was, without input.
    #[must_use]
    pub const fn new(arguments: &'a [String]) -> Self {
        Self {
            arguments,
            environment: &[],
            user: None,
            working_directory: None,
            input: Input::Nothing,
            fenced: false,
        }
    }
}

impl<'a> Command<'a> {
    /// A health command of the container of `plan`: as [`Command::new`], but fenced where the network is not its own, and
    /// nobody has to read what it writes: a pipe that is full would keep it from its end.
    #[must_use]
    pub fn health(plan: &Plan, arguments: &'a [String]) -> Self {
        Self {
            input: Input::Discard,
            fenced: !plan.network.is_own(),
            ..Self::new(arguments)
        }
    }
}

impl Engine {
    /// Runs a command in the container of `plan` whose process is `pidfd`: in its namespaces and its
    /// cgroup, with its capabilities and filter.
    ///
    /// As with [`Engine::spawn`] the caller reaps it, and it must: the kernel lets the container's
    /// process end only after all that was born in its pid namespace has been reaped. Whoever waits for
    /// the container alone, after killing it, waits for ever.
    ///
    /// # Errors
    /// Stage `Execute` for a command that is none, stages up to `Join`; what fails later is in the
    /// report. `ESRCH` where the container has ended. Stage `Return`: nothing may be started any more.
    pub fn exec(
        &self,
        plan: &Plan,
        pidfd: BorrowedFd<'_>,
        command: &Command<'_>,
    ) -> Result<Spawned, SpawnError> {
        let execution = plan.command(command).map_err(|error| SpawnError {
            stage: Stage::Execute,
            errno: Errno::INVAL,
            path: error.to_string(),
        })?;
        Ok(self.start_command(plan, pidfd, &execution)?)
    }

    fn start_command<'p>(
        &'p self,
        plan: &'p Plan,
        pidfd: BorrowedFd<'_>,
        execution: &'p Execution,
    ) -> Result<Spawned, Failure<'p>> {
        let cgroup = match &self.cgroup {
            Some(parent) => Some(parent.of(&plan.name).at(Stage::Cgroup, &plan.name)?),
            None => None,
        };
        let ends = Ends::open(plan, &execution.user, execution.input)?;
        let fence = execution.fenced.then_some(self.fence);
        enter_namespaces_of(pidfd, Namespaces::PID).at(Stage::Join, &plan.name)?;
        let child = clone::spawn(Namespaces::NONE, cgroup.as_ref().map(AsFd::as_fd), || {
            run(plan, pidfd, execution, fence, &ends.inner)
        });
        self.come_back().at(Stage::Return, c"/proc/self/ns/pid")?;
        let child = child.at(Stage::Clone, &plan.name)?;
        // As the container's own process; a command that has ended by now needs none.
        prlimit(Some(child.pid), Resource::Nofile, OPEN_FILES).ok();
        Ok(ends.of(child))
    }

    /// From now on children are born among the device's own processes again. The kernel takes a little memory for that.
    fn come_back(&self) -> kedge_sys::Result<()> {
        let back = || enter_namespace(self.pid_namespace.as_fd());
        (1..RETURNS).fold(back(), |came, _| came.or_else(|_| back()))
    }
}

/// How often it is tried to come back. Each time the kernel looks for what it can free.
const RETURNS: u32 = 100;

fn run(
    plan: &Plan,
    pidfd: BorrowedFd<'_>,
    execution: &Execution,
    fence: Option<Fence>,
    inner: &Inner,
) -> i32 {
    let Err(failure) = join(plan, pidfd, execution, fence, inner);
    report(&inner.report, &failure);
    NOT_EXECUTED
}

fn join<'p>(
    plan: &'p Plan,
    pidfd: BorrowedFd<'_>,
    execution: &'p Execution,
    fence: Option<Fence>,
    inner: &Inner,
) -> Result<Infallible, Failure<'p>> {
    set_dumpable(false).at(Stage::Join, c"dumpable")?;
    let all = Namespaces::USER
        | Namespaces::MOUNT
        | Namespaces::IPC
        | Namespaces::UTS
        | Namespaces::CGROUP;
    let all = if plan.network.is_own() {
        all | Namespaces::NETWORK
    } else {
        all
    };
    // That nobody in the container may look into this copy of PID 1 is the kernel's word; there is nothing to be found either.
    let_go(inner, Some(pidfd))?;
    enter_namespaces_of(pidfd, all).at(Stage::Join, &plan.name)?;
    close_all_but_one(3, inner.report.as_fd()).at(Stage::Session, c"descriptors")?;
    become_root()?;
    if let Some(fence) = fence {
        fence.close(plan.capabilities)?;
    }
    let who = Who {
        user: &execution.user,
        directory: &execution.directory,
        program: &execution.program,
    };
    become_program(plan, &who, &execution.image, inner)
}
