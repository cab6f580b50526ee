// SPDX-License-Identifier: Apache-2.0
//! Exclusions as one expression over events.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::Result as EngineResult;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, case, col, lit};
use dovetail_model::{Exclusion, ExclusionId, OFFSET, PARTITION, Position, StreamSchema};

use crate::predicate::failing_row;
use crate::words::words_of;
use crate::{EventPlace, Hook, Hooked, Predicate, ViewError};

/// True (or null) for an event that one of `exclusions` matches and that lies before its bound; over
/// columns of the stream's events schema. An exclusion that cannot be computed for some event before its bound fails with
/// [`ExclusionFailed`].
///
/// # Errors
/// When a predicate no longer compiles against the schema.
pub fn exclusion_predicate(
    exclusions: &[Exclusion],
    schema: &StreamSchema,
) -> Result<Arc<dyn PhysicalExpr>, ViewError> {
    let mut any: Arc<dyn PhysicalExpr> = lit(false);
    for exclusion in exclusions {
        let predicate = Predicate::over_events(&exclusion.predicate, schema)?;
        let named = Named {
            id: exclusion.id,
            predicate: exclusion.predicate.clone(),
        };
        let matches = Arc::new(Hooked::new(predicate.expr(), named));
        // An AND may compute both sides for every event, and the exclusion says nothing of those behind its bound.
        let within = vec![(before(&exclusion.bound, schema)?, matches as _)];
        let matches = case(None, within, Some(lit(false)))?;
        any = binary(any, Operator::Or, matches);
    }
    Ok(any)
}

/// The predicate of an exclusion cannot be computed for some event, such as `100 / delay > 5` where the delay is 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("exclusion {id} (`{predicate}`) cannot be computed for {}: {reason}", self.named_event())]
pub struct ExclusionFailed {
    /// The exclusion.
    pub id: ExclusionId,
    /// Its predicate.
    pub predicate: String,
    /// Such an event, where one is known.
    pub event: Option<EventPlace>,
    /// What the engine said.
    pub reason: String,
}

impl ExclusionFailed {
    fn named_event(&self) -> String {
        let event = self.event.as_ref();
        event.map_or_else(|| "an event".to_owned(), EventPlace::to_string)
    }

    /// What is at the root of an error of the engine, if it is this.
    pub fn at_root_of(error: &DataFusionError) -> Option<&Self> {
        match error.find_root() {
            DataFusionError::External(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

/// Which exclusion a predicate is of; its errors name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Named {
    id: ExclusionId,
    predicate: String,
}

impl Hook for Named {
    fn evaluate(
        &self,
        inner: &dyn PhysicalExpr,
        batch: &RecordBatch,
    ) -> EngineResult<ColumnarValue> {
        inner.evaluate(batch).map_err(|error| {
            let row = failing_row(batch, |part| inner.evaluate(part).is_ok());
            let failed = ExclusionFailed {
                id: self.id,
                predicate: self.predicate.clone(),
                event: row.and_then(|row| EventPlace::of(batch, row)),
                reason: words_of(&error),
            };
            DataFusionError::External(Box::new(failed))
        })
    }
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
