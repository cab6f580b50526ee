// SPDX-License-Identifier: Apache-2.0
//! `POST /v1/plan` and `POST /v1/apply`: a directory of `.sql` files as `{"files": [{"name", "sql"}]}`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use dovetail_model::{Problem, ProblemKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::answer;
use super::super::auth::Role;
use super::super::call::Call;
use super::super::json_body;
use super::super::openapi::Operation;
use super::super::params::Params;
use super::super::problem::Handled;
use super::super::router::Api;
use crate::ports::{Change, LocatedDefinition};
use crate::sql::parse_directory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Files {
    /// In any order: streams come before the views that read them.
    files: Vec<File>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Its name, for messages.
    name: String,
    /// `CREATE STREAM` and `CREATE VIEW` statements.
    sql: String,
}

#[derive(Serialize, JsonSchema)]
struct Changes {
    changes: Vec<Change>,
}

pub(in super::super) fn calls() -> Vec<Call<Api>> {
    let files = |id, role, summary| {
        Operation::new(id, role, summary)
            .json_body::<Files>(true)
            .answers::<Changes>(StatusCode::OK, "Each definition, and what it comes to.")
            .fails(&[ProblemKind::Conflict, ProblemKind::NotFound])
    };
    vec![
        Call::post(
            "/v1/plan",
            plan,
            files(
                "plan",
                Role::Read,
                "What apply would do with a directory of `.sql` files",
            ),
        ),
        Call::post(
            "/v1/apply",
            apply,
            files(
                "apply",
                Role::Admin,
                "Bring a directory of `.sql` files into force",
            ),
        ),
    ]
}

/// `POST /v1/plan`: what apply would do.
pub(in super::super) async fn plan(
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    params.finish()?;
    let files = json_body::required(&api.bodies, &headers, body).await?;
    let changes = api.ports.control.plan(definitions(files)?).await?;
    Ok(answer::json(&Changes { changes })?)
}

/// `POST /v1/apply`: brings the files into force.
pub(in super::super) async fn apply(
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    params.finish()?;
    let files = json_body::required(&api.bodies, &headers, body).await?;
    let changes = api.ports.control.apply(definitions(files)?).await?;
    Ok(answer::json(&Changes { changes })?)
}

fn definitions(files: Files) -> Result<Vec<LocatedDefinition>, Problem> {
    let files = files.files.into_iter();
    parse_directory(files.map(|file| (file.name, file.sql)).collect())
}
