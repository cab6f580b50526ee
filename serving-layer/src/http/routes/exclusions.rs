// SPDX-License-Identifier: Apache-2.0
//! `/v1/streams/{stream}/exclusions`: events declared wrong.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use dovetail_model::{ExclusionId, Problem, ProblemKind};
use schemars::JsonSchema;
use serde::Serialize;

use super::super::answer;
use super::super::auth::Role;
use super::super::call::Call;
use super::super::json_body;
use super::super::openapi::Operation;
use super::super::params::Params;
use super::super::problem::Handled;
use super::super::router::{Api, PathOf};
use crate::ports::{ExclusionInfo, ExclusionRequest};
use crate::sql::check_predicate;

pub(in super::super) fn calls() -> Vec<Call<Api>> {
    let all = "/v1/streams/{stream}/exclusions";
    let one = "/v1/streams/{stream}/exclusions/{id}";
    let operation = |id, role, summary| Operation::new(id, role, summary).of_stream();
    vec![
        Call::get(
            all,
            list,
            operation(
                "list_exclusions",
                Role::Read,
                "The exclusions of a stream that are in force",
            )
            .answers::<Exclusions>(StatusCode::OK, "The exclusions."),
        ),
        Call::post(
            all,
            declare,
            operation(
                "declare_exclusion",
                Role::Admin,
                "Declare the events before now that match a predicate wrong",
            )
            .json_body::<ExclusionRequest>(true)
            .answers::<ExclusionInfo>(StatusCode::CREATED, "The exclusion.")
            .fails(&[ProblemKind::Conflict]),
        ),
        Call::delete(
            one,
            withdraw,
            operation("withdraw_exclusion", Role::Admin, "Withdraw an exclusion")
                .of_exclusion()
                .answers::<ExclusionInfo>(StatusCode::OK, "What it was.")
                .fails(&[ProblemKind::Conflict]),
        ),
    ]
}

#[derive(Serialize, JsonSchema)]
struct Exclusions {
    exclusions: Vec<ExclusionInfo>,
}

/// `GET …/exclusions`
pub(in super::super) async fn list(
    State(api): State<Api>,
    PathOf(stream): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    let exclusions = api.ports.control.exclusions(&stream).await?;
    Ok(answer::json(&Exclusions { exclusions })?)
}

/// `POST …/exclusions` `{"where", "reason"}`
pub(in super::super) async fn declare(
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
