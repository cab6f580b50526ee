// SPDX-License-Identifier: Apache-2.0
//! What both tables of a stream are read and written with.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use dovetail_model::{Clock, PartitionId, Position, StreamId};
use object_store::ObjectStore;
use object_store::path::Path;

use super::delta::{Changes, DeltaCommit, DeltaLog, LoadedTable};
use super::nonce::nonce;
use super::writer::Claim;
use super::{MAX_TRIES, RawError, RawWriter};

use crate::parquet_files::register_store;

/// The stream, its store and who writes it, the clock, and a runtime for reading files back.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) stream: StreamId,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) writer: RawWriter,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) context: Arc<TaskContext>,
}

impl Access {
    pub(super) fn new(
        stream: StreamId,
        store: Arc<dyn ObjectStore>,
        writer: RawWriter,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let runtime = Arc::new(RuntimeEnv::default());
        register_store(&runtime, Arc::clone(&store));
        Self {
            stream,
            store,
            writer,
            clock,
            context: Arc::new(TaskContext::default().with_runtime(runtime)),
        }
    }

    /// The application id under which the archived offset of `partition` is kept in the stream's tables.
    pub(super) fn transaction_id(&self, partition: PartitionId) -> String {
        format!("dovetail/{}/{partition}", self.stream)
    }

    /// Whether `table` was last claimed in our epoch, not an earlier one.
    ///
    /// A commit is based on one version, so it is enough to ask whenever a version becomes known: a claim is a version of
    /// its own, and whoever missed it finds the next version taken, and reads it.
    ///
    /// # Errors
    /// [`RawError::Superseded`] when that is a later one than ours.
    pub(super) async fn is_claimed(
        &self,
        root: &Path,
        table: &LoadedTable,
    ) -> Result<bool, RawError> {
        let mut all_ours = true;
        for claim in self.writer.claims() {
            let found = table.transaction(claim.transaction).await?;
            all_ours &= is_ours(root, &claim, found.unwrap_or(0))?;
        }
        Ok(all_ours)
    }

    /// That `changes` of a table that no later epoch than ours had claimed do not claim it for one.
    ///
    /// # Errors
    /// [`RawError::Superseded`] when they do.
    pub(super) fn stays_ours(&self, root: &Path, changes: &Changes) -> Result<(), RawError> {
        for claim in self.writer.claims() {
            if let Some(found) = changes.transaction(claim.transaction) {
                is_ours(root, &claim, found)?;
            }
        }
        Ok(())
    }

    /// The transaction by which a table is claimed; none for a store that nobody claims.
    pub(super) fn claim(&self) -> Vec<(String, i64)> {
        let claims = self.writer.claims().filter(|claim| claim.epoch > 0);
        claims
            .map(|claim| (claim.transaction.to_owned(), claim.epoch.cast_signed()))
            .collect()
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
            if self.is_claimed(log.root(), &table).await? {
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

/// Whether `found`, the newest epoch that a table was claimed in, is ours, not an earlier one.
///
/// # Errors
/// [`RawError::Superseded`] when it is a later one.
fn is_ours(root: &Path, claim: &Claim, found: i64) -> Result<bool, RawError> {
    let found = found.unsigned_abs();
    if found > claim.epoch {
        return Err(RawError::Superseded {
            table: root.clone(),
            of: claim.of,
            found,
            ours: claim.epoch,
        });
    }
    Ok(found == claim.epoch)
}
