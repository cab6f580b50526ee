// SPDX-License-Identifier: Apache-2.0
//! The key columns of a view.

use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use datafusion::physical_plan::aggregates::AggregateExec;

use super::{Named, logical::Analysed, to_surface};
use crate::{ViewError, sql_type};

/// One column of the key of a view's groups, in GROUP BY order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its name, the same in states, files and answers.
    pub name: String,
    /// Which output column it is.
    pub output_index: usize,
    /// Its type, the same in states, files and answers.
    pub data_type: DataType,
    /// Whether it can be NULL.
    pub nullable: bool,
}

/// The group expressions under their output names, in the types that outputs have, and what they are.
pub(super) fn key_columns(
    partial: &AggregateExec,
    analysed: &Analysed,
) -> Result<(Vec<Named>, Vec<KeyColumn>), ViewError> {
    let schema = partial.input().schema();
    let mut groups = Vec::new();
    let mut keys = Vec::new();
    for ((expr, _), output_index) in partial
        .group_expr()
        .expr()
        .iter()
        .zip(&analysed.key_outputs)
    {
        let output = &analysed.outputs[*output_index];
        let expr = to_surface(expr, &schema, &output.sql)?;
        let data_type = expr.data_type(&schema)?;
        if RowConverter::new(vec![SortField::new(data_type.clone())]).is_err() {
            return Err(ViewError::refused(
                &output.sql,
                format!(
                    "values of type {} cannot be sorted, so they cannot be a key",
                    sql_type(&data_type)
                ),
            ));
        }
        keys.push(KeyColumn {
            name: output.name.clone(),
            output_index: *output_index,
            data_type,
            nullable: expr.nullable(&schema)?,
        });
        groups.push((expr, output.name.clone()));
    }
    Ok((groups, keys))
}
