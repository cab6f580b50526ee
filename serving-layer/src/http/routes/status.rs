// SPDX-License-Identifier: Apache-2.0
//! `/v1/status`, `/metrics`, `/openapi.json` and the probes.

use std::sync::LazyLock;

use axum::extract::{FromRef, State};
use axum::handler::Handler;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use dovetail_model::ProblemKind;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::answer;
use super::super::auth::Role;
use super::super::call::Call;
use super::super::metrics::{CONTENT_TYPE, exposition};
use super::super::openapi::{Operation, document};
use super::super::params::Params;
use super::super::problem::Handled;
use super::super::router::{Api, Others, Reads};
use crate::ports::Status;

pub(in super::super) fn calls() -> Vec<Call<Api>> {
    let status = Operation::new("status", Role::Read, "Where everything stands").answers::<Status>(
        StatusCode::OK,
        "Seam, freshness, lag, throughput and bottleneck of every stage.",
    );
    let mut calls = common(readyz);
    calls.push(Call::get("/v1/status", self::status, status));
    calls
}

/// What a replica answers for itself.
pub(in super::super) fn calls_of_reads() -> Vec<Call<Reads>> {
    common(reads_ready)
}

fn common<S, T>(ready: impl Handler<T, S>) -> Vec<Call<S>>
where
    S: Clone + Send + Sync + 'static,
    T: 'static,
    Reads: FromRef<S>,
{
    vec![
        Call::get(
            "/healthz",
            healthz,
            Operation::free("healthz", "Whether the process answers")
                .answers::<Probe>(StatusCode::OK, "It does."),
        ),
        Call::get(
            "/readyz",
            ready,
            Operation::free(
                "readyz",
                "Whether queries are served, and what fails meanwhile",
            )
            .answers::<Probe>(StatusCode::OK, "They are.")
            .fails(&[ProblemKind::Unavailable]),
        ),
        Call::get(
            "/metrics",
            metrics,
            Operation::new(
                "metrics",
                Role::Read,
                "What is measured, in the text format of Prometheus",
            )
            .answers_text(CONTENT_TYPE, "The measurements of this process."),
        ),
        Call::get(
            "/openapi.json",
            openapi,
            Operation::new("openapi", Role::Read, "This document")
                .answers::<Map<String, Value>>(StatusCode::OK, "An OpenAPI 3.1 document."),
        ),
    ]
}

#[derive(Serialize, JsonSchema)]
struct Probe {
    /// `ok` or `ready`.
    status: &'static str,
    /// What fails meanwhile and is tried again, such as appends for want of room on the disk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failing: Vec<String>,
}

impl Probe {
    fn of(status: &'static str) -> Self {
        Self {
            status,
            failing: vec![],
        }
    }
}

/// `GET /healthz`: the process answers.
pub(in super::super) async fn healthz() -> Handled {
    Ok(answer::json(&Probe::of("ok"))?)
}

/// `GET /readyz`: queries are served; 503 until then. A stage that fails does not take the server out of a balancer: it
/// answers all the same.
pub(in super::super) async fn readyz(State(api): State<Api>) -> Handled {
    let failing = api.ports.control.ready().await?;
    let status = "ready";
    Ok(answer::json(&Probe { status, failing })?)
}

/// `GET /readyz` of a replica: merged queries are answered, and the rest is handed on.
pub(in super::super) async fn reads_ready(State(reads): State<Reads>) -> Handled {
    if let Others::Elsewhere(forwarder) = &reads.others {
        forwarder.ready().await?;
    }
    Ok(answer::json(&Probe::of("ready"))?)
}

/// `GET /v1/status`
pub(in super::super) async fn status(State(api): State<Api>, params: Params) -> Handled {
    params.finish()?;
    Ok(answer::json(&api.ports.control.status().await?)?)
}

/// `GET /metrics`
pub(in super::super) async fn metrics(State(reads): State<Reads>, params: Params) -> Handled {
    params.finish()?;
    let text = exposition(reads.measures.measurements().await?)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// `GET /openapi.json`
pub(in super::super) async fn openapi(params: Params) -> Handled {
    static DOCUMENT: LazyLock<Bytes> =
        LazyLock::new(|| format!("{:#}\n", document(&super::calls())).into());
    params.finish()?;
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    Ok((content_type, DOCUMENT.clone()).into_response())
}
