// SPDX-License-Identifier: Apache-2.0
//! Which groups of a view a scan is asked for.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::reassign_expr_columns;
use dovetail_view::{View, ViewError};

use super::external;

/// Some groups of a view.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    view: Arc<View>,
    /// Their encoded keys, in order.
    keys: Arc<Vec<Box<[u8]>>>,
}

impl Groups {
    /// Those of `rows`, which have the columns of its keys.
    ///
    /// # Errors
    /// When they have not.
    pub(super) fn of(
        view: &Arc<View>,
        rows: impl Iterator<Item = RecordBatch>,
    ) -> std::result::Result<Self, ViewError> {
        let mut keys = vec![];
        for batch in rows {
            let encoded = view.encode_keys(&batch)?;
            keys.extend(encoded.iter().map(|key| Box::from(key.data())));
        }
        keys.sort_unstable();
        Ok(Self {
            view: Arc::clone(view),
            keys: Arc::new(keys),
        })
    }

    /// The rows of `batch` that are of one of them.
    fn among(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = self.view.encode_keys(batch).map_err(external)?;
        let is_one = |key: &[u8]| {
            let found = self.keys.binary_search_by(|probe| probe.as_ref().cmp(key));
            found.is_ok()
        };
        let mask: BooleanArray = rows.iter().map(|key| Some(is_one(key.data()))).collect();
        Ok(filter_record_batch(batch, &mask)?)
    }
}

/// Which groups are finished.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Over key columns by name.
    pub(super) predicate: Option<Arc<dyn PhysicalExpr>>,
    /// All of them where there is none.
    pub(super) only: Option<Groups>,
}

impl Wanted {
    pub(super) fn is_all(&self) -> bool {
        self.predicate.is_none() && self.only.is_none()
    }

    /// The rows of `batch` that are wanted; their keys are found by name.
    pub(super) fn of(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut rows = batch.clone();
        if let Some(groups) = &self.only {
            rows = groups.among(&rows)?;
        }
        if let Some(predicate) = &self.predicate {
            rows = matching(&rows, predicate)?;
        }
        Ok(rows)
    }
}

/// The rows of `batch` that match a predicate whose columns are found by name.
fn matching(batch: &RecordBatch, predicate: &Arc<dyn PhysicalExpr>) -> Result<RecordBatch> {
    let predicate = reassign_expr_columns(Arc::clone(predicate), &batch.schema())?;
    let mask = predicate.evaluate(batch)?.into_array(batch.num_rows())?;
    Ok(filter_record_batch(batch, as_boolean_array(&mask)?)?)
}
