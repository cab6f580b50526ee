// SPDX-License-Identifier: Apache-2.0
//! `/v1/streams/{stream}/exclusions`: events declared wrong.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use dovetail_model::{ExclusionId, Problem};
use serde_json::json;

use super::super::answer;
use super::super::auth::{Admin, Reader};
use super::super::json_body;
use super::super::params::Params;
use super::super::problem::Handled;
use super::super::router::{Api, PathOf};
use crate::ports::ExclusionRequest;
use crate::sql::check_predicate;

/// `GET …/exclusions`
pub(in super::super) async fn list(
    _: Reader,
    State(api): State<Api>,
    PathOf(stream): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    let exclusions = api.ports.control.exclusions(&stream).await?;
    Ok(answer::json(&json!({"exclusions": exclusions}))?)
}

/// `POST …/exclusions` `{"where", "reason"}`
pub(in super::super) async fn declare(
    _: Admin,
    State(api): State<Api>,
    PathOf(stream): PathOf<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    params.finish()?;
    let request: ExclusionRequest = json_body::required(&api.bodies, &headers, body).await?;
    if request.predicate.trim().is_empty() || request.reason.trim().is_empty() {
        let detail = "`where` and `reason` must say something: which events are wrong, and why";
        return Err(Problem::invalid(detail).into());
    }
    check_predicate(&request.predicate)?;
    let control = &api.ports.control;
    let exclusion = control.declare_exclusion(&stream, request).await?;
    Ok((StatusCode::CREATED, answer::json(&exclusion)?).into_response())
}

/// `DELETE …/exclusions/{id}`: answers what it was.
pub(in super::super) async fn withdraw(
    _: Admin,
    State(api): State<Api>,
    PathOf((stream, id)): PathOf<(String, String)>,
    params: Params,
) -> Handled {
    params.finish()?;
    let id: ExclusionId = id
        .parse()
        .map_err(|_| Problem::invalid(format!("`{id}` is not an exclusion's number")))?;
    let control = &api.ports.control;
    Ok(answer::json(
        &control.withdraw_exclusion(&stream, id).await?,
    )?)
}
