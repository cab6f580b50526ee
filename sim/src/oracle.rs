// SPDX-License-Identifier: Apache-2.0
//! The oracle: one plain query over all events before a position.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::row::{RowConverter, SortField};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use dovetail_log::CommittedBatch;
use dovetail_model::{Exclusion, Position, StreamDef};
use dovetail_view::View;

/// Every event that was ever pushed.
pub struct Oracle {
    def: StreamDef,
    events: Mutex<Vec<RecordBatch>>,
}

impl Oracle {
    /// No events yet. `def` has every column that the stream will ever have.
    pub fn new(def: &StreamDef) -> Self {
        Self {
            def: def.clone(),
            events: Mutex::default(),
        }
    }

    /// Adds a batch in the stream's events schema of its time.
    pub fn push(&self, batch: &CommittedBatch) {
        let batch = batch.in_schema(&self.def.schema.events());
        self.all()
            .push(batch.expect("a column of the stream").events);
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<RecordBatch>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `sql` answers over the events before `position` that no exclusion matches, by DataFusion alone.
    pub async fn answer(
        &self,
        sql: &str,
        position: &Position,
        exclusions: &[Exclusion],
    ) -> Vec<RecordBatch> {
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        let mut ctx = SessionContext::new_with_config(config);
        dovetail_view::register_functions(&mut ctx).expect("our functions register");
        ctx.add_analyzer_rule(Arc::new(dovetail_view::CheckedNumbers));
        ctx.add_analyzer_rule(Arc::new(dovetail_view::SameNumbers));
        let table =
            MemTable::try_new(self.def.schema.events(), vec![self.all().clone()]).expect("a table");
        ctx.register_table("everything", Arc::new(table))
            .expect("a new name");
        let mut keep = before(position);
        for exclusion in exclusions {
            let (bound, predicate) = (before(&exclusion.bound), &exclusion.predicate);
            keep += &format!(" AND NOT ({bound} AND coalesce(({predicate}), false))");
        }
        let kept = ctx
            .sql(&format!("SELECT * FROM everything WHERE {keep}"))
            .await
            .expect("the oracle's filter");
        ctx.register_table(self.def.name.clone(), kept.into_view())
            .expect("a new name");
        let frame = ctx.sql(sql).await.expect("the oracle plans");
        let schema = Arc::clone(frame.schema().inner());
        let mut rows = frame.collect().await.expect("the oracle answers");
        rows.push(RecordBatch::new_empty(schema));
        rows
    }
}

/// The events before `position`, as a predicate.
fn before(position: &Position) -> String {
    let partitions = position.iter();
    let partitions =
        partitions.map(|(p, next)| format!(" OR (_partition = {p} AND _offset < {next})"));
    format!("(false{})", partitions.collect::<String>())
}

/// Asserts that two answers of `view` hold the same rows, each column as equal as its aggregate promises.
///
/// # Panics
/// When they differ, with both.
pub fn same_rows(view: &View, found: &[RecordBatch], expected: &[RecordBatch]) {
    let found = by_key(view, found);
    let expected = by_key(view, expected);
    let show = |batch: &RecordBatch| {
        arrow::util::pretty::pretty_format_batches(std::slice::from_ref(batch))
            .map(|t| t.to_string())
    };
    let context = || {
        format!(
            "found\n{}\nexpected\n{}",
            show(&found).unwrap_or_default(),
            show(&expected).unwrap_or_default()
        )
    };
    assert_eq!(found.num_rows(), expected.num_rows(), "{}", context());
    for (index, equality) in view.equality().iter().enumerate() {
        let expected =
            arrow::compute::cast(expected.column(index), found.column(index).data_type())
                .expect("comparable types");
        let same = equality
            .same(found.column(index), &expected)
            .expect("comparable columns");
        assert!(
            same.iter().all(|row| row == Some(true)),
            "column {index} differs\n{}",
            context()
        );
    }
}

/// The rows in key order.
fn by_key(view: &View, batches: &[RecordBatch]) -> RecordBatch {
    let all = concat_batches(&batches[0].schema(), batches).expect("one schema");
    if view.keys().is_empty() {
        return all;
    }
    let keys: Vec<ArrayRef> = view
        .keys()
        .iter()
        .map(|key| Arc::clone(all.column(key.output_index)))
        .collect();
    let fields = keys
        .iter()
        .map(|key| SortField::new(key.data_type().clone()))
        .collect();
    let rows = RowConverter::new(fields)
        .expect("sortable keys")
        .convert_columns(&keys)
        .expect("sortable keys");
    let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
    order.sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
    take_record_batch(&all, &arrow::array::UInt32Array::from(order)).expect("the order fits")
}
