// SPDX-License-Identifier: Apache-2.0
//! What a server says about itself: structured lines on stderr.

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::CliError;

/// How a server logs.
#[derive(Debug, Clone, Args)]
#[cfg_attr(test, derive(Default))]
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
    /// What is logged: error, warn, info, debug or trace, also per module (`info,dovetail_log=debug`).
    /// Libraries only warn, unless they are named (`info,hyper=debug`)
    #[arg(
        long,
        env = "DOVETAIL_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        value_parser = level
    )]
    log_level: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// The Delta kernel reports as its own trouble what its caller expects, such as a table that is not there
/// yet; what matters comes back as an error and is logged by whoever asked.
const QUIET: &str = "buoyant_kernel=off";

/// Starts to log.
pub(super) fn init(args: &LogArgs) -> Result<(), CliError> {
    let failed = |reason: String| CliError::Failed(format!("cannot start to log: {reason}"));
    let filter = directives(&args.log_level).map_err(failed)?;
    let filter = EnvFilter::try_new(filter).map_err(|e| failed(e.to_string()))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would say on stderr that stderr cannot be written, and panic over that: a full disk must not end a server.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let started = match args.log_format {
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|e| failed(e.to_string()))
}

/// Reads what is to be logged.
fn level(text: &str) -> Result<String, String> {
    let wrong = |reason: String| format!("it is not a log level: {reason}");
    let filter = directives(text).map_err(wrong)?;
    EnvFilter::try_new(filter).map_err(|error| wrong(error.to_string()))?;
    Ok(text.to_owned())
}

/// The filter for what a user has asked for: a level alone is meant for us, libraries only warn.
fn directives(level: &str) -> Result<String, String> {
    let mut filter = QUIET.to_owned();
    for directive in level.split(',').map(str::trim) {
        filter.push(',');
        match directive.parse::<LevelFilter>() {
            Ok(level) => {
                let libraries = level.min(LevelFilter::WARN);
                filter.push_str(&format!("{libraries},dovetail={level}"));
            }
            // A word alone would be taken for a module.
            Err(_) if !directive.contains(['=', '[']) => {
                return Err(format!(
                    "`{directive}` is none of error, warn, info, debug and trace, and no module=level"
                ));
            }
            Err(_) => filter.push_str(directive),
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_for_us_and_libraries_only_warn() {
        for (level, expected) in [
            ("info", "buoyant_kernel=off,warn,dovetail=info"),
            ("error", "buoyant_kernel=off,error,dovetail=error"),
            (
                "info, hyper=debug",
                "buoyant_kernel=off,warn,dovetail=info,hyper=debug",
            ),
        ] {
            let filter = directives(level).unwrap();
            assert_eq!(filter, expected);
            assert!(EnvFilter::try_new(filter).is_ok());
        }
        assert_eq!(level("debug"), Ok("debug".to_owned()));
        assert!(level("verbose").unwrap_err().contains("`verbose`"));
        assert!(level("=;=").is_err());
    }
}
