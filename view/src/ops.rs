// SPDX-License-Identifier: Apache-2.0
//! Accumulate, merge and finish in memory, on the calling thread.
//!
//! Purpose: the speed layer's hot path, and what `plans` runs over each batch. It drives DataFusion's own accumulators
//! and group tables, the very parts its `AggregateExec` is made of, or tables of codes, without the stream machinery
//! around them: no plan is reset, no task is spawned, no output is sliced and concatenated again.
//! Collaborators: `compile` gives the expressions; `plans` bounds the memory.
//! Invariants: keys in an output are unique; the states are those of `AggregateMode::Partial` and
//! `PartialReduce`, field by field. Groups come in no particular order (hash collisions decide it).
//! Non-goals: bounded memory. A micro-batch and a run fit in memory by construction; a table says how much it takes.

mod blame;
mod codes;
mod merged_keys;
mod shown;
mod steps;
mod table;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::{filter_record_batch, interleave, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::aggregates::group_values::new_group_values;
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use self::codes::codes;
use self::merged_keys::MergedKeys;
use self::steps::{Step, evaluate, sort, steps};
use self::table::{Accumulators, Groups};
use crate::ViewError;
use crate::aggregates::{keeps_every_value, keeps_lists_whole};
use crate::compile::{self, Named, Parts, stage_fields};
use crate::keyed::Taken;
use crate::state::batch;

pub(crate) use self::steps::boolean;
pub(crate) use self::table::Table;

/// One measure with what it reads.
#[derive(Clone)]
struct Measure {
    function: Arc<AggregateFunctionExpr>,
    /// Arguments and order expressions, over the input.
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Its columns in a batch of states.
    states: Range<usize>,
}

/// An aggregate function of the select list with what it is finished from.
#[derive(Clone)]
struct Call {
    function: Arc<AggregateFunctionExpr>,
    /// Whose states, one after the other, are its state.
    measures: Vec<usize>,
    /// Whether it is its only measure, which no other call needs.
    is_measure: bool,
}

/// The three operations, ready to run any number of times and on any thread.
#[derive(Clone)]
pub(crate) struct Operators {
    steps: Vec<Step>,
    input_order: Option<LexOrdering>,
    groups: Vec<Arc<dyn PhysicalExpr>>,
    /// Columns of the input that are nothing but keys, and texts.
    coded_columns: Vec<usize>,
    measures: Vec<Measure>,
    calls: Vec<Call>,
    key_schema: SchemaRef,
    state_schema: SchemaRef,
    finished_schema: SchemaRef,
    /// The select list.
    stages: Vec<(Vec<Arc<dyn PhysicalExpr>>, SchemaRef)>,
    /// The name of each output column and what it was written as, for errors.
    outputs: Vec<(String, String)>,
}

impl Operators {
    pub(crate) fn new(parts: &Parts, state_schema: SchemaRef) -> Result<Self, ViewError> {
        let keys = parts.groups.len();
        let mut first = keys;
        let mut measures = Vec::new();
        for compile::Measure { function, filter } in &parts.measures {
            let mut arguments = function.expressions();
            arguments.extend(function.order_bys().iter().map(|o| Arc::clone(&o.expr)));
            let states = first..first + function.state_fields()?.len();
            first = states.end;
            measures.push(Measure {
                function: Arc::clone(function),
                arguments,
                filter: filter.clone(),
                states,
            });
        }
        let finished_schema = Self::finished_schema(parts)?;
        let mut stages = Vec::new();
        let mut schema = Arc::clone(&finished_schema);
        for stage in &parts.stages {
            schema = Arc::new(Schema::new(stage_fields(stage, &schema)?));
            stages.push((expressions(stage), Arc::clone(&schema)));
        }
        let mut operators = Self {
            steps: steps(&parts.input),
            input_order: parts.input_order.clone(),
            groups: expressions(&parts.groups),
            coded_columns: vec![],
            measures,
            calls: calls(parts),
            key_schema: Arc::new(state_schema.project(&(0..keys).collect::<Vec<_>>())?),
            state_schema,
            finished_schema,
            stages,
            outputs: parts.outputs.clone(),
        };
        // Elsewhere events are grouped by a table of DataFusion's.
        if codes::is_for(operators.groups.len())
            && operators.input_order.is_none()
            && !operators.states_grow()
        {
            operators.coded_columns = operators.only_keys(parts);
        }
        Ok(operators)
    }

    /// Keys and finished aggregates, before the select list.
    pub(crate) fn finished_schema(parts: &Parts) -> Result<SchemaRef, ViewError> {
        let mut fields = stage_fields(&parts.groups, &parts.input.schema())?;
        for call in &parts.calls {
            let field = call.function.field();
            fields.push(Field::new(
                field.name(),
                field.data_type().clone(),
                field.is_nullable(),
            ));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// States of the groups of one batch of events, keys unique. `input` holds the columns that are read.
    pub(crate) fn accumulate(&self, input: RecordBatch) -> Result<RecordBatch, ViewError> {
        let mut table = self.table()?;
        self.update(&mut table, input)?;
        self.states_of(table)
    }

    /// A table that takes in any number of batches of events.
    pub(crate) fn events_table(&self) -> Result<Table> {
        match codes(&self.key_schema)? {
            Some(codes) => self.table_of(Groups::ByKey(codes)),
            None => self.table(),
        }
    }

    /// Which columns of the events that are read may be in dictionary form in [`Self::take_in`].
    pub(crate) fn coded_columns(&self) -> &[usize] {
        &self.coded_columns
    }

    /// Takes a batch of events into an [`Self::events_table`].
    pub(crate) fn take_in(&self, table: &mut Table, input: RecordBatch) -> Result<(), ViewError> {
        if self.input_order.is_none() {
            return self.update(table, input);
        }
        // Some accumulators must see all events of a table in order. Their states merge in any.
        let states = self.accumulate(input)?;
        if states.num_rows() > 0 {
            table.intern(&states.columns()[..self.groups.len()])?;
            self.merge_into(table, &states)?;
        }
        Ok(())
    }

    fn update(&self, table: &mut Table, mut input: RecordBatch) -> Result<(), ViewError> {
        for step in &self.steps {
            input = step.run(&input)?;
        }
        if let Some(order) = &self.input_order {
            input = sort(&input, order)?;
        }
        table.intern(&evaluate(&self.groups, &input)?)?;
        for (index, measure) in self.measures.iter().enumerate() {
            let filter = measure.filter_of(&input)?;
            match filter {
                Some(filter) if self.groups.is_empty() => {
                    let kept = filter_record_batch(&input, &filter)?;
                    table.update(index, &evaluate(&measure.arguments, &kept)?, None)?;
                }
                filter => {
                    let values = evaluate(&measure.arguments, &input)?;
                    table.update(index, &values, filter.as_ref())?;
                }
            }
        }
        Ok(())
    }

    /// The states of any number of batches, merged: keys unique.
    pub(crate) fn reduce<'a>(
        &self,
        states: impl IntoIterator<Item = &'a RecordBatch>,
    ) -> Result<RecordBatch, ViewError> {
        let table = self.merged(states)?;
        self.states_of(table)
    }

    /// The states of several batches that are each in order, each key once, merged: as each of them is. Nothing is
    /// hashed.
    pub(crate) fn merge_sorted(&self, sorted: &[Taken]) -> Result<RecordBatch, ViewError> {
        if let [one] = sorted {
            return Ok(one.states().clone());
        }
        if self.groups.is_empty() {
            return self.reduce(sorted.iter().map(Taken::states));
        }
        let merged = MergedKeys::new(sorted);
        let mut table = self.table_of(Groups::Told(0))?;
        for (taken, (groups, so_far)) in sorted.iter().zip(merged.groups) {
            table.tell(groups, so_far);
            self.merge_into(&mut table, taken.states())?;
        }
        let mut columns = Vec::with_capacity(self.state_schema.fields().len());
        for key in 0..self.groups.len() {
            let of_each = sorted
                .iter()
                .map(|taken| taken.states().column(key).as_ref());
            columns.push(interleave(&of_each.collect::<Vec<_>>(), &merged.firsts)?);
        }
        for state in table.into_states()? {
            columns.push(take(&state, &merged.order, None)?);
        }
        batch(&self.state_schema, columns, merged.order.len())
    }

    pub(crate) fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// Whether there is a GROUP BY.
    pub(crate) fn has_keys(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Whether there is a state that grows with every event, or with every value that is new to its group.
    pub(crate) fn states_grow(&self) -> bool {
        let functions = self.measures.iter().map(|measure| &measure.function);
        let mut functions =
            functions.map(|function| (function.fun().name(), function.is_distinct()));
        functions.any(|(name, is_distinct)| is_distinct || keeps_every_value(name))
    }

    /// About how many bytes [`Self::reduce`] takes for each byte of states, its result aside.
    pub(crate) fn merge_bytes_per_byte(&self) -> usize {
        let of_each = self.measures.iter().map(|measure| {
            let states = &self.state_schema.fields()[measure.states.clone()];
            let function = &measure.function;
            if !states.iter().any(|state| state.data_type().is_list()) {
                2
            } else if keeps_lists_whole(function.fun().name()) && !function.is_distinct() {
                // Places are gathered, then put in order.
                3
            } else {
                // As of `count(DISTINCT …)`: many small values.
                10
            }
        });
        of_each.max().unwrap_or(2)
    }

    /// The finished rows of any number of batches of states.
    pub(crate) fn finish(&self, states: &[RecordBatch]) -> Result<RecordBatch, ViewError> {
        let finished = self.finish_all(states);
        finished.map_err(|error| self.blamed(error, || self.reduce(states)))
    }

    /// The finished rows of one batch of states whose keys are unique, in the same order. Nothing is
    /// hashed: each row is a group.
    pub(crate) fn finish_unique(&self, states: &RecordBatch) -> Result<RecordBatch, ViewError> {
        let finished = self.finish_each(states);
        finished.map_err(|error| self.blamed(error, || Ok(states.clone())))
    }

    /// The finished rows of one batch of states whose keys are unique, in the same order, with others merged into them:
    /// for each of their rows, which have no keys, the row of `states` is given that is of its group.
    pub(crate) fn finish_with(
        &self,
        states: &RecordBatch,
        others: Vec<(RecordBatch, Vec<usize>)>,
    ) -> Result<RecordBatch, ViewError> {
        if self.groups.is_empty() {
            let others = others.into_iter().map(|(batch, _)| batch);
            let all: Vec<RecordBatch> = std::iter::once(states.clone()).chain(others).collect();
            return self.finish(&all);
        }
        let finished = self.finish_each_with(states, &others);
        finished.map_err(|error| {
            self.blamed(error, || {
                let mut all = vec![states.clone()];
                for (measured, rows) in &others {
                    all.push(self.with_keys_of(states, rows, measured)?);
                }
                self.reduce(&all)
            })
        })
    }

    /// The states of one batch whose keys are unique, with others merged into them as [`Self::finish_with`] does.
    pub(crate) fn merge_with(
        &self,
        states: &RecordBatch,
        others: &[(RecordBatch, Vec<usize>)],
    ) -> Result<RecordBatch, ViewError> {
        if states.num_rows() == 0 {
            return Ok(self.no_states());
        }
        let mut columns = states.columns()[..self.groups.len()].to_vec();
        columns.extend(self.table_with(states, others)?.into_states()?);
        batch(&self.state_schema, columns, states.num_rows())
    }

    /// States of which `measured` has all but the keys, which stand in these rows of `states`.
    fn with_keys_of(
        &self,
        states: &RecordBatch,
        rows: &[usize],
        measured: &RecordBatch,
    ) -> Result<RecordBatch, ViewError> {
        let rows = UInt64Array::from_iter_values(rows.iter().map(|row| *row as u64));
        let keys = states.columns()[..self.groups.len()].iter();
        let mut columns = keys
            .map(|key| take(key, &rows, None))
            .collect::<Result<Vec<_>, _>>()?;
        columns.extend_from_slice(measured.columns());
        batch(&self.state_schema, columns, rows.len())
    }

    fn finish_all(&self, states: &[RecordBatch]) -> Result<RecordBatch, ViewError> {
        let mut table = self.merged(states)?;
        let keys = table.take_keys()?;
        self.emit_output(table, keys)
    }

    fn finish_each(&self, states: &RecordBatch) -> Result<RecordBatch, ViewError> {
        if states.num_rows() == 0 {
            return Ok(self.no_output());
        }
        let mut columns = states.columns()[..self.groups.len()].to_vec();
        for call in &self.calls {
            let state = self.state(call, states);
            columns.push(self.value(call, &state, states.num_rows())?);
        }
        self.output(columns, states.num_rows())
    }

    fn finish_each_with(
        &self,
        states: &RecordBatch,
        others: &[(RecordBatch, Vec<usize>)],
    ) -> Result<RecordBatch, ViewError> {
        let table = self.table_with(states, others)?;
        self.emit_output(table, states.columns()[..self.groups.len()].to_vec())
    }

    /// The groups of `states`, in order, with others merged into them.
    fn table_with(
        &self,
        states: &RecordBatch,
        others: &[(RecordBatch, Vec<usize>)],
    ) -> Result<Table, ViewError> {
        let mut table = self.table_of(Groups::Told(0))?;
        table.tell_each(states.num_rows());
        self.merge_into(&mut table, states)?;
        for (measured, rows) in others {
            table.tell(rows.clone(), states.num_rows());
            self.merge_columns(&mut table, measured.columns())?;
        }
        Ok(table)
    }

    fn table(&self) -> Result<Table> {
        if self.groups.is_empty() {
            return self.table_of(Groups::All);
        }
        let groups = new_group_values(Arc::clone(&self.key_schema), &GroupOrdering::None)?;
        self.table_of(Groups::ByKey(Box::new(groups)))
    }

    fn table_of(&self, groups: Groups) -> Result<Table> {
        Table::new(groups, self.measures.iter().map(|m| &m.function))
    }

    fn merged<'a>(
        &self,
        states: impl IntoIterator<Item = &'a RecordBatch>,
    ) -> Result<Table, ViewError> {
        let mut table = self.table()?;
        for states in states {
            if states.num_rows() > 0 {
                table.intern(&states.columns()[..self.groups.len()])?;
                self.merge_into(&mut table, states)?;
            }
        }
        Ok(table)
    }

    fn merge_into(&self, table: &mut Table, states: &RecordBatch) -> Result<()> {
        self.merge_columns(table, &states.columns()[self.groups.len()..])
    }

    /// Merges the columns of states behind the keys.
    fn merge_columns(&self, table: &mut Table, columns: &[ArrayRef]) -> Result<()> {
        let keys = self.groups.len();
        for (index, measure) in self.measures.iter().enumerate() {
            let states = measure.states.start - keys..measure.states.end - keys;
            table.merge(index, &columns[states])?;
        }
        Ok(())
    }

    fn no_states(&self) -> RecordBatch {
        RecordBatch::new_empty(Arc::clone(&self.state_schema))
    }

    /// The states of all groups of a table, keys unique.
    pub(crate) fn states_of(&self, mut table: Table) -> Result<RecordBatch, ViewError> {
        let rows = table.rows();
        if rows == 0 {
            return Ok(self.no_states());
        }
        let mut columns = table.take_keys()?;
        columns.extend(table.into_states()?);
        batch(&self.state_schema, columns, rows)
    }

    /// The select list over `keys` and the finished values of `table`.
    fn emit_output(&self, table: Table, keys: Vec<ArrayRef>) -> Result<RecordBatch, ViewError> {
        let rows = keys.first().map_or_else(|| table.rows(), |key| key.len());
        if rows == 0 || (keys.is_empty() && !self.groups.is_empty()) {
            return Ok(self.no_output());
        }
        // The value of each that is a call, the states of the others that one needs.
        let mut made = Vec::with_capacity(self.measures.len());
        for (index, accumulators) in table.into_accumulators().into_iter().enumerate() {
            let mut calls = self.calls.iter();
            made.push(match calls.find(|call| call.measures.contains(&index)) {
                Some(call) if call.is_measure => vec![accumulators.into_value()?],
                Some(_) => accumulators.into_states()?,
                None => vec![],
            });
        }
        let mut columns = keys;
        for call in &self.calls {
            let made = call.measures.iter().flat_map(|measure| &made[*measure]);
            let made: Vec<ArrayRef> = made.cloned().collect();
            match call.is_measure {
                true => columns.extend(made),
                false => columns.push(self.value(call, &made, rows)?),
            }
        }
        self.output(columns, rows)
    }

    /// The state of `call` in a batch of states.
    fn state(&self, call: &Call, states: &RecordBatch) -> Vec<ArrayRef> {
        let measures = call.measures.iter().map(|measure| &self.measures[*measure]);
        let columns = measures.flat_map(|measure| &states.columns()[measure.states.clone()]);
        columns.cloned().collect()
    }

    /// The values of `call`, of so many groups with this state.
    fn value(&self, call: &Call, state: &[ArrayRef], groups: usize) -> Result<ArrayRef> {
        let mut accumulators = match self.groups.is_empty() {
            true => Accumulators::of_all(&call.function)?,
            false => Accumulators::of_each(&call.function)?,
        };
        let each: Vec<usize> = (0..groups).collect();
        accumulators.merge(state, &each, groups)?;
        accumulators.into_value()
    }

    fn no_output(&self) -> RecordBatch {
        let schema = self.stages.last().map(|(_, schema)| schema);
        RecordBatch::new_empty(Arc::clone(schema.unwrap_or(&self.finished_schema)))
    }

    /// The select list over `columns`: keys and finished calls.
    fn output(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ViewError> {
        let mut output = batch(&self.finished_schema, columns, rows)?;
        for (exprs, schema) in &self.stages {
            output = batch(schema, evaluate(exprs, &output)?, rows)?;
        }
        Ok(output)
    }
}

impl Measure {
    fn filter_of(&self, input: &RecordBatch) -> Result<Option<BooleanArray>> {
        self.filter
            .as_ref()
            .map(|filter| boolean(filter, input))
            .transpose()
    }
}

fn calls(parts: &Parts) -> Vec<Call> {
    let needed = |measure: usize| {
        let calls = parts.calls.iter();
        calls.filter(|c| c.measures.contains(&measure)).count()
    };
    let calls = parts.calls.iter();
    let calls = calls.map(|call| Call {
        function: Arc::clone(&call.function),
        measures: call.measures.clone(),
        is_measure: call.measures.len() == 1 && needed(call.measures[0]) == 1,
    });
    calls.collect()
}

fn expressions(named: &[Named]) -> Vec<Arc<dyn PhysicalExpr>> {
    named.iter().map(|(expr, _)| Arc::clone(expr)).collect()
}
