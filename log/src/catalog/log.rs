// SPDX-License-Identifier: Apache-2.0
//! Reading and writing the catalog's files: no state, no decisions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dovetail_model::{CatalogState, Commit};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::time::Instant;
use tracing::{info, warn};

use super::CatalogError;
use super::file::{self, FileName, PREFIX};
use crate::object::is_full;

/// Commits read at once during a replay.
const READ_AHEAD: usize = 16;
/// How often a put is tried, or a read of it, before its outcome is left unknown.
const SETTLE_ATTEMPTS: u32 = 5;
/// First pause between such tries; each is twice as long.
const SETTLE_PAUSE: Duration = Duration::from_millis(2);
/// No further try after this long: whoever waits for a commit shall hear of an outage while he waits. A store behind a
/// network has tried each of them several times.
const SETTLE_TIME: Duration = Duration::from_secs(20);
/// A replay of more commits than this leaves a snapshot behind.
const LONG_REPLAY: u64 = 2 * super::store::SNAPSHOT_EVERY;

/// Who took a sequence.
pub(super) enum Settled {
    /// We did.
    Ours,
    /// A rival did: its commit.
    Theirs(Commit),
}

/// The files below `catalog/` of one object store.
#[derive(Debug)]
pub(super) struct CommitLog {
    store: Arc<dyn ObjectStore>,
}

impl CommitLog {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// Loads the newest usable snapshot and replays what lies behind it.
    pub(super) async fn load(&self) -> Result<CatalogState, CatalogError> {
        let snapshots = self.snapshots().await?;
        let mut state = self.newest_snapshot(&snapshots).await;
        let from = state.sequence;
        let last = self.last_listed(from).await?.max(
            // A snapshot that was unreadable proves that its commits existed.
            snapshots.last().copied().unwrap_or(0),
        );
        self.replay(&mut state, last).await?;
        self.follow(&mut state).await?;
        if state.sequence - from > LONG_REPLAY {
            self.write_snapshot(&state).await;
        }
        Ok(state)
    }

    /// Applies the commits behind `state`, one by one until there is none.
    pub(super) async fn follow(&self, state: &mut CatalogState) -> Result<(), CatalogError> {
        while let Some(commit) = self.read_commit(state.sequence + 1).await? {
            apply(state, &commit)?;
        }
        Ok(())
    }

    /// Reads one commit; none if it is not there.
    pub(super) async fn read_commit(&self, sequence: u64) -> Result<Option<Commit>, CatalogError> {
        let path = file::commit_path(sequence);
        match self.read(&path).await {
            Ok(bytes) => file::decode_commit(sequence, &bytes).map(Some),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(&path, "read", source)),
        }
    }

    /// Puts `bytes` as commit `sequence` unless that is taken, and finds out who took it.
    ///
    /// Any error of the put is taken as unknown: a request that timed out may have landed, may land later,
    /// and a store's own retry answers `AlreadyExists` to the winner. So read back and compare nonces; and
    /// where nothing is there, put the *same* bytes again, which can only make the same commit true.
    ///
    /// # Errors
    /// The outer error: the file there cannot be understood. The inner: unknown after all tries.
    pub(super) async fn settle(
        &self,
        commit: &Commit,
        bytes: Bytes,
    ) -> Result<Result<Settled, object_store::Error>, CatalogError> {
        let path = file::commit_path(commit.sequence);
        let gives_up = Instant::now() + SETTLE_TIME;
        let mut pause = SETTLE_PAUSE;
        let mut attempt = 1;
        loop {
            let Err(put_error) = self.put_if_absent(&path, bytes.clone()).await else {
                return Ok(Ok(Settled::Ours));
            };
            let error = match self.read(&path).await {
                Ok(found) => {
                    let found = file::decode_commit(commit.sequence, &found)?;
                    if found.nonce == commit.nonce {
                        return Ok(Ok(Settled::Ours));
                    }
                    return Ok(Ok(Settled::Theirs(found)));
                }
                // Known, on a disk of this machine: nothing was written.
                Err(object_store::Error::NotFound { .. }) if is_full(&put_error) => {
                    return Ok(Err(put_error));
                }
                Err(object_store::Error::NotFound { .. }) => put_error,
                Err(read_error) => read_error,
            };
            if attempt == SETTLE_ATTEMPTS || Instant::now() >= gives_up {
                return Ok(Err(error));
            }
            warn!(%path, attempt, %error, "outcome of a catalog put is unknown, trying again");
            tokio::time::sleep(pause).await;
            pause *= 2;
            attempt += 1;
        }
    }

    /// Leaves a snapshot behind. Losing it costs only a longer replay, so failing is not an error.
    pub(super) async fn write_snapshot(&self, state: &CatalogState) {
        let path = file::snapshot_path(state.sequence);
        let bytes = match file::encode_snapshot(state) {
            Ok(bytes) => bytes,
            Err(error) => {
                warn!(%path, %error, "catalog snapshot cannot be encoded");
                return;
            }
        };
        match self.put_if_absent(&path, bytes.into()).await {
            Ok(()) | Err(object_store::Error::AlreadyExists { .. }) => {
                info!(%path, "catalog snapshot written");
            }
            Err(error) => warn!(%path, %error, "catalog snapshot not written"),
        }
    }

    async fn put_if_absent(&self, path: &Path, bytes: Bytes) -> object_store::Result<()> {
        let payload = PutPayload::from(bytes);
        let put = self
            .store
            .put_opts(path, payload, PutMode::Create.into())
            .await;
        put.map(|_| ())
    }

    async fn read(&self, path: &Path) -> object_store::Result<Bytes> {
        self.store.get(path).await?.bytes().await
    }

    /// Sequences of all snapshots, ascending.
    async fn snapshots(&self) -> Result<Vec<u64>, CatalogError> {
        // Digits sort before letters: starting behind the commits lists the snapshots alone.
        let behind_commits = Path::from(format!("{PREFIX}/a"));
        let mut found = self
            .list_after(&behind_commits, |name| match name {
                FileName::Snapshot(sequence) => Some(sequence),
                FileName::Commit(_) => None,
            })
            .await?;
        found.sort_unstable();
        Ok(found)
    }

    /// The last commit in the listing; 0 if there is none behind `from`.
    async fn last_listed(&self, from: u64) -> Result<u64, CatalogError> {
        let found = self
            .list_after(&file::commit_path(from), |name| match name {
                FileName::Commit(sequence) => Some(sequence),
                FileName::Snapshot(_) => None,
            })
            .await?;
        Ok(found.into_iter().max().unwrap_or(0))
    }

    async fn list_after(
        &self,
        offset: &Path,
        keep: impl Fn(FileName) -> Option<u64>,
    ) -> Result<Vec<u64>, CatalogError> {
        let prefix = Path::from(PREFIX);
        let mut listing = self.store.list_with_offset(Some(&prefix), offset);
        let mut found = Vec::new();
        loop {
            match listing.try_next().await {
                Ok(Some(meta)) => found.extend(FileName::of(&meta.location).and_then(&keep)),
                Ok(None) => return Ok(found),
                Err(source) => return Err(failed(&prefix, "listed", source)),
            }
        }
    }

    /// The newest snapshot that can be read, or the empty state. An unreadable one is no error: the
    /// commits are the truth, and a replay that starts earlier finds out whether they are all there.
    async fn newest_snapshot(&self, snapshots: &[u64]) -> CatalogState {
        for &sequence in snapshots.iter().rev() {
            let path = file::snapshot_path(sequence);
            let state = match self.read(&path).await {
                Ok(bytes) => file::decode_snapshot(sequence, &bytes),
                Err(source) => Err(failed(&path, "read", source)),
            };
            match state {
                Ok(state) => return state,
                Err(error) => warn!(%path, %error, "catalog snapshot is unusable, replaying more"),
            }
        }
        CatalogState::default()
    }

    /// Applies every commit up to `last`; a missing one is a hole.
    async fn replay(&self, state: &mut CatalogState, last: u64) -> Result<(), CatalogError> {
        let sequences = state.sequence + 1..=last;
        let mut commits = futures::stream::iter(sequences)
            .map(|sequence| async move { (sequence, self.read_commit(sequence).await) })
            .buffered(READ_AHEAD);
        while let Some((sequence, commit)) = commits.next().await {
            let commit = commit?.ok_or_else(|| CatalogError::Gap {
                file: file::commit_path(sequence).to_string(),
                last,
            })?;
            apply(state, &commit)?;
        }
        Ok(())
    }
}

/// Applies a commit that stands on the store.
pub(super) fn apply(state: &mut CatalogState, commit: &Commit) -> Result<(), CatalogError> {
    state
        .apply(commit)
        .map_err(|source| CatalogError::Contradiction {
            file: file::commit_path(commit.sequence).to_string(),
            source,
        })
}

fn failed(path: &Path, action: &'static str, source: object_store::Error) -> CatalogError {
    CatalogError::Store {
        file: path.to_string(),
        action,
        source,
    }
}
