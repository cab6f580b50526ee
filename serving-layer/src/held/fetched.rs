// SPDX-License-Identifier: Apache-2.0
//! Room for what scans fetch of files: whole row groups, which many answers at once would otherwise fetch side by side.
//!
//! ```text
//! scan ─► filter ─► projection ─► reader     held while the reader is slow: of the readers' share
//! scan ─► aggregate ─► …                     gone when it is decoded: on the account, as far as that is not full
//! ```
//! Invariants: an answer whose first row group has room keeps that room to its end, so it can always fetch its next one:
//! its parts take turns where the share has no more. Before that it waits in turn, and is refused as for its first rows.
//! What operators read waits for nothing: one that takes rows of several scans together would hold a row group of one
//! while it waits for the other, and everybody else with it.

use std::future::ready;
use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use dovetail_log::parquet_files::{Holder, Note};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{AnswerMemory, One, Room, SMALL_BYTES, acquired};
use crate::problem::problem_of;

/// Room that an answer keeps for its row groups; none where it had begun before there was any.
#[derive(Debug)]
pub(super) struct RowGroup {
    bytes: usize,
    _room: Option<Room>,
}

/// What is fetched for one answer.
#[derive(Debug)]
struct Fetches {
    one: Arc<One>,
    for_reader: bool,
}

/// What takes no room: of an answer that counts nothing.
#[derive(Debug)]
struct Uncounted;

impl AnswerMemory {
    /// For scans whose rows wait for the reader.
    pub(crate) fn fetched_for_reader(&self) -> Arc<dyn Holder> {
        self.fetches(true)
    }

    /// For scans whose rows an operator takes as they come.
    pub(crate) fn fetched_for_operator(&self) -> Arc<dyn Holder> {
        self.fetches(false)
    }

    fn fetches(&self, for_reader: bool) -> Arc<dyn Holder> {
        match self.0.clone() {
            Some(one) => Arc::new(Fetches { one, for_reader }),
            None => Arc::new(Uncounted),
        }
    }
}

impl One {
    async fn for_reader(&self, bytes: usize) -> Result<Note> {
        if bytes <= SMALL_BYTES {
            return Ok(Box::new(self.share.try_room(bytes)));
        }
        let first = self.group.get_or_try_init(|| self.first_group(bytes));
        let kept = first.await?.bytes;
        if self.own_group.available_permits() == 0
            && let Some(room) = self.share.try_room(bytes)
        {
            return Ok(Box::new(room));
        }
        // What answers that have not begun wait for is not taken from under them.
        let own = acquired(&self.own_group, 1).await;
        let beside = bytes.checked_sub(kept).filter(|bytes| *bytes > 0);
        let beside = beside.map(|bytes| self.share.try_room(bytes));
        Ok(Box::new((own, beside)))
    }

    async fn first_group(&self, bytes: usize) -> Result<RowGroup> {
        let room = match self.share.begin(bytes).await {
            Err(full) if !self.has_begun() => {
                // Comes through the reader of the file as it is.
                return Err(DataFusionError::External(Box::new(problem_of(&full))));
            }
            room => room.ok(),
        };
        self.begins();
        Ok(RowGroup { bytes, _room: room })
    }
}

impl Holder for Fetches {
    fn hold(&self, bytes: usize) -> BoxFuture<'_, Result<Note>> {
        match self.for_reader {
            true => self.one.for_reader(bytes).boxed(),
            false => ready(Ok(Box::new(self.one.share.account(bytes)) as Note)).boxed(),
        }
    }
}

impl Holder for Uncounted {
    fn hold(&self, _bytes: usize) -> BoxFuture<'_, Result<Note>> {
        async { Ok(Box::new(()) as Note) }.boxed()
    }
}
