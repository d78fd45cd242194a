//! What each command does.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::process::{Signal, send_signal, send_signal_number};
use kedge_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use kedge_sys::sock::{self, Kind};

use crate::arguments::{Command, Global};
use crate::config::{self, Linux, Resources};
use crate::create::{self, Created, Starter};
use crate::exec;
use crate::foreground::{Signals, serve};
use crate::hooks;
use crate::link::{Link, Word};
use crate::resources;
use crate::state::{self, Folder, Saved, Status};
use crate::{features, template, usage};

/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does it, and returns this command's exit status.
///
/// # Errors
/// Whatever stands in the way.
pub(crate) fn perform(global: &Global, command: Command) -> Result<u8> {
    let root = &global.root;
    match command {
        Command::Create(options) => {
            let created = create::create(root, &options, Starter::Later)?;
            tell_of(global, &created);
        }
        Command::Run {
            create,
            detach,
            keep,
        } => return run(global, &create, detach, keep),
        Command::Start { id } => start(root, &id)?,
        Command::State { id } => {
            let (folder, saved) = known(root, &id, false)?;
            let status = folder.status(&saved)?;
            print(&serde_json::to_string_pretty(&saved.told(status))?)?;
        }
        Command::Kill { id, signal, all } => kill(root, &id, &signal, all)?,
        Command::Delete { id, force } => delete(root, &id, force)?,
        Command::Exec(options) => return execute(global, &options),
        Command::Ps {
            id,
            json,
            arguments,
        } => ps(root, &id, json, &arguments)?,
        Command::Pause { id } => freeze(root, &id, true)?,
        Command::Resume { id } => freeze(root, &id, false)?,
        Command::Update {
            id,
            resources,
            words,
        } => update(root, &id, resources.as_deref(), &words)?,
        Command::List { json, quiet } => list(root, json, quiet)?,
        Command::Features => print(&serde_json::to_string_pretty(&features::all())?)?,
        Command::Spec { bundle } => template::write(&bundle)?,
        Command::Version => print(&format!(
            "kedge-oci {}\nspec: {}",
            env!("CARGO_PKG_VERSION"),
            state::VERSION
        ))?,
        Command::Help(word) => print(usage::text(word.as_deref())?)?,
    }
    Ok(0)
}

fn print(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", text.trim_end())?;
    Ok(output.flush()?)
}

/// What goes wrong and holds nothing up.
fn warn(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr().lock(), "warning: {text}")?)
}

fn known(root: &Path, id: &str, locked: bool) -> Result<(Folder, Saved)> {
    let folder = Folder::open(root, id, locked)?;
    let saved = folder.load()?;
    Ok((folder, saved))
}

/// Tells what of a document has no effect.
fn tell_of(global: &Global, created: &Created) {
    for text in created.plan.passed_over() {
        crate::warn(global, text);
    }
}

/// Creates and starts; in the foreground also waits, and deletes.
fn run(global: &Global, options: &create::Options, detach: bool, keep: bool) -> Result<u8> {
    let root = &global.root;
    let signals = if detach {
        None
    } else {
        Some(Signals::catch()?)
    };
    if detach && options.console_socket.is_none() {
        let process = config::Spec::load(&options.bundle)?.0.process;
        ensure!(
            !process.is_some_and(|process| process.terminal),
            "process.terminal: with --detach somebody must take the terminal (--console-socket)"
        );
    }
    let mut created = create::create(root, options, Starter::Now)?;
    tell_of(global, &created);
    let begun = begin(&created);
    // Others may stop, change and delete it while it runs.
    created.folder.unlock();
    let status = match (begun, &signals) {
        (Ok(()), None) => return Ok(0),
        (Ok(()), Some(signals)) => serve(signals, &created.process, created.terminal.as_ref()),
        (Err(error), _) => Err(error),
    };
    if (!keep || status.is_err())
        && let Ok(folder) = Folder::open(root, &options.id, true)
    {
        // What failed first is what is told.
        let ended = end(&folder, &created.saved, true);
        if status.is_ok() {
            ended?;
        }
    }
    status
}

/// Has the waiting process execute its program, and runs the hooks that follow.
fn begin(created: &Created) -> Result<()> {
    created.link.say(Word::Go)?;
    executed(&created.link)?;
    let told = created.saved.told(Status::Running);
    hooks::run("poststart", &created.plan.hooks.poststart, &told)
}

/// Waits for the exec, which closes the other end.
fn executed(link: &Link) -> Result<()> {
    match link.receive()? {
        None => Ok(()),
        Some(message) if message.word == Word::Failed => bail!("{}", message.text),
        Some(message) => bail!("{:?} came where nothing was due", message.word),
    }
}

fn start(root: &Path, id: &str) -> Result<()> {
    let (folder, saved) = known(root, id, true)?;
    let status = folder.status(&saved)?;
    ensure!(
        status == Status::Created,
        "cannot start container {id}: it is {}",
        status.word()
    );
    if let Some(group) = saved.group() {
        ensure!(
            !group?.is_frozen()?,
            "cannot start container {id}: it is frozen"
        );
    }
    let spec = folder.spec()?;
    let directory = std::fs::File::open(folder.path())?;
    let path = format!(
        "/proc/self/fd/{}/start",
        std::os::fd::AsRawFd::as_raw_fd(&directory)
    );
    let socket = sock::connect(Path::new(&path), Kind::Messages)
        .context("its process does not wait any more")?;
    // From now on it is no longer merely created, be it that its start fails, or that this command is killed meanwhile.
    std::fs::remove_file(folder.start()).context("it starts")?;
    executed(&Link::of(socket))?;
    let told = saved.told(Status::Running);
    hooks::run("poststart", &spec.hooks.poststart, &told).inspect_err(|_| {
        // Specification, "Lifecycle": the container is stopped then.
        if let Some(process) = saved.process() {
            send_signal(process.as_fd(), Signal::KILL).ok();
        }
    })
}

/// The first signal for real time that programs may use: two below are the C library's own.
const FIRST_OF_REAL_TIME: i32 = 34;
/// The highest signal.
const LAST: i32 = 64;

/// A signal's number by that number, or its name, or as `RTMIN+3`.
fn signal(word: &str) -> Result<i32> {
    let names = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("ILL", Signal::ILL),
        ("TRAP", Signal::TRAP),
        ("ABRT", Signal::ABORT),
        ("BUS", Signal::BUS),
        ("FPE", Signal::FPE),
        ("KILL", Signal::KILL),
        ("USR1", Signal::USR1),
        ("SEGV", Signal::SEGV),
        ("USR2", Signal::USR2),
        ("PIPE", Signal::PIPE),
        ("ALRM", Signal::ALARM),
        ("TERM", Signal::TERM),
        ("CHLD", Signal::CHILD),
        ("CONT", Signal::CONT),
        ("STOP", Signal::STOP),
        ("TSTP", Signal::TSTP),
        ("TTIN", Signal::TTIN),
        ("TTOU", Signal::TTOU),
        ("URG", Signal::URG),
        ("XCPU", Signal::XCPU),
        ("XFSZ", Signal::XFSZ),
        ("VTALRM", Signal::VTALARM),
        ("PROF", Signal::PROF),
        ("WINCH", Signal::WINCH),
        ("IO", Signal::IO),
        ("PWR", Signal::POWER),
        ("SYS", Signal::SYS),
    ];
    let unknown = || format!("{word:?} is no signal");
    if let Ok(number) = word.parse::<i32>() {
        ensure!((1..=LAST).contains(&number), unknown());
        return Ok(number);
    }
    let upper = word.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, signal)) = names.iter().find(|(name, _)| *name == short) {
        return Ok(signal.as_raw());
    }
    let number = |first: i32, rest: &str| first.checked_add(rest.parse::<i32>().ok()?);
    let real = match (short.strip_prefix("RTMIN"), short.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(FIRST_OF_REAL_TIME),
        (_, Some("")) => Some(LAST),
        (Some(rest), _) if rest.starts_with('+') => number(FIRST_OF_REAL_TIME, rest),
        (_, Some(rest)) if rest.starts_with('-') => number(LAST, rest),
        _ => None,
    };
    let real = real.filter(|number| (FIRST_OF_REAL_TIME..=LAST).contains(number));
    real.with_context(unknown)
}

fn kill(root: &Path, id: &str, word: &str, all: bool) -> Result<()> {
    let (folder, saved) = known(root, id, false)?;
    let signal = signal(word)?;
    let status = folder.status(&saved)?;
    if all {
        return kill_all(&saved, signal);
    }
    // The words that podman looks for.
    ensure!(status != Status::Stopped, "container not running");
    let process = saved.process().context("container not running")?;
    send_signal_number(process.as_fd(), signal).context("kill")?;
    if status == Status::Paused && signal == Signal::KILL.as_raw() {
        // Version 2 kills frozen processes as they are; older kernels only once they go on.
        if let Some(group) = saved.group() {
            group?.freeze(false).ok();
        }
    }
    Ok(())
}

fn kill_all(saved: &Saved, signal: i32) -> Result<()> {
    let group = saved.group().transpose()?;
    match group {
        Some(group) if signal == Signal::KILL.as_raw() => group.kill(),
        _ => {
            for process in processes(saved)? {
                let pid = kedge_sys::process::Pid::from_raw(process);
                if let Some(pidfd) = pid.and_then(|pid| kedge_sys::process::open_pidfd(pid).ok()) {
                    send_signal_number(pidfd.as_fd(), signal).ok();
                }
            }
            Ok(())
        }
    }
}

/// Its processes: by its control group, or else by its pid namespace.
fn processes(saved: &Saved) -> Result<Vec<i32>> {
    if let Some(group) = saved.group() {
        return Ok(group?.processes());
    }
    let link = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(own) = link(saved.pid) else {
        return Ok(Vec::new());
    };
    if std::fs::read_link("/proc/self/ns/pid").ok().as_ref() == Some(&own) {
        // It shares the machine's: only the first process is known.
        return Ok(vec![saved.pid]);
    }
    let all = std::fs::read_dir("/proc")?.flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut all: Vec<_> = all
        .filter(|pid| link(*pid).as_ref() == Some(&own))
        .collect();
    all.sort_unstable();
    Ok(all)
}

fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    let folder = match Folder::open(root, id, true) {
        Err(_) if force && !Folder::is_there(root, id)? => return Ok(()),
        other => other?,
    };
    let saved = match folder.load() {
        Ok(saved) => saved,
        // One whose creation was cut off. What is there and cannot be read says nothing of its process.
        Err(error) if force && is_missing(&error) => return folder.remove(),
        Err(error) => return Err(error),
    };
    end(&folder, &saved, force)
}

/// Whether a file is not there.
fn is_missing(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Removes what is left of a container, and its processes if that is wanted.
fn end(folder: &Folder, saved: &Saved, force: bool) -> Result<()> {
    let status = folder.status(saved)?;
    ensure!(
        force || matches!(status, Status::Stopped | Status::Created),
        "cannot delete container {}: it is {} (--force kills it)",
        saved.id,
        status.word()
    );
    let spec = folder.spec();
    if let Some(process) = saved.process() {
        send_signal(process.as_fd(), Signal::KILL).ok();
        if status == Status::Paused {
            kill_all(saved, Signal::KILL.as_raw())?;
        }
        let mut list = [PollFd::new(&process, PollFlags::IN)];
        let timeout = Timespec::try_from(PATIENCE)?;
        let ended = poll(&mut list, Some(&timeout))?;
        ensure!(ended > 0, "its process {} does not end", saved.pid);
    }
    if let Some(path) = &saved.cgroup
        && let Ok(group) = crate::cgroup::Group::open(path.clone())
    {
        group.clear()?;
    }
    folder.remove()?;
    let hooks = spec.map(|spec| spec.hooks.poststop).unwrap_or_default();
    for error in hooks::poststop(&hooks, &saved.told(Status::Stopped)) {
        warn(&format!("{error:#}"))?;
    }
    Ok(())
}

fn execute(global: &Global, options: &exec::Options) -> Result<u8> {
    let signals = if options.detach {
        None
    } else {
        Some(Signals::catch()?)
    };
    let executed = exec::exec(&global.root, options)?;
    for text in &executed.passed_over {
        crate::warn(global, text);
    }
    match signals {
        None => Ok(0),
        Some(signals) => serve(&signals, &executed.process, executed.terminal.as_ref()),
    }
}

fn ps(root: &Path, id: &str, json: bool, arguments: &[String]) -> Result<()> {
    let (_, saved) = known(root, id, false)?;
    let all = processes(&saved)?;
    if json {
        return print(&serde_json::to_string(&all)?);
    }
    let default = ["-ef".to_owned()];
    let arguments = if arguments.is_empty() {
        &default[..]
    } else {
        arguments
    };
    let output = std::process::Command::new("ps").args(arguments).output();
    let output = output.context("ps: --format json does without it")?;
    ensure!(
        output.status.success(),
        "ps {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let column = title
        .split_whitespace()
        .position(|word| word == "PID")
        .context("ps prints no column PID")?;
    let of = |line: &&str| {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: i32| all.contains(&pid))
    };
    let rows: Vec<_> = std::iter::once(title).chain(lines.filter(of)).collect();
    print(&rows.join("\n"))
}

fn freeze(root: &Path, id: &str, frozen: bool) -> Result<()> {
    let (folder, saved) = known(root, id, true)?;
    let status = folder.status(&saved)?;
    let (wanted, word) = if frozen {
        (Status::Running, "pause")
    } else {
        (Status::Paused, "resume")
    };
    ensure!(
        status == wanted,
        "cannot {word} container {id}: it is {}",
        status.word()
    );
    let group = saved
        .group()
        .context("it has no control group: this machine has none of version 2")?;
    group?.freeze(frozen)
}

fn update(root: &Path, id: &str, file: Option<&str>, words: &[(&str, String)]) -> Result<()> {
    let (folder, saved) = known(root, id, true)?;
    ensure!(
        folder.status(&saved)? != Status::Stopped,
        "container not running"
    );
    let mut document = match file {
        None => serde_json::json!({}),
        Some("-") => {
            serde_json::from_reader(std::io::Read::take(std::io::stdin(), config::LONGEST))
                .context("standard input")?
        }
        Some(path) => serde_json::from_slice(&config::read_up_to(Path::new(path))?)
            .with_context(|| format!("in {path}"))?,
    };
    for (member, value) in words {
        let (group, name) = member.split_once('.').unwrap_or((member, ""));
        let value = match value.parse::<i64>() {
            Ok(number) if !matches!(name, "cpus" | "mems") => number.into(),
            _ => serde_json::Value::from(value.as_str()),
        };
        let object = document
            .as_object_mut()
            .context("the resources are no object")?;
        let entry = object.entry(group).or_insert_with(|| serde_json::json!({}));
        entry
            .as_object_mut()
            .with_context(|| format!("{group} is no object"))?
            .insert(name.to_owned(), value);
    }
    let mut wanted: Resources = serde_json::from_value(document)?;
    let Linux {
        devices, resources, ..
    } = folder.spec()?.linux;
    let created = resources.unwrap_or_default();
    let check = &mut wanted.memory.check_before_update;
    *check = check.or(created.memory.check_before_update);
    let limits = resources::limits(Some(&wanted), &devices)?;
    // Engines say again what the container was created with.
    ensure!(
        wanted.devices.is_empty()
            || limits.devices == resources::limits(Some(&created), &devices)?.devices,
        "resources.devices cannot be changed once a container is created"
    );
    let group = saved
        .group()
        .context("it has no control group: this machine has none of version 2")??;
    group.hand_on(&limits)?;
    group.limit(&limits)
}

fn list(root: &Path, json: bool, quiet: bool) -> Result<()> {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for id in state::ids(root)? {
        // Deleted between two looks.
        let Ok((folder, saved)) = known(root, &id, false) else {
            continue;
        };
        let Ok(status) = folder.status(&saved) else {
            continue;
        };
        if json {
            values.push(serde_json::to_value(saved.told(status))?);
        }
        rows.push([
            saved.id.clone(),
            if status == Status::Stopped {
                "0".to_owned()
            } else {
                saved.pid.to_string()
            },
            status.word().to_owned(),
            saved.bundle.display().to_string(),
            saved.created.clone(),
        ]);
    }
    if json {
        return print(&serde_json::to_string(&values)?);
    }
    if quiet {
        return rows.iter().try_for_each(|[id, ..]| print(id));
    }
    rows.insert(
        0,
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED"].map(str::to_owned),
    );
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..5).map(width).collect();
    for row in &rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        print(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_deleted_is_told_with_force_too() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        delete(root, "nobody", true).unwrap();
        delete(root, "nobody", false).unwrap_err();
        delete(root, "no/body", true).unwrap_err();
        // One whose creation was cut off.
        drop(Folder::make(root, "half").unwrap());
        delete(root, "half", false).unwrap_err();
        delete(root, "half", true).unwrap();
        assert!(!root.join("half").exists());
        // One of which nobody knows whether it runs.
        let folder = Folder::make(root, "garbled").unwrap();
        folder.put("state.json", b"{").unwrap();
        drop(folder);
        let error = format!("{:#}", delete(root, "garbled", true).unwrap_err());
        assert!(error.contains("state.json"), "{error}");
        assert!(root.join("garbled").exists());
        // What is no folder of containers.
        let error = delete(&root.join("garbled/state.json"), "one", true);
        error.unwrap_err();
    }

    #[test]
    fn signals_are_known_by_number_and_name() {
        for word in ["9", "KILL", "SIGKILL", "sigkill"] {
            assert_eq!(signal(word).unwrap(), 9, "{word}");
        }
        for (word, number) in [
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("37", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(signal(word).unwrap(), number, "{word}");
        }
        for word in [
            "0", "", "SIG", "KILLS", "-9", "65", "RTMIN+31", "RTMIN-1", "RTMAX+1",
        ] {
            signal(word).unwrap_err();
        }
    }
}
