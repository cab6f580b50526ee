// SPDX-License-Identifier: Apache-2.0
//! Expressions that stand beside each other: values, and rows and lists cell by cell.

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Expr, ExprSchemable};

use super::carried::Reads;
use super::meeting::{Exact, Kind, Meeting, Use, double, meeting};

/// Functions that put their arguments side by side: two of them are compared argument by argument.
const COMPOSERS: [&str; 3] = ["make_array", "named_struct", "struct"];

/// The parts with one type where a DECIMAL is among them: its own and that of the numbers, or DOUBLE.
pub(super) fn together<P>(mut parts: P, used: Use, reads: &Reads) -> Transformed<P>
where
    P: AsMut<[Expr]> + AsRef<[Expr]>,
{
    if let Some(width) = width_of_rows(parts.as_ref()) {
        let mut changed = false;
        for column in 0..width {
            let cells: Vec<Expr> = parts
                .as_mut()
                .iter_mut()
                .map(|row| cell(row, column))
                .collect();
            let cells = together(cells, used, reads);
            changed |= cells.transformed;
            for (row, part) in parts.as_mut().iter_mut().zip(cells.data) {
                if let Expr::ScalarFunction(row) = row {
                    row.args[column] = part;
                }
            }
        }
        return Transformed::new_transformed(parts, changed);
    }
    if let Some(nested) = nested_type(parts.as_ref(), reads) {
        let each = parts.as_mut().iter_mut();
        let changed = each.map(|part| fitted(part, &nested, used, reads));
        let changed = changed.fold(false, |any, one| any | one);
        return Transformed::new_transformed(parts, changed);
    }
    let kinds: Vec<Kind> = parts
        .as_ref()
        .iter()
        .map(|part| Kind::of(part, reads))
        .collect();
    match meeting(&kinds, used) {
        Meeting::Unlike => Transformed::no(parts),
        Meeting::Decimals(decimals) => with_decimals(parts, decimals),
        Meeting::Doubles => as_doubles(parts, &kinds),
    }
}

/// How many cells each of the parts has, if they are rows or lists that are written out, and have as many.
fn width_of_rows(parts: &[Expr]) -> Option<usize> {
    let width = |part: &Expr| match part {
        Expr::ScalarFunction(call) if COMPOSERS.contains(&call.func.name()) => {
            Some(call.args.len())
        }
        _ => None,
    };
    let first = width(parts.first()?)?;
    parts
        .iter()
        .all(|part| width(part) == Some(first))
        .then_some(first)
}

/// A cell, taken out of its row.
fn cell(row: &mut Expr, column: usize) -> Expr {
    match row {
        Expr::ScalarFunction(row) => std::mem::take(&mut row.args[column]),
        _ => Expr::default(),
    }
}

fn with_decimals<P: AsMut<[Expr]>>(mut parts: P, decimals: Vec<Option<Exact>>) -> Transformed<P> {
    let changed = decimals.iter().any(Option::is_some);
    for (part, decimal) in parts.as_mut().iter_mut().zip(decimals) {
        if let Some(decimal) = decimal {
            *part = decimal.of(std::mem::take(part));
        }
    }
    Transformed::new_transformed(parts, changed)
}

fn as_doubles<P: AsMut<[Expr]>>(mut parts: P, kinds: &[Kind]) -> Transformed<P> {
    for (part, kind) in parts.as_mut().iter_mut().zip(kinds) {
        if matches!(kind, Kind::Decimal(_)) {
            *part = double(std::mem::take(part));
        }
    }
    Transformed::yes(parts)
}

/// The type of rows or lists that are not written out, where others are that stand beside them.
fn nested_type(parts: &[Expr], reads: &Reads) -> Option<DataType> {
    if !parts.iter().any(is_composed) {
        return None;
    }
    let others = parts.iter().filter(|part| !is_composed(part));
    let mut types = others.filter_map(|part| part.get_type(reads.schema()).ok());
    types.find(DataType::is_nested)
}

fn is_composed(part: &Expr) -> bool {
    matches!(part, Expr::ScalarFunction(call) if COMPOSERS.contains(&call.func.name()))
}

/// Makes DECIMALs of the numbers in `part`, which stands beside a value of `data_type`, where that has them. Whether there
/// are some.
fn fitted(part: &mut Expr, data_type: &DataType, used: Use, reads: &Reads) -> bool {
    if data_type.is_decimal() {
        let kinds = [Kind::of_type(data_type), Kind::of(part, reads)];
        return match meeting(&kinds, used) {
            Meeting::Decimals(decimals) => {
                let decimal = decimals.into_iter().flatten().next();
                let changed = decimal.is_some();
                if let Some(decimal) = decimal {
                    *part = decimal.of(std::mem::take(part));
                }
                changed
            }
            // The other one cannot become a DOUBLE by itself.
            Meeting::Unlike | Meeting::Doubles => false,
        };
    }
    let Expr::ScalarFunction(call) = part else {
        return false;
    };
    let mut changed = false;
    match (call.func.name(), data_type) {
        ("make_array", DataType::List(item)) => {
            for cell in &mut call.args {
                changed |= fitted(cell, item.data_type(), used, reads);
            }
        }
        ("struct", DataType::Struct(fields)) => {
            for (cell, field) in call.args.iter_mut().zip(fields) {
                changed |= fitted(cell, field.data_type(), used, reads);
            }
        }
        ("named_struct", DataType::Struct(fields)) => {
            for (index, pair) in call.args.chunks_exact_mut(2).enumerate() {
                if let [name, cell] = pair
                    && let Some(field) = named(name, fields).or_else(|| fields.get(index))
                {
                    changed |= fitted(cell, field.data_type(), used, reads);
                }
            }
        }
        _ => {}
    }
    changed
}

fn named<'a>(name: &Expr, fields: &'a [FieldRef]) -> Option<&'a FieldRef> {
    match name {
        Expr::Literal(ScalarValue::Utf8(Some(name)), _) => {
            fields.iter().find(|field| field.name() == name)
        }
        _ => None,
    }
}
