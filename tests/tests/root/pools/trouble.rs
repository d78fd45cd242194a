//! What goes wrong around pools: addresses that overlap, rules that are refused, what is left behind, and who is not what they say.

use super::*;
use kedge_sys::rustix::net::sockopt::set_socket_broadcast;
use kedge_sys::rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket,
};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Stdio;
use std::time::Instant;

/// A device with one container in each of two pools, of which the first has published ports.
struct Site {
    device: Namespace,
    outside: Namespace,
    folder: tempfile::TempDir,
    bench: bench::Device,
    image: std::path::PathBuf,
}

impl Site {
    fn new() -> Self {
        kedge_image_build::debian::require(&["iproute2", "nftables"], "look at networks in a test")
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        bare_image(&image);
        let (device, outside) = cable();
        outside.serves("10.77.0.1:1");
        Self {
            device,
            outside,
            folder,
            bench: bench::Device::new(),
            image,
        }
    }

    /// A helper whose device is on the network.
    fn helper(&self, pools: &Pools) -> Helper {
        let helper = Helper::start(&self.device, self.folder.path(), pools);
        eventually(|| self.device.asks("10.77.0.1:1", NEVER).is_some());
        helper
    }

    /// A container that has its interface.
    fn container(&self, helper: &Helper, name: &str, pool: &str, address: &str) -> Container {
        let container = self.waiting(name, pool, address);
        helper.attach(&container);
        container.executes();
        container
    }

    /// One that waits for it.
    fn waiting(&self, name: &str, pool: &str, address: &str) -> Container {
        let address = format!("{address}/24");
        Container::start(&self.bench, name, (pool, &address), "refused", &self.image)
    }

    fn rules(&self) -> String {
        self.device.run("nft list ruleset")
    }
}

fn pools(ports: &[(&str, u8)]) -> Pools {
    let forward = |(port, last): &(&str, u8)| Forward {
        to: [10, 88, 0, *last].into(),
        to6: None,
        port: port.parse().unwrap(),
    };
    Pools {
        pools: vec![pool("front", 0), pool("back", 1)],
        ports: ports.iter().map(forward).collect(),
    }
}

fn udp(namespace: &Namespace, address: &str) -> UdpSocket {
    namespace.inside(|| UdpSocket::bind(address).unwrap())
}

/// What comes.
#[track_caller]
fn heard(socket: &UdpSocket) -> String {
    heard_within(socket, PATIENCE).unwrap()
}

/// What has come, if something comes in time.
fn heard_within(socket: &UdpSocket, patience: Duration) -> Option<String> {
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn root_a_port_goes_before_a_pool() {
    let site = Site::new();
    let Site {
        device, outside, ..
    } = &site;
    let helper = site.helper(&pools(&[("8080:80", 2)]));
    let api = site.container(&helper, "api", "front", "10.88.0.2");
    let other = site.container(&helper, "other", "back", "10.88.1.2");
    api.namespace().serves("10.88.0.2:80");
    other.namespace().serves("10.88.1.2:80");
    let is_there = |address: &str| device.asks(address, NEVER).is_some();
    eventually(|| is_there("10.88.0.2:80"));

    // The site's network is the pool's own, its router has the address of the device in it.
    outside.run("ip route del 10.88.0.0/16");
    outside.run("ip addr add 10.88.0.1/24 dev eth0");
    outside.serves("10.88.0.1:9");
    helper.configure("10.88.0.15/24");
    let failure = helper.failures.recv_timeout(PATIENCE).unwrap();
    let why = "make the network front, which overlaps with 10.88.0.15/24 of eth0: ";
    assert!(failure.starts_with(why), "{failure}");
    eventually(|| device.asks("10.88.0.1:9", NEVER).as_deref() == Some("10.88.0.15"));
    eventually(|| helper.refused().len() == 1);
    assert!(
        helper.refused()[0].starts_with(why),
        "{:?}",
        helper.refused()
    );
    assert!(!site.rules().contains("8080") && site.rules().contains("br-back"));
    // Another pool is as it was, and a new container of this one does not start.
    assert!(is_there("10.88.1.2:80"));
    let late = site.waiting("late", "front", "10.88.0.3");
    helper.attach(&late);
    let failure = helper.failures.recv_timeout(PATIENCE).unwrap();
    assert!(
        failure.starts_with("add a container to the network front"),
        "{failure}"
    );
    assert!(!readable(&late.spawned.report, NEVER));

    // There is room again, and who was in the pool still is.
    helper.configure("10.77.0.2/24");
    eventually(|| is_there("10.88.0.2:80"));
    eventually(|| helper.refused().is_empty());
    assert!(outside.asks("10.77.0.2:8080", PATIENCE).is_some());
    helper.attach(&late);
    late.executes();
    // An address that somebody else has given to the port.
    device.run("ip addr add 10.88.1.77/24 dev eth0");
    eventually(|| !device.run("ip -4 addr show").contains("10.88.1.1/"));
    assert!(
        helper
            .failures
            .recv_timeout(PATIENCE)
            .unwrap()
            .contains("back")
    );
    device.run("ip addr del 10.88.1.77/24 dev eth0");
    eventually(|| is_there("10.88.1.2:80"));
    helper.end();
    for container in [api, other, late] {
        kill(container.spawned);
    }
}

#[test]
fn root_rules_that_are_refused_are_tried_again() {
    let site = Site::new();
    // A table of this name that is another's own, who alone may change it.
    let mut owner = site.device.inside(|| {
        let mut command = Command::new("nft");
        command.args(["-i"]).stdin(Stdio::piped()).spawn().unwrap()
    });
    let mut words = owner.stdin.take().unwrap();
    words
        .write_all(b"add table inet kedge { flags owner; }\n")
        .unwrap();
    eventually(|| site.rules().contains("kedge"));
    let helper = site.helper(&pools(&[("8080:80", 2)]));
    let failure = helper.failures.recv_timeout(PATIENCE).unwrap();
    assert!(failure.starts_with("set rules for networks"), "{failure}");
    eventually(|| helper.refused().len() == 1);
    // Nothing is forwarded without them.
    let forwards = || site.device.run("cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(forwards(), "0\n");
    drop(words);
    owner.wait().unwrap();
    eventually(|| site.rules().contains("8080"));
    eventually(|| helper.refused().is_empty());
    assert_eq!(forwards(), "1\n");
    helper.end();
}

#[test]
fn root_connections_end_with_the_container_that_they_were_with() {
    let site = Site::new();
    let ports = [("5353:53/udp", 2), ("5454:54/udp", 3)];
    let helper = site.helper(&pools(&ports));
    let first = site.container(&helper, "first", "front", "10.88.0.2");
    let second = site.container(&helper, "second", "front", "10.88.0.3");
    let server = udp(&first.namespace(), "0.0.0.0:53");
    let neighbour = udp(&second.namespace(), "0.0.0.0:54");
    let client = udp(&site.outside, "10.77.0.1:4000");
    let say = |port: u16| client.send_to(b"on", ("10.77.0.2", port)).unwrap();
    say(5353);
    assert_eq!(heard(&server), "on");
    say(5454);
    assert_eq!(heard(&neighbour), "on");

    // The port is another container's; who has the address keeps nothing of it.
    helper.tell(&pools(&[("5353:54/udp", 3), ("5454:54/udp", 3)]));
    eventually(|| site.rules().contains("5353 dnat ip to 10.88.0.3:54"));
    eventually(|| tracked(&site, "dport=5353").is_empty());
    say(5353);
    assert_eq!(heard(&neighbour), "on");
    assert_eq!(heard_within(&server, NEVER), None);

    // The same address and rules, and another container behind them.
    helper.tell(&pools(&ports));
    eventually(|| site.rules().contains("5353 dnat ip to 10.88.0.2:53"));
    eventually(|| tracked(&site, "dport=5353").is_empty());
    say(5353);
    assert_eq!(heard(&server), "on");
    say(5454);
    assert_eq!(heard(&neighbour), "on");
    // It has sent, too, and somebody outside answers without a pause.
    let out = udp(&first.namespace(), "0.0.0.0:4444");
    out.send_to(b"out", "10.77.0.1:4000").unwrap();
    let mut buffer = [0; 8];
    let (_, device) = client.recv_from(&mut buffer).unwrap();
    let by_ipv6 = udp(&first.namespace(), "[fd00:88::2]:4446");
    by_ipv6.send_to(b"out", "[fd00:77::1]:4006").unwrap();
    assert_eq!(tracked(&site, "dport=4006").len(), 1);
    drop((server, out, by_ipv6));
    kill(first.spawned);
    let next = site.container(&helper, "first", "front", "10.88.0.2");
    let server = udp(&next.namespace(), "0.0.0.0:4444");
    client.send_to(b"back", device).unwrap();
    assert_eq!(heard_within(&server, NEVER), None);
    let kept = tracked(&site, "dport=5454");
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(tracked(&site, "dport=4006"), [""; 0]);
    helper.end();
    for container in [next, second] {
        kill(container.spawned);
    }
}

/// Connections that the device's kernel tracks and that say this.
fn tracked(site: &Site, word: &str) -> Vec<String> {
    let all = site.device.run("cat /proc/net/nf_conntrack");
    let with = all.lines().filter(|line| line.contains(word));
    with.map(str::to_owned).collect()
}

#[test]
fn root_a_pool_leaves_connections_to_the_others() {
    let site = Site::new();
    let helper = site.helper(&pools(&[("8080:80", 3)]));
    let hog = site.container(&helper, "hog", "front", "10.88.0.2");
    let server = site.container(&helper, "server", "front", "10.88.0.3");
    let other = site.container(&helper, "other", "back", "10.88.1.2");
    server.namespace().serves("10.88.0.3:80");
    eventually(|| site.rules().contains("8080"));
    let rules = site.rules();
    let bound = rules
        .split_once("ct count over ")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<usize>().ok())
        .expect(&rules);
    // Half to others, half to the device itself: one datagram each, for which a connection is kept for half a minute.
    let sockets: Vec<_> = (0..2).map(|_| udp(&hog.namespace(), "0.0.0.0:0")).collect();
    for at in 0..=bound {
        for (socket, to) in sockets.iter().zip(["10.77.0.1", "10.88.0.1"]) {
            // Where none is let through the sender is told so, or not.
            socket
                .send_to(b"more", (to, 10_000 + u16::try_from(at).unwrap()))
                .ok();
        }
    }
    let kept = tracked(&site, "src=10.88.0.2").len();
    assert!(kept <= bound && kept > bound / 2, "{kept} of {bound}");
    // No more for it, and as before for others, in and out, and for the device.
    assert_eq!(hog.namespace().asks("10.77.0.1:1", NEVER), None);
    let asked = other.namespace().asks("10.77.0.1:1", PATIENCE);
    assert_eq!(asked.as_deref(), Some("10.77.0.2"));
    let asked = site.outside.asks("10.77.0.2:8080", PATIENCE);
    assert_eq!(asked.as_deref(), Some("10.77.0.1"));
    assert!(site.device.asks("10.77.0.1:1", PATIENCE).is_some());
    // What ends makes room.
    kill(hog.spawned);
    let next = site.container(&helper, "hog", "front", "10.88.0.2");
    eventually(|| next.namespace().asks("10.77.0.1:1", NEVER).is_some());
    helper.end();
    for container in [next, server, other] {
        kill(container.spawned);
    }
}

#[test]
fn root_a_published_port_takes_nothing_that_is_for_all() {
    let site = Site::new();
    let helper = site.helper(&pools(&[("9999:99/udp", 2)]));
    let api = site.container(&helper, "api", "front", "10.88.0.2");
    let server = udp(&api.namespace(), "0.0.0.0:99");
    let own = udp(&site.device, "0.0.0.0:9999");
    let client = udp(&site.outside, "10.77.0.1:0");
    set_socket_broadcast(&client, true).unwrap();
    eventually(|| site.rules().contains("9999"));
    client.send_to(b"to one", "10.77.0.2:9999").unwrap();
    assert_eq!(heard(&server), "to one");
    client.send_to(b"to all", "10.77.0.255:9999").unwrap();
    assert_eq!(heard(&own), "to all");
    helper.end();
    kill(api.spawned);
}

#[test]
fn root_a_container_that_has_ended_has_no_double() {
    let site = Site::new();
    let mut helper = site.helper(&pools(&[]));
    let api = site.container(&helper, "api", "front", "10.88.0.2");
    let pairs = || {
        site.device
            .run("ip -br link show type veth")
            .lines()
            .count()
            - 1
    };
    assert_eq!(pairs(), 1);
    // Somebody holds its network, as by a socket that was handed on.
    let held = udp(&api.namespace(), "0.0.0.0:53");
    let pid = api.spawned.pid.as_raw_nonzero().get().unsigned_abs();
    kill(api.spawned);
    assert_eq!(pairs(), 1, "it is held");
    sock::send(&helper.socket, &detach(pid), &[]).unwrap();
    eventually(|| pairs() == 0);
    drop(held);

    // And if nobody could say it, since the helper had ended, too.
    let api = site.container(&helper, "api", "front", "10.88.0.2");
    let held = udp(&api.namespace(), "0.0.0.0:53");
    helper.crash();
    kill(api.spawned);
    assert_eq!(pairs(), 1);
    let helper = site.helper(&pools(&[]));
    eventually(|| pairs() == 0);
    drop(held);
    helper.end();
}

#[test]
fn root_a_helper_that_is_told_of_no_pool_leaves_nothing_of_its_predecessor() {
    let site = Site::new();
    let forwards = || site.device.run("cat /proc/sys/net/ipv4/ip_forward");
    let mut helper = site.helper(&pools(&[]));
    eventually(|| forwards() == "1\n");
    helper.crash();
    for bridge in ["br-front", "br-back"] {
        site.device.run(&format!("ip link del {bridge}"));
    }
    let mut helper = site.helper(&Pools::default());
    eventually(|| site.rules().is_empty() && forwards() == "0\n");
    helper.crash();
    // Where it has left nothing, another's forwarding is none of its business.
    site.device
        .inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    let helper = site.helper(&Pools::default());
    eventually(|| !helper.ports.lock().unwrap().is_empty());
    helper.tell(&Pools::default());
    helper.configure("10.77.0.3/24");
    eventually(|| {
        site.device
            .run("ip -4 addr show dev eth0")
            .contains("10.77.0.3")
    });
    assert_eq!(forwards(), "1\n");
    helper.end();
}

#[test]
fn root_a_bridge_of_the_board_is_no_pool() {
    let site = Site::new();
    site.device.run("ip link add br-lan type bridge");
    site.device.run("ip addr add 192.168.50.1/24 dev br-lan");
    site.device.run("ip link set br-lan up");
    let helper = site.helper(&pools(&[]));
    let api = site.container(&helper, "api", "front", "10.88.0.2");
    let lan = || site.device.run("ip -4 addr show dev br-lan");
    assert!(lan().contains("192.168.50.1"));
    // One that a pool would be called by stays as well, and the pool is not made.
    site.device.run("ip link add br-third type bridge");
    let mut three = pools(&[]);
    three.pools.push(pool("third", 2));
    helper.tell(&three);
    let failure = helper.failures.recv_timeout(PATIENCE).unwrap();
    assert!(failure.starts_with("make the network third"), "{failure}");
    site.device.run("ip link del br-third");
    eventually(|| helper.refused().is_empty());
    helper.tell(&Pools::default());
    let links = || site.device.run("ip -br link show type bridge");
    eventually(|| links().lines().count() == 1);
    assert!(lan().contains("192.168.50.1"));
    helper.end();
    kill(api.spawned);
}

#[test]
fn root_who_is_not_what_they_say_does_not_get_out() {
    let site = Site::new();
    let helper = site.helper(&pools(&[]));
    let api = site.container(&helper, "api", "front", "10.88.0.2");
    let inside = api.namespace();
    let world = udp(&site.outside, "10.77.0.1:7");
    let send = |from: &str, word: &str| {
        let socket = udp(&inside, from);
        socket.send_to(word.as_bytes(), "10.77.0.1:7").unwrap();
    };
    send("10.88.0.2:0", "true");
    assert_eq!(heard(&world), "true");
    // Of another pool, of the site, of the world, and of the device itself.
    for address in ["10.88.1.2", "10.77.0.9", "192.0.2.1", "10.77.0.2"] {
        inside.run(&format!("ip addr add {address}/32 dev eth0"));
        send(&format!("{address}:0"), address);
        assert_eq!(heard_within(&world, NEVER), None, "{address}");
    }

    // What is part of no connection would leave with the pool's own address.
    let listens = raw(&site.outside);
    let answers = raw(&inside);
    let (from, to) = ([10, 88, 0, 2], [10, 77, 0, 1]);
    let segment = acknowledged_syn(from, to);
    let to = SocketAddrV4::new(Ipv4Addr::from(to), 0);
    assert!(sendto(&answers, &segment, SendFlags::empty(), &to).is_ok());
    assert!(!has_come(&listens));
    // It is heard where it is one of the site's own, so that silence says something.
    let neighbour = raw(&site.device);
    let segment = acknowledged_syn([10, 77, 0, 2], to.ip().octets());
    assert!(sendto(&neighbour, &segment, SendFlags::empty(), &to).is_ok());
    assert!(has_come(&listens));
    helper.end();
    kill(api.spawned);
}

/// A socket for whole segments of TCP.
fn raw(namespace: &Namespace) -> OwnedFd {
    namespace.inside(|| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP)).unwrap())
}

/// Whether a segment to port 4711 comes in time.
fn has_come(socket: &OwnedFd) -> bool {
    let until = Instant::now() + NEVER;
    while Instant::now() < until {
        let mut buffer = [0; 128];
        if let Ok((length, _)) = recv(socket, &mut buffer[..], RecvFlags::DONTWAIT)
            && buffer[..length].get(22..24) == Some(&4711_u16.to_be_bytes())
        {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// The second segment of a connection (RFC 9293, 3.1), of which there was no first.
fn acknowledged_syn(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let [a, b] = 4711_u16.to_be_bytes();
    let mut segment = vec![
        0x30, 0x39, a, b, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x12, 0xff, 0xff,
    ];
    segment.extend_from_slice(&[0; 4]);
    // The sum is of the addresses, the protocol, the length and the segment.
    let head = [&from[..], &to, &[0, 6, 0, 20]].concat();
    let words = [head, segment.clone()].concat();
    let sum = words
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = sum.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}
