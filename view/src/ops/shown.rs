// SPDX-License-Identifier: Apache-2.0
//! Operators that finish some columns of the output and none of the others.
//!
//! Purpose: who asks for some columns pays for those, and is answered where another one fails on a group.
//! Invariants: each column is computed by the expression that all of them together compute it by.
//! Non-goals: states, which stay whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use super::Operators;
use crate::ViewError;

impl Operators {
    /// The same, whose finished rows are these output columns, in this order.
    pub(crate) fn showing(&self, outputs: &[usize]) -> Result<Self, ViewError> {
        let keys = self.groups.len();
        let mut wanted = outputs.to_vec();
        let mut stages = Vec::with_capacity(self.stages.len());
        for (stage, (exprs, schema)) in self.stages.iter().enumerate().rev() {
            let schema = Arc::new(schema.project(&wanted)?);
            let exprs: Vec<_> = wanted.iter().map(|index| &exprs[*index]).collect();
            let columns = exprs.iter().flat_map(|expr| collect_columns(expr));
            let mut reads: BTreeSet<usize> = columns.map(|column| column.index()).collect();
            if stage == 0 {
                reads.extend(0..keys);
            }
            wanted = reads.into_iter().collect();
            let exprs = exprs.into_iter().map(|expr| among(expr, &wanted));
            stages.push((exprs.collect::<Result<_>>()?, schema));
        }
        stages.reverse();
        let calls = wanted.iter().filter_map(|index| index.checked_sub(keys));
        let outputs = outputs.iter().map(|index| self.outputs[*index].clone());
        Ok(Self {
            calls: calls.map(|call| self.calls[call].clone()).collect(),
            finished_schema: Arc::new(self.finished_schema.project(&wanted)?),
            stages,
            outputs: outputs.collect(),
            ..self.clone()
        })
    }
}

/// `expr`, where of the columns that it reads from only those at `places` are left.
fn among(expr: &Arc<dyn PhysicalExpr>, places: &[usize]) -> Result<Arc<dyn PhysicalExpr>> {
    let moved = Arc::clone(expr).transform_up(|part| {
        let Some(column) = part.downcast_ref::<Column>() else {
            return Ok(Transformed::no(part));
        };
        let index = places.partition_point(|place| *place < column.index());
        let column = Column::new(column.name(), index);
        Ok(Transformed::yes(Arc::new(column) as Arc<dyn PhysicalExpr>))
    })?;
    Ok(moved.data)
}
