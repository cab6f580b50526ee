// SPDX-License-Identifier: Apache-2.0
//! A server that records what it is asked and answers as a test says, and the built program to ask it.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::program::program;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Method, path and query, such as `POST /v1/sql`.
    pub(crate) call: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

/// How a request is answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(value: &Value) -> Self {
        Self::with_status(200, value)
    }

    pub(crate) fn with_status(status: u16, value: &Value) -> Self {
        Self {
            status,
            headers: vec![("content-type", "application/json".to_owned())],
            body: Bytes::from(value.to_string()),
        }
    }

    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: text.into(),
        }
    }
}

type Answering = Arc<dyn Fn(&Asked, usize) -> Answer + Send + Sync>;
type Log = Arc<Mutex<Vec<Asked>>>;

/// A running server.
pub(crate) struct Fake {
    pub(crate) url: String,
    asked: Log,
}

impl Fake {
    /// Answers each request by `answering`, which also gets the request's number, from 0.
    pub(crate) async fn start(
        answering: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let asked = Log::default();
        let answering: Answering = Arc::new(answering);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .fallback(handle)
            .with_state((Arc::clone(&asked), answering));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, asked }
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The calls alone.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.call).collect()
    }

    /// Runs the program against it.
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        self.run_with_input(args, b"").await
    }

    /// Runs the program against it with `input` as its standard input.
    pub(crate) async fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut all = vec!["--url", self.url.as_str()];
        all.extend(args);
        run(&all, input).await
    }
}

async fn handle(State((log, answering)): State<(Log, Answering)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let asked = Asked {
        call: format!("{} {}", parts.method, parts.uri),
        headers: parts.headers,
        body: axum::body::to_bytes(body, usize::MAX).await.unwrap(),
    };
    let index = {
        let mut log = log.lock().unwrap();
        log.push(asked.clone());
        log.len() - 1
    };
    let answer = answering(&asked, index);
    let status = StatusCode::from_u16(answer.status).unwrap();
    let mut response = (status, Body::from(answer.body)).into_response();
    for (name, value) in answer.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

/// What the program did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the program to its end.
pub(crate) async fn run(args: &[&str], input: &[u8]) -> Ran {
    let mut child = program(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that does not read its input is not at fault.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
