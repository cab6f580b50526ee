// SPDX-License-Identifier: Apache-2.0
//! `dovetail up`: options, logs and signals around a server. The server itself comes in as a [`Server`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use dovetail_log::object::{StoreOption, StoreUrl};
use dovetail_model::Problem;
use dovetail_serving_layer::http::{TokenEntry, TokenError};
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::console::Console;
use super::logging::{self, LogArgs};
use super::{CliError, DefinitionFile, definitions};

const MIB: usize = 1024 * 1024;

/// What a second signal ends the program with, as shells expect of an interrupt.
const EXIT_INTERRUPTED: i32 = 130;

const EXAMPLES: &str = "\
Without tokens the server listens on loopback addresses only, and whoever reaches it may do everything.

SIGTERM or Ctrl-C stops it in order; a second one at once (nothing acknowledged is lost either way).

Examples:
  dovetail up
  dovetail up --data /var/lib/dovetail --apply definitions/
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
    /// The data directory; it is made if it is not there
    #[arg(
        long,
        env = "DOVETAIL_DATA",
        value_name = "DIR",
        default_value = "dovetail-data"
    )]
    data: PathBuf,
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

/// Which part of the work this process does, and how processes of one store find each other.
#[derive(Debug, Args)]
struct RoleArgs {
    /// What this process does of the work on a store that others work on, too. `ingest,batch,serve` is everything.
    /// `batch` has the store: it defines, recomputes and publishes. `ingest` takes its share of the partitions of the
    /// topics that streams read. `serve` is a replica: it answers queries, and hands on all that is not a read. `batch`
    /// without --cuts is a worker: a replica that computes batch runs for the process that has the store
    #[arg(
        long,
        env = "DOVETAIL_ROLES",
        value_name = "ROLES",
        default_value = "ingest,batch,serve",
        value_parser = roles
    )]
    roles: Roles,
    /// Where other processes of the store reach this one: replicas take of it what is not in the store yet; port 0 takes
    /// a free one
    #[arg(long, env = "DOVETAIL_CUTS", value_name = "ADDRESS", value_parser = address)]
    cuts: Option<SocketAddr>,
    /// The name or address by which they reach this process [default: the addresses that it listens on]
    #[arg(
        long,
        env = "DOVETAIL_ADVERTISE",
        value_name = "HOST",
        requires = "cuts"
    )]
    advertise: Option<String>,
    /// The token that this process shows to others of the store, if they have tokens: a replica's may read, that of
    /// `ingest` and `batch` is an admin's
    #[arg(
        long,
        env = "DOVETAIL_PEER_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    peer_token: Option<String>,
}

/// The roles that a process may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roles {
    All,
    Batch,
    Ingest,
    Serve,
}

/// What a process does.
#[derive(Debug, Clone)]
pub enum Role {
    /// Everything.
    All {
        /// How replicas reach it, if there are to be any.
        cuts: Option<CutsPlace>,
    },
    /// It has the store; others take the events.
    Decides {
        /// How they and replicas reach it.
        cuts: CutsPlace,
        /// What it shows to them.
        peer_token: Option<String>,
    },
    /// It takes its share of the events.
    Ingests {
        /// How others reach it.
        cuts: CutsPlace,
        /// What it shows to them.
        peer_token: Option<String>,
    },
    /// It reads.
    Replica {
        /// What it shows to others.
        peer_token: Option<String>,
        /// Whether it computes batch runs, too, for the process that has the store.
        computes: bool,
    },
}

/// Where replicas reach a process.
#[derive(Debug, Clone)]
pub struct CutsPlace {
    /// Where cuts are handed out.
    pub listen: SocketAddr,
    /// The host that others know this process by; if none, that of the addresses.
    pub advertise: Option<String>,
}

impl RoleArgs {
    /// What it comes to beside the other options.
    fn role(&self, up: &UpArgs) -> Result<Role, CliError> {
        let usage = |text: &str| Err(CliError::Usage(text.to_owned()));
        if (self.cuts.is_some() || self.roles != Roles::All)
            && up.store.store.as_ref().is_some_and(StoreUrl::is_private)
        {
            return usage(
                "a store at memory:// is in one process, and no other one ever sees it: name one that they share",
            );
        }
        // With it, others are to reach it: then it has the store.
        let computes = self.roles == Roles::Batch && self.cuts.is_none();
        if computes || self.roles == Roles::Serve {
            let (name, does) = match computes {
                true => ("batch without --cuts", "reads and computes"),
                false => ("serve", "reads"),
            };
            if up.store.store.is_none() {
                return Err(CliError::Usage(format!(
                    "--roles {name} needs --store: that of the process that takes the events"
                )));
            }
            if up.store.take_over || up.apply.is_some() || self.cuts.is_some() {
                return Err(CliError::Usage(format!(
                    "--roles {name} only {does}: --take-over, --apply and --cuts are for the process that takes the events"
                )));
            }
            if computes && up.limits.speed_memory_bytes.is_some() {
                return usage(
                    "--speed-memory is for processes that take the events: a worker holds none of what generations do not cover yet; --batch-memory is for what it computes",
                );
            }
            return Ok(Role::Replica {
                peer_token: self.peer_token.clone(),
                computes,
            });
        }
        if self.roles == Roles::All && self.peer_token.is_some() {
            return usage(
                "--peer-token is what a process shows to others that do part of the work, and this one does all of it",
            );
        }
        let Some(listen) = self.cuts else {
            return match self.roles {
                Roles::All => Ok(Role::All { cuts: None }),
                _ => usage("--roles ingest needs --cuts: others reach the process there"),
            };
        };
        let everywhere = [listen, up.listen]
            .iter()
            .any(|at| at.ip().is_unspecified());
        if everywhere && self.advertise.is_none() {
            return usage(
                "others cannot reach 0.0.0.0: say with --advertise by which name or address they reach this process",
            );
        }
        let cuts = CutsPlace {
            listen,
            advertise: self.advertise.clone(),
        };
        let peer_token = self.peer_token.clone();
        let is_shared = up.store.store.as_ref().is_some_and(StoreUrl::is_remote);
        match self.roles {
            Roles::All | Roles::Serve => Ok(Role::All { cuts: Some(cuts) }),
            _ if !is_shared => usage(
                "--roles batch and --roles ingest need a --store that several processes can write: s3://, gs:// or az://",
            ),
            Roles::Batch => Ok(Role::Decides { cuts, peer_token }),
            Roles::Ingest if up.store.take_over || up.apply.is_some() => usage(
                "--roles ingest decides nothing: --take-over and --apply are for the process with --roles batch",
            ),
            Roles::Ingest => Ok(Role::Ingests { cuts, peer_token }),
        }
    }
}

/// Reads a list of roles.
fn roles(text: &str) -> Result<Roles, String> {
    let mut named: Vec<&str> = text.split(',').map(str::trim).collect();
    named.sort_unstable();
    match named.as_slice() {
        ["batch", "ingest", "serve"] | ["batch", "ingest"] => Ok(Roles::All),
        ["batch"] | ["batch", "serve"] => Ok(Roles::Batch),
        ["ingest"] | ["ingest", "serve"] => Ok(Roles::Ingest),
        ["serve"] => Ok(Roles::Serve),
        _ => Err(
            "it is one or more of `ingest`, `batch` and `serve`, such as `ingest,batch,serve`"
                .to_owned(),
        ),
    }
}

/// Where the raw log, the generations and the catalog live.
#[derive(Debug, Args)]
struct StoreArgs {
    /// Where the raw log, the generations and the catalog live: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,
    /// az://CONTAINER/PREFIX or file:///DIRECTORY [default: store/ in the data directory]
    #[arg(long, env = "DOVETAIL_STORE", value_name = "URL")]
    store: Option<StoreUrl>,
    /// More about the store, once for each: endpoint=URL, region=NAME, addressing=path or virtual-hosted,
    /// allow_http=true, account=NAME; several by commas, too. Keys come from the environment
    #[arg(
        long = "store-option",
        env = "DOVETAIL_STORE_OPTIONS",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        requires = "store"
    )]
    options: Vec<StoreOption>,
    /// Take the store from the data directory that has it. Events that only its log holds are given up, and a process
    /// that still runs there writes nothing more and ends
    #[arg(long)]
    take_over: bool,
}

impl StoreArgs {
    fn place(self) -> Option<StorePlace> {
        let url = self.store?;
        Some(StorePlace {
            url,
            options: self.options,
        })
    }
}

/// A store that is not in the data directory.
#[derive(Debug, Clone)]
pub struct StorePlace {
    /// Where it is.
    pub url: StoreUrl,
    /// What else there is to say of it.
    pub options: Vec<StoreOption>,
}

/// What the layers may take.
#[derive(Debug, Clone, Copy, Args)]
pub struct Limits {
    /// Memory of all that generations do not cover yet, such as 2GiB: at half of it incremental runs start by
    /// themselves, at the whole of it appends wait [default: 1GiB]
    #[arg(
        long = "speed-memory",
        env = "DOVETAIL_SPEED_MEMORY",
        value_name = "SIZE",
        value_parser = speed_memory
    )]
    pub speed_memory_bytes: Option<usize>,
    /// Memory of all batch runs together, such as 512MiB or 2GiB: each that computes has an even share, and spills
    /// to disk beyond it
    #[arg(
        long = "batch-memory",
        env = "DOVETAIL_BATCH_MEMORY",
        value_name = "SIZE",
        default_value = "512MiB",
        value_parser = batch_memory
    )]
    pub batch_memory_bytes: usize,
    /// How many full or repair runs compute at a time, and as many incremental ones beside them; others wait. A run
    /// uses all cores, so more of them mostly share the memory
    #[arg(
        long = "batch-runs",
        env = "DOVETAIL_BATCH_RUNS",
        value_name = "N",
        default_value_t = 1,
        value_parser = at_least_one
    )]
    pub batch_runs: usize,
    /// Disk for parts of a remote store's files, in cache/ in the data directory; 0MiB keeps none there
    #[arg(
        long = "cache-disk",
        env = "DOVETAIL_CACHE_DISK",
        value_name = "SIZE",
        default_value = "4GiB",
        value_parser = size
    )]
    pub cache_disk_bytes: usize,
    /// Memory for parts of a remote store's files; 0MiB keeps none
    #[arg(
        long = "cache-memory",
        env = "DOVETAIL_CACHE_MEMORY",
        value_name = "SIZE",
        default_value = "256MiB",
        value_parser = size
    )]
    pub cache_memory_bytes: usize,
}

impl Limits {
    /// What the speed layer may take, in bytes.
    pub fn speed_memory(&self) -> usize {
        self.speed_memory_bytes.unwrap_or(SPEED_MEMORY)
    }

    /// Whether each batch run that computes has enough: as many incremental ones do as others.
    fn check(self) -> Result<(), CliError> {
        let least = self.batch_runs.saturating_mul(BATCH_MEMORY_MIN);
        if self.batch_memory_bytes >= least {
            return Ok(());
        }
        Err(CliError::Usage(format!(
            "--batch-memory {}MiB is too little for --batch-runs {}, which takes at least {}MiB: each run that computes has an even share",
            self.batch_memory_bytes / MIB,
            self.batch_runs,
            least / MIB
        )))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            speed_memory_bytes: None,
            batch_memory_bytes: 512 * MIB,
            batch_runs: 1,
            cache_disk_bytes: 4096 * MIB,
            cache_memory_bytes: 256 * MIB,
        }
    }
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
    /// Serves until `serving.shutdown`, then stops in order. Ends early only with an error.
    fn serve(&self, options: UpOptions, serving: Serving) -> BoxFuture<'_, Result<(), Problem>>;
}

pub(super) async fn run(
    args: UpArgs,
    console: &mut Console,
    server: &dyn Server,
) -> Result<(), CliError> {
    args.limits.check()?;
    let role = args.roles.role(&args)?;
    logging::init(&args.log, "info")?;
    let options = UpOptions {
        role,
        data: args.data,
        takes_over: args.store.take_over,
        store: args.store.place(),
        listen: args.listen,
        apply: match &args.apply {
            Some(dir) => definitions::read_dir(dir)?,
            None => Vec::new(),
        },
        tokens: match &args.tokens {
            Some(file) => read_tokens(file)?,
            None => Vec::new(),
        },
        limits: args.limits,
    };
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

/// Reads an address to listen on: an IP address, or `localhost`, and a port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let by_number = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    by_number
        .parse()
        .map_err(|_| "it is an IP address and a port, such as 127.0.0.1:8080".to_owned())
}

/// For each of `--batch-runs`. Below this, a sort has no room for what it reads back.
const BATCH_MEMORY_MIN: usize = 64 * MIB;

fn batch_memory(text: &str) -> Result<usize, String> {
    size_from(BATCH_MEMORY_MIN, text)
}

const SPEED_MEMORY: usize = 1024 * MIB;

/// Below this, appends wait for every batch run.
const SPEED_MEMORY_MIN: usize = 64 * MIB;

fn speed_memory(text: &str) -> Result<usize, String> {
    size_from(SPEED_MEMORY_MIN, text)
}

fn size_from(least: usize, text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    if bytes < least {
        return Err(format!("at least {}MiB", least / MIB));
    }
    Ok(bytes)
}

/// Reads an amount of memory or disk: a whole number and its unit.
fn size(text: &str) -> Result<usize, String> {
    let units = [("MiB", MIB), ("GiB", 1024 * MIB)];
    let found = units.iter().find_map(|(unit, bytes)| {
        let number = text.strip_suffix(unit)?.trim_end().parse::<usize>().ok()?;
        number.checked_mul(*bytes)
    });
    found.ok_or_else(|| "it is a whole number of MiB or GiB, such as 512MiB".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "it is a whole number, at least 1".to_owned())
}

/// Reads a tokens file: an entry on each line, `#` for comments.
fn read_tokens(file: &Path) -> Result<Vec<TokenEntry>, CliError> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| CliError::Usage(format!("cannot read `{}`: {e}", file.display())))?;
    let tokens = parse_tokens(&text).map_err(|(line, error)| {
        CliError::Usage(format!("`{}`, line {line}: {error}", file.display()))
    })?;
    if tokens.is_empty() {
        // Without tokens everyone is admin: not what somebody wants who names a file of them.
        return Err(CliError::Usage(format!(
            "`{}` has no token",
            file.display()
        )));
    }
    Ok(tokens)
}

/// The entries of a file's text, or the line that is wrong and why. Names and secrets are given once: one secret
/// of two roles would be of the larger one.
fn parse_tokens(text: &str) -> Result<Vec<TokenEntry>, (usize, String)> {
    let lines = text.lines().map(str::trim).enumerate();
    let mut entries: Vec<TokenEntry> = vec![];
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let wrong = |reason: String| (index + 1, reason);
        let entry: TokenEntry = line.parse().map_err(|e: TokenError| wrong(e.to_string()))?;
        if let Some(known) = entries.iter().find(|known| known.clashes_with(&entry)) {
            return Err(wrong(format!(
                "its name or its secret is that of `{}`: each token has its own",
                known.name()
            )));
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `dovetail up` with these arguments does.
    fn role_of(arguments: &[&str]) -> Result<Role, String> {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            up: UpArgs,
        }
        let arguments = ["up"].iter().chain(arguments);
        let parsed =
            <Only as clap::Parser>::try_parse_from(arguments).map_err(|e| e.to_string())?;
        let role = parsed.up.roles.role(&parsed.up);
        role.map_err(|error| error.to_string())
    }

    #[test]
    fn roles_that_contradict_other_options_are_refused() {
        assert!(matches!(role_of(&[]), Ok(Role::All { cuts: None })));
        let ordered = ["--roles", "serve, ingest,batch"];
        assert!(matches!(role_of(&ordered), Ok(Role::All { cuts: None })));
        let replica = ["--roles", "serve", "--store", "s3://events"];
        assert!(matches!(
            role_of(&replica),
            Ok(Role::Replica {
                computes: false,
                ..
            })
        ));
        let worker = ["--roles", "batch", "--store", "s3://events"];
        assert!(matches!(
            role_of(&worker),
            Ok(Role::Replica { computes: true, .. })
        ));
        let roles = |roles| {
            [
                ["--roles", roles],
                ["--store", "s3://events"],
                ["--cuts", "127.0.0.1:0"],
            ]
            .concat()
        };
        assert!(matches!(
            role_of(&roles("batch,serve")),
            Ok(Role::Decides { .. })
        ));
        assert!(matches!(
            role_of(&roles("ingest")),
            Ok(Role::Ingests { .. })
        ));
        let advertised = [
            "--listen",
            "0.0.0.0:8080",
            "--cuts",
            "0.0.0.0:8090",
            "--advertise",
            "a",
        ];
        assert!(matches!(
            role_of(&advertised),
            Ok(Role::All { cuts: Some(_) })
        ));
        for (arguments, said) in [
            (&["--roles", "serve"][..], "needs --store"),
            (&["--roles", "ingest"], "needs --cuts"),
            (&["--roles", "batch", "--cuts", "127.0.0.1:0"], "s3://"),
            (
                &[
                    "--roles",
                    "ingest",
                    "--cuts",
                    "127.0.0.1:0",
                    "--store",
                    "s3://e",
                    "--take-over",
                ],
                "decides nothing",
            ),
            (&["--roles", "serve", "--store", "memory://"], "they share"),
            (
                &["--cuts", "127.0.0.1:0", "--store", "memory://"],
                "they share",
            ),
            (&["--roles", "serve,serve"], "one or more of"),
            (&["--roles", ""], "one or more of"),
            (
                &["--roles", "serve", "--store", "s3://e", "--take-over"],
                "only reads",
            ),
            (
                &[
                    "--roles",
                    "serve",
                    "--store",
                    "s3://e",
                    "--cuts",
                    "127.0.0.1:0",
                ],
                "only reads",
            ),
            (
                &["--roles", "serve", "--store", "s3://e", "--apply", "x"],
                "only reads",
            ),
            (&["--roles", "batch"], "needs --store"),
            (
                &["--roles", "batch", "--store", "s3://e", "--take-over"],
                "reads and computes",
            ),
            (
                &[
                    "--roles",
                    "batch",
                    "--store",
                    "s3://e",
                    "--speed-memory",
                    "1GiB",
                ],
                "holds none",
            ),
            (&["--peer-token", "x"], "does all of it"),
            (&["--advertise", "x"], "--cuts"),
            (&["--cuts", "0.0.0.0:8090"], "--advertise"),
            (
                &["--cuts", "127.0.0.1:8090", "--listen", "0.0.0.0:8080"],
                "--advertise",
            ),
        ] {
            let refused = role_of(arguments).map(|_| ()).unwrap_err();
            assert!(refused.contains(said), "{arguments:?}: {refused}");
        }
    }

    #[test]
    fn an_address_is_numbers_or_localhost() {
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        assert_eq!(address("localhost:0"), Ok(local));
        assert_eq!(address("127.0.0.1:0"), Ok(local));
        assert!(address("[::1]:8080").is_ok());
        for wrong in ["localhost", ":8080", "example.org:80", "8080"] {
            assert!(address(wrong).unwrap_err().contains("such as"), "{wrong}");
        }
    }

    #[test]
    fn an_amount_of_memory_has_a_unit_and_enough() {
        assert_eq!(batch_memory("512MiB"), Ok(512 * MIB));
        assert_eq!(batch_memory("2 GiB"), Ok(2048 * MIB));
        assert_eq!(
            batch_memory("512MiB"),
            Ok(Limits::default().batch_memory_bytes)
        );
        for wrong in ["512", "1TB", "-1MiB", "1.5GiB", "99999999999999GiB", ""] {
            assert!(
                batch_memory(wrong).unwrap_err().contains("such as"),
                "{wrong}"
            );
        }
        assert_eq!(batch_memory("63MiB"), Err("at least 64MiB".to_owned()));
        assert_eq!(speed_memory("1GiB"), Ok(Limits::default().speed_memory()));
        assert_eq!(speed_memory("63MiB"), Err("at least 64MiB".to_owned()));
        let check = |mib: usize, batch_runs| {
            let limits = Limits {
                batch_memory_bytes: mib * MIB,
                batch_runs,
                ..Limits::default()
            };
            limits.check()
        };
        assert!(check(64, 1).is_ok() && check(192, 3).is_ok());
        let error = check(191, 3).unwrap_err().to_string();
        assert!(
            error.contains("--batch-runs 3, which takes at least 192MiB"),
            "{error}"
        );
        assert_eq!(at_least_one("2"), Ok(2));
        assert!(at_least_one("0").is_err() && at_least_one("x").is_err());
    }

    #[test]
    fn a_tokens_file_has_an_entry_on_each_line() {
        let text = "# ours\n\nops:admin:c1b8f0d6e7a94c02\r\n a:read:9d1c2b7744aa4f10 \n";
        assert_eq!(parse_tokens(text).unwrap().len(), 2);
        let (line, error) = parse_tokens("# x\nops:root:c1b8f0d6e7a94c02").unwrap_err();
        assert_eq!(line, 2);
        assert!(!error.contains("c1b8"), "{error}");
        for twice in [
            "a:read:c1b8f0d6e7a94c02\nb:admin:c1b8f0d6e7a94c02",
            "a:read:c1b8f0d6e7a94c02\na:admin:9d1c2b7744aa4f10",
        ] {
            let (line, error) = parse_tokens(twice).unwrap_err();
            assert!(line == 2 && error.contains("that of `a`"), "{error}");
        }
    }

    #[test]
    fn a_file_without_tokens_does_not_open_the_server_to_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        std::fs::write(&file, "# none yet\n").unwrap();
        assert!(
            matches!(read_tokens(&file), Err(CliError::Usage(text)) if text.contains("no token"))
        );
    }
}
