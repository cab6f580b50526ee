// SPDX-License-Identifier: Apache-2.0
//! What a Delta table gained behind a version that is known: for who follows it, at the price of its news alone.
//!
//! Purpose: read the commits behind a version one by one, and nothing before them. Invariants: a version counts as the
//! newest only where no checkpoint lies behind it, because [`DeltaLog::expire`] deletes nothing that none lies behind; a
//! commit that does more than change files and transactions is not applied. Non-goals: what a file or transaction means.

use std::collections::HashMap;

use bytes::Bytes;
use deltalake_core::kernel::{Add, Remove, Transaction};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::damage::check_commit;
use super::{DeltaLog, DeltaLogError, data_path, table_error};

/// So many commits are read one by one. A table that is further ahead is loaded, from its newest checkpoint on.
const MOST: u64 = 64;

/// What the commits behind one version did.
#[derive(Debug)]
pub struct Changes {
    root: Path,
    version: u64,
    files: HashMap<Path, Option<Add>>,
    transactions: HashMap<String, i64>,
}

impl Changes {
    fn behind(root: &Path, version: u64) -> Self {
        Self {
            root: root.clone(),
            version,
            files: HashMap::new(),
            transactions: HashMap::new(),
        }
    }

    /// The version of the last commit in them; that behind which they begin when there is none.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the file at `path`, from the store's root, is not as before: it is gone, or among [`Changes::adds`].
    pub fn touches(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Whether any file is not as before.
    pub fn touch_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Files of the table that were not in it before, or not so.
    pub fn adds(&self) -> impl Iterator<Item = &Add> {
        self.files.values().flatten()
    }

    /// The version of an application's last transaction in them.
    pub fn transaction(&self, id: &str) -> Option<i64> {
        self.transactions.get(id).copied()
    }

    /// Adds the next commit. False when it does something else, too: they are of no use any more then.
    fn apply(&mut self, commit: &[u8]) -> bool {
        // Who loads the table instead hears which file is damaged.
        if check_commit(commit).is_err() {
            return false;
        }
        for action in serde_json::Deserializer::from_slice(commit).into_iter::<Action>() {
            match action {
                Ok(Action::Add(add)) => {
                    self.files
                        .insert(data_path(&self.root, &add.path), Some(add));
                }
                Ok(Action::Remove(remove)) => {
                    self.files.insert(data_path(&self.root, &remove.path), None);
                }
                Ok(Action::Txn(transaction)) => {
                    self.transactions
                        .insert(transaction.app_id, transaction.version);
                }
                Ok(Action::CommitInfo(_)) => {}
                // Metadata, a protocol, or what this version does not know.
                Err(_) => return false,
            }
        }
        self.version += 1;
        true
    }
}

/// The actions that need no more than what is known of a table.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Action {
    Add(Add),
    Remove(Remove),
    Txn(Transaction),
    CommitInfo(IgnoredAny),
}

#[derive(Deserialize)]
struct CheckpointHint {
    version: u64,
}

impl DeltaLog {
    /// What the table gained behind `known`, a version that it had: a GET of each commit and of the one that is not there,
    /// and one that tells that it never was. None when it cannot be told commit by commit: load the table.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn changes_since(&self, known: u64) -> Result<Option<Changes>, DeltaLogError> {
        self.read_to_the_end(Changes::behind(&self.root, known))
            .await
    }

    /// As [`DeltaLog::changes_since`] where `next`, the commit just behind `known`, has been read.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn changes_with(
        &self,
        known: u64,
        next: &[u8],
    ) -> Result<Option<Changes>, DeltaLogError> {
        let mut changes = Changes::behind(&self.root, known);
        match changes.apply(next) {
            true => self.read_to_the_end(changes).await,
            false => Ok(None),
        }
    }

    async fn read_to_the_end(
        &self,
        mut changes: Changes,
    ) -> Result<Option<Changes>, DeltaLogError> {
        if !self.read_on(&mut changes, u64::MAX).await? {
            return Ok(None);
        }
        // Asked behind the commit that is not there, so that it cannot have expired before this was true.
        let is_newest = self.has_no_checkpoint_behind(changes.version).await?;
        Ok(is_newest.then_some(changes))
    }

    /// What the table gained from `known` to `version`: a GET of each commit. None as in [`DeltaLog::changes_since`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn changes_between(
        &self,
        known: u64,
        version: u64,
    ) -> Result<Option<Changes>, DeltaLogError> {
        let mut changes = Changes::behind(&self.root, known);
        let applied = self.read_on(&mut changes, version).await?;
        Ok((applied && changes.version == version).then_some(changes))
    }

    /// Reads the commits behind `changes`, up to version `to` or the first that is not there. False when one cannot be
    /// applied, or when they are too many.
    async fn read_on(&self, changes: &mut Changes, to: u64) -> Result<bool, DeltaLogError> {
        let most = changes.version + MOST;
        while changes.version < to {
            let next = self.commit_path(changes.version + 1);
            match self.read_entry(&next).await? {
                None => return Ok(true),
                Some(commit) if changes.version < most && changes.apply(&commit) => {}
                Some(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn has_no_checkpoint_behind(&self, version: u64) -> Result<bool, DeltaLogError> {
        let hint = self.checkpoint_hint().await?;
        Ok(hint.is_none_or(|hint| hinted(&hint).is_some_and(|newest| newest <= version)))
    }

    /// The version of the newest checkpoint that other readers are told of.
    pub(super) async fn hinted_checkpoint(&self) -> Result<Option<u64>, DeltaLogError> {
        let hint = self.checkpoint_hint().await?;
        Ok(hint.and_then(|hint| hinted(&hint)))
    }

    async fn checkpoint_hint(&self) -> Result<Option<Bytes>, DeltaLogError> {
        let hint = self.data_path("_delta_log/_last_checkpoint");
        self.read_entry(&hint).await
    }

    async fn read_entry(&self, path: &Path) -> Result<Option<Bytes>, DeltaLogError> {
        let read = match self.store.get(path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match read {
            Ok(entry) => Ok(Some(entry)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(table_error(&self.root)(error.into())),
        }
    }
}

fn hinted(hint: &[u8]) -> Option<u64> {
    let hint: CheckpointHint = serde_json::from_slice(hint).ok()?;
    Some(hint.version)
}
