// SPDX-License-Identifier: Apache-2.0
//! `/v1/streams`: what there is, appends, dead letters.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use dovetail_log::Format;
use dovetail_model::{Problem, ProblemKind};
use schemars::{JsonSchema, json_schema};
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::auth::Role;
use super::super::body::{declared_type, first_byte};
use super::super::call::Call;
use super::super::openapi::{Operation, inline};
use super::super::params::Params;
use super::super::problem::Handled;
use super::super::router::{Api, PathOf};
use super::super::{POSITION_HEADER, answer, json_body};
use crate::ports::{
    AppendAnswer, AppendRequest, DeadLetterId, DeadLetterPage, DeadLetterQuery, OnError,
    ReplayAnswer, ReplayRequest, StreamInfo,
};

/// Media types of events, for messages.
const EVENT_TYPES: &str = "`application/x-ndjson`, `application/json` (an array), `text/csv` or `application/vnd.apache.arrow.stream`";

/// Formats of events in a body.
const EVENT_FORMATS: [Format; 4] = [Format::Ndjson, Format::Json, Format::Csv, Format::Arrow];
/// Dead letters of a page.
const LIMITS: (u64, u64) = (1, 1000);
/// Of an idempotency key.
const MAX_KEY_BYTES: usize = 255;

pub(in super::super) fn calls() -> Vec<Call<Api>> {
    vec![
        Call::get(
            "/v1/streams",
            list,
            Operation::new("list_streams", Role::Read, "Every stream").answers::<Streams>(
                StatusCode::OK,
                "The streams, and how far each stage has come.",
            ),
        ),
        Call::get(
            "/v1/streams/{stream}",
            show,
            Operation::new("get_stream", Role::Read, "One stream")
                .of_stream()
                .answers::<StreamInfo>(
                    StatusCode::OK,
                    "The stream, and how far each stage has come.",
                ),
        ),
        Call::post("/v1/streams/{stream}", append, append_operation()),
        Call::get(
            "/v1/streams/{stream}/dead-letters",
            dead_letters,
            Operation::new(
                "list_dead_letters",
                Role::Read,
                "Events that could not be decoded, oldest first",
            )
            .of_stream()
            .query::<DeadLetterId>(
                "cursor",
                "Only those behind this one, as the page before gave it.",
            )
            .number(
                "limit",
                LIMITS,
                "Most dead letters to list; 100 unless said.",
            )
            .answers::<DeadLetterPage>(StatusCode::OK, "A page of dead letters."),
        ),
        Call::post(
            "/v1/streams/{stream}/dead-letters/replay",
            replay,
            Operation::new(
                "replay_dead_letters",
                Role::Write,
                "Decode dead letters again, under the schema of now",
            )
            .of_stream()
            .json_body::<ReplayRequest>(false)
            .answers::<ReplayAnswer>(StatusCode::OK, "What became events, and what stays.")
            .fails(&[ProblemKind::Conflict]),
        ),
    ]
}

fn append_operation() -> Operation {
    let content = EVENT_FORMATS.map(|format| {
        let schema = match format {
            Format::Json => Some(inline::<Vec<Map<String, Value>>>()),
            Format::Ndjson | Format::Csv => Some(inline::<String>()),
            Format::Arrow | Format::Avro | Format::Protobuf => None,
        };
        (format.media_type(), schema)
    });
    let key = json_schema!({"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES, "pattern": "^[!-~]+$"});
    Operation::new("append", Role::Write, "Append events; answered once they are durable")
        .of_stream()
        .query::<OnError>("errors", "What to do with an event that cannot be decoded; `reject` unless said.")
        .header(
            "Idempotency-Key",
            "Makes a retry harmless: it gets the first answer again, for 24 h.",
            &key,
        )
        .body(
            true,
            &content,
            "The events, at most 64 MiB unless the server says otherwise (`--body-limit`). `Content-Encoding` may be `gzip` or `zstd`; a text that does not say what it is shows by its first byte.",
        )
        .answers::<AppendAnswer>(StatusCode::OK, "What was stored.")
        .with_header(POSITION_HEADER)
        .fails(&[ProblemKind::Conflict, ProblemKind::Unprocessable])
}

#[derive(Serialize, JsonSchema)]
struct Streams {
    streams: Vec<StreamInfo>,
}

/// `GET /v1/streams`
pub(in super::super) async fn list(State(api): State<Api>, params: Params) -> Handled {
    params.finish()?;
    let streams = api.ports.control.streams().await?;
    Ok(answer::json(&Streams { streams })?)
}

/// `GET /v1/streams/{stream}`
pub(in super::super) async fn show(
    State(api): State<Api>,
    PathOf(stream): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    Ok(answer::json(&api.ports.control.stream(&stream).await?)?)
}

/// `POST /v1/streams/{stream}`: appends events.
pub(in super::super) async fn append(
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
    State(api): State<Api>,
    PathOf(stream): PathOf<String>,
    mut params: Params,
) -> Handled {
    let query = DeadLetterQuery {
        cursor: params.parsed("cursor")?,
        limit: params.number("limit", LIMITS)?.unwrap_or(100) as usize,
    };
    params.finish()?;
    let page = api.ports.ingest.dead_letters(&stream, query).await?;
    Ok(answer::json(&page)?)
}

/// `POST /v1/streams/{stream}/dead-letters/replay` `{"ids": […]}`, or nothing for all
pub(in super::super) async fn replay(
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
    let visible =
        (1..=MAX_KEY_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match (value.to_str(), visible, values.next()) {
        (Ok(text), true, None) => Ok(Some(text.to_owned())),
        _ => Err(Problem::invalid(
            "`Idempotency-Key` must be one text of 1 to 255 visible ASCII characters, such as a UUID",
        )),
    }
}
