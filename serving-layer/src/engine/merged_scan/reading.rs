// SPDX-License-Identifier: Apache-2.0
//! What the partitions of a merged scan have in common, and how each of them reads its files.

use std::mem::replace;
use std::sync::{Arc, OnceLock};

use arrow::array::{BooleanArray, RecordBatch, UInt64Array, new_empty_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use dovetail_log::parquet_files::{Holder, accounted};
use dovetail_model::{DataFile, Problem, ProblemKind};
use dovetail_seam::FileColumns;
use dovetail_view::{Answered, CommonKeys, Finisher, Run, View, ViewError, record_batch, replaced};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use super::super::interrupt::Interrupt;
use super::super::settled::{SettledFile, Settlement, Settlements, Settling};
use super::super::snapshot::USERS_PAUSE_S;
use super::super::wanted::Wanted;
use super::super::{external, problem_of};
use super::{FileSlot, ViewSource};

/// The member of a problem that names the column which cannot be computed for some group.
const FAILED_COLUMN: &str = "column";

/// Whether a scan failed because the select list cannot be computed for some group.
pub(in crate::engine) fn fails_on_a_group(error: &DataFusionError) -> bool {
    let problem = problem_of(error);
    problem.kind == ProblemKind::Unavailable && problem.members.contains_key(FAILED_COLUMN)
}

/// The runs, filtered and merged to one, in order.
#[derive(Debug)]
pub(super) struct Merged {
    states: RecordBatch,
    /// For each file of the generation, how many of the states have a key up to its last one. All of them for the last
    /// file, which takes everything behind.
    through: Vec<usize>,
}

impl Merged {
    /// What goes with a file.
    fn part(&self, file: usize) -> RecordBatch {
        let before = file.checked_sub(1).map_or(0, |before| self.through[before]);
        self.states.slice(before, self.through[file] - before)
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    dovetail_model::unhex(text)
        .ok_or_else(|| DataFusionError::Execution(format!("`{text}` in a manifest is not a key")))
}

/// What the partitions have in common.
#[derive(Debug)]
pub(super) struct Shared {
    /// The view's.
    pub(super) name: String,
    pub(super) source: ViewSource,
    pub(super) wanted: Wanted,
    /// Columns of the view's output that rows have until they are answered: those to answer, and the keys. A file has them
    /// at the same places.
    pub(super) shown: Vec<usize>,
    /// Theirs.
    pub(super) rows: SchemaRef,
    /// Which of them are keys.
    pub(super) is_key: Vec<bool>,
    /// Which of them are answered, in what order.
    pub(super) projection: Vec<usize>,
    /// Makes them of states.
    pub(super) finisher: Finisher,
    pub(super) schema: SchemaRef,
    pub(super) merged: OnceLock<std::result::Result<Merged, String>>,
    /// For a read of all groups that is not the first one of its generation and runs.
    pub(super) settled: Option<(Arc<Settlements>, Arc<Settlement>)>,
}

/// What one execution goes by.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) context: Arc<TaskContext>,
    /// So many rows are enough, whichever they are: no more are finished before the first of them are answered.
    pub(super) limit: Option<usize>,
    pub(super) watch: Option<(Interrupt, Arc<dyn Holder>)>,
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

impl Shared {
    pub(super) fn view(&self) -> &Arc<View> {
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
    pub(super) fn read(
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
