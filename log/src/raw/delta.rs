// SPDX-License-Identifier: Apache-2.0
//! One Delta Lake table's log: load it, follow it, commit to it exactly once, checkpoint it.
//!
//! Purpose: the part of Delta that exactly-once rests on, small enough to read. deltalake reads the table
//! (log replay, checkpoints) and defines the actions; the commit itself is one conditional put of ours.
//! Collaborators: the raw log's two tables; a view's projection can use it too.
//! Invariants: a commit is based on the version just before it and on nothing else; an error of the put is
//! *unknown* until the commit was read back and its nonce compared; nothing but the put happens in a commit
//! (checkpoints and expiry are steps of their own, so that their failure cannot look like the commit's).
//! Non-goals: resolving conflicts (the caller follows, checks its own conditions again and retries), data files.

mod changes;
pub(super) mod damage;

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use deltalake_core::checkpoints::create_checkpoint;
use deltalake_core::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake_core::kernel::transaction::PROTOCOL;
use deltalake_core::kernel::{
    Action, Add, CommitInfo, Metadata, MetadataExt, Protocol, StructType, Transaction,
};
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableError};
use dovetail_model::{Clock, ProblemKind};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use url::Url;

use super::error::kind_of;
use super::replay::ReplayStore;
use crate::object::Sightings;

pub use changes::Changes;
use damage::{CHECKSUM_KEY, Finding};

/// Where commitInfo keeps the nonce that tells our own commit from another's.
const NONCE_KEY: &str = "dovetailNonce";

/// A Delta table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DeltaLogError {
    /// The store failed and the commit, if there was one, did not happen: try again.
    #[error("version {version} of `{table}` was not written: {source}")]
    NotWritten {
        /// The table's root.
        table: Path,
        /// The version that is still free.
        version: u64,
        /// What the store said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The store failed and then could not say whether the commit happened: load the table, then decide.
    #[error(
        "whether version {version} of `{table}` was written is unknown: the put failed ({put})"
    )]
    Unknown {
        /// The table's root.
        table: Path,
        /// The version in doubt.
        version: u64,
        /// What the put said.
        put: Box<object_store::Error>,
        /// What reading it back said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// A file of the table's log is not what was written: asking again does not help.
    #[error(
        "`{file}` of the delta table `{table}` is damaged: {reason}; restore the file from a copy"
    )]
    Damaged {
        /// The table's root.
        table: Path,
        /// The file.
        file: Path,
        /// What is wrong with it.
        reason: String,
    },
    /// The table cannot be read, or is not one that we may write to.
    #[error("delta table `{table}` cannot be used: {}", first_line(source))]
    Table {
        /// The table's root.
        table: Path,
        /// deltalake's reason.
        #[source]
        source: Box<DeltaTableError>,
    },
}

impl DeltaLogError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::NotWritten { .. } | Self::Unknown { .. } => ProblemKind::Unavailable,
            Self::Damaged { .. } => ProblemKind::Internal,
            Self::Table { source, .. } => kind_of(source.as_ref()),
        }
    }
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is the version given, durable.
    Committed(u64),
    /// Another commit, which is this, has that version: follow the table and check again.
    Taken(Bytes),
}

/// What one commit does.
#[derive(Debug, Clone)]
pub struct DeltaCommit {
    /// The operation's name as Delta's history shows it, such as `WRITE`.
    pub operation: &'static str,
    /// Adds, removes, metadata.
    pub actions: Vec<Action>,
    /// Application transactions: id and version.
    pub transactions: Vec<(String, i64)>,
    /// Further members of commitInfo.
    pub info: HashMap<String, Value>,
    /// Tells this commit from any other; keep it when trying the same commit again.
    pub nonce: String,
}

/// A Delta table as it stood at one version.
#[derive(Debug)]
pub struct LoadedTable {
    log: DeltaLog,
    state: DeltaTableState,
}

/// The log of the Delta table at one place.
#[derive(Debug, Clone)]
pub struct DeltaLog {
    store: Arc<dyn ObjectStore>,
    root: Path,
    log_store: LogStoreRef,
    clock: Arc<dyn Clock>,
    /// deltalake's work on the log.
    working: TaskTracker,
}

impl DeltaLog {
    /// The table at `root` of `store`; it need not exist yet.
    ///
    /// # Errors
    /// When `root` cannot be part of a URL.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        root: Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DeltaLogError> {
        // deltalake only takes the path out of this URL; no handler is registered for its scheme.
        let url = Url::parse(&format!("dovetail://store/{root}/")).map_err(|_| {
            let source = DeltaTableError::InvalidTableLocation(root.to_string());
            table_error(&root)(source)
        })?;
        let ordered: Arc<dyn ObjectStore> = Arc::new(ReplayStore::over(Arc::clone(&store)));
        let prefixed = Arc::new(PrefixStore::new(Arc::clone(&ordered), root.clone()));
        let log_store = default_logstore(prefixed, ordered, &url, &StorageConfig::default());
        Ok(Self {
            store,
            root,
            log_store,
            clock,
            working: TaskTracker::new(),
        })
    }

    /// Runs `work` to its end, also when nobody waits for it any more: deltalake reads logs on threads that nothing cuts
    /// off, and that have the store meanwhile.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, DeltaTableError>> + Send + 'static,
    ) -> Result<T, DeltaTableError> {
        let done = self.working.spawn(work).await;
        done.unwrap_or_else(|error| Err(DeltaTableError::generic(error.to_string())))
    }

    /// Waits for the end of what was cut off while it read the log or wrote a checkpoint. A runtime must not end before.
    pub async fn released(&self) {
        // Closed, it takes work as before, and can be waited for.
        self.working.close();
        self.working.wait().await;
    }

    /// Where the table is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a data file of the table is.
    pub fn data_path(&self, relative: &str) -> Path {
        data_path(&self.root, relative)
    }

    /// The newest version, or none when there is no table.
    ///
    /// # Errors
    /// When the table cannot be read or its protocol asks for more than we know how to write.
    pub async fn load(&self) -> Result<Option<LoadedTable>, DeltaLogError> {
        self.load_version(None).await
    }

    /// The table at one version; as [`DeltaLog::load`] when none is said.
    ///
    /// # Errors
    /// As [`DeltaLog::load`]; and when the log does not reach back to that version any more.
    pub async fn load_version(
        &self,
        version: Option<u64>,
    ) -> Result<Option<LoadedTable>, DeltaLogError> {
        let log_store = Arc::clone(&self.log_store);
        let read = async move { DeltaTableState::try_new(log_store.as_ref(), version).await };
        let state = match self.whole(read).await {
            Ok(state) => state,
            Err(DeltaTableError::NotATable(_)) => return Ok(None),
            Err(error) => return Err(self.cause(error, version).await),
        };
        PROTOCOL
            .can_write_to(&state)
            .map_err(|error| table_error(&self.root)(error.into()))?;
        Ok(Some(LoadedTable {
            log: self.clone(),
            state,
        }))
    }

    /// Creates the table as version 0 with its first `transactions`, expiry left to us; `append_only` forbids every
    /// writer to delete rows.
    ///
    /// # Errors
    /// As [`DeltaLog::commit`]; and when the schema has types that Delta lacks.
    pub async fn create(
        &self,
        name: &str,
        schema: &Schema,
        append_only: bool,
        transactions: Vec<(String, i64)>,
        nonce: String,
    ) -> Result<CommitOutcome, DeltaLogError> {
        let schema = self.delta_schema(schema)?;
        let protocol = json!({
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["timestampNtz"],
            "writerFeatures": ["appendOnly", "timestampNtz"],
        });
        let metadata = json!({
            // An id of its own for every table, and the same when the creation is tried again.
            "id": uuid_text(&nonce),
            "name": name,
            "format": { "provider": "parquet", "options": {} },
            "schemaString": serde_json::to_string(&schema).map_err(|e| self.json_error(e))?,
            "partitionColumns": [],
            "configuration": {
                "delta.appendOnly": append_only.to_string(),
                "delta.enableExpiredLogCleanup": "false",
            },
            "createdTime": self.clock.now().timestamp_millis(),
        });
        let protocol: Protocol =
            serde_json::from_value(protocol).map_err(|e| self.json_error(e))?;
        let metadata: Metadata =
            serde_json::from_value(metadata).map_err(|e| self.json_error(e))?;
        self.put(
            0,
            DeltaCommit {
                operation: "CREATE TABLE",
                actions: vec![Action::Protocol(protocol), Action::Metadata(metadata)],
                transactions,
                info: HashMap::new(),
                nonce,
            },
        )
        .await
    }

    /// Commits on top of version `base`: as `base + 1` or not at all.
    ///
    /// # Errors
    /// [`DeltaLogError::NotWritten`] and [`DeltaLogError::Unknown`] when the store fails.
    pub async fn commit(
        &self,
        base: u64,
        commit: DeltaCommit,
    ) -> Result<CommitOutcome, DeltaLogError> {
        self.put(base + 1, commit).await
    }

    async fn put(&self, version: u64, commit: DeltaCommit) -> Result<CommitOutcome, DeltaLogError> {
        let path = self.commit_path(version);
        let nonce = commit.nonce.clone();
        let bytes = self.serialize(version, commit)?;
        let options = PutOptions::from(PutMode::Create);
        let Err(put) = self.store.put_opts(&path, bytes.into(), options).await else {
            return Ok(CommitOutcome::Committed(version));
        };
        // Whatever the error says, the put may have happened: `AlreadyExists` may be our own first attempt.
        let found = match self.store.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(bytes) if nonce_of(&bytes).as_deref() == Some(&nonce) => {
                Ok(CommitOutcome::Committed(version))
            }
            Ok(bytes) => Ok(CommitOutcome::Taken(bytes)),
            Err(object_store::Error::NotFound { .. }) => Err(DeltaLogError::NotWritten {
                table: self.root.clone(),
                version,
                source: Box::new(put),
            }),
            Err(source) => Err(DeltaLogError::Unknown {
                table: self.root.clone(),
                version,
                put: Box::new(put),
                source: Box::new(source),
            }),
        }
    }

    fn commit_path(&self, version: u64) -> Path {
        self.data_path(&format!("_delta_log/{version:020}.json"))
    }

    fn serialize(&self, version: u64, commit: DeltaCommit) -> Result<Bytes, DeltaLogError> {
        let mut info = commit.info;
        info.insert(NONCE_KEY.to_owned(), Value::String(commit.nonce));
        let mut commit_info = CommitInfo {
            timestamp: Some(self.clock.now().timestamp_millis()),
            operation: Some(commit.operation.to_owned()),
            operation_parameters: Some(HashMap::new()),
            read_version: version.checked_sub(1),
            engine_info: Some(concat!("dovetail/", env!("CARGO_PKG_VERSION")).to_owned()),
            info,
            ..CommitInfo::default()
        };
        let transactions = commit
            .transactions
            .into_iter()
            .map(|(id, version)| Action::Txn(Transaction::new(id, version)));
        let line = |lines: &mut Vec<u8>, action: &Action| {
            serde_json::to_writer(&mut *lines, action).map_err(|e| self.json_error(e))?;
            lines.push(b'\n');
            Ok(())
        };
        let mut actions = Vec::new();
        for action in transactions.chain(commit.actions) {
            line(&mut actions, &action)?;
        }
        let sum = Value::String(damage::checksum(&actions));
        commit_info.info.insert(CHECKSUM_KEY.to_owned(), sum);
        let mut lines = Vec::new();
        line(&mut lines, &Action::CommitInfo(commit_info))?;
        lines.append(&mut actions);
        Ok(lines.into())
    }

    /// Writes a checkpoint of the newest version, so that a reader need not replay the whole log. Answers
    /// with that version, or none when there is no table.
    ///
    /// # Errors
    /// When the table cannot be read or the store fails; the table itself is as before then.
    pub async fn checkpoint(&self) -> Result<Option<u64>, DeltaLogError> {
        let mut table = DeltaTable::new(Arc::clone(&self.log_store));
        let loaded = self.whole(async move { table.load().await.map(|()| table) });
        let table = match loaded.await {
            Ok(table) => table,
            Err(DeltaTableError::NotATable(_)) => return Ok(None),
            Err(error) => return Err(self.cause(error, None).await),
        };
        let Some(version) = table.version() else {
            return Ok(None);
        };
        let path = self.data_path(&format!("_delta_log/{version:020}.checkpoint.parquet"));
        let sum = damage::sum_of_checkpoint(&path);
        let failed = |source: object_store::Error| table_error(&self.root)(source.into());
        // At no time does a checksum lie beside another file than its own: this one may be written a second time.
        match self.store.delete(&sum).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        let made = self.whole(async move { create_checkpoint(&table, None).await });
        if let Err(error) = made.await {
            return Err(self.cause(error, None).await);
        }
        let written = self.store.get(&path).await.map_err(failed)?;
        let written = written.bytes().await.map_err(failed)?;
        let put = self
            .store
            .put(&sum, damage::checksum(&written).into())
            .await;
        put.map_err(failed)?;
        Ok(Some(version))
    }

    /// Why the table could not be read up to `version`: the file that is damaged, if one is, as deltalake does not name it.
    async fn cause(&self, error: DeltaTableError, version: Option<u64>) -> DeltaLogError {
        let log = self.root.clone().join("_delta_log");
        match damage::find(self.store.as_ref(), &log, version).await {
            Ok(Some(found)) => self.damaged(found),
            // What keeps us from looking kept deltalake from reading, too.
            Ok(None) | Err(_) => table_error(&self.root)(error),
        }
    }

    fn damaged(&self, Finding { file, reason }: Finding) -> DeltaLogError {
        DeltaLogError::Damaged {
            table: self.root.clone(),
            file,
            reason,
        }
    }

    /// Deletes commits and checkpoints that a later checkpoint makes superfluous, and has for at least `grace` at `now`:
    /// `seen` remembers since when. Answers how many.
    ///
    /// # Errors
    /// When the store fails; what was deleted was not needed.
    pub async fn expire(
        &self,
        seen: &mut Sightings,
        now: DateTime<Utc>,
        grace: TimeDelta,
    ) -> Result<usize, DeltaLogError> {
        let log = self.root.clone().join("_delta_log");
        let failed = |source: object_store::Error| table_error(&self.root)(source.into());
        let listed: Vec<Path> = self
            .store
            .list(Some(&log))
            .map_ok(|object| object.location)
            .try_collect()
            .await
            .map_err(failed)?;
        let entries = || listed.iter().filter_map(|path| Some((path, entry(path)?)));
        let checkpoints = entries().filter(|(_, (_, kind))| *kind == EntryKind::Checkpoint);
        // Who follows the log is told by the hint that entries behind its version may have expired.
        let hinted = self.hinted_checkpoint().await?;
        let newest = checkpoints
            .map(|(_, (version, _))| version)
            .filter(|version| Some(*version) <= hinted)
            .max();
        let superfluous = entries().filter(|(_, (version, _))| Some(*version) < newest);
        let superfluous: Vec<Path> = superfluous.map(|(path, _)| path.clone()).collect();
        let due = seen.due(superfluous, now, grace);
        let count = due.len();
        let due = futures::stream::iter(due).map(Ok).boxed();
        let deleted = self
            .store
            .delete_stream(due)
            .try_for_each(|_| ready(Ok(())));
        deleted.await.map_err(failed)?;
        Ok(count)
    }

    /// `metadata` with another schema, as an action.
    ///
    /// # Errors
    /// When the schema has types that Delta lacks.
    pub fn with_schema(
        &self,
        metadata: &Metadata,
        schema: &Schema,
    ) -> Result<Action, DeltaLogError> {
        let schema = self.delta_schema(schema)?;
        let metadata = metadata
            .clone()
            .with_schema(&schema)
            .map_err(|error| table_error(&self.root)(error.into()))?;
        Ok(Action::Metadata(metadata))
    }

    /// The columns that `metadata` declares.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn arrow_schema(&self, metadata: &Metadata) -> Result<Schema, DeltaLogError> {
        let schema = metadata
            .parse_schema()
            .map_err(|error| table_error(&self.root)(error.into()))?;
        (&schema)
            .try_into_arrow()
            .map_err(|error: ArrowError| table_error(&self.root)(error.into()))
    }

    fn delta_schema(&self, schema: &Schema) -> Result<StructType, DeltaLogError> {
        schema
            .try_into_kernel()
            .map_err(|error| table_error(&self.root)(error.into()))
    }

    fn json_error(&self, error: serde_json::Error) -> DeltaLogError {
        table_error(&self.root)(DeltaTableError::SerializeLogJson { json_err: error })
    }
}

impl LoadedTable {
    /// Its version.
    pub fn version(&self) -> u64 {
        self.state.version()
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        self.state.metadata()
    }

    /// Its live files, in no order.
    pub fn files(&self) -> impl Iterator<Item = Add> + '_ {
        #[expect(
            deprecated,
            reason = "the only public way to an Add's tags in deltalake 1.1"
        )]
        self.state
            .log_data()
            .into_iter()
            .map(|view| view.add_action())
    }

    /// Paths of files that were taken out of the table behind `cutoff`, relative to its root.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn removed_since(&self, cutoff: DateTime<Utc>) -> Result<Vec<String>, DeltaLogError> {
        let cutoff = cutoff.timestamp_millis();
        let removed = self
            .state
            .all_tombstones(self.log.log_store.as_ref())
            .try_filter(|file| ready(file.deletion_timestamp().is_none_or(|at| at > cutoff)))
            .map_ok(|file| file.path().into_owned())
            .try_collect()
            .await;
        self.read(removed).await
    }

    /// The version of an application's last transaction.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn transaction(&self, id: &str) -> Result<Option<i64>, DeltaLogError> {
        let read = self
            .state
            .transaction_version(self.log.log_store.as_ref(), id)
            .await;
        self.read(read).await
    }

    /// What was read of the log, or why it was not.
    async fn read<T>(&self, read: Result<T, DeltaTableError>) -> Result<T, DeltaLogError> {
        match read {
            Ok(read) => Ok(read),
            Err(error) => Err(self.log.cause(error, Some(self.version())).await),
        }
    }
}

/// Where the file that the table at `root` names by `relative` is.
pub(super) fn data_path(root: &Path, relative: &str) -> Path {
    root.parts().chain(Path::from(relative).parts()).collect()
}

/// What an error says, without the trace that deltalake's kernel puts behind it where the environment asks for traces.
fn first_line(error: &DeltaTableError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

fn table_error(table: &Path) -> impl Fn(DeltaTableError) -> DeltaLogError + '_ {
    |source| DeltaLogError::Table {
        table: table.clone(),
        source: Box::new(source),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    Commit,
    Checkpoint,
    /// The checksum of a checkpoint.
    Sum,
}

/// Which version a file of a Delta log is about, if it is one of those that we write.
fn entry(path: &Path) -> Option<(u64, EntryKind)> {
    let (digits, rest) = path.filename()?.split_once('.')?;
    let kind = match rest {
        "json" => EntryKind::Commit,
        "checkpoint.parquet" => EntryKind::Checkpoint,
        "checkpoint.parquet.blake3" => EntryKind::Sum,
        _ => return None,
    };
    Some((digits.parse().ok()?, kind))
}

fn nonce_of(commit: &[u8]) -> Option<String> {
    serde_json::Deserializer::from_slice(commit)
        .into_iter::<Value>()
        .map_while(Result::ok)
        .find_map(|action| {
            let nonce = action.get("commitInfo")?.get(NONCE_KEY)?.as_str()?;
            Some(nonce.to_owned())
        })
}

/// A version-8 UUID made from a text's hash.
fn uuid_text(seed: &str) -> String {
    let hex = blake3::hash(seed.as_bytes()).to_hex();
    format!(
        "{}-{}-8{}-a{}-{}",
        &hex[0..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}
