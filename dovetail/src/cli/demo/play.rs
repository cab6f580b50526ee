// SPDX-License-Identifier: Apache-2.0
//! The demonstration: declare, feed, recompute, promote, compare.

use std::sync::Arc;

use indicatif::HumanCount;
use serde_json::Value;

use super::feed::{self, FeedControl, Marks, Stage};
use super::outcome::{Outcome, Promotion};
use super::question::{Question, TOP};
use super::sample::{self, Sample};
use super::watch::Watch;
use crate::cli::console::Console;
use crate::cli::runs::{check_outcome, id_of, recompute_body, settle, start, wait_while_running};
use crate::cli::{CliError, definitions, diff, table};
use crate::client::Client;

/// Where the first generations end, in percent of the events.
const FIRST_RUNS_AT: usize = 30;
/// About where the complete days that are asked about end.
const ASKED_UP_TO: usize = 60;
/// From here on the feed waits for the recompute, and sends while it runs …
const RESERVED_AT: usize = 65;
/// … up to here; what is behind is for the promote.
const PROMOTE_RESERVED_AT: usize = 85;

/// Feeds the sample to a running server and shows what it shows.
pub(super) async fn play(
    client: &Client,
    sample: Arc<Sample>,
    console: &mut Console,
) -> Result<Outcome, CliError> {
    let total = sample.rows();
    let percent = |share: usize| total * share / 100;
    declare(client, console).await?;

    console.line("stream    POST /v1/streams/flights, NDJSON, up to 4,000 events a request")?;
    let bar = console.count_progress(total as u64);
    bar.set_prefix("flights");
    let (feed, mut control) = feed::feed(
        client.clone(),
        Marks {
            fill: percent(RESERVED_AT),
            compute: percent(PROMOTE_RESERVED_AT),
            total,
        },
    );
    let feeding = {
        let (sample, bar) = (Arc::clone(&sample), bar.clone());
        tokio::spawn(async move { feed.run(&sample, &bar).await })
    };
    let played = tokio::select! {
        played = acts(client, &sample, &mut control, console) => played,
        Err(error) = wait_for_failure(feeding) => Err(error),
    };
    bar.finish_and_clear();
    played
}

/// Ends only if the feed fails: that it has come to its end is no reason to stop.
async fn wait_for_failure(
    feeding: tokio::task::JoinHandle<Result<(), CliError>>,
) -> Result<(), CliError> {
    feeding
        .await
        .map_err(|e| CliError::Failed(e.to_string()))??;
    std::future::pending().await
}

async fn declare(client: &Client, console: &mut Console) -> Result<(), CliError> {
    let body = definitions::body(&sample::definitions());
    let answer = client.post(&["v1", "apply"], &body).await?;
    let changes: Vec<String> = table::items(&answer, "changes")
        .iter()
        .map(|change| {
            format!(
                "{} {}",
                table::plain(&change["kind"], "?"),
                table::plain(&change["name"], "?")
            )
        })
        .collect();
    console.line(format_args!(
        "declare   {} (demo/definitions/*.sql)",
        changes.join(", ")
    ))
}

/// What happens while the events arrive, in order.
async fn acts(
    client: &Client,
    sample: &Sample,
    control: &mut FeedControl,
    console: &mut Console,
) -> Result<Outcome, CliError> {
    let percent = |share: usize| sample.rows() * share / 100;
    control.reaches(percent(FIRST_RUNS_AT)).await?;
    first_runs(client, console).await?;

    // From here on answers are asked for and checked without a break.
    let midnight = sample.midnight_before(percent(ASKED_UP_TO));
    let fed = control.reaches(sample.rows_before(midnight)).await?;
    let expected = sample.recount(midnight, TOP);
    let question = Question::new(client.clone(), midnight, fed.position, expected);
    let watch = Watch::start(question.clone());
    let promotion = recompute_and_promote(client, &question, control, console).await?;

    control.enter(Stage::Rest);
    let fed = control.reaches(sample.rows()).await?;
    let watched = watch.stop().await;
    let counted = question.witness(Some(&fed.position)).await;
    let outcome = Outcome::judge(&question, promotion, watched, counted, sample.rows());
    outcome.report(&question, console)?;
    Ok(outcome)
}

/// First generations, so that what follows is merged from both layers.
async fn first_runs(client: &Client, console: &mut Console) -> Result<(), CliError> {
    for view in ["airport_delays", "route_performance"] {
        let run = begin(client, view, "incremental", false).await?;
        let run = finished(client, console, &run).await?;
        console.line(format_args!(
            "batch     incremental run {} of {view}: generation {} up to {}",
            table::plain(&run["id"], "?"),
            table::plain(&run["generation"], "?"),
            table::plain(&run["span"]["to"], "?"),
        ))?;
    }
    Ok(())
}

/// The full run from the raw log, and the answers right before and right after its promote, while events
/// arrive all along.
async fn recompute_and_promote(
    client: &Client,
    question: &Question,
    control: &mut FeedControl,
    console: &mut Console,
) -> Result<Promotion, CliError> {
    let fed_at_start = control.fed().events;
    let run = begin(client, "airport_delays", "full", true).await?;
    control.enter(Stage::Compute);
    let staged = finished(client, console, &run).await?;
    let id = id_of(&staged)?;
    let difference = diff::fetch(client, &id).await?;
    console.line(format_args!(
        "batch     full run {id} of airport_delays, from the raw log: {} events read, {} groups, staged\n\
         \u{20}         {}",
        table::plain(&staged["rows_read"], "?"),
        table::plain(&staged["groups"], "?"),
        diff::summary(&difference),
    ))?;
    // A small run may be faster than the paced feed: the answer before the promote covers an event that
    // arrived behind the run's start, the answer after it one that arrived behind the first answer.
    let fed = control.reaches(fed_at_start + 1).await?;
    let before = question.ask_after(&fed.position).await?;
    control.enter(Stage::Promote);
    let promoted = settle(client, console, &id, "promote").await?;
    check_outcome(&promoted)?;
    let covered = before.covered().map_err(CliError::Failed)?;
    let fed = control.reaches(covered + 1).await?;
    let after = question.ask_after(&fed.position).await?;
    let promotion = Promotion {
        before,
        after,
        recompute_agrees: diff::is_empty(&difference),
        fed_at_start,
    };
    let [computing, promoting] = promotion.arrived().map_err(CliError::Failed)?;
    console.line(format_args!(
        "promote   run {id} is live, brought forward to the seam as generation {}; {} events arrived\n\
         \u{20}         while it ran, {} between the answers before and after the promote",
        promotion.after.generation().unwrap_or_default(),
        HumanCount(computing as u64),
        HumanCount(promoting as u64),
    ))?;
    Ok(promotion)
}

/// Starts a run of the batch layer.
async fn begin(client: &Client, view: &str, mode: &str, dry_run: bool) -> Result<Value, CliError> {
    let body = recompute_body(mode, &Default::default(), dry_run);
    start(client, view, &body).await
}

/// The run, once it has ended well.
async fn finished(client: &Client, console: &Console, run: &Value) -> Result<Value, CliError> {
    let run = wait_while_running(client, console, &id_of(run)?).await?;
    check_outcome(&run)?;
    Ok(run)
}
