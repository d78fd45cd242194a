//! What a device says, as a host reads it: two types, since what people run on a host has nothing of PID 1 in it.

use anyhow::Result;
use kedge_image_build::push;
use kedge_init::control;
use kedge_revision::ObjectId;

/// What a device says while something arrives, and everything else that it may say of updates: whoever reads it on a host
/// reads the same.
#[test]
fn host_reads_all_that_a_device_says_of_updates() -> Result<()> {
    let id = ObjectId::from_digest([0x22; 32]).to_string();
    let target = || control::TargetStatus {
        revision: id.as_str().into(),
        parameters: 7,
        slot: "b".into(),
    };
    let said = control::UpdateStatus {
        committed: target(),
        trial: Some(target()),
        failed: Some(control::FailureStatus {
            revision: id.as_str().into(),
            parameters: 7,
            reason: "goal-missed(web, ready)".into(),
        }),
        floor: "1.40".into(),
        unsettled: 1,
        watchdog_resets: 2,
        staging: Some(control::StagingStatus {
            phase: "receiving".into(),
            received: 1 << 20,
        }),
        locks: vec![control::LockStatus {
            container: "web".into(),
            until_ms: 90_000,
        }],
    };
    let said = serde_json::json!({
        "boot-id": "x",
        "revision": control::RevisionStatus { id: id.as_str().into(), version: "1.40".into() },
        "trial": control::Trial::Trying { tries_left: 2 },
        "update": said,
        "goals-missing": [],
    });
    let read: push::Status = serde_json::from_value(said)?;
    assert_eq!(read.trial, push::Trial::Trying { tries_left: 2 });
    let runs = read.revision.map(|revision| revision.id.to_string());
    assert_eq!(runs, Some(id.clone()));
    let update = read.update;
    let place = push::Place {
        revision: id.parse()?,
        parameters: 7,
        slot: Some("b".into()),
    };
    assert_eq!(update.committed.as_ref(), Some(&place));
    assert_eq!(update.trial.as_ref(), Some(&place));
    assert_eq!(update.failed.map(|failed| failed.parameters), Some(7));
    assert_eq!(update.floor.as_deref(), Some("1.40"));
    assert_eq!(update.unsettled, Some(1));
    let staging = push::Staging {
        phase: "receiving".into(),
        received: 1 << 20,
    };
    assert_eq!(update.staging, Some(staging));
    assert_eq!(update.locks.first().map(|lock| lock.until_ms), Some(90_000));
    Ok(())
}
