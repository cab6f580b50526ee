// SPDX-License-Identifier: Apache-2.0
//! `dovetail infer`: a statement to start from, proposed from the first events of a file. Asks no server.

use std::path::{Path, PathBuf};

use clap::Args;
use dovetail_log::decode::infer;
use dovetail_model::{MAX_NAME_BYTES, check_name};
use dovetail_serving_layer::sql::render_stream_schema;

use super::CliError;
use super::args::name;
use super::console::Console;
use crate::ingest::{Input, InputFormat, Parts};

/// What `dovetail infer` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
It looks at the first megabytes and proposes; read the statement before you use it. Integers become BIGINT, \
and a column is NOT NULL if no event of the sample lacks it.

Examples:
  dovetail infer flights.csv.gz
  dovetail infer events.json --name clicks > definitions/clicks.sql")]
pub(super) struct InferArgs {
    /// The files; each gets a statement
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// ndjson, json, csv, arrow or parquet
    #[arg(long)]
    format: Option<InputFormat>,
    /// The stream's name [default: from the file's name]
    #[arg(long, value_parser = name)]
    name: Option<String>,
}

pub(super) async fn run(args: InferArgs, console: &mut Console) -> Result<(), CliError> {
    if args.name.is_some() && args.files.len() > 1 {
        return Err(CliError::Usage(
            "--name is for one file: streams cannot share a name".to_owned(),
        ));
    }
    for file in &args.files {
        let name = args.name.clone().unwrap_or_else(|| name_of(file));
        console.line(propose(file, args.format, &name).await?)?;
    }
    Ok(())
}

/// The statement for one file.
async fn propose(file: &Path, format: Option<InputFormat>, name: &str) -> Result<String, CliError> {
    let shown = file.display().to_string();
    let path = file.to_owned();
    let opened = tokio::task::spawn_blocking(move || Input::open(&path, format));
    let input = opened
        .await
        .map_err(|e| CliError::Failed(e.to_string()))??;
    let wire = input.format.wire();
    // The first request that ingest would send is a sample without a broken event at its end.
    let Some(sample) = Parts::read(input, false).next().await? else {
        return Err(CliError::Failed(format!("`{shown}` has no events")));
    };
    let schema = infer(wire, &sample.bytes, &shown).map_err(|e| CliError::Failed(e.to_string()))?;
    Ok(render_stream_schema(name, &schema))
}

/// A name for a stream made from the name of a file: `2001 Flights.csv.gz` is `_2001_flights`.
fn name_of(file: &Path) -> String {
    let base = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = base.split('.').find(|part| !part.is_empty());
    let mut name: String = stem
        .unwrap_or("events")
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => c,
            _ => '_',
        })
        .take(MAX_NAME_BYTES - 1)
        .collect();
    if check_name(&name).is_err() {
        name.insert(0, '_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_stream_a_name() {
        for (file, name) in [
            ("a/2001 Flights.csv.gz", "_2001_flights"),
            ("clicks.json", "clicks"),
            ("..", "events"),
            (".hidden", "hidden"),
            ("äpfel", "_pfel"),
        ] {
            assert_eq!(name_of(Path::new(file)), name);
            assert!(check_name(&name_of(Path::new(file))).is_ok());
        }
        assert!(check_name(&name_of(Path::new(&"9".repeat(200)))).is_ok());
    }

    #[tokio::test]
    async fn the_shipped_flights_are_recognised() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/flights.parquet");
        let statement = propose(&file, None, "flights").await.unwrap();
        insta::assert_snapshot!(statement, @r#"
        CREATE STREAM flights (
          date TIMESTAMP NOT NULL,
          delay INT,
          distance INT,
          origin VARCHAR,
          destination VARCHAR
        ) WITH (event_time = 'date');
        "#);
    }

    #[tokio::test]
    async fn a_proposed_statement_is_one_that_the_server_reads() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clicks.json");
        std::fs::write(
            &file,
            r#"[{"at":"2001-01-01T00:00:00","user":{"id":1},"tags":["a"]}]"#,
        )
        .unwrap();
        let statement = propose(&file, None, "clicks").await.unwrap();
        dovetail_serving_layer::sql::parse(&statement).unwrap();
        assert!(statement.contains("event_time = 'at'"), "{statement}");
        std::fs::write(&file, "[]").unwrap();
        let error = propose(&file, None, "clicks").await.unwrap_err();
        assert!(error.to_string().contains("no events"), "{error}");
    }
}
