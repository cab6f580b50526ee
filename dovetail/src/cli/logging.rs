// SPDX-License-Identifier: Apache-2.0
//! What a server says about itself: structured lines on stderr.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::CliError;

/// How a server logs.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct LogArgs {
    /// How log lines are written to stderr
    #[arg(
        long,
        value_enum,
        env = "DOVETAIL_LOG_FORMAT",
        value_name = "FORMAT",
        default_value_t
    )]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, also per module (`info,dovetail_log=debug`)
    #[arg(long, env = "DOVETAIL_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// The Delta kernel calls a table that is not there yet an error; whoever asked it to look decides that.
const QUIET: &str = "buoyant_kernel::snapshot::builder=off";

/// Starts to log, at `default_level` unless said otherwise.
pub(super) fn init(args: &LogArgs, default_level: &str) -> Result<(), CliError> {
    let level = args.log_level.as_deref().unwrap_or(default_level);
    let filter = EnvFilter::try_new(format!("{QUIET},{level}"))
        .map_err(|e| CliError::Usage(format!("`{level}` is not a log level: {e}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match args.log_format {
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|e| CliError::Failed(format!("cannot start to log: {e}")))
}
