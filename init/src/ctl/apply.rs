//! `ctl apply FILE`: the bundle's documents are offered, the objects that the device lacks follow, and the trial begins.
//!
//! Nothing is judged here: PID 1 takes nothing on trust from this process.

use super::client::{Body, Client, ClientError};
use kedge_revision::ObjectId;
use kedge_revision::bundle::{Event, Fault, Head, Parser};
use kedge_revision::parameters::Parameters;
use kedge_revision::verity::{digest, tree_size};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Error, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// What of a device's answer to an offer is needed.
#[derive(Deserialize)]
struct Offer {
    change: String,
    missing: Vec<Missing>,
}

#[derive(Deserialize)]
struct Missing {
    id: ObjectId,
    size: u64,
    have: u64,
}

/// What of a device's status is needed: the parameters that it has.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    update: Update,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Update {
    committed: Committed,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Committed {
    parameters: u64,
}

/// Where an object is in a bundle.
#[derive(Clone, Copy)]
struct Place {
    tree: u64,
    bytes: u64,
    size: u64,
}

/// A bundle: its documents, and where its objects are.
struct Bundle<'a> {
    path: &'a Path,
    file: File,
    head: Head,
    places: BTreeMap<ObjectId, Place>,
}

/// Sends a bundle and lets its trial begin; says what changes.
pub(super) fn apply<S: Read + Write>(
    client: &mut Client<S>,
    path: &Path,
    out: &mut impl Write,
) -> Result<(), ClientError> {
    let mut bundle = Bundle::open(path)?;
    let head = bundle.head.encode();
    let body = Body {
        bytes: &head,
        ..Body::default()
    };
    let answer = ask(client, "POST", "/v1/update/offer", &body)?;
    let offer: Offer =
        serde_json::from_slice(&answer).map_err(|_| ClientError::Protocol("offer"))?;
    if offer.change != "nothing" {
        for missing in &offer.missing {
            bundle.send(client, missing)?;
        }
        let parameters = bundle.parameters(client)?;
        let id = digest(&bundle.head.revision).hex();
        let target = format!("/v1/update/apply?revision={id}&parameters={parameters}");
        ask(client, "POST", &target, &Body::default())?;
    }
    writeln!(out, "change: {}", offer.change).map_err(ClientError::Output)
}

fn ask<S: Read + Write>(
    client: &mut Client<S>,
    method: &str,
    target: &str,
    body: &Body<'_>,
) -> Result<Vec<u8>, ClientError> {
    let mut answer = Vec::new();
    client.request_with(method, target, body, &mut |part| {
        answer.extend_from_slice(part);
        Ok(())
    })?;
    Ok(answer)
}

impl<'a> Bundle<'a> {
    /// Holds the file to its form; objects are passed over.
    fn open(path: &'a Path) -> Result<Self, ClientError> {
        let cannot = cannot(path);
        let file = File::open(path).map_err(&cannot)?;
        let length = file.metadata().map_err(&cannot)?.len();
        let mut reader = BufReader::with_capacity(4096, &file);
        let mut parser = Parser::new();
        let mut places = BTreeMap::new();
        let mut tree = 0;
        loop {
            let input = reader.fill_buf().map_err(&cannot)?;
            let (before, mut rest) = (input.len(), input);
            let event = parser.next(&mut rest).map_err(ClientError::Bundle)?;
            let object = match event {
                Event::More if before == 0 => break,
                Event::Tree(..) => Some(None),
                Event::Object(id, size) => Some(Some((id, size))),
                Event::More | Event::Head | Event::Bytes(_) | Event::End => None,
            };
            let used = before.saturating_sub(rest.len());
            reader.consume(used);
            let Some(object) = object else { continue };
            let start = reader.stream_position().map_err(&cannot)?;
            let end = start.saturating_add(parser.skip());
            if end > length {
                return Err(ClientError::Bundle(kedge_revision::Error::Bundle(
                    Fault::Truncated("an object"),
                )));
            }
            match object {
                None => tree = start,
                Some((id, size)) => {
                    let bytes = start;
                    places.insert(id, Place { tree, bytes, size });
                }
            }
            reader.seek(SeekFrom::Start(end)).map_err(&cannot)?;
        }
        parser.finish().map_err(ClientError::Bundle)?;
        let head = parser.head().clone();
        drop(reader);
        Ok(Self {
            path,
            file,
            head,
            places,
        })
    }

    /// The tree, and the bytes that are missing.
    fn send<S: Read + Write>(
        &mut self,
        client: &mut Client<S>,
        missing: &Missing,
    ) -> Result<(), ClientError> {
        let Missing { id, size, have } = *missing;
        let place = self.places.get(&id).filter(|place| place.size == size);
        let place = *place.ok_or(ClientError::Protocol("object that is missing"))?;
        let cannot = cannot(self.path);
        self.file
            .seek(SeekFrom::Start(place.tree))
            .map_err(&cannot)?;
        let mut bytes = Vec::new();
        (&self.file)
            .take(tree_size(size))
            .read_to_end(&mut bytes)
            .map_err(&cannot)?;
        let from = place.bytes.saturating_add(have);
        self.file.seek(SeekFrom::Start(from)).map_err(&cannot)?;
        let body = Body {
            bytes: &bytes,
            file: Some((self.path, &self.file)),
            file_length: size.saturating_sub(have),
        };
        let target = format!("/v1/update/objects/{}?offset={have}", id.hex());
        ask(client, "POST", &target, &body).map(drop)
    }

    /// Under which counter to try: that of the bundle's parameters, or of those that the device has.
    fn parameters<S: Read + Write>(&self, client: &mut Client<S>) -> Result<u64, ClientError> {
        if let Some(document) = &self.head.parameters {
            let parameters = Parameters::parse(document).map_err(ClientError::Bundle)?;
            return Ok(parameters.counter);
        }
        let status = ask(client, "GET", "/v1/status", &Body::default())?;
        let status: Status =
            serde_json::from_slice(&status).map_err(|_| ClientError::Protocol("status"))?;
        Ok(status.update.committed.parameters)
    }
}

fn cannot(path: &Path) -> impl Fn(Error) -> ClientError {
    move |source| ClientError::File {
        path: path.to_owned(),
        source,
    }
}
