//! The helpers of PID 1 with what only root has: capabilities to give up, interfaces to set up.

use kedge_init::helpers::{disk, net};
use kedge_revision::configuration::NetworkConfiguration;
use kedge_sys::sock;
use std::os::fd::AsFd;

/// Capabilities belong to a thread, so that of the test can give up its own.
#[test]
fn root_the_confined_disk_helper_still_does_its_work() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    let (own, other) = sock::pair(sock::Kind::Messages).unwrap();
    for request in [
        disk::Request::Configure {
            disk_max: 65536,
            boot_id: "b",
        },
        disk::Request::Grow {
            device: "/dev/null",
        },
        disk::Request::Note(br#"{"event":"booted"}"#),
    ] {
        sock::send(&own, &request.encode(), &[]).unwrap();
    }
    let (held, reports) = std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            disk::run(other.as_fd(), &logs).unwrap();
            kedge_sys::privilege::capabilities().unwrap()
        });
        let reports = [(); 2].map(|()| {
            let mut buffer = [0; 64];
            let bytes = sock::receive(&own, &mut buffer).unwrap().bytes;
            buffer[..bytes].to_vec()
        });
        drop(own);
        (helper.join().unwrap(), reports)
    });
    assert!(held.effective.is_empty() && held.permitted.is_empty());
    assert!(matches!(
        reports.each_ref().map(|frame| disk::Report::decode(frame)),
        [
            Ok(disk::Report::GrowFailed(_)),
            Ok(disk::Report::Noted { failed: None })
        ]
    ));
    let kept = std::fs::read_to_string(directory.path().join("history/events.jsonl")).unwrap();
    assert!(kept.starts_with(r#"{"seq":1,"boot":1,"boot-id":"b","event":"booted"}"#));
}

/// In a network namespace of its own, whose `lo` stands for any interface.
#[test]
fn root_the_net_helper_sets_an_interface_up() {
    let configuration: NetworkConfiguration = serde_json::from_str(
        r#"{"interfaces":{"lo":{"addresses":["10.9.8.7/24","fd00::7/64"],"gateways":["10.9.8.1"]}},"nameservers":["10.0.2.3"]}"#,
    )
    .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let (own, other) = sock::pair(sock::Kind::Messages).unwrap();
    let helper = std::thread::spawn(move || {
        kedge_sys::process::unshare(kedge_sys::clone::Namespaces::NETWORK).unwrap();
        net::run(other.as_fd(), &path).unwrap();
        let bound = std::net::UdpSocket::bind("10.9.8.7:9999");
        (bound.is_ok(), std::fs::read_to_string(path).unwrap())
    });
    sock::send(&own, &net::configure(1, &configuration).unwrap(), &[]).unwrap();
    let mut buffer = [0; net::MAX_REPORT];
    let mut reports = Vec::new();
    while reports.len() < 2 {
        let bytes = sock::receive(&own, &mut buffer).unwrap().bytes;
        // How ports stand is told as well.
        if net::Standing::decode(&buffer[..bytes]).unwrap().is_none() {
            let report = net::Report::decode(&buffer[..bytes]).unwrap();
            reports.push(format!("{report:?}"));
        }
    }
    drop(own);
    assert!(
        reports.contains(&"Applied { name: \"lo\" }".to_owned()),
        "{reports:?}"
    );
    let (bound, text) = helper.join().unwrap();
    assert!(bound && text.starts_with("nameserver "));
}
