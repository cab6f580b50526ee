// SPDX-License-Identifier: Apache-2.0
//! From a running answer to a response.
//!
//! The first rows are fetched and encoded before the headers go out, so an early error still gets its own
//! status. Later the body breaks off: hyper then closes the connection without the last chunk, which every
//! HTTP/1.1 client reports, and a JSON, Arrow or Parquet answer is not well formed either. The rows are
//! pulled as the client reads; dropping the body drops the query.

use std::fmt::Write as _;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use dovetail_model::Problem;
use dovetail_view::{bytes_of, record_batch};
use futures::{StreamExt, stream};
use tracing::warn;

use super::encode::{Frame, RowEncoder, encoder, unique_names};
use super::format::AnswerFormat;
use super::patience::Patience;
use super::{CURSOR_HEADER, FRESHNESS_HEADER, GENERATION_HEADER, HOLES_HEADER, POSITION_HEADER};
use crate::ports::{Answer, AnswerMemory, HoleInfo, Provenance};

/// A chunk of a body is sent once it has so many bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// Rows encoded between two looks at the chunk's size, and how much they may take: bounds a chunk, and how long encoding
/// holds its thread.
const SLICE_ROWS: usize = 1024;
const SLICE_BYTES: usize = 256 * 1024;

/// Responds with the rows of `answer`, streamed.
///
/// # Errors
/// What goes wrong before the first bytes are sent.
pub(super) async fn respond(
    answer: Answer,
    format: AnswerFormat,
    patience: Patience,
    cursor: Option<Option<String>>,
) -> Result<Response, Problem> {
    let Answer {
        batches,
        provenance,
        memory,
    } = answer;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(format.content_type()),
    );
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    for (name, value) in provenance_headers(&provenance) {
        headers.insert(
            name,
            HeaderValue::try_from(value).map_err(Problem::internal)?,
        );
    }
    if let Some(holes) = holes_header(&provenance) {
        headers.insert(
            HOLES_HEADER,
            HeaderValue::try_from(holes).map_err(Problem::internal)?,
        );
    }
    if let Some(Some(cursor)) = &cursor {
        headers.insert(
            CURSOR_HEADER,
            HeaderValue::try_from(cursor).map_err(Problem::internal)?,
        );
    }
    let schema = unique_names(&batches.schema());
    let frame = Frame { provenance, cursor };
    let mut rows = Rows {
        encoder: encoder(format, &schema, frame)?,
        schema,
        batches,
        current: None,
        patience,
        in_encoder: memory.encoded(0),
        memory,
        done: false,
    };
    let mut first = Vec::new();
    rows.encoder.start(&mut first)?;
    rows.fill(&mut first).await?;
    let first = rows.chunk(first);
    let body = if rows.done {
        Body::from(first)
    } else {
        // Who has the connection knows how its reader is cut off.
        response.extensions_mut().insert(rows.memory.clone());
        rows.memory.handed();
        let first = stream::iter([Ok(first)]);
        Body::from_stream(first.chain(rows.into_chunks()))
    };
    *response.body_mut() = body;
    Ok(response)
}

/// The rows of an answer on their way into bytes.
struct Rows {
    batches: SendableRecordBatchStream,
    encoder: Box<dyn RowEncoder>,
    schema: SchemaRef,
    /// A batch and how many of its rows are encoded.
    current: Option<(RecordBatch, usize)>,
    patience: Patience,
    memory: AnswerMemory,
    /// What the encoder keeps.
    in_encoder: Option<MemoryReservation>,
    done: bool,
}

/// Bytes on their way to the socket, on the account until they are sent.
struct Chunk {
    bytes: Vec<u8>,
    _held: Option<MemoryReservation>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Rows {
    /// Encodes rows until `out` is worth sending or the answer is done.
    async fn fill(&mut self, out: &mut Vec<u8>) -> Result<(), Problem> {
        while out.len() < CHUNK_BYTES && !self.done {
            match self.current.take() {
                Some((batch, from)) => {
                    let slice = next_slice(&batch, from);
                    self.encoder.rows(&slice, out)?;
                    if let Some(account) = &self.in_encoder {
                        // It is there in any case, and never much.
                        let _ = account.try_resize(self.encoder.held_bytes());
                    }
                    let to = from + slice.num_rows();
                    if to < batch.num_rows() {
                        self.current = Some((batch, to));
                    }
                }
                None => match self.next_batch().await? {
                    Some(batch) if batch.num_rows() > 0 => self.current = Some((batch, 0)),
                    Some(_) => {}
                    None => {
                        self.encoder.finish(out)?;
                        self.done = true;
                    }
                },
            }
        }
        Ok(())
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>, Problem> {
        let Some(batch) = self.patience.next_batch(&mut self.batches).await? else {
            return Ok(None);
        };
        let (_, columns, rows) = batch.into_parts();
        let batch = record_batch(&self.schema, columns, rows);
        batch.map(Some).map_err(Problem::internal)
    }

    /// The rest as chunks of a body; an error ends it without an end.
    fn into_chunks(self) -> impl stream::Stream<Item = Result<Bytes, Problem>> + Send {
        stream::unfold(self, |mut rows| async move {
            if rows.done {
                return None;
            }
            rows.memory.asked();
            let mut chunk = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
            let result = match rows.patience.check() {
                Ok(()) => rows.fill(&mut chunk).await,
                ended => ended,
            };
            if let Err(problem) = &result {
                warn!(%problem, "an answer broke off after it had begun");
                rows.done = true;
            }
            rows.memory.handed();
            Some((result.map(|()| rows.chunk(chunk)), rows))
        })
    }

    fn chunk(&self, bytes: Vec<u8>) -> Bytes {
        // A small one may as well be on no account.
        if bytes.capacity() <= CHUNK_BYTES {
            return Bytes::from(bytes);
        }
        let held = self.memory.encoded(bytes.capacity());
        Bytes::from_owner(Chunk { bytes, _held: held })
    }
}

/// The rows of `batch` from `from` on that are encoded at once: one at least.
fn next_slice(batch: &RecordBatch, from: usize) -> RecordBatch {
    let mut rows = SLICE_ROWS.min(batch.num_rows() - from);
    loop {
        let slice = batch.slice(from, rows);
        if rows == 1 || bytes_of(&slice) <= SLICE_BYTES {
            return slice;
        }
        rows = rows.div_ceil(2);
    }
}

/// Generation, position and freshness as headers.
fn provenance_headers(provenance: &Provenance) -> [(&'static str, String); 3] {
    let none_if_empty = |text: String| {
        if text.is_empty() {
            "none".to_owned()
        } else {
            text
        }
    };
    let generation = match provenance.views.as_slice() {
        [view] => view.generation.to_string(),
        views => views.iter().fold(String::new(), |mut text, view| {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{}={}", view.view, view.generation);
            text
        }),
    };
    let positions: Vec<&str> = provenance
        .streams
        .iter()
        .map(|s| s.position.as_str())
        .collect();
    let freshness = freshness(provenance).map_or("unknown".to_owned(), |ms| ms.to_string());
    [
        (GENERATION_HEADER, none_if_empty(generation)),
        (POSITION_HEADER, none_if_empty(positions.join(";"))),
        (FRESHNESS_HEADER, freshness),
    ]
}

/// That of the stream that is furthest behind; none where that of one is not known.
fn freshness(provenance: &Provenance) -> Option<u64> {
    let mut streams = provenance.streams.iter();
    streams.try_fold(0, |most, stream| Some(stream.freshness_ms?.max(most)))
}

/// What the streams that were read have lost, if anything.
fn holes_header(provenance: &Provenance) -> Option<String> {
    let streams = provenance.streams.iter();
    let lost: Vec<String> = streams
        .filter(|stream| !stream.holes.is_empty())
        .map(|stream| {
            let holes: Vec<String> = stream.holes.iter().map(HoleInfo::to_string).collect();
            format!("{}:{}", stream.stream, holes.join(","))
        })
        .collect();
    (!lost.is_empty()).then(|| lost.join(";"))
}

/// Responds with a JSON document that is not rows.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<Response, Problem> {
    let mut body = serde_json::to_vec(value).map_err(Problem::internal)?;
    body.push(b'\n');
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    Ok((content_type, body).into_response())
}
