//! The DHCP client of the net helper against a real server, Debian's dnsmasq: two network namespaces with a cable in between.

use kedge_image_build::debian;
use kedge_init::helpers::net;
use kedge_revision::configuration::NetworkConfiguration;
use kedge_sys::sock;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const HELPER: &str = env!("CARGO_BIN_EXE_test-helper");
/// A loaded machine takes its time; an answer takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command that must succeed; what it says.
fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let done = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

/// A server's and a client's namespace, gone with this value.
struct Cable {
    server: String,
    client: String,
}

impl Cable {
    fn new() -> Self {
        let id = std::process::id();
        let cable = Self {
            server: format!("kedge-s{id}"),
            client: format!("kedge-c{id}"),
        };
        let Self { server, client } = &cable;
        run(&format!("ip netns add {server}"));
        run(&format!("ip netns add {client}"));
        run(&format!(
            "ip -n {server} link add eth0 type veth peer name eth0 netns {client}"
        ));
        run(&format!("ip -n {server} addr add 10.77.0.1/24 dev eth0"));
        run(&format!("ip -n {server} link set eth0 up"));
        cable
    }

    /// The client's IPv4 addresses.
    fn addresses(&self) -> String {
        run(&format!("ip -n {} -4 -o addr show dev eth0", self.client))
    }

    fn routes(&self) -> String {
        run(&format!("ip -n {} -4 route show default", self.client))
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in [&self.server, &self.client] {
            // One that was never made is not there.
            Command::new("ip")
                .args(["netns", "del", name])
                .output()
                .ok();
        }
    }
}

/// Lines of a process, as they come; it ends with this value.
struct Server {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Server {
    /// dnsmasq with leases of two minutes, the shortest that it knows, to be renewed after three seconds, and of anybody
    /// after eight: an answer that got lost is waited for until then (RFC 2131, 4.4.5).
    fn start(cable: &Cable, folder: &Path, first: u8) -> Self {
        let range = format!(
            "--dhcp-range=10.77.0.{first},10.77.0.{},255.255.255.0,2m",
            first + 9
        );
        let leases = folder.join(format!("leases-{first}"));
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &cable.server, "dnsmasq"])
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--user=root",
            ])
            .args([
                "--port=0",
                "--interface=eth0",
                "--bind-interfaces",
                "--no-ping",
            ])
            .args(["--dhcp-authoritative", "--log-dhcp", "--log-facility=-"])
            .args(["--dhcp-option=option:router,10.77.0.1"])
            .args(["--dhcp-option=option:dns-server,10.77.0.1"])
            .args(["--dhcp-option=option:T1,3s", "--dhcp-option=option:T2,8s"])
            .arg(range)
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .arg(format!("--pid-file={}", folder.join("pid").display()));
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits until so many lines with this word have come.
    fn says(&mut self, word: &str, count: usize) {
        let end = Instant::now() + PATIENCE;
        while self.count(word) < count {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no {count} × {word} ({error}): {:#?}", self.seen),
            }
        }
    }

    fn count(&self, word: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(word)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The helper in its namespace, and PID 1's end of its socket.
struct Helper {
    child: Child,
    socket: Option<OwnedFd>,
}

impl Helper {
    fn start(cable: &Cable, resolv_conf: &Path) -> Self {
        let (socket, other) = sock::pair(sock::Kind::Messages).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &cable.client, HELPER, "net"])
            .arg(resolv_conf)
            .stdin(other)
            .spawn()
            .unwrap();
        let configuration: NetworkConfiguration =
            serde_json::from_str(r#"{"interfaces":{"eth0":{"dhcp":true}}}"#).unwrap();
        let frame = net::configure(1, &configuration).unwrap();
        sock::send(socket.as_fd(), &frame, &[]).unwrap();
        Self {
            child,
            socket: Some(socket),
        }
    }

    /// The next report of a lease, or of its loss: its text, empty for a loss.
    fn lease(&self) -> String {
        let socket = self.socket.as_ref().unwrap();
        let mut buffer = [0; net::MAX_REPORT];
        loop {
            let bytes = sock::receive(socket, &mut buffer).unwrap().bytes;
            let frame = &buffer[..bytes];
            if net::Standing::decode(frame).unwrap().is_some() {
                continue;
            }
            match net::Report::decode(frame).unwrap() {
                net::Report::Leased { lease, .. } => return lease.to_owned(),
                net::Report::Lost { .. } => return String::new(),
                net::Report::Failed { doing, errno, .. } => panic!("cannot {doing}: {errno}"),
                net::Report::Up { .. } | net::Report::Down { .. } | net::Report::Applied { .. } => {
                }
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn root_a_lease_of_a_real_server_is_renewed_and_given_up() {
    debian::require(&["dnsmasq-base", "iproute2"], "lease addresses in a test").unwrap();
    crate::own_mounts().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cable = Cable::new();
    let resolv_conf = folder.path().join("resolv.conf");
    let mut server = Server::start(&cable, folder.path(), 50);
    server.says("DHCP, IP range", 1);
    let mut helper = Helper::start(&cable, &resolv_conf);

    let lease = helper.lease();
    assert!(
        lease.contains("10.77.0.5") && lease.contains("10.77.0.1"),
        "{lease}"
    );
    assert!(
        cable.addresses().contains("inet 10.77.0.5"),
        "{}",
        cable.addresses()
    );
    assert!(
        cable.routes().contains("via 10.77.0.1"),
        "{}",
        cable.routes()
    );

    // Renewed by its server, without being discovered again; the address stays.
    server.says("DHCPACK", 1);
    // More than one where an answer came too late for the first.
    let discovered = server.count("DHCPDISCOVER");
    server.says("DHCPACK", 4);
    let again = server.count("DHCPDISCOVER");
    assert_eq!(again, discovered, "{:#?}", server.seen);
    let names = std::fs::read_to_string(&resolv_conf).unwrap();
    assert!(names.contains("nameserver 10.77.0.1"), "{names}");

    // Another server in its place has never heard of the lease: it says no, and leases another address.
    drop(server);
    let mut server = Server::start(&cable, folder.path(), 100);
    server.says("DHCPNAK", 1);
    let lost = helper.lease();
    let lease = if lost.is_empty() {
        helper.lease()
    } else {
        lost
    };
    assert!(lease.contains("10.77.0.10"), "{lease}");
    let addresses = cable.addresses();
    assert!(
        addresses.contains("10.77.0.10") && !addresses.contains("10.77.0.5"),
        "{addresses}"
    );

    // PID 1 ends: so does the helper, in order.
    drop(helper.socket.take());
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = helper.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "the helper goes on");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");
}
