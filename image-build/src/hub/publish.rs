//! A revision to a hub: offered, sent as far as it is missing, and kept there for devices that are assigned it.
//!
//! Everything here can be done again: a hub keeps what it has verified, so that a publish that was cut off goes on where
//! it was, at once or when it is repeated. An object is compressed by the hub, once, for all devices.

use super::{Client, Refused};
use crate::payload::Payload;
use anyhow::{Context, Result, bail};
use kedge_api::Signed;
use kedge_api::operator::{Done, Missing, Offer};
use kedge_revision::{Name, ObjectId};
use serde::Serialize;
use std::io::Read;
use std::time::Duration;

/// Times in a row that something is tried without coming further.
const ATTEMPTS: u32 = 6;
/// First and longest pause between two of them.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// What happens, for whoever waits.
#[derive(Debug)]
pub enum News<'a> {
    /// The product's roots are made known to the hub.
    Registering(&'a Name),
    /// The hub answered the offer.
    Offered(&'a Offer),
    /// An object's bytes are sent from `have` on.
    Object(&'a Missing),
    /// So many more bytes are on their way.
    Bytes(u64),
    /// It was cut off, and is tried again after a pause.
    Interrupted(&'a anyhow::Error, Duration),
}

/// What a publish did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// The hub.
    pub hub: String,
    /// The product.
    pub product: Name,
    /// The revision.
    pub revision: ObjectId,
    /// Its version.
    pub version: String,
    /// Its counter.
    pub counter: u64,
    /// Objects that were sent.
    pub objects_sent: u64,
    /// Bytes of objects that the hub took: without those that it had, and without those that were lost on the way.
    pub bytes_sent: u64,
    /// Bytes of all objects of the revision.
    pub size: u64,
}

/// Publishes what `payload` holds. `roots` are the product's, the first one first; the hub is told of those that it lacks.
///
/// # Errors
/// The hub refuses it, or cannot be reached for some time.
pub fn publish(
    client: &Client,
    payload: &Payload,
    roots: &[Signed],
    news: &mut dyn FnMut(News<'_>),
) -> Result<Outcome> {
    let envelope = payload.envelope();
    let mut outcome = Outcome {
        hub: client.address().to_string(),
        product: envelope.product.clone(),
        revision: payload.id(),
        version: envelope.version.clone(),
        counter: envelope.counter,
        objects_sent: 0,
        bytes_sent: 0,
        size: envelope
            .objects
            .values()
            .fold(0, |sum, object| sum.saturating_add(object.size)),
    };
    let head = head(payload);
    let mut offer = offered(client, &head, &outcome.product, roots, news)?;
    let mut patience = Patience::default();
    loop {
        news(News::Offered(&offer));
        let Err(error) = objects(client, payload, &offer, &mut outcome, news) else {
            return Ok(outcome);
        };
        patience.take(error, news)?;
        let before = left(&offer);
        offer = offered(client, &head, &outcome.product, roots, news)?;
        let taken = before.saturating_sub(left(&offer));
        outcome.bytes_sent = outcome.bytes_sent.saturating_add(taken);
        if taken > 0 {
            patience.renew();
        }
    }
}

/// Bytes that the hub lacks.
fn left(offer: &Offer) -> u64 {
    offer.missing.iter().fold(0, |sum, missing| {
        sum.saturating_add(missing.size.saturating_sub(missing.have))
    })
}

/// The head of a bundle. Parameters are one device's, and no revision's.
fn head(payload: &Payload) -> Vec<u8> {
    let mut head = payload.head().clone();
    head.parameters = None;
    head.encode()
}

/// How often something may still be tried.
#[derive(Debug, Default)]
struct Patience {
    failures: u32,
}

impl Patience {
    /// Pauses, longer each time.
    ///
    /// # Errors
    /// The one that was given: it is a refusal for good, or there were too many.
    fn take(&mut self, error: anyhow::Error, news: &mut dyn FnMut(News<'_>)) -> Result<()> {
        let refused = error.downcast_ref::<Refused>();
        // A conflict of an upload is another place to go on from, which the next offer tells.
        let is_final =
            refused.is_some_and(|refused| !refused.passes() && refused.problem.status != 409);
        if is_final || error.is::<Ours>() || self.failures >= ATTEMPTS {
            return Err(error);
        }
        let (first, longest) = PAUSE;
        let told = refused.and_then(|refused| refused.retry_after);
        let own = first.saturating_mul(1 << self.failures);
        let pause = told.map_or(own, Duration::from_secs).min(longest);
        self.failures = self.failures.saturating_add(1);
        news(News::Interrupted(&error, pause));
        std::thread::sleep(pause);
        Ok(())
    }

    /// It came further.
    fn renew(&mut self) {
        self.failures = 0;
    }
}

/// What is sent is at fault: no use in trying again.
#[derive(Debug)]
struct Ours;

impl std::fmt::Display for Ours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object cannot be sent")
    }
}

impl std::error::Error for Ours {}

/// Offers the revision; roots that the hub lacks are registered on the way.
fn offered(
    client: &Client,
    head: &[u8],
    product: &Name,
    roots: &[Signed],
    news: &mut dyn FnMut(News<'_>),
) -> Result<Offer> {
    let mut patience = Patience::default();
    let mut is_registered = false;
    loop {
        let error = match client.send_bytes("/v1/revisions", head) {
            Ok(offer) => return Ok(offer),
            Err(error) => error,
        };
        let refused = error.downcast_ref::<Refused>();
        // A root that the hub does not know yet also shows as a signature that it does not accept.
        let is_root = refused.is_some_and(|refused| {
            matches!(
                refused.problem.kind.as_str(),
                "product-unknown" | "revision"
            )
        });
        if is_root && !is_registered && !roots.is_empty() {
            news(News::Registering(product));
            is_registered = true;
            register(client, product, roots)?;
        } else if is_root && roots.is_empty() {
            return Err(error.context(
                "the hub does not know the product's root: publish it from its project, which has the root in roots/",
            ));
        } else {
            patience.take(error, news)?;
        }
    }
}

/// Makes roots known, the oldest first; those that the hub has already it passes over.
///
/// What counts is the newest. Roots from before the first one that names the hub are refused, and taken once that one is
/// there, the newest of them first: devices of that time follow them to it.
///
/// # Errors
/// The hub refuses the newest, for instance since it does not name the hub's key: with the refusal that began it.
pub fn register(client: &Client, product: &Name, roots: &[Signed]) -> Result<()> {
    let target = format!("/v1/products?product={product}");
    let tell = |root: &Signed| match client.tell("POST", &target, root) {
        Ok(()) => Ok(None),
        Err(error) if error.downcast_ref::<Refused>().is_some() => Ok(Some(error)),
        Err(error) => Err(error),
    };
    let (mut refused, mut left) = (None, Vec::new());
    for root in roots {
        match tell(root)? {
            None => refused = None,
            Some(error) => {
                refused = refused.or(Some(error));
                left.push(root);
            }
        }
    }
    let Some(error) = refused else {
        for root in left.into_iter().rev() {
            // One that still does not fit was none of this chain: the hub says nothing else of it than before.
            tell(root)?;
        }
        return Ok(());
    };
    Err(error.context(format!(
        "the hub does not take the root of {product}\nhelp: a project gets the hub's key with `kedge key trust-hub`, a new one with `kedge new NAME --hub`"
    )))
}

/// Sends all that an offer lacks.
fn objects(
    client: &Client,
    payload: &Payload,
    offer: &Offer,
    outcome: &mut Outcome,
    news: &mut dyn FnMut(News<'_>),
) -> Result<()> {
    for missing in &offer.missing {
        news(News::Object(missing));
        let tree = payload.tree(missing.id).context(Ours)?;
        let result = object(client, payload, missing, &tree, news);
        let done = match result {
            Ok(done) => done,
            Err(error) => {
                // If the hub found a block bad, it is seen here whether it was bad before it left.
                payload
                    .blocks(missing.id, &tree, &mut |_| Ok(()))
                    .context(Ours)?;
                return Err(error);
            }
        };
        if !done.complete {
            bail!(
                "the hub took {} of {} bytes of object {}",
                done.done,
                missing.size,
                missing.id
            );
        }
        outcome.objects_sent = outcome.objects_sent.saturating_add(1);
    }
    outcome.bytes_sent = outcome.bytes_sent.saturating_add(left(offer));
    Ok(())
}

/// Sends one object from where the hub stands.
fn object(
    client: &Client,
    payload: &Payload,
    missing: &Missing,
    tree: &[u8],
    news: &mut dyn FnMut(News<'_>),
) -> Result<Done> {
    let left = missing.size.saturating_sub(missing.have);
    let mut ahead = u64::try_from(tree.len()).context("a tree is too large")?;
    let target = format!(
        "/v1/revisions/{}/objects/{}?offset={}",
        payload.id().hex(),
        missing.id.hex(),
        missing.have
    );
    let bytes = payload.reader(missing.id, missing.have).context(Ours)?;
    let mut body = tree.chain(bytes.take(left));
    client.upload(
        &target,
        ahead.saturating_add(left),
        &mut body,
        &mut |count| {
            // The tree comes first and is no part of what is counted.
            let of_tree = ahead.min(count);
            ahead = ahead.saturating_sub(of_tree);
            let count = count.saturating_sub(of_tree);
            news(News::Bytes(count));
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_api::Problem;

    fn refused(status: u16) -> anyhow::Error {
        let problem = Problem {
            status,
            kind: String::new(),
            title: String::new(),
            detail: String::new(),
        };
        let retry_after = Some(0);
        Refused {
            problem,
            retry_after,
        }
        .into()
    }

    #[test]
    fn what_is_refused_for_good_is_not_tried_again() {
        let mut patience = Patience::default();
        let mut said = 0;
        let mut count = |_: News<'_>| said += 1;
        patience.take(refused(403), &mut count).unwrap_err();
        patience
            .take(anyhow::anyhow!("damaged").context(Ours), &mut count)
            .unwrap_err();
        patience.take(refused(503), &mut count).unwrap();
        patience.take(refused(409), &mut count).unwrap();
        patience.failures = ATTEMPTS;
        patience.take(refused(503), &mut count).unwrap_err();
        assert_eq!(said, 2);
    }
}
