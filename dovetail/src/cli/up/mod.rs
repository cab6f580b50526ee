// SPDX-License-Identifier: Apache-2.0
//! `dovetail up`: options, logs and signals around a server. The server itself comes in as a [`Server`].

mod limits;
mod roles;
mod store;
mod tokens;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use dovetail_model::Problem;
use dovetail_serving_layer::http::TokenEntry;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::config::Effective;
use super::console::Console;
use super::logging::{self, LogArgs};
use super::{CliError, DefinitionFile, definitions};
use roles::RoleArgs;
use store::StoreArgs;

pub use limits::{Keeping, Limits, MemoryLimits, RequestLimits};
pub use roles::{CutsPlace, Role};
pub use store::StorePlace;
pub(super) use values::{address, duration};

/// What a second signal ends the program with, as shells expect of an interrupt.
const EXIT_INTERRUPTED: i32 = 130;

const EXAMPLES: &str = "\
Each option with a variable is a setting of the configuration file, too, under its name with underscores. An option goes
before its variable, that before the file, that before the default; `dovetail config` shows what holds.

Without tokens the server listens on loopback addresses only, and whoever reaches it may do everything.

SIGTERM or Ctrl-C stops it in order; a second one at once (nothing acknowledged is lost either way).

Examples:
  dovetail up
  dovetail up --data /var/lib/dovetail --apply definitions/
  dovetail up --config /etc/dovetail/dovetail.toml
  dovetail up --store s3://events/dovetail --store-option region=eu-central-1
  dovetail up --listen 0.0.0.0:8080 --tokens tokens.txt --log-format json
  dovetail up --store s3://events/dovetail --cuts 127.0.0.1:8090
  dovetail up --store s3://events/dovetail --roles serve --data replica-1 --listen 127.0.0.1:8081
  dovetail up --store s3://events/dovetail --roles batch --data worker-1 --listen 127.0.0.1:8082 --batch-memory 4GiB

A tokens file has a line for each token, name:role:secret, where the secret may be hidden:
  ops:admin:c1b8f0d6e7a94c02
  collector:write:5f0e9a7d33b14e55
  dashboard:read:blake3=64 hexadecimal digits";

/// What `dovetail up` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct UpArgs {
    /// A file of settings, in TOML [default: dovetail.toml in the data directory, if it is there]
    #[arg(long, env = "DOVETAIL_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The data directory; it is made if it is not there
    #[arg(
        long,
        env = "DOVETAIL_DATA",
        value_name = "DIR",
        default_value = "dovetail-data"
    )]
    pub(super) data: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
    /// Where to listen; port 0 takes a free one
    #[arg(
        long,
        env = "DOVETAIL_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        value_parser = address
    )]
    listen: SocketAddr,
    /// Bring this directory of .sql definitions into force before listening
    #[arg(long, env = "DOVETAIL_APPLY", value_name = "DIR")]
    apply: Option<PathBuf>,
    /// Who may do what: a file with a line name:role:secret for each token
    #[arg(long, env = "DOVETAIL_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,
    #[command(flatten)]
    roles: RoleArgs,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    log: LogArgs,
}

/// How a server is to run.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// The data directory; made if it is not there.
    pub data: PathBuf,
    /// Where everything else lives; in the data directory if none.
    pub store: Option<StorePlace>,
    /// Whether the store is taken from another data directory that has it.
    pub takes_over: bool,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Definitions to bring into force before listening.
    pub apply: Vec<DefinitionFile>,
    /// Who may do what; without any, loopback only and every caller is admin.
    pub tokens: Vec<TokenEntry>,
    /// What it does.
    pub role: Role,
    /// What the layers may take.
    pub limits: Limits,
}

/// How a server tells that it serves, and learns that it shall stop.
#[derive(Debug)]
pub struct Serving {
    /// Takes the address it listens on, once requests are answered.
    pub ready: oneshot::Sender<SocketAddr>,
    /// Stop in order: finish what is begun, lose nothing.
    pub shutdown: CancellationToken,
}

/// What `up` and `demo` start.
pub trait Server: Send + Sync {
    /// Whether a server would start with these options, as far as that can be told without a start: nothing is written, and
    /// nobody is asked. [`Server::serve`] refuses the same in the same words.
    fn check(&self, options: &UpOptions) -> Result<(), Problem>;

    /// Serves until `serving.shutdown`, then stops in order. Ends early only with an error.
    fn serve(&self, options: UpOptions, serving: Serving) -> BoxFuture<'_, Result<(), Problem>>;
}

impl UpArgs {
    /// How the server is to run, if all of it fits together and the files that it names can be read.
    pub(super) fn options(self, effective: &Effective) -> Result<UpOptions, CliError> {
        self.limits.check()?;
        self.store.check()?;
        let role = self.roles.role(&self, effective.is_given("speed_memory"))?;
        let of = |option: &'static str| {
            move |error: CliError| error.map_text(|text| format!("{option}: {text}"))
        };
        let apply = self.apply.as_deref().map(definitions::read_dir);
        let tokens = self.tokens.as_deref().map(tokens::read_tokens);
        Ok(UpOptions {
            role,
            data: self.data,
            takes_over: self.store.take_over,
            store: self.store.place(),
            listen: self.listen,
            apply: apply
                .transpose()
                .map_err(of("--apply"))?
                .unwrap_or_default(),
            tokens: tokens
                .transpose()
                .map_err(of("--tokens"))?
                .unwrap_or_default(),
            limits: self.limits,
        })
    }
}

pub(super) async fn run(
    args: UpArgs,
    effective: &Effective,
    console: &mut Console,
    server: &dyn Server,
) -> Result<(), CliError> {
    let log = args.log.clone();
    let options = args.options(effective)?;
    logging::init(&log)?;
    let (ready, listening) = oneshot::channel();
    let shutdown = CancellationToken::new();
    on_signals(shutdown.clone())?;
    let mut served = server.serve(options, Serving { ready, shutdown });
    tokio::select! {
        ended = &mut served => return ended.map_err(CliError::from),
        Ok(address) = listening => {
            console.line(format_args!("listening on http://{address}"))?;
            console.flush()?;
        }
    }
    served.await.map_err(CliError::from)
}

/// Cancels `shutdown` on SIGTERM or SIGINT; a second one ends the program at once.
pub(super) fn on_signals(shutdown: CancellationToken) -> Result<(), CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|e| CliError::Failed(format!("cannot listen for signals: {e}")))
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping in order; a second signal ends it at once");
        shutdown.cancel();
        next().await;
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(())
}
