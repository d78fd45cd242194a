//! What devices, operators and a hub say to each other: the messages, without I/O.
//!
//! All are JSON over HTTPS. Nothing here is trusted for what a device runs: that is in the signed documents of
//! `kedge-revision`, which some of these messages carry as text ([`Signed`]). A reader passes over fields that it does
//! not know; what it must understand to go on stands in `requires`, as words. Errors are `application/problem+json`
//! (RFC 9457), [`Problem`].
//!
//! A device asks ([`device`]):
//!
//! | request | TLS | answer |
//! |---|---|---|
//! | `POST /v1/time` [`device::Ask`] | unjudged | [`Signed`] `fresh` without an assignment |
//! | `GET /v1/authority` | unjudged | [`Signed`] `authority` |
//! | `POST /v1/enroll` [`Signed`] `enrolment` | server judged | 200 or 202, [`device::Enrolled`] |
//! | `POST /v1/device/certificate` | mutual | [`device::Enrolled`]: a new certificate for the same key |
//! | `GET /v1/device/state`, `If-None-Match`, `Prefer: wait=N` | mutual | 200 [`device::State`] with `ETag`, or 304 |
//! | `POST /v1/device/assignment` [`device::Ask`] | mutual | [`Signed`] `fresh` with the assignment |
//! | `GET /v1/roots/N[?product=NAME]` | mutual, or none with the name | [`Signed`] `root` |
//! | `GET /v1/revisions/HEX/head?parameters=N` | mutual | the head of a bundle, as a device takes it for an offer |
//! | `GET /v1/objects/HEX/tree` | mutual | the object's Merkle tree |
//! | `GET /v1/objects/HEX`, `Range` | mutual | its bytes |
//! | `GET /v1/objects/HEX/frames` (`Range`), `…/index` | mutual | the same in zstd frames of 1 MiB, and where each begins |
//! | `PUT /v1/device/report` [`device::Reports`] | mutual | [`device::Acknowledged`] |
//! | `POST /v1/device/logs` | mutual | 204; zstd of JSON lines, the first of which is a [`device::LogHead`] |
//!
//! An operator asks with a bearer token ([`operator`]). Lists take `?cursor=` and `?limit=`, and `?query=` where they
//! list devices; changing requests take `Idempotency-Key`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/hub` (no token) | [`operator::Hub`] |
//! | `GET /v1/devices`, `GET /v1/devices/ID` | [`operator::Page`] of [`operator::Device`]; one |
//! | `DELETE /v1/devices/ID` | 204: its data is gone, its certificate is nobody's; its events stay |
//! | `GET /v1/devices/ID/why` | [`operator::Why`] |
//! | `POST /v1/devices/ID/actions` [`operator::ActionRequest`] | 202 |
//! | `PUT /v1/devices/ID/tags` (map) | 204 |
//! | `PUT /v1/devices/ID/parameters` [`operator::ParameterValues`] | [`operator::ParametersSet`] |
//! | `GET /v1/devices/ID/logs?container=&follow=1` | JSON lines |
//! | `POST /v1/devices/ID/revoke` | 204 |
//! | `POST /v1/assignments` [`operator::Assign`] | [`operator::Assigned`] |
//! | `GET /v1/claims`, `POST /v1/claims` [`operator::Claim`] | waiting devices; [`operator::Device`] |
//! | `POST /v1/join-tokens` [`operator::NewJoinToken`], `GET`, `DELETE /v1/join-tokens/ID` | [`operator::JoinToken`] |
//! | `POST /v1/tokens` [`operator::NewToken`], `GET`, `DELETE /v1/tokens/ID` | [`operator::Token`] |
//! | `POST /v1/products?product=NAME` (a root document, [`Signed`]) | 201: the hub serves this product |
//! | `POST /v1/revisions` (the head of a bundle) | [`operator::Offer`]: what is missing |
//! | `POST /v1/revisions/HEX/objects/HEX?offset=N` (tree, then bytes from N) | [`operator::Done`] |
//! | `GET /v1/revisions` | [`operator::Page`] of [`operator::Revision`] |
//! | `POST /v1/collect` [`operator::Collect`] | [`operator::Collected`]: revisions that no device needs |
//! | `GET /v1/events?since=N&last=N&device=D&follow=1` | server-sent events of [`operator::Event`] |
//! | `POST /v1/backup` | a `tar` of the database |
//! | `GET /healthz`, `/metrics`, `/openapi.json` | |
//!
//! Ids in addresses are their 64 digits; `v1:` before those of an object or a revision is passed over. `ID` of a device
//! may also be its first eight digits and more, or its tag `name`. A root does not say whose it is, hence `?product=`; a
//! product's first root is believed as it is, the following ones follow it. `…/index` holds where each frame begins and
//! where the last one ends: 64-bit numbers, little-endian, one more than there are frames. Logs that are followed have an
//! empty line now and then, which only says that the connection lives.

pub mod device;
pub mod operator;

use kedge_revision::SignatureSet;
use serde::{Deserialize, Serialize};

/// A signed document on its way: the exact bytes that were signed, as text, and the signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Signed {
    /// The document, one of `kedge-revision`.
    pub document: String,
    /// A document of signatures (`kedge.signatures/1`).
    pub signatures: String,
}

impl Signed {
    /// From bytes that are JSON, and so are text; none if they are not.
    #[must_use]
    pub fn new(document: &[u8], signatures: &SignatureSet) -> Option<Self> {
        Some(Self {
            document: core::str::from_utf8(document).ok()?.to_owned(),
            signatures: String::from_utf8(signatures.encode().ok()?).ok()?,
        })
    }

    /// The signatures, not verified.
    ///
    /// # Errors
    /// As [`SignatureSet::parse`].
    pub fn signatures(&self) -> Result<SignatureSet, kedge_revision::Error> {
        SignatureSet::parse(self.signatures.as_bytes())
    }
}

/// Why a request was refused (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The status code of the answer.
    pub status: u16,
    /// A word for the kind of refusal that programs may look at, as `token-spent` or `below-floor`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// What exactly is wrong, and what to do about it.
    #[serde(default)]
    pub detail: String,
}
