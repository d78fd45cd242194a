//! What limits do, seen from inside: checks on a boot of another test. Ratios, counts of the kernel and least times alone:
//! how fast the machine is, and who else is at work on it, is nobody's promise.

use crate::exec::{ask, begin_beside, end_beside, run};
use anyhow::{Context, Result, ensure};
use kedge_tests::guest::{Guest, text};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The numbers of what a load says.
pub(super) fn load(guest: &Guest, container: &str, words: &[&str]) -> Result<Vec<u64>> {
    let all = [&["exec", container, "/probe"], words].concat();
    let output = run(guest, &all, b"")?;
    ensure!(output.status.success(), "{words:?}: {output:?}");
    Ok(numbers(&String::from_utf8_lossy(&output.stdout)))
}

pub(super) fn numbers(said: &str) -> Vec<u64> {
    let words = said.split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Of a processor there is 20 %, and what has no limit was never held back.
pub(super) fn processor(guest: &mut Guest) -> Result<()> {
    let spun = load(guest, "limited", &["spin", "3"])?;
    let free = load(guest, "filler", &["spin", "3"])?;
    let [permille, times] = spun.as_slice() else {
        anyhow::bail!("{spun:?}")
    };
    // One more period's worth may be used at either end of the measured time.
    ensure!(
        *permille <= 300 && *times >= 10,
        "{permille} ‰ of a processor, held back {times} times"
    );
    ensure!(
        free.get(1) == Some(&0) && free.first() > Some(permille),
        "without a limit: {free:?}, with one of 20 %: {spun:?}"
    );
    Ok(())
}

/// Above `memory-high` it is slowed down, and nothing is killed.
pub(super) fn memory_high(guest: &mut Guest) -> Result<()> {
    let swollen = load(guest, "limited", &["swell", "24"])?;
    let [mebibytes, high, killed] = swollen.as_slice() else {
        anyhow::bail!("{swollen:?}")
    };
    ensure!(
        (8..24).contains(mebibytes) && *high > 0 && *killed == 0,
        "{mebibytes} MiB of 16, slowed down {high} times, killed {killed} times"
    );
    Ok(())
}

/// What is written takes at least as long as its rate asks for.
pub(super) fn disk(guest: &mut Guest) -> Result<()> {
    let wrote = load(guest, "limited", &["write", "4", "/free"])?;
    let [bytes, took] = wrote.as_slice() else {
        anyhow::bail!("{wrote:?}")
    };
    // 4 MiB at 1 MiB a second, of which the first half second is not waited for.
    ensure!(
        *bytes == 4 << 20 && *took >= 3000,
        "{bytes} bytes in {took} ms"
    );
    Ok(())
}

/// `memory.oom.group` of `unified` is 0 in this one: what is killed is the eater alone. Elsewhere all of a container is.
pub(super) fn unified(guest: &mut Guest) -> Result<()> {
    let before = guest.container("filler")?;
    let output = run(guest, &["exec", "filler", "/probe", "eat"], b"")?;
    ensure!(output.status.code() == Some(137), "{output:?}");
    let now = guest.container("filler")?;
    let pid = |container: &Value| container.get("pid").and_then(Value::as_u64);
    ensure!(
        text(&now, "state") == "running" && pid(&now).is_some() && pid(&now) == pid(&before),
        "{now}, before {before}"
    );
    Ok(())
}

/// A fork bomb comes to its limit, and a neighbour goes on answering.
pub(super) fn bomb(guest: &mut Guest) -> Result<()> {
    const SECONDS: u64 = 6;
    begin_beside(guest, "filler", "bomb", SECONDS)?;
    let begun = Instant::now();
    let (mut answers, mut most) = (0_u32, 0);
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        let answer = guest.get(8080, "/health")?;
        ensure!(answer.status == 200, "after {answers}: {answer:?}");
        answers = answers.saturating_add(1);
        most = most.max(processes(guest)?);
    }
    let refused = numbers(&end_beside(guest, "filler", "bomb")?);
    ensure!(
        refused.first() > Some(&0),
        "nothing was refused: {refused:?}"
    );
    ensure!(answers >= 4, "only {answers} answers beside it");
    ensure!((32..=64).contains(&most), "{most} processes of 64 at most");
    Ok(())
}

/// While a container writes without end into a volume that is full, others write and answer.
pub(super) fn full_volume(guest: &mut Guest) -> Result<()> {
    const SECONDS: u64 = 6;
    begin_beside(guest, "filler", "stuff", SECONDS)?;
    let begun = Instant::now();
    let mut answers = 0_u32;
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        let wrote = load(guest, "limited", &["write", "1", "/free"])?;
        ensure!(wrote.first() == Some(&(1 << 20)), "beside it: {wrote:?}");
        let answer = guest.get(8080, "/health")?;
        ensure!(answer.status == 200, "after {answers}: {answer:?}");
        answers = answers.saturating_add(1);
    }
    let stuffed = numbers(&end_beside(guest, "filler", "stuffed")?);
    let [bytes, files, refused] = stuffed.as_slice() else {
        anyhow::bail!("{stuffed:?}")
    };
    ensure!(
        *bytes <= 1 << 20 && *files <= 1024 && *refused > 0 && answers > 0,
        "{bytes} bytes of 1 MiB in {files} files of 1024, {refused} times refused, {answers} answers beside it"
    );
    Ok(())
}

fn processes(guest: &Guest) -> Result<u64> {
    let usage = ask(guest, "/v1/usage")?;
    let containers = usage.get("containers").and_then(Value::as_array);
    let mut all = containers.into_iter().flatten();
    let filler = all.find(|one| text(one, "name") == "filler");
    let pids = filler.and_then(|one| one.get("pids")?.as_u64());
    pids.with_context(|| format!("no processes of filler: {usage}"))
}
