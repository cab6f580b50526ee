// SPDX-License-Identifier: Apache-2.0
//! An expression that something else is done with when it is evaluated.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;

/// What is done where an expression is evaluated: something before it, or with its error. The values stay the same.
pub trait Hook: fmt::Debug + Clone + Eq + Hash + Send + Sync + 'static {
    /// The values of `inner` for `batch`.
    ///
    /// # Errors
    /// Those of `inner`, in whatever words, and what the hook itself has to say.
    fn evaluate(&self, inner: &dyn PhysicalExpr, batch: &RecordBatch) -> Result<ColumnarValue>;
}

/// An expression with a [`Hook`]. In everything else it is the expression.
#[derive(Debug, Clone, Eq)]
pub struct Hooked<H> {
    inner: Arc<dyn PhysicalExpr>,
    hook: H,
}

impl<H: Hook> Hooked<H> {
    /// `inner` with `hook`.
    pub fn new(inner: Arc<dyn PhysicalExpr>, hook: H) -> Self {
        Self { inner, hook }
    }
}

// Derived, it would move out of the expression: https://github.com/rust-lang/rust/issues/78808.
impl<H: PartialEq> PartialEq for Hooked<H> {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner) && self.hook == other.hook
    }
}

impl<H: Hash> Hash for Hooked<H> {
    fn hash<S: Hasher>(&self, state: &mut S) {
        self.inner.hash(state);
        self.hook.hash(state);
    }
}

impl<H> fmt::Display for Hooked<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<H: Hook> PhysicalExpr for Hooked<H> {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.inner.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.hook.evaluate(self.inner.as_ref(), batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let [inner] = children.try_into().map_err(|_| {
            DataFusionError::Internal("an expression with a hook has one child".to_owned())
        })?;
        let hook = self.hook.clone();
        Ok(Arc::new(Self { inner, hook }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
