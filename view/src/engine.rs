// SPDX-License-Identifier: Apache-2.0
//! The session in which definitions and predicates are analysed and planned.
//!
//! Purpose: one place that decides which functions, types and rules exist for views. Non-goals: running
//! queries; the serving layer has its own session and takes [`register_functions`] and [`type_planner`].
//! Invariants: no rule that splits, drops or reverses an aggregate; planning never waits for I/O.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider,
};
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Analyzer, AnalyzerRule, OptimizerRule};
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast;

use crate::functions::{ExactNumbers, register_functions};

/// SQL's `TIMESTAMP` as microseconds, like the `TIMESTAMP` of a stream. DataFusion alone would make it
/// nanoseconds, which neither a stream nor Delta has.
#[derive(Debug)]
struct MicrosecondTimestamps;

impl TypePlanner for MicrosecondTimestamps {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> Result<Option<FieldRef>> {
        let plain = matches!(
            sql_type,
            ast::DataType::Timestamp(
                None | Some(6),
                ast::TimezoneInfo::None | ast::TimezoneInfo::WithoutTimeZone
            ) | ast::DataType::Datetime(None | Some(6))
        );
        Ok(plain.then(|| {
            let data_type = DataType::Timestamp(TimeUnit::Microsecond, None);
            Arc::new(Field::new("", data_type, true))
        }))
    }
}

/// Plans `TIMESTAMP` as microseconds without zone; for every session that reads views or streams.
pub fn type_planner() -> Arc<dyn TypePlanner> {
    Arc::new(MicrosecondTimestamps)
}

/// DataFusion's rules of analysis with ours before them, and `behind` them.
pub fn analyzer_rules(
    behind: Vec<Arc<dyn AnalyzerRule + Send + Sync>>,
) -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(ExactNumbers)];
    rules.extend(Analyzer::new().rules);
    rules.extend(behind);
    rules
}

/// A session with an empty catalog of its own.
pub(crate) fn session() -> SessionState {
    static BASE: OnceLock<SessionState> = OnceLock::new();
    let base = BASE.get_or_init(base_session).clone();
    let defaults = base.config_options().catalog.clone();
    let catalog = MemoryCatalogProvider::new();
    catalog
        .register_schema(
            &defaults.default_schema,
            Arc::new(MemorySchemaProvider::new()),
        )
        .expect("a catalog in memory takes a schema");
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(defaults.default_catalog, Arc::new(catalog));
    SessionStateBuilder::new_from_existing(base)
        .with_catalog_list(Arc::new(catalogs))
        .build()
}

fn base_session() -> SessionState {
    let mut config = SessionConfig::new().with_target_partitions(1);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    // Never: they would replace what the definition says by what the planner knows.
    options.optimizer.skip_failed_rules = false;
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        // The physical planner needs it: it cannot plan a key that is there twice.
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_type_planner(type_planner())
        .with_analyzer_rules(analyzer_rules(vec![]))
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(vec![])
        .build();
    register_functions(&mut state).expect("a fresh session takes our functions");
    state
}

/// Drives a future that never waits for anything outside itself. Planning over tables in memory is
/// `async` in DataFusion but has no I/O, so this needs no runtime and works inside any.
pub(crate) fn resolve<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
