// SPDX-License-Identifier: Apache-2.0
//! How a command ends when it does not end well.

use std::process::ExitCode;

use dovetail_model::Problem;

use super::console::Console;
use crate::client::ClientError;
use crate::ingest::InputError;

/// Refused or failed.
const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line is wrong: fix it. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The server was not reached, refused or failed. Exit code 1.
    #[error("{0}")]
    Client(#[source] ClientError),
    /// Something else went wrong. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The output could not be written. Exit code 1, unless the reader went away, which is its right.
    #[error("cannot write the output: {0}")]
    Output(#[source] std::io::Error),
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Url { .. } => Self::Usage(error.to_string()),
            other => Self::Client(other),
        }
    }
}

impl From<InputError> for CliError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Format { .. } => Self::Usage(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<Problem> for CliError {
    fn from(problem: Problem) -> Self {
        let mut text = problem.detail;
        for (name, value) in &problem.members {
            text.push_str(&format!("\n  {name}: {value}"));
        }
        Self::Failed(text)
    }
}

impl CliError {
    /// The same error in other words, where the words are ours.
    pub(super) fn map_text(self, map: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Usage(text) => Self::Usage(map(&text)),
            Self::Failed(text) => Self::Failed(map(&text)),
            other => other,
        }
    }

    /// Says what happened on stderr and gives the exit code.
    pub(super) fn report(&self, console: &mut Console) -> ExitCode {
        if let Self::Output(error) = self
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        console.note(&format!("error: {self}"));
        match self {
            Self::Usage(_) => ExitCode::from(EXIT_USAGE),
            Self::Client(_) | Self::Failed(_) | Self::Output(_) => ExitCode::from(EXIT_FAILED),
        }
    }
}
