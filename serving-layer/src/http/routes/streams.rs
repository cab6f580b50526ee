// SPDX-License-Identifier: Apache-2.0
//! `/v1/streams`: what there is, appends, dead letters.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use dovetail_log::Format;
use dovetail_model::{Problem, ProblemKind};
use serde_json::json;

use super::super::auth::{Reader, Writer};
use super::super::body::{declared_type, first_byte};
use super::super::params::Params;
use super::super::problem::Handled;
use super::super::router::{Api, PathOf};
use super::super::{POSITION_HEADER, answer, json_body};
use crate::ports::{AppendRequest, DeadLetterQuery, ReplayRequest};

/// Media types of events, for messages.
const EVENT_TYPES: &str = "`application/x-ndjson`, `application/json` (an array), `text/csv` or `application/vnd.apache.arrow.stream`";

/// `GET /v1/streams`
pub(in super::super) async fn list(_: Reader, State(api): State<Api>, params: Params) -> Handled {
    params.finish()?;
    let streams = api.ports.control.streams().await?;
    Ok(answer::json(&json!({"streams": streams}))?)
}

/// `GET /v1/streams/{stream}`
pub(in super::super) async fn show(
    _: Reader,
    State(api): State<Api>,
    PathOf(stream): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    Ok(answer::json(&api.ports.control.stream(&stream).await?)?)
}

/// `POST /v1/streams/{stream}`: appends events.
pub(in super::super) async fn append(
    _: Writer,
    State(api): State<Api>,
    PathOf(stream): PathOf<String>,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let on_error = params.parsed("errors")?.unwrap_or_default();
    params.finish()?;
    let declared = event_format(&headers)?;
    let idempotency_key = idempotency_key(&headers)?;
    let held = api.bodies.read(&headers, body, api.max_body_bytes).await?;
    if held.bytes.is_empty() {
        return Err(Problem::invalid("the body is empty: there is no event to append").into());
    }
    let format = match declared {
        Some(format) => format,
        None => looks_like(&held.bytes)?,
    };
    // The bytes count against the budget until the append is through.
    let (bytes, _budget) = held.split();
    let request = AppendRequest {
        format,
        body: bytes,
        on_error,
        idempotency_key,
        origin: format!("http {}", format.media_type()),
    };
    let appended = api.ports.ingest.append(&stream, request).await?;
    let mut response = answer::json(&appended)?;
    if let Ok(position) = HeaderValue::try_from(&appended.position) {
        response.headers_mut().insert(POSITION_HEADER, position);
    }
    Ok(response)
}

/// `GET /v1/streams/{stream}/dead-letters`
pub(in super::super) async fn dead_letters(
    _: Reader,
    State(api): State<Api>,
    PathOf(stream): PathOf<String>,
    mut params: Params,
) -> Handled {
    let query = DeadLetterQuery {
        cursor: params.parsed("cursor")?,
        limit: params.number("limit", 1, 1000)?.unwrap_or(100) as usize,
    };
    params.finish()?;
    let page = api.ports.ingest.dead_letters(&stream, query).await?;
    Ok(answer::json(&page)?)
}

/// `POST /v1/streams/{stream}/dead-letters/replay` `{"ids": […]}`, or nothing for all
pub(in super::super) async fn replay(
    _: Writer,
    State(api): State<Api>,
    PathOf(stream): PathOf<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    params.finish()?;
    let request: Option<ReplayRequest> = json_body::optional(&api.bodies, &headers, body).await?;
    let request = request.unwrap_or_default();
    let ingest = &api.ports.ingest;
    Ok(answer::json(
        &ingest.replay_dead_letters(&stream, request).await?,
    )?)
}

/// The format that the headers declare, if they do.
fn event_format(headers: &HeaderMap) -> Result<Option<Format>, Problem> {
    let Some(essence) = declared_type(headers)? else {
        return Ok(None);
    };
    match essence.as_str() {
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines" => Ok(Some(Format::Ndjson)),
        "application/json" => Ok(Some(Format::Json)),
        "text/csv" => Ok(Some(Format::Csv)),
        "application/vnd.apache.arrow.stream" => Ok(Some(Format::Arrow)),
        _ => {
            let detail = format!("`Content-Type: {essence}` is not read: use {EVENT_TYPES}");
            Err(Problem::new(ProblemKind::UnsupportedMedia, detail))
        }
    }
}

/// The format of a body that says nothing of it: objects or an array of them.
fn looks_like(body: &[u8]) -> Result<Format, Problem> {
    match first_byte(body) {
        Some(b'{') => Ok(Format::Ndjson),
        Some(b'[') => Ok(Format::Json),
        _ => {
            let detail = format!(
                "`Content-Type` does not say what the body is, and it begins with neither `{{` nor `[`: use {EVENT_TYPES}"
            );
            Err(Problem::new(ProblemKind::UnsupportedMedia, detail))
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    let visible = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match (value.to_str(), visible, values.next()) {
        (Ok(text), true, None) => Ok(Some(text.to_owned())),
        _ => Err(Problem::invalid(
            "`Idempotency-Key` must be one text of 1 to 255 visible ASCII characters, such as a UUID",
        )),
    }
}
