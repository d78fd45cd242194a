//! What a confined process sees, and what it is refused: names and values, for a test to judge.

use crate::escapes::ESCAPES;
use kedge_sys::clone::Namespaces;
use kedge_sys::process;
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::ExitCode;

/// A name and what was found.
pub(crate) type Fact = (String, String);

/// Everything, in a fixed order.
pub(crate) fn all() -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
    for name in ["uid_map", "gid_map", "cgroup", "oom_score_adj"] {
        add(name, words(&text(&format!("/proc/self/{name}"))));
    }
    for (key, value) in status() {
        add(&key, value);
    }
    for name in ["mnt", "pid", "ipc", "uts", "cgroup", "user", "net"] {
        let link = fs::read_link(format!("/proc/self/ns/{name}"));
        add(
            &format!("ns-{name}"),
            link.map_or_else(|error| refused(&error), |link| link.display().to_string()),
        );
    }
    add("pid", std::process::id().to_string());
    add(
        "processes",
        names("/proc")
            .into_iter()
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
            .count()
            .to_string(),
    );
    add(
        "hostname",
        text("/proc/sys/kernel/hostname").trim().to_owned(),
    );
    add("sysrq", text("/proc/sys/kernel/sysrq").trim().to_owned());
    add("uid", rustix::process::getuid().as_raw().to_string());
    add("gid", rustix::process::getgid().as_raw().to_string());
    add(
        "cwd",
        std::env::current_dir()
            .map_or_else(|error| refused(&error), |path| path.display().to_string()),
    );
    for (name, value) in std::env::vars() {
        add(&format!("env-{name}"), value);
    }
    add("dev", names("/dev").join(" "));
    add("interfaces", names("/sys/class/net").join(" "));
    add("mounts", mounts());
    let mut proc = names("/proc");
    proc.retain(|name| name.parse::<u32>().is_err());
    add("proc", proc.join(" "));
    let escapes = ESCAPES
        .iter()
        .map(|(name, attempt)| ("escape", name, attempt));
    let attempts = ATTEMPTS
        .iter()
        .map(|(name, attempt)| ("try", name, attempt));
    for (kind, name, attempt) in escapes.chain(attempts) {
        add(
            &format!("{kind}-{name}"),
            attempt().map_or_else(|error| refused(&error), |()| "allowed".to_owned()),
        );
    }
    facts
}

/// Something that may be refused.
pub(crate) type Attempt = fn() -> io::Result<()>;

/// What a container must not be able to do, and a few things that it must. Each says `allowed`, or the error's number.
const ATTEMPTS: [(&str, Attempt); 36] = [
    ("mount", || {
        Ok(mount(c"none", c"/tmp", c"tmpfs", MountFlags::empty(), c"")?)
    }),
    ("mount-proc", || {
        Ok(mount(c"none", c"/tmp", c"proc", MountFlags::empty(), c"")?)
    }),
    ("remount-root", || {
        Ok(rustix::mount::mount_remount(c"/", MountFlags::BIND, c"")?)
    }),
    ("open-mem", || File::open("/dev/mem").map(drop)),
    ("open-kmsg", || File::open("/dev/kmsg").map(drop)),
    ("open-disk", || File::open("/dev/vda").map(drop)),
    ("make-disk-node", || {
        let device = rustix::fs::makedev(254, 0);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            "/dev/shm/disk",
            rustix::fs::FileType::BlockDevice,
            mode,
            device,
        )?;
        Ok(())
    }),
    ("write-proc-sys", || {
        write("/proc/sys/kernel/hostname", "taken")
    }),
    ("write-sysrq", || write("/proc/sysrq-trigger", "b")),
    ("write-sys", || {
        write("/sys/module/kernel/parameters/panic", "0")
    }),
    ("read-kcore", || read_some("/proc/kcore")),
    ("write-root", || write("/written", "x")),
    ("set-host-name", || {
        Ok(rustix::system::sethostname(b"taken")?)
    }),
    ("set-clock", || {
        let time = rustix::time::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        Ok(rustix::time::clock_settime(
            rustix::time::ClockId::Realtime,
            time,
        )?)
    }),
    ("bind-80", || TcpListener::bind("0.0.0.0:80").map(drop)),
    ("new-user-namespace", new_user_namespace),
    ("new-mount-namespace", || {
        plain(process::unshare(Namespaces::MOUNT))
    }),
    ("enter-own-namespace", || {
        let own = File::open("/proc/self/ns/uts")?;
        plain(process::enter_namespace(own.as_fd()))
    }),
    ("pivot-root", || Ok(rustix::process::pivot_root("/", "/")?)),
    ("join-keyring", || {
        plain(kedge_sys::keyring::join_session(c"x"))
    }),
    ("add-key", || {
        plain(kedge_sys::keyring::add_user(c"kedge-probe", b"x").map(drop))
    }),
    ("request-key", || {
        plain(kedge_sys::keyring::request_user(c"kedge-probe").map(drop))
    }),
    ("write-program", || {
        File::options().write(true).open("/proc/self/exe").map(drop)
    }),
    ("load-module", || {
        plain(kedge_sys::module::load_image(b"\x7fELF", c"").map(drop))
    }),
    ("attach-bpf", || {
        let group = File::open("/")?;
        plain(kedge_sys::bpf::attach_device_program(group.as_fd(), &[]))
    }),
    ("turn-ctrl-alt-del", || {
        plain(kedge_sys::reboot::ctrl_alt_del_to_init())
    }),
    // In the container's own namespace of processes nobody else is there to be traced or signalled.
    ("read-kernel-thread", || {
        let name = fs::read_to_string("/proc/2/comm").unwrap_or_default();
        // Nobody, or a thread of the container's own, which may end meanwhile.
        let is_kernels = name.trim() == "kthreadd";
        is_kernels
            .then_some(())
            .ok_or_else(|| io::Error::from_raw_os_error(2))
    }),
    ("write-core-pattern", || {
        write("/proc/sys/kernel/core_pattern", "|/bin/sh")
    }),
    ("write-uevent-helper", || {
        write("/sys/kernel/uevent_helper", "/bin/sh")
    }),
    ("write-cgroup", || write("/sys/fs/cgroup/cgroup.procs", "0")),
    ("raise-memory-limit", || {
        write("/sys/fs/cgroup/memory.max", "max")
    }),
    ("look-into-first", || fs::read("/proc/1/environ").map(drop)),
    ("move-file", || move_file("/dev/shm")),
    ("move-file-of-root", || move_file("")),
    ("socket-of-8080", || abstract_socket("8080")),
    ("socket-of-8081", || abstract_socket("8081")),
];

/// Moves a file into another directory, and links it back.
fn move_file(place: &str) -> io::Result<()> {
    let folder = format!("{place}/move-{}", std::process::id());
    let inside = |name: &str| format!("{folder}/{name}");
    fs::create_dir_all(inside("a"))?;
    fs::create_dir_all(inside("b"))?;
    File::create_new(inside("a/file"))?;
    rustix::fs::rename(inside("a/file"), inside("b/file"))?;
    fs::hard_link(inside("b/file"), inside("a/link"))?;
    fs::remove_dir_all(folder)
}

/// Whether the socket of another container is out of reach, though it is there: a health command, and one that says more
/// than any pipe holds.
pub(crate) fn apart() -> ExitCode {
    let much = vec![b'x'; 300_000];
    if io::stdout().write_all(&much).is_err() || io::stderr().write_all(&much).is_err() {
        return ExitCode::FAILURE;
    }
    match abstract_socket("8080").map_err(|error| error.kind()) {
        Err(io::ErrorKind::PermissionDenied) => ExitCode::SUCCESS,
        Ok(()) | Err(_) => ExitCode::FAILURE,
    }
}

/// Connects to the socket without a file that the server of a port has in its namespace of networks.
fn abstract_socket(port: &str) -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(format!("kedge-{port}"))?;
    UnixStream::connect_addr(&address).map(drop)
}

pub(crate) fn plain(result: Result<(), kedge_sys::Error>) -> io::Result<()> {
    result.map_err(|error| io::Error::from_raw_os_error(error.errno.raw_os_error()))
}

/// In a thread of its own: a thread that has left its namespaces must not go on with anything else.
fn new_user_namespace() -> io::Result<()> {
    // The call asks for a new user namespace and nothing else; with other threads alive the kernel
    // refuses it with EINVAL, which a seccomp filter pre-empts with EPERM.
    let asked = std::thread::spawn(|| process::unshare(Namespaces::USER)).join();
    plain(asked.map_err(|_| io::Error::other("the thread ended"))?)
}

fn refused(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |number| number.to_string())
}

fn write(path: &str, text: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .create(path.starts_with("/written"))
        .truncate(false)
        .open(path)?
        .write_all(text.as_bytes())
}

fn read_some(path: &str) -> io::Result<()> {
    use std::io::Read;
    let mut buffer = [0; 16];
    match File::open(path)?.read(&mut buffer)? {
        0 => Err(io::Error::other("empty")),
        _ => Ok(()),
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| refused(&error))
}

fn words(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn names(folder: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    names.sort_unstable();
    names
}

/// The lines of `/proc/self/status` that speak of privilege.
fn status() -> Vec<Fact> {
    const WANTED: [&str; 8] = [
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Groups",
    ];
    text("/proc/self/status")
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| WANTED.contains(key))
        .map(|(key, value)| (key.to_owned(), words(value)))
        .collect()
}

/// `/proc/self/mountinfo` as `POINT:TYPE:ro` or `:rw`.
fn mounts() -> String {
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let point = fields.nth(4)?;
        let options = fields.next()?;
        let kind = line.split(" - ").nth(1)?.split(' ').next()?;
        let access = options.split(',').next()?;
        Some(format!("{point}:{kind}:{access}"))
    };
    text("/proc/self/mountinfo")
        .lines()
        .filter_map(line)
        .collect::<Vec<_>>()
        .join(" ")
}
