//! Everything that can be asked, as a table.

use Body::{As, Json, Nothing};
use Who::{Anybody as A, Device as D, Operator as O};

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Anybody,
    Device,
    Operator,
}

/// What a request or an answer carries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Body {
    Nothing,
    /// A message of this schema.
    Json(&'static str),
    /// Something of this type.
    As(&'static str),
}

/// Where a parameter stands; one in the path is in the path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) place: &'static str,
    pub(crate) required: bool,
    /// Type, and pattern or bounds, as JSON Schema.
    pub(crate) schema: &'static str,
    pub(crate) text: &'static str,
}

/// What can be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) who: Who,
    pub(crate) summary: &'static str,
    pub(crate) parameters: &'static [Parameter],
    pub(crate) request: Body,
    /// Status and body of the answer.
    pub(crate) answer: (u16, Body),
}

const fn row(
    method: &'static str,
    path: &'static str,
    who: Who,
    summary: &'static str,
    parameters: &'static [Parameter],
    request: Body,
    answer: (u16, Body),
) -> Row {
    Row {
        method,
        path,
        who,
        summary,
        parameters,
        request,
        answer,
    }
}

const BYTES: Body = As("application/octet-stream");
const TEXT: Body = As("text/plain");

const fn query(name: &'static str, schema: &'static str, text: &'static str) -> Parameter {
    Parameter {
        name,
        place: "query",
        required: false,
        schema,
        text,
    }
}

const fn header(name: &'static str, schema: &'static str, text: &'static str) -> Parameter {
    Parameter {
        place: "header",
        ..query(name, schema, text)
    }
}

const STRING: &str = r#"{"type": "string"}"#;
const NUMBER: &str = r#"{"type": "integer", "minimum": 0}"#;
const NAME: &str = r##"{"$ref": "#/components/schemas/Name"}"##;
const YES: &str = r#"{"type": "integer", "enum": [0, 1]}"#;
const PAGE: &str = r#"{"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}"#;

const QUERY: Parameter = query(
    "query",
    STRING,
    "which devices, as tag:site=berlin and seen<5m",
);
const CURSOR: Parameter = query("cursor", STRING, "where the page before ended");
const LIMIT: Parameter = query("limit", PAGE, "most items of a page");
const PRODUCT: Parameter = query("product", NAME, "of this product");
const ITS_PRODUCT: Parameter = Parameter {
    required: true,
    ..query("product", NAME, "whose root it is")
};
const PARAMETERS: Parameter = query("parameters", NUMBER, "with the values of this counter");
const CONTAINER: Parameter = query("container", STRING, "of this container, kernel or kedge");
const FOLLOW: Parameter = query("follow", YES, "1: go on with what comes");
const OFFSET: Parameter = query(
    "offset",
    NUMBER,
    "where the bytes begin that follow the tree",
);
const SINCE: Parameter = query("since", NUMBER, "those after the one of this number");
const LAST: Parameter = query("last", NUMBER, "only so many, the newest");
const OF_DEVICE: Parameter = query("device", STRING, "of this device, by its id or name");
const IF_NONE_MATCH: Parameter =
    header("If-None-Match", STRING, "the tag of the answer that it has");
const PREFER: Parameter = header(
    "Prefer",
    STRING,
    "wait=N: hold the answer for so many seconds (RFC 7240)",
);
const RANGE: Parameter = header("Range", STRING, "bytes=FROM-TO (RFC 9110)");

/// May stand with every change that an operator asks for.
pub(super) const ONCE: Parameter = header(
    "Idempotency-Key",
    r#"{"type": "string", "pattern": "^[!-~]{1,128}$"}"#,
    "a repeat with the same key is answered again and changes nothing",
);

/// Everything that can be asked.
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    row("get", "/v1/hub", A, "What anybody may know of the hub", &[], Nothing, (200, Json("Hub"))),
    row("get", "/healthz", A, "Whether the hub answers and writes", &[], Nothing, (200, TEXT)),
    row("get", "/metrics", A, "Counters in Prometheus' text format", &[], Nothing, (200, TEXT)),
    row("get", "/openapi.json", A, "This document", &[], Nothing, (200, As("application/json"))),
    row("post", "/v1/time", A, "The hub's time, signed", &[], Json("Ask"), (200, Json("Signed"))),
    row("get", "/v1/authority", A, "The certificates by which the hub is known, signed", &[], Nothing, (200, Json("Signed"))),
    row("post", "/v1/enroll", A, "A device asks to be taken in", &[], Json("Signed"), (200, Json("Enrolled"))),
    row("post", "/v1/device/certificate", D, "A new certificate for the same key; an expired one will do", &[], Nothing, (200, Json("Enrolled"))),
    row("get", "/v1/device/state", D, "What is desired of the device; If-None-Match and Prefer: wait=N hold the answer", &[IF_NONE_MATCH, PREFER], Nothing, (200, Json("State"))),
    row("post", "/v1/device/assignment", D, "The assignment, signed", &[], Json("Ask"), (200, Json("Signed"))),
    row("put", "/v1/device/report", D, "What the device says of itself", &[], Json("Reports"), (200, Json("Acknowledged"))),
    row("post", "/v1/device/logs", D, "zstd of JSON lines", &[], BYTES, (204, Nothing)),
    row("get", "/v1/roots/{version}", D, "A root of the device's product", &[PRODUCT], Nothing, (200, Json("Signed"))),
    row("get", "/v1/revisions/{revision}/head", D, "The head of a bundle", &[PARAMETERS], Nothing, (200, BYTES)),
    row("get", "/v1/objects/{object}", D, "An object's bytes; Range", &[RANGE], Nothing, (200, BYTES)),
    row("get", "/v1/objects/{object}/tree", D, "Its Merkle tree", &[], Nothing, (200, BYTES)),
    row("get", "/v1/objects/{object}/frames", D, "Its bytes in zstd frames of 1 MiB; Range", &[RANGE], Nothing, (200, BYTES)),
    row("get", "/v1/objects/{object}/index", D, "Where each frame begins, u64 little-endian", &[], Nothing, (200, BYTES)),
    row("get", "/v1/devices", O, "Devices", &[QUERY, CURSOR, LIMIT], Nothing, (200, Json("Page_Device"))),
    row("get", "/v1/devices/{device}", O, "One device", &[], Nothing, (200, Json("Device"))),
    row("delete", "/v1/devices/{device}", O, "Remove it with its data; its events stay", &[], Nothing, (204, Nothing)),
    row("get", "/v1/devices/{device}/why", O, "Why it does not run what it should", &[], Nothing, (200, Json("Why"))),
    row("post", "/v1/devices/{device}/actions", O, "Have it do something", &[], Json("ActionRequest"), (202, Nothing)),
    row("put", "/v1/devices/{device}/tags", O, "Its tags, a map of texts", &[], Json("Tags"), (204, Nothing)),
    row("put", "/v1/devices/{device}/parameters", O, "Values of its parameters", &[], Json("ParameterValues"), (200, Json("ParametersSet"))),
    row("get", "/v1/devices/{device}/logs", O, "Its logs, JSON lines", &[CONTAINER, FOLLOW], Nothing, (200, As("application/jsonl"))),
    row("post", "/v1/devices/{device}/revoke", O, "Shut it out for good", &[], Nothing, (204, Nothing)),
    row("post", "/v1/assignments", O, "Assign a revision to the devices of a query", &[], Json("Assign"), (200, Json("Assigned"))),
    row("get", "/v1/claims", O, "Devices that wait to be claimed", &[], Nothing, (200, Json("Page_Waiting"))),
    row("post", "/v1/claims", O, "Take a device in by the words that it shows", &[], Json("Claim"), (200, Json("Device"))),
    row("get", "/v1/join-tokens", O, "Join tokens", &[], Nothing, (200, Json("Page_JoinToken"))),
    row("post", "/v1/join-tokens", O, "A new join token", &[], Json("NewJoinToken"), (201, Json("JoinToken"))),
    row("delete", "/v1/join-tokens/{token}", O, "End a join token", &[], Nothing, (204, Nothing)),
    row("get", "/v1/tokens", O, "Operators' tokens", &[], Nothing, (200, Json("Page_Token"))),
    row("post", "/v1/tokens", O, "A new operator's token", &[], Json("NewToken"), (201, Json("Token"))),
    row("delete", "/v1/tokens/{token}", O, "End an operator's token", &[], Nothing, (204, Nothing)),
    row("post", "/v1/products", O, "Register a root", &[ITS_PRODUCT], Json("Signed"), (201, Nothing)),
    row("get", "/v1/revisions", O, "Revisions", &[PRODUCT, CURSOR, LIMIT], Nothing, (200, Json("Page_Revision"))),
    row("post", "/v1/revisions", O, "Offer a revision: the head of a bundle", &[], BYTES, (200, Json("Offer"))),
    row("post", "/v1/revisions/{revision}/objects/{object}", O, "Upload an object: its tree, then its bytes from ?offset=N on", &[OFFSET], BYTES, (200, Json("Done"))),
    row("post", "/v1/collect", O, "Remove revisions that no device needs, and their objects", &[], Json("Collect"), (200, Json("Collected"))),
    row("get", "/v1/events", O, "Events as server-sent events", &[SINCE, LAST, OF_DEVICE, FOLLOW], Nothing, (200, As("text/event-stream"))),
    row("post", "/v1/backup", O, "A tar of the database, without the hub's keys", &[], Nothing, (200, As("application/x-tar"))),
];
