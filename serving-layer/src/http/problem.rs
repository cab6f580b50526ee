// SPDX-License-Identifier: Apache-2.0
//! Problems as RFC 9457 documents.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dovetail_model::{Problem, ProblemKind};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::error;

/// A problem on its way out. `?` in a handler turns a [`Problem`] into one.
#[derive(Debug)]
pub(super) struct Refusal(Problem);

/// What a handler answers.
pub(super) type Handled<T = Response> = Result<T, Refusal>;

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let kind = problem.kind;
        if kind == ProblemKind::Internal {
            error!(detail = %problem.detail, "a request failed");
        }
        let status =
            StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let name = name_of(kind);
        let retry_after = problem
            .members
            .get("retry_after_s")
            .and_then(Value::as_f64)
            .map_or(1.0, f64::ceil);
        let mut response = document(status, &name, kind.title(), problem.detail, problem.members);
        let headers = response.headers_mut();
        match kind {
            ProblemKind::Unauthenticated => {
                let challenge = HeaderValue::from_static("Bearer realm=\"dovetail\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            ProblemKind::Busy | ProblemKind::Unavailable => {
                if let Ok(value) = HeaderValue::from_str(&format!("{retry_after:.0}")) {
                    headers.insert(header::RETRY_AFTER, value);
                }
            }
            _ => {}
        }
        response
    }
}

/// An RFC 9457 problem document.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Document {
    /// `urn:dovetail:problem:` and its kind.
    r#type: String,
    /// The same for every problem of this kind.
    title: &'static str,
    /// The status code.
    status: u16,
    /// What was wrong, where, and the way out.
    detail: String,
    /// What programs read besides, such as `line`, `column`, `run` or `retry_after_s`.
    #[serde(flatten)]
    members: Map<String, Value>,
}

/// A problem document. `name` ends its type URI; `members` stand behind the standard ones, which they cannot replace.
fn document(
    status: StatusCode,
    name: &str,
    title: &'static str,
    detail: String,
    mut members: Map<String, Value>,
) -> Response {
    for standard in ["type", "title", "status", "detail"] {
        members.shift_remove(standard);
    }
    let document = Document {
        r#type: format!("urn:dovetail:problem:{name}"),
        title,
        status: status.as_u16(),
        detail,
        members,
    };
    let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, content_type, document.text()).into_response()
}

impl Document {
    fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self)
            .expect("texts, numbers and JSON values are JSON, and a vector takes it");
        text.push(b'\n');
        text
    }
}

/// The document of a problem, where there is no request to answer.
pub(super) fn problem_text(problem: Problem) -> Vec<u8> {
    let kind = problem.kind;
    let document = Document {
        r#type: format!("urn:dovetail:problem:{}", name_of(kind)),
        title: kind.title(),
        status: kind.status(),
        detail: problem.detail,
        members: problem.members,
    };
    document.text()
}

/// What the type of a problem of this kind ends in.
fn name_of(kind: ProblemKind) -> String {
    match serde_json::to_value(kind) {
        Ok(Value::String(name)) => name,
        _ => "problem".to_owned(),
    }
}

/// No route has this path.
pub(super) async fn unknown_route(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    let instead = match path.strip_suffix('/') {
        Some(without) if !without.is_empty() => "leave the last `/` of it out; ",
        _ => "",
    };
    let detail = format!(
        "there is no `{path}`; {instead}the API lies under `/v1`, try `/v1/status` or `/v1/sql?q=…`"
    );
    Problem::new(ProblemKind::NotFound, detail).into()
}

/// The route is there, but not for this method. The router adds `Allow`.
pub(super) async fn wrong_method(request: Request) -> Response {
    let path: String = request.uri().path().chars().take(200).collect();
    document(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "method not allowed",
        format!(
            "`{path}` does not answer {}; see the `Allow` header",
            request.method()
        ),
        Map::new(),
    )
}

/// A handler panicked.
pub(super) fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    error!(message, "a request handler panicked");
    let problem = Problem::internal("the server failed on this request; its log says more");
    Refusal::from(problem).into_response()
}
