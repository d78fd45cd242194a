//! Networks of containers' own on a device: by name within a pool, out under the device's address, in by a published port alone.

use crate::built_trials;
use anyhow::{Context, Result, ensure};
use kedge_tests::guest::{BOOT, Checks, Guest};
use kedge_tests::trials::{Project, committed, failure, update};
use std::net::TcpListener;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// How the network of QEMU's user calls the machine that it runs on.
const MACHINE: &str = "10.0.2.2";
const MACHINE6: &str = "fec0::2";

#[test]
fn vm_containers_of_a_pool_reach_one_another_and_the_world() -> Result<()> {
    let (project, _) = built_trials()?;
    // Whatever listens on the machine is what is outside.
    let outside = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let world = format!("{MACHINE}:{}", outside.local_addr()?.port());
    let world = world.as_str();
    let outside6 = TcpListener::bind("[::1]:0").context("cannot listen")?;
    let world6 = format!("[{MACHINE6}]:{}", outside6.local_addr()?.port());
    project.edit(
        "[configuration]\n",
        "[configuration.networks.front]\nprefix = \"10.88.0.0/24\"\n\
         prefix6 = \"fd00:88::/64\"\n\
         [configuration.networks.back]\nprefix = \"10.88.1.0/24\"\n\n[configuration]\n",
    )?;
    // In the order of names: app has the first address of its pool that is a container's, web the second.
    let places = ["web:80", world, "[fd00:88::3]:80", &world6];
    let arguments = [&["reach", "60"], &places[..]].concat();
    project.app("started", &arguments, "")?;
    project.set("web", "app", "started", &["serve", "80"], "")?;
    project.add_line("web", "ports = [\"8080:80\"]")?;
    for (name, pool) in [("app", "front"), ("web", "front")] {
        project.add_line(name, &format!("network = {{ pool = {pool:?} }}"))?;
    }
    let disk = project.build()?;
    let mut guest = Guest::start(&disk, &[8080])?;
    guest.wait_for_control(BOOT)?;
    let mut checks = Checks::default();
    checks.run("by name within a pool", &mut guest, |guest| {
        guest
            .wait_for_log("app", "reach web:80 yes", SOON)
            .map(drop)
    });
    checks.run("the world", &mut guest, |guest| {
        let yes = format!("reach {world} yes");
        guest.wait_for_log("app", &yes, SOON).map(drop)
    });
    checks.run("one another and the world by IPv6", &mut guest, |guest| {
        for place in [places[2], places[3]] {
            guest.wait_for_log("app", &format!("reach {place} yes"), SOON)?;
        }
        Ok(())
    });
    checks.run("a published port from outside", &mut guest, |guest| {
        guest.wait("web answers", SOON, |guest| {
            let Ok(answer) = guest.get(8080, "/health") else {
                return Ok(None);
            };
            ensure!(answer.status == 200 && answer.body == "well", "{answer:?}");
            Ok(Some(()))
        })
    });
    checks.run("nobody of another pool", &mut guest, |guest| {
        another_pool(&project, guest, world)
    });
    checks.run(
        "a pool in the site's own network is rolled back",
        &mut guest,
        |guest| overlapping(&project, guest),
    );
    checks.finish()
}

/// One that comes when what it must not reach is there, and is reached by those who may.
fn another_pool(project: &Project, guest: &Guest, world: &str) -> Result<()> {
    let hidden = [
        "10.88.0.3:80",
        "10.0.2.15:8080",
        "web:80",
        "[fd00:88::3]:80",
    ];
    let arguments = [&["reach", "2"], &hidden[..], &[world]].concat();
    project.set("wild", "app", "started", &arguments, "")?;
    project.add_line("wild", "network = { pool = \"back\" }")?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    for place in hidden {
        guest.wait_for_log("wild", &format!("reach {place} no"), SOON)?;
    }
    guest.wait_for_log("wild", &format!("reach {world} yes"), SOON)?;
    Ok(())
}

/// The address that the device has leased goes before the pool, and the trial fails by that.
fn overlapping(project: &Project, guest: &mut Guest) -> Result<()> {
    let before = committed(guest)?;
    project.edit(
        "[configuration.networks.back]\n",
        "[configuration.networks.site]\nprefix = \"10.0.2.0/24\"\n[configuration.networks.back]\n",
    )?;
    let pushed = project.push(guest, &[])?;
    ensure!(!pushed.committed, "it was committed: {}", pushed.said);
    ensure!(failure(guest)? == "network-lost", "{}", update(guest)?);
    ensure!(committed(guest)? == before, "something else is committed");
    ensure!(guest.boots() == 1, "the device was restarted");
    let said = guest.logs("kedge")?;
    let why = ["cannot make the network site", "10.0.2.15/24 of eth0"];
    let tells = |text: &str| why.iter().all(|word| text.contains(word));
    ensure!(said.iter().any(|line| tells(&line.text)), "{said:?}");
    let answer = guest.get(8080, "/health")?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}
