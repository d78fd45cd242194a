//! Power cuts at any moment of the way from a push to a verdict: the device always ends on a committed revision.
//!
//! The moments come from a seed, so that a failure can be had again: two seeds in a usual run, fifty in a long one
//! (`cargo xtask test vm --long`), or those named in `KEDGE_SEEDS` (`7` or `0-49`).

use crate::built_trials_for;
use anyhow::{Context, Result, ensure};
use kedge_tests::guest::{BOOT, Guest, text};
use kedge_tests::product::BOARD;
use kedge_tests::trials::{Project, committed, update};
use std::time::Duration;

/// Longest wait before a cut: a push, a slot that is written, a boot, and a part of the window.
const LONGEST_MS: u64 = 14_000;
/// The trial may take two boots more.
const SETTLED: Duration = Duration::from_secs(300);

/// Small numbers that look random and come from a seed (xorshift, Marsaglia 2003).
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

fn seeds() -> Result<std::ops::RangeInclusive<u64>> {
    let Ok(text) = std::env::var("KEDGE_SEEDS") else {
        let long = std::env::var_os("KEDGE_LONG").is_some();
        return Ok(0..=if long { 49 } else { 1 });
    };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    Ok(first.parse().context("KEDGE_SEEDS")?..=last.parse().context("KEDGE_SEEDS")?)
}

#[test]
fn vm_power_cuts_at_any_moment_of_a_trial() -> Result<()> {
    power_cuts(BOARD)
}

/// The same on any board.
pub(crate) fn power_cuts(board: &str) -> Result<()> {
    for seed in seeds()? {
        one(board, seed)
            .with_context(|| format!("seed {seed}: try again with KEDGE_SEEDS={seed}"))?;
    }
    Ok(())
}

/// A change that takes a slot, a reboot or nothing.
fn change(project: &Project, seed: u64) -> Result<&'static str> {
    match seed % 3 {
        0 => project.kernel_arguments("tests.kedge=cut").map(|()| "slot"),
        1 => project
            .app("started", &["sleep", "cut"], "")
            .map(|()| "live"),
        _ => project
            .set("base", "platform", "started", &["sleep", "cut"], "")
            .map(|()| "reboot"),
    }
}

fn one(board: &str, seed: u64) -> Result<()> {
    let mut chance = Chance(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (project, disk) = built_trials_for(board)?;
    let mut guest = Guest::start_on(board, &disk, &[])?;
    guest.wait_for_control(BOOT)?;
    let old = committed(&guest)?;
    let kind = change(&project, seed)?;
    let pushed = project.push(&guest, &["--detach"])?;
    ensure!(pushed.committed, "refused: {}", pushed.said);
    let new = text(&pushed.said, "revision").to_owned();
    let cuts = 1 + chance.below(2);
    for _ in 0..cuts {
        let wait = chance.below(LONGEST_MS);
        std::thread::sleep(Duration::from_millis(wait));
        guest.cut_power()?;
        kedge_image_build::progress::say(format_args!(
            "    seed {seed}: {kind}, cut after {wait} ms"
        ));
        guest = Guest::start_on(board, &disk, &[])?;
    }
    guest.wait_for_control(BOOT)?;
    let settled = guest.wait("no trial is left, and everything runs", SETTLED, |guest| {
        let status = guest.status()?;
        let update = update(guest)?;
        let done = update.get("trial").is_none() && text(&status, "trial") == "committed";
        let runs = text(&guest.container("app")?, "state") == "running";
        Ok((done && runs && text(&status, "phase") == "running").then_some(update))
    });
    let settled = settled.map_err(|error| error.context(guest.tail()))?;
    let now = committed(&guest)?;
    ensure!(
        now == old || now == new,
        "{now} is committed, neither {old} nor {new}"
    );
    // Two cuts are fewer than the tries: nothing has failed, and nothing is told to have.
    ensure!(
        settled.get("failed").is_none(),
        "a failure is told: {settled}"
    );
    Ok(())
}
