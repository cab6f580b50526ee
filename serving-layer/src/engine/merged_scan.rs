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

use std::collections::BTreeSet;
use std::fmt;
use std::mem::replace;
use std::sync::{Arc, OnceLock};

use arrow::array::{BooleanArray, RecordBatch, UInt64Array, new_empty_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning,
    PlanProperties, ReplaceChildrenOptions,
};
use dovetail_log::parquet_files::{Holder, accounted};
use dovetail_model::{DataFile, Problem, ProblemKind};
use dovetail_seam::{FileColumns, Generation};
use dovetail_view::{Answered, CommonKeys, Finisher, Run, View, ViewError, record_batch};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use super::interrupt::Interrupt;
use super::replaced::replaced;
use super::settled::{SettledFile, Settlement, Settlements, Settling};
use super::snapshot::USERS_PAUSE_S;
use super::{external, problem_of};

/// The member of a problem that names the column which cannot be computed for some group.
const FAILED_COLUMN: &str = "column";

/// Whether a scan failed because the select list cannot be computed for some group.
pub(super) fn fails_on_a_group(error: &DataFusionError) -> bool {
    let problem = problem_of(error);
    problem.kind == ProblemKind::Unavailable && problem.members.contains_key(FAILED_COLUMN)
}

/// A generation and the runs to merge with it.
#[derive(Debug, Clone)]
pub(crate) struct ViewSource {
    pub(crate) generation: Arc<Generation>,
    /// Empty when the generation answers alone.
    pub(crate) runs: Vec<Arc<Run>>,
    /// Whether both layers answer.
    pub(crate) merged: bool,
}

/// Some groups of a view.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    view: Arc<View>,
    /// Their encoded keys, in order.
    keys: Arc<Vec<Box<[u8]>>>,
}

impl Groups {
    /// Those of `rows`, which have the columns of its keys.
    ///
    /// # Errors
    /// When they have not.
    pub(super) fn of(
        view: &Arc<View>,
        rows: impl Iterator<Item = RecordBatch>,
    ) -> std::result::Result<Self, ViewError> {
        let mut keys = vec![];
        for batch in rows {
            let encoded = view.encode_keys(&batch)?;
            keys.extend(encoded.iter().map(|key| Box::from(key.data())));
        }
        keys.sort_unstable();
        Ok(Self {
            view: Arc::clone(view),
            keys: Arc::new(keys),
        })
    }

    /// The rows of `batch` that are of one of them.
    fn among(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = self.view.encode_keys(batch).map_err(external)?;
        let is_one = |key: &[u8]| {
            let found = self.keys.binary_search_by(|probe| probe.as_ref().cmp(key));
            found.is_ok()
        };
        let mask: BooleanArray = rows.iter().map(|key| Some(is_one(key.data()))).collect();
        Ok(filter_record_batch(batch, &mask)?)
    }
}

/// Which groups are finished.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Over key columns by name.
    pub(super) predicate: Option<Arc<dyn PhysicalExpr>>,
    /// All of them where there is none.
    pub(super) only: Option<Groups>,
}

impl Wanted {
    fn is_all(&self) -> bool {
        self.predicate.is_none() && self.only.is_none()
    }

    /// The rows of `batch` that are wanted; their keys are found by name.
    fn of(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut rows = batch.clone();
        if let Some(groups) = &self.only {
            rows = groups.among(&rows)?;
        }
        if let Some(predicate) = &self.predicate {
            rows = matching(&rows, predicate)?;
        }
        Ok(rows)
    }
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

/// The runs, filtered and merged to one, in order.
#[derive(Debug)]
struct Merged {
    states: RecordBatch,
    /// For each file of the generation, how many of the states have a key up to its last one. All of them for the last
    /// file, which takes everything behind.
    through: Vec<usize>,
}

/// What the partitions have in common.
#[derive(Debug)]
struct Shared {
    /// The view's.
    name: String,
    source: ViewSource,
    wanted: Wanted,
    /// Columns of the view's output that rows have until they are answered: those to answer, and the keys. A file has them
    /// at the same places.
    shown: Vec<usize>,
    /// Theirs.
    rows: SchemaRef,
    /// Which of them are keys.
    is_key: Vec<bool>,
    /// Which of them are answered, in what order.
    projection: Vec<usize>,
    /// Makes them of states.
    finisher: Finisher,
    schema: SchemaRef,
    merged: OnceLock<std::result::Result<Merged, String>>,
    /// For a read of all groups that is not the first one of its generation and runs.
    settled: Option<(Arc<Settlements>, Arc<Settlement>)>,
}

/// What one execution goes by.
#[derive(Debug, Clone)]
struct Reading {
    context: Arc<TaskContext>,
    /// So many rows are enough, whichever they are: no more are finished before the first of them are answered.
    limit: Option<usize>,
    watch: Option<(Interrupt, Arc<dyn Holder>)>,
}

impl Reading {
    fn check(&self) -> Result<()> {
        let watch = self.watch.as_ref();
        watch.map_or(Ok(()), |(interrupt, _)| interrupt.check())
    }

    /// The rows of one file of the generation.
    fn file(
        &self,
        source: &ViewSource,
        file: &DataFile,
        columns: &FileColumns,
    ) -> Result<SendableRecordBatchStream> {
        let files = std::slice::from_ref(file);
        let plan = source.generation.scan(files, columns, None, 1);
        let plan = plan.map_err(external)?;
        let Some((interrupt, holder)) = &self.watch else {
            return plan.execute(0, Arc::clone(&self.context));
        };
        let plan = plan.transform_up(|part| match part.children().is_empty() {
            true => accounted(part, &self.context, holder).map(Transformed::yes),
            false => Ok(Transformed::no(part)),
        });
        let rows = plan?.data.execute(0, Arc::clone(&self.context))?;
        Ok(interrupt.watch(rows))
    }
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

fn unhex(text: &str) -> Result<Vec<u8>> {
    dovetail_model::unhex(text)
        .ok_or_else(|| DataFusionError::Execution(format!("`{text}` in a manifest is not a key")))
}

impl Merged {
    /// What goes with a file.
    fn part(&self, file: usize) -> RecordBatch {
        let before = file.checked_sub(1).map_or(0, |before| self.through[before]);
        self.states.slice(before, self.through[file] - before)
    }
}

impl Shared {
    fn view(&self) -> &Arc<View> {
        self.source.generation.view()
    }

    /// The merged runs, computed by whichever partition asks first.
    fn merged(&self) -> Result<&Merged> {
        let merge = || self.merge().map_err(|error| error.to_string());
        let merged = self.merged.get_or_init(merge).as_ref();
        merged.map_err(|error| DataFusionError::Execution(error.clone()))
    }

    fn merge(&self) -> Result<Merged> {
        let view = self.view();
        let mut runs = Vec::with_capacity(self.source.runs.len());
        for run in &self.source.runs {
            runs.push(match self.wanted.is_all() {
                true => Arc::clone(run),
                false => {
                    let kept = run.states().iter().map(|batch| self.wanted.of(batch));
                    let kept = kept.collect::<Result<Vec<_>>>()?;
                    Arc::new(Run::from_sorted(view, run.span().clone(), kept))
                }
            });
        }
        let schema = view.state_schema();
        let states = match runs.as_slice() {
            [] => RecordBatch::new_empty(schema),
            [one] => arrow::compute::concat_batches(&schema, one.states())?,
            many => view.merge_in_order(many).map_err(external)?,
        };
        let mut through = vec![];
        if let Some((_, files)) = self.source.generation.manifest().files.split_last() {
            for file in files {
                let last = unhex(&file.last_key)?;
                through.push(view.rows_through(&states, &last).map_err(external)?);
            }
        }
        through.push(states.num_rows());
        Ok(Merged { states, through })
    }

    /// Finished rows; where the select list fails, it says of which view.
    fn explained(
        &self,
        finished: std::result::Result<RecordBatch, ViewError>,
    ) -> Result<RecordBatch> {
        finished.map_err(|error| match error {
            ViewError::Finish(failed) => {
                // As with a view that is poisoned: the question is right, and may be answered later.
                let explained = failed.explain(&self.name, self.view().stream(), Answered::Others);
                self.source.generation.note_failed(&explained);
                let problem = Problem::new(ProblemKind::Unavailable, explained);
                external(
                    problem
                        .with("view", self.name.as_str())
                        .with(FAILED_COLUMN, failed.column)
                        .with("retry_after_s", USERS_PAUSE_S),
                )
            }
            error => external(error),
        })
    }

    /// The finished rows of a batch of a file, of which all columns were read.
    fn rows_of_file(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.shown.iter().map(|i| Arc::clone(batch.column(*i)));
        record_batch(&self.rows, columns.collect(), batch.num_rows()).map_err(external)
    }

    /// The columns of `batch`, finished rows, that the question asks for.
    fn projected(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.projection.iter().map(|i| Arc::clone(batch.column(*i)));
        record_batch(&self.schema, columns.collect(), batch.num_rows()).map_err(external)
    }

    /// One file's rows: a stream of finished batches.
    fn read(
        self: Arc<Self>,
        slot: FileSlot,
        reading: Reading,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        reading.check()?;
        let Some(file) = &slot.file else {
            let finished = self.finish_runs(reading.limit)?;
            return Ok(stream::iter([self.projected(&finished)]).boxed());
        };
        if self.source.runs.is_empty() {
            return self.read_untouched(file, &reading);
        }
        let settled = self.settled.as_ref();
        let kept = settled.and_then(|(_, settlement)| settlement.file(slot.index));
        match kept {
            Some(kept) if kept.is_empty() => return self.read_untouched(file, &reading),
            Some(kept) => return self.read_settled(file, kept, &reading),
            None => {}
        }
        let incoming = self.merged()?.part(slot.index);
        let settling = settled.map(|(all, settlement)| Settling::new(all, settlement, slot.index));
        if incoming.num_rows() == 0 {
            if let Some(settling) = settling {
                settling.keep(incoming.schema_ref());
            }
            return self.read_untouched(file, &reading);
        }
        self.read_touched(file, incoming, settling, &reading)
    }

    /// The finished rows of the runs alone: they are in no order, as nothing is to be found among them.
    fn finish_runs(&self, limit: Option<usize>) -> Result<RecordBatch> {
        let runs = &self.source.runs;
        let mut states = Vec::with_capacity(runs.len());
        for batch in runs.iter().flat_map(|run| run.states_in_any_order()) {
            states.push(self.wanted.of(&batch)?);
        }
        let has_keys = !self.view().keys().is_empty();
        match (states.as_slice(), limit) {
            ([of_one_run], _) if runs.len() == 1 && has_keys => {
                self.explained(self.finisher.finish_unique(&first(of_one_run, limit)))
            }
            (all, Some(_)) if has_keys => {
                let merged = self.view().merge_states(all).map_err(external)?;
                self.explained(self.finisher.finish_unique(&first(&merged, limit)))
            }
            (all, _) => self.explained(self.finisher.finish(all)),
        }
    }

    fn read_untouched(
        self: Arc<Self>,
        file: &DataFile,
        reading: &Reading,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let columns = FileColumns::Some(self.shown.clone());
        let rows = reading.file(&self.source, file, &columns)?;
        let finish = move |batch: RecordBatch| {
            let (_, columns, rows) = batch.into_parts();
            let rows = record_batch(&self.rows, columns, rows).map_err(external)?;
            self.answered(&rows)
        };
        Ok(rows.map(move |batch| batch.and_then(&finish)).boxed())
    }

    fn read_touched(
        self: Arc<Self>,
        file: &DataFile,
        incoming: RecordBatch,
        settling: Option<Settling>,
        reading: &Reading,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let limit = reading.limit;
        let rows = reading.file(&self.source, file, &FileColumns::All)?;
        let first_rows = limit.unwrap_or(usize::MAX);
        let pieces = move |(index, batch): (usize, Result<RecordBatch>)| match batch {
            Ok(batch) if index == 0 && first_rows < batch.num_rows() => vec![
                Ok(batch.slice(0, first_rows)),
                Ok(batch.slice(first_rows, batch.num_rows() - first_rows)),
            ],
            whole => vec![whole],
        };
        let rows = rows.enumerate().map(pieces);
        let rows = rows.flat_map(stream::iter).boxed();
        // Both sides are in order: behind a batch of the file, what is incoming up to its last key is done.
        let begin = (rows, incoming, settling);
        let batches = stream::try_unfold(begin, move |(mut rows, incoming, mut settling)| {
            let shared = Arc::clone(&self);
            async move {
                let Some(batch) = rows.next().await else {
                    if let Some(mut settling) = settling
                        && settling.add(0, incoming.clone(), &[])
                    {
                        settling.keep(incoming.schema_ref());
                    }
                    if incoming.num_rows() == 0 {
                        return Ok(None);
                    }
                    let last = shared.finisher.finish_unique(&first(&incoming, limit));
                    let last = shared.answered(&shared.explained(last)?)?;
                    return Ok(Some((vec![last], (rows, incoming.slice(0, 0), None))));
                };
                let (output, passed) = shared.merge_batch(batch?, &incoming, &mut settling)?;
                let left = incoming.slice(passed, incoming.num_rows() - passed);
                Ok::<_, DataFusionError>(Some((output, (rows, left, settling))))
            }
        });
        let batches = batches.map_ok(|batches| stream::iter(batches.into_iter().map(Ok)));
        Ok(batches.try_flatten().boxed())
    }

    /// The rows of a batch of a file, with what is incoming up to its last key: in any order. How many of the incoming
    /// rows that are.
    fn merge_batch(
        &self,
        batch: RecordBatch,
        incoming: &RecordBatch,
        settling: &mut Option<Settling>,
    ) -> Result<(Vec<RecordBatch>, usize)> {
        let view = self.view();
        let CommonKeys { pairs, passed } = view.common_keys(&batch, incoming).map_err(external)?;
        let rows = self.rows_of_file(&batch)?;
        let incoming = incoming.slice(0, passed);
        let mut touched = vec![];
        if !pairs.is_empty() {
            let of_file = UInt64Array::from_iter_values(pairs.iter().map(|(row, _)| *row as u64));
            let states = view.measured_of_file(&batch, &of_file).map_err(external)?;
            touched.push((states, pairs.iter().map(|(_, row)| *row).collect()));
        }
        drop(batch);
        let merged = settling.take().and_then(|mut open| {
            // What cannot be merged is explained below.
            let states = view.merge_with(&incoming, &touched).ok()?;
            *settling = open
                .add(rows.num_rows(), states.clone(), &pairs)
                .then_some(open);
            Some(states)
        });
        let finished = match merged {
            Some(states) => self.finisher.finish_unique(&states),
            None if passed == 0 => return Ok((vec![self.answered(&rows)?], 0)),
            None => self.finisher.finish_with(&incoming, touched),
        };
        let finished = self.explained(finished)?;
        Ok((self.in_place(rows, &finished, &pairs)?, passed))
    }

    fn read_settled(
        self: Arc<Self>,
        file: &DataFile,
        kept: Arc<SettledFile>,
        reading: &Reading,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let columns = FileColumns::Some(self.shown.clone());
        let rows = reading.file(&self.source, file, &columns)?;
        // Of the file's rows and of what is kept, how many are done.
        let begin = (rows, 0, 0);
        let batches = stream::try_unfold(begin, move |(mut rows, row, done)| {
            let (shared, kept) = (Arc::clone(&self), Arc::clone(&kept));
            async move {
                let Some(batch) = rows.next().await else {
                    if done == kept.len() {
                        return Ok(None);
                    }
                    let (states, _) = kept.groups(done..kept.len());
                    let last = shared.finisher.finish_unique(&states);
                    let last = shared.answered(&shared.explained(last)?)?;
                    return Ok(Some((vec![last], (rows, row, kept.len()))));
                };
                let (_, columns, count) = batch?.into_parts();
                let batch = record_batch(&shared.rows, columns, count).map_err(external)?;
                let through = kept.before(row + count);
                let (states, places) = kept.groups(done..through);
                let finished = shared.explained(shared.finisher.finish_unique(&states))?;
                let places = places.iter().enumerate().filter(|(_, place)| !place.is_new);
                let pairs = places.map(|(group, place)| (place.row - row, group));
                let pairs: Vec<(usize, usize)> = pairs.collect();
                let output = shared.in_place(batch, &finished, &pairs)?;
                Ok::<_, DataFusionError>(Some((output, (rows, row + count, through))))
            }
        });
        let batches = batches.map_ok(|batches| stream::iter(batches.into_iter().map(Ok)));
        Ok(batches.try_flatten().boxed())
    }

    /// What is answered of finished `rows` with the groups of `by` in their places: of those that are in no pair, behind
    /// them.
    fn in_place(
        &self,
        rows: RecordBatch,
        by: &RecordBatch,
        pairs: &[(usize, usize)],
    ) -> Result<Vec<RecordBatch>> {
        let mut output = vec![self.answered(&self.replaced(rows, by, pairs)?)?];
        if pairs.len() < by.num_rows() {
            let mut is_new = vec![true; by.num_rows()];
            pairs.iter().for_each(|(_, row)| is_new[*row] = false);
            let new = filter_record_batch(by, &BooleanArray::from(is_new))?;
            output.push(self.answered(&new)?);
        }
        Ok(output)
    }

    /// Finished `rows` with some replaced: for each pair, row `.0` by row `.1` of `by`, which is of the same group.
    fn replaced(
        &self,
        rows: RecordBatch,
        by: &RecordBatch,
        pairs: &[(usize, usize)],
    ) -> Result<RecordBatch> {
        let (schema, mut columns, count) = rows.into_parts();
        for (index, column) in columns.iter_mut().enumerate() {
            if !self.is_key[index] {
                let own = replace(column, new_empty_array(column.data_type()));
                *column = replaced(own, by.column(index), pairs)?;
            }
        }
        record_batch(&schema, columns, count).map_err(external)
    }

    /// What is answered of finished rows.
    fn answered(&self, output: &RecordBatch) -> Result<RecordBatch> {
        self.projected(&self.wanted.of(output)?)
    }
}

/// As many rows of `batch` as are enough.
fn first(batch: &RecordBatch, limit: Option<usize>) -> RecordBatch {
    let rows = batch.num_rows();
    batch.slice(0, limit.map_or(rows, |limit| limit.min(rows)))
}

/// The rows of `batch` that match a predicate whose columns are found by name.
fn matching(batch: &RecordBatch, predicate: &Arc<dyn PhysicalExpr>) -> Result<RecordBatch> {
    let predicate = reassign_expr_columns(Arc::clone(predicate), &batch.schema())?;
    let mask = predicate.evaluate(batch)?.into_array(batch.num_rows())?;
    Ok(filter_record_batch(batch, as_boolean_array(&mask)?)?)
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
