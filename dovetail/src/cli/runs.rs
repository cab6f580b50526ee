// SPDX-License-Identifier: Apache-2.0
//! The batch layer by hand: start a run, watch it, compare it, move the pointer.

use std::time::Duration;

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::args::{Show, name};
use super::console::Console;
use super::table::{self, Column};
use super::{CliError, diff};
use crate::client::{Client, RetryPolicy};

/// Pause between two looks at a run.
const POLL: Duration = Duration::from_millis(250);

/// What `dovetail recompute` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail recompute airport_delays --wait               recompute from raw, promote
  dovetail recompute airport_delays --dry-run --wait     end staged; then diff, promote or discard
  dovetail recompute airport_delays --mode incremental   bring the generation up to the last event
  dovetail recompute airport_delays --mode repair --from 2001-01-03 --to 2001-01-04 --where \"origin = 'SFO'\"")]
pub(super) struct RecomputeArgs {
    /// The view
    #[arg(value_parser = name)]
    view: String,
    /// What to compute
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    #[command(flatten)]
    scope: Scope,
    /// Leave the result staged instead of promoting it
    #[arg(long)]
    dry_run: bool,
    /// Wait until the run has ended or is staged, and fail with it (exit code 1)
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Every group, from the raw log
    #[default]
    Full,
    /// The events since the live generation
    Incremental,
    /// The groups that --from, --to and --where choose
    Repair,
}

/// Which groups to recompute.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Scope {
    /// Only groups with an event at or after this event time
    #[arg(long, value_name = "TIME")]
    pub(super) from: Option<String>,
    /// Only groups with an event before this event time
    #[arg(long, value_name = "TIME")]
    pub(super) to: Option<String>,
    /// Only groups that match: a predicate over the view's key columns
    #[arg(long = "where", value_name = "PREDICATE")]
    pub(super) predicate: Option<String>,
}

impl Scope {
    pub(super) fn is_empty(&self) -> bool {
        self.from.is_none() && self.to.is_none() && self.predicate.is_none()
    }
}

/// The body of `POST /v1/views/{view}/recompute`.
pub(super) fn recompute_body(mode: &str, scope: &Scope, dry_run: bool) -> Value {
    let mut body = Map::new();
    body.insert("mode".to_owned(), mode.into());
    let members = [
        ("from", &scope.from),
        ("to", &scope.to),
        ("where", &scope.predicate),
    ];
    for (name, value) in members {
        if let Some(value) = value {
            body.insert(name.to_owned(), value.clone().into());
        }
    }
    body.insert("dry_run".to_owned(), dry_run.into());
    Value::Object(body)
}

pub(super) async fn recompute(
    args: RecomputeArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let mode = match args.mode {
        Mode::Full => "full",
        Mode::Incremental => "incremental",
        Mode::Repair => "repair",
    };
    if args.mode != Mode::Repair && !args.scope.is_empty() {
        return Err(CliError::Usage(format!(
            "--from, --to and --where choose groups for --mode repair; a run of mode {mode} computes all"
        )));
    }
    let body = recompute_body(mode, &args.scope, args.dry_run);
    let mut run = start(client, &args.view, &body).await?;
    let id = id_of(&run)?;
    if args.wait {
        run = wait_while_running(client, console, &id).await?;
    } else if run["outcome"] == "running" {
        console.note(&format!(
            "run {id} has begun and goes on by itself; `dovetail runs {id}` shows how it ends, and --wait waits for that"
        ));
    }
    show_run(console, &run, args.show)?;
    check_outcome(&run)
}

/// Starts a batch run.
pub(crate) async fn start(client: &Client, view: &str, body: &Value) -> Result<Value, CliError> {
    Ok(client
        .post(&["v1", "views", view, "recompute"], body)
        .await?)
}

/// The number of a run.
pub(crate) fn id_of(run: &Value) -> Result<String, CliError> {
    match &run["id"] {
        Value::Number(id) => Ok(id.to_string()),
        Value::String(id) => Ok(id.clone()),
        _ => Err(CliError::Failed(format!(
            "the server's answer names no batch run: {run}"
        ))),
    }
}

/// Looks at a run until it is staged or has ended; shows a spinner meanwhile.
pub(super) async fn wait_while_running(
    client: &Client,
    console: &Console,
    id: &str,
) -> Result<Value, CliError> {
    wait_while(client, console, id, &["running"]).await
}

/// Looks at a run while its outcome is one of `outcomes`. A server that restarts meanwhile is waited for.
pub(super) async fn wait_while(
    client: &Client,
    console: &Console,
    id: &str,
    outcomes: &[&str],
) -> Result<Value, CliError> {
    let bar = console.waiting();
    bar.set_prefix(format!("run {id}"));
    let mut retry = RetryPolicy::default().start();
    loop {
        let pause = match client.get(&["v1", "runs", id]).await {
            Ok(run) => {
                let outcome = run["outcome"].as_str().unwrap_or_default();
                if !outcomes.contains(&outcome) {
                    bar.finish_and_clear();
                    return Ok(run);
                }
                bar.set_message(format!(
                    "{}: {} events read, {} groups",
                    standing(&run),
                    table::plain(&run["rows_read"], "0"),
                    table::plain(&run["groups"], "0"),
                ));
                retry = RetryPolicy::default().start();
                POLL
            }
            Err(error) if error.is_transient() => {
                let now = tokio::time::Instant::now();
                match retry.wait_after_failure(now, error.retry_after()) {
                    Some(wait) => wait,
                    None => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        tokio::time::sleep(pause).await;
    }
}

/// A run that failed or was cancelled fails the command that waited for it.
pub(crate) fn check_outcome(run: &Value) -> Result<(), CliError> {
    let outcome = run["outcome"].as_str().unwrap_or_default();
    if !matches!(outcome, "failed" | "cancelled") {
        return Ok(());
    }
    let why = match run["error"].as_str() {
        Some(error) => format!(": {error}"),
        None => String::new(),
    };
    let id = table::plain(&run["id"], "?");
    Err(CliError::Failed(format!("run {id} {outcome}{why}")))
}

fn show_run(console: &mut Console, run: &Value, show: Show) -> Result<(), CliError> {
    if show.is_json() {
        console.json(run)
    } else {
        console.line(table::record(run))
    }
}

/// What `dovetail runs` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail runs
  dovetail runs --view airport_delays --limit 5
  dovetail runs 7 --format json")]
pub(super) struct RunsArgs {
    /// Show this run alone
    id: Option<u64>,
    /// Only runs of this view
    #[arg(long, value_parser = name, conflicts_with = "id")]
    view: Option<String>,
    /// How many to list, newest first
    #[arg(long, conflicts_with = "id", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    show: Show,
}

pub(super) async fn list(
    args: RunsArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    if let Some(id) = args.id {
        let run = client.get(&["v1", "runs", &id.to_string()]).await?;
        return show_run(console, &run, args.show);
    }
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.view.map(|view| ("view", view)));
    let request = client.request(Method::GET, &["v1", "runs"]).query(&query);
    let answer = client.send_for_json(request).await?;
    if args.show.is_json() {
        return console.json(&answer);
    }
    console.line(table::list(COLUMNS, table::items(&answer, "runs")))
}

/// The columns of a list of runs.
pub(super) const COLUMNS: &[Column] = &[
    Column::new("id", |run| run["id"].clone()),
    Column::new("view", |run| run["view"].clone()),
    Column::new("mode", |run| run["mode"].clone()),
    Column::new("outcome", |run| {
        let outcome = standing(run);
        if !run["stale"].is_null() {
            return format!("{outcome}, stale").into();
        }
        match run["error"].as_str() {
            Some(error) => shortened(&format!("{outcome}: {error}")).into(),
            None => outcome.into(),
        }
    }),
    Column::new("generation", |run| run["generation"].clone()),
    Column::new("rows read", |run| run["rows_read"].clone()),
    Column::new("groups", |run| run["groups"].clone()),
    Column::new("seconds", |run| {
        let seconds = run["seconds"].as_f64();
        seconds.map_or(Value::Null, |seconds| {
            ((seconds * 100.0).round() / 100.0).into()
        })
    }),
    Column::new("started", |run| table::to_the_second(&run["started_at"])),
    Column::new("by", |run| run["trigger"].clone()),
    Column::new("worker", |run| run["worker"].clone()),
];

/// How a run stands in one word: its outcome, or that it waits for other runs to have computed.
fn standing(run: &Value) -> String {
    match run["waiting"].as_bool() {
        Some(true) => "waiting".to_owned(),
        _ => table::plain(&run["outcome"], "-"),
    }
}

/// The longest text of an outcome in a list; `dovetail runs N` shows the whole.
const SHOWN: usize = 72;

/// The beginning of a text, up to a word's end.
fn shortened(text: &str) -> String {
    let Some((end, _)) = text.char_indices().nth(SHOWN) else {
        return text.to_owned();
    };
    let words = text[..end].rfind(' ').unwrap_or(end);
    format!("{}…", &text[..words])
}

/// What `dovetail diff` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Both sides stand at the same position, so events that arrived meanwhile are no difference.

Examples:
  dovetail diff 7")]
pub(super) struct DiffArgs {
    /// The run
    id: u64,
    #[command(flatten)]
    show: Show,
}

pub(super) async fn diff(
    args: DiffArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let answer = diff::fetch(client, &args.id.to_string()).await?;
    if args.show.is_json() {
        console.json(&answer)
    } else {
        diff::show(console, &answer)
    }
}

/// What `dovetail promote` and `dovetail discard` take.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail promote 7
  dovetail discard 7")]
pub(super) struct MoveArgs {
    /// The run
    id: u64,
    #[command(flatten)]
    show: Show,
}

pub(super) async fn promote(
    args: MoveArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let run = settle(client, console, &args.id.to_string(), "promote").await?;
    show_run(console, &run, args.show)?;
    check_outcome(&run)
}

pub(super) async fn discard(
    args: MoveArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let run = settle(client, console, &args.id.to_string(), "discard").await?;
    show_run(console, &run, args.show)?;
    check_outcome(&run)
}

/// Promotes or discards a run, and waits until that is so even if the server stops waiting with us.
pub(super) async fn settle(
    client: &Client,
    console: &Console,
    id: &str,
    call: &str,
) -> Result<Value, CliError> {
    let answer = client.post(&["v1", "runs", id, call], &json!({})).await?;
    match answer["outcome"].as_str() {
        Some("staged" | "running") => wait_while(client, console, id, &["staged", "running"]).await,
        _ => Ok(answer),
    }
}

/// What `dovetail cancel` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail cancel 7")]
pub(super) struct CancelArgs {
    /// The run
    id: u64,
    #[command(flatten)]
    show: Show,
}

pub(super) async fn cancel(
    args: CancelArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let id = args.id.to_string();
    let run = client
        .post(&["v1", "runs", &id, "cancel"], &json!({}))
        .await?;
    show_run(console, &run, args.show)
}

/// What `dovetail rollback` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --generation the view goes back to where it stood before the last full or repair run was promoted. \
Either way it is brought forward to the seam first, so no event is lost, and its full schedule is paused.

Examples:
  dovetail rollback airport_delays
  dovetail rollback airport_delays --generation 3")]
pub(super) struct RollbackArgs {
    /// The view
    #[arg(value_parser = name)]
    view: String,
    /// The generation to go back to
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    #[command(flatten)]
    show: Show,
}

pub(super) async fn rollback(
    args: RollbackArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let body = match args.generation {
        Some(generation) => json!({ "generation": generation }),
        None => json!({}),
    };
    let answer = client
        .post(&["v1", "views", &args.view, "rollback"], &body)
        .await?;
    if args.show.is_json() {
        console.json(&answer)?;
    } else {
        console.line(table::record(&answer))?;
    }
    if answer["generation"].is_null() {
        console.note(&format!(
            "the rollback takes longer than a minute and goes on; `dovetail status` shows when `{}` has moved",
            args.view
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_is_asked_for() {
        assert_eq!(
            recompute_body("full", &Scope::default(), false),
            json!({"mode": "full", "dry_run": false})
        );
        let scope = Scope {
            from: Some("2001-01-03".to_owned()),
            to: None,
            predicate: Some("origin = 'SFO'".to_owned()),
        };
        assert_eq!(
            recompute_body("repair", &scope, true),
            json!({"mode": "repair", "from": "2001-01-03", "where": "origin = 'SFO'", "dry_run": true})
        );
    }

    #[test]
    fn an_error_is_short_in_a_list_and_whole_alone() {
        let error = "view `ratio` cannot compute an event of stream `flights` in [0@3, 0@5): divide by zero error";
        let run = json!({"id": 7, "outcome": "failed", "error": error});
        let listed = table::list(COLUMNS, std::slice::from_ref(&run)).to_string();
        let shown = "failed: view `ratio` cannot compute an event of stream `flights` in…";
        assert!(
            listed.contains(shown) && !listed.contains("0@3"),
            "{listed}"
        );
        assert!(table::record(&run).to_string().contains(error));
    }

    #[test]
    fn a_run_that_failed_fails_the_command() {
        let run = |outcome: &str| json!({"id": 7, "outcome": outcome, "error": "disk full"});
        for good in ["running", "staged", "promoted", "discarded"] {
            assert!(check_outcome(&run(good)).is_ok());
        }
        for bad in ["failed", "cancelled"] {
            let error = check_outcome(&run(bad)).unwrap_err().to_string();
            assert_eq!(error, format!("run 7 {bad}: disk full"));
        }
    }
}
