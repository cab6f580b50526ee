// SPDX-License-Identifier: Apache-2.0
//! The API through the router without a socket, and over one for limits and timeouts, before a fake of
//! everything behind it.

mod api;
mod compression;
mod fake;
mod metrics;
mod openapi;
mod refusals;
mod roles;
mod socket;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::ApiConfig;
use super::router::router;
use crate::ports::Served;
use fake::Fake;
use openapi::assert_documented;

/// A response, read whole; the body's error if it broke off.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Result<Bytes, axum::Error>,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.text()).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// Checks that this is a problem document of `status` whose detail contains `part`.
    #[track_caller]
    fn is_problem(&self, status: u16, part: &str) -> Value {
        let text = self.text();
        assert_eq!(self.status.as_u16(), status, "{text}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let json = self.json();
        for member in ["type", "title", "status", "detail"] {
            assert!(json.get(member).is_some(), "{text}");
        }
        assert_eq!(json["status"], status);
        assert!(
            json["type"]
                .as_str()
                .unwrap()
                .starts_with("urn:dovetail:problem:"),
            "{text}"
        );
        let detail = json["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{part} is not in: {detail}");
        json
    }
}

fn open(fake: &Fake) -> Router {
    router(
        Served::All(fake.ports()),
        ApiConfig::default(),
        CancellationToken::new(),
    )
}

async fn send(router: &Router, request: Request<Body>) -> Reply {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let reply = Reply {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.map(|b| b.to_bytes()),
    };
    assert_documented(&method, &path, &reply);
    reply
}

/// A request from loopback.
fn request(
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header(header::HOST, "localhost:8080");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

async fn get(router: &Router, uri: &str) -> Reply {
    send(router, request("GET", uri, &[], "")).await
}

const JSON: (&str, &str) = ("content-type", "application/json");
const TEXT: (&str, &str) = ("content-type", "text/plain");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

async fn post(router: &Router, uri: &str, body: &str) -> Reply {
    send(router, request("POST", uri, &[JSON], body.to_owned())).await
}
