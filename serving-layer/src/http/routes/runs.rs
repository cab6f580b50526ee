// SPDX-License-Identifier: Apache-2.0
//! Batch runs: start, list, compare, promote, discard, cancel, roll back.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use dovetail_model::{GenerationNumber, Outcome, Problem, RepairScope, RunId, RunMode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::auth::{Admin, Reader};
use super::super::params::{Params, parameter};
use super::super::problem::Handled;
use super::super::router::{Api, PathOf};
use super::super::{answer, json_body};
use crate::ports::{RecomputeRequest, RunsQuery, Settled};
use crate::sql::check_predicate;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RecomputeBody {
    mode: RunMode,
    from: Option<String>,
    to: Option<String>,
    #[serde(rename = "where")]
    predicate: Option<String>,
    dry_run: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RollbackBody {
    generation: Option<GenerationNumber>,
}

/// `POST /v1/views/{view}/recompute`: 202 and the run's record.
pub(in super::super) async fn recompute(
    _: Admin,
    State(api): State<Api>,
    PathOf(view): PathOf<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    params.finish()?;
    let body: Option<RecomputeBody> = json_body::optional(&api.bodies, &headers, body).await?;
    let request = recompute_request(body.unwrap_or_default())?;
    let run = api.ports.control.recompute(&view, request).await?;
    let mut response = answer::json(&run)?;
    *response.status_mut() = StatusCode::ACCEPTED;
    if let Ok(location) = HeaderValue::try_from(format!("/v1/runs/{}", run.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn recompute_request(body: RecomputeBody) -> Result<RecomputeRequest, Problem> {
    let scope = RepairScope {
        from_us: body.from.map(|t| event_time("from", &t)).transpose()?,
        to_us: body.to.map(|t| event_time("to", &t)).transpose()?,
        predicate: body.predicate,
    };
    if let Some(predicate) = &scope.predicate {
        check_predicate(predicate)?;
    }
    if let (Some(from), Some(to)) = (scope.from_us, scope.to_us)
        && from >= to
    {
        return Err(Problem::invalid(
            "`from` must be before `to`: the range is half open",
        ));
    }
    if body.dry_run && body.mode == RunMode::Incremental {
        return Err(Problem::invalid(
            "an incremental run has nothing to stage: it adds what is new to the live generation; leave dry_run out, or use mode full",
        ));
    }
    let repair = body.mode == RunMode::Repair;
    if !repair && scope != RepairScope::default() {
        let detail = format!(
            "`from`, `to` and `where` are for mode repair, and this is {}",
            body.mode
        );
        return Err(Problem::invalid(detail));
    }
    Ok(RecomputeRequest {
        mode: body.mode,
        scope: repair.then_some(scope),
        dry_run: body.dry_run,
    })
}

/// An event time in microseconds: ISO 8601, a date or a time, in UTC unless it has an offset.
fn event_time(name: &str, text: &str) -> Result<i64, Problem> {
    let naive = |format| NaiveDateTime::parse_from_str(text, format).ok();
    let time = DateTime::parse_from_rfc3339(text)
        .map(|t| t.to_utc())
        .ok()
        .or_else(|| naive("%Y-%m-%dT%H:%M:%S%.f").map(|t| t.and_utc()))
        .or_else(|| naive("%Y-%m-%d %H:%M:%S%.f").map(|t| t.and_utc()))
        .or_else(|| naive("%Y-%m-%dT%H:%M").map(|t| t.and_utc()))
        .or_else(|| {
            let date: NaiveDate = text.parse().ok()?;
            Some(date.and_hms_opt(0, 0, 0)?.and_utc())
        });
    time.map(|t| t.timestamp_micros()).ok_or_else(|| {
        Problem::invalid(format!(
            "`{name}` is `{text}`: write a time such as `2001-01-01T00:00:00` or a date"
        ))
    })
}

/// `GET /v1/runs?view=…&outcome=…&before=…&limit=…`: newest first.
pub(in super::super) async fn list(
    _: Reader,
    State(api): State<Api>,
    mut params: Params,
) -> Handled {
    let query = RunsQuery {
        view: params.text("view")?,
        outcome: params.text("outcome")?.map(|t| outcome(&t)).transpose()?,
        before: params.number("before", 0, u64::MAX)?.map(RunId),
        limit: params.number("limit", 1, 1000)?.unwrap_or(100) as usize,
    };
    params.finish()?;
    let runs = api.ports.control.runs(query).await?;
    Ok(answer::json(&json!({"runs": runs}))?)
}

fn outcome(text: &str) -> Result<Outcome, Problem> {
    serde_json::from_value(text.into()).map_err(|_| {
        parameter(
            "outcome",
            format!(
                "`{text}` is not one of running, staged, promoted, discarded, failed, cancelled"
            ),
        )
    })
}

fn run_id(text: &str) -> Result<RunId, Problem> {
    text.parse()
        .map_err(|_| Problem::invalid(format!("`{text}` is not a batch run's number")))
}

/// `GET /v1/runs/{id}`
pub(in super::super) async fn show(
    _: Reader,
    State(api): State<Api>,
    PathOf(id): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    Ok(answer::json(&api.ports.control.run(run_id(&id)?).await?)?)
}

/// `GET /v1/runs/{id}/diff`
pub(in super::super) async fn diff(
    _: Reader,
    State(api): State<Api>,
    PathOf(id): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    Ok(answer::json(&api.ports.control.diff(run_id(&id)?).await?)?)
}

/// `POST /v1/runs/{id}/promote`: 200 when new queries see it, 202 when it takes longer.
pub(in super::super) async fn promote(
    _: Admin,
    State(api): State<Api>,
    PathOf(id): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    settled(api.ports.control.promote(run_id(&id)?).await?)
}

/// `POST /v1/runs/{id}/discard`
pub(in super::super) async fn discard(
    _: Admin,
    State(api): State<Api>,
    PathOf(id): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    settled(api.ports.control.discard(run_id(&id)?).await?)
}

/// `POST /v1/runs/{id}/cancel`
pub(in super::super) async fn cancel(
    _: Admin,
    State(api): State<Api>,
    PathOf(id): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    Ok(answer::json(
        &api.ports.control.cancel(run_id(&id)?).await?,
    )?)
}

/// `POST /v1/views/{view}/rollback` `{"generation": N}`, or nothing
pub(in super::super) async fn rollback(
    _: Admin,
    State(api): State<Api>,
    PathOf(view): PathOf<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    params.finish()?;
    let body: Option<RollbackBody> = json_body::optional(&api.bodies, &headers, body).await?;
    let generation = body.unwrap_or_default().generation;
    settled(api.ports.control.rollback(&view, generation).await?)
}

fn settled<T: Serialize>(settled: Settled<T>) -> Handled<Response> {
    Ok(match settled {
        Settled::Done(value) => answer::json(&value)?,
        Settled::Pending(value) => (StatusCode::ACCEPTED, answer::json(&value)?).into_response(),
    })
}
