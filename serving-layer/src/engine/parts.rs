// SPDX-License-Identifier: Apache-2.0
//! The rows of a running plan on their way to the reader of its answer.
//!
//! ```text
//! part 1 ─► pulled on a query thread ─► room ─┐
//!                                             ├─► queue ─► reader
//! part 2 ─► pulled on a query thread ─► room ─┘
//! ```
//! Purpose: the parts of a plan are pulled by themselves, so that each batch has its room from when it is made until it
//! is read; an operator that gathered them would hold some that nobody knows of. Collaborators: [`crate::held`] gives
//! room. Invariants: the answer ends only when every part has; dropping it stops the work.

use std::any::Any;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};
use dovetail_model::Problem;
use futures::StreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tokio_util::sync::DropGuard;

use super::external;
use super::interrupt::Interrupt;
use super::merged_scan::MergedScan;
use crate::held::{AnswerMemory, Held, PartMemory};

/// A plan that runs once somebody asks for its rows.
pub(super) struct Parts {
    schema: SchemaRef,
    parts: Vec<(SendableRecordBatchStream, PartMemory)>,
}

/// What is let go when all rows are made.
pub(super) type Kept = Box<dyn Any + Send + Sync>;

impl Parts {
    /// Of `plan`, whose rows take room of `memory`.
    ///
    /// # Errors
    /// When the plan cannot be executed.
    pub(super) fn of(
        plan: &dyn ExecutionPlan,
        task: &Arc<TaskContext>,
        memory: &AnswerMemory,
    ) -> Result<Self> {
        let cuts = !lends(plan);
        let parts = 0..plan.output_partitioning().partition_count();
        let parts = parts.map(|part| {
            let rows = plan.execute(part, Arc::clone(task))?;
            Ok((rows, memory.part(cuts)))
        });
        Ok(Self {
            schema: plan.schema(),
            parts: parts.collect::<Result<_>>()?,
        })
    }

    /// Pulls the rows on the threads of `runtime` and hands them over as far as they have room. Dropping the result stops
    /// the work. `kept` is let go at the end.
    pub(super) fn hand_over(
        self,
        runtime: &Handle,
        interrupt: &Interrupt,
        kept: Kept,
    ) -> SendableRecordBatchStream {
        // The memory is its bound.
        let (sender, receiver) = mpsc::unbounded_channel();
        // When the parts have ended, some of their tasks may still be in the middle of a batch.
        let kept = Arc::new((kept, interrupt.gone.clone().drop_guard()));
        let mut pulling = JoinSet::new();
        for (rows, memory) in self.parts {
            let part = Part {
                rows,
                memory,
                interrupt: interrupt.clone(),
                sender: sender.clone(),
                _held: Arc::clone(&kept),
            };
            pulling.spawn_on(part.pull(), runtime);
        }
        let reading = Reading {
            receiver,
            current: None,
            pulling,
            _gone: interrupt.gone.clone().drop_guard(),
        };
        let stream = futures::stream::unfold(reading, Reading::next);
        Box::pin(RecordBatchStreamAdapter::new(self.schema, stream))
    }
}

/// Rows, and the room that they take.
type Piece = Result<(RecordBatch, Held)>;

/// One of the parts that an answer comes in.
struct Part {
    rows: SendableRecordBatchStream,
    memory: PartMemory,
    interrupt: Interrupt,
    sender: mpsc::UnboundedSender<Piece>,
    _held: Arc<(Kept, DropGuard)>,
}

impl Part {
    async fn pull(mut self) {
        loop {
            let piece = match timeout_at(self.interrupt.deadline, self.rows.next()).await {
                Ok(Some(Ok(rows))) => {
                    let room = self.memory.rows(&rows).await;
                    room.map(|room| (rows, room))
                }
                Ok(Some(Err(error))) => Err(error),
                Ok(None) => return,
                Err(_) => Err(DataFusionError::External(Box::new(
                    self.interrupt.late.clone(),
                ))),
            };
            let failed = piece.is_err();
            if self.sender.send(piece).is_err() || failed {
                return;
            }
        }
    }
}

/// The reader's end of an answer.
struct Reading {
    receiver: mpsc::UnboundedReceiver<Piece>,
    /// The room of the rows that were handed over last.
    current: Option<Held>,
    /// Aborted with it where they yield; those in the middle of a batch look at the token.
    pulling: JoinSet<()>,
    _gone: DropGuard,
}

impl Reading {
    async fn next(mut self) -> Option<(Result<RecordBatch>, Self)> {
        self.current = None;
        if let Some(piece) = self.receiver.recv().await {
            let rows = piece.map(|(rows, room)| {
                self.current = Some(room);
                rows
            });
            return Some((rows, self));
        }
        // A part that panicked has come to no end: what there is would look whole.
        while let Some(ended) = self.pulling.join_next().await {
            if let Err(error) = ended {
                return Some((Err(external(Problem::internal(error))), self));
            }
        }
        None
    }
}

/// Whether rows of `plan` may be cut from what is in memory anyway, on the account of streams and views.
fn lends(plan: &dyn ExecutionPlan) -> bool {
    if plan.is::<MergedScan>() {
        return true;
    }
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>() {
        return scan.data_source().is::<MemorySourceConfig>();
    }
    // Others hand rows on that they were given, perhaps.
    plan.properties().emission_type != EmissionType::Final
        && plan.children().iter().any(|child| lends(child.as_ref()))
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_has_come_to_no_end() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut pulling = JoinSet::new();
        pulling.spawn(async move {
            let _sender = sender;
            panic!("in the middle");
        });
        let reading = Reading {
            receiver,
            current: None,
            pulling,
            _gone: CancellationToken::new().drop_guard(),
        };
        let (rows, reading) = reading.next().await.unwrap();
        let error = rows.unwrap_err().to_string();
        assert!(error.contains("panicked"), "{error}");
        assert!(reading.next().await.is_none());
    }
}
