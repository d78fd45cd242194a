//! Answers whose harm would last: after them the hub is honest again, and the device must find back to it soon.

use super::{Bench, HUB};
use anyhow::{Context, Result, ensure};
use kedge_agent::kept::Certificate;
use kedge_api::Signed;
use kedge_api::device::Enrolled;
use kedge_revision::fresh::{Assignment, Fresh};
use kedge_revision::signing::Kind;
use kedge_revision::{Timestamp, json};
use kedge_tests::agent::Device;
use kedge_tests::proxy::{Answer, Fault};
use kedge_tests::releases::{Fleet, Plan};
use std::sync::Arc;
use std::time::Duration;

/// A fault that signs a fresh answer anew, with the hub's own key.
pub(super) fn signed_anew(
    fleet: &Arc<Fleet>,
    change: impl Fn(Fresh) -> Fresh + Send + Sync + 'static,
) -> Fault {
    let fleet = Arc::clone(fleet);
    let resigned = move |answer: &Answer| -> Result<Answer> {
        let signed: Signed = serde_json::from_slice(&answer.body)?;
        let fresh = json::parse("fresh", Fresh::CAP, signed.document.as_bytes())?;
        let document = change(fresh).encode()?;
        let signed = fleet.sign_as_hub(Kind::Fresh, &document)?;
        Ok(Answer::json(200, "", &serde_json::to_string(&signed)?))
    };
    Fault::changed(move |answer| resigned(&answer).unwrap_or_default())
}

fn told(fresh: &Fresh, unix: u64, assignment: Option<Assignment>) -> Fresh {
    let time = Timestamp::from_unix(unix);
    Fresh::new(fresh.device, fresh.nonce, time, assignment, fresh.holds_s)
}

#[test]
fn host_nobody_on_the_way_silences_a_device_for_a_day() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    let fields = "retry-after: 86400\r\n";
    let pause = Fault::Instead(Answer::refusal(503, fields, "busy"));
    bench.proxy.plays("POST /v1/time", 2, pause.clone());
    bench.proxy.plays("GET /v1/authority", 1, pause);
    bench.enrol()?;
    bench.audit(&[])?;
    // A hub that is judged is obeyed.
    let fields = "retry-after: 4\r\n";
    let pause = Fault::Instead(Answer::refusal(503, fields, "busy"));
    bench.proxy.plays("/head?", 1, pause);
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench.assign(&fleet, &release)?;
    let asked = |bench: &Bench| bench.proxy.count("/head?", bench.start);
    bench.device.until("the refusal", |_| asked(&bench) == 1)?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(asked(&bench) == 1, "a pause was not kept");
    bench.device.until_committed(release.id)
}

#[test]
fn host_a_strangers_word_takes_no_certificate_away() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let stranger = Fault::Instead(Answer::refusal(401, "", "device-unknown"));
    bench.proxy.plays("POST /v1/time", 2, stranger);
    bench.device.start()?;
    bench
        .device
        .until("the lies", |_| bench.proxy.left() == 0)?;
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench.update(&fleet, &release)?;
    let enrolled = bench.proxy.count("/v1/enroll", bench.start);
    ensure!(enrolled == 1, "the device enrolled {enrolled} times");
    bench.audit(&[&release])
}

#[test]
fn host_a_hub_whose_clock_ran_wild_is_followed_again_once_it_is_right() -> Result<()> {
    let fleet = Arc::new(Fleet::start(HUB)?);
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let release = fleet.publish(&Plan::new(2, 9000))?;
    // 2099, and each time the device asks again a little later.
    let wild = signed_anew(&fleet, |fresh| {
        told(&fresh, 4_070_908_800, fresh.assignment)
    });
    bench.proxy.plays("POST /v1/time", 4, wild);
    bench.device.start()?;
    bench
        .device
        .until("the year 2099", |_| bench.proxy.left() == 0)?;
    bench.update(&fleet, &release)?;
    // 1970: before the revision that runs was made.
    let stopped = signed_anew(&fleet, |fresh| told(&fresh, 3600, fresh.assignment));
    bench.proxy.plays("POST /v1/time", 2, stopped);
    bench.device.start()?;
    let said = |device: &Device| device.has_said("a time before what is known to have passed");
    bench.device.until("the complaint", said)?;
    let told = bench.device.state().clock.clone();
    ensure!(!told.contains(&3600), "1970 was believed");
    let next = fleet.publish(&Plan::new(3, 9000))?;
    bench.update(&fleet, &next)?;
    bench.audit(&[&release, &next])
}

#[test]
fn host_a_certificate_of_another_device_is_not_kept() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut other = Bench::new(&fleet)?;
    other.enrol()?;
    let kept = |device: &Device| device.kept().get::<Certificate>("certificate", &mut |_| {});
    let foreign = kept(&other.device)?.context("no certificate")?;
    let answer = |certificate: &str| -> Result<Fault> {
        let accepted = Enrolled::Accepted {
            certificate: certificate.to_owned(),
            renew_after: Timestamp::from_unix(0),
        };
        let body = serde_json::to_string(&accepted)?;
        Ok(Fault::Instead(Answer::json(200, "", &body)))
    };
    let mut bench = Bench::new(&fleet)?;
    for certificate in [&foreign.certificate, "", "00", "xyz"] {
        bench.proxy.plays("/v1/enroll", 1, answer(certificate)?);
    }
    bench.enrol()?;
    ensure!(
        bench
            .device
            .has_said("a certificate that is not this device's")
    );
    // The same when it is renewed.
    let mut own = kept(&bench.device)?.context("no certificate")?;
    own.renew_after = Timestamp::from_unix(0);
    bench.device.kill();
    bench.device.kept().put("certificate", &own)?;
    let fault = answer(&foreign.certificate)?;
    bench.proxy.plays("/v1/device/certificate", 1, fault);
    bench.device.start()?;
    let renewed = |device: &Device| {
        let now = kept(device).ok().flatten();
        now.is_some_and(|now| now != own)
    };
    bench.device.until("another certificate", renewed)?;
    ensure!(kept(&bench.device)?.is_some_and(|now| now != foreign));
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench.update(&fleet, &release)?;
    bench.audit(&[&release])
}

#[test]
fn host_a_hub_that_holds_no_question_is_not_asked_all_the_time() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let state = |bench: &Bench| bench.proxy.count("/v1/device/state", bench.start);
    bench
        .device
        .until("the first question", |_| state(&bench) > 1)?;
    let head = b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec();
    let unchanged = Answer {
        head,
        body: Vec::new(),
    };
    bench
        .proxy
        .plays("/v1/device/state", 99, Fault::Instead(unchanged));
    bench.device.start()?;
    std::thread::sleep(Duration::from_secs(9));
    // The hub wants to be asked once a minute.
    let asked = 99 - bench.proxy.left();
    ensure!((1..=2).contains(&asked), "{asked} questions in 9 s");
    Ok(())
}

#[test]
fn host_an_acknowledgement_of_everything_takes_no_numbers_away() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    for seq in [u64::MAX, u64::MAX - 1, 0] {
        let body = format!("{{\"seq\":{seq}}}");
        let fault = Fault::Instead(Answer::json(200, "", &body));
        bench.proxy.plays("/v1/device/report", 1, fault);
    }
    bench.enrol()?;
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench.update(&fleet, &release)?;
    let id = bench.device.id()?;
    let told = |_: &Device| {
        let shown = fleet.device(id).ok();
        let committed = shown.as_ref().and_then(|shown| shown.committed.as_ref());
        committed.is_some_and(|committed| committed.revision == release.id)
    };
    bench.device.until("the report of the commit", told)?;
    let newest = fleet.device(id)?.report;
    ensure!(newest < 100, "the reports' numbers are at {newest}");
    bench.audit(&[&release])
}

#[test]
fn host_a_thousand_actions_are_not_done_at_once() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    let actions: Vec<String> = (1..=1500)
        .map(|id| format!(r#"{{"id":{id},"what":"identify"}}"#))
        .collect();
    let state = format!(
        r#"{{"actions":[{}],"poll":{{"interval-s":60,"hold-s":50,"jitter-s":0}}}}"#,
        actions.join(",")
    );
    let fault = Fault::Instead(Answer::json(200, "", &state));
    bench.proxy.plays("/v1/device/state", 1, fault);
    bench.enrol()?;
    bench
        .device
        .until("the actions", |_| bench.proxy.left() == 0)?;
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench.update(&fleet, &release)?;
    let said = bench.device.state().said.clone();
    let done = said
        .iter()
        .filter(|line| line.contains("you look for"))
        .count();
    ensure!((16..=160).contains(&done), "{done} actions");
    bench.audit(&[&release])
}

#[test]
fn host_what_is_refused_is_not_fetched_to_its_end() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let size = 24_000_000;
    let release = fleet.publish(&Plan::noise(2, size))?;
    let spoilt = Fault::changed(|mut answer| {
        if let Some(byte) = answer.body.get_mut(5000) {
            *byte ^= 1;
        }
        answer
    });
    let layer = release
        .objects
        .iter()
        .max_by_key(|(_, (sealed, _))| sealed.size);
    let layer = layer.context("no layer")?.0;
    let words: &'static str = format!("GET /v1/objects/{}", layer.hex()).leak();
    // Not its tree and its index, which are asked for first.
    bench.proxy.passes(words, 2);
    bench.proxy.plays(words, 1, spoilt);
    bench.assign(&fleet, &release)?;
    let complaint = |device: &Device| device.has_said("hand an object to PID 1");
    bench.device.until("the complaint", complaint)?;
    let sent = bench.proxy.sent();
    ensure!(
        sent < 12_000_000,
        "{sent} bytes of {size} were sent in vain"
    );
    bench.device.until_committed(release.id)?;
    bench.audit(&[&release])
}
