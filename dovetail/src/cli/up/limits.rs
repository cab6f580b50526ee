// SPDX-License-Identifier: Apache-2.0
//! What a server may take, and how long it keeps what it no longer needs.
//!
//! Each setting is defined here once: its name, variable, default, bounds, and what more or less of it costs.
//! `dovetail up --help`, the configuration file, `dovetail config` and the table in `docs/operations.md` are made of
//! these definitions. What no operator has had to change is a constant where it is used.

use std::time::Duration;

use clap::{Args, Command, FromArgMatches as _};

use super::values::{GIB, MIB, count, duration, size};
use crate::cli::CliError;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEARS: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Below this, appends wait for every batch run.
const SPEED_MEMORY_MIN: usize = 64 * MIB;
/// For each of `--batch-runs`. Below this, a sort has no room for what it reads back.
const BATCH_MEMORY_MIN: usize = 64 * MIB;
/// Below this, a query over a few files of a view may fail.
const QUERY_MEMORY_MIN: usize = 64 * MIB;
/// What `dovetail ingest` sends at a time.
const BODY_MIN: usize = crate::ingest::split::PART_BYTES;
/// All bodies that are held together may have twice as much.
const BODY_MAX: usize = 256 * MIB;
/// More than a machine has: a slip of the keyboard, and sums of some settings must fit a number.
const MEMORY_MAX: usize = 16 * 1024 * GIB;
const DISK_MAX: usize = 1024 * 1024 * GIB;
/// A run uses all cores.
const BATCH_RUNS_MAX: usize = 1_024;
/// About what a system can be brought to give a process in file descriptors.
const CONNECTIONS_MAX: usize = 1_000_000;
/// Each at work has a share of the memory of queries, and a client's connection.
const QUERIES_MAX: usize = 100_000;
/// Each is an entry of the catalog, which is in memory: of a view that refreshes every minute, those of two years.
const KEEP_MAX: usize = 1_000_000;

/// What the layers may take, and how long they keep what they no longer need.
#[derive(Debug, Clone, Copy, Args)]
pub struct Limits {
    /// Memory and disk.
    #[command(flatten)]
    pub memory: MemoryLimits,
    /// Requests.
    #[command(flatten)]
    pub requests: RequestLimits,
    /// Archive and retention.
    #[command(flatten)]
    pub keeping: Keeping,
}

/// Memory, and disk that is not data.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Memory and disk")]
pub struct MemoryLimits {
    /// Memory of all that generations do not cover yet, such as 2GiB: at the whole of it appends wait. More of it lets
    /// views refresh less often, and a start, which makes it anew, takes longer: 9 s for 1.1 GB in one measurement
    #[arg(
        long = "speed-memory",
        env = "DOVETAIL_SPEED_MEMORY",
        value_name = "SIZE",
        default_value = "768MiB",
        value_parser = size(SPEED_MEMORY_MIN, MEMORY_MAX)
    )]
    pub speed_memory_bytes: usize,
    /// Where in --speed-memory incremental runs start by themselves. Lower, they start more often and appends have more
    /// room until they wait [default: half of --speed-memory]
    #[arg(
        long = "speed-memory-soft",
        env = "DOVETAIL_SPEED_MEMORY_SOFT",
        value_name = "SIZE",
        value_parser = size(MIB, MEMORY_MAX)
    )]
    pub speed_memory_soft_bytes: Option<usize>,
    /// Memory of all queries together; one that needs more than is left is refused with 429. Sorting
    /// 10 million rows of 100 bytes takes 1 GiB. For each 64 MiB of it, one that aggregates, sorts or joins is at work
    #[arg(
        long = "query-memory",
        env = "DOVETAIL_QUERY_MEMORY",
        value_name = "SIZE",
        default_value = "1GiB",
        value_parser = size(QUERY_MEMORY_MIN, MEMORY_MAX)
    )]
    pub query_memory_bytes: usize,
    /// Memory of all batch runs together, such as 512MiB or 2GiB: each that computes has an even share, and spills
    /// to disk beyond it. At least 64MiB for each of --batch-runs
    #[arg(
        long = "batch-memory",
        env = "DOVETAIL_BATCH_MEMORY",
        value_name = "SIZE",
        default_value = "512MiB",
        value_parser = size(BATCH_MEMORY_MIN, MEMORY_MAX)
    )]
    pub batch_memory_bytes: usize,
    /// How many full or repair runs compute at a time, and as many incremental ones beside them; others wait. A run
    /// uses all cores, so more of them mostly share the memory
    #[arg(
        long = "batch-runs",
        env = "DOVETAIL_BATCH_RUNS",
        value_name = "N",
        default_value = "1",
        value_parser = count(BATCH_RUNS_MAX)
    )]
    pub batch_runs: usize,
    /// Disk for parts of a remote store's files, in cache/ in the data directory; 0MiB keeps none there. Without
    /// it and --cache-memory each key lookup is 2 requests, $200 a month at 100 lookups a second
    #[arg(
        long = "cache-disk",
        env = "DOVETAIL_CACHE_DISK",
        value_name = "SIZE",
        default_value = "4GiB",
        value_parser = size(0, DISK_MAX)
    )]
    pub cache_disk_bytes: usize,
    /// Memory for parts of a remote store's files; 0MiB keeps none. Its parts are 1 MiB: the default
    /// holds 256 of them
    #[arg(
        long = "cache-memory",
        env = "DOVETAIL_CACHE_MEMORY",
        value_name = "SIZE",
        default_value = "256MiB",
        value_parser = size(0, MEMORY_MAX)
    )]
    pub cache_memory_bytes: usize,
}

/// What requests may take.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Requests")]
pub struct RequestLimits {
    /// Connections at once; more wait in the kernel's backlog. Each takes a file descriptor, of which the system gives a
    /// process 1024 unless told otherwise (`ulimit -n`, LimitNOFILE)
    #[arg(
        long,
        env = "DOVETAIL_CONNECTIONS",
        value_name = "N",
        default_value = "1024",
        value_parser = count(CONNECTIONS_MAX)
    )]
    pub connections: usize,
    /// Queries at once; more wait for their turn until their time is over. All share --query-memory and the cores: with
    /// both defaults each has 16 MiB when all are at work
    #[arg(
        long,
        env = "DOVETAIL_QUERIES",
        value_name = "N",
        default_value = "64",
        value_parser = count(QUERIES_MAX)
    )]
    pub queries: usize,
    /// Time of a query that does not say timeout_ms itself, waiting included. Longer lets large questions end; shorter
    /// frees their memory and their place among --queries sooner. With timeout_ms it is 1 h at most
    #[arg(
        long,
        env = "DOVETAIL_QUERY_TIMEOUT",
        value_name = "TIME",
        default_value = "30s",
        value_parser = duration(Duration::from_millis(1), HOUR)
    )]
    pub query_timeout: Duration,
    /// Bytes of the body of an append, as sent and decompressed, from 4MiB to 256MiB; `dovetail ingest` splits. An append
    /// is atomic and held whole: larger ones let fewer clients append at once, as all bodies together have 512 MiB
    #[arg(
        long,
        env = "DOVETAIL_BODY_LIMIT",
        value_name = "SIZE",
        default_value = "64MiB",
        value_parser = size(BODY_MIN, BODY_MAX)
    )]
    pub body_limit: usize,
    /// How long requests may go on after a stop began; queries have 2 s of it. Whoever kills the process after a time
    /// (TimeoutStopSec of systemd, 30 s in our units) is to allow 15 s more
    #[arg(
        long,
        env = "DOVETAIL_SHUTDOWN_GRACE",
        value_name = "TIME",
        default_value = "10s",
        value_parser = duration(Duration::ZERO, HOUR)
    )]
    pub shutdown_grace: Duration,
}

/// When events are archived, and how long things stay.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Archive and retention")]
pub struct Keeping {
    /// How long events wait before they are archived, at most. Shorter shows them to other engines sooner, and each
    /// archive is 2 requests to a remote store: at 5 s $6 a month for each stream that gets events
    #[arg(
        long,
        env = "DOVETAIL_ARCHIVE_INTERVAL",
        value_name = "TIME",
        default_value = "5s",
        value_parser = duration(SECOND, HOUR)
    )]
    pub archive_interval: Duration,
    /// Events in memory are archived as soon as they take this much; never more than an eighth of --speed-memory. Larger
    /// makes fewer and larger files of the raw log, until upkeep makes 256 MiB of them
    #[arg(
        long,
        env = "DOVETAIL_ARCHIVE_SIZE",
        value_name = "SIZE",
        default_value = "64MiB",
        value_parser = size(MIB, MEMORY_MAX)
    )]
    pub archive_size: usize,
    /// Generations of each view that stay readable, the newest ones. More of them reach further back with a rollback or
    /// generation=, and each keeps the files that newer ones replaced: at most all of a view once more
    #[arg(
        long,
        env = "DOVETAIL_KEEP_GENERATIONS",
        value_name = "N",
        default_value = "10",
        value_parser = count(KEEP_MAX)
    )]
    pub keep_generations: usize,
    /// Generations that are younger than this stay, too, however many. A view that refreshes every minute has 1440 of
    /// them in 24 h
    #[arg(
        long,
        env = "DOVETAIL_KEEP_GENERATIONS_FOR",
        value_name = "TIME",
        default_value = "24h",
        value_parser = duration(Duration::ZERO, YEARS)
    )]
    pub keep_generations_for: Duration,
    /// Batch runs of each view that stay in the ledger, the newest ones, beside those that made a readable generation.
    /// A view that refreshes every minute makes 1000 of them in 17 h
    #[arg(
        long,
        env = "DOVETAIL_KEEP_RUNS",
        value_name = "N",
        default_value = "1000",
        value_parser = count(KEEP_MAX)
    )]
    pub keep_runs: usize,
    /// How long an Idempotency-Key makes a retry harmless, on streams with a log in the data directory (topics: 24 h).
    /// Each key takes about 120 bytes of memory, and past a million of a stream appends with new ones wait
    #[arg(
        long,
        env = "DOVETAIL_KEEP_KEYS_FOR",
        value_name = "TIME",
        default_value = "24h",
        value_parser = duration(60 * SECOND, YEARS)
    )]
    pub keep_keys_for: Duration,
}

impl Default for Limits {
    /// What the definitions say, whatever the environment does.
    fn default() -> Self {
        let command = Self::augment_args(Command::new("limits").no_binary_name(true));
        let command = command.mut_args(|arg| arg.env(None::<&'static str>));
        let none: [&str; 0] = [];
        command
            .try_get_matches_from(none)
            .and_then(|matches| Self::from_arg_matches(&matches))
            .expect("each limit has a default within its bounds, or is optional")
    }
}

impl MemoryLimits {
    /// Past it incremental runs start by themselves.
    pub fn speed_memory_soft(&self) -> usize {
        self.speed_memory_soft_bytes
            .unwrap_or(self.speed_memory_bytes / 2)
    }
}

impl Limits {
    /// Whether they fit together: each batch run that computes has enough, of which as many incremental ones do as
    /// others.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let memory = &self.memory;
        let least = memory.batch_runs.saturating_mul(BATCH_MEMORY_MIN);
        if memory.batch_memory_bytes < least {
            return Err(CliError::Usage(format!(
                "--batch-memory {}MiB is too little for --batch-runs {}, which takes at least {}MiB: each run that computes has an even share",
                memory.batch_memory_bytes / MIB,
                memory.batch_runs,
                least / MIB
            )));
        }
        if memory.speed_memory_soft() > memory.speed_memory_bytes {
            return Err(CliError::Usage(format!(
                "--speed-memory-soft {}MiB is more than --speed-memory {}MiB: incremental runs would start only when appends wait already",
                memory.speed_memory_soft() / MIB,
                memory.speed_memory_bytes / MIB
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_do_not_fit_together_are_refused() {
        let check = |change: fn(&mut MemoryLimits)| {
            let mut limits = Limits::default();
            change(&mut limits.memory);
            limits.check().map_err(|error| error.to_string())
        };
        assert_eq!(check(|_| {}), Ok(()));
        let runs = |memory: &mut MemoryLimits| memory.batch_runs = 8;
        assert_eq!(check(runs), Ok(()));
        let refused = check(|memory| {
            memory.batch_memory_bytes = 191 * MIB;
            memory.batch_runs = 3;
        });
        assert!(
            refused
                .unwrap_err()
                .contains("--batch-runs 3, which takes at least 192MiB")
        );
        let whole = |memory: &mut MemoryLimits| memory.speed_memory_soft_bytes = Some(768 * MIB);
        assert_eq!(check(whole), Ok(()));
        let more = |memory: &mut MemoryLimits| memory.speed_memory_soft_bytes = Some(769 * MIB);
        assert!(check(more).unwrap_err().contains("769MiB is more than"));
    }

    #[test]
    fn every_setting_has_a_greatest_value() {
        let command = Limits::augment_args(Command::new("limits").no_binary_name(true));
        let command = command.mut_args(|arg| arg.env(None::<&'static str>));
        for arg in command.get_arguments() {
            let kind = arg.get_value_names().and_then(|names| names.first());
            let (value, said) = match kind.map(|kind| kind.as_str()) {
                Some("N") => ("100000000000", "it is a whole number from 1 to "),
                Some("SIZE") => ("17179869183GiB", "at most "),
                Some("TIME") => ("1000y", "at most "),
                kind => panic!("{arg} is a {kind:?}, which has no bounds here"),
            };
            let option = format!("--{}", arg.get_long().unwrap());
            let given = [option.as_str(), value];
            let refused = command.clone().try_get_matches_from(given).unwrap_err();
            let refused = refused.to_string();
            assert!(
                refused.contains(&option) && refused.contains(said),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_layers_alone_do_what_a_server_does_by_default() {
        let Limits {
            memory,
            requests,
            keeping,
        } = Limits::default();
        assert_eq!(memory.speed_memory_soft(), 384 * MIB);
        let api = dovetail_serving_layer::http::ApiConfig::default();
        assert_eq!(requests.body_limit, api.max_body_bytes);
        assert_eq!(requests.query_timeout, api.query_timeout);
        let server = dovetail_serving_layer::http::ServerConfig::default();
        assert_eq!(requests.connections, server.max_connections);
        assert_eq!(requests.shutdown_grace, server.shutdown_grace);
        let retention = dovetail_batch_layer::RetentionPolicy::default();
        assert_eq!(keeping.keep_generations, retention.keep_newest);
        assert_eq!(
            keeping.keep_generations_for,
            retention.keep_for.to_std().unwrap()
        );
        assert_eq!(keeping.keep_runs, retention.keep_runs);
        let log = dovetail_log::embedded::LogOptions::default();
        assert_eq!(keeping.keep_keys_for, log.key_ttl);
    }
}
