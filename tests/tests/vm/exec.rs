//! Commands in containers, what containers are and use, and logs from a time on: checks on a boot of another test.

use crate::confined::LAST_FACT;
use anyhow::{Context, Result, bail, ensure};
use kedge_tests::guest::{Guest, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

pub(super) fn kedge(guest: &Guest, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kedge"));
    command
        .args(["ctl", "--socket"])
        .arg(guest.control_socket())
        .args(words);
    command
}

/// Runs it with an input; what it printed, and its exit code.
pub(super) fn run(guest: &Guest, words: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = kedge(guest, words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no input")?;
    let input = input.to_vec();
    // Beside the reading of its output, of which as much may come.
    let writer = std::thread::spawn(move || stdin.write_all(&input).ok());
    let output = child.wait_with_output()?;
    writer.join().ok();
    Ok(output)
}

/// Begins a command that goes on beside what follows, for so many seconds: the control port has one client at a time.
pub(super) fn begin_beside(guest: &Guest, container: &str, word: &str, seconds: u64) -> Result<()> {
    let seconds = seconds.to_string();
    let words = ["exec", container, "/probe", "beside", word, &seconds];
    let begun = run(guest, &words, b"")?;
    ensure!(begun.stdout == b"started\n", "{begun:?}");
    Ok(())
}

/// What it says at its end, which has this word.
pub(super) fn end_beside(guest: &Guest, container: &str, wanted: &str) -> Result<String> {
    let mut last = String::new();
    let end = guest.wait("a command's end", SOON, |guest| {
        let said = run(guest, &["exec", container, "/probe", "said"], b"")?;
        last = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(last.contains(wanted).then(|| last.clone()))
    });
    end.with_context(|| format!("it said {last:?}"))
}

fn expect(output: &Output, code: i32) -> Result<()> {
    ensure!(output.status.code() == Some(code), "not {code}: {output:?}");
    Ok(())
}

/// Codes, streams, input, user, folder, environment.
pub(super) fn commands(guest: &mut Guest) -> Result<()> {
    let said = run(guest, &["exec", "web", "/probe", "end", "7"], b"")?;
    expect(&said, 7)?;
    ensure!(
        said.stdout == b"ended\n" && said.stderr.is_empty(),
        "{said:?}"
    );
    let missing = run(guest, &["exec", "web", "/missing"], b"")?;
    expect(&missing, 127)?;
    let why = String::from_utf8_lossy(&missing.stderr);
    ensure!(why.contains("/missing is not found"), "{why}");
    let forbidden = run(guest, &["exec", "web", "/etc"], b"")?;
    expect(&forbidden, 126)?;
    let nobody = run(guest, &["exec", "nobody", "id"], b"")?;
    expect(&nobody, 125)?;
    let why = String::from_utf8_lossy(&nobody.stderr);
    ensure!(why.contains("no such container"), "{why}");
    let ended = run(guest, &["exec", "setup", "/probe"], b"")?;
    let why = String::from_utf8_lossy(&ended.stderr);
    ensure!(why.contains("the container does not run"), "{why}");
    // More than any buffer on the way holds.
    let much: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let copied = run(guest, &["exec", "-i", "web", "/probe", "copy"], &much)?;
    expect(&copied, 0)?;
    ensure!(
        copied.stdout == much,
        "{} bytes came back",
        copied.stdout.len()
    );
    ensure!(copied.stderr == b"copied 1200000\n", "{:?}", copied.stderr);
    // Without -i there is nothing to read.
    let empty = run(guest, &["exec", "web", "/probe", "copy"], b"typed")?;
    ensure!(empty.stderr == b"copied 0\n", "{empty:?}");
    Ok(())
}

fn facts(output: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(output).into_owned();
    let facts = text.lines().filter_map(|line| line.strip_prefix("fact "));
    let pair = |fact: &str| {
        let (name, value) = fact.split_once(' ').unwrap_or((fact, ""));
        (name.to_owned(), value.to_owned())
    };
    facts.map(pair).collect()
}

/// What a container's process has found, and a command in it.
fn both(guest: &Guest, container: &str) -> Result<[BTreeMap<String, String>; 2]> {
    guest.wait_for_log(container, LAST_FACT, SOON)?;
    let own: String = guest
        .logs(container)?
        .iter()
        .map(|line| format!("{}\n", line.text))
        .collect();
    let said = run(guest, &["exec", container, "/probe", "look"], b"")?;
    expect(&said, 0)?;
    Ok([facts(own.as_bytes()), facts(&said.stdout)])
}

/// A command is where its container's process is, and may no more; nothing of the device's comes along.
pub(super) fn confined(guest: &mut Guest) -> Result<()> {
    for container in ["confined", "widened", "someone"] {
        let [own, found] = both(guest, container)?;
        for (name, value) in &own {
            // It is another process, and there is one more.
            if ["pid", "processes"].contains(&name.as_str()) {
                continue;
            }
            // Landlock is not around it: what refuses a node is that nobody here has the capability, and it may look into
            // the container's first process.
            let wanted = match name.as_str() {
                "try-make-disk-node" => "1",
                "try-look-into-first" => "allowed",
                _ => value.as_str(),
            };
            let here = found.get(name).map_or("nothing", String::as_str);
            ensure!(here == wanted, "{container}: {name}: {here}, not {wanted}");
        }
    }
    let said = run(guest, &["exec", "confined", "/probe", "descriptors"], b"")?;
    ensure!(said.stdout == b"0 1 2\n", "{said:?}");
    // By an open folder of the device's a command could leave its container (CVE-2024-21626).
    for number in 3..40 {
        let folder = format!("/proc/self/fd/{number}");
        let words = [
            "exec",
            "--workdir",
            &folder,
            "confined",
            "/probe",
            "end",
            "0",
        ];
        expect(&run(guest, &words, b"")?, 126)?;
    }
    // The program that starts it is the device's own (CVE-2019-5736): it is not run there, let alone written to.
    let ours = run(guest, &["exec", "confined", "/proc/self/exe"], b"")?;
    expect(&ours, 126)?;
    snooped(guest)?;
    let words = [
        "exec",
        "--user",
        "1234:5678",
        "--workdir",
        "/tmp",
        "--env",
        "COLOUR=red",
        "someone",
        "/probe",
        "look",
    ];
    let other = facts(&run(guest, &words, b"")?.stdout);
    for (name, value) in [
        ("uid", "1234"),
        ("gid", "5678"),
        ("Groups", ""),
        ("cwd", "/tmp"),
        ("env-COLOUR", "red"),
        ("CapEff", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let found = other.get(name).map_or("nothing", String::as_str);
        ensure!(found == value, "{name} is {found:?}, not {value:?}");
    }
    Ok(())
}

/// A command may look into all of its container, and yet sees nothing of another one that still is on its way from PID 1.
fn snooped(guest: &Guest) -> Result<()> {
    begin_beside(guest, "confined", "snoop", 6)?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        let words = ["exec", "confined", "/probe", "end", "0"];
        expect(&run(guest, &words, b"")?, 0)?;
    }
    let text = end_beside(guest, "confined", "snooped")?;
    let met = text.strip_prefix("snooped ").map(str::trim);
    let met: u32 = met.and_then(|met| met.parse().ok()).unwrap_or(0);
    // Nothing else was said, and it has met some.
    ensure!(met >= 4, "{text}");
    Ok(())
}

/// One side of a command's connection, written anew here: it must not share the mistakes of the product's own.
struct Session(UnixStream, Vec<u8>);

impl Session {
    fn begin(guest: &Guest, container: &str, body: &str) -> Result<Self> {
        let mut stream = UnixStream::connect(guest.control_socket())?;
        stream.set_read_timeout(Some(SOON))?;
        let length = body.len();
        let id = format!("exec-{:?}", Instant::now());
        let id: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
        let head = format!(
            "\r\nPOST /v1/containers/{container}/exec HTTP/1.1\r\nx-request-id: {id}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes())?;
        let mut session = Self(stream, Vec::new());
        let ours = format!("x-request-id: {id}\r\n\r\n").into_bytes();
        let at = session.until(|got| find(got, &ours))?;
        let head = session.1.drain(..at + ours.len()).collect();
        let head = String::from_utf8(head)?;
        ensure!(head.contains("HTTP/1.1 101 "), "{head}");
        Ok(session)
    }

    fn until<T>(&mut self, wanted: impl Fn(&[u8]) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = wanted(&self.1) {
                return Ok(found);
            }
            let mut more = [0; 512];
            let count = self.0.read(&mut more);
            let count = count.with_context(|| format!("only {:?} came", self.1))?;
            if count == 0 {
                bail!("it ended after {:?}", self.1);
            }
            self.1.extend(more.iter().take(count));
        }
    }

    fn types(&mut self, text: &str) -> Result<()> {
        let length = u16::try_from(text.len())?.to_be_bytes();
        self.0
            .write_all(&[&b"i"[..], &length, text.as_bytes()].concat())?;
        Ok(())
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|some| some == wanted)
}

/// A terminal has a size that changes, and keys that mean something.
pub(super) fn terminal(guest: &mut Guest) -> Result<()> {
    let body =
        r#"{"arguments":["/probe","terminal"],"environment":["TERM=vt100"],"terminal":[24,80]}"#;
    let mut session = Session::begin(guest, "confined", body)?;
    session.until(|got| find(got, b"terminal 24 80 /dev/pts/0"))?;
    session.0.write_all(&[b'w', 0, 4, 0, 50, 0, 132])?;
    session.types("look\r")?;
    session.until(|got| find(got, b"terminal 50 132"))?;
    // Control-C.
    session.types("\u{3}")?;
    session.until(|got| find(got, b"x\0\x01\x82"))?;
    Ok(())
}

/// A command ends with its client, and with its container.
pub(super) fn ends(guest: &mut Guest) -> Result<()> {
    for (words, within) in [
        (r#"["/probe","end-slowly"]"#, 4),
        // It hears no SIGHUP.
        (r#"["/probe","stubborn"]"#, 15),
    ] {
        let before = processes(guest)?;
        let body = format!("{{\"arguments\":{words}}}");
        let session = Session::begin(guest, "confined", &body)?;
        drop(session);
        let begun = Instant::now();
        guest.wait("the command has ended", SOON, |guest| {
            Ok((processes(guest)? <= before).then_some(()))
        })?;
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(within), "it took {took:?}");
    }
    let pid = |web: &Value| web.get("pid").and_then(Value::as_u64);
    let ended = pid(&guest.container("web")?);
    let body = r#"{"arguments":["/probe","stubborn"]}"#;
    let mut session = Session::begin(guest, "web", body)?;
    session.until(|got| find(got, b"stubborn\n"))?;
    guest.get(8080, "/exit/7")?;
    // SIGKILL is 9.
    session.until(|got| find(got, b"x\0\x01\x89"))?;
    drop(session);
    guest.wait("web is ready again", SOON, |guest| {
        let web = guest.container("web")?;
        // The one that ended counts as ready until PID 1 has heard of its end.
        let is_another = pid(&web).is_some_and(|pid| Some(pid) != ended);
        Ok((is_another && web.get("ready") == Some(&Value::from(true))).then_some(()))
    })
}

fn processes(guest: &Guest) -> Result<u64> {
    let usage = ask(guest, "/v1/usage")?;
    let containers = usage.get("containers").and_then(Value::as_array);
    let mut all = containers.into_iter().flatten();
    let confined = all.find(|one| text(one, "name") == "confined");
    let pids = confined.and_then(|one| one.get("pids")?.as_u64());
    pids.with_context(|| format!("no processes of confined: {usage}"))
}

pub(super) fn ask(guest: &Guest, target: &str) -> Result<Value> {
    let answer = guest.control("GET", target)?;
    ensure!(answer.status == 200, "{target}: {answer:?}");
    serde_json::from_str(&answer.body).with_context(|| format!("no JSON: {}", answer.body))
}

pub(super) fn inspected(guest: &mut Guest) -> Result<()> {
    let found = ask(guest, "/v1/containers/someone")?;
    for (path, expected) in [
        ("/status/state", Value::from("running")),
        ("/definition/process/user/uid", Value::from(1000)),
        ("/cgroup", Value::from("/sys/fs/cgroup/containers/someone/")),
    ] {
        ensure!(found.pointer(path) == Some(&expected), "{path}: {found}");
    }
    let namespaces = found.get("namespaces").and_then(Value::as_array);
    ensure!(namespaces.is_some_and(|all| all.len() == 7), "{found}");
    let told = run(guest, &["inspect", "someone"], b"")?;
    expect(&told, 0)?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(told.contains("working-directory: /srv/work"), "{told}");
    Ok(())
}

/// A container that writes without end is refused at the limits of its volume and its root, and takes nothing from others.
pub(super) fn filled(guest: &mut Guest) -> Result<()> {
    const EDQUOT: u64 = 122;
    let fill = |folder: &str| -> Result<[u64; 4]> {
        let said = run(guest, &["exec", "filler", "/probe", "fill", folder], b"")?;
        expect(&said, 0)?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
        let numbers: Vec<u64> = numbers.collect();
        numbers.try_into().map_err(|_| anyhow::anyhow!("{text}"))
    };
    let [bytes, refused, files, no_more] = fill("/sized")?;
    ensure!(
        (900 << 10..=1 << 20).contains(&bytes) && refused == EDQUOT,
        "{bytes} bytes of a volume of 1 MiB, refused {refused}"
    );
    ensure!(
        (900..=1024).contains(&files) && no_more == EDQUOT,
        "{files} files of 1024, refused {no_more}"
    );
    let [bytes, refused, ..] = fill("/srv")?;
    ensure!(
        (1900 << 10..=2 << 20).contains(&bytes) && refused == EDQUOT,
        "{bytes} bytes of a root of 2 MiB, refused {refused}"
    );
    // EINVAL: only the first user namespace may change a project. EPERM: the filter of system calls.
    let said = run(
        guest,
        &["exec", "filler", "/probe", "unbind", "/sized", "/srv"],
        b"",
    )?;
    ensure!(
        said.stdout == b"unbind /sized 22 1\nunbind /srv 22 1\n",
        "{said:?}"
    );
    // Nobody asked for a limit here.
    let [bytes, refused, files, no_more] = fill("/free")?;
    ensure!(
        (bytes, refused, files, no_more) == (8 << 20, 0, 3000, 0),
        "{bytes} bytes, refused {refused}, {files} files, refused {no_more}"
    );
    let found = ask(guest, "/v1/containers/filler")?;
    let volumes = found.get("volumes").and_then(Value::as_array);
    let most = |name: &str| {
        let mut all = volumes.into_iter().flatten();
        let volume = all.find(|volume| text(volume, "name") == name)?;
        is_counted(volume).then(|| volume.get("bytes-max").and_then(Value::as_u64))
    };
    ensure!(
        most("sized") == Some(Some(1 << 20)) && most("free") == Some(None),
        "{found}"
    );
    guest.wait_for_log("owned-volume", "volume /keep", SOON)?;
    Ok(())
}

/// Whether a volume's bytes and files were counted.
fn is_counted(volume: &Value) -> bool {
    ["bytes", "files"]
        .iter()
        .all(|name| volume.get(*name).and_then(Value::as_u64) > Some(0))
}

pub(super) fn used(guest: &mut Guest) -> Result<()> {
    let usage = ask(guest, "/v1/usage")?;
    let containers = usage.get("containers").and_then(Value::as_array);
    let mut all = containers.into_iter().flatten();
    let web = all
        .find(|one| text(one, "name") == "web")
        .context("no web")?;
    for name in ["cpu-us", "memory", "memory-peak", "pids", "pressure"] {
        ensure!(
            web.get(name).is_some_and(|value| *value != 0),
            "{name}: {web}"
        );
    }
    let told = run(guest, &["top", "--once"], b"")?;
    expect(&told, 0)?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(
        told.starts_with("CONTAINER") && told.contains("\nweb "),
        "{told}"
    );
    Ok(())
}

pub(super) fn logs_since(guest: &mut Guest) -> Result<()> {
    let lines = |query: &str| {
        let answer = guest.control("GET", &format!("/v1/logs?container=kedge&since={query}"))?;
        ensure!(answer.status == 200, "{query}: {answer:?}");
        Ok(answer.body.lines().count())
    };
    let all = lines("1")?;
    ensure!(
        lines("1d")? == all && lines("2000-01-01T00:00:00Z")? == all,
        "not all"
    );
    ensure!(
        lines("0s")? == 0 && lines("2100-01-01T00:00:00+01:00")? == 0,
        "not none"
    );
    let bad = guest.control("GET", "/v1/logs?since=yesterday")?;
    ensure!(bad.status == 400 && bad.body.contains("10m"), "{bad:?}");
    let told = run(guest, &["logs", "kedge", "--since", "1d"], b"")?;
    expect(&told, 0)?;
    ensure!(!told.stdout.is_empty(), "nothing was told");
    Ok(())
}
