//! Another process in a container that runs.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::clone::{self, Namespaces};
use kedge_sys::descriptors::close_all_but;
use kedge_sys::privilege::capabilities;
use kedge_sys::process::{
    Signal, enter_namespaces_of, send_signal, set_dumpable, set_personality, wait_pidfd,
};

use crate::become_process::{confine, session};
use crate::cgroup::Group;
use crate::child::{NOT_EXECUTED, become_root, join_keyring};
use crate::config::{self, Process, Spec};
use crate::create::{Starter, console, limits, namespace_file};
use crate::filter::{self, Filter};
use crate::link::{Link, Word};
use crate::plan::{self, ProcessPlan};
use crate::state::{self, Folder, Saved, Status};
use crate::terminal;

/// What is executed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) id: String,
    /// A description of the process; what follows is without it.
    pub(crate) process: Option<PathBuf>,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<String>,
    pub(crate) directory: Option<String>,
    /// `UID[:GID]`.
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<u32>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) no_new_privileges: bool,
    pub(crate) terminal: bool,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) detach: bool,
    pub(crate) preserve_fds: u32,
}

/// A process that was executed.
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) process: OwnedFd,
    /// The master's side, if nobody else has it.
    pub(crate) terminal: Option<OwnedFd>,
    /// What of its description is not kept.
    pub(crate) passed_over: Vec<String>,
}

/// Executes it.
///
/// # Errors
/// The container does not run; the process cannot be as it is described.
pub(crate) fn exec(root: &Path, options: &Options) -> Result<Executed> {
    let (folder, saved) = container(root, &options.id)?;
    let first = saved.process().context("its first process ended")?;
    let spec = folder.spec()?;
    let mut process = ProcessPlan::new(&describe(options, &spec)?)?;
    let compiled = spec
        .linux
        .seccomp
        .as_ref()
        .map(filter::compile)
        .transpose()?;
    let filter = compiled
        .as_ref()
        .map(|compiled| Filter::connect(compiled, &saved))
        .transpose()?;
    let starter = if options.detach {
        Starter::Later
    } else {
        Starter::Now
    };
    let socket = console(&process, options.console_socket.as_deref(), starter)?;
    let group = saved.group().transpose()?;
    let shared = differing(&saved)?;
    if !shared.contains(Namespaces::USER) {
        process.leave_ungrantable(capabilities()?.permitted);
    }
    let (link, inner) = Link::pair()?;
    let joining = Joining {
        first: first.as_fd(),
        namespaces: shared,
        process: &process,
        filter: filter.as_ref(),
        console: socket.as_ref(),
        kept: options.preserve_fds,
        id: &saved.id,
        no_new_keyring: saved.no_new_keyring,
        personality: plan::personality(&spec.linux)?,
    };
    let group = group.as_ref().map(Group::directory);
    let middle = clone::spawn(Namespaces::NONE, group, || middle(&joining, &inner));
    let middle = middle.context("the process")?;
    drop(inner);
    // It has ended when the process is there, or could not be made.
    let found = find(&link);
    wait_pidfd(middle.pidfd.as_fd())?;
    let (raw, process_fd) = found?;
    let finish = || -> Result<Option<OwnedFd>> {
        limits(&process, raw)?;
        link.send(Word::Go, &raw.to_string(), &[])?;
        let terminal = wait(&link)?;
        if let Some(path) = &options.pid_file {
            state::put(path, raw.to_string().as_bytes())?;
        }
        Ok(terminal)
    };
    match finish() {
        Ok(terminal) => Ok(Executed {
            process: process_fd,
            terminal,
            passed_over: process.passed_over,
        }),
        Err(error) => {
            send_signal(process_fd.as_fd(), Signal::KILL).ok();
            wait_pidfd(process_fd.as_fd()).ok();
            Err(error)
        }
    }
}

/// The container, in which something can be executed.
fn container(root: &Path, id: &str) -> Result<(Folder, Saved)> {
    let folder = Folder::open(root, id, false)?;
    let saved = folder.load()?;
    let status = folder.status(&saved)?;
    ensure!(
        matches!(status, Status::Running | Status::Created),
        "container {id} is {}: nothing can be executed in it",
        status.word()
    );
    Ok((folder, saved))
}

/// Number and descriptor of the process, once it is there.
fn find(link: &Link) -> Result<(i32, OwnedFd)> {
    let message = link.wait_for(Word::Ready)?;
    let process = message.descriptor.context("the process did not arrive")?;
    Ok((message.text.parse()?, process))
}

/// Waits for the exec, which closes the other end.
fn wait(link: &Link) -> Result<Option<OwnedFd>> {
    let mut terminal = None;
    while let Some(message) = link.receive()? {
        match message.word {
            Word::Terminal => terminal = message.descriptor,
            Word::Failed => bail!("{}", message.text),
            Word::Ready | Word::Go | Word::Mount | Word::Hooks => {}
        }
    }
    Ok(terminal)
}

/// The process by its description, or as the container's first one but for what the command line says.
fn describe(options: &Options, spec: &Spec) -> Result<Process> {
    if let Some(path) = &options.process {
        ensure!(
            options.arguments.is_empty(),
            "--process has the arguments already"
        );
        let bytes = config::read_up_to(path)?;
        let process = serde_json::from_slice(&bytes);
        let mut process: Process = process.with_context(|| format!("in {}", path.display()))?;
        let first = spec.process.clone().unwrap_or_default();
        process.capabilities = process.capabilities.or(first.capabilities);
        process.no_new_privileges = process.no_new_privileges.or(first.no_new_privileges);
        if process.rlimits.is_empty() {
            process.rlimits = first.rlimits;
        }
        return Ok(process);
    }
    ensure!(!options.arguments.is_empty(), "no program is named");
    let mut process = spec.process.clone().unwrap_or_default();
    process.args.clone_from(&options.arguments);
    process.terminal = options.terminal;
    process.console_size = None;
    for variable in &options.environment {
        let name = variable.split('=').next().unwrap_or_default();
        process
            .env
            .retain(|other| other.split('=').next() != Some(name));
        process.env.push(variable.clone());
    }
    if let Some(directory) = &options.directory {
        process.cwd.clone_from(directory);
    }
    if let Some(user) = &options.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
        let number = |text: &str| {
            text.parse()
                .with_context(|| format!("--user {user}: numbers as 1000:1000 are wanted"))
        };
        process.user.uid = number(uid)?;
        process.user.gid = number(gid)?;
    }
    process.user.additional_gids.extend(&options.groups);
    if options.no_new_privileges {
        process.no_new_privileges = Some(true);
    }
    if !options.capabilities.is_empty() {
        let mut sets = process.capabilities.take().unwrap_or_default();
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.extend(options.capabilities.iter().cloned());
        }
        process.capabilities = Some(sets);
    }
    Ok(process)
}

/// The container's namespaces that are not ours.
fn differing(saved: &Saved) -> Result<Namespaces> {
    let all = [
        Namespaces::USER,
        Namespaces::NETWORK,
        Namespaces::IPC,
        Namespaces::UTS,
        Namespaces::CGROUP,
        Namespaces::TIME,
        Namespaces::PID,
        Namespaces::MOUNT,
    ];
    let mut differing = Namespaces::NONE;
    for kind in all {
        let name = namespace_file(kind);
        let Ok(own) = std::fs::metadata(format!("/proc/self/ns/{name}")) else {
            // A kernel without this kind.
            continue;
        };
        let path = format!("/proc/{}/ns/{name}", saved.pid);
        let theirs = std::fs::metadata(&path).with_context(|| path)?;
        if (own.dev(), own.ino()) != (theirs.dev(), theirs.ino()) {
            differing = differing.union(kind);
        }
    }
    Ok(differing)
}

/// What the process is given.
struct Joining<'a> {
    first: BorrowedFd<'a>,
    namespaces: Namespaces,
    process: &'a ProcessPlan,
    filter: Option<&'a Filter<'a>>,
    console: Option<&'a OwnedFd>,
    kept: u32,
    id: &'a str,
    no_new_keyring: bool,
    personality: Option<u32>,
}

/// Joins the container's namespaces, and makes the process there. It is never in the container's pid namespace itself: before it is
/// in all others it has the machine's root, and a process that sees it could go there through `/proc`.
fn middle(joining: &Joining<'_>, link: &Link) -> i32 {
    let made = join(joining, link).and_then(|()| {
        let child = clone::spawn_sibling(|| run(joining, link)).context("the process")?;
        let number = child.pid.as_raw_nonzero().to_string();
        link.send(Word::Ready, &number, &[child.pidfd.as_fd()])
    });
    let Err(error) = made else {
        return 0;
    };
    // Nobody is left to hear it if this fails.
    link.send(Word::Failed, &format!("{error:#}"), &[]).ok();
    NOT_EXECUTED
}

fn join(joining: &Joining<'_>, link: &Link) -> Result<()> {
    let mut kept = vec![link.as_fd(), joining.first];
    kept.extend(joining.console.map(AsFd::as_fd));
    kept.extend(joining.filter.and_then(Filter::socket));
    // As with a container's first process: no folder of the machine's is a way out.
    close_all_but(joining.kept.saturating_add(3), &kept)?;
    set_dumpable(false)?;
    if !joining.no_new_keyring {
        join_keyring(joining.id)?;
    }
    if joining.namespaces != Namespaces::NONE {
        enter_namespaces_of(joining.first, joining.namespaces).context("its namespaces")?;
    }
    if joining.namespaces.contains(Namespaces::USER) {
        become_root()?;
        // To become another user makes a process dumpable again.
        set_dumpable(false)?;
    }
    Ok(())
}

fn run(joining: &Joining<'_>, link: &Link) -> i32 {
    let Err(error) = live(joining, link);
    link.send(Word::Failed, &format!("{error:#}"), &[]).ok();
    NOT_EXECUTED
}

fn live(joining: &Joining<'_>, link: &Link) -> Result<Infallible> {
    let number = link.wait_for(Word::Go)?.text.parse().unwrap_or_default();
    if let Some(filter) = joining.filter {
        filter.of_process(number);
    }
    if let Some(terminal) = session(joining.process)? {
        match joining.console {
            Some(socket) => terminal::give(socket.as_fd(), terminal.master())?,
            None => link.send(Word::Terminal, "", &[terminal.master().as_fd()])?,
        }
    }
    if let Some(domain) = joining.personality {
        set_personality(domain).context("linux.personality")?;
    }
    let ready = confine(joining.process, joining.filter, joining.kept)?;
    ready.execute(joining.filter)
}
