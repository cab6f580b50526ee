// SPDX-License-Identifier: Apache-2.0
//! A staged generation compared with its base, group by group.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::cast::AsArray as _;
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use dovetail_model::{DataFile, DiffSummary, LargestChange, Outcome, RunId};
use dovetail_seam::{FileColumns, Generation};
use dovetail_view::{View, json_value};
use futures::StreamExt as _;
use serde_json::Value;

use crate::layer::{live_view, manifest};
use crate::{BatchError, BatchLayer};

/// How many of the largest changes a diff names.
const LARGEST: usize = 10;

impl BatchLayer {
    /// Compares the generation that a run staged (or promoted since) with its base, at the same position.
    ///
    /// # Errors
    /// When the run made no generation, had no base, or one of the two has expired.
    pub async fn diff(&self, id: RunId) -> Result<DiffSummary, BatchError> {
        let run = self.run(id)?;
        if run.outcome == Outcome::Discarded {
            return Err(BatchError::Refused(format!(
                "run {id} has no diff: it was discarded, and its generation with it; start a new one"
            )));
        }
        let state = self.config.catalog.state();
        let view = live_view(&state, &run.view)?;
        let (Some(base), Some(staged)) = (run.base, run.generation) else {
            return Err(BatchError::Refused(format!(
                "run {id} has no diff: {}",
                if run.generation.is_none() {
                    "it made no generation"
                } else {
                    "it had no base to compare with"
                }
            )));
        };
        let base = self.open(&state, view, manifest(view, base)?)?;
        let staged = self.open(&state, view, manifest(view, staged)?)?;
        let task = Arc::clone(&self.config.task);
        let diffing = self
            .config
            .runtime
            .spawn(async move { diff(&base, &staged, &task).await });
        diffing
            .await
            .map_err(|error| BatchError::Refused(format!("the diff stopped: {error}")))?
    }
}

/// Compares two generations of one definition. Files that both hold are not read.
///
/// # Errors
/// When a file cannot be read.
pub async fn diff(
    base: &Generation,
    staged: &Generation,
    task: &Arc<TaskContext>,
) -> Result<DiffSummary, BatchError> {
    let paths = |g: &Generation| {
        g.manifest()
            .files
            .iter()
            .map(|f| f.path.clone())
            .collect::<HashSet<_>>()
    };
    let (base_paths, staged_paths) = (paths(base), paths(staged));
    let comparison = Comparison::new(staged.view())?;
    let mut before = Side::open(base, &staged_paths, &comparison, task)?;
    let mut after = Side::open(staged, &base_paths, &comparison, task)?;
    let mut found = Found::default();
    before.load().await?;
    after.load().await?;
    loop {
        let order = match (before.key(), after.key()) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.cmp(b),
        };
        match order {
            std::cmp::Ordering::Less => {
                found.removed += 1;
                found.note(comparison.size(&before), || {
                    comparison.change(Some(&before), None)
                })?;
                before.step().await?;
            }
            std::cmp::Ordering::Greater => {
                found.added += 1;
                found.note(comparison.size(&after), || {
                    comparison.change(None, Some(&after))
                })?;
                after.step().await?;
            }
            std::cmp::Ordering::Equal => {
                if let Some(size) = comparison.differ(&before, &after)? {
                    found.changed += 1;
                    found.note(size, || comparison.change(Some(&before), Some(&after)))?;
                }
                before.step().await?;
                after.step().await?;
            }
        }
    }
    found.largest.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    Ok(DiffSummary {
        base: base.number(),
        added: found.added,
        removed: found.removed,
        changed: found.changed,
        largest: found
            .largest
            .into_iter()
            .map(|(_, change)| change)
            .collect(),
    })
}

#[derive(Default)]
struct Found {
    added: u64,
    removed: u64,
    changed: u64,
    largest: Vec<(f64, LargestChange)>,
}

impl Found {
    /// Keeps the [`LARGEST`] changes by size.
    fn note(
        &mut self,
        size: f64,
        change: impl FnOnce() -> Result<LargestChange, BatchError>,
    ) -> Result<(), BatchError> {
        if self.largest.len() < LARGEST {
            self.largest.push((size, change()?));
            return Ok(());
        }
        let smallest = self
            .largest
            .iter_mut()
            .min_by(|(a, _), (b, _)| a.total_cmp(b));
        if let Some(smallest) = smallest.filter(|(s, _)| *s < size) {
            *smallest = (size, change()?);
        }
        Ok(())
    }
}

/// How rows of one view are compared and shown.
struct Comparison {
    view: Arc<View>,
    keys: Vec<usize>,
    values: Vec<usize>,
    converter: RowConverter,
}

impl Comparison {
    fn new(view: &Arc<View>) -> Result<Self, BatchError> {
        let keys: Vec<usize> = view.keys().iter().map(|key| key.output_index).collect();
        let schema = view.output_schema();
        let values: Vec<usize> = (0..schema.fields().len())
            .filter(|i| !keys.contains(i))
            .collect();
        let fields = values
            .iter()
            .map(|i| SortField::new(schema.field(*i).data_type().clone()))
            .collect();
        let converter = RowConverter::new(fields).map_err(DataFusionError::from)?;
        Ok(Self {
            view: Arc::clone(view),
            keys,
            values,
            converter,
        })
    }

    /// How far two rows of one group differ; None when their values are equal as their aggregates define it.
    fn differ(&self, before: &Side, after: &Side) -> Result<Option<f64>, BatchError> {
        let (Some(a), Some(b)) = (&before.page, &after.page) else {
            return Ok(None);
        };
        // A view may have keys alone, of which no rows are encoded.
        if self.values.is_empty() || a.values.row(before.row) == b.values.row(after.row) {
            return Ok(None);
        }
        let mut size: Option<f64> = None;
        for column in &self.values {
            let left = a.rows.column(*column).slice(before.row, 1);
            let right = b.rows.column(*column).slice(after.row, 1);
            let same = self.view.equality()[*column]
                .same(&left, &right)
                .map_err(DataFusionError::from)?;
            if !same.value(0) {
                let distance = (number(&left) - number(&right)).abs();
                size =
                    Some(
                        size.unwrap_or(0.0)
                            .max(if distance.is_nan() { 0.0 } else { distance }),
                    );
            }
        }
        Ok(size)
    }

    /// The largest number in a row that stands alone.
    fn size(&self, side: &Side<'_>) -> f64 {
        let Some(page) = &side.page else { return 0.0 };
        let mut size: f64 = 0.0;
        for column in &self.values {
            let value = number(&page.rows.column(*column).slice(side.row, 1)).abs();
            size = if value.is_nan() {
                size
            } else {
                size.max(value)
            };
        }
        size
    }

    fn change(
        &self,
        before: Option<&Side>,
        after: Option<&Side>,
    ) -> Result<LargestChange, BatchError> {
        let show = |side: Option<&Side>, columns: &[usize]| match side {
            Some(side) => side.json(columns),
            None => Ok(Value::Null),
        };
        Ok(LargestChange {
            key: show(before.or(after), &self.keys)?,
            before: show(before, &self.values)?,
            after: show(after, &self.values)?,
        })
    }
}

/// The one value of `array` as a number; 0 when it is none.
fn number(array: &ArrayRef) -> f64 {
    let array = cast(array, &DataType::Float64).ok();
    let value = array
        .as_ref()
        .and_then(|array| array.as_primitive_opt::<Float64Type>());
    value
        .filter(|array| array.is_valid(0))
        .map_or(0.0, |array| array.value(0))
}

/// A batch of rows with its keys and values encoded.
struct Page {
    rows: RecordBatch,
    keys: Rows,
    values: Rows,
}

/// One generation, read row by row in key order.
struct Side<'a> {
    comparison: &'a Comparison,
    stream: SendableRecordBatchStream,
    page: Option<Page>,
    row: usize,
}

impl<'a> Side<'a> {
    fn open(
        generation: &Generation,
        shared: &HashSet<String>,
        comparison: &'a Comparison,
        task: &Arc<TaskContext>,
    ) -> Result<Self, BatchError> {
        let own = |file: &&DataFile| !shared.contains(&file.path);
        let files: Vec<DataFile> = generation
            .manifest()
            .files
            .iter()
            .filter(own)
            .cloned()
            .collect();
        let columns = FileColumns::Some(generation.view().file_output_columns().to_vec());
        let plan = generation.scan(&files, &columns, None, 1)?;
        let stream = plan.execute(0, Arc::clone(task))?;
        Ok(Self {
            comparison,
            stream,
            page: None,
            row: 0,
        })
    }

    fn key(&self) -> Option<&[u8]> {
        self.page
            .as_ref()
            .map(|page| page.keys.row(self.row).data())
    }

    async fn step(&mut self) -> Result<(), BatchError> {
        self.row += 1;
        if self
            .page
            .as_ref()
            .is_some_and(|page| self.row < page.rows.num_rows())
        {
            return Ok(());
        }
        self.load().await
    }

    async fn load(&mut self) -> Result<(), BatchError> {
        self.page = None;
        self.row = 0;
        while let Some(batch) = self.stream.next().await {
            let rows = self.comparison.view.output_of_file(&batch?)?;
            if rows.num_rows() == 0 {
                continue;
            }
            let keys = self.comparison.view.encode_keys(&rows)?;
            let columns: Vec<_> = self
                .comparison
                .values
                .iter()
                .map(|i| Arc::clone(rows.column(*i)))
                .collect();
            let values = self
                .comparison
                .converter
                .convert_columns(&columns)
                .map_err(DataFusionError::from)?;
            self.page = Some(Page { rows, keys, values });
            return Ok(());
        }
        Ok(())
    }

    /// The present row's `columns` as a JSON object, as answers show them.
    fn json(&self, columns: &[usize]) -> Result<Value, BatchError> {
        let Some(page) = &self.page else {
            return Ok(Value::Null);
        };
        let row = page
            .rows
            .slice(self.row, 1)
            .project(columns)
            .map_err(DataFusionError::from)?;
        Ok(json_value::object(&row, 0).map_err(DataFusionError::from)?)
    }
}
