// SPDX-License-Identifier: Apache-2.0
//! `dovetail demo`: the whole loop with real flights, and a proof that nothing jumped.
//!
//! ```text
//! events  ──0──────────30 %────────60 %──65 %───────────────────────────────100 %──►
//! feed      full speed                      braked, never dry        full speed
//! batch                incremental runs        full run from raw, promote
//! answers                          ├─ asked in a loop, each checked ────────────┤
//!                                                       before │ after
//! ```
//! Every answer in the loop is checked, not only the two that are shown: see [`question`].
//! Non-goals: speed records; `bench` has those.

mod feed;
mod question;
mod sample;
#[cfg(test)]
mod tests;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::HumanCount;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::console::Console;
use super::logging::{self, LogArgs};
use super::runs::{check_outcome, id_of, recompute_body, settle, start, wait_while_running};
use super::up::{Server, Serving, UpOptions, on_signals};
use super::{CliError, definitions, diff, sql, table};
use crate::client::Client;
use feed::FeedControl;
use question::{Answer, Question, TOP, same_rows};
use sample::Sample;
use watch::Watch;

/// Where the first generations end, in percent of the events.
const FIRST_RUNS_AT: usize = 30;
/// About where the complete days that are asked about end.
const ASKED_UP_TO: usize = 60;
/// Where the feed brakes.
const BRAKE_AT: usize = 65;

/// What `dovetail demo` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail demo                        stays up until Ctrl-C
  dovetail demo --exit | tail -n 1     ends with a line of JSON: before, after, equal")]
pub(super) struct DemoArgs {
    /// A directory to keep the data in; it must be empty or not there [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen [default: a free port on 127.0.0.1]
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:0",
        hide_default_value = true
    )]
    listen: SocketAddr,
    /// End when the comparison is done
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) async fn run(
    args: DemoArgs,
    console: &mut Console,
    server: &dyn Server,
) -> Result<(), CliError> {
    logging::init(&args.log, "warn")?;
    let sample = Sample::shipped()
        .map_err(|e| CliError::Failed(format!("the shipped sample cannot be read: {e}")))?;
    let shutdown = CancellationToken::new();
    on_signals(shutdown.clone())?;
    demonstrate(args, Arc::new(sample), shutdown, console, server).await
}

/// Runs the server, the demonstration against it, and stops the server in order.
async fn demonstrate(
    args: DemoArgs,
    sample: Arc<Sample>,
    shutdown: CancellationToken,
    console: &mut Console,
    server: &dyn Server,
) -> Result<(), CliError> {
    let (data, _temporary) = data_dir(args.data.as_deref())?;
    let options = UpOptions {
        data: data.clone(),
        listen: args.listen,
        apply: Vec::new(),
        tokens: Vec::new(),
    };
    let (ready, listening) = oneshot::channel();
    let stop = CancellationToken::new();
    let serving = Serving {
        ready,
        shutdown: stop.clone(),
    };
    let mut served = server.serve(options, serving);
    let show = async {
        let address = listening
            .await
            .map_err(|_| CliError::Failed("the server did not start".to_owned()))?;
        let client = Client::new(&format!("http://{address}"), None)?;
        console.line(format_args!(
            "{} real flights of January 2001\n\
             server    {}, its data in {}",
            HumanCount(sample.rows() as u64),
            client.base(),
            data.display()
        ))?;
        let outcome = tokio::select! {
            outcome = play(&client, sample, console) => outcome,
            () = shutdown.cancelled() => Err(CliError::Failed("interrupted".to_owned())),
        }?;
        if args.exit {
            console.line(outcome.to_json())?;
        }
        if !outcome.is_equal() {
            return Err(CliError::Failed(
                "the demo has not shown what it claims".to_owned(),
            ));
        }
        if !args.exit {
            console.line(invitation(client.base()))?;
            console.flush()?;
            shutdown.cancelled().await;
        }
        Ok(())
    };
    let shown = tokio::select! {
        shown = show => shown,
        ended = &mut served => {
            ended?;
            return Err(CliError::Failed("the server has stopped".to_owned()));
        }
    };
    stop.cancel();
    let stopped = served.await.map_err(CliError::from);
    shown.and(stopped)
}

/// The directory for the data, and a guard that removes it again if it is a temporary one.
fn data_dir(data: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>), CliError> {
    let Some(dir) = data else {
        let temporary = tempfile::Builder::new()
            .prefix("dovetail-demo-")
            .tempdir()
            .map_err(|e| CliError::Failed(format!("cannot make a temporary directory: {e}")))?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    };
    let is_fresh = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    if !is_fresh {
        return Err(CliError::Usage(format!(
            "the demo needs a fresh directory, and `{}` is not empty; `dovetail up --data {0}` serves it",
            dir.display()
        )));
    }
    Ok((dir.to_owned(), None))
}

/// What the demonstration has shown.
struct Outcome {
    before: Answer,
    after: Answer,
    /// Events that the last answer counts.
    events: u64,
    /// Answers that were checked.
    checked: u64,
    /// What was not as it must be.
    failures: Vec<String>,
}

impl Outcome {
    /// Whether nothing jumped: both answers have the same rows, and no answer in between was wrong.
    fn is_equal(&self) -> bool {
        let rows = |answer: &Answer| answer.rows.as_array().cloned().unwrap_or_default();
        self.failures.is_empty() && same_rows(&rows(&self.before), &rows(&self.after))
    }

    fn to_json(&self) -> Value {
        let side = |answer: &Answer| json!({"rows": answer.rows, "provenance": answer.provenance});
        json!({
            "before": side(&self.before),
            "after": side(&self.after),
            "events": self.events,
            "equal": self.is_equal(),
        })
    }
}

/// The demonstration itself.
async fn play(
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

    // First generations, so that what follows is merged from both layers.
    control.reaches(percent(FIRST_RUNS_AT)).await?;
    for view in ["airport_delays", "route_performance"] {
        let run = compute(client, console, view, "incremental", false).await?;
        console.line(format_args!(
            "batch     incremental run {} of {view}: generation {} up to {}",
            table::plain(&run["id"], "?"),
            table::plain(&run["generation"], "?"),
            table::plain(&run["span"]["to"], "?"),
        ))?;
    }

    // From here on answers are asked for and checked without a break.
    let midnight = sample.midnight_before(percent(ASKED_UP_TO));
    let fed = control.reaches(sample.rows_before(midnight)).await?;
    let expected = sample.recount(midnight, TOP);
    let question = Question::new(client.clone(), midnight, fed.position, expected);
    let watch = Watch::start(question.clone());

    let fed_before_run = control.fed().events;
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
    control.reaches(fed_before_run + 1).await?;
    let before = question.ask().await?;
    let promoted = settle(client, console, &id, "promote").await?;
    check_outcome(&promoted)?;
    let after = question.ask().await?;
    let fed_after_promote = control.fed().events;
    console.line(format_args!(
        "promote   run {id} is live, brought forward to the seam as generation {}; {} events arrived\n\
         \u{20}         between its start and here",
        after.generation().unwrap_or_default(),
        HumanCount((fed_after_promote - fed_before_run) as u64),
    ))?;

    control.release();
    let fed = control.reaches(sample.rows()).await?;
    let mut failures = Vec::new();
    let mut kept = |result: Result<u64, String>| {
        result.unwrap_or_else(|e| {
            failures.push(e);
            0
        })
    };
    let checked = kept(watch.stop().await);
    let events = kept(question.witness(Some(&fed.position)).await);
    for answer in [&before, &after] {
        kept(question.check(answer).map(|()| 0));
    }
    let all = sample.rows() as u64;
    let claims = [
        (
            before.rows.as_array().is_some_and(|rows| rows.len() == TOP),
            "the question has too few rows",
        ),
        (
            diff::is_empty(&difference),
            "the recompute differs from the generation it started from",
        ),
        (
            before.generation() < after.generation(),
            "both answers are from the same generation",
        ),
        (
            fed_before_run < fed_after_promote && fed_after_promote < sample.rows(),
            "no events arrived during the recompute and the promote",
        ),
        (
            events == all,
            "not every acknowledged event is counted once",
        ),
    ];
    let broken = claims.iter().filter(|(holds, _)| !holds);
    failures.extend(broken.map(|(_, failure)| (*failure).to_owned()));
    let outcome = Outcome {
        before,
        after,
        events,
        checked: checked + 3,
        failures,
    };
    report(&question, &outcome, console)?;
    Ok(outcome)
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

/// Prints both answers and what came of the checks.
fn report(question: &Question, outcome: &Outcome, console: &mut Console) -> Result<(), CliError> {
    console.line(format_args!("\n{}\n", question.sql))?;
    for (when, answer) in [("before", &outcome.before), ("after", &outcome.after)] {
        let columns = answer.columns.as_array().map(Vec::as_slice);
        let rows = answer.rows.as_array().map(Vec::as_slice);
        console.line(format_args!(
            "{when} the promote{}\n{}\n",
            sql::provenance(&answer.provenance),
            table::rows(columns.unwrap_or_default(), rows.unwrap_or_default()),
        ))?;
    }
    for failure in &outcome.failures {
        console.line(format_args!("FAILED: {failure}"))?;
    }
    if outcome.is_equal() {
        console.line(format_args!(
            "nothing jumped: {} answers before, during and after the promote were checked, against a recount of\n\
             the sample or against their own position; all {} events are counted, once",
            HumanCount(outcome.checked),
            HumanCount(outcome.events),
        ))?;
    }
    Ok(())
}

/// What to try next.
fn invitation(url: &str) -> String {
    format!(
        "\nThe server stays up until Ctrl-C. Try:\n\n\
         \u{20} curl -s '{url}/v1/views/airport_delays?origin=SFO&order=-hour&limit=3'\n\
         \u{20} curl -s {url}/v1/sql -H 'content-type: text/plain' -d 'SELECT * FROM route_performance ORDER BY flights DESC LIMIT 3'\n\
         \u{20} curl -s {url}/v1/streams/flights -H 'content-type: application/x-ndjson' \\\n\
         \u{20}   -d '{{\"date\":\"2001-01-05T08:00:00\",\"delay\":5,\"distance\":2586,\"origin\":\"SFO\",\"destination\":\"JFK\"}}'\n\
         \u{20} curl -s {url}/v1/views/airport_delays/status\n\
         \u{20} dovetail --url {url} status\n\
         \u{20} dovetail --url {url} sql\n\
         \u{20} dovetail --url {url} exclude flights --where 'delay > 1000' --reason 'a broken clock'\n\
         \u{20} dovetail --url {url} replay airport_delays\n"
    )
}
