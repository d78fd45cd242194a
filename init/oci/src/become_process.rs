//! The last steps of a container's process and of one that is executed in it: who it is, what it may, what it executes.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::Errno;
use kedge_sys::descriptors::close_on_exec_from;
use kedge_sys::exec::{ExecImage, candidates};
use kedge_sys::privilege::{
    bound_capabilities, keep_capabilities, set_ambient, set_capabilities, set_group,
    set_no_new_privs, set_user,
};
use kedge_sys::process::{chdir, set_io_priority, setsid, umask};
use kedge_sys::rustix::fs::{
    Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, accessat, fchown, fstat, openat,
};
use kedge_sys::rustix::thread::set_thread_groups;
use kedge_sys::signals;

use crate::filter::Filter;
use crate::plan::ProcessPlan;
use crate::terminal::Terminal;

/// What is known before the process is confined, and used after.
#[derive(Debug)]
pub(crate) struct Ready {
    image: ExecImage,
    /// A filter that must be loaded by a process without privilege: as the very last.
    late: bool,
}

/// A session of its own, with its terminal; which is returned.
///
/// # Errors
/// The terminal.
pub(crate) fn session(process: &ProcessPlan) -> Result<Option<Terminal>> {
    // It fails for whoever leads one already.
    setsid().ok();
    let Some(size) = process.terminal else {
        return Ok(None);
    };
    let terminal = Terminal::open(size, process.uid)?;
    terminal.take()?;
    Ok(Some(terminal))
}

/// Becomes the user, with the capabilities, in the working directory. The program is looked for, so that one that is missing
/// is told while somebody listens.
///
/// # Errors
/// Whatever of the process's description cannot be.
pub(crate) fn confine(
    process: &ProcessPlan,
    filter: Option<&Filter<'_>>,
    kept: u32,
) -> Result<Ready> {
    umask(Mode::from_raw_mode(process.umask));
    if let Some(priority) = process.io_priority {
        set_io_priority(priority).context("process.ioPriority")?;
    }
    close_on_exec_from(kept.saturating_add(3)).context("descriptors")?;
    let entered = enter(process);
    if process.no_new_privileges {
        set_no_new_privs().context("process.noNewPrivileges")?;
    } else if let Some(filter) = filter {
        // Without that promise only a privileged process may load one.
        filter.load()?;
    }
    own_streams(process.uid);
    become_user(process)?;
    if let Err(error) = entered {
        // What is closed to root, as on a network file system, may be open to the user.
        enter(process).map_err(|_| error)?;
    }
    Ok(Ready {
        image: image(process)?,
        late: process.no_new_privileges,
    })
}

/// Goes to the working directory, which must be one of the container: a descriptor of a folder outside would lead out.
fn enter(process: &ProcessPlan) -> Result<()> {
    let what = || format!("process.cwd {}", process.directory.to_string_lossy());
    if chdir(process.directory.as_c_str()) == Err(Errno::NOENT) {
        let root = kedge_sys::mount::open_tree(
            CWD,
            c"/",
            kedge_sys::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )?;
        crate::inside::make(
            root.as_fd(),
            &process.directory,
            crate::inside::Want::Folder,
        )
        .with_context(what)?;
        chdir(process.directory.as_c_str()).with_context(what)?;
    } else {
        chdir(process.directory.as_c_str()).with_context(what)?;
    }
    let here = kedge_sys::rustix::process::getcwd(Vec::new()).with_context(what)?;
    ensure!(
        here.to_bytes().starts_with(b"/"),
        "process.cwd {} lies outside of the container",
        process.directory.to_string_lossy()
    );
    Ok(())
}

/// Gives the standard streams to the user, who may want to open them anew by their names in `/dev`. What is a device of all, and
/// what cannot be given, stays as it is.
fn own_streams(user: u32) {
    let group: Option<Gid> = None;
    let give = |stream: BorrowedFd<'_>| {
        let kind = fstat(stream).map(|found| FileType::from_raw_mode(found.st_mode));
        if matches!(kind, Ok(FileType::Fifo | FileType::Socket)) {
            fchown(stream, Some(Uid::from_raw(user)), group).ok();
        }
    };
    give(std::io::stdin().as_fd());
    give(std::io::stdout().as_fd());
    give(std::io::stderr().as_fd());
}

fn become_user(process: &ProcessPlan) -> Result<()> {
    let sets = &process.capabilities;
    bound_capabilities(sets.bounding).context("process.capabilities.bounding")?;
    keep_capabilities(true).context("capabilities")?;
    let groups: Vec<_> = process.groups.iter().copied().map(Gid::from_raw).collect();
    match set_thread_groups(&groups) {
        Ok(()) => {}
        // Where the namespace's maker may not set groups there are none to be left.
        Err(Errno::PERM) if groups.is_empty() => {}
        Err(errno) => return Err(errno).context("process.user.additionalGids"),
    }
    set_group(process.gid).with_context(|| format!("process.user.gid {}", process.gid))?;
    set_user(process.uid).with_context(|| format!("process.user.uid {}", process.uid))?;
    keep_capabilities(false).context("capabilities")?;
    set_capabilities(sets.effective, sets.permitted, sets.inheritable).context(
        "process.capabilities: more than this command has itself, or more effective than permitted",
    )?;
    set_ambient(sets.ambient)
        .context("process.capabilities.ambient: they must be permitted and inheritable")?;
    Ok(())
}

/// The program, which must be there.
fn image(process: &ProcessPlan) -> Result<ExecImage> {
    let Some(program) = process.arguments.first() else {
        bail!("process.args is empty");
    };
    let all = candidates(program, process.search_path());
    let mut seen = None;
    let found = all.iter().any(|path| match is_executable(path) {
        Ok(()) => true,
        Err(errno) => {
            // "Not there" says less than what was found elsewhere.
            if errno != Errno::NOENT {
                seen = Some(errno);
            }
            false
        }
    });
    let name = program.to_string_lossy();
    if !found {
        // The words that podman and Docker look for.
        match (seen, name.contains('/')) {
            (Some(errno), _) => return Err(errno).with_context(|| format!("exec: {name:?}")),
            (None, true) => bail!("exec: {name:?}: no such file or directory"),
            (None, false) => bail!("exec: {name:?}: executable file not found in $PATH"),
        }
    }
    Ok(ExecImage::with_candidates(
        all,
        process.arguments.clone(),
        environment(process),
    ))
}

fn is_executable(path: &CString) -> Result<(), Errno> {
    let found = kedge_sys::rustix::fs::statat(CWD, path, AtFlags::empty())?;
    let kind = kedge_sys::rustix::fs::FileType::from_raw_mode(found.st_mode);
    if kind == kedge_sys::rustix::fs::FileType::Directory {
        return Err(Errno::ISDIR);
    }
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // A filter that is older than the call: the exec itself will tell.
        Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        other => other,
    }
}

/// What the document has; a home if it has none.
fn environment(process: &ProcessPlan) -> Vec<CString> {
    let mut environment = process.environment.clone();
    let has_home = environment
        .iter()
        .any(|variable| variable.to_bytes().starts_with(b"HOME="));
    if !has_home {
        let home = home(process.uid).unwrap_or_else(|| "/".to_owned());
        environment.extend(CString::new(format!("HOME={home}")));
    }
    environment
}

/// A user's home, by the container's own `/etc/passwd`; which may be whatever an image likes, a pipe without an end too.
fn home(uid: u32) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, c"/etc/passwd", flags, Mode::empty()).ok()?;
    let mut text = Vec::new();
    let file = std::fs::File::from(file);
    std::io::Read::read_to_end(
        &mut std::io::Read::take(file, crate::config::LONGEST),
        &mut text,
    )
    .ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let is = fields.next()?.parse::<u32>().ok()? == uid;
        let home = fields.nth(2).filter(|home| home.starts_with('/'))?;
        is.then(|| home.to_owned())
    })
}

impl Ready {
    /// Executes the program; returns only if that fails.
    ///
    /// # Errors
    /// The filter, the program.
    pub(crate) fn execute(&self, filter: Option<&Filter<'_>>) -> Result<Infallible> {
        if let Some(filter) = filter.filter(|_| self.late) {
            filter.load()?;
        }
        signals::reset().context("signals")?;
        Err(anyhow::Error::from(self.image.exec()).context("exec"))
    }
}
