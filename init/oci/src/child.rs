//! The container's process, from its birth to its exec. It is a copy of this command with one thread, so it may allocate.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use kedge_sys::clone::Namespaces;
use kedge_sys::descriptors::close_all_but;
use kedge_sys::mount::{MountPropagationFlags, mount_change};
use kedge_sys::netlink::bring_loopback_up;
use kedge_sys::privilege::{set_group, set_groups, set_user};
use kedge_sys::process::{set_dumpable, set_host_name, set_personality, unshare};
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use kedge_sys::sock;

use crate::become_process::{confine, session};
use crate::filter::Filter;
use crate::hooks;
use crate::link::{Link, Word};
use crate::plan::Plan;
use crate::rootfs;
use crate::state::{Saved, Status};
use crate::terminal;

/// What it is given beside the plan.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    /// To its parent.
    pub(crate) link: &'a Link,
    /// Where it waits to be started; none: its parent says so.
    pub(crate) start: Option<&'a OwnedFd>,
    /// Who gets the terminal; none: its parent.
    pub(crate) console: Option<&'a OwnedFd>,
    /// For hooks; the process's id is filled in.
    pub(crate) saved: &'a Saved,
    /// What is loaded last.
    pub(crate) filter: Option<&'a Filter<'a>>,
    /// Whether the old root is moved away instead of exchanged: for a machine that runs from its initramfs.
    pub(crate) no_pivot: bool,
    /// Whether it keeps the keyring of its parent.
    pub(crate) no_new_keyring: bool,
    /// Descriptors from 3 on that it keeps.
    pub(crate) kept: u32,
}

/// The exit status of a process that was never executed, as shells have it.
pub(crate) const NOT_EXECUTED: i32 = 127;

/// Its whole life until its exec; returns its exit status if it gets that far.
pub(crate) fn run(plan: &Plan, given: &Given<'_>) -> i32 {
    let mut started = None;
    let Err(error) = live(plan, given, &mut started);
    let text = format!("{error:#}");
    // To whoever listens now: the parent, or `start`.
    started
        .as_ref()
        .unwrap_or(given.link)
        .send(Word::Failed, &text, &[])
        .ok();
    NOT_EXECUTED
}

fn live(plan: &Plan, given: &Given<'_>, started: &mut Option<Link>) -> Result<Infallible> {
    let link = given.link;
    let mut kept = vec![link.as_fd()];
    kept.extend(given.start.map(AsFd::as_fd));
    kept.extend(given.console.map(AsFd::as_fd));
    kept.extend(given.filter.and_then(Filter::socket));
    // Nothing of the machine's but sockets: a folder that is open is a way out, up to the moment of the exec (CVE-2024-21626).
    close_all_but(given.kept.saturating_add(3), &kept)?;
    let number = link.wait_for(Word::Go)?.text.parse().unwrap_or_default();
    let saved = Saved {
        pid: number,
        ..given.saved.clone()
    };
    if let Some(filter) = given.filter {
        filter.of_process(number);
    }
    // Until the exec nobody in a namespace that is shared may look into this copy of a program of the machine.
    set_dumpable(false)?;
    if plan.new.contains(Namespaces::USER) {
        become_root()?;
        // To become another user makes a process dumpable again.
        set_dumpable(false)?;
    }
    if plan.new.contains(Namespaces::CGROUP) {
        // Only now: its root is the group that the process is in.
        unshare(Namespaces::CGROUP).context("a cgroup namespace")?;
    }
    set(plan)?;
    let root = rootfs::build(plan, link)?;
    let hooks = &plan.hooks;
    if [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.create_container,
    ]
    .iter()
    .any(|hooks| !hooks.is_empty())
    {
        // The parent runs those before ours, and from now on also those that clean up after them.
        link.say(Word::Hooks)?;
        link.wait_for(Word::Go)?;
    }
    let told = saved.told(Status::Created);
    hooks::run("createContainer", &hooks.create_container, &told)?;
    if given.no_pivot {
        move_root(&root)?;
    } else {
        rootfs::pivot(&root)?;
    }
    drop(root);
    if !given.no_new_keyring {
        join_keyring(&saved.id)?;
    }
    let terminal = session(&plan.process)?;
    if let Some(terminal) = &terminal {
        terminal.be_console()?;
        match given.console {
            Some(socket) => terminal::give(socket.as_fd(), terminal.master())?,
            None => link.send(Word::Terminal, "", &[terminal.master().as_fd()])?,
        }
    }
    drop(terminal);
    name(plan)?;
    rootfs::protect(plan)?;
    if let Some(domain) = plan.personality {
        set_personality(domain).context("linux.personality")?;
    }
    let ready = confine(&plan.process, given.filter, given.kept)?;
    link.say(Word::Ready)?;
    match given.start {
        Some(listener) => *started = Some(wait(listener)?),
        None => drop(link.wait_for(Word::Go)?),
    }
    hooks::run("startContainer", &plan.hooks.start_container, &told)?;
    ready.execute(given.filter)
}

/// Root of the user namespace, where that has one.
pub(crate) fn become_root() -> Result<()> {
    // A namespace whose maker may not set groups has none to leave.
    set_groups(&[]).ok();
    set_group(0).context("linux.gidMappings: the container needs a group 0")?;
    set_user(0).context("linux.uidMappings: the container needs a user 0")
}

/// As with an initramfs, which cannot be exchanged: the new root is moved over the old one.
fn move_root(root: &OwnedFd) -> Result<()> {
    kedge_sys::process::fchdir(root)?;
    // What is moved onto a mount that is shared appears on its peers, the machine's root among them.
    mount_change(c"/", MountPropagationFlags::DOWNSTREAM).context("how the old root spreads")?;
    kedge_sys::mount::mount_move(c".", c"/").context("move the root")?;
    kedge_sys::process::chroot(c".").context("change the root")?;
    Ok(kedge_sys::process::chdir(c"/")?)
}

/// A keyring of the container's own; a kernel without keys has none to share either.
pub(crate) fn join_keyring(id: &str) -> Result<()> {
    let name = std::ffi::CString::new(format!("_ses.{id}"))?;
    match kedge_sys::keyring::join_session(&name) {
        Err(error) if error.errno != kedge_sys::Errno::NOSYS => {
            Err(error).context("a session keyring")
        }
        _ => Ok(()),
    }
}

/// What is to be done in the container's namespaces before anything is mounted: a new network has nothing that works, and
/// programs count on their own address.
///
/// Settings by the machine's own `/proc`, as long as that is there: what an image or a volume
/// has in its place would be written to else. Which namespace a setting is one of follows from who writes it.
fn set(plan: &Plan) -> Result<()> {
    if plan.new.contains(Namespaces::NETWORK) {
        bring_loopback_up().context("the loopback of a network namespace")?;
    }
    if plan.settings.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder =
        openat(CWD, c"/proc/sys", flags, Mode::empty()).context("linux.sysctl: /proc/sys")?;
    for (path, value) in &plan.settings {
        let what = || format!("linux.sysctl: {path} = {value}");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = openat2(&folder, path.as_str(), flags, Mode::empty(), how).with_context(what)?;
        kedge_sys::rustix::io::write(file, value.as_bytes()).with_context(what)?;
    }
    Ok(())
}

/// Names of the machine.
fn name(plan: &Plan) -> Result<()> {
    if let Some(name) = &plan.host_name {
        set_host_name(name.as_bytes()).with_context(|| format!("hostname {name}"))?;
    }
    if let Some(name) = &plan.domain_name {
        kedge_sys::rustix::system::setdomainname(name.as_bytes())
            .with_context(|| format!("domainname {name}"))?;
    }
    Ok(())
}

/// Waits for `start`, and returns its connection.
fn wait(listener: &OwnedFd) -> Result<Link> {
    loop {
        let mut list = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut list, None) {
            Ok(_) | Err(kedge_sys::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("wait for start"),
        }
        if let Some(connection) = sock::accept(listener)? {
            return Ok(Link::of(connection));
        }
    }
}
