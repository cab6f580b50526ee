// SPDX-License-Identifier: Apache-2.0
//! Numbers that do not fit the DECIMAL that they are to be, and what else a calculation fails on.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable as _, LogicalPlan, Operator};

use super::bare;
use super::integers::no_such_integer;
use super::typed::with_sql_types;
use crate::functions::{digits_of_call, schema_read};
use crate::sql_type;

/// More of them than that do not tell which one it was.
const NAMED: usize = 3;
/// Characters of one that are shown.
const SHOWN: usize = 200;

/// What of a plan may fail on a value, as it is written: casts to DECIMAL, calculations, and aggregates of DISTINCT values, which
/// the engine has other names for. To be taken before the plan is optimized.
#[derive(Debug, Clone, Default)]
pub struct Calculations {
    casts: Vec<(DataType, String)>,
    decimals: Vec<(Operator, String)>,
    /// Of times, one from the other.
    differences: Vec<String>,
    /// By what may be zero, and then is none of the type.
    divisions: Vec<String>,
    /// By the names of their functions.
    distinct: Vec<(String, String)>,
}

impl Calculations {
    /// Those of a plan and its subqueries.
    ///
    /// # Errors
    /// When the plan cannot be read.
    pub fn of_plan(plan: &LogicalPlan) -> Result<Self> {
        let mut all = Self::default();
        plan.apply_with_subqueries(|node| {
            let schema = schema_read(node)?;
            node.apply_expressions(|expr| {
                expr.apply(|part| {
                    all.add(part, &schema);
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(all)
    }

    fn add(&mut self, part: &Expr, schema: &DFSchema) {
        match part {
            Expr::Cast(Cast { expr, field }) if field.data_type().is_decimal() => {
                let to = field.data_type();
                let written = format!("CAST({} AS {})", shown(expr), sql_type(to));
                self.casts.push((to.clone(), written));
            }
            Expr::BinaryExpr(BinaryExpr { op, .. }) => {
                let Ok(data_type) = part.get_type(schema) else {
                    return;
                };
                let is_division = matches!(op, Operator::Divide | Operator::Modulo);
                if is_division && !data_type.is_floating() {
                    self.divisions.push(shown(part));
                }
                match data_type {
                    of if of.is_decimal() => self.decimals.push((*op, shown(part))),
                    DataType::Duration(_) | DataType::Interval(_) if *op == Operator::Minus => {
                        self.differences.push(shown(part));
                    }
                    _ => {}
                }
            }
            Expr::AggregateFunction(call) if call.params.distinct => {
                self.distinct
                    .push((call.func.name().to_owned(), shown(part)));
            }
            _ => {}
        }
    }

    /// The error of computing the plan, with what it may be about where it is one of these.
    pub fn named(&self, error: DataFusionError) -> DataFusionError {
        let text = bare(&error);
        let said = self
            .divided(&text)
            .or_else(|| self.apart(&text))
            .or_else(|| self.of_distinct(&text))
            .or_else(|| self.decimal(&text));
        said.map_or(error, DataFusionError::Execution)
    }

    fn divided(&self, text: &str) -> Option<String> {
        if !text.eq_ignore_ascii_case("divide by zero error") {
            return None;
        }
        let divided = named(self.divisions.iter()).map(|divided| format!(": {divided}"));
        Some(format!(
            "divide by zero{}; write nullif(…, 0) for the divisor, which makes NULL of it, or leave such rows out",
            divided.unwrap_or_default()
        ))
    }

    /// Of times that are too far apart.
    fn apart(&self, text: &str) -> Option<String> {
        let is_minus = |operator: &Operator| *operator == Operator::Minus;
        let may_be_decimal = self.decimals.iter().any(|(operator, _)| is_minus(operator));
        if !operator_of(text).is_some_and(|operator| is_minus(&operator)) || may_be_decimal {
            return None;
        }
        let difference = named(self.differences.iter())?;
        Some(format!(
            "{difference} does not fit an INTERVAL: the times are too far apart for it; leave such rows out, or count in seconds, as in to_unixtime(…) - to_unixtime(…)"
        ))
    }

    /// Of `sum(DISTINCT x)`, which is computed as the sum of a column `alias1`.
    fn of_distinct(&self, text: &str) -> Option<String> {
        let (function, rest) = text.strip_prefix('`')?.split_once("(alias1)`")?;
        let of_it = self.distinct.iter().filter(|(name, _)| name == function);
        let written = named(of_it.map(|(_, shown)| shown))?;
        Some(format!("{written}{rest}"))
    }

    fn decimal(&self, text: &str) -> Option<String> {
        let said = does_not_fit(text)?;
        let named = match (type_of(text), operator_of(text)) {
            (Some(data_type), _) => {
                let casts = self.casts.iter().filter(|(to, _)| *to == data_type);
                named(casts.map(|(_, shown)| shown))
            }
            (None, Some(operator)) => {
                let of_it = self.decimals.iter().filter(|(op, _)| *op == operator);
                named(of_it.map(|(_, shown)| shown))
            }
            (None, None) => None,
        };
        Some(format!("{} cannot be computed: {said}", named?))
    }
}

/// One of these, if they are few.
fn named<'a>(parts: impl Iterator<Item = &'a String>) -> Option<String> {
    let parts: BTreeSet<&String> = parts.collect();
    if parts.is_empty() || parts.len() > NAMED {
        return None;
    }
    let parts = parts.iter().map(|part| format!("`{part}`"));
    Some(parts.collect::<Vec<_>>().join(" or "))
}

fn shown(part: &Expr) -> String {
    let is_long = part.exists(|part| Ok(short_number(part).is_some()));
    let shown = match is_long {
        Ok(true) => written(&with_short_numbers(part)),
        _ => written(part),
    };
    let shown = with_sql_types(&shown);
    match shown.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// A calculation with the parentheses that it needs, which the engine's own display leaves out.
fn written(part: &Expr) -> String {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part else {
        return part.human_display().to_string();
    };
    let side = |side: &Expr, least: u8| match side {
        Expr::BinaryExpr(inner) if inner.op.precedence() < least => format!("({})", written(side)),
        side => written(side),
    };
    let own = op.precedence();
    format!("{} {op} {}", side(left, own), side(right, own + 1))
}

fn with_short_numbers(part: &Expr) -> Expr {
    let short = part.clone().transform_up(|part| {
        Ok(match short_number(&part) {
            // The name is all that is shown of it.
            Some(number) => Transformed::yes(part.alias(number)),
            None => Transformed::no(part),
        })
    });
    short.map_or_else(|_| part.clone(), |short| short.data)
}

/// A number whose digits, or what they are marked with, would hide all else: as one would write it.
fn short_number(part: &Expr) -> Option<String> {
    const LONG: f64 = 1e21;
    match part {
        Expr::Literal(ScalarValue::Float64(Some(number)), _) if number.abs() >= LONG => {
            Some(format!("{number:e}"))
        }
        part => digits_of_call(part).map(str::to_owned),
    }
}

/// The DECIMAL that something does not fit.
fn type_of(text: &str) -> Option<DataType> {
    if let Some((_, rest)) = text.split_once("Cannot cast to ") {
        return rest.split_once(". Overflowing on ")?.0.parse().ok();
    }
    let (_, precision, scale) = value_of(text)?;
    let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    Some(match precision {
        ..=38 => DataType::Decimal128(precision, scale),
        _ => DataType::Decimal256(precision, scale),
    })
}

fn operator_of(text: &str) -> Option<Operator> {
    let (_, numbers) = text.split_once("Overflow happened on: ")?;
    let (_, rest) = numbers.split_once(' ')?;
    Some(match rest.split_once(' ')?.0 {
        "*" => Operator::Multiply,
        "+" => Operator::Plus,
        "-" => Operator::Minus,
        "/" => Operator::Divide,
        "%" => Operator::Modulo,
        _ => return None,
    })
}

/// What does not fit, and a type that may hold it. Arrow names neither the expression nor, of a DECIMAL that is cast or computed
/// with, where the point is.
pub(super) fn does_not_fit(text: &str) -> Option<String> {
    of_cast(text)
        .or_else(|| of_value(text))
        .or_else(|| of_text(text))
        .or_else(|| of_arithmetic(text))
}

/// `Cannot cast to Decimal128(5, 2). Overflowing on 123456`: of a DOUBLE the number, of a DECIMAL its digits.
fn of_cast(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Cannot cast to ")?;
    let (data_type, value) = rest.split_once(". Overflowing on ")?;
    let (precision, scale) = parts_of_decimal(data_type)?;
    let is_number = value.contains(['e', '.']);
    let places = if is_number {
        places_before(value)
    } else {
        None
    };
    let value = match is_number {
        true => format!("`{value}`"),
        false => format!("a number with the digits {value}"),
    };
    Some(format!(
        "{value} does not fit {}, which it is cast to: {}",
        with_sql_types(data_type),
        way_out(precision, scale, places)
    ))
}

fn of_value(text: &str) -> Option<String> {
    let (value, precision, scale) = value_of(text)?;
    Some(format!(
        "`{value}` does not fit DECIMAL({precision}, {scale}): {}",
        way_out(precision, scale, places_before(value))
    ))
}

/// `Cannot cast string '1e400' to value of Decimal128(38, 10) type`, whatever digits the type has.
fn of_text(text: &str) -> Option<String> {
    let rest = text.strip_prefix("Cannot cast string '")?;
    let (value, data_type) = rest.rsplit_once("' to value of ")?;
    parts_of_decimal(data_type.strip_suffix(" type")?)?;
    Some(format!(
        "`'{value}'` is no number, or none that fits the DECIMAL which it is cast to: leave such rows out, or write CAST(… AS DOUBLE)"
    ))
}

/// `1234.56 is too large to store in a Decimal128 of precision 5. Max is 999.99`: the value, and the type's digits.
fn value_of(text: &str) -> Option<(&str, usize, usize)> {
    let (before, rest) = ["large", "small"]
        .iter()
        .find_map(|size| text.split_once(&format!(" is too {size} to store in a Decimal")))?;
    let value = before.rsplit(' ').next()?;
    let (_, precision) = rest.split_once(" of precision ")?;
    let precision = precision.split('.').next()?.parse().ok()?;
    let scale = value.split_once('.').map_or(0, |(_, behind)| behind.len());
    Some((value, precision, scale))
}

/// `Overflow happened on: 123 * 456`, each the digits of a DECIMAL, or in a predicate a whole number.
fn of_arithmetic(text: &str) -> Option<String> {
    let (_, digits) = text.split_once("Overflow happened on: ")?;
    if no_such_integer(text).is_some() {
        return None;
    }
    Some(format!(
        "a calculation does not fit the most digits that its type has (of the numbers with the digits {digits}): compute with CAST(… AS DECIMAL(50, …)), as an expression has room for 76 digits, or with CAST(… AS DOUBLE)"
    ))
}

/// The numbers in `Decimal128(5, 2)`.
fn parts_of_decimal(data_type: &str) -> Option<(usize, usize)> {
    let (_, parts) = data_type.strip_prefix("Decimal")?.split_once('(')?;
    let (precision, scale) = parts.strip_suffix(')')?.split_once(", ")?;
    Some((precision.parse().ok()?, scale.parse().ok()?))
}

/// Digits before the point of a number.
fn places_before(value: &str) -> Option<usize> {
    let value = format!("{:e}", value.parse::<f64>().ok()?);
    let (_, exponent) = value.split_once('e')?;
    usize::try_from(exponent.parse::<i64>().ok()? + 1).ok()
}

/// What to write for a number with so many digits before the point, if they are known.
fn way_out(precision: usize, scale: usize, places: Option<usize>) -> String {
    const WIDEST: usize = 76;
    let holds = |wide: usize| wide > precision && places.is_none_or(|n| n + scale <= wide);
    if let Some(wide) = [38, WIDEST].into_iter().find(|wide| holds(*wide)) {
        return format!("write CAST(… AS DECIMAL({wide}, {scale})), or CAST(… AS DOUBLE)");
    }
    match places {
        Some(places) if places > WIDEST => {
            format!("no DECIMAL has as many digits, {WIDEST} are the most: write CAST(… AS DOUBLE)")
        }
        _ => "leave it fewer digits behind the point, or write CAST(… AS DOUBLE)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named_with_a_way_out() {
        for (said, words) in [
            (
                "Cannot cast to Decimal128(10, 2). Overflowing on 1e300",
                "`1e300` does not fit DECIMAL(10, 2), which it is cast to: no DECIMAL has as many digits, 76 are the most: write CAST(… AS DOUBLE)",
            ),
            (
                "Cannot cast to Decimal128(10, 2). Overflowing on -1e35",
                "`-1e35` does not fit DECIMAL(10, 2), which it is cast to: write CAST(… AS DECIMAL(38, 2)), or CAST(… AS DOUBLE)",
            ),
            (
                "Cannot cast to Decimal128(38, 2). Overflowing on 1e40",
                "`1e40` does not fit DECIMAL(38, 2), which it is cast to: write CAST(… AS DECIMAL(76, 2)), or CAST(… AS DOUBLE)",
            ),
            (
                "Cannot cast to Decimal128(38, 10). Overflowing on 1e70",
                "`1e70` does not fit DECIMAL(38, 10), which it is cast to: leave it fewer digits behind the point, or write CAST(… AS DOUBLE)",
            ),
            (
                "Cannot cast to Decimal128(38, 38). Overflowing on 170141183460469231731687303715884105727",
                "a number with the digits 170141183460469231731687303715884105727 does not fit DECIMAL(38, 38), which it is cast to: write CAST(… AS DECIMAL(76, 38)), or CAST(… AS DOUBLE)",
            ),
            (
                "Cannot cast string '1e400' to value of Decimal128(38, 10) type",
                "`'1e400'` is no number, or none that fits the DECIMAL which it is cast to: leave such rows out, or write CAST(… AS DOUBLE)",
            ),
            (
                "-1234.56 is too small to store in a Decimal128 of precision 5. Min is -999.99",
                "`-1234.56` does not fit DECIMAL(5, 2): write CAST(… AS DECIMAL(38, 2)), or CAST(… AS DOUBLE)",
            ),
            (
                "7 is too large to store in a Decimal256 of precision 76. Max is 9",
                "`7` does not fit DECIMAL(76, 0): leave it fewer digits behind the point, or write CAST(… AS DOUBLE)",
            ),
        ] {
            assert_eq!(does_not_fit(said).as_deref(), Some(words));
        }
        let product = does_not_fit("Arithmetic overflow: Overflow happened on: 12 * 34");
        assert!(product.is_some_and(|words| words.contains("the digits 12 * 34)")));
        for other in [
            "Cannot cast to Interval(MonthDayNano). Overflowing on 5",
            "Overflow happened on: - -9223372036854775808",
            "Cannot cast string 'x' to value of Int32 type",
            "Divide by zero error",
        ] {
            assert_eq!(does_not_fit(other), None, "{other}");
        }
    }
}
