// SPDX-License-Identifier: Apache-2.0
//! `dovetail dead-letters`: events that could not be decoded, and another try.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::CliError;
use super::args::{Show, name};
use super::console::Console;
use super::table::{self, Column};
use crate::client::Client;

/// What `dovetail dead-letters` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail dead-letters flights
  dovetail dead-letters flights --replay               after the schema is fixed
  dovetail dead-letters flights --replay 0@1234 0@1240")]
pub(super) struct DeadLettersArgs {
    /// The stream
    #[arg(value_parser = name)]
    stream: String,
    /// Try them again: all, or the ones named
    #[arg(long, value_name = "ID", num_args = 0..)]
    replay: Option<Vec<String>>,
    /// How many to list, oldest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// List those behind this one
    #[arg(long, value_name = "ID")]
    cursor: Option<String>,
    #[command(flatten)]
    show: Show,
}

pub(super) async fn run(
    args: DeadLettersArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    if let Some(ids) = &args.replay {
        return replay(&args, ids, client, console).await;
    }
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.cursor.clone().map(|cursor| ("cursor", cursor)));
    let path = ["v1", "streams", &args.stream, "dead-letters"];
    let request = client.request(Method::GET, &path).query(&query);
    let page = client.send_for_json(request).await?;
    if args.show.is_json() {
        return console.json(&page);
    }
    let letters = table::items(&page, "dead_letters");
    console.line(table::list(COLUMNS, letters))?;
    if let Some(cursor) = page["cursor"].as_str() {
        console.note(&format!(
            "{} of {}; go on with --cursor {cursor}",
            letters.len(),
            table::plain(&page["total"], "?")
        ));
    }
    Ok(())
}

async fn replay(
    args: &DeadLettersArgs,
    ids: &[String],
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let body: Value = if ids.is_empty() {
        json!({})
    } else {
        json!({ "ids": ids })
    };
    let path = ["v1", "streams", &args.stream, "dead-letters", "replay"];
    let mut answer = client.post(&path, &body).await?;
    if args.show.is_json() {
        return console.json(&answer);
    }
    let bad = answer["reasons"].take();
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("reasons");
    }
    console.line(table::record(&answer))?;
    for letter in bad.as_array().into_iter().flatten() {
        let part = |name: &str| table::plain(&letter[name], "?");
        console.note(&format!("{} stays: {}", part("id"), part("reason")));
    }
    Ok(())
}

const COLUMNS: &[Column] = &[
    Column::new("id", |letter| letter["id"].clone()),
    Column::new("reason", |letter| letter["reason"].clone()),
    Column::new("line", |letter| letter["line"].clone()),
    Column::new("column", |letter| letter["column"].clone()),
    Column::new("format", |letter| letter["format"].clone()),
    Column::new("origin", |letter| letter["origin"].clone()),
    Column::new("arrived", |letter| {
        table::to_the_second(&letter["arrived_at"])
    }),
    Column::new("event", |letter| {
        let text = letter["text"].as_str().unwrap_or_default();
        let mut shown: String = text.trim_end().chars().take(SHOWN_CHARS).collect();
        if text.trim_end().chars().nth(SHOWN_CHARS).is_some() {
            shown.push('…');
        }
        shown.into()
    }),
];

/// How much of an event a table shows.
const SHOWN_CHARS: usize = 120;
