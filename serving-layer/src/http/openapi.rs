// SPDX-License-Identifier: Apache-2.0
//! `/openapi.json`: the API as an OpenAPI 3.1 document.
//!
//! Purpose: made of the calls that the router is made of and of the types that handlers read and answer; nothing of it
//! is written twice. Collaborators: [`Call`], whose [`Operation`] it writes down; `schemars`, which knows what `serde` does.
//! Invariants: a replica has the same document as the process behind it, since it hands on what it does not do itself;
//! the document does not depend on the server's configuration.

mod operation;

use axum::http::{HeaderName, header};
use dovetail_model::ProblemKind;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

pub(super) use operation::{Operation, inline};

use super::call::Call;
use super::problem::Document;
use super::{CURSOR_HEADER, FRESHNESS_HEADER, GENERATION_HEADER, HOLES_HEADER, POSITION_HEADER};

/// The document of calls, each behind the tag that it is listed under.
pub(super) fn document<S>(calls: &[(&str, Vec<Call<S>>)]) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schemas = settings
        .with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
        .into_generator();
    let mut paths = Map::new();
    for (tag, calls) in calls {
        for call in calls {
            let operation = call.operation.document(tag, &mut schemas);
            let path = paths.entry(call.path).or_insert_with(|| json!({}));
            path[call.method] = operation;
        }
    }
    let problem = schemas.subschema_for::<Document>();
    let responses: Map<String, Value> = ProblemKind::ALL
        .into_iter()
        .map(|kind| (format!("{kind:?}"), problem_response(kind, &json!(problem))))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Dovetail",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Views over all history and up to the last event, with one exact seam between the two. `docs/api.md` says it in words.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": calls.iter().map(|(tag, _)| json!({"name": tag})).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "responses": responses,
            "headers": headers(),
            "securitySchemes": {"bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "A configured token. Its role is read, write or admin, and each includes the ones before it. A server without configured tokens asks for none.",
            }},
        },
    })
}

/// What a refusal of `kind` looks like.
fn problem_response(kind: ProblemKind, problem: &Value) -> Value {
    let mut response = json!({
        "description": kind.title(),
        "content": {"application/problem+json": {"schema": problem}},
    });
    let with: Option<HeaderName> = match kind {
        ProblemKind::Unauthenticated => Some(header::WWW_AUTHENTICATE),
        ProblemKind::Busy | ProblemKind::Unavailable => Some(header::RETRY_AFTER),
        _ => None,
    };
    if let Some(name) = with {
        let name = name.as_str();
        response["headers"][name] = json!({"$ref": format!("#/components/headers/{name}")});
    }
    response
}

fn headers() -> Value {
    let text = |required: bool, description: &str| json!({"description": description, "required": required, "schema": {"type": "string"}});
    json!({
        GENERATION_HEADER: text(true, "The generation that was read, or `view=generation` pairs when several views were, or `none`."),
        POSITION_HEADER: text(true, "Position tokens joined by `;`, as `after` takes them, or `none`."),
        FRESHNESS_HEADER: text(true, "The worst freshness among the streams that were read, in milliseconds, or `unknown`."),
        HOLES_HEADER: text(false, "What the answer runs over and its topics lost, as `stream:partition@from..to,…`, joined by `;`."),
        CURSOR_HEADER: text(false, "Where the next page begins: give it as `cursor`. Absent on the last page."),
        header::LOCATION.as_str(): text(true, "Where the batch run can be watched."),
        header::WWW_AUTHENTICATE.as_str(): text(true, "The scheme that is asked for."),
        header::RETRY_AFTER.as_str(): {"description": "Seconds after which to ask again.", "required": true, "schema": {"type": "integer", "minimum": 0}},
    })
}
