//! What is old, foreign or out of order, from a hub that has its own keys and is believed: PID 1's side must refuse it in
//! words, and the device must lose nothing.

use super::poison::signed_anew;
use super::{Bench, HUB};
use anyhow::{Result, ensure};
use kedge_api::device::Phase;
use kedge_revision::fresh::{Assignment, Fresh};
use kedge_revision::{KeyId, ObjectId};
use kedge_tests::agent::Device;
use kedge_tests::proxy::{Answer, Fault};
use kedge_tests::releases::{Fleet, Plan, Release};
use std::sync::Arc;

/// The hub insists on a release, against all that it would do by itself.
fn insist(fleet: &Arc<Fleet>, bench: &Bench, release: &Release) {
    let (id, head) = (release.id, release.head.clone());
    let state = format!(
        r#"{{"assignment":{{"revision":"{id}","parameters":0}},"poll":{{"interval-s":60,"hold-s":50,"jitter-s":0}}}}"#
    );
    let state = Fault::Instead(Answer::json(200, "", &state));
    let assign = signed_anew(fleet, move |fresh| assigned(&fresh, id));
    let fields = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len());
    let head = Answer {
        head: fields.into_bytes(),
        body: head,
    };
    bench.proxy.plays("/v1/device/state", 99, state);
    bench.proxy.plays("/v1/device/assignment", 99, assign);
    bench.proxy.plays("/head?", 99, Fault::Instead(head));
}

fn assigned(fresh: &Fresh, revision: ObjectId) -> Fresh {
    let assignment = Assignment {
        revision,
        parameters: 0,
    };
    let Fresh {
        device,
        nonce,
        time,
        holds_s,
        ..
    } = *fresh;
    Fresh::new(device, nonce, time, Some(assignment), holds_s)
}

/// Why the device refuses what it should run, as its hub was told.
fn reason(fleet: &Fleet, id: KeyId) -> String {
    match fleet.device(id).ok().and_then(|shown| shown.phase) {
        Some(Phase::Refused { reason }) => reason,
        _ => String::new(),
    }
}

#[test]
fn host_what_no_device_should_run_is_refused_in_words() -> Result<()> {
    let fleet = Arc::new(Fleet::start(HUB)?);
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let floored = Plan {
        floor: 5,
        ..Plan::new(5, 9000)
    };
    let floored = fleet.publish(&floored)?;
    bench.update(&fleet, &floored)?;
    let id = bench.device.id()?;
    let foreign = Plan {
        product: "other",
        ..Plan::new(9, 9000)
    };
    let mut stranger = fleet.keys.clone();
    stranger.release = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    for (release, words) in [
        (Plan::new(4, 9000).make(&fleet.keys)?, "floor"),
        (foreign.make(&fleet.keys)?, "product"),
        (Plan::new(9, 9000).make(&stranger)?, "signature"),
    ] {
        insist(&fleet, &bench, &release);
        bench.device.start()?;
        let refused = |_: &Device| reason(&fleet, id).contains(words);
        let what = format!("a refusal for its {words}");
        bench.device.until(&what, refused)?;
        bench.device.audit(&[&floored])?;
        ensure!(bench.device.state().committed.0 == floored.id);
        bench.proxy.honest();
    }
    ensure!(bench.device.state().trials == 1, "something was tried");
    let next = fleet.publish(&Plan::new(6, 9000))?;
    bench.device.start()?;
    bench.update(&fleet, &next)?;
    bench.device.audit(&[&floored, &next])
}

#[test]
fn host_an_answer_to_another_question_is_not_fresh() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let first = fleet.publish(&Plan::new(2, 9000))?;
    bench.update(&fleet, &first)?;
    let second = fleet.publish(&Plan::new(3, 9000))?;
    // The same words again, with the nonce of another question; and all that was said before anything was assigned.
    for step in ["POST /v1/device/assignment", "POST /v1/time"] {
        bench.proxy.plays(step, 2, Fault::Earlier);
    }
    bench.proxy.plays("GET /v1/device/state", 1, Fault::Earlier);
    bench.assign(&fleet, &second)?;
    bench.device.start()?;
    bench.device.until_committed(second.id)?;
    ensure!(bench.proxy.left() == 0, "{} not met", bench.proxy.left());
    ensure!(bench.device.has_said("the fresh answer is not believed"));
    bench.device.audit(&[&first, &second])
}

#[test]
fn host_freeze_a_device_says_that_what_it_knows_is_old() -> Result<()> {
    let fleet = Arc::new(Fleet::start(HUB)?);
    let mut bench = Bench::new(&fleet)?;
    // The hub answers, and goes on answering; what it has signed holds for two seconds and is not signed again.
    let short = signed_anew(&fleet, |fresh| {
        Fresh::new(fresh.device, fresh.nonce, fresh.time, fresh.assignment, 2)
    });
    bench.proxy.plays("POST /v1/device/assignment", 99, short);
    bench.enrol()?;
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench.update(&fleet, &release)?;
    let id = bench.device.id()?;
    let stale = |_: &Device| fleet.device(id).is_ok_and(|shown| shown.stale);
    bench
        .device
        .until("the device's word that it is stale", stale)?;
    bench.audit(&[&release])
}
