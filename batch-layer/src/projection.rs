// SPDX-License-Identifier: Apache-2.0
//! A view's Delta table: the live generation for other engines.
//!
//! Purpose: one commit after each move of the pointer makes Delta's latest version equal to it.
//! Invariants: the transaction `dovetail` of the table carries the catalog sequence of the last publish it
//! shows, so projecting twice changes nothing; staged generations never appear. Serving never reads it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use deltalake_core::kernel::{Action, Add, Remove};
use dovetail_log::catalog::random_u64;
use dovetail_log::raw::delta::{CommitOutcome, DeltaCommit, DeltaLog, DeltaLogError};
use dovetail_model::{Clock, DataFile, ViewId, ViewState};
use dovetail_seam::Generation;
use object_store::ObjectStore;
use tracing::warn;

use crate::BatchError;

/// The application transaction that carries the catalog sequence.
const TRANSACTION: &str = "dovetail";
/// Races with another projector before it is given up.
const MAX_ATTEMPTS: usize = 8;
/// Commits from one checkpoint to the next.
const CHECKPOINT_EVERY: u64 = 16;

/// Makes the Delta table of `view` show `live`, its live generation.
///
/// # Errors
/// When the table cannot be read or written; the next publish or start tries again.
pub async fn project(
    store: &Arc<dyn ObjectStore>,
    view: &ViewState,
    live: &Generation,
    clock: &Arc<dyn Clock>,
) -> Result<(), BatchError> {
    let failed = |reason: String| BatchError::Projection {
        view: view.def.name.clone(),
        reason,
    };
    let delta = table(store, &view.def.id, clock).map_err(|error| failed(error.to_string()))?;
    for _ in 0..MAX_ATTEMPTS {
        let attempted = attempt(&delta, view, live, clock).await;
        match attempted.map_err(|error| failed(error.to_string()))? {
            Attempt::Overtaken => {}
            Attempt::Shown => return Ok(()),
            Attempt::Committed(version) => {
                shorten(&delta, view, version).await;
                return Ok(());
            }
        }
    }
    Err(failed(
        "another process keeps committing to the table".to_owned(),
    ))
}

/// Where the Delta table of `view` is.
///
/// # Errors
/// As [`DeltaLog::new`].
pub(crate) fn table(
    store: &Arc<dyn ObjectStore>,
    view: &ViewId,
    clock: &Arc<dyn Clock>,
) -> Result<DeltaLog, DeltaLogError> {
    let (store, clock) = (Arc::clone(store), Arc::clone(clock));
    DeltaLog::new(store, Generation::view_root(view), clock)
}

/// Every projection reads the log from its last checkpoint on. Without a checkpoint it is only longer to read, so
/// failing to write one is no error.
async fn shorten(delta: &DeltaLog, view: &ViewState, version: u64) {
    if version.is_multiple_of(CHECKPOINT_EVERY)
        && let Err(error) = delta.checkpoint().await
    {
        warn!(view = %view.def.name, %error, "the log of the delta projection has no new checkpoint");
    }
}

/// What a try came to.
enum Attempt {
    /// The table shows the live generation already.
    Shown,
    /// It does since this version.
    Committed(u64),
    /// Another projector was faster, or the table was still to be made.
    Overtaken,
}

/// One try.
async fn attempt(
    delta: &DeltaLog,
    view: &ViewState,
    live: &Generation,
    clock: &Arc<dyn Clock>,
) -> Result<Attempt, DeltaLogError> {
    let schema = live.view().file_schema();
    let Some(table) = delta.load().await? else {
        delta
            .create(&view.def.name, &schema, false, vec![], nonce())
            .await?;
        return Ok(Attempt::Overtaken);
    };
    let shown = table.transaction(TRANSACTION).await?;
    let sequence = i64::try_from(view.published_at).unwrap_or(i64::MAX);
    if shown.is_some_and(|shown| shown >= sequence) {
        return Ok(Attempt::Shown);
    }
    let now_ms = clock.now().timestamp_millis();
    let mut wanted: BTreeMap<&str, &DataFile> = live
        .manifest()
        .files
        .iter()
        .map(|f| (f.path.as_str(), f))
        .collect();
    let mut actions = vec![];
    for add in table.files() {
        if wanted.remove(add.path.as_str()).is_none() {
            actions.push(Action::Remove(removal(&add, now_ms)));
        }
    }
    actions.extend(
        wanted
            .into_values()
            .map(|file| Action::Add(addition(file, now_ms))),
    );
    if delta.arrow_schema(table.metadata())? != *schema {
        actions.push(delta.with_schema(table.metadata(), &schema)?);
    }
    let commit = DeltaCommit {
        operation: "WRITE",
        actions,
        transactions: vec![(TRANSACTION.to_owned(), sequence)],
        info: HashMap::from([("dovetailGeneration".to_owned(), live.number().0.into())]),
        nonce: nonce(),
    };
    let outcome = delta.commit(table.version(), commit).await?;
    Ok(match outcome {
        CommitOutcome::Committed(version) => Attempt::Committed(version),
        CommitOutcome::Taken(_) => Attempt::Overtaken,
    })
}

fn addition(file: &DataFile, now_ms: i64) -> Add {
    Add {
        path: file.path.clone(),
        size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        modification_time: now_ms,
        data_change: true,
        stats: Some(format!("{{\"numRecords\":{}}}", file.rows)),
        ..Add::default()
    }
}

fn removal(add: &Add, now_ms: i64) -> Remove {
    Remove {
        path: add.path.clone(),
        data_change: true,
        deletion_timestamp: Some(now_ms),
        extended_file_metadata: Some(true),
        partition_values: Some(HashMap::new()),
        size: Some(add.size),
        ..Remove::default()
    }
}

fn nonce() -> String {
    format!("{:016x}{:016x}", random_u64(), random_u64())
}
