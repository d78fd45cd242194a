//! A device and a hub: what the agent may do, and what it brings.

use crate::built_fleet;
use anyhow::{Context, Result, ensure};
use kedge_tests::guest::{BOOT, Checks, text};
use serde_json::Value;

#[test]
fn vm_a_confined_agent_brings_an_update() -> Result<()> {
    let (fleet, disk) = built_fleet()?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    checks.run("it may do what it must, and no more", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        let agent = guest.wait("the agent runs", BOOT, |guest| {
            let status = guest.status()?;
            let all = status.get("processes").and_then(Value::as_array);
            let all = all.context("no processes are told")?;
            let agent = all.iter().find(|process| text(process, "name") == "agent");
            // Its first moments are PID 1's child's.
            Ok(agent
                .map(|agent| text(agent, "confinement").to_owned())
                .filter(|is| is.contains("Seccomp:2")))
        })?;
        for fact in [
            "Uid:64000 ",
            "CapPrm:0000000000000000 ",
            "NoNewPrivs:1 ",
            "Seccomp:2 ",
            "Root:/run/kedge/agent",
        ] {
            ensure!(agent.contains(fact), "{agent} lacks {fact}");
        }
        Ok(())
    });
    checks.run(
        "it enrols, and an update is committed",
        &mut guest,
        |guest| {
            fleet.project.app("started", &["sleep", "second"], "")?;
            let revision = fleet.publish(&["--assign", "all"])?;
            fleet.wait(guest, "the device has enrolled", |device| {
                (device.get("report")?.as_u64()? > 0).then_some(())
            })?;
            // It may have enrolled after all were assigned.
            fleet.project.kedge.ask(&["assign", "all", &revision])?;
            fleet.wait_for_commit(guest, &revision)?;
            let refused: Vec<String> = guest
                .logs("kedge")?
                .into_iter()
                .map(|line| line.text)
                .filter(|text| text.contains("not permitted"))
                .collect();
            ensure!(refused.is_empty(), "{refused:?}");
            Ok(())
        },
    );
    checks.finish(&mut guest)
}
