// SPDX-License-Identifier: Apache-2.0
//! The DataFusion session that user SQL is planned in: our functions, our tables, nothing else.

use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider as _, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider as _, TableProvider,
};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{SQLOptions, SessionState};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::prelude::{SessionConfig, SessionContext};
use dovetail_log::parquet_files::store_url;
use object_store::ObjectStore;

use super::rules;
use super::settled::Settlements;

/// The catalog and schema that our tables are in.
const CATALOG: &str = "dovetail";
const SCHEMA: &str = "public";

/// Bytes that a batch of rows may take. Operators count rows, and a join puts each row of one side out with every row of
/// the other that goes with it: of lists, a batch of the usual 8192 rows may be more than the machine has.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

/// Makes the session state of each query.
#[derive(Debug)]
pub struct QuerySession {
    base: SessionState,
    store: Arc<dyn ObjectStore>,
}

impl QuerySession {
    /// Sessions on `runtime` (its memory pool, disk manager and registered store) with `partitions` threads
    /// of work per query.
    ///
    /// # Errors
    /// When our functions cannot be registered, or no store is.
    pub fn new(runtime: Arc<RuntimeEnv>, partitions: usize) -> Result<Self> {
        let store = runtime.object_store(store_url())?;
        let config = SessionConfig::new()
            .with_target_partitions(partitions)
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false)
            // A file that repartitioning spills into takes one batch: tasks that go on to write into shared ones wait for
            // one another for ever (DataFusion's issue 24883, of 55.2).
            .set_usize("datafusion.execution.max_spill_file_size_bytes", 1)
            // Errors of planning say where.
            .set_bool("datafusion.sql_parser.collect_spans", true)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
            .with_extension(Arc::new(Settlements::new(&runtime.memory_pool)));
        let pool = Arc::clone(&runtime.memory_pool);
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_analyzer_rules(dovetail_view::analyzer_rules(vec![
                Arc::new(dovetail_view::CheckedNumbers),
                Arc::new(dovetail_view::SameNumbers),
                Arc::new(dovetail_view::BoundedCalls::of_queries(pool)),
            ]))
            .build();
        let mut ctx = SessionContext::new_with_state(state);
        dovetail_view::register_functions(&mut ctx)?;
        for rule in rules::ours() {
            ctx.remove_optimizer_rule(rule.name());
            ctx.add_optimizer_rule(rule);
        }
        for name in dovetail_view::UNBOUNDED_FUNCTIONS {
            ctx.deregister_udf(name);
        }
        for name in ["range", "generate_series"] {
            ctx.deregister_udtf(name);
        }
        Ok(Self {
            base: ctx.state(),
            store,
        })
    }

    /// A state in which exactly `tables` resolve, by their names. Their rows take about `row_bytes` in memory.
    pub(crate) fn state(
        &self,
        tables: Vec<(String, Arc<dyn TableProvider>)>,
        row_bytes: usize,
    ) -> Result<SessionState> {
        let schema = Arc::new(MemorySchemaProvider::new());
        for (name, table) in tables {
            schema.register_table(name, table)?;
        }
        let catalog = Arc::new(MemoryCatalogProvider::new());
        catalog.register_schema(SCHEMA, schema)?;
        let catalogs = Arc::new(MemoryCatalogProviderList::new());
        datafusion::catalog::CatalogProviderList::register_catalog(
            catalogs.as_ref(),
            CATALOG.to_owned(),
            catalog,
        );
        let config = self.base.config().clone();
        let batch_rows = (BATCH_BYTES / row_bytes.max(1)).clamp(1, config.batch_size());
        Ok(SessionStateBuilder::new_from_existing(self.base.clone())
            .with_config(config.with_batch_size(batch_rows))
            .with_catalog_list(catalogs)
            .with_type_planner(dovetail_view::type_planner())
            .build())
    }

    /// `state` in which a row of an operator may also hold every constant of `plan`, which is optimised: what was a short
    /// expression in the statement, or a parameter, may be long by now.
    pub(crate) fn with_constants(state: SessionState, plan: &LogicalPlan) -> Result<SessionState> {
        let config = state.config().clone();
        let row_bytes = BATCH_BYTES / config.batch_size() + constant_bytes(plan)?;
        let batch_rows = (BATCH_BYTES / row_bytes.max(1)).clamp(1, config.batch_size());
        Ok(SessionStateBuilder::new_from_existing(state)
            .with_config(config.with_batch_size(batch_rows))
            .build())
    }

    /// The store that queries read.
    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The account of the memory of all queries.
    pub(crate) fn memory_pool(&self) -> &Arc<dyn MemoryPool> {
        &self.base.runtime_env().memory_pool
    }

    /// The state without tables, for parsing.
    pub(crate) fn base(&self) -> &SessionState {
        &self.base
    }
}

fn constant_bytes(plan: &LogicalPlan) -> Result<usize> {
    let mut bytes = 0_usize;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::Literal(literal, _) = part {
                    // Beside what even a number takes.
                    let own = literal.size().saturating_sub(size_of::<ScalarValue>());
                    bytes = bytes.saturating_add(own);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(bytes)
}

/// What a user's statement may do: read.
pub(crate) fn read_only() -> SQLOptions {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array, StringViewArray};
    use arrow::record_batch::RecordBatch;
    use datafusion::datasource::MemTable;
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_plan::{ExecutionPlan, collect};
    use dovetail_log::parquet_files::register_store;
    use object_store::memory::InMemory;

    use super::*;

    fn events(ids: Range<i64>) -> RecordBatch {
        let text = |id: i64| format!("{:032}", id % 337);
        let columns: [(_, ArrayRef); 2] = [
            (
                "g",
                Arc::new(ids.clone().map(|id| id % 13).collect::<Int64Array>()),
            ),
            (
                "t",
                Arc::new(StringViewArray::from_iter_values(ids.map(text))),
            ),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn spills(plan: &Arc<dyn ExecutionPlan>) -> usize {
        let own = plan.metrics().and_then(|metrics| metrics.spill_count());
        own.unwrap_or(0) + plan.children().into_iter().map(spills).sum::<usize>()
    }

    /// DataFusion's repartitioning waits for ever when two tasks spill into one pool of files that both of them go on to
    /// write (its issue 24883): in our sessions a file takes one batch.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn partitions_that_spill_at_once_do_not_wait_for_one_another() {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(3 << 20)))
            .build_arc()
            .unwrap();
        register_store(&runtime, Arc::new(InMemory::new()));
        let session = QuerySession::new(runtime, 2).unwrap();
        let halves = [0..20_000, 20_000..40_000];
        let halves = halves.map(|ids| ids.step_by(64).map(|id| events(id..id + 64)).collect());
        let table = MemTable::try_new(events(0..0).schema(), halves.into()).unwrap();
        let tables = vec![("events".to_owned(), Arc::new(table) as _)];
        let state = session.state(tables, BATCH_BYTES / 64).unwrap();
        let mut spilled = 0;
        for _ in 0..60 {
            let sql = "SELECT g, count(DISTINCT t) FROM events GROUP BY g";
            let plan = state.create_logical_plan(sql).await.unwrap();
            let plan = state.create_physical_plan(&plan).await.unwrap();
            let answer = collect(Arc::clone(&plan), state.task_ctx());
            let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
            let answer = answer.expect("it goes on").unwrap();
            assert_eq!(answer.iter().map(RecordBatch::num_rows).sum::<usize>(), 13);
            spilled += spills(&plan);
        }
        assert!(spilled > 0);
    }
}
