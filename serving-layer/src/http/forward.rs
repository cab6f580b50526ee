// SPDX-License-Identifier: Apache-2.0
//! Requests that another process answers, handed on as they are.
//!
//! Any replica takes any call, so that a balancer need not know which is which: what is no read goes on to the process
//! that does it, with the caller's own token, and its answer comes back. Who is asking was settled here already, and is
//! settled there again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dovetail_model::{Problem, ProblemKind, innermost};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::problem::Refusal;
use crate::ports::Elsewhere;

/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// When to ask again while nobody answers there.
const PAUSE_S: u64 = 2;
/// On what was handed on once: it is not handed on again.
const FORWARDED: HeaderName = HeaderName::from_static("dovetail-forwarded");

/// Of one connection, not of the request: RFC 9110, section 7.6.1. And what was judged here: where a page came from.
const NOT_HANDED_ON: [HeaderName; 12] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    header::HOST,
    header::ORIGIN,
    HeaderName::from_static("sec-fetch-site"),
];

/// Hands requests on. Cheap to clone; the clones share connections.
#[derive(Clone)]
pub(super) struct Forwarder {
    client: Arc<Client<HttpConnector, Body>>,
    to: Arc<dyn Elsewhere>,
}

impl Forwarder {
    pub(super) fn new(to: Arc<dyn Elsewhere>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_WAIT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self {
            client: Arc::new(client),
            to,
        }
    }

    /// Whether the other process answers.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn ready(&self) -> Result<(), Problem> {
        self.to.ready().await
    }

    /// The other process's answer.
    pub(super) async fn forward(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let answered = self.answer(parts, body).await;
        answered.unwrap_or_else(|problem| Refusal::from(problem).into_response())
    }

    /// The same for a request whose body was read here.
    pub(super) async fn forward_read(&self, mut parts: Parts, body: Bytes) -> Response {
        // It was decompressed.
        parts.headers.remove(header::CONTENT_ENCODING);
        parts.headers.remove(header::CONTENT_LENGTH);
        self.forward(Request::from_parts(parts, Body::from(body)))
            .await
    }

    async fn answer(&self, mut parts: Parts, body: Body) -> Result<Response, Problem> {
        if parts.headers.contains_key(&FORWARDED) {
            return Err(Problem::internal(
                "a replica was handed a request by a replica: the store names the wrong process",
            ));
        }
        let url = self.to.url()?;
        let path = parts.uri.path_and_query();
        let path = path.map_or("/", |path| path.as_str());
        let target: Result<Uri, _> = format!("{}{path}", url.trim_end_matches('/')).parse();
        parts.uri = target.map_err(|error| Problem::internal(format!("`{url}`: {error}")))?;
        strip(&mut parts.headers);
        parts
            .headers
            .insert(FORWARDED, HeaderValue::from_static("1"));
        let broke_off = |why: &str| {
            format!(
                "broke off ({why}), and whether the request was carried out is not known: look, or repeat an append under its Idempotency-Key"
            )
        };
        let unanswered = |how: String| {
            let detail = format!(
                "the process at `{url}`, which does what is not a read, {how}; reads are answered here"
            );
            Problem::new(ProblemKind::Unavailable, detail).with("retry_after_s", PAUSE_S)
        };
        let sent = tokio::select! {
            sent = self.client.request(Request::from_parts(parts, body)) => sent,
            // One that is paused keeps its connections, and answers nobody.
            () = self.to.moved(&url) => {
                return Err(unanswered(broke_off("another process has taken its place")));
            }
        };
        let answer = sent.map_err(|error| {
            unanswered(match error.is_connect() {
                true => "does not answer".to_owned(),
                false => broke_off(&innermost(&error)),
            })
        })?;
        let mut answer = answer.map(Body::new);
        strip(answer.headers_mut());
        Ok(answer)
    }
}

fn strip(headers: &mut HeaderMap) {
    // `Connection` names further ones.
    let named = headers.get_all(header::CONNECTION).iter();
    let named: Vec<HeaderName> = named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in NOT_HANDED_ON.iter().chain(&named) {
        headers.remove(name);
    }
}
