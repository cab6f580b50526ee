// SPDX-License-Identifier: Apache-2.0
//! The demonstration: declare, feed, recompute, promote, compare.

use std::sync::Arc;

use indicatif::HumanCount;
use serde_json::Value;

use super::feed::{self, FeedControl};
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
/// Where the feed brakes.
const BRAKE_AT: usize = 65;

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
    let (feed, mut control) = feed::feed(client.clone(), percent(BRAKE_AT));
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

    control.release();
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
        let run = compute(client, console, view, "incremental", false).await?;
        console.line(format_args!(
            "batch     incremental run {} of {view}: generation {} up to {}",
            table::plain(&run["id"], "?"),
            table::plain(&run["generation"], "?"),
            table::plain(&run["span"]["to"], "?"),
        ))?;
    }
    Ok(())
}

/// The full run from the raw log, and the answers right before and right after its promote.
async fn recompute_and_promote(
    client: &Client,
    question: &Question,
    control: &mut FeedControl,
    console: &mut Console,
) -> Result<Promotion, CliError> {
    let fed_before = control.fed().events;
    let staged = compute(client, console, "airport_delays", "full", true).await?;
    let id = id_of(&staged)?;
    let difference = diff::fetch(client, &id).await?;
    console.line(format_args!(
        "batch     full run {id} of airport_delays, from the raw log: {} events read, {} groups, staged\n\
         \u{20}         {}",
        table::plain(&staged["rows_read"], "?"),
        table::plain(&staged["groups"], "?"),
        diff::summary(&difference),
    ))?;
    // A small run may be faster than the braked feed: wait until events have arrived meanwhile.
    control.reaches(fed_before + 1).await?;
    let before = question.ask().await?;
    let promoted = settle(client, console, &id, "promote").await?;
    check_outcome(&promoted)?;
    let after = question.ask().await?;
    let fed_after = control.fed().events;
    console.line(format_args!(
        "promote   run {id} is live, brought forward to the seam as generation {}; {} events arrived\n\
         \u{20}         between its start and here",
        after.generation().unwrap_or_default(),
        HumanCount((fed_after - fed_before) as u64),
    ))?;
    Ok(Promotion {
        before,
        after,
        recompute_agrees: diff::is_empty(&difference),
        fed_before,
        fed_after,
    })
}

/// Runs the batch layer once.
async fn compute(
    client: &Client,
    console: &Console,
    view: &str,
    mode: &str,
    dry_run: bool,
) -> Result<Value, CliError> {
    let body = recompute_body(mode, &Default::default(), dry_run);
    let run = start(client, view, &body).await?;
    let run = wait_while_running(client, console, &id_of(&run)?).await?;
    check_outcome(&run)?;
    Ok(run)
}
