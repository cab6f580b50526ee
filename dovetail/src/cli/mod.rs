// SPDX-License-Identifier: Apache-2.0
//! The command line.
//!
//! Purpose: every command but the two that serve is a client of the HTTP API. Collaborators:
//! [`crate::client`], [`crate::ingest`]; the server comes in as a [`Server`].
//! Invariants: exit code 0 is done, 1 refused or failed (the problem on stderr), 2 a usage error; stdout
//! carries data only, so that every command can stand in a pipe. Non-goals: what the server decides.

mod args;
mod config;
mod console;
mod dead_letters;
mod definitions;
mod demo;
mod diff;
mod error;
mod exclusions;
mod grid;
mod infer;
mod ingest;
mod logging;
mod origin;
mod panics;
mod prompt;
mod replay;
mod runs;
mod sql;
mod statements;
mod status;
mod table;
mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use dovetail_serving_layer::sql::PLANNING_STACK_BYTES;

use crate::client::Client;
use args::{Cli, Command};
pub use config::CONFIG_FILE;
use config::Effective;
use console::Console;
pub use definitions::DefinitionFile;
pub use error::CliError;
pub use up::{
    CutsPlace, Keeping, Limits, MemoryLimits, RequestLimits, Role, Server, Serving, StorePlace,
    UpOptions,
};

/// Runs the command that `args` (the program's name first) say, and gives the exit code. `server` is what
/// `up` and `demo` start.
pub fn run(args: impl IntoIterator<Item = OsString>, server: &dyn Server) -> ExitCode {
    let mut console = Console::standard();
    let (cli, settings) = match parse(args.into_iter().collect()) {
        Ok(parsed) => parsed,
        Err(NotParsed::Arguments(error)) => {
            // Help and version go to stdout with code 0, usage errors to stderr with code 2. If even
            // that cannot be written, nobody reads it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(NotParsed::Settings(error)) => return error.report(&mut console),
    };
    panics::install();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        // Statements are parsed, copied and named where requests are read.
        .thread_stack_size(PLANNING_STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(format!("cannot start the runtime: {e}")))
        .and_then(|runtime| {
            let outcome = runtime.block_on(dispatch(cli, settings, &mut console, server));
            // A thread that still waits for the standard input must not keep the program.
            runtime.shutdown_background();
            outcome
        });
    match outcome.and_then(|()| console.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(&mut console),
    }
}

/// Why there is no command to run.
enum NotParsed {
    /// The arguments, or help and version.
    Arguments(clap::Error),
    /// A configuration file.
    Settings(CliError),
}

impl From<CliError> for NotParsed {
    fn from(error: CliError) -> Self {
        Self::Settings(error)
    }
}

/// What `args` say, over a configuration file where the command takes one, and then the settings that they come to.
fn parse(args: Vec<OsString>) -> Result<(Cli, Option<Effective>), NotParsed> {
    let mut grammar = command();
    let read = |grammar: &mut clap::Command| {
        let matches = grammar.try_get_matches_from_mut(&args);
        matches.map_err(|error| NotParsed::Arguments(origin::named(error, grammar, &args)))
    };
    let matches = read(&mut grammar)?;
    let (matches, settings) =
        config::settle(matches, &grammar, |mut over_file| read(&mut over_file))?;
    let cli = Cli::from_arg_matches(&matches)
        .map_err(|error| NotParsed::Arguments(error.format(&mut grammar)))?;
    Ok((cli, settings))
}

/// Commands that ask no server.
const WITHOUT_SERVER: [&str; 5] = ["up", "config", "demo", "infer", "completions"];

/// The grammar of the command line. Which server to ask is an option of every command, and shown where one is asked.
fn command() -> clap::Command {
    let mut command = Cli::command();
    // Brings the options of all into each.
    command.build();
    for name in WITHOUT_SERVER {
        command = command.mut_subcommand(name, |command| {
            command.mut_args(|arg| match arg.get_id().as_str() {
                "url" | "token" => arg.hide(true),
                _ => arg,
            })
        });
    }
    // Its output is to be read.
    command.mut_subcommand("demo", |demo| {
        demo.mut_args(|arg| match arg.get_id().as_str() {
            "log_level" => arg.default_value("warn"),
            _ => arg,
        })
    })
}

async fn dispatch(
    cli: Cli,
    settings: Option<Effective>,
    console: &mut Console,
    server: &dyn Server,
) -> Result<(), CliError> {
    let settings = || settings.as_ref().expect("the command takes settings");
    let client = || Client::new(&cli.global.url, cli.global.token.clone()).map_err(CliError::from);
    match cli.command {
        Command::Up(args) => {
            let ended = up::run(*args, settings(), console, server).await;
            ended.map_err(|error| error.map_text(|text| settings().with_sources(text)))
        }
        Command::Config(args) => {
            let shown = config::run(*args, settings(), console, server);
            shown.map_err(|error| error.map_text(|text| settings().with_sources(text)))
        }
        Command::Demo(args) => demo::run(args, console, server).await,
        Command::Sql(args) => sql::run(args, &client()?, console).await,
        Command::Infer(args) => infer::run(args, console).await,
        Command::Ingest(args) => ingest::run(args, &client()?, console).await,
        Command::DeadLetters(args) => dead_letters::run(args, &client()?, console).await,
        Command::Plan(args) => definitions::plan(args, &client()?, console).await,
        Command::Apply(args) => definitions::apply(args, &client()?, console).await,
        Command::Recompute(args) => runs::recompute(args, &client()?, console).await,
        Command::Replay(args) => replay::run(args, &client()?, console).await,
        Command::Runs(args) => runs::list(args, &client()?, console).await,
        Command::Diff(args) => runs::diff(args, &client()?, console).await,
        Command::Promote(args) => runs::promote(args, &client()?, console).await,
        Command::Discard(args) => runs::discard(args, &client()?, console).await,
        Command::Cancel(args) => runs::cancel(args, &client()?, console).await,
        Command::Rollback(args) => runs::rollback(args, &client()?, console).await,
        Command::Exclude(args) => exclusions::exclude(args, &client()?, console).await,
        Command::Exclusions(args) => exclusions::list(args, &client()?, console).await,
        Command::Unexclude(args) => exclusions::unexclude(args, &client()?, console).await,
        Command::Status(args) => status::run(args, &client()?, console).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "dovetail", &mut script);
            console.bytes(&script)
        }
    }
}
