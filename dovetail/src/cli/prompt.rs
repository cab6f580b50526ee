// SPDX-License-Identifier: Apache-2.0
//! The interactive prompt: reads lines, decides what each means, runs it. Deciding is apart from the
//! terminal, so that it can be tested.

use std::path::PathBuf;

use clap::ValueEnum;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::CliError;
use super::console::Console;
use super::sql::{Ask, SqlFormat, execute};
use super::statements::Statements;
use crate::client::Client;

const HELP: &str = "\
Statements end with `;` and may take several lines.
  \\d            list streams and views
  \\d NAME       describe a stream or view
  \\format F     write rows as table, json, ndjson or csv
  \\?            this help
  \\q            quit; so does Ctrl-D
Ctrl-C gives up the line, or the running query.";

const PROMPT: &str = "dovetail> ";
const CONTINUED: &str = "     ...> ";

/// What a line comes to.
#[derive(Debug, PartialEq)]
enum Action {
    /// Run these, in order.
    Run(Vec<String>),
    /// Say this.
    Say(String),
    /// Write rows in another format.
    Format(SqlFormat),
    /// Leave.
    Quit,
}

/// The lines so far.
struct Dialogue {
    statements: Statements,
}

impl Dialogue {
    fn new() -> Self {
        Self {
            statements: Statements::new(),
        }
    }

    fn prompt(&self) -> &'static str {
        if self.statements.is_empty() {
            PROMPT
        } else {
            CONTINUED
        }
    }

    /// Decides what the next line comes to.
    fn line(&mut self, line: &str) -> Action {
        let word = line.trim();
        if self.statements.is_empty() {
            if let Some(command) = word.strip_prefix('\\') {
                return helper(command);
            }
            if matches!(word, "quit" | "exit") {
                return Action::Quit;
            }
        }
        self.statements.push(line);
        self.statements.push("\n");
        let statements = std::iter::from_fn(|| self.statements.next_complete()).collect();
        Action::Run(statements)
    }

    fn give_up(&mut self) {
        self.statements.clear();
    }
}

fn helper(command: &str) -> Action {
    let mut words = command.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("q"), None, None) => Action::Quit,
        (Some("?" | "h"), None, None) => Action::Say(HELP.to_owned()),
        (Some("d"), None, None) => {
            Action::Run(vec!["SHOW STREAMS".to_owned(), "SHOW VIEWS".to_owned()])
        }
        (Some("d"), Some(name), None) => {
            Action::Run(vec![format!("DESCRIBE {}", name.trim_end_matches(';'))])
        }
        (Some("format"), Some(format), None) => match SqlFormat::from_str(format, true) {
            Ok(format) => Action::Format(format),
            Err(_) => Action::Say(format!("`{format}` is not a format; \\? lists them")),
        },
        _ => Action::Say(format!("`\\{command}` is not a command; \\? lists them")),
    }
}

/// Talks until the user leaves.
pub(super) async fn run(
    client: &Client,
    console: &mut Console,
    mut format: SqlFormat,
    ask: &Ask,
) -> Result<(), CliError> {
    let failed = |e: ReadlineError| CliError::Failed(format!("cannot read the terminal: {e}"));
    let mut editor = Some(DefaultEditor::new().map_err(failed)?);
    let history = history_file();
    if let (Some(editor), Some(history)) = (&mut editor, &history) {
        // There is none on the first day.
        let _ = editor.load_history(history);
    }
    console.note(&format!(
        "Connected to {}. Statements end with `;`, \\? helps, \\q quits.",
        client.base()
    ));
    let mut dialogue = Dialogue::new();
    while let Some(mut reading) = editor.take() {
        let prompt = dialogue.prompt();
        let (read, back) = tokio::task::spawn_blocking(move || {
            let line = reading.readline(prompt);
            (line, reading)
        })
        .await
        .map_err(|e| CliError::Failed(e.to_string()))?;
        let editor = editor.insert(back);
        let action = match read {
            Ok(line) => {
                if !line.trim().is_empty() {
                    let _ = editor.add_history_entry(&line);
                }
                dialogue.line(&line)
            }
            Err(ReadlineError::Interrupted) => {
                dialogue.give_up();
                continue;
            }
            Err(ReadlineError::Eof) => Action::Quit,
            Err(error) => return Err(failed(error)),
        };
        match action {
            Action::Run(statements) => {
                run_all(&statements, client, console, format, ask).await?;
            }
            Action::Say(text) => console.note(&text),
            Action::Format(chosen) => format = chosen,
            Action::Quit => break,
        }
    }
    if let (Some(editor), Some(history)) = (&mut editor, &history) {
        save_history(editor, history);
    }
    Ok(())
}

/// Runs statements until one fails; a failure is shown, and the dialogue goes on.
async fn run_all(
    statements: &[String],
    client: &Client,
    console: &mut Console,
    format: SqlFormat,
    ask: &Ask,
) -> Result<(), CliError> {
    for statement in statements {
        let outcome = tokio::select! {
            outcome = execute(statement, client, console, format, ask) => outcome,
            // Dropping the request hangs up, and the server cancels the query.
            _ = tokio::signal::ctrl_c() => {
                console.note("given up");
                return Ok(());
            }
        };
        match outcome {
            Ok(()) => {}
            Err(error @ CliError::Output(_)) => return Err(error),
            Err(error) => {
                console.note(&format!("error: {error}"));
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Where lines are kept between sessions: the XDG state directory.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
    Some(state.or_else(home)?.join("dovetail/history"))
}

/// Keeps the lines for the next session; a full or read-only disk is no reason to complain.
fn save_history(editor: &mut DefaultEditor, file: &std::path::Path) {
    if let Some(dir) = file.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    let _ = editor.save_history(file);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(statements: &[&str]) -> Action {
        Action::Run(statements.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn a_statement_runs_at_its_semicolon() {
        let mut dialogue = Dialogue::new();
        assert_eq!(dialogue.prompt(), PROMPT);
        assert_eq!(dialogue.line("SELECT"), runs(&[]));
        assert_eq!(dialogue.prompt(), CONTINUED);
        // Within a statement a backslash is text.
        assert_eq!(dialogue.line("'\\q'"), runs(&[]));
        assert_eq!(
            dialogue.line("; SELECT 2; SELECT"),
            runs(&["SELECT\n'\\q'", "SELECT 2"])
        );
        dialogue.give_up();
        assert_eq!(dialogue.prompt(), PROMPT);
        assert_eq!(dialogue.line("SELECT 3;"), runs(&["SELECT 3"]));
    }

    #[test]
    fn helpers_stand_for_statements() {
        let mut dialogue = Dialogue::new();
        assert_eq!(dialogue.line("\\d"), runs(&["SHOW STREAMS", "SHOW VIEWS"]));
        assert_eq!(dialogue.line(" \\d flights;"), runs(&["DESCRIBE flights"]));
        assert_eq!(
            dialogue.line("\\format csv"),
            Action::Format(SqlFormat::Csv)
        );
        assert_eq!(dialogue.line("\\?"), Action::Say(HELP.to_owned()));
        assert_eq!(dialogue.line("\\q"), Action::Quit);
        assert_eq!(dialogue.line("exit"), Action::Quit);
        for wrong in ["\\", "\\x", "\\format xml", "\\q now"] {
            assert!(matches!(dialogue.line(wrong), Action::Say(text) if text.contains("\\?")));
        }
    }
}
