// SPDX-License-Identifier: Apache-2.0
//! A view: one definition with everything that can be done with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array, new_null_array};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::Rows;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use dovetail_model::{ProblemKind, Span, StreamSchema};

use crate::compile::{self, Parts};
use crate::finisher::Finisher;
use crate::ops::Operators;
use crate::plans::Plans;
use crate::predicate::{Predicate, failing_row};
use crate::run::{Run, SortKey};
use crate::state::{Layout, batch, expect_schema};
use crate::time_key::TimeKey;
use crate::{
    Equality, EventFailed, EventPlace, KeyColumn, ViewError, WhereFailed, identity, rehearsal,
};

/// One `SELECT … GROUP BY …` over a stream, compiled once: accumulate, merge, finish.
///
/// ```text
///   events ── accumulate ──► states ── merge ──► states ── finish ──► rows
/// ```
///
/// The three operations run in memory, synchronous, on the calling thread (the speed layer, merged reads). From events
/// to merged states there is a plan, too, over the same aggregate expressions, which spills (the batch layer). Held in an
/// `Arc`.
pub struct View {
    stream: String,
    sql: String,
    definition_hash: String,
    state_fingerprint: String,
    events_schema: SchemaRef,
    event_columns: Vec<usize>,
    keys: Vec<KeyColumn>,
    time_key: Option<usize>,
    time_key_function: Option<TimeKey>,
    equality: Vec<Equality>,
    layout: Layout,
    sort_key: Arc<SortKey>,
    operators: Arc<Operators>,
    finisher: Finisher,
    plans: Plans,
}

impl View {
    /// Compiles the SELECT of a view against the streams there are, by name.
    ///
    /// # Errors
    /// When the definition is not SQL, names what is not there, or cannot be merged; the message names
    /// the expression and says what to write instead.
    pub fn compile(sql: &str, streams: &BTreeMap<String, StreamSchema>) -> Result<Self, ViewError> {
        Self::build(sql, streams).map_err(ViewError::of_definition)
    }

    fn build(sql: &str, streams: &BTreeMap<String, StreamSchema>) -> Result<Self, ViewError> {
        let parts = compile::compile(sql, streams)?;
        let layout = Layout::new(&parts)?;
        let sort_key = Arc::new(SortKey::new(&parts.keys, parts.time_key)?);
        let operators = Arc::new(Operators::new(&parts, Arc::clone(&layout.state))?);
        let plans = Plans::new(&parts, Arc::clone(&operators), Arc::clone(&sort_key))?;
        rehearsal::rehearse(&parts, &layout, &operators, &plans)?;
        let time_key_function = TimeKey::new(&parts, &streams[&parts.stream])?;
        let definition_hash = identity::definition_hash(&parts);
        let state_fingerprint = identity::state_fingerprint(&parts, &layout.state);
        let Parts {
            stream,
            sql,
            events_schema,
            event_columns,
            keys,
            time_key,
            equality,
            ..
        } = parts;
        Ok(Self {
            stream,
            sql,
            definition_hash,
            state_fingerprint,
            events_schema,
            event_columns,
            keys,
            time_key,
            time_key_function,
            equality,
            finisher: Finisher::new(Arc::clone(&operators), &layout.measured),
            layout,
            sort_key,
            operators,
            plans,
        })
    }

    /// Name of the one stream it reads.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The SELECT as canonical SQL text.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// Hash (BLAKE3, hex) of what decides the view's content: the SELECT, and the names and types of the
    /// stream's columns that it reads.
    pub fn definition_hash(&self) -> &str {
        &self.definition_hash
    }

    /// Hash (BLAKE3, hex) of what decides whether states can be merged: the aggregate functions, the
    /// types of keys and states, the engine's version and the version of our own formats.
    pub fn state_fingerprint(&self) -> &str {
        &self.state_fingerprint
    }

    /// The full schema of the stream's events.
    pub fn events_schema(&self) -> SchemaRef {
        Arc::clone(&self.events_schema)
    }

    /// Columns of [`Self::events_schema`] that it reads, in the order in which [`Self::states_plan`] needs no
    /// projection. May be empty, as for `count(*)` without keys: then only the number of
    /// events matters.
    pub fn event_columns(&self) -> &[usize] {
        &self.event_columns
    }

    /// Key columns under their output names, in GROUP BY order, then state columns named
    /// `_state{aggregate}_{position}`.
    pub fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.state)
    }

    /// The finished columns under the view's names, in select-list order.
    pub fn output_schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.output)
    }

    /// What Parquet files hold: the finished columns, then the `_state…` columns that no finished column
    /// already holds. Types that Delta Lake has, and no others.
    pub fn file_schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.file)
    }

    /// The key columns, in GROUP BY order; none without GROUP BY.
    pub fn keys(&self) -> &[KeyColumn] {
        &self.keys
    }

    /// Index into [`Self::keys`] of a key that grows with the event time (the time itself, `date_trunc`,
    /// `date_bin`, a cast to DATE), if any.
    pub fn time_key(&self) -> Option<usize> {
        self.time_key
    }

    /// Where in event time the events of some groups lie: those with a time key between the ones of `first` and
    /// `last`, two keys as [`Self::encode_keys`] has them. Of the event times in `within` (microseconds since the
    /// Unix epoch, both inclusive) no other one falls into such a group, so the half-open answer (an end that is
    /// absent is no bound) says which events are enough to recompute those groups whole.
    ///
    /// None when the view cannot tell: it has no time key, or `first` has NULL there.
    pub fn event_times_between(
        &self,
        first: &[u8],
        last: &[u8],
        within: (i64, i64),
    ) -> Option<(i64, Option<i64>)> {
        let function = self.time_key_function.as_ref()?;
        function.event_times(first, last, within)
    }

    /// Indices into [`Self::keys`] in sort-key order: the time key first, then the others.
    pub fn sort_order(&self) -> &[usize] {
        self.sort_key.order()
    }

    /// The sort key as an ordering over batches in [`Self::state_schema`]; none without GROUP BY.
    pub fn state_ordering(&self) -> Option<LexOrdering> {
        self.plans.sort_order()
    }

    /// For each output column, how far two computations over the same events may lie apart.
    pub fn equality(&self) -> &[Equality] {
        &self.equality
    }

    /// The columns that it reads, as indices into `events`: the stream's events schema of this or another
    /// moment, before or after columns were added.
    ///
    /// # Errors
    /// When one is missing.
    pub fn event_columns_in(&self, events: &Schema) -> Result<Vec<usize>, ViewError> {
        let names = self.event_columns.iter();
        let names = names.map(|index| self.events_schema.field(*index).name());
        Ok(names
            .map(|name| events.index_of(name))
            .collect::<Result<_, _>>()?)
    }

    /// Those of [`Self::event_columns_in`] that [`Self::states_plan`] takes as `Dictionary(Int32, Utf8)`, too, and faster:
    /// texts that are nothing but keys.
    ///
    /// # Errors
    /// As there.
    pub fn coded_columns_in(&self, events: &Schema) -> Result<Vec<usize>, ViewError> {
        let columns = self.event_columns_in(events)?;
        let coded = self.operators.coded_columns().iter();
        Ok(coded.map(|index| columns[*index]).collect())
    }

    /// The run of a batch of events, which must be all events of `span`. Their schema is the stream's events schema
    /// of this or another moment: columns are found by name, one that was not there yet is null.
    ///
    /// # Errors
    /// When a column has another type or lacks values it must have, or an expression fails on the data.
    pub fn accumulate(&self, events: &RecordBatch, span: Span) -> Result<Run, ViewError> {
        let input = self.read(events)?;
        let states = self.operators.accumulate(input)?;
        Ok(Run::unsorted(&self.sort_key, span, states))
    }

    /// One run out of several that follow one another. By a hash table, whatever the number of runs:
    /// linear in the groups of all of them.
    ///
    /// # Errors
    /// When there is no run, or one does not start where the one before it ends.
    pub fn merge(&self, adjacent: &[Arc<Run>]) -> Result<Run, ViewError> {
        let Some((first, rest)) = adjacent.split_first() else {
            return Err(ViewError::Schema {
                what: "runs",
                detail: "there is none to merge, so there is no span".to_owned(),
            });
        };
        let mut span = first.span().clone();
        for run in rest {
            span = span.followed_by(run.span())?;
        }
        let states: Vec<RecordBatch> = adjacent
            .iter()
            .flat_map(|run| run.states_in_any_order())
            .collect();
        let merged = self.operators.reduce(&states)?;
        Ok(Run::unsorted(&self.sort_key, span, merged))
    }

    /// The states of any number of batches in [`Self::state_schema`], merged: each key once, in no particular order.
    /// What [`Self::merge`] does to the states of runs, in their order.
    ///
    /// # Errors
    /// When a batch has another schema.
    pub fn merge_states(&self, states: &[RecordBatch]) -> Result<RecordBatch, ViewError> {
        for batch in states {
            expect_schema("states", &self.layout.state, batch.schema_ref())?;
        }
        self.operators.reduce(states)
    }

    /// About how many bytes of memory [`Self::merge`] takes while it works on runs of so many `bytes`, its result
    /// aside.
    pub fn merge_memory(&self, bytes: usize) -> usize {
        bytes * self.operators.merge_bytes_per_byte()
    }

    /// Finishes states to these columns of [`Self::output_schema`], in this order.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn finisher(&self, columns: &[usize]) -> Result<Finisher, ViewError> {
        if columns
            .iter()
            .copied()
            .eq(0..self.layout.output.fields().len())
        {
            return Ok(self.finisher.clone());
        }
        let operators = self.operators.showing(columns)?;
        Ok(Finisher::new(Arc::new(operators), &self.layout.measured))
    }

    /// [`Finisher::finish`] to all columns.
    ///
    /// # Errors
    /// As there.
    pub fn finish(&self, states: &[RecordBatch]) -> Result<RecordBatch, ViewError> {
        self.finisher.finish(states)
    }

    /// [`Finisher::finish_unique`] to all columns.
    ///
    /// # Errors
    /// As there.
    pub fn finish_unique(&self, states: &RecordBatch) -> Result<RecordBatch, ViewError> {
        self.finisher.finish_unique(states)
    }

    /// The states of events: one partition in sort-key order, each key once. The input may hold the events in the full
    /// [`Self::events_schema`] or any projection of it that has [`Self::event_columns`], with
    /// [`Self::coded_columns_in`] in dictionary form or not; columns are found by name. Spills under a finite memory
    /// pool.
    ///
    /// # Errors
    /// When a column is missing or has another type.
    pub fn states_plan(
        &self,
        events: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>, ViewError> {
        self.plans.states(events)
    }

    /// Rows in [`Self::file_schema`] of states whose keys are unique, in their order.
    ///
    /// # Errors
    /// When the batch has another schema, or the select list fails on the data.
    pub fn to_file(&self, states: &RecordBatch) -> Result<RecordBatch, ViewError> {
        let output = self.finish_unique(states)?;
        self.layout.to_file(states, &output)
    }

    /// The states in rows of a file, in their order: the inverse of [`Self::to_file`].
    ///
    /// # Errors
    /// When the batch is not in [`Self::file_schema`].
    pub fn states_of_file(&self, file: &RecordBatch) -> Result<RecordBatch, ViewError> {
        self.layout.states_of_file(file)
    }

    /// The states that these rows of a file hold, without their keys.
    ///
    /// # Errors
    /// When the batch is not one of the file, or has no such rows.
    pub fn measured_of_file(
        &self,
        file: &RecordBatch,
        rows: &UInt64Array,
    ) -> Result<RecordBatch, ViewError> {
        self.layout.measured_of_file(file, rows)
    }

    /// `states`, whose keys are unique and grouped, with `others` merged into them, in their order: as
    /// [`Finisher::finish_with`] takes both, and does before it finishes.
    ///
    /// # Errors
    /// When a batch has another schema, or states cannot be merged.
    pub fn merge_with(
        &self,
        states: &RecordBatch,
        others: &[(RecordBatch, Vec<usize>)],
    ) -> Result<RecordBatch, ViewError> {
        self.operators.merge_with(states, others)
    }

    /// The finished rows in rows of a file, in their order. The batch may hold the whole file or only
    /// [`Self::file_output_columns`].
    ///
    /// # Errors
    /// When the batch is neither.
    pub fn output_of_file(&self, file: &RecordBatch) -> Result<RecordBatch, ViewError> {
        self.layout.output_of_file(file)
    }

    /// Columns of [`Self::file_schema`] that [`Self::output_of_file`] needs.
    pub fn file_output_columns(&self) -> &[usize] {
        &self.layout.file_outputs
    }

    /// Which groups of `states` a predicate over keys matches.
    ///
    /// # Errors
    /// [`ViewError::Where`] when it cannot be computed for some group; else as [`Predicate::matches`].
    pub fn groups_matching(
        &self,
        predicate: &Predicate,
        states: &RecordBatch,
    ) -> Result<BooleanArray, ViewError> {
        predicate.matches(states).map_err(|error| {
            if error.kind() != ProblemKind::Unprocessable {
                return error;
            }
            let row = failing_row(states, |part| predicate.matches(part).is_ok());
            let group = row.and_then(|row| self.operators.group(&states.slice(row, 1)).ok());
            ViewError::Where(Box::new(WhereFailed {
                predicate: predicate.sql().to_owned(),
                group: group.flatten(),
                event: None,
                reason: error.to_string(),
            }))
        })
    }

    /// An event among `events` for which the view cannot be computed, and why; none where each can be by itself.
    pub fn failing_event(&self, events: &RecordBatch) -> Option<EventFailed> {
        let failure = |part: &RecordBatch| {
            let states = self.read(part);
            states
                .and_then(|input| self.operators.accumulate(input))
                .err()
        };
        failure(events).filter(|error| error.kind() == ProblemKind::Unprocessable)?;
        let row = failing_row(events, |part| failure(part).is_none())?;
        Some(EventFailed {
            event: EventPlace::of(events, row)?,
            reason: failure(&events.slice(row, 1))?.to_string(),
        })
    }

    /// How a predicate over keys fails for the group of some event among `events`, and which event that is; none where it
    /// can be computed for the groups of them all.
    pub fn event_failing(
        &self,
        predicate: &Predicate,
        events: &RecordBatch,
    ) -> Option<WhereFailed> {
        let failure = |part: &RecordBatch| {
            // What fails before the predicate does is no fault of it.
            let states = self.operators.accumulate(self.read(part).ok()?).ok()?;
            match self.groups_matching(predicate, &states) {
                Err(ViewError::Where(failed)) => Some(failed),
                _ => None,
            }
        };
        failure(events)?;
        let row = failing_row(events, |part| failure(part).is_none())?;
        let mut failed = failure(&events.slice(row, 1))?;
        failed.event = EventPlace::of(events, row);
        Some(*failed)
    }

    /// The Arrow row encoding of the keys of each row, in sort-key order: its bytes order like the groups.
    /// Columns are found by name, so rows of states, of files and of answers will do.
    ///
    /// # Errors
    /// When a key column is missing or has another type.
    pub fn encode_keys(&self, rows: &RecordBatch) -> Result<Rows, ViewError> {
        self.sort_key.encode(rows)
    }

    /// The columns that it reads of a batch of events.
    fn read(&self, events: &RecordBatch) -> Result<RecordBatch, ViewError> {
        let expected = expect_schema("events", &self.events_schema, events.schema_ref());
        let Err(mismatch) = expected else {
            return Ok(events.project(&self.event_columns)?);
        };
        let schema = Arc::new(self.events_schema.project(&self.event_columns)?);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.event_columns.len());
        for field in schema.fields() {
            match events.column_by_name(field.name()) {
                Some(column) if column.data_type() == field.data_type() => {
                    columns.push(Arc::clone(column));
                }
                None if field.is_nullable() => {
                    columns.push(new_null_array(field.data_type(), events.num_rows()));
                }
                _ => return Err(mismatch),
            }
        }
        batch(&schema, columns, events.num_rows())
    }

    pub(crate) fn sort_key(&self) -> &Arc<SortKey> {
        &self.sort_key
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("sql", &self.sql)
            .finish_non_exhaustive()
    }
}
