//! The description of the API: one table of what can be asked, and the schemas of its messages.
//!
//! The table is the router's: a test asks for each row and finds somebody there.

use kedge_api::{Problem, Signed, device, operator};
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Anybody,
    Device,
    Operator,
}

/// What can be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) who: Who,
    pub(crate) summary: &'static str,
    /// Schema of the request, if it is JSON.
    pub(crate) request: Option<&'static str>,
    /// Status and schema of the answer; the schema, if it is JSON.
    pub(crate) answer: (u16, Option<&'static str>),
}

const fn row(
    method: &'static str,
    path: &'static str,
    who: Who,
    summary: &'static str,
    request: Option<&'static str>,
    answer: (u16, Option<&'static str>),
) -> Row {
    Row {
        method,
        path,
        who,
        summary,
        request,
        answer,
    }
}

use Who::{Anybody as A, Device as D, Operator as O};

/// Everything that can be asked.
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    row("get", "/v1/hub", A, "What anybody may know of the hub", None, (200, Some("Hub"))),
    row("get", "/healthz", A, "Whether the hub answers and writes", None, (200, None)),
    row("get", "/metrics", A, "Counters in Prometheus' text format", None, (200, None)),
    row("get", "/openapi.json", A, "This document", None, (200, None)),
    row("post", "/v1/time", A, "The hub's time, signed", Some("Ask"), (200, Some("Signed"))),
    row("get", "/v1/authority", A, "The certificates by which the hub is known, signed", None, (200, Some("Signed"))),
    row("post", "/v1/enroll", A, "A device asks to be taken in", Some("Signed"), (200, Some("Enrolled"))),
    row("post", "/v1/device/certificate", D, "A new certificate for the same key; an expired one will do", None, (200, Some("Enrolled"))),
    row("get", "/v1/device/state", D, "What is desired of the device; If-None-Match and Prefer: wait=N hold the answer", None, (200, Some("State"))),
    row("post", "/v1/device/assignment", D, "The assignment, signed", Some("Ask"), (200, Some("Signed"))),
    row("put", "/v1/device/report", D, "What the device says of itself", Some("Reports"), (200, Some("Acknowledged"))),
    row("post", "/v1/device/logs", D, "zstd of JSON lines", None, (204, None)),
    row("get", "/v1/roots/{version}", D, "A root of the device's product", None, (200, Some("Signed"))),
    row("get", "/v1/revisions/{revision}/head", D, "The head of a bundle; ?parameters=N adds the device's values", None, (200, None)),
    row("get", "/v1/objects/{object}", D, "An object's bytes; Range", None, (200, None)),
    row("get", "/v1/objects/{object}/tree", D, "Its Merkle tree", None, (200, None)),
    row("get", "/v1/objects/{object}/frames", D, "Its bytes in zstd frames of 1 MiB; Range", None, (200, None)),
    row("get", "/v1/objects/{object}/index", D, "Where each frame begins, u64 little-endian", None, (200, None)),
    row("get", "/v1/devices", O, "Devices; ?query=&cursor=&limit=", None, (200, Some("Page_Device"))),
    row("get", "/v1/devices/{device}", O, "One device", None, (200, Some("Device"))),
    row("delete", "/v1/devices/{device}", O, "Remove it with its data; its events stay", None, (204, None)),
    row("get", "/v1/devices/{device}/why", O, "Why it does not run what it should", None, (200, Some("Why"))),
    row("post", "/v1/devices/{device}/actions", O, "Have it do something", Some("ActionRequest"), (202, None)),
    row("put", "/v1/devices/{device}/tags", O, "Its tags, a map of texts", None, (204, None)),
    row("put", "/v1/devices/{device}/parameters", O, "Values of its parameters", Some("ParameterValues"), (200, Some("ParametersSet"))),
    row("get", "/v1/devices/{device}/logs", O, "Its logs, JSON lines; ?container=&follow=1", None, (200, None)),
    row("post", "/v1/devices/{device}/revoke", O, "Shut it out for good", None, (204, None)),
    row("post", "/v1/assignments", O, "Assign a revision to the devices of a query", Some("Assign"), (200, Some("Assigned"))),
    row("get", "/v1/claims", O, "Devices that wait to be claimed", None, (200, Some("Page_Waiting"))),
    row("post", "/v1/claims", O, "Take a device in by the words that it shows", Some("Claim"), (200, Some("Device"))),
    row("get", "/v1/join-tokens", O, "Join tokens", None, (200, Some("Page_JoinToken"))),
    row("post", "/v1/join-tokens", O, "A new join token", Some("NewJoinToken"), (201, Some("JoinToken"))),
    row("delete", "/v1/join-tokens/{token}", O, "End a join token", None, (204, None)),
    row("get", "/v1/tokens", O, "Operators' tokens", None, (200, Some("Page_Token"))),
    row("post", "/v1/tokens", O, "A new operator's token", Some("NewToken"), (201, Some("Token"))),
    row("delete", "/v1/tokens/{token}", O, "End an operator's token", None, (204, None)),
    row("post", "/v1/products", O, "Register a root; ?product=NAME", Some("Signed"), (201, None)),
    row("get", "/v1/revisions", O, "Revisions; ?product=&cursor=&limit=", None, (200, Some("Page_Revision"))),
    row("post", "/v1/revisions", O, "Offer a revision: the head of a bundle", None, (200, Some("Offer"))),
    row("post", "/v1/revisions/{revision}/objects/{object}", O, "Upload an object: its tree, then its bytes from ?offset=N on", None, (200, Some("Done"))),
    row("post", "/v1/collect", O, "Remove revisions that no device needs, and their objects", Some("Collect"), (200, Some("Collected"))),
    row("get", "/v1/events", O, "Events as server-sent events; ?since=N&follow=1", None, (200, Some("Event"))),
    row("post", "/v1/backup", O, "A tar of the database, without the hub's keys", None, (200, None)),
];

/// The document (OpenAPI 3.1).
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for row in ROWS {
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(row.method.to_owned(), operation(row));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Kedge hub",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Devices ask with a client certificate of the hub's own authority, operators with a bearer token.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "device": {"type": "mutualTLS"},
                "operator": {"type": "http", "scheme": "bearer"},
            },
        },
    })
}

fn operation(row: &Row) -> Value {
    let content = |schema: &str, kind: &str| json!({kind: {"schema": reference(schema)}});
    let (status, schema) = row.answer;
    let mut answer = json!({"description": row.summary});
    if let (Some(schema), Some(answer)) = (schema, answer.as_object_mut()) {
        answer.insert("content".to_owned(), content(schema, "application/json"));
    }
    let problem = content("Problem", "application/problem+json");
    let mut operation = json!({
        "summary": row.summary,
        "responses": {
            status.to_string(): answer,
            "default": {"description": "Refused", "content": problem},
        },
    });
    let Some(fields) = operation.as_object_mut() else {
        return operation;
    };
    if let Some(schema) = row.request {
        let body = json!({"required": true, "content": content(schema, "application/json")});
        fields.insert("requestBody".to_owned(), body);
    }
    let parameters: Vec<Value> = row
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    if !parameters.is_empty() {
        fields.insert("parameters".to_owned(), parameters.into());
    }
    let security = match row.who {
        Who::Anybody => json!([]),
        Who::Device => json!([{"device": []}]),
        Who::Operator => json!([{"operator": []}]),
    };
    fields.insert("security".to_owned(), security);
    operation
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// A message with everything that it names.
fn add<T: ToSchema + PartialSchema>(all: &mut Vec<(String, RefOr<Schema>)>, name: &str) {
    all.push((name.to_owned(), T::schema()));
    T::schemas(all);
}

fn schemas() -> Value {
    let mut all = Vec::new();
    add::<Problem>(&mut all, "Problem");
    add::<Signed>(&mut all, "Signed");
    add::<device::Ask>(&mut all, "Ask");
    add::<device::Enrolled>(&mut all, "Enrolled");
    add::<device::State>(&mut all, "State");
    add::<device::Reports>(&mut all, "Reports");
    add::<device::Acknowledged>(&mut all, "Acknowledged");
    add::<operator::Hub>(&mut all, "Hub");
    add::<operator::Device>(&mut all, "Device");
    add::<operator::Why>(&mut all, "Why");
    add::<operator::ActionRequest>(&mut all, "ActionRequest");
    add::<operator::ParameterValues>(&mut all, "ParameterValues");
    add::<operator::ParametersSet>(&mut all, "ParametersSet");
    add::<operator::Assign>(&mut all, "Assign");
    add::<operator::Assigned>(&mut all, "Assigned");
    add::<operator::Claim>(&mut all, "Claim");
    add::<operator::NewJoinToken>(&mut all, "NewJoinToken");
    add::<operator::JoinToken>(&mut all, "JoinToken");
    add::<operator::NewToken>(&mut all, "NewToken");
    add::<operator::Token>(&mut all, "Token");
    add::<operator::Offer>(&mut all, "Offer");
    add::<operator::Done>(&mut all, "Done");
    add::<operator::Revision>(&mut all, "Revision");
    add::<operator::Collect>(&mut all, "Collect");
    add::<operator::Collected>(&mut all, "Collected");
    add::<operator::Event>(&mut all, "Event");
    add::<operator::Waiting>(&mut all, "Waiting");
    add::<operator::Page<operator::Device>>(&mut all, "Page_Device");
    add::<operator::Page<operator::Waiting>>(&mut all, "Page_Waiting");
    add::<operator::Page<operator::JoinToken>>(&mut all, "Page_JoinToken");
    add::<operator::Page<operator::Token>>(&mut all, "Page_Token");
    add::<operator::Page<operator::Revision>>(&mut all, "Page_Revision");
    let schemas: Map<String, Value> = all
        .into_iter()
        .map(|(name, schema)| (name, json!(schema)))
        .collect();
    schemas.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every `$ref` in a document.
    fn references(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(target)) = fields.get("$ref") {
                    into.insert(target.clone());
                }
                fields.values().for_each(|value| references(value, into));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, into)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn whatever_is_named_is_there() {
        let document = document();
        let mut named = BTreeSet::new();
        references(&document, &mut named);
        assert!(named.len() > 30);
        for name in named {
            let pointer = name.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{name}");
        }
    }

    #[test]
    fn fields_are_written_as_messages_are() {
        let document = document();
        let fields = "/components/schemas/Assign/properties/download-only";
        assert_eq!(document.pointer(fields).unwrap()["type"], "boolean");
        let id = "/components/schemas/Device/properties/id";
        assert!(document.pointer(id).is_some());
    }
}
