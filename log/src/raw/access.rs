// SPDX-License-Identifier: Apache-2.0
//! What both tables of a stream are read and written with.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use dovetail_model::{Clock, PartitionId, Position, StoreEpoch, StreamId};
use object_store::ObjectStore;
use object_store::path::Path;

use super::delta::{DeltaCommit, DeltaLog, LoadedTable};
use super::nonce::nonce;
use super::{MAX_TRIES, RawError};

use crate::parquet_files::register_store;

/// The application id under which a table keeps the newest epoch of the store that has written to it.
pub(super) const EPOCH_TRANSACTION: &str = "dovetail-epoch";

/// The stream, its store and the epoch in which it is written, the clock, and a runtime for reading files back.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) stream: StreamId,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) epoch: StoreEpoch,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) context: Arc<TaskContext>,
}

impl Access {
    pub(super) fn new(
        stream: StreamId,
        store: Arc<dyn ObjectStore>,
        epoch: StoreEpoch,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let runtime = Arc::new(RuntimeEnv::default());
        register_store(&runtime, Arc::clone(&store));
        Self {
            stream,
            store,
            epoch,
            clock,
            context: Arc::new(TaskContext::default().with_runtime(runtime)),
        }
    }

    /// The application id under which the archived offset of `partition` is kept in the stream's tables.
    pub(super) fn transaction_id(&self, partition: PartitionId) -> String {
        format!("dovetail/{}/{partition}", self.stream)
    }

    /// The epoch that `table` was last claimed in.
    ///
    /// A commit is based on one version, so it is enough to ask whenever a version is loaded: a claim is a version of
    /// its own, and whoever missed it finds the next version taken, and loads.
    ///
    /// # Errors
    /// [`RawError::Superseded`] when that is a later one than ours.
    pub(super) async fn epoch_of(
        &self,
        root: &Path,
        table: &LoadedTable,
    ) -> Result<StoreEpoch, RawError> {
        let found = table.transaction(EPOCH_TRANSACTION).await?;
        let found = StoreEpoch(found.map_or(0, i64::unsigned_abs));
        if found > self.epoch {
            return Err(RawError::Superseded {
                table: root.clone(),
                found,
                ours: self.epoch,
            });
        }
        Ok(found)
    }

    /// The transaction by which a table is claimed; none for a store that nobody claims.
    pub(super) fn claim(&self) -> Vec<(String, i64)> {
        let claimed = (self.epoch.0 > 0).then(|| self.epoch.0.cast_signed());
        let claimed = claimed.map(|epoch| (EPOCH_TRANSACTION.to_owned(), epoch));
        claimed.into_iter().collect()
    }

    /// Makes our epoch the newest of the table of `log`, if there is one: the newest version then.
    ///
    /// # Errors
    /// [`RawError::Superseded`], and the store's.
    pub(super) async fn claim_table(
        &self,
        log: &DeltaLog,
    ) -> Result<Option<LoadedTable>, RawError> {
        for _ in 0..MAX_TRIES {
            let Some(table) = log.load().await? else {
                return Ok(None);
            };
            if self.epoch_of(log.root(), &table).await? == self.epoch {
                return Ok(Some(table));
            }
            let claim = DeltaCommit {
                operation: "CLAIM",
                actions: Vec::new(),
                transactions: self.claim(),
                info: HashMap::new(),
                nonce: nonce(),
            };
            // Whoever took the version, it is loaded next.
            log.commit(table.version(), claim).await?;
        }
        Err(RawError::Contended {
            table: log.root().clone(),
            tries: MAX_TRIES,
        })
    }

    /// The transactions of a commit that moves a table from `from` to `to`. Offsets were checked to fit.
    pub(super) fn transactions(&self, from: &Position, to: &Position) -> Vec<(String, i64)> {
        to.iter()
            .filter(|(partition, offset)| from.get(*partition) < *offset)
            .map(|(partition, offset)| (self.transaction_id(partition), offset.0.cast_signed()))
            .collect()
    }
}
