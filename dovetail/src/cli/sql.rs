// SPDX-License-Identifier: Apache-2.0
//! `dovetail sql`: statements to a running server, answers to stdout.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::StreamExt;
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::{Map, Value};

use super::console::Console;
use super::up::duration;
use super::{CliError, prompt, statements, table};
use crate::client::Client;

const EXAMPLES: &str = "\
Examples:
  dovetail sql                                   a prompt
  dovetail sql 'SELECT count(*) FROM flights'
  dovetail sql -f report.sql --format csv > report.csv
  echo 'SHOW VIEWS' | dovetail sql
  dovetail sql 'ALTER STREAM flights ADD COLUMN carrier VARCHAR'
  dovetail sql 'SELECT * FROM airport_delays' --format parquet > delays.parquet
  dovetail sql 'SELECT * FROM airport_delays' --layer batch       reproducible numbers
  dovetail sql 'SELECT * FROM airport_delays' --after 'flights~k3f:0@1234'";

/// What a server lets a question take.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// What `dovetail sql` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SqlArgs {
    /// The statement, or several with `;` between them; without it and without --file, standard input
    #[arg(conflicts_with = "file")]
    statement: Option<String>,
    /// Read the statements from a file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to write the rows
    #[arg(long, value_enum, default_value_t)]
    format: SqlFormat,
    #[command(flatten)]
    ask: Ask,
}

/// What every question may say besides itself.
#[derive(Debug, Clone, Args)]
pub(super) struct Ask {
    /// Wait until the answer covers this position: a token, or several joined by `;`
    #[arg(long, value_name = "TOKEN")]
    after: Option<String>,
    /// Answer from generation and runs, or from the generation alone
    #[arg(long, value_enum)]
    layer: Option<LayerArg>,
    /// Answer from this generation of the view
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// How long to wait for the answer, such as `90s`; 1 h at most
    #[arg(long, value_name = "DURATION", value_parser = duration(TIMEOUT_MIN, TIMEOUT_MAX))]
    timeout: Option<Duration>,
}

impl Ask {
    /// The body of `POST /v1/sql`.
    fn body(&self, sql: &str) -> Value {
        let mut body = Map::new();
        body.insert("sql".to_owned(), sql.into());
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        set("after", self.after.clone().map(Value::from));
        set("layer", self.layer.map(|layer| layer.as_str().into()));
        set("generation", self.generation.map(Value::from));
        set(
            "timeout_ms",
            self.timeout
                .map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX).into()),
        );
        Value::Object(body)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LayerArg {
    /// Everything up to the last event
    Merged,
    /// The generation alone
    Batch,
}

impl LayerArg {
    fn as_str(self) -> &'static str {
        match self {
            Self::Merged => "merged",
            Self::Batch => "batch",
        }
    }
}

/// How rows are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum SqlFormat {
    /// For people
    #[default]
    Table,
    /// One document with columns, rows and provenance
    Json,
    /// One object per line
    Ndjson,
    /// With a header line
    Csv,
    /// An Arrow IPC stream
    Arrow,
    /// A Parquet file
    Parquet,
}

impl SqlFormat {
    /// The media type to ask for.
    fn media_type(self) -> &'static str {
        match self {
            Self::Table | Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    fn is_binary(self) -> bool {
        matches!(self, Self::Arrow | Self::Parquet)
    }
}

pub(super) async fn run(
    args: SqlArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let text = match (args.statement, args.file) {
        (Some(statement), _) => statement,
        (None, Some(file)) => std::fs::read_to_string(&file)
            .map_err(|e| CliError::Usage(format!("cannot read `{}`: {e}", file.display())))?,
        (None, None) if std::io::stdin().is_terminal() => {
            return prompt::run(client, console, args.format, &args.ask).await;
        }
        (None, None) => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|e| CliError::Usage(format!("cannot read the standard input: {e}")))?;
            text
        }
    };
    let statements = statements::split(&text);
    if statements.is_empty() {
        return Err(CliError::Usage("there is no statement".to_owned()));
    }
    if args.format.is_binary() && statements.len() > 1 {
        return Err(CliError::Usage(format!(
            "there are {} statements, but --format {} can hold the answer to one only",
            statements.len(),
            args.format.media_type()
        )));
    }
    for statement in &statements {
        execute(statement, client, console, args.format, &args.ask).await?;
    }
    Ok(())
}

/// Runs one statement and writes its answer.
pub(super) async fn execute(
    statement: &str,
    client: &Client,
    console: &mut Console,
    format: SqlFormat,
    ask: &Ask,
) -> Result<(), CliError> {
    if format.is_binary() && console.out_is_terminal {
        return Err(CliError::Usage(
            "this format is not for terminals: redirect the output to a file".to_owned(),
        ));
    }
    let request = client
        .request(Method::POST, &["v1", "sql"])
        .header(ACCEPT, format.media_type())
        .json(&ask.body(statement));
    if matches!(format, SqlFormat::Table | SqlFormat::Json) {
        let answer = client.send_for_json(request).await?;
        return match format {
            SqlFormat::Table => show(&answer, console),
            _ => console.json(&answer),
        };
    }
    let mut chunks = client.send(request).await?.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        console.bytes(&chunk.map_err(|e| client.broken(&e))?)?;
    }
    console.flush()
}

/// Shows an answer as a table, and below it, to people, what it was made from.
fn show(answer: &Value, console: &mut Console) -> Result<(), CliError> {
    let (Some(columns), Some(rows)) = (answer["columns"].as_array(), answer["rows"].as_array())
    else {
        return console.json(answer);
    };
    console.line(table::rows(columns, rows))?;
    if console.err_is_terminal {
        let rows = match rows.len() {
            1 => "1 row".to_owned(),
            rows => format!("{rows} rows"),
        };
        console.note(&format!("{rows}{}", provenance(&answer["provenance"])));
    }
    Ok(())
}

/// What an answer was made from, in a line: `; airport_delays: generation 4 to …, 3 runs; flights~k3f:0@12, 0 ms behind`.
pub(super) fn provenance(provenance: &Value) -> String {
    let text = |value: &Value| table::plain(value, "-");
    let mut line = String::new();
    for view in provenance["views"].as_array().into_iter().flatten() {
        line.push_str(&format!(
            "; {}: generation {} up to {}",
            text(&view["view"]),
            text(&view["generation"]),
            text(&view["horizon"]),
        ));
        match view["layer"].as_str() {
            Some("batch") => line.push_str(", batch layer alone"),
            _ => line.push_str(&format!(" and {} runs", text(&view["runs"]))),
        }
        for note in view["notes"].as_array().into_iter().flatten() {
            line.push_str(&format!(" ({})", text(note)));
        }
    }
    for stream in provenance["streams"].as_array().into_iter().flatten() {
        line.push_str(&format!(
            "; covers {}, {} ms behind",
            text(&stream["position"]),
            text(&stream["freshness_ms"]),
        ));
        for hole in stream["holes"].as_array().into_iter().flatten() {
            line.push_str(&format!(
                ", without the lost {}@{}..{}",
                text(&hole["partition"]),
                text(&hole["from"]),
                text(&hole["to"]),
            ));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn provenance_reads_as_a_line() {
        let of = json!({
            "streams": [{"stream": "flights", "position": "flights~k3f:0@9", "freshness_ms": 0,
                         "holes": [{"partition": 0, "from": 3, "to": 5}]}],
            "views": [
                {"view": "a", "generation": 4, "horizon": "flights~k3f:0@5", "layer": "merged", "runs": 2},
                {"view": "b", "generation": 1, "horizon": "flights~k3f:0@5", "layer": "batch", "notes": ["old states"]},
            ],
        });
        assert_eq!(
            provenance(&of),
            "; a: generation 4 up to flights~k3f:0@5 and 2 runs; b: generation 1 up to flights~k3f:0@5, \
             batch layer alone (old states); covers flights~k3f:0@9, 0 ms behind, without the lost 0@3..5"
        );
        assert_eq!(provenance(&Value::Null), "");
    }

    #[test]
    fn only_what_is_said_is_sent() {
        let ask = Ask {
            after: None,
            layer: Some(LayerArg::Batch),
            generation: None,
            timeout: Some(Duration::from_secs(90)),
        };
        assert_eq!(
            ask.body("SELECT 1"),
            json!({"sql": "SELECT 1", "layer": "batch", "timeout_ms": 90000})
        );
    }
}
