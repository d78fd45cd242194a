//! A revision on its way from a hub to PID 1: the head first, then what of its objects is missing.
//!
//! Objects come in frames of zstd where the hub has such and they are smaller; what is fetched begins at a frame's border.
//!
//! The agent judges none of it: PID 1's helper does, block by block, and keeps what was good over a cut.

use crate::agent::{Agent, Ended};
use crate::decide::Target;
use crate::error::{Error, Peer};
use crate::frames::Level;
use crate::http::Request;
use crate::hub::{Address, Connection, Form};
use crate::local::{Missing, Upload};
use crate::pace::LEAST;
use crate::secrets::opened;
use crate::steps::REFUSED_S;
use crate::tls::Stream;
use crate::unpack::{Damaged, Frame};
use kedge_api::device::Phase;
use kedge_revision::bundle::Head;
use kedge_revision::verity;
use std::time::{Duration, Instant};

/// Offers for one revision: each answer lists what fits in it.
const MOST_OFFERS: u32 = 256;
/// Largest tree: of an object of 64 GiB.
const MAX_TREE: u64 = 1 << 30;
/// What is smaller than that is not worth the question for its index, bytes.
const WORTH_PACKING: u64 = 32 * 1024;
/// Bytes of an object in one frame.
const FRAME: u64 = 1 << 20;
/// No rate is kept below that, bytes a second: what comes slower counts as lost.
const LEAST_RATE: u64 = 1024;
/// What a hub does not give is asked for again after so long, seconds: it may have been published again.
const HUB_REFUSED_S: u64 = 600;
/// The same of a conflict, seconds.
const CONFLICT_S: u64 = 60;
/// Progress is told at most so often, between objects.
const TELL: Duration = Duration::from_secs(5);
/// The same while one object comes, which takes a connection of its own; so often the hub is heard, too.
const MEANWHILE: Duration = Duration::from_secs(30);

const NO_MORE: &str = "the hub wants something else: no more of the revision is brought";

/// What is neither believed nor refused: it may only have been damaged on its way.
const OTHER: Error = Error::Protocol {
    doing: "fetch the revision",
    what: "another revision than was asked for",
};

/// A revision that is brought.
struct Errand<'a> {
    hub: &'a Address,
    target: Target,
    /// Bytes of objects that PID 1 was handed, of how many.
    done: u64,
    total: u64,
    /// When progress was told last.
    told: Instant,
    /// When it was last looked what the hub wants.
    heard: Instant,
    /// The hub wants something else by now.
    is_over: bool,
    /// What has failed beside it, which says nothing of what is brought.
    failed: Option<Error>,
}

/// What of an object has come over the network: kept below a rate, and above one.
struct Transfer {
    limit: Option<u64>,
    /// Since when the rate is kept, and how much had come then.
    start: (Instant, u64),
    bytes: u64,
    pieces: u32,
    /// Since when is counted what must come in a minute, and how much had come then.
    minute: (Instant, u64),
}

impl Transfer {
    fn new(limit: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            limit: limit.map(|limit| limit.max(LEAST_RATE)),
            start: (now, 0),
            bytes: 0,
            pieces: 0,
            minute: (now, 0),
        }
    }

    /// Another rate than before counts from here.
    fn keep_to(&mut self, limit: Option<u64>) {
        let limit = limit.map(|limit| limit.max(LEAST_RATE));
        if limit != self.limit {
            self.limit = limit;
            self.start = (Instant::now(), self.bytes);
        }
    }

    /// So many bytes have come; whether it is time to look at something else.
    fn took(&mut self, bytes: usize) -> Result<bool, Error> {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(0));
        self.pieces = self.pieces.wrapping_add(1);
        let (since, before) = self.minute;
        if since.elapsed() >= Duration::from_secs(60) {
            if self.bytes.saturating_sub(before) < LEAST {
                return Err(Error::Connection {
                    doing: "fetch an object",
                    source: std::io::ErrorKind::TimedOut.into(),
                });
            }
            self.minute = (Instant::now(), self.bytes);
        }
        Ok(self.pieces.is_multiple_of(16))
    }

    /// How much later all of it should have come, if that is worth a pause.
    fn ahead(&self) -> Option<Duration> {
        let (since, before) = self.start;
        let bytes = self.bytes.saturating_sub(before);
        let due = Duration::from_millis(bytes.saturating_mul(1000) / self.limit?);
        let ahead = due.saturating_sub(since.elapsed());
        (ahead > Duration::from_millis(20)).then_some(ahead)
    }
}

impl<'a> Errand<'a> {
    fn new(hub: &'a Address, target: Target) -> Self {
        let now = Instant::now();
        Self {
            hub,
            target,
            done: 0,
            total: 0,
            told: now,
            heard: now,
            is_over: false,
            failed: None,
        }
    }

    /// PID 1 is handed so much of an object.
    fn hand(&mut self, upload: &mut Upload<'_>, bytes: &[u8]) -> Result<(), Error> {
        upload.send(bytes)?;
        self.done = self
            .done
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
        Ok(())
    }
}

impl Agent<'_> {
    /// Brings everything of a revision to PID 1.
    pub(crate) fn fetch(&mut self, hub: &Address, target: Target) -> Result<(), Error> {
        self.phase = Phase::Checking;
        let mut connection = self.connect(hub)?;
        let Some(head) = self.head(&mut connection, target)? else {
            return Ok(());
        };
        let mut errand = Errand::new(hub, target);
        for _ in 0..MOST_OFFERS {
            let offer = match self.local.offer(&head) {
                Err(
                    error @ Error::Refused {
                        status: status @ (400 | 409 | 413 | 422 | 507),
                        ..
                    },
                ) => {
                    // As a rule a conflict is one with what goes on at the moment: a developer's push, or a stick.
                    let seconds = if status == 409 { CONFLICT_S } else { REFUSED_S };
                    self.refuse_for(target, &error, seconds);
                    return Ok(());
                }
                offer => offer?,
            };
            if offer.revision != target.revision {
                return Err(OTHER);
            }
            if offer.missing.is_empty() {
                let done = errand.done;
                if done > 0 {
                    let wire = core::mem::take(&mut self.wire);
                    let text = format!("{done} bytes of {} came as {wire}", target.revision);
                    self.say(Level::Notice, &text)?;
                }
                self.staged = Some(target);
                self.phase = Phase::Staged;
                return Ok(());
            }
            let left = offer.missing.iter().fold(0, |sum: u64, missing| {
                sum.saturating_add(missing.size.saturating_sub(missing.have))
            });
            errand.total = errand.done.saturating_add(left);
            for missing in &offer.missing {
                if !self.still_wants(&mut errand) {
                    return self.say(Level::Notice, NO_MORE);
                }
                self.has_come(&errand);
                if errand.told.elapsed() >= TELL || errand.done == 0 {
                    errand.told = Instant::now();
                    self.progress(&mut connection)?;
                }
                let before = errand.done;
                let came = self.object(&mut connection, missing, &mut errand);
                if let Some(error) = errand.failed.take() {
                    return Err(error);
                }
                if errand.is_over {
                    return self.say(Level::Notice, NO_MORE);
                }
                if self.unless_refused(target, came, &[404])?.is_none() {
                    return Ok(());
                }
                errand.done = before.saturating_add(missing.size.saturating_sub(missing.have));
            }
        }
        Err(Error::Protocol {
            doing: "fetch the revision",
            what: "more objects than it can have",
        })
    }

    /// The head of a revision, with what is for this device alone opened; none if it was refused.
    fn head(
        &mut self,
        connection: &mut Connection<Stream>,
        target: Target,
    ) -> Result<Option<Vec<u8>>, Error> {
        let head = connection.revision(target.revision, target.parameters);
        let Some(head) = self.unless_refused(target, head, &[404, 409])? else {
            return Ok(None);
        };
        self.answered()?;
        // PID 1 judges it. What was only damaged on its way is not to be refused for an hour.
        let is = Head::parse(&head).map(|head| verity::digest(&head.revision));
        if !is.is_ok_and(|id| id == target.revision) {
            return Err(OTHER);
        }
        match opened(head, &self.identity.key) {
            Ok(head) => Ok(Some(head)),
            Err(source) => {
                let what = "the device's parameters";
                self.refuse(target, &Error::Document { what, source });
                Ok(None)
            }
        }
    }

    /// What a hub has given, or none where it says with one of these that it never will: what it lacks, or values that do not
    /// fit. It is told like a refusal of PID 1's, so that whoever can mend it hears of it.
    pub(crate) fn unless_refused<T>(
        &mut self,
        target: Target,
        given: Result<T, Error>,
        never: &[u16],
    ) -> Result<Option<T>, Error> {
        match given {
            Err(error) if is_never(&error, never) => {
                self.answered()?;
                self.refuse_for(target, &error, HUB_REFUSED_S);
                Ok(None)
            }
            given => given.map(Some),
        }
    }

    /// Brings one object: its tree, then the bytes that are not there.
    fn object(
        &mut self,
        connection: &mut Connection<Stream>,
        missing: &Missing,
        errand: &mut Errand<'_>,
    ) -> Result<(), Error> {
        let Missing { id, size, have } = *missing;
        let doing = "fetch a tree";
        let wrong = Error::Protocol {
            doing,
            what: "a tree of another size",
        };
        let tree_size = verity::tree_size(size);
        if tree_size > MAX_TREE || have > size {
            return Err(wrong);
        }
        let tree = connection.tree(id, tree_size)?;
        let tree_length = u64::try_from(tree.len()).unwrap_or(0);
        if tree_length != tree_size {
            return Err(wrong);
        }
        let place = format!("/v1/update/objects/{}?offset={have}", id.hex());
        let mut upload = self.local.upload(Request {
            doing: "hand an object to PID 1",
            method: "POST",
            target: &place,
            fields: "",
            length: tree_length.saturating_add(size.saturating_sub(have)),
        })?;
        upload.send(&tree)?;
        drop(tree);
        let mut transfer = Transfer::new(self.rate());
        let fetched = match self.packed(connection, missing)? {
            Some(index) => {
                let (upload, transfer) = (&mut upload, &mut transfer);
                self.frames(connection, missing, &index, upload, transfer, errand)
            }
            None => connection.object(id, Form::Plain, (have, size), &mut |piece| {
                self.piece(&mut transfer, piece.len(), errand)?;
                errand.hand(&mut upload, piece)
            }),
        };
        self.wire = self.wire.saturating_add(transfer.bytes);
        fetched?;
        upload.finish().map(drop)
    }

    /// Where an object's frames are, if they are what is best fetched.
    fn packed(
        &self,
        connection: &mut Connection<Stream>,
        missing: &Missing,
    ) -> Result<Option<Vec<u64>>, Error> {
        let left = missing.size.saturating_sub(missing.have);
        if left < WORTH_PACKING || self.plain {
            return Ok(None);
        }
        let index = connection.index(missing.id, missing.size.div_ceil(FRAME))?;
        Ok(index.filter(|index| {
            let first = usize::try_from(missing.have / FRAME).unwrap_or(usize::MAX);
            match (index.get(first), index.last()) {
                (Some(from), Some(to)) => to.saturating_sub(*from) < left,
                _ => false,
            }
        }))
    }

    /// Brings what is missing of an object in frames, from the one on that holds the first byte.
    fn frames(
        &mut self,
        connection: &mut Connection<Stream>,
        missing: &Missing,
        index: &[u64],
        upload: &mut Upload<'_>,
        transfer: &mut Transfer,
        errand: &mut Errand<'_>,
    ) -> Result<(), Error> {
        let Missing { id, size, have } = *missing;
        let first = have / FRAME;
        let place = |number: u64| usize::try_from(number).ok().and_then(|n| index.get(n));
        let (Some(from), Some(to)) = (place(first), index.last()) else {
            return Ok(());
        };
        let length =
            |begin: u64| usize::try_from(size.saturating_sub(begin).min(FRAME)).unwrap_or(0);
        let mut begin = first.saturating_mul(FRAME);
        let mut frame = Frame::new(length(begin));
        // Of the first frame, what is there already.
        let mut sent = usize::try_from(have.saturating_sub(begin)).unwrap_or(0);
        let mut unpack = |piece: &[u8]| -> Result<(), Error> {
            self.piece(transfer, piece.len(), errand)?;
            let mut rest = piece;
            while !rest.is_empty() {
                rest = frame.take(rest).map_err(damaged)?;
                if let Some(new) = frame.out().get(sent..).filter(|new| !new.is_empty()) {
                    errand.hand(upload, new)?;
                    sent = frame.out().len();
                }
                if frame.is_done() {
                    begin = begin.saturating_add(FRAME);
                    frame.again(length(begin));
                    sent = 0;
                }
            }
            Ok(())
        };
        let fetched = connection.object(id, Form::Frames, (*from, *to), &mut unpack);
        // What cannot be unpacked, or is something else then, may be whole in its other form.
        let is_its_own = errand.is_over || errand.failed.is_some();
        if fetched.as_ref().is_err_and(is_damage) && !is_its_own && !self.plain {
            self.plain = true;
            self.say(
                Level::Warning,
                "frames of a hub are damaged: objects come as they are",
            )?;
        }
        fetched
    }

    /// A piece has come: keeps to the rate, and looks after PID 1 and the hub meanwhile.
    fn piece(
        &mut self,
        transfer: &mut Transfer,
        bytes: usize,
        errand: &mut Errand<'_>,
    ) -> Result<(), Error> {
        let mut looks = transfer.took(bytes)?;
        while let Some(ahead) = transfer.ahead() {
            std::thread::sleep(ahead.min(Duration::from_secs(1)));
            self.meanwhile(transfer, errand)?;
            looks = false;
        }
        if looks {
            self.meanwhile(transfer, errand)?;
        }
        Ok(())
    }

    /// While an object comes, which may take days where a link is slow: the hub is heard, does not wait for progress, and may
    /// want something else, or another rate, or a restart.
    fn meanwhile(&mut self, transfer: &mut Transfer, errand: &mut Errand<'_>) -> Result<(), Error> {
        self.look_up()?;
        if errand.heard.elapsed() < MEANWHILE {
            return Ok(());
        }
        if !self.still_wants(errand) {
            return Err(OTHER);
        }
        errand.told = errand.heard;
        transfer.keep_to(self.rate());
        if let Err(error) = self.tell_meanwhile(errand) {
            errand.failed = Some(error);
            return Err(OTHER);
        }
        Ok(())
    }

    fn tell_meanwhile(&mut self, errand: &Errand<'_>) -> Result<(), Error> {
        let acted = self.act(errand.hub);
        self.apart(acted)?;
        self.has_come(errand);
        let looked = self.look();
        self.apart(looked)?;
        self.note(false)?;
        self.report(errand.hub)?;
        self.stream_logs(errand.hub).map(drop)
    }

    /// Whether the hub still wants it, heard now and then.
    fn still_wants(&mut self, errand: &mut Errand<'_>) -> bool {
        if errand.heard.elapsed() >= MEANWHILE {
            errand.heard = Instant::now();
            // A new configuration has no state, and may name other hubs: what the old one is asked then would stand in the way.
            errand.is_over = !self.wants(errand.target);
            if !errand.is_over {
                self.hear_meanwhile(errand.hub);
                errand.is_over = !self.wants(errand.target);
            }
        }
        !errand.is_over
    }

    /// Where the errand stands.
    fn has_come(&mut self, errand: &Errand<'_>) {
        let Errand { done, total, .. } = *errand;
        self.phase = Phase::Downloading { done, total };
    }

    /// A device that goes down must not wait for the network.
    fn look_up(&mut self) -> Result<(), Error> {
        match self.take_frames() {
            Ok(()) => Ok(()),
            Err(Ended::Closed) => Err(Error::Connection {
                doing: "hand an object to PID 1",
                source: std::io::ErrorKind::Interrupted.into(),
            }),
            Err(Ended::Failed(error)) => Err(error),
        }
    }
}

/// Whether a hub has refused with one of these, or because it has the revision no more.
fn is_never(error: &Error, never: &[u16]) -> bool {
    let Error::Refused { status, kind, .. } = error else {
        return false;
    };
    error.is_answer() && (never.contains(status) || kind == "not-assigned")
}

/// Whether what came was wrong, and not that nothing came, or that PID 1 has no time for it.
const fn is_damage(error: &Error) -> bool {
    matches!(
        error,
        Error::Protocol { .. }
            | Error::Refused {
                by: Peer::Init,
                status: 400..=499,
                ..
            }
    )
}

const fn damaged(damaged: Damaged) -> Error {
    Error::Protocol {
        doing: "unpack an object",
        what: damaged.0,
    }
}
