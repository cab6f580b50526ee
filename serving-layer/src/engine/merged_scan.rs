// SPDX-License-Identifier: Apache-2.0
//! Reads generation and runs as finished rows.
//!
//! Purpose: pass groups that no run touches straight through, merge and finish only the others.
//! Collaborators: `dovetail-view` merges and finishes, `dovetail-seam` scans files.
//! Invariants: the files of a generation are disjoint ranges of the key order and each group of the merged
//! runs belongs to exactly one of them, so the partitions of this plan share nothing and never wait for
//! each other. Non-goals: filters on finished values, which stand above the scan.
//!
//! ```text
//! runs ── filter keys ── merge ──► M, sorted by key, cut where the files are cut
//!   file 1: no key of M inside   ──► finished columns as they are
//!   file 2: keys of M inside     ──► its rows, the touched ones replaced by finish(their states ∪ M) ∪ finish(new keys)
//! ```
//!
//! Who reads all of the same generation and runs again finds what became of it in [`settled`](super::settled).

mod reading;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning,
    PlanProperties, ReplaceChildrenOptions,
};
use dovetail_log::parquet_files::Holder;
use dovetail_model::DataFile;
use dovetail_seam::Generation;
use dovetail_view::Run;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

pub(super) use self::reading::fails_on_a_group;
use self::reading::{Reading, Shared};
use super::external;
use super::interrupt::Interrupt;
use super::settled::Settlements;
use super::wanted::Wanted;

/// A generation and the runs to merge with it.
#[derive(Debug, Clone)]
pub(crate) struct ViewSource {
    pub(crate) generation: Arc<Generation>,
    /// Empty when the generation answers alone.
    pub(crate) runs: Vec<Arc<Run>>,
    /// Whether both layers answer.
    pub(crate) merged: bool,
}

/// The leaf of a plan that reads a merged view.
#[derive(Debug, Clone)]
pub(crate) struct MergedScan {
    shared: Arc<Shared>,
    /// Contiguous files of each partition.
    groups: Vec<Vec<FileSlot>>,
    limit: Option<usize>,
    /// None for a plan that is always run to its end.
    watch: Option<(Interrupt, Arc<dyn Holder>)>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// A file, with which a part of the merged runs goes.
#[derive(Debug, Clone)]
struct FileSlot {
    /// None when the generation has no files: then all of the runs go here.
    file: Option<DataFile>,
    /// Its place among the generation's files.
    index: usize,
}

impl MergedScan {
    pub(crate) fn new(
        name: &str,
        source: ViewSource,
        projection: Option<Vec<usize>>,
        wanted: Wanted,
        limit: Option<usize>,
        partitions: usize,
    ) -> Result<Self> {
        let view = Arc::clone(source.generation.view());
        let output = view.output_schema();
        let answered = projection.unwrap_or_else(|| (0..output.fields().len()).collect());
        let schema = Arc::new(output.project(&answered)?);
        let keys: Vec<usize> = view.keys().iter().map(|key| key.output_index).collect();
        let shown: BTreeSet<usize> = answered.iter().chain(&keys).copied().collect();
        let shown: Vec<usize> = shown.into_iter().collect();
        let place = |column: &usize| shown.partition_point(|other| other < column);
        let groups = slots(&source, partitions);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(groups.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let shared = Shared {
            name: name.to_owned(),
            source,
            wanted,
            is_key: shown.iter().map(|column| keys.contains(column)).collect(),
            projection: answered.iter().map(place).collect(),
            finisher: view.finisher(&shown).map_err(external)?,
            rows: Arc::new(output.project(&shown)?),
            shown,
            schema,
            merged: OnceLock::new(),
            settled: None,
        };
        Ok(Self {
            shared: Arc::new(shared),
            groups,
            limit,
            watch: None,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The same, which keeps what it finds if it reads everything, and not for the first time.
    pub(super) fn settled(mut self, settlements: Option<Arc<Settlements>>) -> Self {
        let Some(shared) = Arc::get_mut(&mut self.shared) else {
            return self;
        };
        let source = &shared.source;
        let is_whole = shared.wanted.is_all() && self.limit.is_none();
        if is_whole && !source.runs.is_empty() && !shared.view().keys().is_empty() {
            shared.settled = settlements.and_then(|settlements| {
                let settlement = settlements.asked(&source.generation, &source.runs)?;
                Some((settlements, settlement))
            });
        }
        self
    }

    /// The same, looking at `interrupt` between the batches of a file and before what takes long; `holder` is asked before
    /// it fetches.
    pub(super) fn watched(&self, interrupt: &Interrupt, holder: &Arc<dyn Holder>) -> Self {
        Self {
            watch: Some((interrupt.clone(), Arc::clone(holder))),
            ..self.clone()
        }
    }
}

/// Cuts the generation's files into at most `partitions` contiguous groups of about equal rows.
fn slots(source: &ViewSource, partitions: usize) -> Vec<Vec<FileSlot>> {
    let files = &source.generation.manifest().files;
    if files.is_empty() {
        return vec![vec![FileSlot {
            file: None,
            index: 0,
        }]];
    }
    let slots = files.iter().enumerate().map(|(index, file)| FileSlot {
        file: Some(file.clone()),
        index,
    });
    let slots: Vec<FileSlot> = slots.collect();
    let partitions = partitions.clamp(1, slots.len());
    let size = slots.len().div_ceil(partitions);
    slots.chunks(size).map(<[FileSlot]>::to_vec).collect()
}

impl DisplayAs for MergedScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.shared.source;
        let files: usize = self
            .groups
            .iter()
            .flatten()
            .filter(|slot| slot.file.is_some())
            .count();
        write!(
            f,
            "MergedScan: view={}, layer={}, generation={}, horizon={}, files={files}, runs={}",
            self.shared.name,
            if source.merged { "merged" } else { "batch" },
            source.generation.number(),
            source.generation.horizon(),
            source.runs.len(),
        )?;
        for run in &source.runs {
            write!(f, " {}", run.span())?;
        }
        if let Some(predicate) = &self.shared.wanted.predicate {
            write!(f, ", keys: {predicate}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for MergedScan {
    fn name(&self) -> &str {
        "MergedScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let predicate = &self.shared.wanted.predicate;
        predicate
            .iter()
            .try_fold(TreeNodeRecursion::Continue, |_, predicate| f(predicate))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let shared = Arc::clone(&self.shared);
        let slots = self.groups[partition].clone();
        let reading = Reading {
            context,
            limit: self.limit,
            watch: self.watch.clone(),
        };
        let batches = stream::iter(slots)
            .then(move |slot| {
                let (shared, reading) = (Arc::clone(&shared), reading.clone());
                async move { shared.read(slot, reading) }
            })
            .try_flatten();
        let mut left = self.limit.unwrap_or(usize::MAX);
        let counted = batches
            .try_filter(|batch| std::future::ready(batch.num_rows() > 0))
            .map(move |batch| {
                let batch = batch?;
                let batch = batch.slice(0, batch.num_rows().min(left));
                left -= batch.num_rows();
                metrics.record_output(batch.num_rows());
                Ok((batch, left))
            });
        let limited = counted.scan(false, |done, item: Result<(RecordBatch, usize)>| {
            let next = if *done { None } else { Some(item) };
            if let Some(Ok((_, 0))) = &next {
                *done = true;
            }
            std::future::ready(next.map(|item| item.map(|(batch, _)| batch)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.shared.schema),
            limited,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

#[cfg(test)]
mod tests;
