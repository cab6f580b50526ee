// SPDX-License-Identifier: Apache-2.0
//! Whether an expression can be computed for any row at all.
//!
//! Purpose: what fails whatever the row says, such as a division by 0 that is written out, is refused when it is declared
//! and not when it meets its first event. Non-goals: what fails for some rows; parts that not every row needs (behind
//! AND and OR, in CASE and coalesce), which may be there for rows that never come.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, CaseExpr};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use crate::words::{with_sql_types, words_of};

/// The part of `expr` that every row needs and that fails for each that has values for it, and why.
pub(crate) fn failing_part(expr: &Arc<dyn PhysicalExpr>) -> Option<(String, String)> {
    if is_constant(expr) {
        let error = constant(expr).err()?;
        return Some((shown(expr), words_of(&error)));
    }
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        match binary.op() {
            Operator::And | Operator::Or => return failing_part(binary.left()),
            Operator::Divide | Operator::Modulo if is_zero(binary.right()) => {
                return Some((shown(expr), "it divides by 0".to_owned()));
            }
            _ => {}
        }
    }
    let call = expr.downcast_ref::<ScalarFunctionExpr>();
    if expr.is::<CaseExpr>() || call.is_some_and(|call| call.fun().short_circuits()) {
        return None;
    }
    expr.children().into_iter().find_map(failing_part)
}

fn is_constant(expr: &Arc<dyn PhysicalExpr>) -> bool {
    collect_columns(expr).is_empty()
}

/// What a constant is.
fn constant(expr: &Arc<dyn PhysicalExpr>) -> Result<ScalarValue> {
    let row = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &row)?;
    match expr.evaluate(&row)? {
        ColumnarValue::Scalar(value) => Ok(value),
        ColumnarValue::Array(values) => ScalarValue::try_from_array(&values, 0),
    }
}

/// Whether it is a whole number or a decimal, and 0: what nothing can be divided by.
fn is_zero(expr: &Arc<dyn PhysicalExpr>) -> bool {
    if !is_constant(expr) {
        return false;
    }
    let Ok(value) = constant(expr) else {
        return false;
    };
    let data_type = value.data_type();
    let is_exact = data_type.is_integer() || data_type.is_decimal();
    is_exact && ScalarValue::new_zero(&data_type).is_ok_and(|zero| zero == value)
}

fn shown(expr: &Arc<dyn PhysicalExpr>) -> String {
    with_sql_types(&fmt_sql(expr.as_ref()).to_string())
}
