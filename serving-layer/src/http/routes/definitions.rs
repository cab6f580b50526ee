// SPDX-License-Identifier: Apache-2.0
//! `POST /v1/plan` and `POST /v1/apply`: a directory of `.sql` files as `{"files": [{"name", "sql"}]}`.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use dovetail_model::Problem;
use serde::Deserialize;
use serde_json::json;

use super::super::answer;
use super::super::auth::{Admin, Reader};
use super::super::json_body;
use super::super::params::Params;
use super::super::problem::Handled;
use super::super::router::Api;
use crate::ports::LocatedDefinition;
use crate::sql::parse_directory;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    files: Vec<File>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    sql: String,
}

/// `POST /v1/plan`: what apply would do.
pub(in super::super) async fn plan(
    _: Reader,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    params.finish()?;
    let files = json_body::required(&api.bodies, &headers, body).await?;
    let changes = api.ports.control.plan(definitions(files)?).await?;
    Ok(answer::json(&json!({"changes": changes}))?)
}

/// `POST /v1/apply`: brings the files into force.
pub(in super::super) async fn apply(
    _: Admin,
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    params.finish()?;
    let files = json_body::required(&api.bodies, &headers, body).await?;
    let changes = api.ports.control.apply(definitions(files)?).await?;
    Ok(answer::json(&json!({"changes": changes}))?)
}

fn definitions(files: Files) -> Result<Vec<LocatedDefinition>, Problem> {
    let files = files.files.into_iter();
    parse_directory(files.map(|file| (file.name, file.sql)).collect())
}
