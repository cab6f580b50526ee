// SPDX-License-Identifier: Apache-2.0
//! From the events that are read to the input of the aggregation: filters and projections, in memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

use super::Operators;
use crate::ViewError;
use crate::compile::Parts;
use crate::state::batch;

/// One filter or projection.
#[derive(Clone)]
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
    /// Where the columns at `places` are behind it, as they are; None when it reads them.
    fn places_behind(&self, places: &[usize]) -> Option<Vec<usize>> {
        match self {
            Self::Filter {
                predicate,
                projection,
            } => {
                if reads(predicate, places) {
                    return None;
                }
                let Some(projection) = projection else {
                    return Some(places.to_vec());
                };
                let kept = projection.iter().enumerate();
                let kept = kept.filter(|(_, column)| places.contains(column));
                Some(kept.map(|(index, _)| index).collect())
            }
            Self::Project { exprs, .. } => behind(exprs, places),
        }
    }

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
                let columns = evaluate(exprs, input)?;
                batch(&in_form_of(&columns, schema), columns, input.num_rows())
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

/// `schema`, with dictionaries where `columns` are.
fn in_form_of(columns: &[ArrayRef], schema: &SchemaRef) -> SchemaRef {
    let mut pairs = schema.fields().iter().zip(columns);
    if pairs.all(|(field, column)| field.data_type() == column.data_type()) {
        return Arc::clone(schema);
    }
    let fields = schema.fields().iter().zip(columns);
    let fields = fields.map(|(field, column)| match column.data_type() {
        coded @ DataType::Dictionary(_, _) => field.as_ref().clone().with_data_type(coded.clone()),
        _ => field.as_ref().clone(),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl Operators {
    /// Columns of the events that are read which hold texts and are keys as they are, and nothing else reads.
    pub(super) fn only_keys(&self, parts: &Parts) -> Vec<usize> {
        let is_text = |column: &usize| {
            let field = parts.events_schema.field(parts.event_columns[*column]);
            *field.data_type() == DataType::Utf8
        };
        let columns = 0..parts.event_columns.len();
        columns
            .filter(is_text)
            .filter(|c| self.is_only_key(*c))
            .collect()
    }

    fn is_only_key(&self, column: usize) -> bool {
        // Where it is behind each step.
        let mut places = vec![column];
        for step in &self.steps {
            let Some(next) = step.places_behind(&places) else {
                return false;
            };
            places = next;
        }
        let mut measured = self
            .measures
            .iter()
            .flat_map(|measure| measure.arguments.iter().chain(&measure.filter));
        behind(&self.groups, &places).is_some() && !measured.any(|e| reads(e, &places))
    }
}

/// Which of `exprs` are one of the columns at `places`, as it is; None when one makes something else of it.
fn behind(exprs: &[Arc<dyn PhysicalExpr>], places: &[usize]) -> Option<Vec<usize>> {
    let mut behind = Vec::new();
    for (index, expr) in exprs.iter().enumerate() {
        if reads(expr, places) {
            expr.downcast_ref::<Column>()?;
            behind.push(index);
        }
    }
    Some(behind)
}

fn reads(expr: &Arc<dyn PhysicalExpr>, places: &[usize]) -> bool {
    let columns = collect_columns(expr);
    columns
        .iter()
        .any(|column| places.contains(&column.index()))
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
