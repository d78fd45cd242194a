//! What a hostile container does to PID 1 itself, through what PID 1 reads and reaps.

use crate::exec::{ask, begin_beside, end_beside};
use anyhow::{Context, Result, ensure};
use kedge_tests::guest::{Guest, text};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// Descriptors whose closing waits for an hour, sent over both sockets that PID 1 reads, some of which it never does: PID 1
/// goes on, also when it closes those.
pub(super) fn given(guest: &mut Guest) -> Result<()> {
    begin_beside(guest, "first", "give", 0)?;
    // Who speaks over the control socket is hung up on, maybe before all is sent.
    let said = end_beside(guest, "first", "given ")?;
    let sent = said.rsplit("given ").next().unwrap_or_default();
    let sent: u32 = sent.trim().parse().with_context(|| said.clone())?;
    ensure!(sent > 5, "{said}");
    let before = guest.container("first")?;
    guest.post("/v1/containers/first/restart")?;
    guest.wait("it runs again", SOON, |guest| {
        let now = guest.container("first")?;
        let again = text(&now, "state") == "running" && now.get("pid") != before.get("pid");
        Ok(again.then_some(()))
    })?;
    let boots = guest.boots();
    ensure!(boots == 1, "{boots} boots");
    Ok(())
}

/// A health command whose time is over ends with what it waits for: of dozens nothing is left.
pub(super) fn checked(guest: &mut Guest) -> Result<()> {
    guest.wait("no process is left of a check", SOON, |guest| {
        let usage = ask(guest, "/v1/usage")?;
        let containers = usage.get("containers").and_then(|all| all.as_array());
        let mut all = containers.into_iter().flatten();
        let one = all.find(|one| text(one, "name") == "owned-volume");
        let pids = one.and_then(|one| one.get("pids")?.as_u64());
        let pids = pids.with_context(|| format!("no processes of owned-volume: {usage}"))?;
        ensure!(pids <= 3, "{pids} processes");
        Ok((pids == 1).then_some(()))
    })
}
