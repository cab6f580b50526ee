// SPDX-License-Identifier: Apache-2.0
//! Request bodies, with every limit they have.
//!
//! ```text
//! one body, as sent and decompressed   64 MiB           413
//! all bodies being held                512 MiB          429
//! wait for the next bytes of a body    30 s             408
//! decompressions at once               4                (they queue)
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use dovetail_log::decode::{ContentEncoding, DecodeError, decompress};
use dovetail_model::{Problem, ProblemKind};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes of all request bodies that are being read or worked on.
const BUDGET_BYTES: usize = 512 * 1024 * 1024;
/// Decompressions at once.
const DECOMPRESSIONS: usize = 4;
/// How long a client may pause within a body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads bodies within the server's budget.
#[derive(Debug, Clone)]
pub(super) struct BodyReader {
    budget: Arc<Semaphore>,
    decompressions: Arc<Semaphore>,
    idle_timeout: Duration,
}

/// A whole body; its bytes count against the budget until it is dropped.
#[derive(Debug)]
pub(super) struct HeldBody {
    pub(super) bytes: Bytes,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Default for BodyReader {
    fn default() -> Self {
        Self::new(BUDGET_BYTES, IDLE_TIMEOUT)
    }
}

impl BodyReader {
    /// A reader with a budget of `budget_bytes` that waits `idle_timeout` for the next bytes of a body.
    pub(super) fn new(budget_bytes: usize, idle_timeout: Duration) -> Self {
        Self {
            budget: Arc::new(Semaphore::new(budget_bytes)),
            decompressions: Arc::new(Semaphore::new(DECOMPRESSIONS)),
            idle_timeout,
        }
    }

    /// Reads a whole body of at most `limit` bytes, before and after decompression.
    ///
    /// # Errors
    /// `TooLarge`, `UnsupportedMedia` for its encoding, `Busy`, `Timeout`, `Invalid` when it is cut off.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        limit: usize,
    ) -> Result<HeldBody, Problem> {
        let encoding = content_encoding(headers)?;
        let held = self.read_raw(headers, body, limit).await?;
        if encoding == ContentEncoding::Identity {
            return Ok(held);
        }
        let slot = Arc::clone(&self.decompressions).acquire_owned().await;
        let bytes = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            decompress(encoding, held.bytes, limit)
        })
        .await
        .map_err(Problem::internal)?
        .map_err(|error| match error {
            DecodeError::TooLarge { .. } => too_large(" after decompression", limit),
            error => error.into(),
        })?;
        let permit = self.reserve(bytes.len())?;
        Ok(HeldBody {
            bytes,
            permits: vec![permit],
        })
    }

    async fn read_raw(
        &self,
        headers: &HeaderMap,
        mut body: Body,
        limit: usize,
    ) -> Result<HeldBody, Problem> {
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if let Some(announced) = announced
            && announced > limit
        {
            return Err(too_large("", limit).with("bytes", announced));
        }
        let mut bytes = BytesMut::new();
        let mut permits = Vec::new();
        loop {
            let frame = timeout(self.idle_timeout, body.frame()).await;
            let frame = frame.map_err(|_| {
                let detail = format!(
                    "no more of the body came for {} s, after {} bytes",
                    self.idle_timeout.as_secs(),
                    bytes.len()
                );
                Problem::new(ProblemKind::Timeout, detail)
            })?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|e| {
                Problem::invalid(format!(
                    "the body was cut off after {} bytes: {e}",
                    bytes.len()
                ))
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > limit {
                return Err(too_large("", limit));
            }
            permits.push(self.reserve(data.len())?);
            if bytes.is_empty() {
                // Grown once, to what was announced, as far as the limit allows.
                bytes.reserve(announced.unwrap_or(data.len()));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(HeldBody {
            bytes: bytes.freeze(),
            permits,
        })
    }

    fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.budget)
            .try_acquire_many_owned(permits)
            .map_err(|_| {
                let detail = "the server holds as many request bodies as it has memory for: try again in a moment";
                Problem::new(ProblemKind::Busy, detail)
            })
    }
}

impl HeldBody {
    /// The bytes alone; they stop counting against the budget when `guard` is dropped.
    pub(super) fn split(self) -> (Bytes, Vec<OwnedSemaphorePermit>) {
        (self.bytes, self.permits)
    }
}

fn too_large(when: &str, limit: usize) -> Problem {
    let detail = format!(
        "the body is larger than {} MiB{when}: send less at a time; of events, `dovetail ingest` splits as many as there are",
        limit / (1024 * 1024)
    );
    Problem::new(ProblemKind::TooLarge, detail).with("limit_bytes", limit)
}

/// How a body is compressed.
fn content_encoding(headers: &HeaderMap) -> Result<ContentEncoding, Problem> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let text = match (values.next(), values.next()) {
        (None, _) => return Ok(ContentEncoding::Identity),
        (Some(value), None) => value.to_str().map_err(|_| {
            let detail = "`Content-Encoding` is no text: send gzip, zstd or none";
            Problem::new(ProblemKind::UnsupportedMedia, detail)
        })?,
        (Some(_), Some(_)) => {
            let detail = "`Content-Encoding` is given twice: compress once, with gzip or zstd";
            return Err(Problem::new(ProblemKind::UnsupportedMedia, detail));
        }
    };
    Ok(text.parse::<ContentEncoding>()?)
}

/// What curl sends unless it is told otherwise: it says nothing about the body.
const UNDECLARED: &str = "application/x-www-form-urlencoded";

/// A body's media type, in lower case, without parameters; none if there is none, or the one that curl sends by
/// itself. The caller then looks at the body. That a web page may send such a body to any host without asking first
/// is what [`super::origin`] is there for.
///
/// # Errors
/// `UnsupportedMedia` for a charset that is not UTF-8, or when there is more than one type.
pub(super) fn declared_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let refuse = |detail: String| Err(Problem::new(ProblemKind::UnsupportedMedia, detail));
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = match (value.to_str(), values.next()) {
        (Ok(text), None) => text,
        _ => return refuse("`Content-Type` must be one media type".to_owned()),
    };
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    for part in parts {
        if let Some((name, value)) = part.split_once('=')
            && name.trim().eq_ignore_ascii_case("charset")
        {
            let charset = value.trim().trim_matches('"');
            if !["utf-8", "utf8", "us-ascii"]
                .iter()
                .any(|c| charset.eq_ignore_ascii_case(c))
            {
                return refuse(format!("charset `{charset}` is not read: send UTF-8"));
            }
        }
    }
    Ok((essence != UNDECLARED).then_some(essence))
}

/// The text of a body without the byte order mark that some editors put before it.
pub(super) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// The first byte of a body's text that is not blank.
pub(super) fn first_byte(body: &[u8]) -> Option<u8> {
    let text = without_mark(body).iter();
    text.copied().find(|b| !b.is_ascii_whitespace())
}

#[cfg(test)]
mod tests;
