// SPDX-License-Identifier: Apache-2.0
//! The upkeep of a stream's tables: checkpoints, and deleting what nobody needs any more.
//!
//! Purpose: keep opening a table fast and the store clean. Invariants: an event's only copy is never deleted:
//! what goes is what no current or held snapshot refers to; an upload that another process has not committed
//! yet is protected by its age, which counts from when it was seen here first. Non-goals: deleting events.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::delta::DeltaLog;
use super::{RawError, RawLog};
use crate::object::Sightings;

/// What a vacuum deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// Data files.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
    /// Commits and checkpoints of the Delta logs.
    pub log_entries: usize,
}

/// How long ago something must have happened to count as over.
#[derive(Debug, Clone, Copy)]
struct Age {
    now: DateTime<Utc>,
    least: TimeDelta,
}

impl Age {
    /// What happened before this did so long ago.
    fn cutoff(self) -> DateTime<Utc> {
        let cutoff = self.now.checked_sub_signed(self.least);
        cutoff.unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

impl RawLog {
    /// Writes a checkpoint of each table, so that the next open need not read every commit. Worth its cost about
    /// once in a hundred commits; its own step because its failure must not look like a commit's.
    ///
    /// # Errors
    /// The store's; the tables are as before then.
    pub async fn checkpoint(&self) -> Result<(), RawError> {
        self.events.checkpoint().await?;
        let letters = self.dead.lock().await.log().clone();
        letters.checkpoint().await?;
        Ok(())
    }

    /// Waits for the end of what was cut off and still has the store: see [`DeltaLog::released`].
    pub async fn released(&self) {
        self.events.released().await;
        let letters = self.dead.lock().await.log().clone();
        letters.released().await;
    }

    /// Deletes data files that are in no table any more since `older_than`, or never were since this raw log saw them
    /// first so long ago, unless a [`super::RawSnapshot`] in this process still refers to them, and log entries of that
    /// age that a checkpoint has made superfluous. `older_than` protects readers and writers in other processes.
    ///
    /// # Errors
    /// The store's; what was deleted was not needed.
    pub async fn vacuum(&self, older_than: Duration) -> Result<Vacuumed, RawError> {
        // No compaction meanwhile.
        let mut upkeep = self.upkeep.lock().await;
        let mut writer = self.writer.lock().await;
        self.fresh(&mut writer).await?;
        let age = Age {
            now: self.access.clock.now(),
            least: TimeDelta::from_std(older_than).unwrap_or(TimeDelta::MAX),
        };
        let mut done = Vacuumed::default();

        let needed = self.held_files();
        let seen = &mut upkeep.events;
        self.sweep(&self.events, needed, age, seen, &mut done)
            .await?;
        let seen = &mut upkeep.events_log;
        done.log_entries += self.events.expire(seen, age.now, age.least).await?;

        let mut letters = self.dead.lock().await;
        let (version, files) = letters.state().await?;
        if version.is_some() {
            let needed = files.into_iter().collect();
            let seen = &mut upkeep.letters;
            self.sweep(letters.log(), needed, age, seen, &mut done)
                .await?;
            let seen = &mut upkeep.letters_log;
            done.log_entries += letters.log().expire(seen, age.now, age.least).await?;
        }
        Ok(done)
    }

    async fn sweep(
        &self,
        log: &DeltaLog,
        mut needed: HashSet<Path>,
        age: Age,
        seen: &mut Sightings,
        done: &mut Vacuumed,
    ) -> Result<(), RawError> {
        if let Some(table) = log.load().await? {
            self.access.is_claimed(log.root(), &table).await?;
            let recent = table.removed_since(age.cutoff()).await?;
            needed.extend(recent.iter().map(|file| log.data_path(file)));
            needed.extend(table.files().map(|file| log.data_path(&file.path)));
        }
        let failed = |path: &Path| {
            let path = path.clone();
            move |source| RawError::Store { path, source }
        };
        let store = &self.access.store;
        let sizes: HashMap<Path, u64> = store
            .list(Some(log.root()))
            .try_filter(|object| {
                let data = object.location.extension() == Some("parquet")
                    && object.location.prefix_matches(log.root())
                    && object.location.parts().count() == log.root().parts().count() + 1;
                std::future::ready(data && !needed.contains(&object.location))
            })
            .map_ok(|object| (object.location, object.size))
            .try_collect()
            .await
            .map_err(failed(log.root()))?;
        for path in seen.due(sizes.keys().cloned(), age.now, age.least) {
            store.delete(&path).await.map_err(failed(&path))?;
            done.files += 1;
            done.bytes += sizes[&path];
        }
        Ok(())
    }
}
