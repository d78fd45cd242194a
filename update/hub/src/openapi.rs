//! The description of the API: one table of what can be asked, and the schemas of its messages.
//!
//! The table is the router's: a test asks for each row and finds somebody there.

mod rows;

pub(crate) use rows::{ROWS, Row, Who};

use kedge_api::{Problem, Signed, device, operator};
use rows::{Body, ONCE, Parameter};
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

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
    let (status, body) = row.answer;
    let mut answer = json!({"description": row.summary});
    if let (Some(content), Some(answer)) = (content(body), answer.as_object_mut()) {
        answer.insert("content".to_owned(), content);
    }
    let problem = json!({"application/problem+json": {"schema": reference("Problem")}});
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
    if let Some(content) = content(row.request) {
        let body = json!({"required": true, "content": content});
        fields.insert("requestBody".to_owned(), body);
    }
    let parameters = parameters(row);
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

fn content(body: Body) -> Option<Value> {
    match body {
        Body::Nothing => None,
        Body::Json(schema) => Some(json!({"application/json": {"schema": reference(schema)}})),
        Body::As(kind) => Some(json!({kind: {}})),
    }
}

fn parameters(row: &Row) -> Vec<Value> {
    let path = row
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let path = path.map(|name| {
        json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}})
    });
    // Publishing repeats itself without harm (`http`).
    let repeats = row.path.starts_with("/v1/revisions") || row.path == "/v1/backup";
    let once = row.who == Who::Operator && row.method != "get" && !repeats;
    let others = row.parameters.iter().chain(once.then_some(&ONCE));
    path.chain(others.map(parameter)).collect()
}

fn parameter(parameter: &Parameter) -> Value {
    let schema: Value = serde_json::from_str(parameter.schema).unwrap_or_default();
    json!({
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": parameter.text,
        "schema": schema,
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// Requests of people: a field that is not known is a mistake.
const STRICT: [&str; 8] = [
    "ActionRequest",
    "Assign",
    "Claim",
    "Collect",
    "NewJoinToken",
    "NewToken",
    "ParameterValues",
    "Window",
];

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
    let mut schemas: Map<String, Value> = all
        .into_iter()
        .map(|(name, schema)| (name, json!(schema)))
        .collect();
    schemas.insert("Tags".to_owned(), tags());
    for name in STRICT {
        if let Some(Value::Object(schema)) = schemas.get_mut(name) {
            schema.insert("additionalProperties".to_owned(), false.into());
        }
    }
    for name in ["Claim", "NewJoinToken"] {
        let schema = schemas.get_mut(name);
        if let Some(property) = schema.and_then(|schema| schema.pointer_mut("/properties/tags")) {
            *property = reference("Tags");
        }
    }
    schemas.into()
}

/// As `http::devices` judges them.
fn tags() -> Value {
    json!({
        "description": "Tags of a device; `name` is what it is called.",
        "type": "object",
        "maxProperties": 64,
        "propertyNames": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
        "additionalProperties": {"type": "string", "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f\"]{0,256}$"},
    })
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
        // Of all, those of enums too: they were written as Rust has them.
        let text = document.to_string();
        let keys: Vec<&str> = text
            .split("\":")
            .filter_map(|before| before.rsplit('"').next())
            .collect();
        assert!(keys.contains(&"renew-after") && keys.contains(&"for-what"));
        let wrong: Vec<_> = keys.iter().filter(|key| key.contains('_')).collect();
        assert!(
            wrong.iter().all(|key| key.starts_with("Page_")),
            "{wrong:?}"
        );
        let id = "/components/schemas/Device/properties/id";
        assert!(document.pointer(id).is_some());
    }

    /// What a tool that makes requests by the description was refused for, since it did not say so (schemathesis).
    #[test]
    fn what_a_request_must_hold_is_said() {
        let document = document();
        let at = |pointer: &str| {
            let found = document.pointer(pointer);
            found.unwrap_or_else(|| panic!("{pointer}")).clone()
        };
        let strict = ROWS.iter().filter(|row| row.who == Who::Operator);
        for row in strict {
            // A root is a message of devices, too, which pass over what they do not know.
            if let Body::Json(name) = row.request
                && !["Signed", "Tags"].contains(&name)
            {
                let schema = format!("/components/schemas/{name}/additionalProperties");
                assert_eq!(at(&schema), false, "{name}");
            }
        }
        assert_eq!(
            at("/components/schemas/ObjectId/pattern"),
            "^v1:[0-9a-f]{64}$"
        );
        assert_eq!(
            at("/components/schemas/NewJoinToken/properties/uses/minimum"),
            1
        );
        assert_eq!(
            at("/components/schemas/Window/properties/opens-s/maximum"),
            86_399
        );
        let parameters = at("/paths/~1v1~1products/post/parameters");
        let product = &parameters.as_array().unwrap()[0];
        assert_eq!(
            (&product["name"], &product["required"]),
            (&json!("product"), &json!(true))
        );
        let body = at("/paths/~1v1~1revisions/post/requestBody");
        assert_eq!(body["required"], true);
        // Every one is JSON, and a place that there is.
        for parameter in ROWS.iter().flat_map(|row| row.parameters).chain([&ONCE]) {
            assert!(["query", "header"].contains(&parameter.place));
            let schema: Value = serde_json::from_str(parameter.schema).unwrap();
            assert!(schema.is_object(), "{}", parameter.name);
        }
    }
}
