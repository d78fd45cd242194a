//! Pools and places: what is given, what is refused and why.

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn pool(prefix: &str) -> Pool {
    let (prefix, prefix6) = match prefix.split_once(' ') {
        Some((prefix, six)) => (prefix, Some(six.parse().unwrap())),
        None => (prefix, None),
    };
    let prefix = prefix.parse().unwrap();
    Pool { prefix, prefix6 }
}

/// A content with these pools, and containers with these networks.
fn content(pools: &[(&str, &str)], containers: &[(&str, &str)]) -> Content {
    let container = |network: &str| -> Container {
        let text = format!(
            r#"{{"group":"app","layers":["v1:{}"],"process":{{"arguments":["/a"],"environment":["PATH=/"],
            "user":{{"uid":0,"gid":0}},"working-directory":"/","stop-signal":15,"stop-grace-ms":1}},"goal":"started",
            "restart":{{"policy":"no","delay-ms":1,"max-delay-ms":1,"reset-after-ms":1,"then":"leave"}},"network":{network}}}"#,
            "0a".repeat(32)
        );
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {network}"))
    };
    let mut content: Content = serde_json::from_str(
        r#"{"requires":[],"parameters":{},"groups":[{"name":"app","change":"restart"}],"containers":{},
        "configuration":{"network":{},"logs":{"disk-max":65536}},"commit":{"window-s":5,"hub":"never"}}"#,
    )
    .unwrap();
    let entry = |(own, prefix): &(&str, &str)| (name(own), pool(prefix));
    content.configuration.networks = pools.iter().map(entry).collect();
    let entry = |(own, network): &(&str, &str)| (name(own), container(network));
    content.containers = containers.iter().map(entry).collect::<BTreeMap<_, _>>();
    content
}

fn place(pool: &str, address: &str, ports: &str) -> String {
    format!(r#"{{"pool":{{"name":"{pool}","address":"{address}","ports":[{ports}]}}}}"#)
}

#[test]
fn addresses_go_by_number_and_end() {
    let member = |pool: &Pool, index| pool.member(index).map(|prefix| prefix.to_string());
    let front = pool("10.88.0.0/24");
    assert_eq!(front.gateway().unwrap().to_string(), "10.88.0.1/24");
    assert_eq!(member(&front, 0).as_deref(), Some("10.88.0.2/24"));
    assert_eq!(member(&front, 252).as_deref(), Some("10.88.0.254/24"));
    assert_eq!(member(&front, 253), None);
    let small = pool("172.16.0.4/30");
    assert_eq!(small.gateway().unwrap().to_string(), "172.16.0.5/30");
    assert_eq!(member(&small, 0).as_deref(), Some("172.16.0.6/30"));
    assert_eq!(member(&small, 1), None);
    assert_eq!(member(&small, usize::MAX), None);
}

#[test]
fn pools_that_are_refused_and_why() {
    for (pools, field, why) in [
        (
            &[("front", "10.88.0.0/24"), ("back", "10.88.1.0/24")][..],
            "",
            "",
        ),
        (
            &[("front", "100.64.0.0/10"), ("back", "192.168.0.0/30")],
            "",
            "",
        ),
        (
            &[("front", "10.0.0.0/8"), ("back", "10.88.1.0/24")],
            "front.prefix",
            "overlaps that of another",
        ),
        (&[("front", "10.88.0.0/31")], "front.prefix", "8 to 30"),
        (&[("front", "0.0.0.0/0")], "front.prefix", "8 to 30"),
        (
            &[("front", "10.88.0.1/24")],
            "front.prefix",
            "behind its length",
        ),
        (&[("front", "8.8.8.0/24")], "front.prefix", "is not private"),
        (
            &[("front", "172.0.0.0/8")],
            "front.prefix",
            "is not private",
        ),
        (
            &[("front", "100.128.0.0/16")],
            "front.prefix",
            "is not private",
        ),
        (&[("front", "fd00::/64")], "front.prefix", "is not of IPv4"),
        (
            &[("thirteen-name", "10.88.0.0/24")],
            "thirteen-name",
            "over 12 bytes",
        ),
    ] {
        assert_checked(pools, field, why);
    }
}

#[test]
fn prefixes_of_ipv6_that_are_refused_and_why() {
    for (pools, field, why) in [
        (
            &[
                ("front", "10.88.0.0/24 fd00:88::/64"),
                ("back", "10.89.0.0/24 fd00:89::/96"),
            ][..],
            "",
            "",
        ),
        (
            &[("front", "10.88.0.0/24 10.89.0.0/24")],
            "front.prefix6",
            "is not of IPv6",
        ),
        (
            &[("front", "10.88.0.0/24 fd00:88::/97")],
            "front.prefix6",
            "48 to 96",
        ),
        (
            &[("front", "10.88.0.0/24 fd00:88::/47")],
            "front.prefix6",
            "48 to 96",
        ),
        (
            &[("front", "10.88.0.0/24 fd00:88::1/64")],
            "front.prefix6",
            "behind its length",
        ),
        (
            &[("front", "10.88.0.0/24 2001:db8::/64")],
            "front.prefix6",
            "is not unique local",
        ),
        (
            &[
                ("front", "10.88.0.0/24 fd00:88::/64"),
                ("back", "10.89.0.0/24 fd00:88::/96"),
            ],
            "front.prefix6",
            "overlaps that of another",
        ),
    ] {
        assert_checked(pools, field, why);
    }
}

/// Such pools are refused with this field and for this reason, or are good where no field is named.
#[track_caller]
fn assert_checked(pools: &[(&str, &str)], field: &str, why: &str) {
    let checked = content(pools, &[]).check();
    if field.is_empty() {
        checked.unwrap();
        return;
    }
    let text = checked.unwrap_err().to_string();
    assert!(
        text.contains(&format!("configuration.networks.{field}")),
        "{text}"
    );
    assert!(text.contains(why), "{text}");
}

#[test]
fn a_pool_leaves_interfaces_alone() {
    let mut content = content(&[("front", "10.88.0.0/24")], &[]);
    let interfaces = &mut content.configuration.network.interfaces;
    interfaces.insert(
        "eth0".to_owned(),
        serde_json::from_str(r#"{"addresses":["10.0.0.1/8"]}"#).unwrap(),
    );
    let text = content.check().unwrap_err().to_string();
    assert!(
        text.contains("overlaps an address of an interface"),
        "{text}"
    );
    let interfaces = &mut content.configuration.network.interfaces;
    interfaces.clear();
    interfaces.insert(
        "eth0".to_owned(),
        serde_json::from_str(r#"{"addresses":["fd00:88::10/56"]}"#).unwrap(),
    );
    content.check().unwrap();
    let front = content
        .configuration
        .networks
        .get_mut(&name("front"))
        .unwrap();
    front.prefix6 = Some("fd00:88::/64".parse().unwrap());
    let text = content.check().unwrap_err().to_string();
    assert!(
        text.contains("front.prefix6: overlaps an address of an interface"),
        "{text}"
    );
    let interfaces = &mut content.configuration.network.interfaces;
    interfaces.clear();
    interfaces.insert(
        "br-front".to_owned(),
        serde_json::from_str(r#"{"dhcp":true}"#).unwrap(),
    );
    let text = content.check().unwrap_err().to_string();
    assert!(
        text.contains("has the interface of one that is listed"),
        "{text}"
    );
}

#[test]
fn places_that_are_refused_and_why() {
    let pools = [("front", "10.88.0.0/24"), ("back", "10.89.0.0/24")];
    let bad = |containers: &[(&str, &str)], field: &str, why: &str| {
        let text = content(&pools, containers).check().unwrap_err().to_string();
        assert!(text.contains(&format!("containers.{field}")), "{text}");
        assert!(text.contains(why), "{text}");
    };
    let web = place("front", "10.88.0.2/24", r#""8080:80","5353:53/udp""#);
    content(&pools, &[("web", &web)]).check().unwrap();
    for address in [
        "10.88.0.0/24",
        "10.88.0.1/24",
        "10.88.0.255/24",
        "10.88.1.2/24",
        "10.87.255.2/24",
        "10.88.0.2/25",
        "fd00::2/24",
    ] {
        let web = place("front", address, "");
        bad(
            &[("web", &web)],
            "web.network.address",
            "is none that the pool has",
        );
    }
    let other = place("side", "10.88.0.2/24", "");
    bad(
        &[("web", &other)],
        "web.network",
        "names a pool that is not in configuration.networks",
    );
    bad(
        &[("api", &web), ("web", &web)],
        "web.network.address",
        "another container's",
    );
    let taken = place("back", "10.89.0.2/24", r#""192.168.1.1:8080:1""#);
    bad(
        &[("api", &taken), ("web", &web)],
        "web.network.ports",
        "another container has",
    );
    // One of IPv6 where the pool has none; and the other way round, or of another number.
    let six = |address6: &str| {
        let both = format!("10.88.0.2/24\",\"address6\":\"{address6}");
        place("front", &both, "")
    };
    let web = six("fd00:88::2/64");
    bad(&[("web", &web)], "web.network.address6", "same number");
    let both = [("front", "10.88.0.0/24 fd00:88::/64")];
    content(&both, &[("web", &web)]).check().unwrap();
    for own in [
        six("fd00:88::3/64"),
        six("fd00:88::2/96"),
        place("front", "10.88.0.2/24", ""),
    ] {
        let text = content(&both, &[("web", &own)]).check().unwrap_err();
        assert!(text.to_string().contains("network.address6"), "{text}");
    }
    for ports in [
        r#""8080:80","8080:81""#,
        r#""8080:80","10.0.0.1:8080:81""#,
        r#""8081:80","8080:80""#,
        r#""8080:80","8080:80""#,
        r#""127.0.0.1:8080:80""#,
        r#""0.0.0.0:8080:80""#,
    ] {
        let web = place("front", "10.88.0.2/24", ports);
        bad(&[("web", &web)], "web.network.ports", "");
    }
}

#[test]
fn addresses_are_given_in_the_order_of_names() {
    let none = |pool| place(pool, "0.0.0.0/0", "");
    let (front, small, nowhere) = (none("front"), none("small"), none("nowhere"));
    let pools = [("front", "10.88.0.0/24"), ("small", "10.89.0.0/30")];
    let containers: &[(&str, &str)] = &[
        ("web", &front),
        ("api", &front),
        ("b", &small),
        ("c", &small),
        ("d", &nowhere),
        ("e", "\"host\""),
    ];
    let mut content = content(&pools, containers);
    give_addresses(&content.configuration.networks, &mut content.containers);
    let given = |own: &str| {
        let place = content.containers[&name(own)].network.place();
        place.map(|place| place.address.to_string())
    };
    assert_eq!(given("api").as_deref(), Some("10.88.0.2/24"));
    assert_eq!(given("web").as_deref(), Some("10.88.0.3/24"));
    assert_eq!(given("b").as_deref(), Some("10.89.0.2/30"));
    // A pool that is used up, and one that is not there: the check says so.
    assert_eq!(given("c").as_deref(), Some("0.0.0.0/0"));
    assert_eq!(given("d").as_deref(), Some("0.0.0.0/0"));
    assert_eq!(given("e"), None);
}

#[test]
fn ipv6_counts_by_the_same_numbers() {
    let none = place("front", "0.0.0.0/0", "");
    let pools = [("front", "10.88.0.0/16 fd00:88:0:1::/64")];
    let containers: &[(&str, &str)] = &[("web", &none), ("api", &none)];
    let mut content = content(&pools, containers);
    give_addresses(&content.configuration.networks, &mut content.containers);
    content.check().unwrap();
    assert_eq!(
        hosts(&content, &name("front")),
        "127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.88.0.2 api\nfd00:88:0:1::2 api\n10.88.0.3 web\nfd00:88:0:1::3 web\n"
    );
    let front = &content.configuration.networks[&name("front")];
    let text = |prefix: Option<Prefix>| prefix.unwrap().to_string();
    assert_eq!(text(front.gateway6()), "fd00:88:0:1::1/64");
    assert_eq!(text(front.member6(65_532)), "fd00:88:0:1::fffe/64");
}

#[test]
fn ports_have_one_spelling() {
    for text in [
        "8080:80",
        "192.168.1.10:8080:80",
        "5353:53/udp",
        "10.0.0.1:5353:53/udp",
    ] {
        assert_eq!(text.parse::<Published>().unwrap().to_string(), text);
    }
    for bad in [
        "",
        "80",
        ":80",
        "80:",
        "080:80",
        "80:80/tcp",
        "0:80",
        "80:0",
        "70000:1",
        "a:1:1",
        "1:2:3:4",
        "[::1]:80:80",
        "80:80/udp/udp",
        " 80:80",
        "+80:80",
        "010.0.0.1:80:80",
    ] {
        assert!(bad.parse::<Published>().is_err(), "{bad}");
    }
}

#[test]
fn everybody_in_a_pool_has_a_name() {
    let (api, web) = (
        place("front", "10.88.0.2/24", ""),
        place("front", "10.88.0.3/24", ""),
    );
    let other = place("back", "10.89.0.2/24", "");
    let pools = [("front", "10.88.0.0/24"), ("back", "10.89.0.0/24")];
    let containers: &[(&str, &str)] = &[
        ("api", &api),
        ("web", &web),
        ("other", &other),
        ("none", "\"none\""),
    ];
    let content = content(&pools, containers);
    content.check().unwrap();
    assert_eq!(
        hosts(&content, &name("front")),
        "127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.88.0.2 api\n10.88.0.3 web\n"
    );
}
