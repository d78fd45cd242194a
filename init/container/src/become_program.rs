//! The last steps, common to a container's process and to commands in it: streams, session,
//! confinement, exec. Nothing here allocates.

use std::convert::Infallible;

use kedge_sys::descriptors::close_on_exec_from;
use kedge_sys::exec::ExecImage;
use kedge_sys::privilege::{
    CapabilitySet, bound_capabilities, set_capabilities, set_group, set_groups, set_no_new_privs,
    set_user,
};
use kedge_sys::process::{chdir, set_standard, setsid, umask};
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use kedge_sys::{seccomp, signals};

use crate::plan::Plan;
use crate::spawn::Inner;
use crate::stage::{At, Failure, Stage};

/// From root in the container's namespaces to the program; returns only if something fails.
pub(crate) fn become_program<'p>(
    plan: &'p Plan,
    image: &ExecImage,
    inner: &Inner,
) -> Result<Infallible, Failure<'p>> {
    set_streams(inner)?;
    signals::reset().at(Stage::Session, c"signals")?;
    setsid().at(Stage::Session, c"session")?;
    umask(Mode::from_raw_mode(0o022));
    // As root of the container: an image may have a directory that its user cannot enter.
    let directory = &plan.working_directory;
    chdir(directory.as_c_str()).at(Stage::WorkingDirectory, directory)?;
    close_on_exec_from(3).at(Stage::Session, c"descriptors")?;
    drop_privileges(plan)?;
    seccomp::load(plan.filter.code(), seccomp::Options::default()).at(Stage::Filter, c"default")?;
    let program = plan.program.arguments.first().unwrap_or(&plan.name);
    Err(Failure {
        stage: Stage::Execute,
        errno: image.exec().errno,
        path: program,
    })
}

fn set_streams(inner: &Inner) -> Result<(), Failure<'static>> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = openat(CWD, c"/dev/null", flags, Mode::empty()).at(Stage::Streams, c"/dev/null")?;
    set_standard(&null, 0).at(Stage::Streams, c"stdin")?;
    set_standard(&inner.stdout, 1).at(Stage::Streams, c"stdout")?;
    set_standard(&inner.stderr, 2).at(Stage::Streams, c"stderr")
}

/// The process's user, with the definition's capabilities at most.
///
/// As with Docker, only user 0 has them from the start: for others the change of user clears them,
/// and they remain as the bound of what a program with file capabilities could have had, were it
/// not for `no_new_privs`.
fn drop_privileges(plan: &Plan) -> Result<(), Failure<'static>> {
    let at = |what| {
        move |error: kedge_sys::Error| Failure {
            stage: Stage::Privileges,
            errno: error.errno,
            path: what,
        }
    };
    let keep = plan.capabilities;
    bound_capabilities(keep).map_err(at(c"bounding set"))?;
    set_groups(&plan.user.groups).map_err(at(c"groups"))?;
    set_group(plan.user.gid.into()).map_err(at(c"group"))?;
    set_user(plan.user.uid.into()).map_err(at(c"user"))?;
    if plan.user.uid == 0 {
        // The exec would do it, too: nothing more than the bounding set is given to root.
        set_capabilities(keep, keep, CapabilitySet::empty()).map_err(at(c"capabilities"))?;
    }
    set_no_new_privs().map_err(at(c"no_new_privs"))
}
