// SPDX-License-Identifier: Apache-2.0
//! `POST /v1/plan` and `POST /v1/apply`: a directory of `.sql` files as `{"files": [{"name", "sql"}]}`.

use std::collections::HashMap;

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
use crate::sql::{Definition, parse_definitions};

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

/// The definitions of all files, in order of file names, streams before views.
fn definitions(files: Files) -> Result<Vec<LocatedDefinition>, Problem> {
    let mut files = files.files;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let mut all = Vec::new();
    for file in &files {
        all.extend(parse_definitions(&file.name, &file.sql)?);
    }
    let mut seen: HashMap<&str, &LocatedDefinition> = HashMap::new();
    for located in &all {
        let name = located.definition.name();
        if let Some(first) = seen.insert(name, located) {
            let detail = format!(
                "{}: line {}: `{name}` is declared in {} line {} already",
                located.file, located.line, first.file, first.line
            );
            return Err(Problem::invalid(detail)
                .with("file", located.file.as_str())
                .with("line", located.line));
        }
    }
    all.sort_by_key(|d| matches!(d.definition, Definition::CreateView(_)));
    Ok(all)
}
