// SPDX-License-Identifier: Apache-2.0
//! Making the store ours: one data directory at a time, because only its log has the newest events.
//!
//! ```text
//! claim in the catalog ─► claim each stream's tables ─► read where they end ─► begin logs there ─► note the epoch
//! ```
//! Purpose: whoever had the store before, paused or cut off from it, commits nothing behind our claim. Cut off anywhere,
//! the next start does the rest again: the claim is ours already, and the epoch of our logs is not yet that of the claim.
//! Non-goals: finding out whether the other process is alive; that is for whoever says `--take-over`.

use std::sync::Arc;
use std::time::Duration;

use dovetail_log::catalog::{Catalog, CommitError, Superseded};
use dovetail_log::embedded::{EmbeddedLog, FsDisk, ONLY_PARTITION};
use dovetail_log::raw::{RawLog, root_of};
use dovetail_model::{Clock, PositionToken, StoreClaim, StoreEpoch, StreamDef};
use object_store::ObjectStore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::data_dir::DataDir;
use super::{Node, NodeError};

/// How often it is looked whether another data directory has claimed the store. What is committed finds out by itself;
/// this is for a process that has nothing to commit, and still answers and takes appends.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Claims `store` for `data_dir`, and makes its logs fit.
///
/// # Errors
/// [`NodeError::Held`] when it belongs to another data directory, and `takes_over` is not said;
/// [`NodeError::OtherStore`] when the logs of `data_dir` belong to another store.
pub(super) async fn claim(
    data_dir: &DataDir,
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    clock: &Arc<dyn Clock>,
    takes_over: bool,
) -> Result<StoreEpoch, NodeError> {
    let before = catalog.state().claim.clone();
    let logs = data_dir.claimed()?;
    if let Some((known, _)) = &logs
        && before.as_ref().is_none_or(|claim| claim.store != *known)
    {
        return Err(NodeError::OtherStore);
    }
    let claimed = catalog.claim(data_dir.id(), &host(), takes_over).await;
    let StoreClaim {
        store: id, epoch, ..
    } = claimed.map_err(|error| match error {
        CommitError::Refused(held) => NodeError::Held(held),
        CommitError::Catalog(error) => NodeError::Catalog(error),
        other => NodeError::Claim(other.to_string()),
    })?;
    let logs = logs.map_or(StoreEpoch::default(), |(_, epoch)| epoch);
    if logs == epoch {
        return Ok(epoch);
    }
    // One claim since then, and it is ours: nobody else had the store in between.
    if logs.next() != epoch {
        let other = before.filter(|claim| claim.owner != data_dir.id());
        begin_logs(data_dir, store, catalog, clock, epoch, other.as_ref()).await?;
    }
    data_dir.set_claimed(&id, epoch)?;
    Ok(epoch)
}

/// Begins a log for each stream where its archive ends. What an earlier log of ours holds is of another past.
async fn begin_logs(
    data_dir: &DataDir,
    store: &Arc<dyn ObjectStore>,
    catalog: &Catalog,
    clock: &Arc<dyn Clock>,
    epoch: StoreEpoch,
    other: Option<&StoreClaim>,
) -> Result<(), NodeError> {
    if let Some(claim) = other {
        warn!(
            "taking over the store from {claim}: what its log holds and has not archived is given up"
        );
    }
    if let Some(aside) = data_dir.put_logs_aside()? {
        warn!(
            logs = %aside.display(),
            "another data directory has had the store since these logs were written; they are kept, and no longer used"
        );
    }
    // Dropped ones too: they may come back.
    for stream in catalog.state().streams.values() {
        let def = &stream.def;
        let begun = begin_log(data_dir, store, clock, epoch, def).await;
        begun.map_err(|reason| NodeError::Stream {
            stream: def.name.clone(),
            reason,
        })?;
    }
    Ok(())
}

async fn begin_log(
    data_dir: &DataDir,
    store: &Arc<dyn ObjectStore>,
    clock: &Arc<dyn Clock>,
    epoch: StoreEpoch,
    def: &StreamDef,
) -> Result<(), String> {
    let root = root_of(&def.id);
    let raw = RawLog::open(Arc::clone(store), root, def, epoch, Arc::clone(clock)).await;
    let raw = raw.map_err(|error| error.to_string())?;
    // A topic brings the same dead letters at the same offsets again; whoever appends here next does not.
    let settled = match def.source.kafka() {
        None => raw.settle().await.map_err(|error| error.to_string())?,
        Some(_) => raw.snapshot(),
    };
    let archived = settled.archived().clone();
    let first = archived.get(ONLY_PARTITION);
    let token = PositionToken {
        name: def.name.clone(),
        stream: def.id.clone(),
        position: archived,
    };
    info!(stream = %def.name, archived = %token, "what lies behind this position was never archived");
    if def.source.kafka().is_some() {
        // The topic has it still.
        return Ok(());
    }
    let disk = FsDisk::open(data_dir.log(&def.id)).map_err(|error| error.to_string())?;
    EmbeddedLog::begin(&disk, &def.schema, first).map_err(|error| error.to_string())
}

/// This machine's name, for people.
pub(super) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        return "unknown host".to_owned();
    }
    name.to_owned()
}

/// Looks again and again whether the store is still ours, until it is not or `stop`.
pub(super) async fn watch(catalog: Arc<Catalog>, stop: CancellationToken) {
    while catalog.superseded_by().is_none() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
        let reloaded = tokio::select! {
            () = stop.cancelled() => return,
            reloaded = catalog.reload() => reloaded,
        };
        // Whoever needs the store says that it does not answer.
        if let Err(error) = reloaded {
            debug!(%error, "whether the store is still ours cannot be seen");
        }
    }
}

impl Node {
    /// Waits until another data directory is known to have claimed the store. Stop the node then.
    pub async fn superseded(&self) -> Superseded {
        self.0.catalog.superseded().await
    }
}
