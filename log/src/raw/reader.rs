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
use super::delta::{Changes, DeltaLog};
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
    known: Mutex<Option<Known>>,
}

/// The newest snapshot that was read.
#[derive(Debug)]
struct Known {
    snapshot: Arc<RawSnapshot>,
    /// When it was the newest that there is; none for one that was asked for by its version.
    newest_at: Option<Instant>,
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
            known: Mutex::default(),
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
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_mut()
            && known.newest_at.is_some_and(|at| at.elapsed() < FRESH_FOR)
            && known.snapshot.archived().covers(archived)
        {
            known.snapshot = known.snapshot.read_as(schema)?;
            return Ok(Arc::clone(&known.snapshot));
        }
        let snapshot = self.look(&mut known, schema).await?;
        if !snapshot.archived().covers(archived) {
            return Err(RawError::Hole {
                table: self.events.root().clone(),
                reason: format!(
                    "it ends at `{}`, before `{archived}`, which was archived",
                    snapshot.archived()
                ),
            });
        }
        Ok(snapshot)
    }

    /// The newest snapshot, in the given schema.
    ///
    /// # Errors
    /// As [`RawReader::covering`].
    pub async fn newest(&self, schema: &StreamSchema) -> Result<Arc<RawSnapshot>, RawError> {
        self.look(&mut *self.known.lock().await, schema).await
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
        let mut known = self.known.lock().await;
        let newest = known.as_ref().map(|known| &known.snapshot);
        let changes = match newest {
            Some(newest) if newest.version() <= version => {
                self.events
                    .changes_between(newest.version(), version)
                    .await?
            }
            _ => None,
        };
        let snapshot = self.behind(newest, changes.as_ref(), schema)?;
        let snapshot = match snapshot {
            Some(snapshot) => snapshot,
            None => self.load(Some(version), schema).await?,
        };
        if newest.is_none_or(|newest| newest.version() < version) {
            *known = Some(Known {
                snapshot: Arc::clone(&snapshot),
                newest_at: None,
            });
        }
        Ok(snapshot)
    }

    /// The newest snapshot: of what was `known` and what the table has gained since, or loaded where that cannot be told.
    async fn look(
        &self,
        known: &mut Option<Known>,
        schema: &StreamSchema,
    ) -> Result<Arc<RawSnapshot>, RawError> {
        let begun = Instant::now();
        let newest = known.as_ref().map(|known| &known.snapshot);
        let changes = match newest {
            Some(newest) => self.events.changes_since(newest.version()).await?,
            None => None,
        };
        let snapshot = match self.behind(newest, changes.as_ref(), schema)? {
            Some(snapshot) => snapshot,
            None => self.load(None, schema).await?,
        };
        *known = Some(Known {
            snapshot: Arc::clone(&snapshot),
            newest_at: Some(begun),
        });
        Ok(snapshot)
    }

    fn behind(
        &self,
        known: Option<&Arc<RawSnapshot>>,
        changes: Option<&Changes>,
        schema: &StreamSchema,
    ) -> Result<Option<Arc<RawSnapshot>>, RawError> {
        let (Some(known), Some(changes)) = (known, changes) else {
            return Ok(None);
        };
        let next = known.behind(&self.access, changes);
        next.map(|next| next.read_as(schema)).transpose()
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
