// SPDX-License-Identifier: Apache-2.0
//! What a run computes, as it travels to another process, and what comes back.
//!
//! Purpose: a worker is a function from what is on the store to files on the store; [`Work`] names all of its input.
//! What decides (definitions, pointers, the ledger) stays with whoever hands it out. Invariants: the files that come
//! back are those of exactly this definition over exactly this version of the raw log; a failure keeps its kind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use dovetail_log::raw::{RawReader, RawSnapshot, root_of};
use dovetail_model::{Clock, ExclusionId, RowsRead, RunMode, StreamDef, StreamId, ViewId};
use dovetail_seam::Generation;
use dovetail_view::{
    EventFailed, EventPlace, ExclusionFailed, FinishFailed, View, ViewError, WhereFailed, words_of,
};
use object_store::ObjectStore;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::compute::{Computation, Computed, Job};
use crate::layer::{Kind, Lanes};
use crate::{BatchError, Progress};

/// One computation of a view's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The view.
    pub view: ViewId,
    /// Its name, for people.
    pub name: String,
    /// The SELECT of the definition that is computed, and what it must compile to.
    pub sql: String,
    /// [`View::definition_hash`] of that.
    pub definition_hash: String,
    /// [`View::state_fingerprint`] of that: the states must merge with those of whoever asks.
    pub state_fingerprint: String,
    /// The stream that it reads.
    pub stream: StreamDef,
    /// The version of the raw log's table that it reads.
    pub raw_version: u64,
    /// What of it, and into what.
    pub computation: Computation,
}

impl Work {
    pub(crate) fn new(
        id: &ViewId,
        name: &str,
        view: &View,
        stream: &StreamDef,
        raw: &RawSnapshot,
        computation: Computation,
    ) -> Self {
        Self {
            view: id.clone(),
            name: name.to_owned(),
            sql: view.sql().to_owned(),
            definition_hash: view.definition_hash().to_owned(),
            state_fingerprint: view.state_fingerprint().to_owned(),
            stream: stream.clone(),
            raw_version: raw.version(),
            computation,
        }
    }

    /// What kind of run it is.
    pub fn mode(&self) -> RunMode {
        self.computation.mode()
    }

    fn compile(&self) -> Result<View, String> {
        let schemas = BTreeMap::from([(self.stream.name.clone(), self.stream.schema.clone())]);
        let view = View::compile(&self.sql, &schemas).map_err(|error| error.to_string())?;
        let same = view.definition_hash() == self.definition_hash
            && view.state_fingerprint() == self.state_fingerprint;
        if same {
            return Ok(view);
        }
        Err(
            "the definition compiles to something else here: both processes must be of one version"
                .to_owned(),
        )
    }
}

/// How the computation of a [`Work`] ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its files, or why there are none.
    pub result: Result<Computed, Failure>,
    /// What it read.
    pub read: RowsRead,
}

/// Why a worker could not compute. A kind exists only if the run ends otherwise for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// An expression of the view fails on an event.
    Event(String),
    /// The same, and on which.
    At {
        /// The event.
        event: EventPlace,
        /// What the engine said.
        reason: String,
    },
    /// The predicate of an exclusion fails on an event.
    Exclusion {
        /// The exclusion.
        id: ExclusionId,
        /// Its predicate.
        predicate: String,
        /// Such an event.
        #[serde(default)]
        event: Option<EventPlace>,
        /// What the engine said.
        reason: String,
    },
    /// The `where` of a repair fails on a group.
    Where {
        /// The predicate.
        predicate: String,
        /// The keys of the group, in words.
        group: Option<String>,
        /// An event that falls in it.
        event: Option<EventPlace>,
        /// What the engine said.
        reason: String,
    },
    /// The select list fails on a group.
    Group {
        /// The output column.
        column: String,
        /// What it is computed from.
        expression: String,
        /// The keys of the group, in words.
        group: Option<String>,
        /// What the engine said.
        reason: String,
    },
    /// What the run has to hold does not fit into its memory.
    Memory {
        /// What it may have, in bytes.
        limit: usize,
        /// Among how many runs of its kind the worker's memory is split.
        at_a_time: usize,
        /// What did not fit.
        reason: String,
    },
    /// Trouble that need not be the run's: the worker's disk, its way to the store. It is computed again elsewhere.
    Own(String),
}

impl Failure {
    /// What `error` is to another process.
    pub(crate) fn of(error: &BatchError) -> Self {
        if let BatchError::Memory {
            limit,
            at_a_time,
            reason,
            ..
        } = error
        {
            return Self::Memory {
                limit: *limit,
                at_a_time: *at_a_time,
                reason: reason.clone(),
            };
        }
        if !error.is_of_the_data() {
            return Self::Own(error.to_string());
        }
        match error {
            BatchError::Engine(engine) => match ExclusionFailed::at_root_of(engine) {
                Some(failed) => Self::Exclusion {
                    id: failed.id,
                    predicate: failed.predicate.clone(),
                    event: failed.event,
                    reason: failed.reason.clone(),
                },
                None => Self::Event(words_of(engine)),
            },
            BatchError::View(ViewError::Finish(failed)) => Self::Group {
                column: failed.column.clone(),
                expression: failed.expression.clone(),
                group: failed.group.clone(),
                reason: failed.reason.clone(),
            },
            BatchError::View(ViewError::Event(failed)) => Self::At {
                event: failed.event,
                reason: failed.reason.clone(),
            },
            BatchError::View(ViewError::Where(failed)) => Self::Where {
                predicate: failed.predicate.clone(),
                group: failed.group.clone(),
                event: failed.event,
                reason: failed.reason.clone(),
            },
            other => Self::Event(other.to_string()),
        }
    }

    /// The error that it would have been here, of a run of `mode`; or, as text, trouble of the worker's own.
    pub(crate) fn into_error(self, mode: RunMode, worker: &str) -> Result<BatchError, String> {
        let engine = |error| Ok(BatchError::Engine(error));
        match self {
            Self::Event(reason) => engine(DataFusionError::Execution(reason)),
            Self::Exclusion {
                id,
                predicate,
                event,
                reason,
            } => engine(DataFusionError::External(Box::new(ExclusionFailed {
                id,
                predicate,
                event,
                reason,
            }))),
            Self::At { event, reason } => {
                Ok(BatchError::View(ViewError::Event(Box::new(EventFailed {
                    event,
                    reason,
                }))))
            }
            Self::Where {
                predicate,
                group,
                event,
                reason,
            } => Ok(BatchError::View(ViewError::Where(Box::new(WhereFailed {
                predicate,
                group,
                event,
                reason,
            })))),
            Self::Group {
                column,
                expression,
                group,
                reason,
            } => Ok(BatchError::View(ViewError::Finish(Box::new(
                FinishFailed {
                    column,
                    expression,
                    group,
                    reason,
                },
            )))),
            Self::Memory {
                limit,
                at_a_time,
                reason,
            } => Ok(BatchError::Memory {
                limit,
                at_a_time,
                mode,
                worker: Some(worker.to_owned()),
                reason,
            }),
            Self::Own(reason) => Err(reason),
        }
    }
}

/// What a worker is made of.
#[derive(Debug, Clone)]
pub struct ComputerConfig {
    /// Where raw logs are read and files written.
    pub store: Arc<dyn ObjectStore>,
    /// The worker's clock.
    pub clock: Arc<dyn Clock>,
    /// As in [`crate::BatchConfig`].
    pub task: Arc<TaskContext>,
    /// Parallelism of one run.
    pub partitions: usize,
    /// How many full or repair runs compute at a time, and how many incremental ones beside them.
    pub runs: usize,
}

/// Computes what others hand out. It decides nothing and writes nothing but files that nobody names yet.
#[derive(Debug)]
pub struct Computer {
    config: ComputerConfig,
    lanes: Lanes,
    raw: Mutex<HashMap<StreamId, Arc<RawReader>>>,
}

impl Computer {
    /// A computer over `config`.
    pub fn new(config: ComputerConfig) -> Self {
        Self {
            lanes: Lanes::new(&config.task, config.runs),
            raw: Mutex::default(),
            config,
        }
    }

    /// Computes `work` by the very function that computes in the process that hands it out.
    pub async fn compute(&self, work: &Work, progress: &Arc<Progress>) -> Answer {
        let result = Box::pin(self.files(work, progress)).await;
        dovetail_log::crash_point("worker:computed");
        Answer {
            result,
            read: progress.read(),
        }
    }

    async fn files(&self, work: &Work, progress: &Arc<Progress>) -> Result<Computed, Failure> {
        let view = work.compile().map_err(Failure::Own)?;
        let raw = self.raw(&work.stream)?;
        let raw = raw.at(work.raw_version, &work.stream.schema).await;
        let raw = raw.map_err(|error| Failure::Own(error.to_string()))?;
        let turn = self.lanes.turn(Kind::of(work.mode()), progress).await;
        let turn = turn.map_err(|error| Failure::of(&error))?;
        let job = Job {
            view: Arc::new(view),
            raw,
            root: Generation::view_root(&work.view),
            store: Arc::clone(&self.config.store),
            task: Arc::clone(turn.task()),
            at_a_time: self.config.runs,
            partitions: self.config.partitions,
            progress: Arc::clone(progress),
        };
        let computed = job.compute(&work.computation).await;
        computed.map_err(|error| Failure::of(&error))
    }

    fn raw(&self, stream: &StreamDef) -> Result<Arc<RawReader>, Failure> {
        let mut readers = self.raw.lock();
        if let Some(reader) = readers.get(&stream.id) {
            return Ok(Arc::clone(reader));
        }
        let reader = RawReader::new(
            Arc::clone(&self.config.store),
            root_of(&stream.id),
            stream.id.clone(),
            Arc::clone(&self.config.clock),
        );
        let reader = Arc::new(reader.map_err(|error| Failure::Own(error.to_string()))?);
        readers.insert(stream.id.clone(), Arc::clone(&reader));
        Ok(reader)
    }
}

#[cfg(test)]
mod tests;
