// SPDX-License-Identifier: Apache-2.0
//! Events that are wrong: mark them, list the marks, take one back.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::CliError;
use super::args::{Show, name};
use super::console::Console;
use super::table::{self, Column};
use crate::client::Client;

/// What `dovetail exclude` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
The events stay in the raw log. Those that match and have arrived by now are left out of every generation \
that a full or repair run makes from now on: replay the views that should lose them.

Examples:
  dovetail exclude flights --where 'delay > 1440' --reason 'a broken clock'
  dovetail exclude flights --where \"_offset BETWEEN 1000 AND 1999\" --reason 'sent twice'
  dovetail replay airport_delays")]
pub(super) struct ExcludeArgs {
    /// The stream
    #[arg(value_parser = name)]
    stream: String,
    /// Which events: a boolean expression over the stream's columns
    #[arg(long = "where", value_name = "PREDICATE")]
    predicate: String,
    /// Why, for those who come after
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    show: Show,
}

pub(super) async fn exclude(
    args: ExcludeArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let body = json!({ "where": args.predicate, "reason": args.reason });
    let path = ["v1", "streams", &args.stream, "exclusions"];
    let exclusion = client.post(&path, &body).await?;
    show(console, &exclusion, args.show)
}

/// What `dovetail exclusions` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail exclusions flights")]
pub(super) struct ExclusionsArgs {
    /// The stream
    #[arg(value_parser = name)]
    stream: String,
    #[command(flatten)]
    show: Show,
}

pub(super) async fn list(
    args: ExclusionsArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let answer = client
        .get(&["v1", "streams", &args.stream, "exclusions"])
        .await?;
    show(console, &answer, args.show)
}

/// What `dovetail unexclude` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
The events come back with the next full or repair run.

Examples:
  dovetail unexclude flights 1")]
pub(super) struct UnexcludeArgs {
    /// The stream
    #[arg(value_parser = name)]
    stream: String,
    /// The exclusion, as `dovetail exclusions` numbers it
    id: u64,
    #[command(flatten)]
    show: Show,
}

pub(super) async fn unexclude(
    args: UnexcludeArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let id = args.id.to_string();
    let path = ["v1", "streams", &args.stream, "exclusions", &id];
    let exclusion = client
        .send_for_json(client.request(Method::DELETE, &path))
        .await?;
    show(console, &exclusion, args.show)
}

/// Shows one exclusion or several.
fn show(console: &mut Console, answer: &Value, show: Show) -> Result<(), CliError> {
    if show.is_json() {
        return console.json(answer);
    }
    let exclusions = if answer["id"].is_null() {
        table::items(answer, "exclusions")
    } else {
        std::slice::from_ref(answer)
    };
    console.line(table::list(COLUMNS, exclusions))
}

const COLUMNS: &[Column] = &[
    Column::new("id", |exclusion| exclusion["id"].clone()),
    Column::new("where", |exclusion| exclusion["where"].clone()),
    Column::new("reason", |exclusion| exclusion["reason"].clone()),
    Column::new("events before", |exclusion| exclusion["bound"].clone()),
    Column::new("declared", |exclusion| {
        table::to_the_second(&exclusion["declared_at"])
    }),
    Column::new("carried by", |exclusion| {
        let views = exclusion["carried_by"].as_array().into_iter().flatten();
        let views: Vec<String> = views.map(|view| table::plain(view, "")).collect();
        views.join(", ").into()
    }),
];
