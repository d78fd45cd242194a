//! A container is created: the parent's half.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::clone::{self, Child, Namespaces};
use kedge_sys::privilege::capabilities;
use kedge_sys::process::{Signal, enter_namespace, prlimit, send_signal, unshare, wait_pidfd};
use kedge_sys::sock::{self, Kind};

use crate::cgroup::{Group, hierarchy};
use crate::child::{self, Given};
use crate::config::Spec;
use crate::filter::Filter;
use crate::hooks;
use crate::link::{Link, Word};
use crate::plan::{Ids, Plan, ProcessPlan};
use crate::rootfs;
use crate::state::{self, Folder, Saved, Status};
use crate::terminal;

/// How a container is created.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) id: String,
    /// Its folder with `config.json`.
    pub(crate) bundle: PathBuf,
    /// Who gets its terminal.
    pub(crate) console_socket: Option<PathBuf>,
    /// Where its process's id is written.
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    /// Descriptors from 3 on that its process keeps.
    pub(crate) preserve_fds: u32,
}

/// Who starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starter {
    /// Another command, later.
    Later,
    /// This one, at once.
    Now,
}

/// A container whose process waits.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) folder: Folder,
    pub(crate) saved: Saved,
    pub(crate) plan: Plan,
    pub(crate) process: OwnedFd,
    pub(crate) link: Link,
    /// The master's side, if nobody else has it.
    pub(crate) terminal: Option<OwnedFd>,
}

/// What a process is made of.
struct Waits<'a> {
    plan: &'a Plan,
    folder: &'a Folder,
    group: Option<&'a Group>,
    console: Option<&'a OwnedFd>,
    saved: &'a Saved,
}

/// What is to be undone if something fails.
struct Undo<'a> {
    folder: &'a Folder,
    group: Option<&'a Group>,
    child: Option<&'a Child>,
    plan: &'a Plan,
    /// Whether hooks have begun: those that clean up after them are run then (specification, "Lifecycle").
    hooked: &'a Cell<bool>,
}

impl Undo<'_> {
    /// Undoes all of it. Returns what has failed, with what could not be undone.
    fn all(&self, error: anyhow::Error, saved: &Saved) -> anyhow::Error {
        let mut left = Vec::new();
        if let Some(child) = self.child {
            send_signal(child.pidfd.as_fd(), Signal::KILL).ok();
            wait_pidfd(child.pidfd.as_fd()).ok();
        }
        if let Some(group) = self.group {
            // A hook may have left processes there, which are in nobody's pid namespace but the machine's.
            left.extend(group.clear().err());
        }
        left.extend(self.folder.remove().err());
        if self.hooked.get() {
            let told = saved.told(Status::Stopped);
            left.extend(hooks::poststop(&self.plan.hooks.poststop, &told));
        }
        left.into_iter().fold(error, |error, left| {
            anyhow::anyhow!("{error:#}; and then: {left:#}")
        })
    }
}

/// Creates it, up to the moment in which its process waits to be started. Nothing is left of one that fails.
///
/// # Errors
/// The document, and everything on the way.
pub(crate) fn create(root: &Path, options: &Options, starter: Starter) -> Result<Created> {
    let bundle = options.bundle.canonicalize();
    let bundle = bundle.with_context(|| format!("bundle {}", options.bundle.display()))?;
    let (spec, bytes) = Spec::load(&bundle)?;
    let mut plan = Plan::new(&options.id, &spec, &bundle)?;
    if !plan.new.contains(Namespaces::USER) {
        // In a user namespace of its own it has all.
        plan.process.leave_ungrantable(capabilities()?.permitted);
    }
    let console = console(&plan.process, options.console_socket.as_deref(), starter)?;
    let folder = Folder::make(root, &options.id)?;
    let hooked = Cell::new(false);
    let mut undo = Undo {
        folder: &folder,
        group: None,
        child: None,
        plan: &plan,
        hooked: &hooked,
    };
    let mut saved = Saved {
        id: options.id.clone(),
        pid: 0,
        started: 0,
        bundle,
        root: plan.root.clone(),
        created: state::rfc3339(SystemTime::now()),
        annotations: spec.annotations.clone(),
        cgroup: None,
        no_new_keyring: options.no_new_keyring,
    };
    let group = group(&plan).map_err(|error| undo.all(error, &saved))?;
    undo.group = group.as_ref();
    saved.cgroup = group.as_ref().map(|group| group.path().to_owned());
    let waits = Waits {
        plan: &plan,
        folder: &folder,
        group: group.as_ref(),
        console: console.as_ref(),
        saved: &saved,
    };
    let begun = folder
        .put("config.json", &bytes)
        .and_then(|()| begin(&waits, options, starter));
    let (link, child) = begun.map_err(|error| undo.all(error, &saved))?;
    undo.child = Some(&child);
    let raw = child.pid.as_raw_nonzero().get();
    saved.pid = raw;
    let finish = |saved: &mut Saved| -> Result<Option<OwnedFd>> {
        let (_, started) = state::stat(raw).context("the process ended")?;
        saved.started = started;
        // Before it may go on: whoever finds the folder later finds the process, too.
        folder.save(saved)?;
        let terminal = furnish(&plan, saved, &child, &link, &hooked)?;
        if let Some(path) = &options.pid_file {
            state::put(path, raw.to_string().as_bytes())?;
        }
        Ok(terminal)
    };
    let terminal = finish(&mut saved).map_err(|error| undo.all(error, &saved))?;
    Ok(Created {
        folder,
        saved,
        plan,
        process: child.pidfd,
        link,
        terminal,
    })
}

/// The process, up to where it waits for what only its parent can give it.
fn begin(waits: &Waits<'_>, options: &Options, starter: Starter) -> Result<(Link, Child)> {
    let Waits {
        plan,
        folder,
        group,
        console,
        saved,
    } = waits;
    let listener = match starter {
        Starter::Later => Some(listen(folder)?),
        Starter::Now => None,
    };
    let (link, inner) = Link::pair()?;
    let filter = plan
        .filter
        .as_ref()
        .map(|compiled| Filter::connect(compiled, saved));
    let filter = filter.transpose()?;
    let given = Given {
        filter: filter.as_ref(),
        link: &inner,
        start: listener.as_ref(),
        console: *console,
        saved,
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        kept: options.preserve_fds,
    };
    let child = spawn(plan, *group, || child::run(plan, &given))?;
    Ok((link, child))
}

/// Who gets the terminal, if there is one.
pub(crate) fn console(
    process: &ProcessPlan,
    socket: Option<&Path>,
    starter: Starter,
) -> Result<Option<OwnedFd>> {
    match (socket, process.terminal.is_some(), starter) {
        (Some(path), true, _) => terminal::console_socket(path).map(Some),
        (Some(_), false, _) => {
            bail!("--console-socket: the process has no terminal (process.terminal)")
        }
        (None, true, Starter::Later) => {
            bail!("process.terminal: somebody must take the terminal (--console-socket)")
        }
        (None, true, Starter::Now) | (None, false, _) => Ok(None),
    }
}

/// Its control group. On a machine without version 2 a document with limits is refused, and one without needs none.
fn group(plan: &Plan) -> Result<Option<Group>> {
    let limits = &plan.limits;
    let Some(hierarchy) = hierarchy() else {
        ensure!(
            limits.files().next().is_none(),
            "linux.resources need control groups of version 2, which this machine has not mounted"
        );
        return Ok(None);
    };
    Group::make(hierarchy, &plan.cgroup, limits).map(Some)
}

/// The socket on which the process waits.
fn listen(folder: &Folder) -> Result<OwnedFd> {
    // Through a descriptor: a path of a socket has at most 107 bytes.
    let directory = std::fs::File::open(folder.path())?;
    let path = format!("/proc/self/fd/{}/start", directory.as_raw_fd());
    sock::bind(Path::new(&path), Kind::Messages, 0o600).context("the socket for start")
}

/// The process, in its namespaces.
fn spawn(plan: &Plan, group: Option<&Group>, run: impl FnOnce() -> i32) -> Result<Child> {
    let mut back = Vec::new();
    let child = enter(plan, &mut back)
        .and_then(|new| clone::spawn(new, group.map(Group::directory), run).context("the process"));
    // If it failed, too: hooks are run by this process.
    for own in back {
        enter_namespace(own.as_fd()).context("back into our own namespace")?;
    }
    child
}

/// Joins here, for this moment, those that are joined: a process that is root of a new user namespace alone could not. Returns
/// what is left to be made with the process, and in `back` where this one must go back to.
fn enter(plan: &Plan, back: &mut Vec<std::fs::File>) -> Result<Namespaces> {
    let mut new = plan.new;
    for (kind, path) in &plan.joined {
        let what = || format!("linux.namespaces: {}", path.display());
        let own = own_namespace(*kind)?;
        let other = std::fs::File::open(path).with_context(what)?;
        check_changed(plan, *kind, &other).with_context(what)?;
        enter_namespace(other.as_fd()).with_context(what)?;
        back.push(own);
    }
    if let Some(offsets) = &plan.time_offsets {
        // The clocks of a namespace can be set as long as nobody is in it.
        let own = own_namespace(Namespaces::TIME)?;
        unshare(Namespaces::TIME).context("a time namespace")?;
        back.push(own);
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).open("/proc/self/timens_offsets");
        std::io::Write::write_all(&mut file?, offsets.as_bytes()).context("linux.timeOffsets")?;
        new = without(new, Namespaces::TIME);
    }
    // The child makes its own when it is in its group.
    Ok(without(new, Namespaces::CGROUP))
}

/// A namespace of a file may be that of the machine, which nothing of a document may change: our own, or that of process 1.
fn check_changed(plan: &Plan, kind: Namespaces, other: &std::fs::File) -> Result<()> {
    let Some((_, what)) = plan.changed.iter().find(|(changed, _)| *changed == kind) else {
        return Ok(());
    };
    let other = other.metadata()?;
    for process in ["self", "1"] {
        let path = format!("/proc/{process}/ns/{}", namespace_file(kind));
        // Not everybody may look at process 1.
        if let Ok(machine) = std::fs::metadata(path) {
            ensure!(
                (machine.dev(), machine.ino()) != (other.dev(), other.ino()),
                "{what} would change the machine, whose namespace this is"
            );
        }
    }
    Ok(())
}

fn without(all: Namespaces, one: Namespaces) -> Namespaces {
    let kinds = [
        Namespaces::USER,
        Namespaces::NETWORK,
        Namespaces::IPC,
        Namespaces::UTS,
        Namespaces::CGROUP,
        Namespaces::TIME,
        Namespaces::PID,
        Namespaces::MOUNT,
    ];
    let kept = kinds
        .into_iter()
        .filter(|kind| *kind != one && all.contains(*kind));
    kept.fold(Namespaces::NONE, Namespaces::union)
}

fn own_namespace(kind: Namespaces) -> Result<std::fs::File> {
    let name = namespace_file(kind);
    std::fs::File::open(format!("/proc/self/ns/{name}"))
        .with_context(|| format!("our own {name} namespace"))
}

/// Its file below `/proc/PID/ns`.
pub(crate) fn namespace_file(kind: Namespaces) -> &'static str {
    let all = [
        (Namespaces::USER, "user"),
        (Namespaces::NETWORK, "net"),
        (Namespaces::IPC, "ipc"),
        (Namespaces::UTS, "uts"),
        (Namespaces::CGROUP, "cgroup"),
        (Namespaces::TIME, "time"),
        (Namespaces::PID, "pid"),
        (Namespaces::MOUNT, "mnt"),
    ];
    let found = all.iter().find(|(known, _)| *known == kind);
    found.map_or("mnt", |(_, name)| name)
}

/// Gives the waiting process what only its parent can, runs the hooks of that moment, and waits until it is ready.
fn furnish(
    plan: &Plan,
    saved: &Saved,
    child: &Child,
    link: &Link,
    hooked: &Cell<bool>,
) -> Result<Option<OwnedFd>> {
    let raw = saved.pid;
    if let Some((users, groups)) = &plan.maps {
        write_maps(raw, users, groups)?;
    }
    limits(&plan.process, raw)?;
    link.send(Word::Go, &raw.to_string(), &[])?;
    send_mounts(plan, child, link)?;
    let mut terminal = None;
    loop {
        let message = link.receive()?;
        let message = message.context("the container's process ended before it was ready")?;
        match message.word {
            Word::Ready => return Ok(terminal),
            Word::Terminal => terminal = message.descriptor,
            Word::Hooks => {
                hooked.set(true);
                let told = saved.told(Status::Created);
                hooks::run("prestart", &plan.hooks.prestart, &told)?;
                hooks::run("createRuntime", &plan.hooks.create_runtime, &told)?;
                link.say(Word::Go)?;
            }
            Word::Failed => bail!("{}", message.text),
            Word::Go | Word::Mount => bail!("{:?} from the container's process", message.word),
        }
    }
}

fn write_maps(pid: i32, users: &str, groups: &str) -> Result<()> {
    for (file, text) in [("gid_map", groups), ("uid_map", users)] {
        let path = format!("/proc/{pid}/{file}");
        let mut options = std::fs::OpenOptions::new();
        let written = options
            .write(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        written.with_context(|| {
            format!(
                "linux.{}Mappings",
                if file == "uid_map" { "uid" } else { "gid" }
            )
        })?;
    }
    Ok(())
}

/// Limits of a process that waits.
pub(crate) fn limits(process: &ProcessPlan, raw: i32) -> Result<()> {
    let pid = kedge_sys::process::Pid::from_raw(raw);
    for limit in &process.limits {
        prlimit(pid, limit.resource, limit.value)
            .with_context(|| format!("process.rlimits: {}: {:?}", limit.name, limit.value))?;
    }
    if let Some(score) = process.oom_score_adj {
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .write(true)
            .open(format!("/proc/{raw}/oom_score_adj"));
        std::io::Write::write_all(&mut file?, score.to_string().as_bytes())
            .context("process.oomScoreAdj")?;
    }
    Ok(())
}

/// Makes and sends the mounts that the process cannot make.
fn send_mounts(plan: &Plan, child: &Child, link: &Link) -> Result<()> {
    for mount in plan
        .mounts
        .iter()
        .filter(|mount| rootfs::by_parent(plan, mount))
    {
        let ids = match &mount.ids {
            None => None,
            Some(Ids::Container { .. }) => {
                ensure!(
                    plan.maps.is_some(),
                    "mount {}: idmap without maps needs a user namespace, whose ids it takes",
                    mount.target.text
                );
                Some(user_namespace(child)?)
            }
            Some(Ids::Own { users, groups, .. }) => Some(namespace_of_maps(users, groups)?),
        };
        let tree = rootfs::for_child(mount, ids.as_ref().map(AsFd::as_fd));
        let tree = tree.with_context(|| format!("mount {}", mount.target.text))?;
        link.send(Word::Mount, "", &[tree.as_fd()])?;
    }
    Ok(())
}

fn user_namespace(child: &Child) -> Result<OwnedFd> {
    let path = format!("/proc/{}/ns/user", child.pid.as_raw_nonzero());
    Ok(std::fs::File::open(&path).with_context(|| path)?.into())
}

/// A user namespace with these maps: that of a process that only waits for its end.
fn namespace_of_maps(users: &str, groups: &str) -> Result<OwnedFd> {
    let (ours, inner) = Link::pair()?;
    let holder = clone::spawn(Namespaces::USER, None, || {
        // Its end is the parent's.
        inner.receive().ok();
        0
    });
    let holder = holder.context("a namespace for the ids of a mount")?;
    let made = write_maps(holder.pid.as_raw_nonzero().get(), users, groups)
        .and_then(|()| user_namespace(&holder));
    drop(ours);
    send_signal(holder.pidfd.as_fd(), Signal::KILL).ok();
    wait_pidfd(holder.pidfd.as_fd()).ok();
    made
}
