//! Why a device does not run what it should: pure.

use crate::fleet::{Revision, Row, Wanted};
use crate::state::standing;
use kedge_api::device::{Phase, Wait};
use kedge_api::operator::Why;

/// Looks at what is desired, what was told, and when.
pub(crate) fn why(
    row: &Row,
    revision: Option<&Revision>,
    online: bool,
    seen_s: Option<u64>,
    now: u64,
) -> Why {
    let mut steps = Vec::new();
    let summary = judge(row, revision, now, &mut steps);
    steps.push(match seen_s {
        _ if online => "its poll is held right now".to_owned(),
        Some(seconds) => format!("it was last heard of {seconds} s ago"),
        None => "it was never heard of since it enrolled".to_owned(),
    });
    match summary {
        Ok(summary) => Why {
            up_to_date: true,
            summary,
            steps,
        },
        Err(summary) => Why {
            up_to_date: false,
            summary,
            steps,
        },
    }
}

/// In a sentence: that all is well, or what is not.
fn judge(
    row: &Row,
    revision: Option<&Revision>,
    now: u64,
    steps: &mut Vec<String>,
) -> Result<String, String> {
    if row.revoked {
        return Err("its certificate was revoked, so it is told nothing".to_owned());
    }
    let wanted = row
        .wanted
        .as_ref()
        .ok_or("no revision was assigned to it")?;
    let name = revision.map_or_else(
        || wanted.revision.to_string(),
        |revision| format!("{} ({})", revision.version, revision.order),
    );
    // Without values of this hub's a device goes on with those that it has.
    let counts = |has: u64| row.parameters == 0 || has == row.parameters;
    steps.push(format!(
        "it should run {name} with parameters {}",
        row.parameters
    ));
    let Some(report) = &row.report else {
        return Err("it has not reported anything yet".to_owned());
    };
    if let Some(running) = &report.running {
        steps.push(format!(
            "it says that it runs {} with parameters {}",
            running.revision, running.parameters
        ));
        if running.revision == wanted.revision && counts(running.parameters) {
            return trial(&report.phase);
        }
    }
    if report.stale {
        steps.push("it says that the hub's last signed answer no longer holds for it".to_owned());
    }
    if let Some(failed) = &report.failed
        && failed.revision == wanted.revision
        && counts(failed.parameters)
    {
        return Err(format!(
            "it has tried it and gone back: {}; an operator's retry lets it try again",
            failed.reason
        ));
    }
    Err(phase(&report.phase, wanted, now))
}

fn trial(phase: &Phase) -> Result<String, String> {
    if matches!(phase, Phase::Trying | Phase::Judging) {
        return Err("it is trying it right now".to_owned());
    }
    if let Phase::Repair { reason } = phase {
        return Err(repair(reason.as_deref()));
    }
    Ok("it runs what it should".to_owned())
}

fn repair(reason: Option<&str>) -> String {
    let what = "it is in repair mode and waits to be mended";
    reason.map_or_else(|| what.to_owned(), |reason| format!("{what}: {reason}"))
}

fn phase(phase: &Phase, wanted: &Wanted, now: u64) -> String {
    match phase {
        Phase::Idle | Phase::Committed | Phase::Unknown => {
            "it has not taken the assignment up yet".to_owned()
        }
        Phase::Checking => "it judges the assignment".to_owned(),
        Phase::Refused { reason } => format!("it refuses it: {reason}"),
        Phase::Downloading { done, total } => {
            format!("it downloads: {done} of {total} bytes are there")
        }
        Phase::Staged if wanted.download_only => {
            "it has everything, and was told to download only; an operator's apply lets it go on"
                .to_owned()
        }
        Phase::Staged => "it has everything and is about to try it".to_owned(),
        Phase::Waiting { for_what } => match for_what {
            Wait::Window => {
                let opens = wanted
                    .awaited()
                    .map_or(0, |window| standing(window, now).opens_in_s);
                format!("it waits for its window, which opens in {opens} s")
            }
            Wait::Lock => "it waits for a container that holds the update lock".to_owned(),
            Wait::Apply => "it waits for an operator's apply".to_owned(),
            Wait::Reboot => "it waits for a boot".to_owned(),
        },
        Phase::Trying => "it begins the trial".to_owned(),
        Phase::Judging => "it is being judged".to_owned(),
        Phase::RolledBack { reason } => format!("it went back: {reason}"),
        Phase::Repair { reason } => repair(reason.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Summary;
    use kedge_api::device::Target;
    use kedge_revision::{Floor, ObjectId, PublicKey, Timestamp};

    /// Its values are another hub's, or came with a push: this hub gave none, and has nothing to wait for.
    #[test]
    fn values_that_the_hub_did_not_give_are_no_reason() {
        let key = PublicKey::from_bytes([3; 32]);
        let names = ["gateway", "board"].map(|name| name.parse().unwrap());
        let [product, board] = names;
        let mut row = Row::new(key, product, board, Timestamp::from_unix(0));
        let revision = ObjectId::from_digest([1; 32]);
        row.assign(Wanted {
            revision,
            retry: 0,
            download_only: false,
            now: false,
            window: None,
            rate: None,
        });
        row.report = Some(Summary {
            boot_id: String::new(),
            running: Some(Target {
                revision,
                version: "1".to_owned(),
                parameters: 5,
                slot: "a".to_owned(),
            }),
            committed: None,
            floor: Floor::default(),
            phase: Phase::Idle,
            failed: None,
            stale: false,
        });
        assert!(why(&row, None, true, None, 0).up_to_date);
        row.parameters = 6;
        assert!(!why(&row, None, true, None, 0).up_to_date);
    }

    #[test]
    fn a_device_in_repair_mode_is_not_well_and_says_why() {
        assert!(trial(&Phase::Idle).is_ok());
        let why = |reason: Option<&str>| {
            let reason = reason.map(str::to_owned);
            trial(&Phase::Repair { reason }).unwrap_err()
        };
        assert!(why(None).ends_with("waits to be mended"));
        assert!(why(Some("trust: no root")).ends_with("mended: trust: no root"));
    }
}
