//! The demonstration's fleet of one: a hub, a device that enrols by itself, and revisions that it pulls.
//!
//! A good one, a broken one, one whose download and trial are cut short, and a hub that is away for a while.

use super::update::{names, others, said};
use super::{BOOT, Scene};
use crate::device::{Device, fetch};
use anyhow::{Context, Result, ensure};
use kedge_api::device::Phase;
use kedge_api::operator::Device as Known;
use kedge_image_build::project::units::human;
use kedge_image_build::sample::Edition;
use serde_json::Value;
use std::cell::Cell;
use std::time::Duration;

/// A trial with its window, and the agent's pauses.
const JUDGED: Duration = Duration::from_secs(180);
/// Bytes a second for the download that is cut.
const SLOW: &str = "400KiB";

impl Scene<'_> {
    /// The device has enrolled by itself.
    pub(super) fn meet(&self, device: &mut Device) -> Result<()> {
        let known = self.at_hub(device, "the device has enrolled", JUDGED, |known| {
            ensure!(known.report > 0, "it has not reported");
            Ok(known.clone())
        })?;
        self.timeline.event(format_args!(
            "enrolled by its token: kedge devices shows {} ({} on {})",
            known.name, known.product, known.board
        ));
        Ok(())
    }

    /// A revision of the web server's image, published and assigned to all.
    fn release(&self, edition: Edition) -> Result<Value> {
        self.prepare(edition)?;
        self.publish(&["--assign", "all", "--yes"])
    }

    fn publish(&self, more: &[&str]) -> Result<Value> {
        let platform = self.built.platform.to_string_lossy();
        let mut words = vec!["publish", "--platform", &platform];
        words.extend(more);
        self.built.kedge.ask(&words)
    }

    /// Version 2 is pulled and stays, version 3 is pulled and goes.
    pub(super) fn pull(&self, device: &mut Device) -> Result<()> {
        let before = others(&device.status()?)?;
        let published = self.release(Edition::Number(2))?;
        let revision = text(&published, "revision")?;
        self.at_hub(device, "version 2 is committed", JUDGED, |known| {
            committed(known, &revision)
        })?;
        self.timeline.event(format_args!(
            "version 2 published and pulled: {} of {} travelled",
            human(number(&published, "bytes-sent")?),
            human(number(&published, "size")?)
        ));
        self.page(2)?;
        ensure!(
            others(&device.status()?)? == before,
            "what did not change was restarted"
        );
        self.timeline.event(format_args!(
            "committed: the new page is served, and {} kept their processes",
            names(&before)
        ));

        let broken = self.release(Edition::Broken)?;
        let broken = text(&broken, "revision")?;
        let known = self.at_hub(device, "version 3 is rolled back", JUDGED, |known| {
            let failed = known.failed.as_ref().context("nothing has failed")?;
            ensure!(failed.revision.to_string() == broken, "another one failed");
            ensure!(known.container_log.is_some(), "no log has come with it");
            Ok(known.clone())
        })?;
        let reason = known.failed.map(|failed| failed.reason);
        self.timeline.event(format_args!(
            "version 3 is broken, and was rolled back; the hub knows why: {}",
            reason.unwrap_or_default()
        ));
        let log = known.container_log.map(|log| log.text);
        let log = log.unwrap_or_default();
        for line in log.lines().filter(|line| line.contains("emerg")).take(1) {
            self.timeline.more(line);
        }
        device.until_goals(BOOT)?;
        self.page(2)?;
        ensure!(
            others(&device.status()?)? == before,
            "a roll back restarted what had not changed"
        );
        self.timeline
            .event("back on version 2 without a reboot; the history (kedge ctl history):");
        for event in device.ctl(&["history"])?.iter().rev().take(4).rev() {
            self.timeline.more(said(event));
        }
        Ok(())
    }

    /// Version 4 is large; the power fails in the middle of its download, and again in its trial.
    pub(super) fn cut(&self, mut device: Device) -> Result<Device> {
        self.prepare(Edition::Large(4))?;
        let published = self.publish(&[])?;
        let revision = text(&published, "revision")?;
        self.built
            .kedge
            .ask(&["assign", "all", &revision, "--rate", SLOW, "--yes"])?;
        let half = device.until("half of version 4 is there", JUDGED, |device| {
            let received = received(&device.status()?);
            ensure!(received > Edition::LARGE / 2, "{received} bytes");
            Ok(received)
        })?;
        device.cut_power()?;
        self.timeline.event(format_args!(
            "power cut in the download of version 4, {} of {} in",
            human(half),
            human(Edition::LARGE)
        ));
        let mut device = self.boot()?;
        let more = Cell::new(0);
        device.until("version 4 is tried", JUDGED, |device| {
            let status = device.status()?;
            more.set(more.get().max(received(&status)));
            ensure!(
                status.pointer("/update/trial").is_some(),
                "it is not tried yet"
            );
            Ok(())
        })?;
        let more = more.get();
        ensure!(
            more > 0 && more < Edition::LARGE * 3 / 4,
            "{more} bytes came after the cut: nothing was kept"
        );
        device.cut_power()?;
        self.timeline.event(format_args!(
            "it went on where it was: {} more; power cut in the trial",
            human(more)
        ));
        let mut device = self.boot()?;
        self.at_hub(&mut device, "version 4 is committed", JUDGED, |known| {
            committed(known, &revision)
        })?;
        self.page(4)?;
        self.timeline
            .event("tried again and committed: version 4 is served");
        Ok(device)
    }

    /// The hub is away; the device goes on, and tells afterwards what has happened.
    pub(super) fn alone(&mut self, device: &mut Device) -> Result<()> {
        self.hub.stop()?;
        self.timeline.event("the hub is stopped");
        let (code, _) = fetch(self.port, "POST", "/crash")?;
        ensure!(code == 502, "POST /crash is answered with {code}");
        device.until_goals(BOOT)?;
        self.page(4)?;
        self.timeline
            .event("the device goes on: a process crashed and was restarted, the page is served");
        let restarts = restarts(&device.status()?)?;
        self.hub.start_again()?;
        self.at_hub(device, "the hub hears of it", JUDGED, |known| {
            let visits = known.containers.iter().find(|c| c.name == "visits");
            let told = visits.map_or(0, |visits| u64::from(visits.restarts));
            ensure!(told == restarts, "the hub knows of {told} restarts");
            Ok(())
        })?;
        self.timeline
            .event("the hub is back, and was told what happened meanwhile:");
        let events = self.hub.events()?;
        for event in events.iter().rev().take(5).rev() {
            self.timeline
                .more(format_args!("{} {}", event.time, event.text));
        }
        Ok(())
    }

    /// Waits until what the hub knows of the device is right.
    fn at_hub<T>(
        &self,
        device: &mut Device,
        what: &str,
        patience: Duration,
        check: impl Fn(&Known) -> Result<T>,
    ) -> Result<T> {
        device.until(what, patience, |_| check(&self.hub.device()?))
    }

    fn page(&self, edition: u32) -> Result<()> {
        let (code, page) = fetch(self.port, "GET", "/")?;
        let wanted = format!("edition {edition}");
        ensure!(
            code == 200 && page.contains(&wanted),
            "GET / gives {code}, and not {wanted}"
        );
        Ok(())
    }
}

fn committed(known: &Known, revision: &str) -> Result<()> {
    let committed = known.committed.as_ref().context("nothing is committed")?;
    ensure!(
        committed.revision.to_string() == revision,
        "phase {:?}, failed {:?}",
        known.phase,
        known.failed
    );
    ensure!(
        matches!(known.phase, Some(Phase::Committed | Phase::Idle)),
        "phase {:?}",
        known.phase
    );
    Ok(())
}

/// Bytes of bodies that PID 1 has taken since the last offer.
fn received(status: &Value) -> u64 {
    let received = status.pointer("/update/staging/received");
    received.and_then(Value::as_u64).unwrap_or_default()
}

fn number(value: &Value, name: &str) -> Result<u64> {
    let number = value.get(name).and_then(Value::as_u64);
    number.with_context(|| format!("no {name} in {value}"))
}

fn text(value: &Value, name: &str) -> Result<String> {
    let text = value.get(name).and_then(Value::as_str);
    Ok(text
        .with_context(|| format!("no {name} in {value}"))?
        .to_owned())
}

fn restarts(status: &Value) -> Result<u64> {
    let visits = crate::device::container(status, "visits").context("no container visits")?;
    number(visits, "restarts")
}
