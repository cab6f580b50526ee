// SPDX-License-Identifier: Apache-2.0
//! Sorted states as a stream that is taken piece by piece, up to a key. No more than one batch is held.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use dovetail_model::DataFile;
use dovetail_seam::{FileColumns, Generation};
use dovetail_view::{KeyedStates, View};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::key_set::KeySet;
use crate::BatchError;

/// A stream of states in sort-key order, each key once.
pub(crate) struct SortedStates {
    view: Arc<View>,
    stream: BoxStream<'static, Result<RecordBatch, BatchError>>,
    /// The batch that was read last, as far as it is not taken: never empty.
    front: Option<KeyedStates>,
    which: Which,
}

/// Which of the states are wanted.
enum Which {
    All,
    Only(KeySet),
    Without(KeySet),
}

impl SortedStates {
    /// States in sort-key order, each key once.
    pub(crate) fn new(
        view: Arc<View>,
        stream: BoxStream<'static, Result<RecordBatch, BatchError>>,
    ) -> Self {
        Self {
            view,
            stream,
            front: None,
            which: Which::All,
        }
    }

    /// Starts a plan with one output partition.
    pub(crate) fn start(
        view: Arc<View>,
        plan: Arc<dyn ExecutionPlan>,
        task: &Arc<TaskContext>,
    ) -> Result<Self, BatchError> {
        let stream = plan.execute(0, Arc::clone(task))?;
        Ok(Self::new(view, stream.map_err(BatchError::from).boxed()))
    }

    /// The states in a file of `base`.
    pub(crate) fn of_file(
        base: &Generation,
        file: &DataFile,
        task: &Arc<TaskContext>,
    ) -> Result<Self, BatchError> {
        let plan = base.scan(std::slice::from_ref(file), &FileColumns::All, None, 1)?;
        let view = Arc::clone(base.view());
        let stream = plan.execute(0, Arc::clone(task))?;
        let stream = stream.map(move |batch| Ok(view.states_of_file(&batch?)?));
        Ok(Self::new(Arc::clone(base.view()), stream.boxed()))
    }

    /// Only the states whose key is in `keys`.
    pub(crate) fn keeping(mut self, keys: &KeySet) -> Self {
        self.which = Which::Only(keys.clone());
        self
    }

    /// Only the states whose key is not in `keys`.
    pub(crate) fn dropping(mut self, keys: &KeySet) -> Self {
        if !keys.is_empty() {
            self.which = Which::Without(keys.clone());
        }
        self
    }

    /// The next batch, not empty.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, BatchError> {
        if let Some(front) = self.front.take() {
            return Ok(Some(front.into_rest()));
        }
        while let Some(batch) = self.stream.next().await {
            let batch = self.wanted(batch?)?;
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// Whether there is a key up to and including `bound`; any at all when there is no bound.
    pub(crate) async fn meets(&mut self, bound: Option<&[u8]>) -> Result<bool, BatchError> {
        Ok(self.last_through(bound).await?.is_some())
    }

    /// Of the batch that comes next, the last key up to and including `bound`; None if there is none in it.
    pub(crate) async fn last_through(
        &mut self,
        bound: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, BatchError> {
        self.load().await?;
        let front = self.front.as_ref();
        let last = front.and_then(|front| front.last_through(bound));
        Ok(last.map(<[u8]>::to_vec))
    }

    /// Takes what the batch that was looked at last holds up to and including `bound`.
    pub(crate) fn take_through(&mut self, bound: &[u8]) -> Option<RecordBatch> {
        let front = self.front.as_mut()?;
        let taken = front.take_through(bound);
        if front.is_empty() {
            self.front = None;
        }
        taken
    }

    async fn load(&mut self) -> Result<(), BatchError> {
        if self.front.is_none()
            && let Some(states) = self.next().await?
        {
            self.front = Some(KeyedStates::new(&self.view, states)?);
        }
        Ok(())
    }

    fn wanted(&self, batch: RecordBatch) -> Result<RecordBatch, BatchError> {
        let (set, inside) = match &self.which {
            Which::All => return Ok(batch),
            Which::Only(set) => (set, true),
            Which::Without(set) => (set, false),
        };
        let keys = self.view.encode_keys(&batch)?;
        let keep: BooleanArray = keys
            .iter()
            .map(|key| Some(set.contains(key.as_ref()) == inside))
            .collect();
        Ok(filter_record_batch(&batch, &keep).map_err(DataFusionError::from)?)
    }
}
