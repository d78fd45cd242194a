//! `ctl apply FILE`: the documents of a bundle are offered, the objects that the device lacks follow, and the trial
//! begins.
//!
//! The bundle is walked by the headers of its sections, and what they say is sent as it is. Nothing is judged here:
//! PID 1 takes nothing on trust from this process.

use super::client::{Body, Client, ClientError};
use kedge_revision::ObjectId;
use kedge_revision::bundle::{DIGEST, Fault, HEADER, Kind, MAGIC, Section};
use serde::Deserialize;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A device's answer to an offer.
#[derive(Deserialize)]
struct Offer {
    revision: ObjectId,
    change: String,
    missing: Vec<Missing>,
    /// Further objects that are missing, told by the next answer.
    #[serde(default)]
    more: u64,
    /// Under which counter of parameters the device would try it, where it says so.
    #[serde(default)]
    parameters: u64,
}

#[derive(Deserialize)]
struct Missing {
    id: ObjectId,
    size: u64,
    have: u64,
}

/// A piece of the file: where it begins, and its bytes.
type Range = (u64, u64);

/// A bundle: where its documents end and its objects are.
struct Bundle<'a> {
    path: &'a Path,
    file: &'a File,
    head: u64,
    /// Counter of the parameters in it.
    parameters: Option<u64>,
    /// Tree and bytes of each object.
    objects: Vec<(ObjectId, Range, Range)>,
}

/// Sends a bundle and lets its trial begin; says what changes.
pub(super) fn apply<S: Read + Write>(
    client: &mut Client<S>,
    path: &Path,
    out: &mut impl Write,
) -> Result<(), ClientError> {
    let file = File::open(path).map_err(|source| ClientError::File {
        path: path.to_owned(),
        source,
    })?;
    apply_file(client, path, &file, out)
}

/// The same with a file that is open; `path` is its name in errors.
pub(crate) fn apply_file<S: Read + Write>(
    client: &mut Client<S>,
    path: &Path,
    file: &File,
    out: &mut impl Write,
) -> Result<(), ClientError> {
    let bundle = Bundle::open(path, file)?;
    loop {
        let answer = bundle.send(client, "/v1/update/offer", [(0, bundle.head), (0, 0)])?;
        let offer: Offer =
            kedge_revision::json::read(&answer).map_err(|_| ClientError::Protocol("offer"))?;
        for missing in &offer.missing {
            bundle.object(client, missing)?;
        }
        if offer.more > 0 && !offer.missing.is_empty() {
            continue;
        }
        if offer.change != "nothing" {
            let target = format!(
                "/v1/update/apply?revision={}&parameters={}",
                offer.revision.hex(),
                bundle.parameters.unwrap_or(offer.parameters)
            );
            client.request("POST", &target, &mut |_| Ok(()))?;
        }
        return writeln!(out, "change: {}", offer.change).map_err(ClientError::Output);
    }
}

impl<'a> Bundle<'a> {
    /// Finds the sections.
    fn open(path: &'a Path, file: &'a File) -> Result<Self, ClientError> {
        let cannot = |source| ClientError::File {
            path: path.to_owned(),
            source,
        };
        let size = file.metadata().map_err(cannot)?.len();
        let mut bundle = Self {
            path,
            file,
            head: 0,
            parameters: None,
            objects: Vec::new(),
        };
        let mut at = as_u64(MAGIC.len());
        if bundle.read::<15>(0)? != MAGIC {
            return Err(fault(Fault::Magic));
        }
        let mut tree = (0, 0);
        loop {
            let header = bundle.read::<HEADER>(at)?;
            let Section { kind, length } = Section::parse(&header).map_err(ClientError::Bundle)?;
            let start = at.saturating_add(as_u64(HEADER));
            at = start.saturating_add(length);
            if at > size {
                return Err(fault(Fault::Truncated(kind.word())));
            }
            let digest = as_u64(DIGEST);
            let bytes = (start.saturating_add(digest), length.saturating_sub(digest));
            match kind {
                Kind::Revision | Kind::Signatures => bundle.head = at,
                Kind::Parameters => {
                    bundle.head = at;
                    bundle.parameters = Some(bundle.counter(start, length)?);
                }
                Kind::Tree => tree = bytes,
                Kind::Object => {
                    let id = ObjectId::from_digest(bundle.read::<DIGEST>(start)?);
                    bundle.objects.push((id, tree, bytes));
                }
                Kind::End if at == size => return Ok(bundle),
                Kind::End => return Err(fault(Fault::Trailing)),
            }
        }
    }

    /// The counter of the parameters that stand there.
    fn counter(&self, start: u64, length: u64) -> Result<u64, ClientError> {
        let mut first = [0; COUNTER_BEFORE.len() + 24];
        let known = usize::try_from(length).map_or(first.len(), |length| length.min(first.len()));
        let first = first.get_mut(..known).unwrap_or_default();
        self.read_into(first, start)?;
        counter(first).ok_or(ClientError::Protocol("parameters"))
    }

    fn read<const N: usize>(&self, at: u64) -> Result<[u8; N], ClientError> {
        let mut bytes = [0; N];
        self.read_into(&mut bytes, at)?;
        Ok(bytes)
    }

    fn read_into(&self, bytes: &mut [u8], at: u64) -> Result<(), ClientError> {
        let read = self.file.read_exact_at(bytes, at);
        read.map_err(|source| ClientError::File {
            path: self.path.to_owned(),
            source,
        })
    }

    /// The tree, and the bytes that are missing.
    fn object<S: Read + Write>(
        &self,
        client: &mut Client<S>,
        missing: &Missing,
    ) -> Result<(), ClientError> {
        let Missing { id, size, have } = *missing;
        let found = self.objects.iter().find(|object| object.0 == id);
        let (_, tree, (start, length)) =
            found.ok_or(ClientError::Protocol("object that is missing"))?;
        if *length != size || have > size {
            return Err(ClientError::Protocol("size of an object"));
        }
        let rest = (start.saturating_add(have), size.saturating_sub(have));
        let target = format!("/v1/update/objects/{}?offset={have}", id.hex());
        self.send(client, &target, [*tree, rest]).map(drop)
    }

    fn send<S: Read + Write>(
        &self,
        client: &mut Client<S>,
        target: &str,
        ranges: [Range; 2],
    ) -> Result<Vec<u8>, ClientError> {
        let mut answer = Vec::new();
        let body = Body {
            path: self.path,
            file: self.file,
            ranges,
        };
        client.request_with("POST", target, Some(&body), &mut |part| {
            answer.extend_from_slice(part);
            Ok(())
        })?;
        Ok(answer)
    }
}

/// What stands before the counter in every parameters document, since its form is canonical.
const COUNTER_BEFORE: &[u8] = br#"{"spec":"kedge.parameters/1","counter":"#;

/// The counter at the beginning of parameters. Parsing them would weigh 3 kB, and is the device's to do.
fn counter(document: &[u8]) -> Option<u64> {
    let rest = document.strip_prefix(COUNTER_BEFORE)?;
    let digits = rest.split(|byte| *byte == b',').next()?;
    core::str::from_utf8(digits).ok()?.parse().ok()
}

fn fault(fault: Fault) -> ClientError {
    ClientError::Bundle(kedge_revision::Error::Bundle(fault))
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_revision::parameters::Parameters;
    use std::collections::BTreeMap;

    #[test]
    fn the_counter_stands_where_it_is_looked_for() {
        for number in [0, 7, u64::MAX] {
            let document = Parameters::new(number, BTreeMap::new()).encode().unwrap();
            assert_eq!(counter(&document), Some(number));
            let first = &document[..document.len().min(COUNTER_BEFORE.len() + 24)];
            assert_eq!(counter(first), Some(number));
        }
        assert_eq!(counter(b"{}"), None);
        assert_eq!(
            counter(br#"{"spec":"kedge.parameters/1","counter":"7","#),
            None
        );
    }
}
