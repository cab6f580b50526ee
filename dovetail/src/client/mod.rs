// SPDX-License-Identifier: Apache-2.0
//! A client of the HTTP API.
//!
//! Purpose: requests with their token, answers or problem documents. Collaborators: the commands of
//! `cli`, the sender of `ingest`, the demo. Invariants: a name that a user typed can only ever be one
//! segment of a path; a loopback server is never asked through a proxy. Non-goals: what the answers mean.

mod problem;
mod retry;

use std::net::IpAddr;
use std::time::Duration;

use dovetail_model::innermost;
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use url::Url;

pub use problem::ProblemDocument;
pub use retry::{Retry, RetryPolicy};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's URL cannot be one: fix the command line.
    #[error("`{url}` is not the URL of a server: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server was not reached, or the connection broke: it may work later.
    #[error(
        "cannot reach `{url}`: {reason}; start a server with `dovetail up`, or name another with --url or DOVETAIL_URL"
    )]
    Unreachable {
        /// The server.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// The server began to answer and did not end.
    #[error(
        "the answer of `{url}` broke off, so it is not complete: the query failed on the way, or the connection was cut ({reason})"
    )]
    BrokenOff {
        /// The server.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// The server refused or failed, and said so.
    #[error("{0}")]
    Problem(Box<ProblemDocument>),
    /// The server's answer is not one of this API.
    #[error("`{url}` gave an answer that this client does not understand: {reason}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl ClientError {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BrokenOff { .. } => true,
            Self::Problem(problem) => problem.is_transient(),
            Self::Url { .. } | Self::Answer { .. } => false,
        }
    }

    /// How long the server asked to wait before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            _ => None,
        }
    }

    /// The HTTP status of a problem.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }
}

/// A connection pool to one server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

impl Client {
    /// A client of the server at `url` (`http` or `https`; a path in it is kept as a prefix).
    ///
    /// # Errors
    /// When `url` is none of a server.
    pub fn new(url: &str, token: Option<String>) -> Result<Self, ClientError> {
        let invalid = |reason: String| ClientError::Url {
            url: url.to_owned(),
            reason,
        };
        let base = Url::parse(url).map_err(|e| {
            invalid(format!(
                "{e}; it reads `http://HOST:PORT`, such as http://127.0.0.1:8080"
            ))
        })?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(invalid(
                "it reads `http://HOST:PORT` or `https://HOST:PORT`".to_owned(),
            ));
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("dovetail/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| invalid(innermost(&e)))?;
        Ok(Self { http, base, token })
    }

    /// The server's URL, without a slash at its end.
    pub fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// A request for the path made of `segments`, each escaped.
    pub fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; an answer of status 2xx is one.
    ///
    /// # Errors
    /// When the server is not reached or refuses.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|e| self.broken(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = response.bytes().await.map_err(|e| self.broken(&e))?;
        let mut problem = ProblemDocument::read(status, &body);
        problem.retry_after = retry_after;
        Err(ClientError::Problem(Box::new(problem)))
    }

    /// Sends a request and reads its answer as JSON.
    ///
    /// # Errors
    /// When the server is not reached, refuses, or answers something else.
    pub async fn send_for_json(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        let response = self.send(request).await?;
        let url = response.url().to_string();
        let body = response.bytes().await.map_err(|e| self.broken(&e))?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|e| ClientError::Answer {
            url,
            reason: e.to_string(),
        })
    }

    /// `GET` of a JSON document.
    ///
    /// # Errors
    /// As [`Client::send_for_json`].
    pub async fn get(&self, segments: &[&str]) -> Result<Value, ClientError> {
        self.send_for_json(self.request(Method::GET, segments))
            .await
    }

    /// `POST` of a JSON document.
    ///
    /// # Errors
    /// As [`Client::send_for_json`].
    pub async fn post(&self, segments: &[&str], body: &Value) -> Result<Value, ClientError> {
        self.send_for_json(self.request(Method::POST, segments).json(body))
            .await
    }

    /// What a failed transport means.
    pub fn broken(&self, error: &reqwest::Error) -> ClientError {
        let (url, reason) = (self.base().to_owned(), innermost(error));
        if error.is_body() || error.is_decode() {
            return ClientError::BrokenOff { url, reason };
        }
        ClientError::Unreachable { url, reason }
    }
}

/// Whether the server runs on this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(url::Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_types_stays_one_segment_of_the_path() {
        let client = Client::new("http://127.0.0.1:1/prefix/", None).unwrap();
        let request = client.request(Method::GET, &["v1", "runs", "a/../b?c#d"]);
        assert_eq!(
            request.build().unwrap().url().as_str(),
            "http://127.0.0.1:1/prefix/v1/runs/a%2F..%2Fb%3Fc%23d"
        );
    }

    #[test]
    fn urls_of_no_server_are_named() {
        for url in [
            "",
            "127.0.0.1:8080",
            "localhost:8080",
            "ftp://x/",
            "unix:/x",
        ] {
            let error = Client::new(url, None).unwrap_err();
            assert!(error.to_string().contains(&format!("`{url}`")), "{error}");
            assert!(!error.is_transient());
        }
        assert!(Client::new("https://dovetail.example/", None).is_ok());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_may_come() {
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let error = client.get(&["v1", "status"]).await.unwrap_err();
        assert!(error.is_transient());
        assert!(error.to_string().contains("`dovetail up`"), "{error}");
    }
}
