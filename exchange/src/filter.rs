// SPDX-License-Identifier: Apache-2.0
//! Which groups a question can use: comparisons of key columns with constants, exact on both sides.
//!
//! A filter only spares the wire: the reader applies the question's own predicate again. So what is not understood here
//! is left out, and what is taken over must mean the same on the other side: a constant travels as the Arrow value that
//! it is, and only if its type is that of the column.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{Field, Schema};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, col, in_list, lit};
use dovetail_log::decode::guarded;
use dovetail_view::View;
use serde::{Deserialize, Serialize};

/// A key column compared with constants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyFilter {
    column: String,
    comparison: Comparison,
    /// An Arrow IPC stream of one column: the constants.
    constants: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

/// More constants than this are not worth sending.
const MOST_CONSTANTS: usize = 10_000;

impl KeyFilter {
    /// Those parts of `filters` over the keys of `view` that can be sent. A row that any of them refuses, `filters`
    /// refuse.
    pub(crate) fn of(view: &View, filters: &[Expr]) -> Vec<Self> {
        let parts = filters.iter().flat_map(split_conjunction);
        parts.filter_map(|part| Self::of_part(view, part)).collect()
    }

    fn of_part(view: &View, part: &Expr) -> Option<Self> {
        let (column, comparison, constants) = match part {
            Expr::BinaryExpr(binary) => {
                let (column, operator, constant) = match (&*binary.left, &*binary.right) {
                    (Expr::Column(column), Expr::Literal(constant, _)) => {
                        (column, binary.op, constant)
                    }
                    (Expr::Literal(constant, _), Expr::Column(column)) => {
                        (column, binary.op.swap()?, constant)
                    }
                    _ => return None,
                };
                (column, Comparison::of(operator)?, vec![constant.clone()])
            }
            Expr::InList(list) if !list.negated && list.list.len() <= MOST_CONSTANTS => {
                let Expr::Column(column) = &*list.expr else {
                    return None;
                };
                let constants = list.list.iter().map(|item| match item {
                    Expr::Literal(constant, _) => Some(constant.clone()),
                    _ => None,
                });
                (column, Comparison::In, constants.collect::<Option<_>>()?)
            }
            _ => return None,
        };
        let schema = view.state_schema();
        let is_key = view.keys().iter().any(|key| key.name == column.name);
        let field = schema
            .field_with_name(&column.name)
            .ok()
            .filter(|_| is_key)?;
        let same_type = |constant: &ScalarValue| {
            constant.data_type() == *field.data_type() && !constant.is_null()
        };
        if constants.is_empty() || !constants.iter().all(same_type) {
            return None;
        }
        Some(Self {
            column: column.name.clone(),
            comparison,
            constants: encode(ScalarValue::iter_to_array(constants).ok()?).ok()?,
        })
    }

    /// The filter over batches of the states of `view`.
    ///
    /// # Errors
    /// When it is not of this view.
    pub(crate) fn predicate(&self, view: &View) -> Result<Arc<dyn PhysicalExpr>> {
        let schema = view.state_schema();
        let column = col(&self.column, &schema)?;
        let constants = decode(&self.constants)?;
        let constant = |row| ScalarValue::try_from_array(&constants, row);
        let Some(operator) = self.comparison.operator() else {
            let list = (0..constants.len()).map(|row| Ok(lit(constant(row)?)));
            return in_list(column, list.collect::<Result<_>>()?, &false, &schema);
        };
        Ok(Arc::new(BinaryExpr::new(
            column,
            operator,
            lit(constant(0)?),
        )))
    }
}

impl Comparison {
    fn of(operator: Operator) -> Option<Self> {
        Some(match operator {
            Operator::Eq => Self::Equal,
            Operator::Lt => Self::Less,
            Operator::LtEq => Self::LessOrEqual,
            Operator::Gt => Self::Greater,
            Operator::GtEq => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    /// None for a list.
    fn operator(self) -> Option<Operator> {
        Some(match self {
            Self::Equal => Operator::Eq,
            Self::Less => Operator::Lt,
            Self::LessOrEqual => Operator::LtEq,
            Self::Greater => Operator::Gt,
            Self::GreaterOrEqual => Operator::GtEq,
            Self::In => return None,
        })
    }
}

fn encode(constants: ArrayRef) -> Result<Vec<u8>> {
    let field = Field::new("constant", constants.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![constants])?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

fn decode(bytes: &[u8]) -> Result<ArrayRef> {
    // The library panics on streams that no process has sent. This decoder takes no memory for what one claims to hold.
    let batch = guarded(|| StreamDecoder::new().decode(&mut Buffer::from_slice_ref(bytes)));
    let batch = batch.transpose()?.flatten();
    let filled = batch.filter(|batch| batch.num_columns() == 1 && batch.num_rows() > 0);
    let batch = filled
        .ok_or_else(|| DataFusionError::Execution("a key filter has no constant".to_owned()))?;
    Ok(Arc::clone(batch.column(0)))
}

#[cfg(test)]
#[path = "filter/tests.rs"]
mod tests;
