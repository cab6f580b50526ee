// SPDX-License-Identifier: Apache-2.0
//! `dovetail demo`: the whole loop with real flights, and a proof that nothing jumped.
//!
//! ```text
//! events  ──0──────────30 %────────60 %──65 %─────────────85 %──────────────100 %──►
//! feed      full speed                     held back, then paced while …     the rest
//! batch                incremental runs          full run from raw │ promote
//! answers                          ├─ asked in a loop, each checked ───────────────┤
//!                                                           before │ after
//! ```
//! Every answer in the loop is checked, not only the two that are shown: see [`question`].
//! Non-goals: speed records; `bench` has those.

mod feed;
mod outcome;
mod play;
mod question;
mod sample;
#[cfg(test)]
mod tests;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::HumanCount;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::CliError;
use super::console::Console;
use super::logging::{self, LogArgs};
use super::up::{Limits, Role, Server, Serving, UpOptions, address, on_signals};
use crate::client::Client;
use play::play;
use sample::Sample;

/// What `dovetail demo` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail demo                        stays up until Ctrl-C
  dovetail demo --exit | tail -n 1     ends with a line of JSON: before, after, equal")]
pub(super) struct DemoArgs {
    /// A directory to keep the data in; it must be empty or not there [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen [default: a free port on 127.0.0.1]
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:0",
        hide_default_value = true,
        value_parser = address
    )]
    listen: SocketAddr,
    /// End when the comparison is done
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) async fn run(
    args: DemoArgs,
    console: &mut Console,
    server: &dyn Server,
) -> Result<(), CliError> {
    logging::init(&args.log)?;
    let sample = Sample::shipped()
        .map_err(|e| CliError::Failed(format!("the shipped sample cannot be read: {e}")))?;
    let shutdown = CancellationToken::new();
    on_signals(shutdown.clone())?;
    demonstrate(args, Arc::new(sample), shutdown, console, server).await
}

/// Runs the server, the demonstration against it, and stops the server in order.
async fn demonstrate(
    args: DemoArgs,
    sample: Arc<Sample>,
    shutdown: CancellationToken,
    console: &mut Console,
    server: &dyn Server,
) -> Result<(), CliError> {
    let (data, _temporary) = data_dir(args.data.as_deref())?;
    let options = UpOptions {
        role: Role::All { cuts: None },
        data: data.clone(),
        store: None,
        takes_over: false,
        listen: args.listen,
        apply: Vec::new(),
        tokens: Vec::new(),
        limits: Limits::default(),
    };
    let (ready, listening) = oneshot::channel();
    let stop = CancellationToken::new();
    let serving = Serving {
        ready,
        shutdown: stop.clone(),
    };
    let mut served = server.serve(options, serving);
    let show = async {
        let address = listening
            .await
            .map_err(|_| CliError::Failed("the server did not start".to_owned()))?;
        let client = Client::new(&format!("http://{address}"), None)?;
        console.line(format_args!(
            "{} real flights of January 2001\n\
             server    {}, its data in {}",
            HumanCount(sample.rows() as u64),
            client.base(),
            data.display()
        ))?;
        let outcome = tokio::select! {
            outcome = play(&client, sample, console) => outcome,
            () = shutdown.cancelled() => Err(CliError::Failed("interrupted".to_owned())),
        }?;
        if args.exit {
            console.line(outcome.to_json())?;
        }
        if !outcome.is_equal() {
            return Err(CliError::Failed(
                "the demo has not shown what it claims".to_owned(),
            ));
        }
        if !args.exit {
            console.line(invitation(client.base()))?;
            console.flush()?;
            shutdown.cancelled().await;
        }
        Ok(())
    };
    let shown = tokio::select! {
        shown = show => shown,
        ended = &mut served => {
            ended?;
            return Err(CliError::Failed("the server has stopped".to_owned()));
        }
    };
    stop.cancel();
    let stopped = served.await.map_err(CliError::from);
    shown.and(stopped)
}

/// The directory for the data, and a guard that removes it again if it is a temporary one.
fn data_dir(data: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>), CliError> {
    let Some(dir) = data else {
        let temporary = tempfile::Builder::new()
            .prefix("dovetail-demo-")
            .tempdir()
            .map_err(|e| CliError::Failed(format!("cannot make a temporary directory: {e}")))?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    };
    let is_fresh = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    if !is_fresh {
        return Err(CliError::Usage(format!(
            "the demo needs a fresh directory, and `{}` is not empty; `dovetail up --data {0}` serves it",
            dir.display()
        )));
    }
    Ok((dir.to_owned(), None))
}

/// What to try next.
fn invitation(url: &str) -> String {
    format!(
        "\nThe server stays up until Ctrl-C. Try:\n\n\
         \u{20} curl -s '{url}/v1/views/airport_delays?origin=SFO&order=-hour&limit=3'\n\
         \u{20} curl -s {url}/v1/sql -H 'content-type: text/plain' -d 'SELECT * FROM route_performance ORDER BY flights DESC LIMIT 3'\n\
         \u{20} curl -s {url}/v1/streams/flights -H 'content-type: application/x-ndjson' \\\n\
         \u{20}   -d '{{\"date\":\"2001-01-05T08:00:00\",\"delay\":5,\"distance\":2586,\"origin\":\"SFO\",\"destination\":\"JFK\"}}'\n\
         \u{20} curl -s {url}/v1/views/airport_delays/status\n\
         \u{20} dovetail --url {url} status\n\
         \u{20} dovetail --url {url} sql\n\
         \u{20} dovetail --url {url} exclude flights --where 'delay > 1000' --reason 'a broken clock'\n\
         \u{20} dovetail --url {url} replay airport_delays\n"
    )
}
