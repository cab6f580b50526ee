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

/// What of this program logs, by the names of its parts, and which libraries do.
const OURS: [&str; 7] = [
    "dovetail",
    "dovetail_batch_layer",
    "dovetail_exchange",
    "dovetail_kafka",
    "dovetail_log",
    "dovetail_serving_layer",
    "dovetail_speed_layer",
];
const LIBRARIES: [&str; 18] = [
    "axum",
    "buoyant_kernel",
    "datafusion",
    "deltalake",
    "h2",
    "hyper",
    "log",
    "mio",
    "object_store",
    "parquet",
    "quinn",
    "rdkafka",
    "reqwest",
    "rustls",
    "sqlparser",
    "tokio",
    "tonic",
    "tower",
];

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
            Err(_) => {
                check_module(directive)?;
                filter.push_str(directive);
            }
        }
    }
    Ok(filter)
}

/// Refuses a module that nothing is logged from, which would be a word without effect. One of ours is named to the letter,
/// down to the part; libraries have parts of many names, such as `hyper_util` and `datafusion_datasource_parquet`.
fn check_module(directive: &str) -> Result<(), String> {
    let module = directive.split(['=', '[']).next().unwrap_or_default();
    let first = module.split("::").next().unwrap_or_default().trim();
    let is_of = |library: &&str| {
        let rest = first.strip_prefix(*library);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    if first.is_empty() || OURS.contains(&first) || LIBRARIES.iter().any(is_of) {
        return Ok(());
    }
    Err(format!(
        "nothing is logged from `{first}`: there are {}, and the libraries {}",
        OURS.join(", "),
        LIBRARIES.join(", ")
    ))
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

    #[test]
    fn a_module_that_logs_nothing_is_refused_with_those_that_do() {
        for unknown in [
            "nope=debug",
            "dovetail_nope=debug",
            "dovetail-log=debug",
            "info,Hyper=warn",
            "hyperx=warn",
        ] {
            let error = level(unknown).unwrap_err();
            assert!(error.contains("nothing is logged from `"), "{error}");
            assert!(
                error.contains("there are dovetail, dovetail_batch_layer, "),
                "{error}"
            );
        }
        for known in [
            "info,dovetail_log=debug",
            "dovetail_log::raw=trace",
            "info,hyper_util=debug,datafusion_datasource_parquet=debug",
            "dovetail[append]=debug",
            "[{stream=flights}]=debug",
        ] {
            level(known).unwrap();
        }
    }
}
