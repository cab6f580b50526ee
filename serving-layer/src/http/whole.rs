// SPDX-License-Identifier: Apache-2.0
//! Answers to clients that speak HTTP/1.0.
//!
//! There a body without a length ends where the connection does: an answer that broke off would look whole. So it is
//! collected first, and answered with its length or as a problem.

use std::error::Error;

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::Request;
use axum::http::{Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dovetail_model::{Problem, ProblemKind};

use super::problem::Refusal;

/// Bytes that are collected for one answer.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Middleware: gives answers over HTTP/1.0 a length.
pub(super) async fn whole_over_http_1_0(request: Request, next: Next) -> Response {
    let is_old = request.version() < Version::HTTP_11;
    let response = next.run(request).await;
    if !is_old || response.body().size_hint().exact().is_some() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    match to_bytes(body, MAX_BYTES).await {
        Ok(bytes) => {
            parts.headers.remove(header::TRANSFER_ENCODING);
            Response::from_parts(parts, Body::from(bytes))
        }
        Err(error) => {
            let problem = problem_in(&error).unwrap_or_else(too_large);
            Refusal::from(problem).into_response()
        }
    }
}

/// Why an answer broke off.
fn problem_in(error: &axum::Error) -> Option<Problem> {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(problem) = error.downcast_ref::<Problem>() {
            return Some(problem.clone());
        }
        source = error.source();
    }
    None
}

fn too_large() -> Problem {
    let detail = format!(
        "the answer takes more than {} MiB, and over HTTP/1.0 nobody could see whether it is whole: ask over HTTP/1.1 (nginx: `proxy_http_version 1.1`), or for less",
        MAX_BYTES >> 20
    );
    Problem::new(ProblemKind::TooLarge, detail)
}
