//! Commands in a running container: health checks, and a developer's shell.
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

use kedge_revision::container::Network;
use kedge_sys::Errno;
use kedge_sys::clone::{self, Namespaces};
use kedge_sys::exec::ExecImage;
use kedge_sys::process::{enter_namespace, enter_namespaces_of, set_dumpable};

use crate::become_program::become_program;
use crate::child::{NOT_EXECUTED, become_root};
use crate::engine::Engine;
use crate::plan::Plan;
use crate::spawn::{Ends, Inner, Spawned};
use crate::stage::{At, Failure, SpawnError, Stage, report};

impl Engine {
    /// Runs `arguments` in the container of `plan` whose process is `pidfd`, with its environment,
    /// user, working directory, capabilities and filter.
    ///
    /// As with [`Engine::spawn`] the caller reaps it, and it must: the kernel lets the container's
    /// process end only after all that was born in its pid namespace has been reaped. Whoever waits for
    /// the container alone, after killing it, waits for ever.
    ///
    /// # Errors
    /// Stage `Execute` for arguments that are none, stages up to `Join`; what fails later is in the
    /// report. `ESRCH` where the container has ended.
    pub fn exec(
        &self,
        plan: &Plan,
        pidfd: BorrowedFd<'_>,
        arguments: &[String],
    ) -> Result<Spawned, SpawnError> {
        let image = plan.command(arguments).map_err(|error| SpawnError {
            stage: Stage::Execute,
            errno: Errno::INVAL,
            path: error.to_string(),
        })?;
        Ok(self.start_command(plan, pidfd, &image)?)
    }

    fn start_command<'p>(
        &'p self,
        plan: &'p Plan,
        pidfd: BorrowedFd<'_>,
        image: &ExecImage,
    ) -> Result<Spawned, Failure<'p>> {
        let cgroup = match &self.cgroup {
            Some(parent) => Some(parent.of(&plan.name).at(Stage::Cgroup, &plan.name)?),
            None => None,
        };
        let ends = Ends::open(plan)?;
        enter_namespaces_of(pidfd, Namespaces::PID).at(Stage::Join, &plan.name)?;
        let child = clone::spawn(Namespaces::NONE, cgroup.as_ref().map(AsFd::as_fd), || {
            run(plan, pidfd, image, &ends.inner)
        });
        // Were this to fail, every later child would land in that container: nothing may follow.
        let back = enter_namespace(self.pid_namespace.as_fd());
        let child = child.at(Stage::Clone, &plan.name)?;
        back.at(Stage::Join, c"/proc/self/ns/pid")?;
        Ok(ends.of(child))
    }
}

fn run(plan: &Plan, pidfd: BorrowedFd<'_>, image: &ExecImage, inner: &Inner) -> i32 {
    let Err(failure) = join(plan, pidfd, image, inner);
    report(&inner.report, &failure);
    NOT_EXECUTED
}

fn join<'p>(
    plan: &'p Plan,
    pidfd: BorrowedFd<'_>,
    image: &ExecImage,
    inner: &Inner,
) -> Result<Infallible, Failure<'p>> {
    set_dumpable(false).at(Stage::Join, c"dumpable")?;
    let all = Namespaces::USER
        | Namespaces::MOUNT
        | Namespaces::IPC
        | Namespaces::UTS
        | Namespaces::CGROUP;
    let all = match plan.network {
        Network::None => all | Namespaces::NETWORK,
        Network::Host => all,
    };
    enter_namespaces_of(pidfd, all).at(Stage::Join, &plan.name)?;
    become_root()?;
    become_program(plan, image, inner)
}
