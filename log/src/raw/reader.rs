// SPDX-License-Identifier: Apache-2.0
//! The raw log for those who only read it, in a process that has not claimed the store.

use std::sync::Arc;
use std::time::Duration;

use dovetail_model::{Clock, Position, StoreEpoch, StreamId, StreamSchema};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::access::Access;
use super::delta::DeltaLog;
use super::log::snapshot_of;
use super::{RawError, RawSnapshot};

/// How long a snapshot is read from: compaction replaces files, and whoever has the store keeps the replaced ones for
/// longer than this, since it does not know who reads them elsewhere.
const FRESH_FOR: Duration = Duration::from_secs(900);

/// Reads the raw log of one stream as whoever has the store writes it.
#[derive(Debug)]
pub struct RawReader {
    access: Access,
    events: DeltaLog,
    newest: Mutex<Option<(Instant, Arc<RawSnapshot>)>>,
}

impl RawReader {
    /// A reader of the raw log below `root` (`streams/{id}`). Reads nothing yet.
    ///
    /// # Errors
    /// When `root` cannot be part of a URL.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        root: Path,
        stream: StreamId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RawError> {
        let events = DeltaLog::new(Arc::clone(&store), root.join("raw"), Arc::clone(&clock))?;
        Ok(Self {
            // It commits nothing, so no epoch is too late for it.
            access: Access::new(stream, store, StoreEpoch(u64::MAX).into(), clock),
            events,
            newest: Mutex::new(None),
        })
    }

    /// A snapshot that holds at least what lies before `archived`, in the given schema.
    ///
    /// # Errors
    /// [`RawError::Hole`] when the table does not hold that much, or contradicts itself; and the store's.
    pub async fn covering(
        &self,
        archived: &Position,
        schema: &StreamSchema,
    ) -> Result<Arc<RawSnapshot>, RawError> {
        let mut newest = self.newest.lock().await;
        if let Some((loaded, snapshot)) = newest.as_ref()
            && loaded.elapsed() < FRESH_FOR
            && snapshot.archived().covers(archived)
            && snapshot.schema() == schema
        {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot = self.load(None, schema).await?;
        if !snapshot.archived().covers(archived) {
            return Err(RawError::Hole {
                table: self.events.root().clone(),
                reason: format!(
                    "it ends at `{}`, before `{archived}`, which was archived",
                    snapshot.archived()
                ),
            });
        }
        *newest = Some((Instant::now(), Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    /// The newest snapshot, in the given schema.
    ///
    /// # Errors
    /// As [`RawReader::covering`].
    pub async fn newest(&self, schema: &StreamSchema) -> Result<Arc<RawSnapshot>, RawError> {
        let mut newest = self.newest.lock().await;
        let snapshot = self.load(None, schema).await?;
        *newest = Some((Instant::now(), Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    /// The snapshot of one version, in the given schema. Its files are there for as long as whoever has the store holds
    /// that very snapshot, however long this reads.
    ///
    /// # Errors
    /// As [`RawReader::covering`]; and when the table's log does not reach back so far any more.
    pub async fn at(
        &self,
        version: u64,
        schema: &StreamSchema,
    ) -> Result<Arc<RawSnapshot>, RawError> {
        self.load(Some(version), schema).await
    }

    async fn load(
        &self,
        version: Option<u64>,
        schema: &StreamSchema,
    ) -> Result<Arc<RawSnapshot>, RawError> {
        let root = self.events.root();
        let table = self.events.load_version(version).await?;
        let table = table.ok_or_else(|| RawError::Hole {
            table: root.clone(),
            reason: "there is no table".to_owned(),
        })?;
        let snapshot = snapshot_of(&self.access, root, &table, schema.clone()).await?;
        Ok(Arc::new(snapshot))
    }
}
