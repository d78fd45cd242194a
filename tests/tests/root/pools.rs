//! Networks of containers' own on this machine's kernel: the net helper, the engine and real containers, in a device that is a
//! network namespace with a cable to another one.

use crate::bench::{self, definition, eventually, kill, readable, wait_report};
use kedge_container::{Report, Spawned};
mod trouble;

use kedge_init::control::PortStatus;
use kedge_init::helpers::net;
use kedge_init::helpers::net::pools::{Attach, Forward, Pool, Pools, detach};
use kedge_revision::configuration::NetworkConfiguration;
use kedge_revision::container::Network;
use kedge_sys::clone::Namespaces;
use kedge_sys::process::{enter_namespace, unshare};
use kedge_sys::sock;
use serde_json::json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HELPER: &str = env!("CARGO_BIN_EXE_test-helper");
/// What is to happen takes milliseconds; a loaded machine takes its time.
const PATIENCE: Duration = Duration::from_secs(10);
/// What must not happen is waited for as long.
const NEVER: Duration = Duration::from_millis(700);

/// A network namespace.
struct Namespace(File);

impl Namespace {
    /// A new one, whose loopback is up.
    fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(Namespaces::NETWORK).unwrap();
            run("ip link set lo up");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(made.join().unwrap())
    }

    /// That of a container.
    fn of(spawned: &Spawned) -> Self {
        let pid = spawned.pid.as_raw_nonzero();
        Self(File::open(format!("/proc/{pid}/ns/net")).unwrap())
    }

    /// Does something in it.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter_namespace(self.0.as_fd()).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    fn run(&self, line: &str) -> String {
        self.inside(|| run(line))
    }

    /// Answers whoever connects with the address that it came from, as long as the test runs.
    fn serves(&self, address: &str) {
        let listener = self.inside(|| TcpListener::bind(address).unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                stream.write_all(peer.ip().to_string().as_bytes()).ok();
            }
        });
    }

    /// What a server answers; `None`: it cannot be reached.
    fn asks(&self, address: &str, patience: Duration) -> Option<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.inside(|| {
            let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
            stream.set_read_timeout(Some(patience)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })
    }
}

/// Runs a command that must succeed; what it says.
fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let done = command.args(words).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

/// The net helper, and PID 1's end of its socket.
struct Helper {
    child: Child,
    socket: OwnedFd,
    /// What it could not do.
    failures: Receiver<String>,
    /// How ports stand, by what it said last.
    ports: Arc<Mutex<Vec<PortStatus>>>,
}

impl Helper {
    fn start(device: &Namespace, folder: &Path, pools: &Pools) -> Self {
        let (socket, other) = sock::pair(sock::Kind::Messages).unwrap();
        let child = device.inside(|| {
            let mut command = Command::new(HELPER);
            let command = command.arg("net").arg(folder.join("resolv.conf"));
            command.stdin(other).spawn().unwrap()
        });
        let (sender, failures) = channel();
        let ports = Arc::new(Mutex::new(Vec::new()));
        let stand = Arc::clone(&ports);
        let heard = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; net::MAX_REPORT];
            let mut coming = Vec::new();
            while let Ok(received) = sock::receive(&heard, &mut buffer) {
                let frame = &buffer[..received.bytes];
                if frame.is_empty() {
                    return;
                }
                if let Ok(Some(standing)) = net::Standing::decode(frame) {
                    coming.extend(standing.port);
                    if standing.last {
                        *stand.lock().unwrap() = std::mem::take(&mut coming);
                    }
                }
                if let Ok(net::Report::Failed { doing, name, errno }) = net::Report::decode(frame) {
                    sender.send(format!("{doing} {name}: {errno}")).ok();
                }
            }
        });
        let helper = Self {
            child,
            socket,
            failures,
            ports,
        };
        helper.configure("10.77.0.2/24");
        helper.tell(pools);
        helper
    }

    /// Gives the device's port this address.
    fn configure(&self, address: &str) {
        let addresses = [address, "fd00:77::2/64"];
        let configuration = json!({"interfaces": {"eth0": {"addresses": addresses}}});
        let configuration: NetworkConfiguration = serde_json::from_value(configuration).unwrap();
        let frame = net::configure(1, &configuration).unwrap();
        sock::send(&self.socket, &frame, &[]).unwrap();
    }

    /// What is refused of pools, as the status has it.
    fn refused(&self) -> Vec<String> {
        let ports = self.ports.lock().unwrap();
        let pools = ports.iter().filter(|port| port.name == net::POOLS);
        pools.flat_map(|port| port.refused.clone()).collect()
    }

    fn tell(&self, pools: &Pools) {
        sock::send(&self.socket, &pools.encode(), &[]).unwrap();
    }

    fn attach(&self, container: &Container) {
        let pid = container.spawned.pid.as_raw_nonzero().get();
        let attach = Attach::new(pid.unsigned_abs(), container.network.place().unwrap());
        let namespace = Namespace::of(&container.spawned);
        sock::send(&self.socket, &attach.encode(), &[namespace.0.as_fd()]).unwrap();
    }

    /// Ends it, as a crash does.
    fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same; nothing has failed until then.
    fn end(mut self) {
        self.crash();
        let failures: Vec<String> = self.failures.try_iter().collect();
        assert_eq!(failures, [""; 0]);
    }
}

struct Container {
    spawned: Spawned,
    network: Network,
}

impl Container {
    /// Starts one that waits for its interface.
    fn start(
        device: &bench::Device,
        name: &str,
        place: (&str, &str),
        root: &str,
        layer: &Path,
    ) -> Self {
        let (pool, address) = place;
        let mut network = json!({"pool": {"name": pool, "address": address}});
        // As the host gives them: of the same number.
        if let Some(number) = address.strip_prefix("10.88.0.") {
            let (number, _) = number.split_once('/').unwrap();
            network["pool"]["address6"] = json!(format!("fd00:88::{number}/64"));
        }
        let script = "cat /etc/hosts /etc/resolv.conf; read -r low < /proc/sys/net/ipv4/ip_unprivileged_port_start; \
            echo low $low; while read -r line; do echo $line; done < /proc/net/route; \
            while :; do sleep 1; done";
        let definition = definition(script, &json!({"network": network.clone(), "root": root}));
        let plan = device.plan(name, &definition, &[layer]);
        let spawned = device.engine.spawn(&plan).unwrap();
        let network = definition.network;
        Self { spawned, network }
    }

    fn namespace(&self) -> Namespace {
        Namespace::of(&self.spawned)
    }

    #[track_caller]
    fn executes(&self) {
        assert_eq!(wait_report(&self.spawned.report), Report::Executed);
    }
}

fn pool(name: &str, third: u8) -> Pool {
    Pool {
        name: name.to_owned(),
        gateway: [10, 88, third, 1].into(),
        length: 24,
        six: (third == 0).then(|| ("fd00:88::1".parse().unwrap(), 64)),
    }
}

/// A port of the container `api`.
fn forward(port: &str) -> Forward {
    Forward {
        to: [10, 88, 0, 2].into(),
        to6: Some("fd00:88::2".parse().unwrap()),
        port: port.parse().unwrap(),
    }
}

/// A shell, `cat` and `sleep` with their libraries and nothing else: an image that leaves `/etc` to its runtime.
fn bare_image(folder: &Path) {
    for program in ["sh", "cat", "sleep"] {
        let path = format!("/bin/{program}");
        let copy = |path: &str| {
            let to = folder.join(path.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(path, to).unwrap();
        };
        copy(&path);
        let libraries = run(&format!("ldd {path}"));
        libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .for_each(copy);
    }
}

/// A device and what is outside, with a cable in between.
fn cable() -> (Namespace, Namespace) {
    let (device, outside) = (Namespace::new(), Namespace::new());
    let place = format!("/proc/{}/fd/{}", std::process::id(), outside.0.as_raw_fd());
    device.run(&format!(
        "ip link add eth0 type veth peer name eth0 netns {place}"
    ));
    outside.run("ip addr add 10.77.0.1/24 dev eth0");
    outside.run("ip link set eth0 up");
    // Somebody on the cable who would like to get at containers.
    outside.run("ip route add 10.88.0.0/16 via 10.77.0.2");
    outside.run("ip addr add fd00:77::1/64 dev eth0 nodad");
    outside.run("ip route add fd00:88::/64 via fd00:77::2");
    (device, outside)
}

#[test]
fn root_containers_of_a_pool_reach_one_another_and_the_world_and_nobody_else() {
    kedge_image_build::debian::require(&["iproute2", "nftables"], "look at networks in a test")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (device, outside) = cable();
    let pools = Pools {
        pools: vec![pool("front", 0), pool("back", 1)],
        ports: vec![forward("8080:80"), forward("10.77.0.2:5353:53/udp")],
    };
    let helper = Helper::start(&device, folder.path(), &pools);
    let mut bench = bench::Device::new();
    fs::write("/run/hosts", "127.0.0.1 localhost\n10.88.0.2 api\n").unwrap();
    fs::write("/run/resolv.conf", "nameserver 10.77.0.1\n").unwrap();
    bench.hosts = Some("/run/hosts".into());
    bench.resolv_conf = Some("/run/resolv.conf".into());
    let image = folder.path().join("image");
    bare_image(&image);

    // Nothing of it runs before it has its interface.
    let api = Container::start(
        &bench,
        "api",
        ("front", "10.88.0.2/24"),
        "refused",
        Path::new("/"),
    );
    assert!(!readable(&api.spawned.report, NEVER));
    helper.attach(&api);
    api.executes();
    let web = Container::start(&bench, "web", ("front", "10.88.0.3/24"), "refused", &image);
    let other = Container::start(&bench, "other", ("back", "10.88.1.2/24"), "boot", &image);
    for container in [&web, &other] {
        helper.attach(container);
        container.executes();
    }
    reach(&device, &outside, [&api, &web, &other]);
    reach6(&device, &outside, [&api, &web, &other]);
    compare_rules(&device);

    // The helper ends, and another one takes its place: what is there stays as it is.
    let before = device.run("ip -br link show type bridge");
    helper.end();
    let helper = Helper::start(&device, folder.path(), &pools);
    for container in [&api, &web, &other] {
        helper.attach(container);
    }
    let late = Container::start(&bench, "late", ("front", "10.88.0.4/24"), "refused", &image);
    helper.attach(&late);
    late.executes();
    assert_eq!(device.run("ip -br link show type bridge"), before);
    let answer = late.namespace().asks("10.88.0.2:80", PATIENCE);
    assert_eq!(answer.as_deref(), Some("10.88.0.4"));
    assert!(outside.asks("10.77.0.2:8080", PATIENCE).is_some());

    dissolve(&device, &outside, &helper, late);
    helper.end();
    let said = [api, web, other].map(|container| kill(container.spawned).stdout);
    for text in said {
        let head = "127.0.0.1 localhost\n10.88.0.2 api\nnameserver 10.77.0.1\nlow 0\n";
        assert!(text.starts_with(head), "{text}");
        // The routes were there before its first line.
        assert_eq!(text.matches("eth0").count(), 2, "{text}");
    }
}

/// An interface goes with its container, a bridge with its pool, and all else with the last.
fn dissolve(device: &Namespace, outside: &Namespace, helper: &Helper, late: Container) {
    let pairs =
        |count: usize| device.run("ip -br link show type veth").lines().count() == count + 1;
    assert!(pairs(4));
    // No address but the pool's, and no ear for routers among the containers.
    assert_eq!(device.run("ip -6 addr show dev br-back"), "");
    let own = device.run("ip -6 -o addr show dev br-front scope global");
    assert!(
        own.contains("fd00:88::1/64") && own.lines().count() == 1,
        "{own}"
    );
    let hears = device.run("cat /proc/sys/net/ipv6/conf/br-front/accept_ra");
    assert_eq!(hears, "0\n");
    let spoofed = device.run("cat /proc/sys/net/ipv4/conf/br-front/rp_filter");
    assert_eq!(spoofed, "1\n");
    kill(late.spawned);
    eventually(|| pairs(3));
    // A port that is published no more, though its container is there.
    let without = |ports| Pools {
        pools: vec![pool("front", 0), pool("back", 1)],
        ports,
    };
    helper.tell(&without(Vec::new()));
    eventually(|| !device.run("nft list ruleset").contains("8080"));
    assert_eq!(outside.asks("10.77.0.2:8080", NEVER), None);
    helper.tell(&without(vec![forward("8080:80")]));
    eventually(|| outside.asks("10.77.0.2:8080", NEVER).is_some());
    let only = Pools {
        pools: vec![pool("back", 1)],
        ports: Vec::new(),
    };
    helper.tell(&only);
    let bridges = |names: &[&str]| {
        let text = device.run("ip -br link show type bridge");
        let found: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        found == names
    };
    eventually(|| bridges(&["br-back"]));
    let forwards6 = || device.run("cat /proc/sys/net/ipv6/conf/all/forwarding");
    eventually(|| forwards6() == "0\n");
    helper.tell(&Pools::default());
    eventually(|| bridges(&[]));
    eventually(|| device.run("nft list ruleset").is_empty());
    assert_eq!(device.run("cat /proc/sys/net/ipv4/ip_forward"), "0\n");
}

fn reach(device: &Namespace, outside: &Namespace, [api, web, other]: [&Container; 3]) {
    let [api, web, other] = [api, web, other].map(Container::namespace);
    api.serves("10.88.0.2:80");
    outside.serves("10.77.0.1:7");
    outside.serves("10.77.0.1:8080");
    let asks = |from: &Namespace, address: &str| from.asks(address, PATIENCE);
    // One another, under their own addresses; and the device.
    assert_eq!(asks(&web, "10.88.0.2:80").as_deref(), Some("10.88.0.3"));
    device.serves("10.88.0.1:9");
    assert_eq!(asks(&web, "10.88.0.1:9").as_deref(), Some("10.88.0.3"));
    // The world, under the device's; and a port that is published here is the world's own there.
    for from in [&web, &other] {
        for address in ["10.77.0.1:7", "10.77.0.1:8080"] {
            assert_eq!(
                asks(from, address).as_deref(),
                Some("10.77.0.2"),
                "{address}"
            );
        }
    }
    // Nobody else: neither another pool, nor whoever has a route, nor by a port that is not published.
    for from in [&other, outside] {
        assert_eq!(from.asks("10.88.0.2:80", NEVER), None);
    }
    assert_eq!(outside.asks("10.77.0.2:80", NEVER), None);
    assert_eq!(other.asks("10.77.0.2:8080", NEVER), None);
    // By a published port, under the visitor's own address.
    assert_eq!(
        asks(outside, "10.77.0.2:8080").as_deref(),
        Some("10.77.0.1")
    );
    let server = api.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    let client = outside.inside(|| UdpSocket::bind("10.77.0.1:0").unwrap());
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.send_to(b"name?", "10.77.0.2:5353").unwrap();
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..length], from),
        (&b"name?"[..], client.local_addr().unwrap())
    );
    server.send_to(b"name!", from).unwrap();
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..length], from.to_string().as_str()),
        (&b"name!"[..], "10.77.0.2:5353")
    );
}

/// The same by IPv6, which only the first pool has.
fn reach6(device: &Namespace, outside: &Namespace, [api, web, other]: [&Container; 3]) {
    let [api, web, other] = [api, web, other].map(Container::namespace);
    api.serves("[fd00:88::2]:80");
    outside.serves("[fd00:77::1]:7");
    device.serves("[fd00:88::1]:9");
    let asks = |from: &Namespace, address: &str| from.asks(address, PATIENCE);
    // Until nobody has objected to the device's own address, which takes a second, none is translated to it.
    eventually(|| !device.run("ip -6 addr show dev eth0").contains("tentative"));
    // One another, and the device, under their own addresses; the world under the device's.
    for (address, under) in [
        ("[fd00:88::2]:80", "fd00:88::3"),
        ("[fd00:88::1]:9", "fd00:88::3"),
        ("[fd00:77::1]:7", "fd00:77::2"),
    ] {
        assert_eq!(asks(&web, address).as_deref(), Some(under), "{address}");
    }
    // In by a published port alone, and from another pool, which has no IPv6, not at all.
    let visitor = asks(outside, "[fd00:77::2]:8080");
    assert_eq!(visitor.as_deref(), Some("fd00:77::1"));
    assert_eq!(outside.asks("[fd00:88::2]:80", NEVER), None);
    assert_eq!(outside.asks("[fd00:77::2]:80", NEVER), None);
    assert_eq!(other.asks("[fd00:88::2]:80", NEVER), None);
    // A port that is published at an address of IPv4 is one of IPv4, as `compare_rules` shows. Who takes an address that is not of
    // the pool is not heard; the device would answer it, and the world as well.
    web.run("ip addr add fd00:99::1/128 dev eth0 nodad");
    device.run("ip route add fd00:99::1/128 dev br-front");
    let from = |address: &str| {
        let line = format!("ip route replace fd00:77::/64 via fd00:88::1 src {address}");
        web.run(&line);
        web.asks("[fd00:77::1]:7", NEVER)
    };
    assert!(from("fd00:88::3").is_some());
    assert_eq!(from("fd00:99::1"), None);
    web.run("ip route del fd00:77::/64");
    web.run("ip addr del fd00:99::1/128 dev eth0");
    // Another container that says that it were a router is not believed.
    let hears = web.run("cat /proc/sys/net/ipv6/conf/eth0/accept_ra");
    assert_eq!(hears, "0\n");
}

/// The kernel has the rules that were meant, by the words of another program.
fn compare_rules(device: &Namespace) {
    let found = device.run("nft list ruleset");
    let words: Vec<&str> = found.split_whitespace().collect();
    let wanted = r#"table inet kedge {
        chain sources {
            type filter hook prerouting priority raw; policy accept;
            iifname "br-front" ip6 saddr fd00:88::/64 accept
            iifgroup 19269 ip6 saddr fe80::/10 accept
            iifgroup 19269 ip6 saddr :: accept
            iifgroup 19269 meta nfproto ipv6 drop
        }
        chain bounds {
            type filter hook prerouting priority mangle; policy accept;
            iifname "br-front" ct status ! confirmed ct count over 4096 drop
            iifname "br-back" ct status ! confirmed ct count over 4096 drop
        }
        chain prerouting {
            type nat hook prerouting priority dstnat; policy accept;
            iifgroup 19269 accept
            meta nfproto ipv4 meta pkttype host tcp dport 8080 dnat ip to 10.88.0.2:80
            meta nfproto ipv6 meta pkttype host tcp dport 8080 dnat ip6 to [fd00:88::2]:80
            ip daddr 10.77.0.2 udp dport 5353 dnat ip to 10.88.0.2:53
        }
        chain forward {
            type filter hook forward priority filter; policy drop;
            ct state invalid drop
            oifname != "br-front" ip6 daddr fd00:88::/64 drop
            ct state established,related accept
            ct status dnat accept
            iifname "br-front" oifname "br-front" accept
            iifname "br-back" oifname "br-back" accept
            ct state untracked drop
            oifgroup 19269 drop
            iifgroup 19269 accept
        }
        chain postrouting {
            type nat hook postrouting priority srcnat; policy accept;
            iifgroup 19269 oifgroup != 19269 masquerade
        }
    }"#;
    assert_eq!(
        words,
        wanted.split_whitespace().collect::<Vec<_>>(),
        "{found}"
    );
}
