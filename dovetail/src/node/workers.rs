// SPDX-License-Identifier: Apache-2.0
//! Batch runs and the processes that compute them: the batch layer's port over the desk of `dovetail-exchange`, and a
//! worker's computations behind the same words.

use std::sync::Arc;

use async_trait::async_trait;
use dovetail_batch_layer::{Answer, Computer, Failure, Lost, Place, Progress, Work, Workers};
use dovetail_exchange::{Begun, Computes, Desk, WorkPlace};
use dovetail_model::{CatalogState, RowsRead, RunMode};
use dovetail_serving_layer::ports::{WorkerInfo, WorkerTaskInfo};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// The workers that beat at a desk.
#[derive(Debug, Clone)]
pub(super) struct DeskWorkers(pub(super) Desk);

#[derive(Debug)]
struct DeskPlace(WorkPlace);

#[async_trait]
impl Workers for DeskWorkers {
    async fn place(&self, mode: RunMode) -> Box<dyn Place> {
        Box::new(DeskPlace(self.0.place(mode).await))
    }
}

#[async_trait]
impl Place for DeskPlace {
    fn worker(&self) -> &str {
        self.0.worker()
    }

    async fn compute(
        &mut self,
        work: &Work,
        hear: &(dyn Fn(RowsRead) + Send + Sync),
    ) -> Result<Answer, Lost> {
        let said = self.0.compute(&work.view, json(work), hear).await;
        let said = said.map_err(|lost| Lost(lost.to_string()))?;
        serde_json::from_str(said.get())
            .map_err(|error| Lost(format!("its answer cannot be read: {error}")))
    }
}

impl DeskWorkers {
    /// Every worker, as the API shows it.
    pub(super) fn describe(&self, state: &CatalogState) -> Vec<WorkerInfo> {
        let workers = self.0.workers().into_iter();
        let shown = workers.map(|worker| WorkerInfo {
            name: worker.name,
            runs: worker.runs as u64,
            computing: worker
                .tasks
                .iter()
                .map(|task| WorkerTaskInfo {
                    view: state.view_name(&task.view).to_owned(),
                    mode: task.mode,
                    rows_read: task.read.total(),
                })
                .collect(),
        });
        shown.collect()
    }
}

/// What a worker computes with.
pub(super) struct Computations(pub(super) Arc<Computer>);

impl Computes for Computations {
    fn begin(&self, work: &RawValue) -> Begun {
        let progress = Arc::<Progress>::default();
        let read = Arc::clone(&progress);
        let (computer, work) = (
            Arc::clone(&self.0),
            serde_json::from_str::<Work>(work.get()),
        );
        Begun {
            answer: Box::pin(async move {
                json(&match work {
                    Ok(work) => computer.compute(&work, &progress).await,
                    Err(error) => Answer {
                        result: Err(Failure::Own(format!("the work cannot be read: {error}"))),
                        read: RowsRead::default(),
                    },
                })
            }),
            read: Box::new(move || read.read()),
        }
    }
}

fn json(said: &impl Serialize) -> Box<RawValue> {
    to_raw_value(said).expect("what is said is plain data")
}
