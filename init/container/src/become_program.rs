//! The last steps, common to a container's process and to commands in it: streams, session,
//! confinement, exec. Nothing here allocates.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use kedge_sys::descriptors::{close_all_but_two, close_on_exec_from};
use kedge_sys::exec::ExecImage;
use kedge_sys::privilege::{
    CapabilitySet, bound_capabilities, set_capabilities, set_group, set_groups, set_no_new_privs,
    set_user,
};
use kedge_sys::process::{chdir, set_standard, setsid, umask};
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, Uid, fchown, openat};
use kedge_sys::terminal::{Terminal, set_size};
use kedge_sys::{seccomp, signals, sock};

use crate::exec::Input;
use crate::plan::{Plan, UserPlan};
use crate::spawn::Inner;
use crate::stage::{At, Failure, Stage, TERMINAL};

/// Who becomes which program, and where.
#[derive(Debug)]
pub(crate) struct Who<'p> {
    pub(crate) user: &'p UserPlan,
    pub(crate) directory: &'p CStr,
    /// What errors name.
    pub(crate) program: &'p CStr,
}

impl<'p> Who<'p> {
    /// The container's own process.
    pub(crate) fn of(plan: &'p Plan) -> Self {
        Self {
            user: &plan.user,
            directory: &plan.working_directory,
            program: plan.program.arguments.first().unwrap_or(&plan.name),
        }
    }
}

/// Closes all that is open of the device's, but for the report and for what is `kept`. To be called before any path of the
/// image is followed: by `/proc/self/fd/N` an open folder of the device's would be a way out, up to the moment of the exec
/// (CVE-2024-21626). The places of mounts and devices are such paths, too: an image has links there, and so has a container
/// that may mount.
pub(crate) fn let_go(inner: &Inner, kept: Option<BorrowedFd<'_>>) -> Result<(), Failure<'static>> {
    // Who reads nothing, or a terminal, has it later; until then PID 1's own input must not be there.
    let stdin = inner.stdin.as_ref().unwrap_or(&inner.stdout);
    set_standard(stdin, 0).at(Stage::Streams, c"stdin")?;
    set_standard(&inner.stdout, 1).at(Stage::Streams, c"stdout")?;
    set_standard(&inner.stderr, 2).at(Stage::Streams, c"stderr")?;
    let report = inner.report.as_fd();
    close_all_but_two(3, report, kept.unwrap_or(report)).at(Stage::Session, c"descriptors")
}

/// From root in the container's namespaces to the program, after [`let_go`]; returns only if something fails.
pub(crate) fn become_program<'p>(
    plan: &Plan,
    who: &Who<'p>,
    image: &ExecImage,
    inner: &Inner,
) -> Result<Infallible, Failure<'p>> {
    signals::reset().at(Stage::Session, c"signals")?;
    setsid().at(Stage::Session, c"session")?;
    match inner.streams {
        Input::Pipe => {}
        Input::Nothing => set_null(0)?,
        Input::Discard => set_null(2)?,
        Input::Terminal { rows, columns } => set_terminal(inner, who.user, rows, columns)?,
    }
    umask(Mode::from_raw_mode(0o022));
    // As root of the container: an image may have a directory that its user cannot enter.
    chdir(who.directory).at(Stage::WorkingDirectory, who.directory)?;
    close_on_exec_from(3).at(Stage::Session, c"descriptors")?;
    drop_privileges(plan, who.user)?;
    seccomp::load(plan.filter.code(), seccomp::Options::default()).at(Stage::Filter, c"default")?;
    Err(Failure {
        stage: Stage::Execute,
        errno: image.exec_within().errno,
        path: who.program,
    })
}

/// The container's `/dev/null` is standard input, and what follows up to `last`.
fn set_null(last: u8) -> Result<(), Failure<'static>> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let null = openat(CWD, c"/dev/null", flags, Mode::empty());
    let null = null.at(Stage::Streams, c"/dev/null")?;
    (0..=last).try_for_each(|number| set_standard(&null, number).at(Stage::Streams, c"/dev/null"))
}

/// A new terminal of the container's; its other side goes to the parent.
fn set_terminal(
    inner: &Inner,
    user: &UserPlan,
    rows: u16,
    columns: u16,
) -> Result<(), Failure<'static>> {
    let place = c"/dev/pts/ptmx";
    let both = Terminal::open().at(Stage::Streams, place)?;
    set_size(&both.master, rows, columns).at(Stage::Streams, place)?;
    // The user may want to open it anew by its name.
    let owner = Some(Uid::from_raw(user.uid.into()));
    fchown(&both.slave, owner, None).at(Stage::Streams, place)?;
    sock::send(&inner.report, TERMINAL, &[both.master.as_fd()]).at(Stage::Streams, place)?;
    both.take().at(Stage::Streams, place)
}

/// The process's user, with the definition's capabilities at most.
///
/// As with Docker, only user 0 has them from the start: for others the change of user clears them,
/// and they remain as the bound of what a program with file capabilities could have had, were it
/// not for `no_new_privs`.
fn drop_privileges(plan: &Plan, user: &UserPlan) -> Result<(), Failure<'static>> {
    let at = |what| {
        move |error: kedge_sys::Error| Failure {
            stage: Stage::Privileges,
            errno: error.errno,
            path: what,
        }
    };
    let keep = plan.capabilities;
    bound_capabilities(keep).map_err(at(c"bounding set"))?;
    set_groups(&user.groups).map_err(at(c"groups"))?;
    set_group(user.gid.into()).map_err(at(c"group"))?;
    set_user(user.uid.into()).map_err(at(c"user"))?;
    if user.uid == 0 {
        // The exec would do it, too: nothing more than the bounding set is given to root.
        set_capabilities(keep, keep, CapabilitySet::empty()).map_err(at(c"capabilities"))?;
    }
    set_no_new_privs().map_err(at(c"no_new_privs"))
}
