// SPDX-License-Identifier: Apache-2.0
//! What may stand on the command line. The help texts are the documentation of the commands.

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use dovetail_model::check_name;

use super::{
    config::ConfigArgs,
    dead_letters::DeadLettersArgs,
    definitions::DefinitionsArgs,
    demo::DemoArgs,
    exclusions::{ExcludeArgs, ExclusionsArgs, UnexcludeArgs},
    infer::InferArgs,
    ingest::IngestArgs,
    replay::ReplayArgs,
    runs::{CancelArgs, DiffArgs, MoveArgs, RecomputeArgs, RollbackArgs, RunsArgs},
    sql::SqlArgs,
    status::StatusArgs,
    up::UpArgs,
};

const EXAMPLES: &str = "\
Examples:
  dovetail demo                               see it work, with real flights
  dovetail up --data ./data                   serve a data directory
  dovetail apply definitions/                 declare streams and views
  dovetail ingest flights flights.csv.gz      stream a file in
  dovetail sql 'SELECT * FROM airport_delays LIMIT 5'
  dovetail replay airport_delays --from 2001-01-03 --to 2001-01-04";

/// One SQL definition, answered over all history and up to the last event.
#[derive(Debug, Parser)]
#[command(name = "dovetail", version, after_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Which server, and as whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct Global {
    /// The server to ask
    #[arg(
        long,
        global = true,
        env = "DOVETAIL_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(super) url: String,
    /// The token to send, if the server has tokens configured
    #[arg(
        long,
        global = true,
        env = "DOVETAIL_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(super) token: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve a data directory, in all roles or in some of them
    Up(Box<UpArgs>),
    /// Show the settings that `up` would run with, and where each comes from
    Config(Box<ConfigArgs>),
    /// Stream shipped real flights into a fresh server, recompute while they arrive, compare
    Demo(DemoArgs),
    /// Ask a question, or declare streams and views; a prompt on a terminal
    Sql(SqlArgs),
    /// Propose the CREATE STREAM statement for a file
    Infer(InferArgs),
    /// Stream files or a pipe into a stream
    Ingest(IngestArgs),
    /// List events that could not be decoded, or try them again
    DeadLetters(DeadLettersArgs),
    /// Show what `apply` would change, and change nothing
    Plan(DefinitionsArgs),
    /// Bring a directory of .sql definitions into force
    Apply(DefinitionsArgs),
    /// Start a batch run of a view, and with --wait see how it ends
    Recompute(RecomputeArgs),
    /// Repair a view: recompute from the raw log, show the difference, ask, promote
    Replay(ReplayArgs),
    /// List batch runs, or show one
    Runs(RunsArgs),
    /// Compare a staged batch run with the generation it started from
    Diff(DiffArgs),
    /// Make a staged batch run the live generation
    Promote(MoveArgs),
    /// Throw a staged batch run away
    Discard(MoveArgs),
    /// Stop a running batch run
    Cancel(CancelArgs),
    /// Bring an earlier generation of a view back
    Rollback(RollbackArgs),
    /// Mark events of a stream as wrong; the next replay leaves them out
    Exclude(ExcludeArgs),
    /// List the exclusions in force on a stream
    Exclusions(ExclusionsArgs),
    /// Withdraw an exclusion
    Unexclude(UnexcludeArgs),
    /// Show where every seam stands, freshness, lag and the bottleneck
    Status(StatusArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  dovetail completions bash > ~/.local/share/bash-completion/completions/dovetail
  dovetail completions zsh > \"${fpath[1]}/_dovetail\"")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// How lists and records are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ShowFormat {
    /// For people
    #[default]
    Table,
    /// As the API answers
    Json,
}

/// `--format` of the commands that show lists and records.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Show {
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: ShowFormat,
}

impl Show {
    pub(super) fn is_json(self) -> bool {
        self.format == ShowFormat::Json
    }
}

/// Reads the name of a stream or view: such a name is also safe in a path.
pub(super) fn name(text: &str) -> Result<String, String> {
    check_name(text).map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}
