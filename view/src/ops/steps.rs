// SPDX-License-Identifier: Apache-2.0
//! From the events that are read to the input of the aggregation: filters and projections, in memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::ViewError;
use crate::state::batch;

/// One filter or projection.
pub(super) enum Step {
    Filter {
        predicate: Arc<dyn PhysicalExpr>,
        projection: Option<Vec<usize>>,
    },
    Project {
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    },
}

impl Step {
    pub(super) fn run(&self, input: &RecordBatch) -> Result<RecordBatch, ViewError> {
        match self {
            Self::Filter {
                predicate,
                projection,
            } => {
                let keep = boolean(predicate, input)?;
                let input = match projection {
                    Some(columns) => &input.project(columns)?,
                    None => input,
                };
                Ok(filter_record_batch(input, &keep)?)
            }
            Self::Project { exprs, schema } => {
                batch(schema, evaluate(exprs, input)?, input.num_rows())
            }
        }
    }
}

/// The filters and projections of a plan, from its leaf up.
pub(super) fn steps(plan: &Arc<dyn ExecutionPlan>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut node = plan;
    loop {
        if let Some(filter) = node.downcast_ref::<FilterExec>() {
            steps.push(Step::Filter {
                predicate: Arc::clone(filter.predicate()),
                projection: filter.projection().as_ref().map(|p| p.to_vec()),
            });
            node = filter.input();
        } else if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
            let exprs = projection.expr().iter();
            steps.push(Step::Project {
                exprs: exprs.map(|e| Arc::clone(&e.expr)).collect(),
                schema: projection.schema(),
            });
            node = projection.input();
        } else {
            steps.reverse();
            return steps;
        }
    }
}

/// The values of expressions, one array each.
pub(super) fn evaluate(
    exprs: &[Arc<dyn PhysicalExpr>],
    input: &RecordBatch,
) -> Result<Vec<ArrayRef>> {
    exprs
        .iter()
        .map(|expr| expr.evaluate(input)?.into_array(input.num_rows()))
        .collect()
}

/// The values of a boolean expression.
pub(crate) fn boolean(
    predicate: &Arc<dyn PhysicalExpr>,
    input: &RecordBatch,
) -> Result<BooleanArray> {
    let value = predicate.evaluate(input)?.into_array(input.num_rows())?;
    Ok(value.as_boolean().clone())
}

/// The rows in the order that an aggregate asks for.
pub(super) fn sort(input: &RecordBatch, order: &LexOrdering) -> Result<RecordBatch, ViewError> {
    let columns: Result<Vec<_>> = order
        .iter()
        .map(|expr| expr.evaluate_to_sort_column(input))
        .collect();
    let indices = lexsort_to_indices(&columns?, None)?;
    Ok(take_record_batch(input, &indices)?)
}
