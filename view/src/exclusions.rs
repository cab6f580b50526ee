// SPDX-License-Identifier: Apache-2.0
//! Exclusions as one expression over events.

use std::sync::Arc;

use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, col, lit};
use dovetail_model::{Exclusion, OFFSET, PARTITION, Position, StreamSchema};

use crate::{Predicate, ViewError};

/// True (or null) for an event that one of `exclusions` matches and that lies before its bound; over
/// columns of the stream's events schema.
///
/// # Errors
/// When a predicate no longer compiles against the schema.
pub fn exclusion_predicate(
    exclusions: &[Exclusion],
    schema: &StreamSchema,
) -> Result<Arc<dyn PhysicalExpr>, ViewError> {
    let mut any: Arc<dyn PhysicalExpr> = lit(false);
    for exclusion in exclusions {
        let matches = Predicate::over_events(&exclusion.predicate, schema)?.expr();
        let matches = binary(before(&exclusion.bound, schema)?, Operator::And, matches);
        any = binary(any, Operator::Or, matches);
    }
    Ok(any)
}

/// True for an event before `bound`: in its partition, at a smaller offset.
fn before(bound: &Position, schema: &StreamSchema) -> Result<Arc<dyn PhysicalExpr>, ViewError> {
    let events = schema.events();
    let mut any: Arc<dyn PhysicalExpr> = lit(false);
    for (partition, next) in bound.iter() {
        let partition = i32::try_from(partition.0).unwrap_or(i32::MAX);
        let next = i64::try_from(next.0).unwrap_or(i64::MAX);
        let same = binary(col(PARTITION, &events)?, Operator::Eq, lit(partition));
        let below = binary(col(OFFSET, &events)?, Operator::Lt, lit(next));
        any = binary(any, Operator::Or, binary(same, Operator::And, below));
    }
    Ok(any)
}

fn binary(
    left: Arc<dyn PhysicalExpr>,
    op: Operator,
    right: Arc<dyn PhysicalExpr>,
) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, op, right))
}
