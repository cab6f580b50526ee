// SPDX-License-Identifier: Apache-2.0
//! What a view must answer: one plain DataFusion query, with all of DataFusion's own rules.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use dovetail_view::{CheckedNumbers, SameNumbers, register_functions, type_planner};

use crate::compare::in_key_order;

/// The answer over all events, as table `s`, to queries with the same keys: their outputs side by side. An error
/// where a value passes the end of its type.
pub(crate) async fn answers(
    queries: &[String],
    keys: usize,
    events: &RecordBatch,
) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for sql in queries {
        let answer = in_key_order(&answer(sql, events).await?, keys);
        let seen = if columns.is_empty() { 0 } else { keys };
        fields.extend(answer.schema().fields().iter().skip(seen).cloned());
        columns.extend(answer.columns().iter().skip(seen).cloned());
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap())
}

/// The answer of `sql` over all events.
async fn answer(sql: &str, events: &RecordBatch) -> Result<RecordBatch> {
    let mut config = SessionConfig::new().with_target_partitions(2);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_type_planner(type_planner())
        // Other than that, it is the engine alone.
        .with_analyzer_rule(Arc::new(CheckedNumbers))
        .with_analyzer_rule(Arc::new(SameNumbers))
        .build();
    register_functions(&mut state).unwrap();
    let context = SessionContext::new_with_state(state);
    let table = MemTable::try_new(events.schema(), vec![vec![events.clone()]]).unwrap();
    context.register_table("s", Arc::new(table)).unwrap();
    let frame = context
        .sql(sql)
        .await
        .unwrap_or_else(|error| panic!("the oracle cannot plan {sql}: {error}"));
    let schema = Arc::clone(frame.schema().inner());
    let batches = frame.collect().await?;
    let schema = batches.first().map_or(schema, |batch| batch.schema());
    Ok(concat_batches(&schema, &batches).unwrap())
}
