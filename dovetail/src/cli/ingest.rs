// SPDX-License-Identifier: Apache-2.0
//! `dovetail ingest`: files and pipes into a stream, one after the other.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use indicatif::{HumanCount, ProgressBar};
use serde_json::{Value, json};

use super::CliError;
use super::args::name;
use super::console::Console;
use super::up::duration;
use crate::client::{Client, ClientError, RetryPolicy};
use crate::ingest::split::Part;
use crate::ingest::{Ack, Identity, Input, InputFormat, OnError, Parts, Sender};

const EXAMPLES: &str = "\
Formats follow from the extension or the first bytes: .ndjson .jsonl .json .csv .arrow .parquet, plain or \
compressed by gzip or zstd. Input of any length is sent in requests of about 4 MiB, each stored whole or not \
at all, in the order of the input.

An interrupted ingest is resumed by running it again: for 24 hours the server knows what it has stored of \
a file (by content, not by name) and does not store it twice. A file that has grown is another file, stored \
from its beginning: where the former one ended is not known. Follow a file that grows through a pipe. To send \
the same file again on purpose, give it a name of its own with --key. A pipe cannot be resumed unless it is named with --key and gives the same \
bytes again.

Examples:
  dovetail ingest flights flights.csv.gz
  dovetail ingest flights 2001-*.parquet
  generator | dovetail ingest flights - --format ndjson
  tail -n +1 -F growing.ndjson | dovetail ingest flights -
  dovetail ingest flights day.csv --errors reject       stop at the first bad event
  dovetail ingest flights day.csv --key second-time

It ends with one line of JSON: {\"accepted\": …, \"rejected\": …, \"position\": …}";

/// Past it a server is not busy, but gone.
const RETRY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What `dovetail ingest` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct IngestArgs {
    /// The stream
    #[arg(value_parser = name)]
    stream: String,
    /// The files; `-` or none is the standard input
    files: Vec<PathBuf>,
    /// ndjson, json, csv, arrow or parquet
    #[arg(long)]
    format: Option<InputFormat>,
    /// What to do with events that cannot be decoded: dead-letter or reject
    #[arg(long, default_value_t)]
    errors: OnError,
    /// Name this input: sent again under its name within 24 hours it is stored once; other content is refused
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// How long to wait for a server that is busy or out of reach
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration(Duration::ZERO, RETRY_MAX))]
    retry_for: Duration,
}

/// What has been stored so far.
#[derive(Debug, Default)]
struct Totals {
    accepted: u64,
    rejected: u64,
    /// Of those, what an earlier attempt had stored.
    before: u64,
    position: Option<String>,
}

impl Totals {
    fn add(&mut self, ack: Ack) {
        self.accepted += ack.accepted;
        self.rejected += ack.rejected;
        if ack.duplicate {
            self.before += ack.accepted + ack.rejected;
        }
        self.position = Some(ack.position);
    }

    fn summary(&self) -> Value {
        json!({
            "accepted": self.accepted,
            "rejected": self.rejected,
            "position": self.position,
        })
    }
}

pub(super) async fn run(
    args: IngestArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let mut files = args.files;
    if files.is_empty() {
        if std::io::stdin().is_terminal() {
            return Err(CliError::Usage(
                "name a file, or `-` for the standard input".to_owned(),
            ));
        }
        files.push(PathBuf::from("-"));
    }
    let retry = RetryPolicy {
        give_up_after: args.retry_for,
        ..RetryPolicy::default()
    };
    let sender = Sender::new(client.clone(), &args.stream, args.errors, retry);
    let mut totals = Totals::default();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    for file in &files {
        let sent = send_file(
            file,
            args.format,
            args.key.as_deref(),
            &sender,
            console,
            &mut totals,
        );
        let (sent, stopped) = tokio::select! {
            sent = sent => (sent, false),
            Ok(()) = &mut interrupted => (Err(CliError::Failed("interrupted".to_owned())), true),
        };
        if let Err(error) = sent {
            if stopped || totals.position.is_some() {
                let resumable = file != Path::new("-") || args.key.is_some();
                console.note(&how_far(&totals, resumable));
            }
            return Err(error);
        }
    }
    if totals.before > 0 {
        console.note(&format!(
            "{} of these events had been stored by an earlier attempt and were not stored again (see --key)",
            HumanCount(totals.before)
        ));
    }
    console.line(totals.summary())
}

/// What an ingest that did not end has stored, and how to go on.
fn how_far(totals: &Totals, resumable: bool) -> String {
    format!(
        "{} events were stored{}{}",
        HumanCount(totals.accepted),
        match &totals.position {
            Some(position) => format!(", up to `{position}`"),
            None => String::new(),
        },
        if resumable {
            "; running the same command again goes on from there"
        } else {
            "; a pipe that is not named with --key cannot be resumed"
        }
    )
}

async fn send_file(
    file: &Path,
    format: Option<InputFormat>,
    key: Option<&str>,
    sender: &Sender,
    console: &mut Console,
    totals: &mut Totals,
) -> Result<(), CliError> {
    let is_stdin = file == Path::new("-");
    let file = file.to_owned();
    // Opening hashes the file, and waits for the first bytes of a pipe.
    let opened = tokio::task::spawn_blocking(move || match is_stdin {
        true => Input::stdin(format),
        false => Input::open(&file, format),
    });
    let input = opened
        .await
        .map_err(|e| CliError::Failed(e.to_string()))??;
    let identity = match (key, &input.content) {
        (Some(key), content) => Identity::named(key, content.as_ref()),
        (None, Some(content)) => content.clone(),
        (None, None) => Identity::unique(),
    };
    let bar = console.byte_progress(input.size);
    bar.set_prefix(input.name.clone());
    let read = std::sync::Arc::clone(&input.read);
    let name = input.name.clone();
    let wire = input.format.wire();
    // A named pipe must be cut where it was cut before.
    let flush_when_idle = input.size.is_none() && key.is_none();
    let mut parts = Parts::read(input, flush_when_idle);
    let mut index = 0;
    while let Some(part) = parts.next().await? {
        let key = identity.key(sender.stream(), index);
        let say_wait = |error: &ClientError, wait: Duration| say_wait(&bar, error, wait);
        let sent = sender.send(part.bytes.clone(), wire, &key, &say_wait).await;
        totals.add(sent.map_err(|error| refused(&name, &part, error))?);
        index += 1;
        bar.set_position(read.load(Ordering::Relaxed));
        bar.set_message(match totals.rejected {
            0 => format!("{} events", HumanCount(totals.accepted)),
            rejected => format!(
                "{} events, {} dead letters",
                HumanCount(totals.accepted),
                HumanCount(rejected)
            ),
        });
    }
    bar.finish();
    Ok(())
}

/// Says on the bar what is waited for; the first line tells enough.
fn say_wait(bar: &ProgressBar, error: &ClientError, wait: Duration) {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    bar.set_message(format!("{line}; again in {:.1} s", wait.as_secs_f64()));
}

/// A refusal names a line of its request; say which line of the input that is.
fn refused(name: &str, part: &Part, error: ClientError) -> CliError {
    let ClientError::Problem(problem) = &error else {
        return error.into();
    };
    let place = match problem.member("line").and_then(Value::as_u64) {
        Some(line) => format!("`{name}`, line {}", line + part.line_shift),
        None => format!("`{name}`, behind line {}", part.line_shift),
    };
    let hint = match problem.status {
        422 => {
            "\n  hint: this file was sent in other parts before, by another version of dovetail perhaps; \
                with --key it is sent as a new input"
        }
        _ => "",
    };
    CliError::Failed(format!("{problem}\n  input: {place}{hint}"))
}
