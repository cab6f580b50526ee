// SPDX-License-Identifier: Apache-2.0
//! What both tables of a stream are read and written with.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use dovetail_model::{Clock, PartitionId, Position, StreamId};
use object_store::ObjectStore;

use crate::parquet_files::register_store;

/// The stream, its store, the clock, and a runtime for reading files back.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) stream: StreamId,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) context: Arc<TaskContext>,
}

impl Access {
    pub(super) fn new(
        stream: StreamId,
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let runtime = Arc::new(RuntimeEnv::default());
        register_store(&runtime, Arc::clone(&store));
        Self {
            stream,
            store,
            clock,
            context: Arc::new(TaskContext::default().with_runtime(runtime)),
        }
    }

    /// The application id under which the archived offset of `partition` is kept in the stream's tables.
    pub(super) fn transaction_id(&self, partition: PartitionId) -> String {
        format!("dovetail/{}/{partition}", self.stream)
    }

    /// The transactions of a commit that moves a table from `from` to `to`. Offsets were checked to fit.
    pub(super) fn transactions(&self, from: &Position, to: &Position) -> Vec<(String, i64)> {
        to.iter()
            .filter(|(partition, offset)| from.get(*partition) < *offset)
            .map(|(partition, offset)| (self.transaction_id(partition), offset.0.cast_signed()))
            .collect()
    }
}
