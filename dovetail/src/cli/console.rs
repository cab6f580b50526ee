// SPDX-License-Identifier: Apache-2.0
//! Where commands write: data to stdout, everything else to stderr.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::CliError;

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(100);

/// The terminal, or the pipes, that a command talks to.
pub(super) struct Console {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// All bars, so that they make room for what is written.
    bars: MultiProgress,
    /// Whether someone can answer a question.
    pub(super) can_ask: bool,
    /// Whether data goes to a person.
    pub(super) out_is_terminal: bool,
    /// Whether notes go to a person.
    pub(super) err_is_terminal: bool,
}

impl Console {
    /// The program's own streams.
    pub(super) fn standard() -> Self {
        let err_is_terminal = std::io::stderr().is_terminal();
        let target = if err_is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            bars: MultiProgress::with_draw_target(target),
            can_ask: err_is_terminal && std::io::stdin().is_terminal(),
            out_is_terminal: std::io::stdout().is_terminal(),
            err_is_terminal,
        }
    }

    /// A console that writes to `out` and is nobody's terminal.
    #[cfg(test)]
    pub(super) fn captured(out: impl Write + Send + 'static) -> Self {
        Self {
            out: Box::new(out),
            err: Box::new(std::io::sink()),
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            can_ask: false,
            out_is_terminal: false,
            err_is_terminal: false,
        }
    }

    /// Writes data as it is.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let out = &mut self.out;
        self.bars
            .suspend(|| out.write_all(bytes))
            .map_err(CliError::Output)
    }

    /// Writes a line, or several, of data.
    pub(super) fn line(&mut self, line: impl std::fmt::Display) -> Result<(), CliError> {
        let out = &mut self.out;
        self.bars
            .suspend(|| writeln!(out, "{line}"))
            .map_err(CliError::Output)
    }

    /// Writes a JSON document, indented.
    pub(super) fn json(&mut self, value: &Value) -> Result<(), CliError> {
        self.line(format_args!("{value:#}"))
    }

    /// Hands on what is buffered.
    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush().map_err(CliError::Output)
    }

    /// Says something on stderr. Nobody may be reading there: that is no error.
    pub(super) fn note(&mut self, text: &str) {
        let err = &mut self.err;
        let _ = self.bars.suspend(|| writeln!(err, "{text}"));
    }

    /// Asks a yes-or-no question on stderr; anything but yes is no.
    pub(super) async fn confirm(&mut self, question: &str) -> Result<bool, CliError> {
        let _ = write!(self.err, "{question} [y/N] ");
        let _ = self.err.flush();
        let read = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer).map(|_| answer)
        });
        let answer = read
            .await
            .map_err(|e| CliError::Failed(e.to_string()))?
            .map_err(|e| CliError::Failed(format!("cannot read the answer: {e}")))?;
        Ok(matches!(
            answer.trim().to_ascii_lowercase().as_str(),
            "y" | "yes"
        ))
    }

    /// A progress bar over `total` bytes, or a spinner if the total is not known; hidden unless a person
    /// watches.
    pub(super) fn byte_progress(&self, total: Option<u64>) -> ProgressBar {
        match total {
            Some(total) => self.progress(
                Some(total),
                "{prefix:.bold} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}",
            ),
            None => self.spinner("{prefix:.bold} {spinner} {bytes} {bytes_per_sec} {msg}"),
        }
    }

    /// A progress bar over a number of things.
    pub(super) fn count_progress(&self, total: u64) -> ProgressBar {
        self.progress(
            Some(total),
            "{prefix:.bold} {bar:30} {human_pos}/{human_len} {per_sec} {msg}",
        )
    }

    /// A spinner with a message.
    pub(super) fn waiting(&self) -> ProgressBar {
        self.spinner("{spinner} {prefix} {elapsed} {msg}")
    }

    fn spinner(&self, template: &str) -> ProgressBar {
        let bar = self.progress(None, template);
        bar.enable_steady_tick(TICK);
        bar
    }

    fn progress(&self, total: Option<u64>, template: &str) -> ProgressBar {
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        self.bars.add(bar.with_style(style))
    }
}
