//! The device's network: leased, lost and found again, and tried with a revision that changes it.

use crate::{built_fleet, built_trials};
use anyhow::{Context, Result, ensure};
use kedge_image_build::files;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::trials::{JUDGED, Project, committed, failure, pid, running, update};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// What QEMU's user network lends, and who lends it.
const LEASED: &str = "10.0.2.15/24";
const SERVER: &str = "10.0.2.2";

/// A port in the device's status.
fn port(guest: &Guest, name: &str) -> Result<Value> {
    let status = guest.status()?;
    let ports = status.get("network").and_then(Value::as_array);
    let mut ports = ports.into_iter().flatten();
    let found = ports.find(|port| text(port, "name") == name);
    found
        .cloned()
        .with_context(|| format!("the status has no port {name}: {status}"))
}

fn has(port: &Value, field: &str, wanted: &str) -> bool {
    let values = port.get(field).and_then(Value::as_array);
    let mut values = values.into_iter().flatten().filter_map(Value::as_str);
    values.any(|value| value == wanted)
}

/// Waits until `eth0` has its lease, and the addresses that come with it.
fn bound(guest: &Guest) -> Result<Value> {
    guest.wait("eth0 is bound", SOON, |guest| {
        let port = port(guest, "eth0")?;
        let is = text(&port, "dhcp") == "bound"
            && port.get("link") == Some(&Value::Bool(true))
            && has(&port, "addresses", LEASED)
            && has(&port, "gateways", SERVER)
            && port.pointer("/lease/server").and_then(Value::as_str) == Some(SERVER);
        Ok(is.then_some(port))
    })
}

#[test]
fn vm_a_network_is_leased_and_tried() -> Result<()> {
    let (project, disk) = built_trials()?;
    let mut guest = Guest::start(&disk, &[])?;
    guest.wait_for_control(BOOT)?;
    let mut checks = Checks::default();
    checks.run("an address is leased", &mut guest, |guest| {
        let port = bound(guest)?;
        let lease = port.get("lease").context("no lease")?;
        ensure!(has(lease, "nameservers", "10.0.2.3"), "{port}");
        guest
            .wait_for_log("kedge", "eth0: leased 10.0.2.15/24 of 10.0.2.2", SOON)
            .map(drop)
    });
    checks.run("IPv6 as the router says", &mut guest, |guest| {
        guest.wait(
            "eth0 has an address of the router's prefix",
            SOON,
            |guest| {
                let port = port(guest, "eth0")?;
                let addresses = port.get("addresses").and_then(Value::as_array);
                let mut addresses = addresses.into_iter().flatten().filter_map(Value::as_str);
                Ok(addresses
                    .any(|address| address.starts_with("fec0:"))
                    .then_some(()))
            },
        )
    });
    checks.run("a cable is out and in again", &mut guest, cable);
    checks.run(
        "another good network is tried and kept",
        &mut guest,
        |guest| good(&project, guest),
    );
    checks.run(
        "a network without a port is rolled back",
        &mut guest,
        |guest| {
            let nowhere =
                "[configuration.network.interfaces.eth7]\naddresses = [\"10.0.2.77/24\"]\n";
            bad(&project, guest, nowhere)
        },
    );
    checks.run("values of parameters are tried", &mut guest, |guest| {
        parameter(&project, guest)
    });
    checks.run("name servers reach a container", &mut guest, |guest| {
        names(&project, guest)
    });
    checks.finish()
}

/// What is leased stays while there is no link, and is asked for again when it is back.
fn cable(guest: &mut Guest) -> Result<()> {
    let link = |guest: &Guest, up| guest.monitor("set_link", &json!({"name": "net", "up": up}));
    link(guest, false)?;
    guest.wait("the link is down", SOON, |guest| {
        let port = port(guest, "eth0")?;
        let down = port.get("link") == Some(&Value::Bool(false)) && text(&port, "dhcp") == "down";
        ensure!(has(&port, "addresses", LEASED), "{port}");
        Ok(down.then_some(()))
    })?;
    guest.wait_for_log("kedge", "eth0: link down", SOON)?;
    link(guest, true)?;
    bound(guest).map(drop)
}

/// Makes the network of the project another one: `tables` come behind `[configuration.network]`.
fn set(project: &Project, tables: &str) -> Result<()> {
    let path = project.kedge.folder().join("kedge.toml");
    let all = files::read_text(&path)?;
    let begin = "[configuration.network]\n";
    let from = all.find(begin).context("no network in kedge.toml")? + begin.len();
    let rest = all.get(from..).unwrap_or_default();
    let to = from
        + rest
            .find("[configuration.logs]")
            .context("no logs behind it")?;
    project.edit(all.get(from..to).unwrap_or_default(), tables)
}

const STATIC: &str = "[configuration.network.interfaces.eth0]\naddresses = [\"10.0.2.77/24\"]\ngateways = [\"10.0.2.2\"]\n\n";

/// `eth0` has the fixed address, and nothing is left of the lease.
fn fixed(guest: &Guest) -> Result<()> {
    guest.wait("eth0 has its fixed address alone", SOON, |guest| {
        let port = port(guest, "eth0")?;
        let is = has(&port, "addresses", "10.0.2.77/24") && !has(&port, "addresses", LEASED);
        Ok((is && has(&port, "gateways", SERVER)).then_some(()))
    })
}

fn good(project: &Project, guest: &mut Guest) -> Result<()> {
    let (keeper, before) = (running(guest, "keeper")?, committed(guest)?);
    set(project, STATIC)?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    ensure!(committed(guest)? != before, "the old revision is committed");
    fixed(guest)?;
    ensure!(pid(guest, "keeper")? == keeper, "keeper is another process");
    ensure!(guest.boots() == 1, "the device was restarted");
    Ok(())
}

/// A network that cuts the device off fails its trial, and the old addresses are back.
fn bad(project: &Project, guest: &mut Guest, tables: &str) -> Result<()> {
    let before = committed(guest)?;
    set(project, tables)?;
    let pushed = project.push(guest, &[])?;
    ensure!(!pushed.committed, "it was committed: {}", pushed.said);
    ensure!(failure(guest)? == "network-lost", "{}", update(guest)?);
    ensure!(committed(guest)? == before, "something else is committed");
    fixed(guest)?;
    ensure!(guest.boots() == 1, "the device was restarted");
    set(project, STATIC)
}

/// The same revision with an address of one device: `dhcp` in the place of the fixed one.
fn parameter(project: &Project, guest: &mut Guest) -> Result<()> {
    set(
        project,
        "[configuration.network.interfaces.eth0]\naddress-parameter = \"address\"\n\n\
         [parameters.address]\ntype = \"ipv4-prefix\"\ndefault = \"10.0.2.77/24\"\n\n",
    )?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    let file = project.kedge.folder().join("values.toml");
    let values = |value: &str| {
        let line = format!("address = {value:?}\n");
        files::write(&file, line)
    };
    let path = file.display().to_string();
    values("dhcp")?;
    let pushed = project.push(guest, &["--parameters", &path, "--parameters-counter", "7"])?;
    ensure!(pushed.committed, "{}", pushed.said);
    bound(guest)?;
    let port = port(guest, "eth0")?;
    ensure!(!has(&port, "addresses", "10.0.2.77/24"), "{port}");
    guest.wait("nothing is tried any more", JUDGED, |guest| {
        Ok(update(guest)?.get("trial").is_none().then_some(()))
    })
}

/// What a container of the device's network finds in `/etc/resolv.conf`.
fn names(project: &Project, guest: &mut Guest) -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("etc"))?;
    files::write(
        &folder.path().join("etc/resolv.conf"),
        "nameserver 192.0.2.1\n",
    )?;
    let layer = project.layer_of(folder.path())?;
    project.app("started", &["reverse", "/etc/resolv.conf"], "")?;
    project.lay("app", &layer)?;
    project.add_line("app", "network = \"host\"")?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    let server: String = "nameserver 10.0.2.3".chars().rev().collect();
    guest.wait_for_log("app", &server, SOON).map(drop)
}

/// Either port is enough: the hub is reached over the second when the first one's cable is out, and the first is used again
/// when it is in.
#[test]
fn vm_two_ports_of_which_one_is_enough() -> Result<()> {
    let (fleet, _) = built_fleet()?;
    let (project, first) = (&fleet.project, fleet.device_address()?);
    set(
        project,
        "prefer = [\"eth0\", \"eth1\"]\n\n[configuration.network.interfaces.eth0]\ndhcp = true\n\
         [configuration.network.interfaces.eth1]\ndhcp = true\n\n",
    )?;
    // The second card's network leads to the machine's loopback by another address.
    let second = first.replace("10.0.2.2", "10.0.3.2");
    project.edit(
        &format!("hubs = [{first:?}]"),
        &format!("hubs = [{first:?}, {second:?}]"),
    )?;
    let disk = project.build()?;
    let mut config = fleet.machine(&disk)?;
    config.provision = Some(fleet.provision.clone());
    config.more_cards = 1;
    let mut guest = Guest::with(config)?;
    let mut checks = Checks::default();
    let link = |guest: &Guest, card: &str, up: bool| {
        guest.monitor("set_link", &json!({"name": card, "up": up}))
    };
    checks.run("both ports have their leases", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        bound(guest)?;
        guest.wait("eth1 is bound", SOON, |guest| {
            let port = port(guest, "eth1")?;
            Ok(has(&port, "addresses", "10.0.3.15/24").then_some(()))
        })?;
        fleet.wait_for_enrolment(guest)
    });
    for (cut, word) in [("net", "first"), ("net1", "second")] {
        checks.run(&format!("the {word} cable is out"), &mut guest, |guest| {
            link(guest, cut, false)?;
            project.app("started", &["sleep", word], "")?;
            let revision = fleet.publish(&["--assign", "all", "--yes"])?;
            fleet.wait_for_commit(guest, &revision)?;
            link(guest, cut, true)?;
            bound(guest).map(drop)
        });
    }
    checks.finish()
}
