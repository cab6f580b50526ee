// SPDX-License-Identifier: Apache-2.0
//! Nodes of a plan in which columns stand beside each other without an expression: joins by USING, and UNIONs.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Join, JoinConstraint, LogicalPlan, Projection, Union,
};

use super::carried::numbers_of;
use super::meeting::{Kind, Meeting, Use, double, meeting};

/// `USING` pairs columns, and they are compared by no expression.
pub(super) fn joined(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let mut changed = false;
    for (left, right) in &mut join.on {
        let kinds = [
            kind_of_side(left, &join.left)?,
            kind_of_side(right, &join.right)?,
        ];
        let sides = [left, right].into_iter();
        match meeting(&kinds, Use::Compare) {
            Meeting::Unlike => {}
            Meeting::Decimals(decimals) => {
                for (side, decimal) in sides.zip(decimals) {
                    if let Some(decimal) = decimal {
                        *side = decimal.of(std::mem::take(side));
                        changed = true;
                    }
                }
            }
            Meeting::Doubles => {
                for (side, kind) in sides.zip(&kinds) {
                    if matches!(kind, Kind::Decimal(_)) {
                        *side = double(std::mem::take(side));
                        changed = true;
                    }
                }
            }
        }
    }
    if changed {
        // `USING` pairs nothing but columns.
        join.join_constraint = JoinConstraint::On;
    }
    Ok(Transformed::new_transformed(
        LogicalPlan::Join(join),
        changed,
    ))
}

/// A side of a pair, which stays an expression over the columns of `plan`.
fn kind_of_side(side: &Expr, plan: &LogicalPlan) -> Result<Kind> {
    let column = side.try_as_col();
    let column = column.and_then(|column| plan.schema().maybe_index_of_column(column));
    let numbers = column.and_then(|column| numbers_of(plan, column));
    Ok(match numbers.and_then(|numbers| numbers.places()) {
        Some(places) => Kind::Carried(places),
        None => Kind::of_type(&side.get_type(plan.schema())?),
    })
}

/// What the inputs of a UNION have in one column stands beside each other.
pub(super) fn united(mut union: Union) -> Result<Transformed<LogicalPlan>> {
    let mut changed = false;
    for column in 0..union.schema.fields().len() {
        let outputs = union
            .inputs
            .iter()
            .map(|input| kind_of_output(input, column));
        let kinds: Vec<Kind> = outputs.collect();
        let mut decimals = match meeting(&kinds, Use::Choose) {
            Meeting::Unlike => continue,
            Meeting::Decimals(decimals) => Some(decimals.into_iter()),
            Meeting::Doubles => None,
        };
        for (input, kind) in union.inputs.iter_mut().zip(&kinds) {
            let output = || Expr::from(input.schema().qualified_field(column));
            let output = match (&mut decimals, kind) {
                (Some(decimals), _) => decimals.next().flatten().map(|exact| exact.of(output())),
                (None, Kind::Decimal(_)) => Some(double(output())),
                (None, _) => None,
            };
            let Some(output) = output else { continue };
            *input = Arc::new(with_output(input, column, output)?);
            changed = true;
        }
    }
    if changed {
        union = Union::try_new_with_loose_types(union.inputs)?;
    }
    Ok(Transformed::new_transformed(
        LogicalPlan::Union(union),
        changed,
    ))
}

fn kind_of_output(plan: &LogicalPlan, column: usize) -> Kind {
    match numbers_of(plan, column) {
        Some(numbers) => Kind::of_numbers(&numbers),
        None => Kind::of_type(plan.schema().field(column).data_type()),
    }
}

/// `plan` with another output in the place of one, under its name.
pub(super) fn with_output(
    plan: &Arc<LogicalPlan>,
    column: usize,
    output: Expr,
) -> Result<LogicalPlan> {
    let outputs = plan.schema().iter().enumerate().map(|(index, field)| {
        if index == column {
            output
                .clone()
                .alias_qualified(field.0.cloned(), field.1.name())
        } else {
            Expr::from(field)
        }
    });
    let outputs = outputs.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(
        outputs,
        Arc::clone(plan),
    )?))
}
