// SPDX-License-Identifier: Apache-2.0
//! Answers in the compression that a client accepts.
//!
//! Purpose: rows as text are mostly repetition, and many clients are behind a network slower than that.
//! Invariants: what a chunk of the answer holds is flushed with it, so rows come as early as without; an answer that
//! breaks off has no end in its compression either; dropping the body still drops the query.
//! Non-goals: Parquet, which is compressed inside; answers so small that nothing is gained; the layer of `tower-http`,
//! which would bring a third implementation of both formats along.

use std::io::{self, Write};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use flate2::write::GzEncoder;
use futures::{Stream, StreamExt as _, stream};

use super::format::AnswerFormat;

/// An answer of fewer bytes stays as it is.
const MIN_BYTES: u64 = 1024;
/// Fast, and far enough for text.
const ZSTD_LEVEL: i32 = 1;

/// How an answer may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Middleware: compresses what the client accepts compressed.
pub(super) async fn compress(request: Request, next: Next) -> Response {
    let accepted = accepted(request.headers());
    let mut response = next.run(request).await;
    if !is_compressible(&response) {
        return response;
    }
    let is_small = is_small(&response);
    let headers = response.headers_mut();
    // Also of a small answer: to the next request for the same it may be large.
    headers.append(
        header::VARY,
        HeaderValue::from_static(header::ACCEPT_ENCODING.as_str()),
    );
    let Some(encoding) = accepted.filter(|_| !is_small) else {
        return response;
    };
    let Ok(encoder) = Encoder::new(encoding) else {
        return response;
    };
    headers.insert(
        header::CONTENT_ENCODING,
        HeaderValue::from_static(encoding.name()),
    );
    headers.remove(header::CONTENT_LENGTH);
    response.map(|body| Body::from_stream(compressed(body, encoder)))
}

fn is_compressible(response: &Response) -> bool {
    let headers = response.headers();
    let parquet = AnswerFormat::Parquet.content_type();
    !headers.contains_key(header::CONTENT_ENCODING)
        && headers
            .get(header::CONTENT_TYPE)
            .is_none_or(|t| t != parquet)
}

fn is_small(response: &Response) -> bool {
    let bytes = response.body().size_hint().exact();
    bytes.is_some_and(|bytes| bytes < MIN_BYTES)
}

/// The encoding that the client likes best of ours; zstd where it likes both the same.
fn accepted(headers: &HeaderMap) -> Option<Encoding> {
    let mut gzip = None;
    let mut zstd = None;
    let mut any = None;
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    for item in values.flat_map(|value| value.to_str().unwrap_or_default().split(',')) {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q="));
        // Thousandths are all that the header can say.
        let quality = quality.map_or(Some(1.0), |q| q.parse::<f32>().ok());
        let quality = quality.map_or(0, |q| (q * 1000.0) as u32);
        match name.as_str() {
            "gzip" | "x-gzip" => gzip = Some(quality),
            "zstd" => zstd = Some(quality),
            "*" => any = Some(quality),
            _ => {}
        }
    }
    let of = |named: Option<u32>| named.or(any).unwrap_or(0);
    match (of(gzip), of(zstd)) {
        (0, 0) => None,
        (gzip, zstd) if zstd >= gzip => Some(Encoding::Zstd),
        _ => Some(Encoding::Gzip),
    }
}

/// The bytes of `body` through `encoder`, chunk by chunk.
fn compressed(body: Body, encoder: Encoder) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let state = Some((body.into_data_stream(), encoder));
    stream::unfold(state, |state| async move {
        let (mut body, mut encoder) = state?;
        loop {
            let (chunk, more) = match body.next().await {
                Some(Ok(chunk)) => (encoder.push(&chunk), true),
                Some(Err(error)) => return Some((Err(error), None)),
                None => (encoder.finish(), false),
            };
            match chunk {
                Ok(chunk) if chunk.is_empty() && more => {}
                Ok(chunk) => {
                    let rest = more.then_some((body, encoder));
                    return Some((Ok(chunk), rest));
                }
                Err(error) => return Some((Err(axum::Error::new(error)), None)),
            }
        }
    })
}

/// An encoder, and what came out of it.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(encoding: Encoding) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Gzip => Self::Gzip(GzEncoder::new(vec![], flate2::Compression::fast())),
            Encoding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(vec![], ZSTD_LEVEL)?),
        })
    }

    /// What `chunk` becomes, to its last byte.
    fn push(&mut self, chunk: &[u8]) -> io::Result<Bytes> {
        let out = match self {
            Self::Gzip(encoder) => {
                encoder.write_all(chunk)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Zstd(encoder) => {
                encoder.write_all(chunk)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
        };
        Ok(out.into())
    }

    /// The end.
    fn finish(&mut self) -> io::Result<Bytes> {
        let out = match self {
            Self::Gzip(encoder) => {
                encoder.try_finish()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Zstd(encoder) => {
                encoder.do_finish()?;
                std::mem::take(encoder.get_mut())
            }
        };
        Ok(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_says_what_it_likes() {
        for (text, expected) in [
            ("", None),
            ("identity", None),
            ("br, deflate", None),
            ("gzip, deflate, br, zstd", Some(Encoding::Zstd)),
            ("GZIP", Some(Encoding::Gzip)),
            ("gzip;q=0.8, zstd;q=0.5", Some(Encoding::Gzip)),
            ("gzip;q=0, zstd; q=0.001", Some(Encoding::Zstd)),
            ("gzip;q=0", None),
            ("*;q=0.1, zstd;q=0", Some(Encoding::Gzip)),
            ("gzip;q=nonsense", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(text));
            assert_eq!(accepted(&headers), expected, "{text}");
        }
        assert_eq!(accepted(&HeaderMap::new()), None);
    }
}
