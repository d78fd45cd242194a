//! What containers get and are refused, as programs in them find out: checks on a boot of another test.

use anyhow::{Context, Result, ensure};
use kedge_tests::guest::{Guest, LogLine};
use std::collections::BTreeMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// By the filter of system calls; for want of a capability, which is asked later, the number is the same.
const EPERM: &[&str] = &["1"];
/// It is not there.
const ENOENT: &[&str] = &["2"];
/// By Landlock, which is asked before the read-only mount.
const EACCES: &[&str] = &["13"];
const EROFS: &[&str] = &["30"];
/// A masked file that is read has nothing in it, and a kernel may have none.
const EMPTY_OR_ENOENT: &[&str] = &["empty", "2"];

/// Facts by name, as the program in a container says them.
fn facts(lines: &[LogLine]) -> BTreeMap<String, String> {
    let facts = lines
        .iter()
        .filter_map(|line| line.text.strip_prefix("fact "));
    let pair = |fact: &str| {
        let (name, value) = fact.split_once(' ').unwrap_or((fact, ""));
        (name.to_owned(), value.to_owned())
    };
    facts.map(pair).collect()
}

/// How the last line begins that a container says of itself.
pub(super) const LAST_FACT: &str = "fact try-socket-of-8081";

pub(super) fn facts_of(guest: &Guest, container: &str) -> Result<BTreeMap<String, String>> {
    guest.wait_for_log(container, LAST_FACT, SOON)?;
    Ok(facts(&guest.logs(container)?))
}

fn expect_fact(facts: &BTreeMap<String, String>, name: &str, expected: &str) -> Result<()> {
    let found = facts.get(name).map_or("nothing", String::as_str);
    ensure!(found == expected, "{name} is {found:?}, not {expected:?}");
    Ok(())
}

/// That these are refused, and each in its own way: one that is refused for another reason is held back by nothing that is
/// meant to.
fn expect_refused<'a>(
    facts: &BTreeMap<String, String>,
    attempts: impl IntoIterator<Item = &'a (&'a str, &'a [&'a str])>,
) -> Result<()> {
    let wrong: Vec<String> = attempts
        .into_iter()
        .map(|(name, errnos)| {
            (
                name,
                errnos,
                facts.get(*name).map_or("nothing", String::as_str),
            )
        })
        .filter(|(_, errnos, found)| !errnos.contains(found))
        .map(|(name, errnos, found)| format!("{name}: {found}, not {errnos:?}"))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

pub(super) fn confinement(guest: &mut Guest) -> Result<()> {
    let facts = facts_of(guest, "confined")?;
    let map = facts.get("uid_map").context("no uid_map")?;
    let fields: Vec<&str> = map.split(' ').collect();
    ensure!(
        matches!(fields.as_slice(), ["0", base, "65536"] if *base != "0"),
        "uid_map {map}"
    );
    for set in ["CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh"] {
        expect_fact(&facts, set, "0000000000000000")?;
    }
    expect_fact(&facts, "NoNewPrivs", "1")?;
    expect_fact(&facts, "Seccomp", "2")?;
    expect_fact(&facts, "pid", "1")?;
    expect_fact(&facts, "processes", "1")?;
    expect_fact(&facts, "hostname", "confined")?;
    // No keyboard gives the kernel orders.
    expect_fact(&facts, "sysrq", "0")?;
    expect_fact(&facts, "interfaces", "lo")?;
    expect_fact(&facts, "cgroup", "0::/")?;
    let mounts = facts.get("mounts").context("no mounts")?;
    ensure!(
        mounts
            .split(' ')
            .any(|mount| mount.starts_with("/:") && mount.ends_with(":ro")),
        "the root can be written: {mounts}"
    );
    ensure!(
        mounts
            .split(' ')
            .any(|mount| mount.starts_with("/sys:") && mount.ends_with(":ro")),
        "/sys can be written: {mounts}"
    );
    covered(&facts)?;
    expect_fact(&facts, "try-move-file", "allowed")?;
    expect_fact(&facts, "try-write-program", "30")?;
    // By Landlock, which is asked first; a capability that nobody here has would say 1.
    expect_fact(&facts, "try-make-disk-node", "13")?;
    expect_refused(&facts, &ATTEMPTS)
}

/// What tells of the machine is covered, and what steers it is a mount of its own that nobody writes to.
fn covered(facts: &BTreeMap<String, String>) -> Result<()> {
    // Those that the kernel has.
    const MASKED: [&str; 7] = [
        "keys",
        "timer_list",
        "kcore",
        "acpi",
        "asound",
        "scsi",
        "latency_stats",
    ];
    const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
    let words = |name: &str| -> Result<Vec<&str>> {
        let words = facts.get(name).with_context(|| format!("no {name}"))?;
        Ok(words.split(' ').collect())
    };
    let (names, mounts) = (words("proc")?, words("mounts")?);
    let masked = MASKED.map(|name| (name, format!("/proc/{name}:tmpfs:ro")));
    let read_only = READ_ONLY.map(|name| (name, format!("/proc/{name}:proc:ro")));
    for (name, mount) in masked.iter().chain(&read_only) {
        ensure!(
            !names.contains(name) || mounts.contains(&mount.as_str()),
            "no {mount} in {mounts:?}"
        );
    }
    let always = ["keys", "timer_list", "bus", "fs", "irq", "sys"];
    let absent = always.iter().find(|name| !names.contains(name));
    ensure!(absent.is_none(), "no /proc/{absent:?}");
    Ok(())
}

/// What no container of the product may do, however it is widened.
const ATTEMPTS: [(&str, &[&str]); 29] = [
    ("try-mount", EPERM),
    ("try-mount-proc", EPERM),
    ("try-remount-root", EPERM),
    ("try-open-mem", ENOENT),
    ("try-open-kmsg", ENOENT),
    ("try-open-disk", ENOENT),
    ("try-make-disk-node", EACCES),
    ("try-write-proc-sys", EACCES),
    ("try-write-sysrq", EACCES),
    ("try-write-sys", EACCES),
    ("try-read-kcore", EMPTY_OR_ENOENT),
    ("try-write-root", EROFS),
    ("try-set-host-name", EPERM),
    ("try-set-clock", EPERM),
    ("try-new-user-namespace", EPERM),
    ("try-new-mount-namespace", EPERM),
    ("try-enter-own-namespace", EPERM),
    ("try-pivot-root", EPERM),
    ("try-join-keyring", EPERM),
    ("try-add-key", EPERM),
    ("try-request-key", EPERM),
    ("try-load-module", EPERM),
    ("try-attach-bpf", EPERM),
    ("try-turn-ctrl-alt-del", EPERM),
    ("try-read-kernel-thread", ENOENT),
    ("try-write-core-pattern", EACCES),
    // Debian's kernels have no such file.
    ("try-write-uevent-helper", &["2", "13"]),
    ("try-write-cgroup", EACCES),
    ("try-raise-memory-limit", EACCES),
];

pub(super) fn widened(guest: &mut Guest) -> Result<()> {
    let facts = facts_of(guest, "widened")?;
    // CHOWN is bit 0, NET_BIND_SERVICE bit 10.
    expect_fact(&facts, "CapEff", "0000000000000401")?;
    expect_fact(&facts, "CapBnd", "0000000000000401")?;
    expect_fact(&facts, "try-bind-80", "allowed")?;
    expect_fact(&facts, "try-write-root", "allowed")?;
    expect_fact(&facts, "try-move-file-of-root", "allowed")?;
    // ETXTBSY: its root may be written to, what runs may not.
    expect_fact(&facts, "try-write-program", "26")?;
    let rest = ATTEMPTS
        .iter()
        .filter(|(name, _)| *name != "try-write-root");
    expect_refused(&facts, rest)?;
    let other = facts_of(guest, "confined")?;
    for name in ["mnt", "pid", "ipc", "uts", "cgroup", "user", "net"] {
        let name = format!("ns-{name}");
        ensure!(
            facts.get(&name) != other.get(&name),
            "two containers share {name}"
        );
    }
    ensure!(
        facts.get("uid_map") != other.get("uid_map"),
        "two containers have the same ids on the device"
    );
    Ok(())
}

pub(super) fn someone(guest: &mut Guest) -> Result<()> {
    let facts = facts_of(guest, "someone")?;
    expect_fact(&facts, "uid", "1000")?;
    expect_fact(&facts, "gid", "1001")?;
    expect_fact(&facts, "Groups", "7 9")?;
    expect_fact(&facts, "cwd", "/srv/work")?;
    expect_fact(&facts, "env-PATH", "/bin")?;
    expect_fact(&facts, "env-COLOUR", "green blue")?;
    expect_fact(&facts, "CapEff", "0000000000000000")?;
    expect_refused(&facts, &ATTEMPTS)
}

pub(super) fn host_network(guest: &mut Guest) -> Result<()> {
    // `ill` is in the same namespace: its socket is in sight, and out of reach.
    let facts = guest.wait("web answers, and sees a socket of another", SOON, |guest| {
        let answer = guest.get(8080, "/facts")?;
        let facts: BTreeMap<String, String> =
            serde_json::from_str(&answer.body).context("no facts")?;
        expect_fact(&facts, "try-socket-of-8081", "1").map(|()| Some(facts))
    })?;
    let interfaces = facts.get("interfaces").context("no interfaces")?;
    ensure!(interfaces.contains("eth0"), "host network has {interfaces}");
    // A server of an unprivileged user namespace may have any port there.
    expect_fact(&facts, "try-bind-80", "allowed")?;
    expect_fact(&facts, "try-socket-of-8080", "allowed")?;
    // It is ready once its health command finds that socket out of reach, whatever this writes.
    guest.wait("a health command is fenced, and may write", SOON, |guest| {
        let apart = guest.container("apart")?;
        Ok((apart.get("ready") == Some(&true.into())).then_some(()))
    })?;
    let rest = ATTEMPTS
        .iter()
        .filter(|(name, _)| *name != "try-write-root");
    expect_refused(&facts, rest)
}
