// SPDX-License-Identifier: Apache-2.0
//! `/v1/status`, `/metrics` and the probes.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse as _;
use serde_json::json;

use super::super::answer;
use super::super::auth::Reader;
use super::super::metrics::{CONTENT_TYPE, exposition};
use super::super::params::Params;
use super::super::problem::Handled;
use super::super::router::{Api, Others, Reads};

/// `GET /healthz`: the process answers.
pub(in super::super) async fn healthz() -> Handled {
    Ok(answer::json(&json!({"status": "ok"}))?)
}

/// `GET /readyz`: queries and appends are served; 503 until then.
pub(in super::super) async fn readyz(State(api): State<Api>) -> Handled {
    api.ports.control.ready().await?;
    Ok(answer::json(&json!({"status": "ready"}))?)
}

/// `GET /readyz` of a replica: merged queries are answered, and the rest is handed on.
pub(in super::super) async fn reads_ready(State(reads): State<Reads>) -> Handled {
    if let Others::Elsewhere(forwarder) = &reads.others {
        forwarder.ready().await?;
    }
    Ok(answer::json(&json!({"status": "ready"}))?)
}

/// `GET /v1/status`
pub(in super::super) async fn status(_: Reader, State(api): State<Api>, params: Params) -> Handled {
    params.finish()?;
    Ok(answer::json(&api.ports.control.status().await?)?)
}

/// `GET /metrics`
pub(in super::super) async fn metrics(
    _: Reader,
    State(reads): State<Reads>,
    params: Params,
) -> Handled {
    params.finish()?;
    let text = exposition(reads.measures.measurements().await?)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
