// SPDX-License-Identifier: Apache-2.0
//! `+`, `-` and `*` of whole numbers and DECIMALs that are exact or an error: DataFusion's wrap around, or make a DECIMAL of
//! more digits than its type has, of which the last ones are lost where it is written. Also `/` of DECIMALs.
//!
//! Purpose: DataFusion 55.2 computes INT and BIGINT by kernels that wrap, and has a checked form only of physical
//! expressions, when constants are folded already; of DECIMALs it checks that 128 or 256 bits hold them, not the digits. So a tree
//! of operators becomes a function in the analysed plan, when all sides have one type or are DECIMALs. Invariants: columns
//! keep the names that they had; other types are left to DataFusion. Non-goals: division of whole numbers, which cannot
//! leave the type but for one value.

use std::sync::Arc;

use arrow::array::{AsArray as _, Datum};
use arrow::compute::kernels::numeric::{add, div, mul, sub};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal128Type, Decimal256Type,
    FieldRef,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue, exec_err, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use super::negated::Negated;
use super::rewriting::rewritten;
use crate::sql_type;

/// Makes the operators checked. It comes behind the coercion of types.
#[derive(Debug)]
pub struct CheckedNumbers;

impl AnalyzerRule for CheckedNumbers {
    fn name(&self) -> &'static str {
        "checked_numbers"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewritten(plan, |expr, schema| {
            expr.transform_down(|part| Ok(checked_part(part, schema)))
        })
    }
}

/// A tree of operators as one function, and `part` as it is otherwise.
fn checked_part(part: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let call = |function: ScalarUDF, arguments| {
        let call = ScalarFunction::new_udf(Arc::new(function), arguments);
        Transformed::yes(Expr::ScalarFunction(call))
    };
    if let Expr::Negative(number) = &part {
        let is_whole = number.get_type(schema).is_ok_and(|of| of.is_integer());
        return match part {
            Expr::Negative(number) if is_whole => call(Negated::new().into(), vec![*number]),
            part => Transformed::no(part),
        };
    }
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = &part else {
        return Transformed::no(part);
    };
    let types = [left, right].map(|side| side.get_type(schema));
    let result = match &types {
        [Ok(left), Ok(right)] if left == right && left.is_integer() && wraps(*op) => left.clone(),
        [Ok(left), Ok(right)]
            if left.is_decimal()
                && right.is_decimal()
                && (wraps(*op) || *op == Operator::Divide) =>
        {
            match part.get_type(schema) {
                Ok(
                    result @ (DataType::Decimal128(DECIMAL128_MAX_PRECISION, _)
                    | DataType::Decimal256(DECIMAL256_MAX_PRECISION, _)),
                ) => result,
                _ => return Transformed::no(part),
            }
        }
        _ => return Transformed::no(part),
    };
    let (function, leaves) = Checked::of(part, result);
    call(function.into(), leaves)
}

/// Whether the engine lets it wrap around.
pub(crate) fn wraps(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Plus | Operator::Minus | Operator::Multiply
    )
}

/// What is done next, behind what stands before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// Takes the next argument.
    Take,
    /// Puts a result in the place of the last two.
    Apply(Operator),
}

/// A tree of the operators over numbers of one type. All of it: a function for each operator would nest as deep as the
/// tree does, and a level of functions takes more of the stack than one of operators.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    /// With the operators, for plans.
    name: String,
    steps: Vec<Step>,
    /// The operators in the order in which they are written, one between each two leaves.
    written: Vec<Operator>,
    /// Its type.
    result: DataType,
    signature: Signature,
}

impl Checked {
    /// The tree of which `root` is the root, of type `result`, and its leaves. Coercion has given all of them the type of
    /// the root, or made them DECIMALs.
    fn of(root: Expr, result: DataType) -> (Self, Vec<Expr>) {
        enum Todo {
            Look(Expr),
            Apply(Operator),
        }
        let (mut steps, mut leaves) = (vec![], vec![]);
        // Of each result that waits, the operators in it as they are written.
        let mut waiting: Vec<Vec<Operator>> = vec![];
        let mut todo = vec![Todo::Look(root)];
        let is_decimal = result.is_decimal();
        let is_part = |operator| wraps(operator) || (is_decimal && operator == Operator::Divide);
        while let Some(next) = todo.pop() {
            match next {
                Todo::Look(Expr::BinaryExpr(BinaryExpr { left, op, right })) if is_part(op) => {
                    todo.push(Todo::Apply(op));
                    todo.push(Todo::Look(*right));
                    todo.push(Todo::Look(*left));
                }
                Todo::Look(leaf) => {
                    leaves.push(leaf);
                    steps.push(Step::Take);
                    waiting.push(vec![]);
                }
                Todo::Apply(operator) => {
                    steps.push(Step::Apply(operator));
                    let right = waiting.pop().unwrap_or_default();
                    if let Some(left) = waiting.last_mut() {
                        left.push(operator);
                        left.extend(right);
                    }
                }
            }
        }
        let written = waiting.pop().unwrap_or_default();
        let signature = Signature::any(leaves.len(), Volatility::Immutable);
        let mut function = Self {
            name: String::new(),
            steps,
            written,
            result,
            signature,
        };
        let places = leaves.iter().map(|_| "_".to_owned());
        if let Ok(tree) = function.shown(places) {
            function.name = format!("checked[{tree}]");
        }
        (function, leaves)
    }

    /// The result of all steps, of which `apply` does one.
    fn run<T>(
        &self,
        arguments: impl IntoIterator<Item = T>,
        mut apply: impl FnMut(Operator, T, T) -> Result<T>,
    ) -> Result<T> {
        let mut arguments = arguments.into_iter();
        let mut results: Vec<T> = vec![];
        for step in &self.steps {
            let next = match step {
                Step::Take => arguments.next(),
                Step::Apply(operator) => match (results.pop(), results.pop()) {
                    (Some(right), Some(left)) => Some(apply(*operator, left, right)?),
                    _ => None,
                },
            };
            results.extend(next);
        }
        match (results.pop(), &results[..]) {
            (Some(result), []) => Ok(result),
            _ => internal_err!("the arguments are not those of the operators"),
        }
    }
}

impl Checked {
    /// The tree over `leaves`, with the parentheses that it needs.
    fn shown(&self, leaves: impl IntoIterator<Item = String>) -> Result<String> {
        let binds = |operator: Operator| {
            i32::from(matches!(operator, Operator::Multiply | Operator::Divide))
        };
        let side = |(text, of): (String, Option<Operator>), least: i32| match of {
            Some(of) if binds(of) < least => format!("({text})"),
            _ => text,
        };
        let leaves = leaves.into_iter().map(|leaf| (leaf, None));
        let shown = self.run(leaves, |operator, left, right| {
            let left = side(left, binds(operator));
            let right = side(right, binds(operator) + 1);
            Ok((format!("{left} {operator} {right}"), Some(operator)))
        });
        Ok(shown?.0)
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        &self.name
    }

    // As of the operators, which stand in the statement.
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        self.shown(args.iter().map(|leaf| leaf.human_display().to_string()))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let mut name = String::new();
        for (place, leaf) in args.iter().enumerate() {
            if let Some(operator) = place.checked_sub(1).and_then(|at| self.written.get(at)) {
                name += &format!(" {operator} ");
            }
            name += &leaf.schema_name().to_string();
        }
        Ok(name)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let is_one =
            |of: &DataType| *of == self.result || (of.is_decimal() && self.result.is_decimal());
        match types.iter().all(is_one) {
            true => Ok(self.result.clone()),
            false => internal_err!("checked operators take numbers of one type, not {types:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let data_type = args.return_field.data_type();
        let leaves = match data_type {
            of if of.is_decimal() => args.args.iter().zip(&args.arg_fields).map(leaf).collect(),
            _ => vec![],
        };
        let computed = self.run(args.args, |operator, left, right| {
            apply(operator, &left, &right).map_err(|error| outside(error, data_type))
        })?;
        if computed.data_type() != *data_type {
            return internal_err!("{} instead of {data_type}", computed.data_type());
        }
        check_digits(&computed, || self.shown(leaves))?;
        Ok(computed)
    }
}

/// Whether DECIMALs have no more digits than their type; `tree` is what they were computed by.
///
/// # Errors
/// When one has.
pub(crate) fn check_digits(
    values: &ColumnarValue,
    tree: impl FnOnce() -> Result<String>,
) -> Result<()> {
    let data_type = values.data_type();
    // A constant as one row.
    let decimals = || values.to_array(1);
    let (digits, fits, wider) = match data_type {
        DataType::Decimal128(digits, _) => {
            let decimals = decimals()?;
            let decimals = decimals.as_primitive::<Decimal128Type>();
            let fits = decimals.validate_decimal_precision(digits);
            (digits, fits, "CAST(… AS DECIMAL(50, …)), or with ")
        }
        DataType::Decimal256(digits, _) => {
            let decimals = decimals()?;
            let decimals = decimals.as_primitive::<Decimal256Type>();
            (digits, decimals.validate_decimal_precision(digits), "")
        }
        _ => return Ok(()),
    };
    if fits.is_ok() {
        return Ok(());
    }
    exec_err!(
        "`{}` does not fit the {digits} digits of {}: compute with {wider}CAST(… AS DOUBLE)",
        tree()?,
        sql_type(&data_type)
    )
}

/// What an operator is applied to, for people.
fn leaf((value, field): (&ColumnarValue, &FieldRef)) -> String {
    let constant = match value {
        ColumnarValue::Scalar(value) => value.to_array().ok(),
        ColumnarValue::Array(_) => None,
    };
    let constant = constant.and_then(|one| array_value_to_string(&one, 0).ok());
    constant.unwrap_or_else(|| field.name().clone())
}

fn apply(
    operator: Operator,
    left: &ColumnarValue,
    right: &ColumnarValue,
) -> Result<ColumnarValue, DataFusionError> {
    let compute = |left: &dyn Datum, right: &dyn Datum| match operator {
        Operator::Plus => add(left, right),
        Operator::Minus => sub(left, right),
        Operator::Divide => div(left, right),
        _ => mul(left, right),
    };
    let computed = match (left, right) {
        (ColumnarValue::Array(left), ColumnarValue::Array(right)) => compute(left, right),
        (ColumnarValue::Array(left), ColumnarValue::Scalar(right)) => {
            compute(left, &right.to_scalar()?)
        }
        (ColumnarValue::Scalar(left), ColumnarValue::Array(right)) => {
            compute(&left.to_scalar()?, right)
        }
        (ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)) => {
            let one = compute(&left.to_scalar()?, &right.to_scalar()?)?;
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&one, 0)?));
        }
    };
    Ok(ColumnarValue::Array(computed?))
}

/// That a result is none of its type, which is of whole numbers: DECIMALs have their words. Arrow says which numbers they are.
fn outside(error: DataFusionError, data_type: &DataType) -> DataFusionError {
    if !data_type.is_integer() {
        return error;
    }
    let said = match &error {
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::ArithmeticOverflow(said) => said,
            _ => return error,
        },
        _ => return error,
    };
    let (_, numbers) = said.rsplit_once(": ").unwrap_or(("", said));
    let wider = match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "BIGINT",
        _ => "DECIMAL(38, 0)",
    };
    DataFusionError::Execution(format!(
        "`{numbers}` does not fit {}: compute with CAST(… AS {wider}), or with CAST(… AS DOUBLE)",
        sql_type(data_type)
    ))
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::words_of;

    const ROWS: &str = "(SELECT CAST(column1 AS INT) AS i, CAST(column2 AS BIGINT) AS l, CAST(column3 AS INT) AS k
        FROM (VALUES (2147483647, 9223372036854775807, 2), (-2147483648, -9223372036854775808, 3), (7, NULL, NULL))) AS t";

    async fn ask(sql: &str, checked: bool) -> Result<String> {
        let builder = SessionStateBuilder::new().with_default_features();
        let builder = match checked {
            true => builder.with_analyzer_rule(Arc::new(CheckedNumbers)),
            false => builder,
        };
        let context = SessionContext::new_with_state(builder.build());
        let answer = context.sql(sql).await?.collect().await?;
        Ok(arrow::util::pretty::pretty_format_batches(&answer)?.to_string())
    }

    #[tokio::test]
    async fn a_number_outside_of_its_type_is_an_error_wherever_it_is_computed() {
        for (sql, said) in [
            (
                "SELECT i + k FROM {t}",
                "`2147483647 + 2` does not fit INT: compute with CAST(… AS BIGINT)",
            ),
            (
                "SELECT -l FROM {t}",
                "`-(-9223372036854775808)` does not fit BIGINT: compute with CAST(… AS DECIMAL(38, 0))",
            ),
            (
                "SELECT -min(i) FROM {t}",
                "`-(-2147483648)` does not fit INT: compute with CAST(… AS BIGINT)",
            ),
            (
                "SELECT i FROM {t} WHERE CASE WHEN -l > 0 THEN true END",
                "`-(-9223372036854775808)` does not fit BIGINT",
            ),
            (
                "SELECT CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)) + 1",
                "`99999999999999999999999999999999999999 + 1` does not fit the 38 digits of DECIMAL(38, 0): compute with CAST(… AS DECIMAL(50, …))",
            ),
            (
                "SELECT CAST('-99999999999999999999999999999999999999' AS DECIMAL(38, 0)) - CAST(k AS DECIMAL(38, 0)) FROM {t}",
                "does not fit the 38 digits",
            ),
            (
                "SELECT CAST('15000000000000000000' AS DECIMAL(20, 0)) * CAST('9000000000000000000' AS DECIMAL(19, 0))",
                "does not fit the 38 digits",
            ),
            (
                "SELECT count(*) FROM {t} GROUP BY CAST('9999999999999999999999999999999999999.9' AS DECIMAL(38, 1)) + CAST(k AS DECIMAL(2, 1))",
                "does not fit the 38 digits",
            ),
            (
                "SELECT CAST('10000000000000000000000000000000000' AS DECIMAL(38, 0)) / CAST(0.0001 AS DECIMAL(4, 4))",
                "does not fit",
            ),
            (
                "SELECT CAST('9999999999999999999999999999999999999999999999999999999999999999999999999999' AS DECIMAL(76, 0)) + CAST(k AS DECIMAL(76, 0)) FROM {t}",
                "does not fit the 76 digits of DECIMAL(76, 0): compute with CAST(… AS DOUBLE)",
            ),
            (
                "SELECT -CAST('9999999999999999999999999999999999999999999999999999999999999999999999999999' AS DECIMAL(76, 0)) - 1",
                "does not fit the 76 digits",
            ),
            (
                "SELECT CAST('3000000000000000000000000000000000000' AS DECIMAL(50, 0)) * CAST('5000000000000000000000000000000000000000' AS DECIMAL(50, 0))",
                "does not fit the 76 digits",
            ),
            (
                "SELECT i * i FROM {t}",
                "`2147483647 * 2147483647` does not fit INT",
            ),
            (
                "SELECT i - k FROM {t} WHERE i < 0",
                "`-2147483648 - 3` does not fit INT",
            ),
            (
                "SELECT l + 1 FROM {t}",
                "`9223372036854775807 + 1` does not fit BIGINT: compute with CAST(… AS DECIMAL(38, 0))",
            ),
            ("SELECT 1 + l FROM {t}", "does not fit BIGINT"),
            ("SELECT 9223372036854775807 + 1", "does not fit BIGINT"),
            ("SELECT sum(i * k) FROM {t}", "does not fit INT"),
            (
                "SELECT count(*) FROM {t} GROUP BY i * k",
                "does not fit INT",
            ),
            ("SELECT i FROM {t} WHERE i * k > 5", "does not fit INT"),
            ("SELECT i FROM {t} ORDER BY i * k", "does not fit INT"),
            ("SELECT max(l) * 2 FROM {t}", "does not fit BIGINT"),
            (
                "SELECT sum(k) OVER (ORDER BY i * k) FROM {t}",
                "does not fit INT",
            ),
            ("SELECT (SELECT max(l) + 1 FROM {t})", "does not fit BIGINT"),
            (
                "WITH t AS (SELECT * FROM {t}) SELECT a.i FROM t a JOIN t b ON a.i * a.k = b.i * b.k",
                "does not fit INT",
            ),
        ] {
            let sql = sql.replace("{t}", ROWS);
            let error = ask(&sql, true).await.unwrap_err();
            assert!(words_of(&error).contains(said), "{sql}: {error}");
        }
    }

    #[tokio::test]
    async fn a_plan_shows_the_operators_as_they_were_written() {
        let sql = format!("EXPLAIN SELECT (k + 1) * (k - (l - 2)) + k * l FROM {ROWS}");
        let plan = ask(&sql, true).await.unwrap();
        assert!(
            plan.contains("checked[(_ + _) * (_ - (_ - _)) + _ * _]("),
            "{plan}"
        );
    }

    #[tokio::test]
    async fn what_fits_is_the_same_under_the_same_names() {
        for sql in [
            "SELECT i, k, k + 1, k - l % 10, k * 3 + 2 * (k - 1), -k * 2, k + 1.5, CAST(k AS DECIMAL(5, 1)) * 2, CAST(i AS BIGINT) * k FROM {t}",
            "SELECT k * 2, count(*), sum(k * 2 + 1) FROM {t} GROUP BY k * 2 ORDER BY k * 2",
            "SELECT k + 1 AS a FROM {t} WHERE k + 1 > 2 ORDER BY 1",
            "SELECT CASE WHEN k < 3 THEN k + 1 ELSE 0 END, coalesce(k - 5, 0) FROM {t}",
            "SELECT DATE '2001-01-01' + INTERVAL '1' DAY, TIMESTAMP '2001-01-01' - INTERVAL '2' HOUR",
            "SELECT * FROM {t} WHERE k IN (SELECT k * 1 FROM {t})",
            "SELECT a + b, a - b - a, a * 2, a / b - 1, -a, sum(a + b), (a + b) * 2 / b, b + CAST(1 AS DECIMAL(38, 0)) FROM (SELECT CAST(k AS DECIMAL(70, 2)) AS a, CAST(i AS DECIMAL(60, 1)) AS b FROM {t}) GROUP BY a, b ORDER BY a + b",
            "SELECT 1 + 1 LIMIT 1 + 1",
            "SELECT -k, -(k + 1), count(*), sum(-k) FROM {t} GROUP BY -k, -(k + 1) ORDER BY -k",
            "SELECT a + b, a - b - a, a * b, (a + b) * 2 / b, a / b - 1, a % b, -a, sum(a + b), count(*) FROM (SELECT CAST(k AS DECIMAL(30, 2)) AS a, CAST(i AS DECIMAL(38, 1)) AS b FROM {t}) GROUP BY a, b ORDER BY a + b",
            "SELECT (k + 1) * (k - 2) - (k - (k - 1)) * 3 AS a, k - 1 - 1 AS b, k - (1 - 1) AS c FROM {t}",
        ] {
            let sql = sql.replace("{t}", ROWS);
            let (ours, theirs) = (ask(&sql, true).await, ask(&sql, false).await);
            assert_eq!(ours.unwrap(), theirs.unwrap(), "{sql}");
        }
    }
}
