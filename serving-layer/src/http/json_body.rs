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
    serde_json::from_slice(bytes).map_err(|error| {
        let mut again = serde_json::Deserializer::from_slice(bytes);
        let path = serde_path_to_error::deserialize::<_, T>(&mut again).err();
        let path = path.map(|error| error.path().to_string());
        let member = path.filter(|path| path != "." && error.is_data());
        let at = member.map_or(String::new(), |member| format!("`{member}`: "));
        let detail = format!(
            "the body is not the JSON expected here: {at}{}",
            said(&error)
        );
        Problem::invalid(detail)
            .with("line", error.line())
            .with("column", error.column())
    })
}

/// What serde says, without Rust's names of types.
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let Some((found, expected)) = text.rsplit_once("expected ") else {
        return text;
    };
    let (expected, place) = expected.split_once(" at line ").unwrap_or((expected, ""));
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a string" | "a borrowed string" => "a text",
        "a sequence" => "an array",
        "a map" => "an object",
        other => other,
    };
    format!("{found}expected {expected} at line {place}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Asked {
        #[serde(rename = "timeout_ms")]
        _timeout_ms: Option<u64>,
        #[serde(rename = "places")]
        _places: Option<Vec<String>>,
    }

    #[test]
    fn a_value_of_another_type_is_named_with_what_it_is_to_be() {
        for (body, said) in [
            (
                r#"{"timeout_ms": "5s"}"#,
                r#"`timeout_ms`: invalid type: string "5s", expected a whole number from 0 on at line 1 column 19"#,
            ),
            (
                r#"{"places": ["a", 7]}"#,
                "`places[1]`: invalid type: integer `7`, expected a text at line 1 column 18",
            ),
            (
                r#"{"places": "#,
                "expected here: EOF while parsing a value at line 1 column 11",
            ),
        ] {
            let problem = parse::<Asked>(body.as_bytes()).unwrap_err();
            assert!(problem.detail.ends_with(said), "{problem}");
        }
    }
}
