// SPDX-License-Identifier: Apache-2.0
//! Sorted states as a stream that can be taken up to a key.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::row::Rows;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use dovetail_view::View;
use futures::StreamExt as _;

use super::key_set::KeySet;
use crate::BatchError;

/// A stream of states in sort-key order, each key once.
pub(crate) struct SortedStates {
    view: Arc<View>,
    stream: SendableRecordBatchStream,
    /// Read and not taken yet.
    ahead: VecDeque<RecordBatch>,
    only: Option<KeySet>,
}

impl SortedStates {
    /// Starts a plan with one output partition.
    pub(crate) fn start(
        view: Arc<View>,
        plan: Arc<dyn ExecutionPlan>,
        task: &Arc<TaskContext>,
    ) -> Result<Self, BatchError> {
        let stream = plan.execute(0, Arc::clone(task))?;
        Ok(Self {
            view,
            stream,
            ahead: VecDeque::new(),
            only: None,
        })
    }

    /// Only the states whose key is in `keys`.
    pub(crate) fn keeping(mut self, keys: &KeySet) -> Self {
        self.only = Some(keys.clone());
        self
    }

    /// The next batch, not empty.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, BatchError> {
        if let Some(batch) = self.ahead.pop_front() {
            return Ok(Some(batch));
        }
        while let Some(batch) = self.stream.next().await {
            let mut batch = batch?;
            if let Some(only) = &self.only {
                let keys = self.view.encode_keys(&batch)?;
                let keep: BooleanArray = keys
                    .iter()
                    .map(|key| Some(only.contains(key.as_ref())))
                    .collect();
                batch = filter_record_batch(&batch, &keep)
                    .map_err(datafusion::error::DataFusionError::from)?;
            }
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// All states with a key up to and including `bound`; all that are left when there is none.
    pub(crate) async fn take_through(
        &mut self,
        bound: Option<&[u8]>,
    ) -> Result<Vec<RecordBatch>, BatchError> {
        let mut taken = vec![];
        while let Some(batch) = self.next().await? {
            let Some(bound) = bound else {
                taken.push(batch);
                continue;
            };
            let keys = self.view.encode_keys(&batch)?;
            let inside = rows_through(&keys, bound);
            if inside > 0 {
                taken.push(batch.slice(0, inside));
            }
            if inside < batch.num_rows() {
                self.ahead
                    .push_front(batch.slice(inside, batch.num_rows() - inside));
                break;
            }
        }
        Ok(taken)
    }
}

/// How many of the sorted `keys` are at most `bound`.
pub(crate) fn rows_through(keys: &Rows, bound: &[u8]) -> usize {
    let (mut low, mut high) = (0, keys.num_rows());
    while low < high {
        let middle = (low + high) / 2;
        if keys.row(middle).as_ref() <= bound {
            low = middle + 1
        } else {
            high = middle
        }
    }
    low
}
