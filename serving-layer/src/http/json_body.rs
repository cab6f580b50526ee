// SPDX-License-Identifier: Apache-2.0
//! Commands as JSON bodies.

use axum::body::Body;
use axum::http::HeaderMap;
use dovetail_model::{Problem, ProblemKind};
use serde::de::DeserializeOwned;

use super::MAX_COMMAND_BYTES;
use super::body::{BodyReader, declared_type, without_mark};

/// Reads a JSON body that must be there.
///
/// # Errors
/// `UnsupportedMedia`, `TooLarge`, `Invalid` with members `line` and `column`.
pub(super) async fn required<T: DeserializeOwned>(
    reader: &BodyReader,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    let value = optional(reader, headers, body).await?;
    value.ok_or_else(|| Problem::invalid("the body is empty: send a JSON object"))
}

/// Reads a JSON body, or none if it is empty. One whose type is not said, as curl sends it, is taken for JSON.
///
/// # Errors
/// As [`required`].
pub(super) async fn optional<T: DeserializeOwned>(
    reader: &BodyReader,
    headers: &HeaderMap,
    body: Body,
) -> Result<Option<T>, Problem> {
    let held = reader.read(headers, body, MAX_COMMAND_BYTES).await?;
    if held.bytes.is_empty() {
        return Ok(None);
    }
    if let Some(essence) = declared_type(headers)?
        && essence != "application/json"
    {
        let detail = format!("`Content-Type: {essence}` is not read here: use `application/json`");
        return Err(Problem::new(ProblemKind::UnsupportedMedia, detail));
    }
    parse(&held.bytes).map(Some)
}

/// Parses JSON. Every body is an object: of an array, which may stand for its fields in their order, nothing says which is which.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = without_mark(bytes);
    let found = match bytes.trim_ascii_start().first() {
        Some(b'[') => "an array",
        Some(b'"') => "a text",
        Some(b'n' | b't' | b'f' | b'-' | b'0'..=b'9') => "a single value",
        _ => "",
    };
    if !found.is_empty() {
        let detail = format!("the body is {found}: send a JSON object, such as `{{}}`");
        return Err(Problem::invalid(detail).with("line", 1).with("column", 1));
    }
    serde_json::from_slice(bytes).map_err(|e| {
        Problem::invalid(format!("the body is not the JSON expected here: {e}"))
            .with("line", e.line())
            .with("column", e.column())
    })
}
