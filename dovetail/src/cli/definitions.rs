// SPDX-License-Identifier: Apache-2.0
//! `dovetail plan` and `dovetail apply`: a directory of `.sql` files against what is in force.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::CliError;
use super::args::Show;
use super::console::Console;
use super::table::{self, Column};
use crate::client::Client;

const EXAMPLES: &str = "\
Every file of the directory that ends in .sql is read, in the order of the names; subdirectories are not. \
Streams come first, whatever the order. Nothing is dropped because its file is gone.

Examples:
  dovetail plan definitions/
  dovetail apply definitions/
  dovetail apply definitions/ --format json";

/// What `plan` and `apply` take.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DefinitionsArgs {
    /// The directory
    dir: PathBuf,
    #[command(flatten)]
    show: Show,
}

/// A file of definitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DefinitionFile {
    /// Its name, for messages.
    pub name: String,
    /// What it says.
    pub sql: String,
}

/// Reads the `.sql` files of a directory, by name.
pub(super) fn read_dir(dir: &Path) -> Result<Vec<DefinitionFile>, CliError> {
    let failed = |path: &Path, e: std::io::Error| {
        CliError::Usage(format!("cannot read `{}`: {e}", path.display()))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let path = entry.map_err(|e| failed(dir, e))?.path();
        let is_sql = path.extension().is_some_and(|extension| extension == "sql");
        if is_sql && path.is_file() {
            let sql = std::fs::read_to_string(&path).map_err(|e| failed(&path, e))?;
            let name = path.file_name().unwrap_or_default();
            files.push(DefinitionFile {
                name: name.to_string_lossy().into_owned(),
                sql,
            });
        }
    }
    if files.is_empty() {
        return Err(CliError::Usage(format!(
            "there is no .sql file in `{}`",
            dir.display()
        )));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// The body of `POST /v1/plan` and `/v1/apply`.
pub(crate) fn body(files: &[DefinitionFile]) -> Value {
    json!({ "files": files })
}

pub(super) async fn plan(
    args: DefinitionsArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    run("plan", &args, client, console).await
}

pub(super) async fn apply(
    args: DefinitionsArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    run("apply", &args, client, console).await
}

async fn run(
    call: &str,
    args: &DefinitionsArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let files = read_dir(&args.dir)?;
    let answer = client.post(&["v1", call], &body(&files)).await?;
    if args.show.is_json() {
        return console.json(&answer);
    }
    let result = if call == "plan" { "would be" } else { "result" };
    let columns = [
        &[Column::new(result, |change| change["result"].clone())],
        COLUMNS,
    ]
    .concat();
    console.line(table::list(&columns, table::items(&answer, "changes")))
}

/// Behind what became of a definition, or would.
const COLUMNS: &[Column] = &[
    Column::new("kind", |change| change["kind"].clone()),
    Column::new("name", |change| change["name"].clone()),
    Column::new("where", |change| {
        let file = table::plain(&change["file"], "-");
        format!("{file}:{}", table::plain(&change["line"], "-")).into()
    }),
    Column::new("details", |change| {
        let details = change["details"].as_array().into_iter().flatten();
        let lines: Vec<String> = details.map(|line| table::plain(line, "")).collect();
        lines.join("\n").into()
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_by_name_and_others_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            matches!(read_dir(dir.path()), Err(CliError::Usage(text)) if text.contains("no .sql"))
        );
        for (name, text) in [("b.sql", "B"), ("a.sql", "A"), ("c.txt", "C")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("d.sql")).unwrap();
        let files = read_dir(dir.path()).unwrap();
        assert_eq!(
            body(&files),
            json!({"files": [{"name": "a.sql", "sql": "A"}, {"name": "b.sql", "sql": "B"}]})
        );
        assert!(matches!(
            read_dir(&dir.path().join("none")),
            Err(CliError::Usage(text)) if text.contains("none")
        ));
    }
}
