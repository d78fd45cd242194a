//! Reports of devices: kept in order, each once, and what they mean in events.

use crate::error::Refusal;
use crate::events;
use crate::fleet::{Row, Summary};
use crate::rows::signed;
use crate::writer::Step;
use kedge_api::device::{Container, Phase, Report};
use rusqlite::params;

/// Longest of what a device tells in a word or a sentence, bytes.
const SENTENCE: usize = 1024;
/// Most containers; a revision has no more.
const CONTAINERS: usize = 64;

/// Takes a device's reports; those that are known are passed over. Tells the number up to which all are kept.
pub(crate) fn take(
    step: &mut Step<'_>,
    row: &mut Row,
    reports: Vec<Report>,
) -> Result<u64, Refusal> {
    let mut newest = None;
    let (mut console, mut log) = (None, None);
    for report in reports {
        if report.seq <= row.report_seq {
            continue;
        }
        let mut report = bounded(report);
        for (what, text) in news(row.report.as_ref(), &report) {
            events::told(step, row.id, what, text)?;
        }
        remember_previous(row, &report);
        row.actions.retain(|action| action.id > report.action);
        // A device that was taken in anew, or a hub that came back from a backup: what it has done already is done, and
        // numbers go on behind. Half of them are left, whatever a device claims.
        row.action = row.action.max(report.action.min(u64::MAX / 4));
        row.report_seq = report.seq;
        row.report = Some(Summary::of(&report));
        console = report.console.take().or(console);
        log = report.container_log.take().or(log);
        newest = Some(report);
    }
    let Some(report) = newest else {
        return Ok(row.report_seq);
    };
    let log = log.as_ref().map(serde_json::to_string).transpose()?;
    step.database
        .prepare_cached(
            "UPDATE devices SET report_seq = ?2, report = ?3, console = coalesce(?4, console), \
             container_log = coalesce(?5, container_log), previous = ?6, action = ?7 WHERE id = ?1",
        )?
        .execute(params![
            row.id.digest(),
            signed(report.seq),
            serde_json::to_string(&report)?,
            console,
            log,
            row.previous.as_ref().map(kedge_revision::ObjectId::digest),
            signed(row.action),
        ])?;
    step.database
        .prepare_cached("DELETE FROM actions WHERE device = ?1 AND id <= ?2")?
        .execute(params![row.id.digest(), signed(report.action)])?;
    Ok(row.report_seq)
}

/// What was committed before is where a fall-back goes.
fn remember_previous(row: &mut Row, report: &Report) {
    let before = row
        .report
        .as_ref()
        .and_then(|known| known.committed.as_ref());
    let now = report.committed.as_ref();
    if let (Some(before), Some(now)) = (before, now)
        && before.revision != now.revision
    {
        row.previous = Some(before.revision);
    }
}

/// What a report has that the one before it had not.
fn news(before: Option<&Summary>, report: &Report) -> Vec<(&'static str, String)> {
    let mut news = Vec::new();
    if before.is_some_and(|before| before.boot_id != report.boot_id) {
        news.push(("booted", "started anew".to_owned()));
    }
    let running = || match &report.running {
        Some(target) if target.version.is_empty() => target.revision.to_string(),
        Some(target) => format!("{} ({})", target.version, target.revision),
        None => "what it does not tell".to_owned(),
    };
    let same_target = before.is_some_and(|before| before.running == report.running);
    let same_phase = before.is_some_and(|before| before.phase == report.phase) && same_target;
    let on_trial =
        before.is_some_and(|before| matches!(before.phase, Phase::Trying | Phase::Judging));
    if same_phase && before.is_some_and(|before| before.failed == report.failed) {
        return news;
    }
    match &report.phase {
        Phase::Committed => news.push(("committed", format!("runs {}", running()))),
        Phase::RolledBack { reason } => {
            let mut text = format!("{reason}; runs {}", running());
            if let Some(tail) = report.console.as_deref().filter(|tail| !tail.is_empty()) {
                text.push_str("; its console said at last:\n");
                text.push_str(tail);
            }
            news.push(("rolled-back", text));
        }
        Phase::Refused { reason } => news.push(("refused", reason.clone())),
        Phase::Repair { reason: None } => {
            news.push(("repair", "waits to be mended".to_owned()));
        }
        Phase::Repair {
            reason: Some(reason),
        } => news.push(("repair", format!("waits to be mended: {reason}"))),
        // A trial is told once, whichever of its phases is reported first, and whatever runs in them.
        Phase::Trying | Phase::Judging if !on_trial => {
            news.push(("trying", "tries what it was assigned".to_owned()));
        }
        Phase::Idle
        | Phase::Checking
        | Phase::Downloading { .. }
        | Phase::Staged
        | Phase::Waiting { .. }
        | Phase::Trying
        | Phase::Judging
        | Phase::Unknown => {}
    }
    news
}

/// A device may be broken or hostile: nothing that it tells grows without bound. It is cut and not refused, since a
/// device whose report is refused sends it for ever.
fn bounded(mut report: Report) -> Report {
    cut(&mut report.boot_id, 64);
    cut(&mut report.floor, 64);
    for target in [&mut report.running, &mut report.committed]
        .into_iter()
        .flatten()
    {
        cut(&mut target.version, 64);
        cut(&mut target.slot, 8);
    }
    match &mut report.phase {
        Phase::Refused { reason }
        | Phase::RolledBack { reason }
        | Phase::Repair {
            reason: Some(reason),
        } => cut(reason, SENTENCE),
        Phase::Idle
        | Phase::Checking
        | Phase::Downloading { .. }
        | Phase::Staged
        | Phase::Waiting { .. }
        | Phase::Trying
        | Phase::Judging
        | Phase::Committed
        | Phase::Repair { reason: None }
        | Phase::Unknown => {}
    }
    if let Some(failed) = &mut report.failed {
        cut(&mut failed.reason, SENTENCE);
    }
    report.containers.truncate(CONTAINERS);
    for Container { name, state, .. } in &mut report.containers {
        cut(name, 64);
        cut(state, 64);
    }
    if let Some(console) = &mut report.console {
        keep_end(console, Report::TAIL);
    }
    if let Some(log) = &mut report.container_log {
        cut(&mut log.container, 64);
        keep_end(&mut log.text, Report::TAIL);
    }
    report
}

fn cut(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}

/// Of a tail the end counts.
fn keep_end(text: &mut String, most: usize) {
    let over = text.len().saturating_sub(most);
    let from = text.ceil_char_boundary(over);
    text.drain(..from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_api::device::{ContainerLog, Failed, Target};
    use kedge_revision::ObjectId;

    fn report(phase: Phase) -> Report {
        Report {
            seq: 1,
            boot_id: "one".to_owned(),
            uptime_ms: 0,
            time: None,
            running: Some(Target {
                revision: ObjectId::from_digest([1; 32]),
                version: "1.0".to_owned(),
                parameters: 0,
                slot: "a".to_owned(),
            }),
            committed: None,
            floor: "1.1".to_owned(),
            phase,
            failed: None,
            stale: false,
            containers: Vec::new(),
            action: 0,
            console: None,
            container_log: None,
        }
    }

    #[test]
    fn a_verdict_is_told_once() {
        let first = report(Phase::Committed);
        let words: Vec<_> = news(None, &first)
            .into_iter()
            .map(|(what, _)| what)
            .collect();
        assert_eq!(words, ["committed"]);
        assert!(news(Some(&Summary::of(&first)), &first).is_empty());
        let mut bad = report(Phase::RolledBack {
            reason: "goal-missed(web)".to_owned(),
        });
        bad.console = Some("Oops".to_owned());
        let (what, text) = news(Some(&Summary::of(&first)), &bad).remove(0);
        assert_eq!(what, "rolled-back");
        assert!(text.contains("goal-missed(web)") && text.contains("Oops"));
        let told = Summary::of(&bad);
        assert!(news(Some(&told), &bad).is_empty());
        // The same reason with another revision is another failure.
        bad.failed = Some(Failed {
            revision: ObjectId::from_digest([2; 32]),
            parameters: 0,
            reason: "goal-missed(web)".to_owned(),
        });
        assert_eq!(news(Some(&told), &bad).len(), 1);
    }

    #[test]
    fn a_trial_is_told_once_whatever_runs_in_it() {
        let mut now = report(Phase::Trying);
        let before = Summary::of(&report(Phase::Staged));
        assert_eq!(news(Some(&before), &now).len(), 1);
        let before = Summary::of(&now);
        now.running = Some(Target {
            revision: ObjectId::from_digest([2; 32]),
            version: String::new(),
            parameters: 0,
            slot: "b".to_owned(),
        });
        assert!(news(Some(&before), &now).is_empty());
        let before = Summary::of(&now);
        now.phase = Phase::Judging;
        assert!(news(Some(&before), &now).is_empty());
        // A device whose trial was too short for its first report.
        let before = Summary::of(&report(Phase::Idle));
        assert_eq!(news(Some(&before), &now).len(), 1);
    }

    #[test]
    fn what_a_device_tells_is_cut_on_whole_letters() {
        let mut long = report(Phase::Refused {
            reason: "ß".repeat(5000),
        });
        long.console = Some(format!("{}end", "ß".repeat(5000)));
        long.container_log = Some(ContainerLog {
            container: "web".to_owned(),
            text: "x".repeat(9000),
        });
        let cut = bounded(long);
        let Phase::Refused { reason } = &cut.phase else {
            panic!("{:?}", cut.phase);
        };
        assert_eq!(reason.len(), SENTENCE);
        let console = cut.console.unwrap();
        assert!(console.len() <= Report::TAIL && console.ends_with("ßend"));
        assert_eq!(cut.container_log.unwrap().text.len(), Report::TAIL);
        let long = report(Phase::Repair {
            reason: Some("x".repeat(5000)),
        });
        let (what, text) = news(None, &bounded(long)).remove(0);
        let most = "waits to be mended: ".len() + SENTENCE;
        assert_eq!((what, text.len()), ("repair", most));
    }
}
