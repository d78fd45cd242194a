//! Rules as the bytes that the kernel takes; that it takes them, and as what, the tier `root` shows.

use super::*;
use core::net::Ipv4Addr;

/// Messages of a batch: kind, flags, payload.
fn messages(mut batch: &[u8]) -> Vec<(u16, u16, &[u8])> {
    let mut found = Vec::new();
    while !batch.is_empty() {
        let length = u32::from_ne_bytes(batch[..4].try_into().unwrap()) as usize;
        assert_eq!(length % 4, 0, "every message here ends with a whole word");
        let short = |at: usize| u16::from_ne_bytes(batch[at..at + 2].try_into().unwrap());
        found.push((short(4), short(6), &batch[16..length]));
        batch = &batch[length..];
    }
    found
}

fn all_of(pools: &Pools) -> Vec<u8> {
    all(pools, Some(700))
}

fn long(bytes: usize) -> u8 {
    u8::try_from(bytes).unwrap()
}

fn forward(port: &str) -> Forward {
    Forward {
        to: Ipv4Addr::new(10, 88, 0, 2),
        to6: None,
        port: port.parse().unwrap(),
    }
}

fn pools(ports: &[&str]) -> Pools {
    let pool = |name: &str, third| Pool {
        name: name.to_owned(),
        gateway: Ipv4Addr::new(10, 88, third, 1),
        length: 24,
        six: None,
    };
    Pools {
        pools: vec![pool("front", 0), pool("back", 1)],
        ports: ports.iter().map(|port| forward(port)).collect(),
    }
}

#[test]
fn a_batch_makes_the_table_anew() {
    let batch = all_of(&pools(&["8080:80", "10.0.2.15:5353:53/udp"]));
    let kinds: Vec<u16> = messages(&batch).iter().map(|(kind, ..)| *kind).collect();
    let (table, gone, chain, rule) = (0xa00, 0xa02, 0xa03, 0xa06);
    let wanted = [
        &[BEGIN, table, gone, table],
        &[chain; 5][..],
        // Two ports, two pools with two each; the others are always there.
        &[rule; 2 + 4 + 11],
        &[END],
    ];
    assert_eq!(kinds, wanted.concat());
    // One answer is asked for: the last one's.
    let asked: Vec<usize> = messages(&batch)
        .iter()
        .enumerate()
        .filter(|(_, (_, flags, _))| flags & ACKNOWLEDGE != 0)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(asked, [kinds.len() - 2]);
    let kinds: Vec<u16> = messages(&none()).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [BEGIN, table, gone, END]);
}

#[test]
fn the_bytes_of_a_batch_that_removes() {
    let table = |kind: u16, flags: u16| {
        let header = [
            32,
            0,
            0,
            0,
            kind.to_le_bytes()[0],
            10,
            flags.to_le_bytes()[0],
            flags.to_le_bytes()[1],
        ];
        [
            &header[..],
            &[0; 8],
            &[1, 0, 0, 0],
            b"\x0a\0\x01\0kedge\0\0\0",
        ]
        .concat()
    };
    let end = |kind: u8| [&[20, 0, 0, 0, kind, 0, 1, 0][..], &[0; 8], &[0, 0, 0, 10]].concat();
    let wanted = [end(0x10), table(0, 0x401), table(2, 5), end(0x11)].concat();
    assert_eq!(none(), wanted);
}

#[test]
fn the_bytes_of_a_chain() {
    let batch = all_of(&pools(&[]));
    let (_, flags, chain) = messages(&batch)[7];
    assert_eq!(flags, 0x401);
    let wanted: &[&[u8]] = &[
        &[1, 0, 0, 0],
        b"\x0a\0\x01\0kedge\0\0\0",
        b"\x0c\0\x03\0forward\0",
        // Hook: number 2, priority 0.
        b"\x14\0\x04\x80\x08\0\x01\0\0\0\0\x02\x08\0\x02\0\0\0\0\0",
        // Policy: drop.
        b"\x08\0\x05\0\0\0\0\0",
        b"\x0b\0\x07\0filter\0\0",
    ];
    assert_eq!(chain, wanted.concat());
    // A priority below zero.
    let (_, _, chain) = messages(&batch)[6];
    let found = chain
        .windows(8)
        .any(|bytes| bytes == b"\x08\0\x02\0\xff\xff\xff\x9c");
    assert!(found, "{chain:02x?}");
}

#[test]
fn the_bytes_of_a_published_port() {
    let batch = all_of(&pools(&["8080:80"]));
    let (_, flags, rule) = messages(&batch)[15];
    assert_eq!(flags, 0xc01);
    let number = |kind: u8, value: u8| vec![8, 0, kind, 0, 0, 0, 0, value];
    let expression = |name: &[u8], data: Vec<u8>| {
        let mut name = [&[long(name.len() + 5), 0, 1, 0], name, &[0]].concat();
        name.resize(name.len().next_multiple_of(4), 0);
        let data = [&[long(data.len() + 4), 0, 2, 0x80][..], &data].concat();
        let all = [name, data].concat();
        [&[long(all.len() + 4), 0, 1, 0x80][..], &all].concat()
    };
    let value = |kind: u8, bytes: &[u8]| {
        let mut inner = [&[long(bytes.len() + 4), 0, 1, 0], bytes].concat();
        inner.resize(inner.len().next_multiple_of(4), 0);
        [&[long(inner.len() + 4), 0, kind, 0x80][..], &inner].concat()
    };
    let compare = |bytes: &[u8]| {
        let data = [number(1, 1), number(2, 0), value(3, bytes)].concat();
        expression(b"cmp", data)
    };
    let load = |register, bytes: &[u8]| {
        expression(
            b"immediate",
            [number(1, register), value(2, bytes)].concat(),
        )
    };
    let nat = [number(1, 1), number(2, 2), number(3, 1), number(5, 2)];
    let payload = [number(1, 1), number(2, 2), number(3, 2), number(4, 2)];
    let expressions = [
        expression(b"meta", [number(1, 1), number(2, 15)].concat()),
        compare(&[2]),
        // To this device alone.
        expression(b"meta", [number(1, 1), number(2, 19)].concat()),
        compare(&[0]),
        expression(b"meta", [number(1, 1), number(2, 16)].concat()),
        compare(&[6]),
        expression(b"payload", payload.concat()),
        compare(&[0x1f, 0x90]),
        load(1, &[10, 88, 0, 2]),
        load(2, &[0, 80]),
        expression(b"nat", nat.concat()),
    ]
    .concat();
    let length = (expressions.len() + 4).to_le_bytes();
    let wanted: &[&[u8]] = &[
        &[1, 0, 0, 0],
        b"\x0a\0\x01\0kedge\0\0\0",
        b"\x0f\0\x02\0prerouting\0\0",
        &[length[0], length[1], 4, 0x80],
        &expressions,
    ];
    assert_eq!(rule, wanted.concat());
}

#[test]
fn what_a_pool_begins_is_bounded() {
    let batch = all_of(&pools(&[]));
    // Behind three rules for sources.
    let (_, _, rule) = messages(&batch)[12];
    let has = |bytes: &[u8]| rule.windows(bytes.len()).any(|found| found == bytes);
    assert!(has(b"\x0b\0\x02\0bounds\0"));
    assert!(has(b"br-front\0\0\0\0\0\0\0\0"));
    // 700 and more, of what is not in the table.
    assert!(has(
        b"\x0e\0\x01\0connlimit\0\0\0\x14\0\x02\x80\x08\0\x01\0\0\0\x02\xbc\x08\0\x02\0\0\0\0\x01"
    ));
    let without = all(&pools(&[]), None);
    assert_eq!(messages(&without).len() + 2, messages(&batch).len());
    for (most, pools, each) in [
        (1024, 1, 768),
        (1024, 16, 48),
        (262_144, 2, 4096),
        (u32::MAX, 1, 4096),
        (3, 16, 1),
        (0, 0, 1),
    ] {
        assert_eq!(share(most, pools), each, "{most} {pools}");
    }
}

#[test]
fn what_ipv6_adds() {
    let mut pools = pools(&["8080:80", "10.0.2.15:5353:53/udp"]);
    let before = messages(&all_of(&pools)).len();
    let six = "fd00:88::1".parse().unwrap();
    pools.pools[0].six = Some((six, 64));
    // A pool without it, a container with it: none that the host makes, and nothing comes in by it.
    for forward in &mut pools.ports {
        forward.to6 = Some("fd00:88::2".parse().unwrap());
    }
    let batch = all_of(&pools);
    let messages = messages(&batch);
    // Its addresses, going out and coming in; one port: what is published at an address of IPv4 is not, for IPv6.
    assert_eq!(messages.len(), before + 3);
    let has = |at: usize, bytes: &[u8]| messages[at].2.windows(bytes.len()).any(|b| b == bytes);
    // Its own rules come first of all.
    let prefix = [&[0xfd, 0, 0, 0x88][..], &[0; 12]].concat();
    assert!(has(9, b"br-front\0\0\0\0\0\0\0\0"));
    assert!(has(9, &[[0xff; 8], [0; 8]].concat()) && has(9, &prefix));
    assert!(has(17, &pools.ports[0].to6.unwrap().octets()));
}

#[test]
fn the_most_rules_fit_into_one_message() {
    let mut pools = pools(&vec!["10.200.200.200:60000:60000/udp"; 256]);
    for forward in &mut pools.ports {
        forward.port.address = None;
        forward.to6 = Some("fd00:88::2".parse().unwrap());
    }
    let six = "fd00:88::1".parse().unwrap();
    let one = Pool {
        six: Some((six, 64)),
        ..pools.pools[0].clone()
    };
    pools.pools = vec![one; 16];
    // What the kernel lets a socket send at once where it has 32 bits (`net.core.wmem_max`), doubled.
    let most = 2 * 163_840;
    assert!(all_of(&pools).len() < most, "{}", all_of(&pools).len());
}

#[test]
fn the_bytes_of_a_question() {
    let question = question();
    let wanted = [&[32, 0, 0, 0, 1, 10, 1, 0][..], &[0; 8], &[1, 0, 0, 0]].concat();
    assert_eq!(question[..20], wanted);
    assert_eq!(&question[20..], b"\x0a\0\x01\0kedge\0\0\0");
}
