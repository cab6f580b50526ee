// SPDX-License-Identifier: Apache-2.0
//! `dovetail replay`: repair a view in one command.
//!
//! A dry run from the raw log, its difference from the generation it started from, a question, and then
//! promote or discard. Whatever ends the command early throws the staged result away: nothing half-decided
//! is left behind.

use clap::Args;
use serde_json::{Value, json};

use super::args::name;
use super::console::Console;
use super::runs::{Scope, check_outcome, id_of, recompute_body, settle, start, wait_while_running};
use super::{CliError, diff};
use crate::client::Client;

/// What `dovetail replay` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --from, --to and --where every group is recomputed. With them, whole groups: those that have an \
event in the range of event times (from is inside, to is not) and match. Exclusions that the view does not \
carry yet take effect in all groups: those whose events they match are recomputed, too, wherever they lie.

Examples:
  dovetail exclude flights --where 'delay > 1440' --reason 'a broken clock'
  dovetail replay airport_delays --from 2001-01-03 --to 2001-01-04
  dovetail replay airport_delays --where \"origin = 'SFO'\" --yes")]
pub(super) struct ReplayArgs {
    /// The view
    #[arg(value_parser = name)]
    view: String,
    #[command(flatten)]
    scope: Scope,
    /// Promote without asking
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn run(
    args: ReplayArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    if !args.yes && !console.can_ask {
        return Err(CliError::Usage(
            "replay asks before it promotes, and there is no terminal to ask on: say --yes, or use \
             `dovetail recompute --dry-run` and decide later"
                .to_owned(),
        ));
    }
    let mode = if args.scope.is_empty() {
        "full"
    } else {
        "repair"
    };
    let body = recompute_body(mode, &args.scope, true);
    let started = start(client, &args.view, &body).await?;
    let id = id_of(&started)?;
    let decided = tokio::select! {
        decided = decide(&args, client, console, &id) => decided,
        _ = tokio::signal::ctrl_c() => Err(CliError::Failed("interrupted".to_owned())),
    };
    match decided {
        Ok(true) => {
            let run = settle(client, console, &id, "promote").await?;
            check_outcome(&run)?;
            console.line(format_args!(
                "promoted: generation {}, brought forward to the seam, is what `{}` answers from",
                super::table::plain(&run["generation"], "?"),
                args.view,
            ))
        }
        Ok(false) => {
            settle(client, console, &id, "discard").await?;
            Err(CliError::Failed(format!(
                "declined: run {id} is discarded, `{}` is as it was",
                args.view
            )))
        }
        Err(error) => {
            abandon(client, &id).await;
            Err(error)
        }
    }
}

/// Waits for the dry run, shows its difference and asks whether to promote it.
async fn decide(
    args: &ReplayArgs,
    client: &Client,
    console: &mut Console,
    id: &str,
) -> Result<bool, CliError> {
    let run = wait_while_running(client, console, id).await?;
    check_outcome(&run)?;
    if run["base"].is_null() {
        console.line("there is no earlier generation to compare with")?;
    } else {
        let difference = diff::fetch(client, id).await?;
        diff::show(console, &difference)?;
        if diff::is_empty(&difference) {
            console.note("the recomputed groups equal the live ones");
        }
    }
    console.flush()?;
    if args.yes {
        return Ok(true);
    }
    console.confirm("promote?").await
}

/// Gets rid of a run that nobody will decide on. Which call is right depends on how far it has come; that
/// neither is, because it has ended, is fine too.
async fn abandon(client: &Client, id: &str) {
    for call in ["cancel", "discard"] {
        let done: Result<Value, _> = client.post(&["v1", "runs", id, call], &json!({})).await;
        if done.is_ok() {
            return;
        }
    }
}
