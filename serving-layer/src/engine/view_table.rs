// SPDX-License-Identifier: Apache-2.0
//! A view as a table: a generation and the runs from its horizon on.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use dovetail_seam::{Generation, Runs};

use super::external;
use super::fetched::Fetched;
use super::merged_scan::{MergedScan, ViewSource};
use super::wanted::{Groups, Wanted};

/// What one question takes of one view.
#[derive(Debug, Clone)]
pub(crate) struct ViewAnswer {
    pub(crate) generation: Arc<Generation>,
    /// Empty when the generation answers alone.
    pub(crate) runs: Runs,
    /// Whether both layers answer.
    pub(crate) merged: bool,
}

/// Reads a [`ViewAnswer`] as its finished rows.
#[derive(Debug)]
pub(crate) struct ViewTable {
    name: String,
    source: ViewAnswer,
    fetched: Fetched,
    only: Option<Groups>,
}

impl ViewTable {
    pub(crate) fn new(name: &str, source: ViewAnswer) -> Self {
        Self {
            name: name.to_owned(),
            source,
            fetched: Fetched::default(),
            only: None,
        }
    }

    /// The same, of which only these groups are finished.
    pub(super) fn only(mut self, groups: Groups) -> Self {
        self.only = Some(groups);
        self
    }

    /// Whether a filter reads key columns alone, so that it holds for a group's states as for its row.
    fn is_over_keys(&self, filter: &Expr) -> bool {
        let keys = self.source.generation.view().keys();
        let mut only_keys = true;
        let visited = filter.apply(|node| {
            only_keys &= match node {
                Expr::Column(column) => keys.iter().any(|key| key.name == column.name),
                Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::ScalarSubquery(_)
                | Expr::OuterReferenceColumn(..) => false,
                _ => true,
            };
            Ok(if only_keys {
                TreeNodeRecursion::Continue
            } else {
                TreeNodeRecursion::Stop
            })
        });
        visited.is_ok() && only_keys && !filter.is_volatile()
    }
}

#[async_trait]
impl TableProvider for ViewTable {
    fn schema(&self) -> SchemaRef {
        self.source.generation.view().output_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let how = |filter: &&Expr| {
            if self.is_over_keys(filter) {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(how).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let predicate = match conjunction(filters.iter().cloned()) {
            Some(filter) => {
                let schema = DFSchema::try_from(self.schema())?;
                let filter = datafusion::common::tree_node::Transformed::no(filter);
                let unqualified = filter.data.transform(|e| {
                    Ok(match e {
                        Expr::Column(column) => datafusion::common::tree_node::Transformed::yes(
                            Expr::Column(datafusion::common::Column::new_unqualified(column.name)),
                        ),
                        other => datafusion::common::tree_node::Transformed::no(other),
                    })
                })?;
                Some(session.create_physical_expr(unqualified.data, &schema)?)
            }
            None => None,
        };
        let partitions = session.config().target_partitions();
        let ViewAnswer {
            generation,
            runs,
            merged,
        } = &self.source;
        let reserved = self.fetched.reserve(&session.runtime_env().memory_pool);
        let mut account = |bytes| reserved.grow(bytes);
        let source = ViewSource {
            generation: Arc::clone(generation),
            runs: runs.fetch(filters, &mut account).await.map_err(external)?,
            merged: *merged,
        };
        let wanted = Wanted {
            predicate,
            only: self.only.clone(),
        };
        let scan = MergedScan::new(
            &self.name,
            source,
            projection.cloned(),
            wanted,
            limit,
            partitions,
        )?;
        Ok(Arc::new(scan.settled(session.config().get_extension())))
    }
}
