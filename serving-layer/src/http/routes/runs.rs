// SPDX-License-Identifier: Apache-2.0
//! Batch runs: start, list, compare, promote, discard, cancel, roll back.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use dovetail_model::{
    DiffSummary, GenerationNumber, Outcome, Problem, ProblemKind, RepairScope, RunId, RunMode,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::auth::Role;
use super::super::call::Call;
use super::super::openapi::Operation;
use super::super::params::{Params, parameter};
use super::super::problem::Handled;
use super::super::router::{Api, PathOf};
use super::super::{answer, json_body};
use crate::ports::{RecomputeRequest, Rollback, RunInfo, RunsQuery, Settled};
use crate::sql::check_predicate;

pub(in super::super) fn calls() -> Vec<Call<Api>> {
    let of_run = |id, role, summary| {
        Operation::new(id, role, summary)
            .of_run()
            .fails(&[ProblemKind::Conflict])
    };
    let settles = |id, summary| {
        of_run(id, Role::Admin, summary)
            .answers::<RunInfo>(StatusCode::OK, "The run, settled; new queries see it.")
            .answers::<RunInfo>(
                StatusCode::ACCEPTED,
                "The run; it takes longer, and goes on.",
            )
    };
    vec![
        Call::post(
            "/v1/views/{view}/recompute",
            recompute,
            Operation::new("recompute", Role::Admin, "Start a batch run of a view")
                .of_view()
                .json_body::<RecomputeBody>(false)
                .answers::<RunInfo>(StatusCode::ACCEPTED, "The run that has begun.")
                .with_header(header::LOCATION.as_str())
                .fails(&[ProblemKind::Conflict]),
        ),
        Call::post(
            "/v1/views/{view}/rollback",
            rollback,
            Operation::new(
                "rollback",
                Role::Admin,
                "Bring an earlier generation of a view back",
            )
            .of_view()
            .json_body::<RollbackBody>(false)
            .answers::<Rollback>(StatusCode::OK, "What it did; new queries see it.")
            .answers::<Rollback>(StatusCode::ACCEPTED, "It takes longer, and goes on.")
            .fails(&[ProblemKind::Conflict]),
        ),
        Call::get(
            "/v1/runs",
            list,
            Operation::new("list_runs", Role::Read, "Batch runs, newest first")
                .query::<String>("view", "Only of this view.")
                .query::<Outcome>("outcome", "Only with this outcome.")
                .number(
                    "before",
                    (0, u64::MAX),
                    "Only older than the run of this number.",
                )
                .number("limit", LIMITS, "Most runs to list; 100 unless said.")
                .answers::<Runs>(StatusCode::OK, "The runs.")
                .fails(&[ProblemKind::NotFound]),
        ),
        Call::get(
            "/v1/runs/{id}",
            show,
            of_run("get_run", Role::Read, "One batch run")
                .answers::<RunInfo>(StatusCode::OK, "The run."),
        ),
        Call::get(
            "/v1/runs/{id}/diff",
            diff,
            of_run(
                "diff_run",
                Role::Read,
                "Compare a staged run with its base, at the same position",
            )
            .answers::<DiffSummary>(StatusCode::OK, "What differs, in groups."),
        ),
        Call::post(
            "/v1/runs/{id}/promote",
            promote,
            settles(
                "promote_run",
                "Make the generation of a staged run the live one",
            ),
        ),
        Call::post(
            "/v1/runs/{id}/discard",
            discard,
            settles("discard_run", "Throw the generation of a staged run away"),
        ),
        Call::post(
            "/v1/runs/{id}/cancel",
            cancel,
            of_run("cancel_run", Role::Admin, "Stop a run that is at work")
                .answers::<RunInfo>(StatusCode::OK, "The run, as it is now."),
        ),
    ]
}

/// Runs of one listing.
const LIMITS: (u64, u64) = (1, 1000);

#[derive(Serialize, JsonSchema)]
struct Runs {
    runs: Vec<RunInfo>,
}

#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RecomputeBody {
    /// How it computes.
    mode: RunMode,
    /// For a repair: first event time inside, such as `2001-01-01T00:00:00` or a date.
    from: Option<String>,
    /// For a repair: first event time behind.
    to: Option<String>,
    /// For a repair: a predicate over the view's key columns.
    #[serde(rename = "where")]
    predicate: Option<String>,
    /// End staged instead of promoting itself.
    dry_run: bool,
}

#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RollbackBody {
    /// The generation to bring back; the one before the last full or repair promote unless said.
    generation: Option<GenerationNumber>,
}

/// `POST /v1/views/{view}/recompute`: 202 and the run's record.
pub(in super::super) async fn recompute(
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
pub(in super::super) async fn list(State(api): State<Api>, mut params: Params) -> Handled {
    let query = RunsQuery {
        view: params.text("view")?,
        outcome: params.text("outcome")?.map(|t| outcome(&t)).transpose()?,
        before: params.number("before", (0, u64::MAX))?.map(RunId),
        limit: params.number("limit", LIMITS)?.unwrap_or(100) as usize,
    };
    params.finish()?;
    let runs = api.ports.control.runs(query).await?;
    Ok(answer::json(&Runs { runs })?)
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
    text.parse().map_err(|_| {
        Problem::invalid(format!(
            "`{text}` is not a batch run's number; `GET /v1/runs` and `dovetail runs` list them"
        ))
    })
}

/// `GET /v1/runs/{id}`
pub(in super::super) async fn show(
    State(api): State<Api>,
    PathOf(id): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    Ok(answer::json(&api.ports.control.run(run_id(&id)?).await?)?)
}

/// `GET /v1/runs/{id}/diff`
pub(in super::super) async fn diff(
    State(api): State<Api>,
    PathOf(id): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    Ok(answer::json(&api.ports.control.diff(run_id(&id)?).await?)?)
}

/// `POST /v1/runs/{id}/promote`: 200 when new queries see it, 202 when it takes longer.
pub(in super::super) async fn promote(
    State(api): State<Api>,
    PathOf(id): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    settled(api.ports.control.promote(run_id(&id)?).await?)
}

/// `POST /v1/runs/{id}/discard`
pub(in super::super) async fn discard(
    State(api): State<Api>,
    PathOf(id): PathOf<String>,
    params: Params,
) -> Handled {
    params.finish()?;
    settled(api.ports.control.discard(run_id(&id)?).await?)
}

/// `POST /v1/runs/{id}/cancel`
pub(in super::super) async fn cancel(
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
