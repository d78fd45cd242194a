//! A revision to a running device: offered, sent as far as it is missing, tried, and its verdict waited for.
//!
//! ```text
//! status ─▶ offer ─▶ objects… ─▶ apply ─▶ status… ─▶ committed | rolled back
//!             ▲         │ cut off
//!             └─────────┘ the device says how far it has come
//! ```
//! Everything here can be done again: a device keeps what it has verified, so a push that was cut off goes on where it
//! was. What the device refuses is told in its words, with what can be done about it.

mod device;
mod status;
mod watch;

pub use device::{Change, Device, Missing, Offer, Waits};
pub use status::{Failed, MissingGoal, Place, Runs, Staging, Stand, Status, Target, Trial, Update};

use crate::http::Refused;
use crate::payload::Payload;
use anyhow::{Context, Result, bail};
use kedge_revision::ObjectId;
use serde::Serialize;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// Times in a row that something is tried without the device coming further.
const ATTEMPTS: u32 = 8;
/// Longest boot that a trial is given, beside the window of its verdict.
const LONGEST_BOOT: Duration = Duration::from_secs(240);

/// What happens, for whoever waits.
#[derive(Debug)]
pub enum News<'a> {
    /// The device answered the offer.
    Offered(&'a Offer),
    /// An object's bytes are sent from `have` on.
    Object(&'a Missing),
    /// So many more bytes are on their way.
    Bytes(u64),
    /// It was cut off, and is tried again.
    Interrupted(&'a anyhow::Error),
    /// The trial begins, and this is what changes.
    Begun(Change),
    /// How the trial stands.
    Trial(&'a str),
}

/// How a push ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(
    tag = "verdict",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum Verdict {
    /// The device runs it already.
    Nothing,
    /// The trial has begun, and nobody waits for its verdict.
    Begun,
    /// It holds.
    Committed,
    /// It does not; the device runs what it ran before, or is about to.
    RolledBack {
        /// Why, as the device says it.
        reason: String,
    },
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// The revision.
    pub revision: ObjectId,
    /// The counter of the parameters that it is tried with; 0 if nobody gave any.
    pub parameters: u64,
    /// Its version.
    pub version: String,
    /// What it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// Objects that were sent.
    pub objects_sent: u64,
    /// Their bytes, without those that the device had.
    pub bytes_sent: u64,
    /// How it ended.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Whether somebody listens behind the device's socket: asked before what takes long, or cannot be taken back.
///
/// # Errors
/// Nobody does. What else goes wrong may pass, and [`push`] tries again.
pub fn reach(device: &Device) -> Result<()> {
    match device.status::<Status>() {
        Err(error) if is_absent(&error) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Sends `payload` to a device and tries it; waits for the verdict unless `detach`.
///
/// # Errors
/// The device refuses it, nobody answers, or there is no verdict in time.
pub fn push(
    device: &Device,
    payload: &Payload,
    detach: bool,
    news: &mut dyn FnMut(News<'_>),
) -> Result<Outcome> {
    let before: Status = match device.status() {
        Err(error) if !is_absent(&error) => again(device, news, || device.status())?,
        status => status?,
    };
    let given = payload.parameters()?.map(|parameters| parameters.counter);
    let target = Target {
        revision: payload.id(),
        parameters: given,
    };
    let kept = before
        .update
        .committed
        .as_ref()
        .map(|place| place.parameters);
    let mut outcome = Outcome {
        revision: payload.id(),
        // Who gives none leaves the device those that it has.
        parameters: given.or(kept).unwrap_or(0),
        version: payload.envelope().version.clone(),
        change: None,
        objects_sent: 0,
        bytes_sent: 0,
        verdict: Verdict::Nothing,
    };
    if !is_trying(&before, &target) {
        let offer = send(device, payload, &mut outcome, news)?;
        outcome.change = Some(offer.change);
        if given.is_none() {
            outcome.parameters = offer.parameters.unwrap_or(outcome.parameters);
        }
        if offer.change == Change::Nothing {
            return Ok(outcome);
        }
        let change = apply(device, &outcome, &target, &before.update, news)?;
        outcome.change = Some(change);
        news(News::Begun(change));
    }
    outcome.verdict = if detach {
        Verdict::Begun
    } else {
        let limit = longest_trial(payload);
        watch::watch(device, &target, &before.update, outcome.change, limit, news)?
    };
    Ok(outcome)
}

fn is_trying(status: &Status, target: &Target) -> bool {
    let stand = Stand::of(&status.update, target);
    matches!(stand, Stand::Trying)
}

/// Every try may boot and wait for its goals.
fn longest_trial(payload: &Payload) -> Duration {
    let window = payload
        .content()
        .map_or(0, |content| u64::from(content.commit.window_s));
    let once = LONGEST_BOOT.saturating_add(Duration::from_secs(window));
    once.saturating_mul(u32::from(payload.envelope().tries).saturating_add(1))
}

/// Does something until it is done or refused. What is cut off is done again for as long as a device may need to boot.
fn again<T>(
    device: &Device,
    news: &mut dyn FnMut(News<'_>),
    mut what: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match what() {
            Ok(done) => return Ok(done),
            Err(error) if start.elapsed() > device.waits().silence || is_final(&error) => {
                return Err(error);
            }
            Err(error) => {
                news(News::Interrupted(&error));
                std::thread::sleep(device.waits().pause);
            }
        }
    }
}

/// A refusal stays one, unless the device says that it is busy.
fn is_final(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    refused.is_some_and(|refused| refused.status != 503)
}

/// Whether nobody is there at all, as when no device was started.
fn is_absent(error: &anyhow::Error) -> bool {
    let kinds = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
    let causes = error.chain().filter_map(|cause| cause.downcast_ref());
    causes
        .map(std::io::Error::kind)
        .any(|kind| kinds.contains(&kind))
}

/// Offers, and sends what is missing; begins again where the device stands as long as that comes further.
fn send(
    device: &Device,
    payload: &Payload,
    outcome: &mut Outcome,
    news: &mut dyn FnMut(News<'_>),
) -> Result<Offer> {
    // Objects and bytes that are missing: one of them must fall.
    let mut least = (u64::MAX, u64::MAX);
    let mut stuck = 0;
    loop {
        let offer = again(device, news, || device.offer(payload)).map_err(|error| {
            explain(error, |status| match status {
                404 | 405 => "the device's software takes no updates; it needs a newer image",
                507 => "make room: remove volumes that are no longer needed, or use fewer or smaller layers",
                _ => "`kedge ctl status` tells what the device is, and its floor; `kedge verify` tells who signed",
            })
        })?;
        news(News::Offered(&offer));
        let missing = offer.missing_objects();
        let now = (missing, offer.missing_bytes());
        stuck = if now < least { 0 } else { stuck + 1 };
        least = least.min(now);
        let cut = objects(device, payload, &offer, outcome, news)?;
        match cut {
            None if offer.more == 0 => return Ok(offer),
            // The rest is told by the next answer.
            None if stuck < ATTEMPTS => {}
            None => bail!("the device goes on to lack {missing} objects"),
            Some(error) if stuck < ATTEMPTS => {
                news(News::Interrupted(&error));
                std::thread::sleep(device.waits().pause);
            }
            Some(error) => {
                return Err(explain(
                    error,
                    |_| "the device takes no more of it; its log says more: `kedge ctl logs kedge`",
                ));
            }
        }
    }
}

/// Sends all that an offer lacks; returns what cut it off.
///
/// # Errors
/// It will not help to try again.
fn objects(
    device: &Device,
    payload: &Payload,
    offer: &Offer,
    outcome: &mut Outcome,
    news: &mut dyn FnMut(News<'_>),
) -> Result<Option<anyhow::Error>> {
    for missing in &offer.missing {
        news(News::Object(missing));
        let tree = payload.tree(missing.id)?;
        let mut sent = 0_u64;
        let result = device.send(payload, missing, &tree, &mut |count| {
            sent = sent.saturating_add(count);
            news(News::Bytes(count));
        });
        outcome.bytes_sent = outcome.bytes_sent.saturating_add(sent);
        let Err(error) = result else {
            outcome.objects_sent = outcome.objects_sent.saturating_add(1);
            continue;
        };
        let status = error
            .downcast_ref::<Refused>()
            .map(|refused| refused.status);
        match status {
            // A bad block, or another place to go on from: if what is here is good, the device is asked again.
            Some(409) => payload.blocks(missing.id, &tree, &mut |_| Ok(()))?,
            Some(503) | None => {}
            Some(_) => return Err(error),
        }
        return Ok(Some(error));
    }
    Ok(None)
}

/// Lets the trial begin. An answer that got lost is made up for by a look at the status.
fn apply(
    device: &Device,
    outcome: &Outcome,
    target: &Target,
    before: &Update,
    news: &mut dyn FnMut(News<'_>),
) -> Result<Change> {
    let mut lost = false;
    let applied = again(device, news, || {
        let result = device.apply(outcome.revision, outcome.parameters);
        if let Err(error) = &result
            && (lost || !is_final(error))
        {
            lost = true;
            let status: Status = device.status().context("the answer to `apply` got lost")?;
            let begun = match Stand::of(&status.update, target) {
                Stand::Trying | Stand::Committed => true,
                Stand::Failed(reason) => target.failure(before) != Some(reason),
                Stand::Absent => false,
            };
            if begun {
                return Ok(outcome.change.unwrap_or(Change::Other));
            }
        }
        result
    });
    applied.map_err(|error| {
        explain(error, |_| {
            "if a trial is running, wait for its verdict (`kedge ctl status`) or end it with `kedge ctl rollback`, then push again"
        })
    })
}

/// Adds to a refusal what can be done about it.
fn explain(error: anyhow::Error, help: impl Fn(u16) -> &'static str) -> anyhow::Error {
    match error.downcast::<Refused>() {
        Ok(mut refused) => {
            refused.detail.push_str("\nhelp: ");
            refused.detail.push_str(help(refused.status));
            refused.into()
        }
        Err(error) => error,
    }
}
