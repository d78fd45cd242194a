//! An offer: is it a revision for this device, what of it is missing, and does that fit?
//!
//! ```text
//! head → signatures, product, board, floor → order → content, parameters → missing → space → kept, answered
//! ```
//! Nothing is written before all of that was judged; what of it is here and damaged is removed once its signatures were. What content
//! a new initramfs would judge is judged by that, on trial.

use super::head::Head;
use super::keep::Keep;
use super::refused::Refused;
use super::trust::Trust;
use kedge_revision::parameters::Parameters;
use kedge_revision::revision::{Boot, Envelope, Object, ObjectKind};
use kedge_revision::{Content, ObjectId, Verified};
use kedge_store::space::Space;
use kedge_store::{Error, Staging, Store, drop_damaged};
use serde::Serialize;
use std::io::ErrorKind;

/// Most objects that an answer lists: as many as fit its frame. With more it says how many, and the rest is
/// told by the next answer to the same offer.
const MOST_LISTED: usize = 128;

/// An offer that was accepted.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) revision: ObjectId,
    /// What it still needs.
    pub(super) missing: Vec<Missing>,
}

/// An object that is needed and not there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    pub(super) id: ObjectId,
    pub(super) object: Object,
    /// Bytes of it that are there.
    have: u64,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Answer<'a> {
    revision: ObjectId,
    version: &'a str,
    missing: Vec<Listed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<usize>,
    needed_bytes: u64,
    /// The counter of the parameters that came along.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Listed {
    id: ObjectId,
    size: u64,
    have: u64,
}

/// Judges the head of a bundle, keeps its documents, and gives the answer.
pub(super) fn take(
    store: &Store,
    trust: &Trust,
    keep: &Keep,
    bytes: &[u8],
) -> Result<(Offer, Vec<u8>), Refused> {
    let head = Head::parse(bytes).map_err(|why| Refused::new(400, why))?;
    let verified = trust.verify(head.revision, head.signatures)?;
    let envelope = verified.envelope();
    let committed = trust.committed(store);
    let same = |committed: &Envelope| committed.order() == envelope.order();
    if committed.as_ref().is_some_and(same) && verified.id() != trust.committed {
        return Err(Refused::conflict(format_args!(
            "another revision {} is committed",
            envelope.order()
        )));
    }
    let boot = committed.as_ref().map(|committed| &committed.boot);
    if trust.secure_boot {
        statement(&envelope.boot, boot)?;
    }
    let content = content(&verified, boot)?;
    let parameters = parameters(head.parameters, content.as_ref())?;

    let missing = missing(store, &verified, boot)?;
    let copies = content.as_ref().map_or(0, copies);
    let needed = store
        .needed(missing.iter().map(|missing| (missing.id, missing.object)))
        .saturating_add(copies);
    fits(store, keep, &verified, needed)?;
    put(store, trust, &verified, &head, content.as_ref(), parameters)?;
    if let Some(counter) = parameters {
        keep.drop_parameters(store, verified.id(), counter)?;
    }

    let listed = missing.iter().take(MOST_LISTED);
    let answer = Answer {
        revision: verified.id(),
        version: &envelope.version,
        missing: listed
            .map(|missing| Listed {
                id: missing.id,
                size: missing.object.size,
                have: missing.have,
            })
            .collect(),
        more: missing.len().checked_sub(MOST_LISTED).filter(|n| *n > 0),
        needed_bytes: needed,
        parameters,
    };
    let json = kedge_revision::json::bytes(&answer);
    let offer = Offer {
        revision: verified.id(),
        missing,
    };
    Ok((offer, json))
}

/// Refuses what the loader would not start under Secure Boot. That costs all tries of a trial and as many restarts, and then
/// tells no more. Where what runs has no statement, or is lost, the loader is no judge of ours: then nothing is refused.
fn statement(offered: &Boot, running: Option<&Boot>) -> Result<(), Refused> {
    let judged = running.is_some_and(|running| running.statement.is_some());
    if judged && offered.statement.is_none() {
        return Err(Refused::conflict(
            "it has no statement for Secure Boot, which is on, and what runs here has one: build it with [secure-boot]",
        ));
    }
    Ok(())
}

/// The content, if the initramfs that runs is the one that is to run it; absent: only the new one may know it.
fn content(verified: &Verified, running: Option<&Boot>) -> Result<Option<Content>, Refused> {
    let initramfs = verified.envelope().boot.initramfs;
    match verified.content() {
        Ok(content) => Ok(Some(content)),
        Err(error) if running.is_some_and(|running| running.initramfs == initramfs) => {
            Err(error.into())
        }
        Err(_) => Ok(None),
    }
}

/// The parameters that came along, judged as far as they can be.
fn parameters(bytes: Option<&[u8]>, content: Option<&Content>) -> Result<Option<u64>, Refused> {
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    let parameters = Parameters::parse(bytes)?;
    if let Some(content) = content {
        parameters.check(&content.parameters)?;
    }
    if parameters.counter == 0 {
        return Err(Refused::conflict(
            "parameters have the counter 0, which is nobody's",
        ));
    }
    Ok(Some(parameters.counter))
}

/// What the revision needs and the store lacks, with the bytes of it that are there. A slot is written as a whole:
/// what boots is needed if any of it differs or nobody knows, and else is in the slot already.
fn missing(
    store: &Store,
    verified: &Verified,
    running: Option<&Boot>,
) -> Result<Vec<Missing>, Refused> {
    let envelope = verified.envelope();
    for id in drop_damaged(store, envelope)? {
        super::say(format_args!("{id} was damaged here, and is fetched again"));
    }
    let slot = running != Some(&envelope.boot);
    let mut missing = Vec::new();
    for (id, object) in store.missing(envelope) {
        if slot || object.kind == ObjectKind::Layer {
            let have = Staging::resumable(store, id, object)?;
            // Its name may have been all that it lacked.
            if !store.has(id, object) {
                missing.push(Missing { id, object, have });
            }
        }
    }
    Ok(missing)
}

/// Most bytes that the copies of volumes take while the revision is on trial.
fn copies(content: &Content) -> u64 {
    let containers = content.containers.values();
    containers
        .flat_map(|container| container.volumes.values())
        .filter_map(kedge_revision::container::Volume::snapshot_bound)
        .fold(0, u64::saturating_add)
}

/// Whether so many bytes fit; what nobody needs goes before that is denied.
fn fits(store: &Store, keep: &Keep, verified: &Verified, needed: u64) -> Result<(), Refused> {
    let check = || Space::of(store.data())?.check(needed);
    match check() {
        Err(Error::NoSpace { .. }) => {
            let objects = verified.envelope().objects.keys().copied();
            keep.collect(store, Some(verified.id()), objects.collect())?;
            Ok(check()?)
        }
        outcome => Ok(outcome?),
    }
}

/// Keeps the documents.
fn put(
    store: &Store,
    trust: &Trust,
    verified: &Verified,
    head: &Head<'_>,
    content: Option<&Content>,
    counter: Option<u64>,
) -> Result<(), Refused> {
    let id = verified.id();
    // What is there came with the image, or is what an offer brought before: only signatures may have become more.
    let there = store.revision(id).ok().map(|(_, signatures)| signatures);
    match there {
        None => store.put_revision(id, head.revision, head.signatures, "bundle\n")?,
        Some(signatures) if signatures != head.signatures => {
            store.put_signatures(id, head.signatures)?;
        }
        Some(_) => {}
    }
    if let (Some(counter), Some(document)) = (counter, head.parameters) {
        return store.put_parameters(id, counter, document).map_err(|error| {
            if matches!(&error, Error::File { source, .. } if source.kind() == ErrorKind::AlreadyExists)
            {
                Refused::conflict(format_args!("parameters {counter} are there with other values"))
            } else {
                error.into()
            }
        });
    }
    // Without new ones the device keeps those that it has.
    if id != trust.committed {
        for (counter, document) in store.parameters(trust.committed)? {
            let fitting = match content {
                Some(content) => fitting(&document, content),
                // The trial's own init judges them.
                None => Some(document),
            };
            // A hub may have given it values of its own under that counter.
            let is_there = store.parameters_path(id, counter).exists();
            if let Some(document) = fitting.filter(|_| !is_there) {
                store.put_parameters(id, counter, &document)?;
            }
        }
    }
    Ok(())
}

/// Values of the device's that a revision takes, under their counter: what it no longer declares, or declares otherwise, stays behind.
fn fitting(document: &[u8], content: &Content) -> Option<Vec<u8>> {
    let mut parameters = Parameters::parse(document).ok()?;
    parameters.retain(&content.parameters);
    parameters.encode().ok()
}
