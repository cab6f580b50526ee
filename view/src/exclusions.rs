// SPDX-License-Identifier: Apache-2.0
//! Exclusions as one expression over events.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::Result as EngineResult;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, col, lit};
use dovetail_model::{Exclusion, ExclusionId, OFFSET, PARTITION, Position, StreamSchema};

use crate::words::words_of;
use crate::{Predicate, ViewError};

/// True (or null) for an event that one of `exclusions` matches and that lies before its bound; over
/// columns of the stream's events schema. An exclusion that cannot be computed for some event fails with
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
        let matches = Arc::new(Named {
            id: exclusion.id,
            predicate: exclusion.predicate.clone(),
            matches: Predicate::over_events(&exclusion.predicate, schema)?.expr(),
        });
        let matches = binary(before(&exclusion.bound, schema)?, Operator::And, matches);
        any = binary(any, Operator::Or, matches);
    }
    Ok(any)
}

/// The predicate of an exclusion cannot be computed for some event, such as `100 / delay > 5` where the delay is 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("exclusion {id} (`{predicate}`) cannot be computed for an event: {reason}")]
pub struct ExclusionFailed {
    /// The exclusion.
    pub id: ExclusionId,
    /// Its predicate.
    pub predicate: String,
    /// What the engine said.
    pub reason: String,
}

impl ExclusionFailed {
    /// What is at the root of an error of the engine, if it is this.
    pub fn at_root_of(error: &DataFusionError) -> Option<&Self> {
        match error.find_root() {
            DataFusionError::External(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

/// The predicate of one exclusion; its errors name it.
#[derive(Debug)]
struct Named {
    id: ExclusionId,
    predicate: String,
    matches: Arc<dyn PhysicalExpr>,
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.predicate == other.predicate && self.matches.eq(&other.matches)
    }
}

impl Eq for Named {}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
        self.predicate.hash(state);
        self.matches.hash(state);
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matches.fmt(f)
    }
}

impl PhysicalExpr for Named {
    fn data_type(&self, schema: &Schema) -> EngineResult<DataType> {
        self.matches.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> EngineResult<bool> {
        self.matches.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> EngineResult<ColumnarValue> {
        self.matches.evaluate(batch).map_err(|error| {
            let failed = ExclusionFailed {
                id: self.id,
                predicate: self.predicate.clone(),
                reason: words_of(&error),
            };
            DataFusionError::External(Box::new(failed))
        })
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.matches]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> EngineResult<Arc<dyn PhysicalExpr>> {
        let [matches] = children.try_into().map_err(|_| {
            DataFusionError::Internal("the predicate of an exclusion has one child".to_owned())
        })?;
        Ok(Arc::new(Self {
            id: self.id,
            predicate: self.predicate.clone(),
            matches,
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matches.fmt_sql(f)
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
