// SPDX-License-Identifier: Apache-2.0
//! The schemas of a view: states in memory, rows in files, finished rows; and the ways between them.
//!
//! ```text
//!   state    keys (group-by order) │ _state0_0 │ _state1_0 │ _state1_1 …   measure by measure
//!   file     output columns under their names │ the _state… columns no output already holds
//!   output   output columns
//! ```
//!
//! A finished `sum` is its own state too, in a narrower type: a file holds it once, for an `avg` that shares it as well.
//! What counts the values of a column that may be NULL is kept as how many fewer they are than the events that `count(*)`
//! shows: mostly none, which takes no room, and no time to read.
//!
//! Invariants: a row of a file holds everything a state holds; types in files are Delta's.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::kernels::numeric::sub_wrapping;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::physical_expr::expressions::Column;

use crate::aggregates::{count_in_state, is_own_state};
use crate::compile::{Parts, stage_fields};
use crate::ops::Operators;
use crate::storage::{from_stored, stored_type, to_stored, widened, widens};
use crate::{KeyColumn, ViewError};

/// Where a file keeps a column of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// In an output column: as it is, or in a narrower type.
    Output(usize),
    /// In a column of its own, at this index of the file, in its stored type.
    State(usize),
    /// In a column of its own, at `column` of the file: how many fewer than in the output column `than`.
    Fewer { column: usize, than: usize },
}

/// The three schemas and how a file maps to the other two.
pub(crate) struct Layout {
    pub(crate) state: SchemaRef,
    pub(crate) output: SchemaRef,
    pub(crate) file: SchemaRef,
    /// The states without the keys.
    pub(crate) measured: SchemaRef,
    /// For each column of the state, where a file keeps it.
    kept: Vec<Kept>,
    /// `0..outputs`: finished columns come first in a file.
    pub(crate) file_outputs: Vec<usize>,
}

/// The fields of the state: keys, then the state fields of each measure, named by position.
pub(crate) fn state_fields(parts: &Parts) -> Result<Vec<Field>, ViewError> {
    let input = parts.input.schema();
    let mut fields = stage_fields(&parts.groups, &input)?;
    for (index, measure) in parts.measures.iter().enumerate() {
        for (position, field) in measure.function.state_fields()?.iter().enumerate() {
            fields.push(Field::new(
                format!("_state{index}_{position}"),
                field.data_type().clone(),
                field.is_nullable(),
            ));
        }
    }
    Ok(fields)
}

impl Layout {
    pub(crate) fn new(parts: &Parts) -> Result<Self, ViewError> {
        let state = Arc::new(Schema::new(state_fields(parts)?));
        let finished = Operators::finished_schema(parts)?;
        let mut output = finished;
        for stage in &parts.stages {
            output = Arc::new(Schema::new(stage_fields(stage, &output)?));
        }
        let mut fields: Vec<Field> = output.fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut kept: Vec<Kept> = parts
            .keys
            .iter()
            .map(|key| Kept::Output(key.output_index))
            .collect();
        let events = (0..parts.measures.len())
            .filter(|index| parts.measures[*index].counts_events(&parts.input.schema()))
            .find_map(|index| bare_output(parts, index, &output));
        for (index, measure) in parts.measures.iter().enumerate() {
            let bare = bare_output(parts, index, &output);
            let counted = count_in_state(&measure.function).filter(|_| measure.filter.is_none());
            let first = kept.len();
            for position in 0..measure.function.state_fields()?.len() {
                if let Some(column) = bare {
                    kept.push(Kept::Output(column));
                    continue;
                }
                let field = state.field(first + position);
                fields.push(stored_field(field, measure.function.name())?);
                let column = fields.len() - 1;
                kept.push(match events {
                    Some(than) if counted == Some(position) => Kept::Fewer { column, than },
                    _ => Kept::State(column),
                });
            }
        }
        let measured = Schema::new(state.fields()[parts.keys.len()..].to_vec());
        let file_outputs = (0..output.fields().len()).collect();
        Ok(Self {
            state,
            output,
            file: Arc::new(Schema::new(fields)),
            measured: Arc::new(measured),
            kept,
            file_outputs,
        })
    }

    /// A row of the file for each state: `output` are the finished rows of `states`, in their order.
    pub(crate) fn to_file(
        &self,
        states: &RecordBatch,
        output: &RecordBatch,
    ) -> Result<RecordBatch, ViewError> {
        let mut columns: Vec<ArrayRef> = output.columns().to_vec();
        for (kept, column) in self.kept.iter().zip(states.columns()) {
            match kept {
                Kept::Output(_) => {}
                Kept::State(_) => columns.push(to_stored(column)?),
                Kept::Fewer { than, .. } => {
                    let fewer = sub_wrapping(output.column(*than), &to_stored(column)?)?;
                    columns.push(fewer);
                }
            }
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.file), columns)?)
    }

    /// The states that a file's rows hold.
    pub(crate) fn states_of_file(&self, file: &RecordBatch) -> Result<RecordBatch, ViewError> {
        expect_schema("a file", &self.file, file.schema_ref())?;
        let columns = self.read(0, |column| Ok(Arc::clone(file.column(column))))?;
        batch(&self.state, columns, file.num_rows())
    }

    /// The same of these rows alone, without the keys.
    pub(crate) fn measured_of_file(
        &self,
        file: &RecordBatch,
        rows: &UInt64Array,
    ) -> Result<RecordBatch, ViewError> {
        expect_schema("a file", &self.file, file.schema_ref())?;
        let keys = self.state.fields().len() - self.measured.fields().len();
        let columns = self.read(keys, |column| take(file.column(column), rows, None))?;
        batch(&self.measured, columns, rows.len())
    }

    /// The columns of the state from the one at `first` on, of what `column` gives for those of a file.
    fn read(
        &self,
        first: usize,
        column: impl Fn(usize) -> Result<ArrayRef, ArrowError>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let columns = self.kept.iter().zip(self.state.fields()).skip(first);
        let columns = columns.map(|(kept, field)| match *kept {
            Kept::Output(index) => widened(&column(index)?, field.data_type()),
            Kept::State(index) => from_stored(&column(index)?, field.data_type()),
            Kept::Fewer {
                column: fewer,
                than,
            } => {
                let stored = sub_wrapping(&column(than)?, &column(fewer)?)?;
                from_stored(&stored, field.data_type())
            }
        });
        columns.collect()
    }

    /// The finished rows of a file, of which at least the output columns were read.
    pub(crate) fn output_of_file(&self, file: &RecordBatch) -> Result<RecordBatch, ViewError> {
        let outputs = self.output.fields().len();
        if file.num_columns() < outputs {
            return Err(ViewError::Schema {
                what: "a file",
                detail: format!(
                    "it has {} columns, at least the {outputs} output columns are needed",
                    file.num_columns()
                ),
            });
        }
        let file = file.project(&self.file_outputs)?;
        expect_schema("a file", &self.output, file.schema_ref())?;
        batch(&self.output, file.columns().to_vec(), file.num_rows())
    }
}

/// A batch that may have no columns at all.
///
/// # Errors
/// When the columns are not those of the schema, or not of so many rows.
pub fn batch(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, ViewError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

/// Checks names and types by position; whether a column may be NULL is checked on the values later.
pub(crate) fn expect_schema(
    what: &'static str,
    expected: &SchemaRef,
    found: &SchemaRef,
) -> Result<(), ViewError> {
    if Arc::ptr_eq(expected, found) {
        return Ok(());
    }
    let detail = if expected.fields().len() != found.fields().len() {
        format!(
            "it has {} columns instead of {}",
            found.fields().len(),
            expected.fields().len()
        )
    } else {
        let mut pairs = expected.fields().iter().zip(found.fields());
        match pairs.find(|(e, f)| e.name() != f.name() || e.data_type() != f.data_type()) {
            None => return Ok(()),
            Some((e, f)) => format!(
                "`{}` of type {} stands where `{}` of type {} is expected",
                f.name(),
                f.data_type(),
                e.name(),
                e.data_type()
            ),
        }
    };
    Err(ViewError::Schema { what, detail })
}

fn stored_field(field: &Field, aggregate: &str) -> Result<Field, ViewError> {
    let data_type = stored_type(field.data_type()).ok_or_else(|| {
        ViewError::refused(
            aggregate,
            format!("its state of type {} cannot be stored", field.data_type()),
        )
    })?;
    Ok(Field::new(field.name(), data_type, true))
}

/// The output column that shows measure `index` and nothing else, if that is also its state.
fn bare_output(parts: &Parts, index: usize, output: &Schema) -> Option<usize> {
    let measure = &parts.measures[index].function;
    if measure.is_distinct() || !is_own_state(measure.fun().name()) {
        return None;
    }
    let fields = measure.state_fields().ok()?;
    let [state] = fields.as_slice() else {
        return None;
    };
    let [stage] = parts.stages.as_slice() else {
        return None;
    };
    let shows = |finished: &Column| {
        let call = finished.index().checked_sub(parts.groups.len());
        call.is_some_and(|call| parts.calls[call].measures == [index])
    };
    let column = stage
        .iter()
        .position(|(expr, _)| expr.downcast_ref::<Column>().is_some_and(shows))?;
    let storable = |t: &DataType| stored_type(t).as_ref() == Some(t);
    let data_type = output.field(column).data_type();
    (widens(data_type, state.data_type()) && storable(data_type)).then_some(column)
}

/// The key columns of a batch of any of the three schemas, found by name, in the order of `keys`.
pub(crate) fn key_arrays(
    keys: &[KeyColumn],
    order: &[usize],
    batch: &RecordBatch,
) -> Result<Vec<ArrayRef>, ViewError> {
    order
        .iter()
        .map(|index| {
            let key = &keys[*index];
            batch
                .column_by_name(&key.name)
                .cloned()
                .ok_or_else(|| ViewError::Schema {
                    what: "rows with keys",
                    detail: format!("there is no key column `{}`", key.name),
                })
        })
        .collect()
}

/// Memory of a batch's own rows: of a slice, not of what it is a slice of.
pub fn bytes_of(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(bytes_of_column).sum()
}

/// Memory of a column's own rows.
pub(crate) fn bytes_of_column(column: &ArrayRef) -> usize {
    let nulls = column.nulls().map_or(0, |nulls| nulls.len().div_ceil(8));
    match column.data_type() {
        DataType::List(_) => {
            let lists = column.as_list::<i32>();
            let offsets = lists.offsets();
            let values = lists.values().slice(
                offsets[0] as usize,
                (offsets[lists.len()] - offsets[0]) as usize,
            );
            nulls + size_of_val(offsets.as_ref()) + bytes_of_column(&values)
        }
        DataType::Struct(_) => {
            let fields = column.as_struct().columns().iter();
            nulls + fields.map(bytes_of_column).sum::<usize>()
        }
        _ => {
            let size = column.to_data().get_slice_memory_size();
            size.unwrap_or_else(|_| column.get_array_memory_size())
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn a_slice_of_lists_counts_its_own_values_only() {
        let lists = (0..100).map(|row| Some((0..row).map(Some)));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists));
        let slice = lists.slice(10, 2);
        // Three offsets, and ten and eleven values.
        assert_eq!(bytes_of_column(&slice), 3 * 4 + 21 * 8);
        let flat: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        assert_eq!(bytes_of_column(&flat.slice(5, 7)), 7 * 8);
    }
}
