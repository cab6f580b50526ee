// SPDX-License-Identifier: Apache-2.0
//! One zero and one NaN, where values are told apart.
//!
//! Purpose: DataFusion 55.2 groups `-0.0` with `0.0`, but not within a STRUCT or LIST, and takes each of the bit patterns
//! that are no number for a value of its own: `0.0 / 0.0` has another one than a NaN that was read. So what groups, joins
//! and DISTINCT compare becomes, in the analysed plan, the value that all of its kind are. Invariants: columns keep the
//! names that they had; what has no floats is left as it is. Non-goals: order, where `-0.0` lies below `0.0`; numbers
//! compared with constants, which are zeros alike and never NaN.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array as _, ArrayRef, ArrowPrimitiveType, AsArray as _, FixedSizeListArray, GenericListArray,
    OffsetSizeTrait, StructArray,
};
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{
    Transformed, TreeNode as _, TreeNodeContainer as _, TreeNodeIterator as _,
};
use datafusion::common::utils::take_function_args;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Distinct, Expr, ExprSchemable as _, LogicalPlan, LogicalPlanBuilder,
    Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use super::rewriting::{rewritten_reading, schema_read};

/// Makes what is told apart one where it is one. It comes behind the coercion of types.
#[derive(Debug)]
pub struct SameNumbers;

impl AnalyzerRule for SameNumbers {
    fn name(&self) -> &'static str {
        "same_numbers"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let reads = |node: &LogicalPlan| Ok((tells_apart(node), schema_read(node)?));
        let plan = rewritten_reading(plan, reads, |expr, (tells_apart, schema)| {
            let compared = expr.transform_up(|part| compared(part, schema))?;
            let is_whole = matches!(
                unaliased(&compared.data),
                Expr::AggregateFunction(_) | Expr::GroupingSet(_)
            );
            match *tells_apart && !is_whole {
                true => compared.transform_data(|key| same(key, schema)),
                false => Ok(compared),
            }
        })?;
        let distinct = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Distinct(Distinct::All(input)) => distinct_of(input),
            node => Ok(Transformed::no(node)),
        })?;
        Ok(distinct.data)
    }
}

/// Whether the expressions of a node are keys that it compares by; its others are no values with floats.
fn tells_apart(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Join(_))
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// A comparison by `=` or the like, or an aggregate of DISTINCT values, over values that are the same as all of their kind.
fn compared(part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    use Operator::{Eq, IsDistinctFrom, IsNotDistinctFrom, NotEq};
    let is_number = |side: &Expr| {
        let is_nested = side.get_type(schema).is_ok_and(|of| of.is_nested());
        matches!(side, Expr::Literal(..)) && !is_nested
    };
    let same_values = |values: Vec<Expr>| {
        let values = values.into_iter();
        values.map_until_stop_and_collect(|value| same(value, schema))
    };
    match part {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(op, Eq | NotEq | IsDistinctFrom | IsNotDistinctFrom)
                && !is_number(&left)
                && !is_number(&right) =>
        {
            let sides = (left, right).map_elements(|side| same(side, schema))?;
            Ok(sides.update_data(|(left, right)| Expr::BinaryExpr(BinaryExpr { left, op, right })))
        }
        Expr::AggregateFunction(mut call) if call.params.distinct => {
            let args = same_values(std::mem::take(&mut call.params.args))?;
            let orders = std::mem::take(&mut call.params.order_by);
            let orders = orders.map_elements(|value| same(value, schema))?;
            let changed = args.transformed || orders.transformed;
            call.params.args = args.data;
            call.params.order_by = orders.data;
            let call = Expr::AggregateFunction(call);
            Ok(Transformed::new_transformed(call, changed))
        }
        part => Ok(Transformed::no(part)),
    }
}

/// `input` without what is there twice.
fn distinct_of(input: Arc<LogicalPlan>) -> Result<Transformed<LogicalPlan>> {
    let schema = Arc::clone(input.schema());
    if !schema
        .fields()
        .iter()
        .any(|field| has_floats(field.data_type()))
    {
        return Ok(Transformed::no(LogicalPlan::Distinct(Distinct::All(input))));
    }
    let columns = schema.iter().map(|(relation, field)| {
        let column = Expr::Column((relation, field).into());
        let column = same(column, &schema)?;
        Ok(match column.transformed {
            true => column.data.alias_qualified(relation.cloned(), field.name()),
            false => column.data,
        })
    });
    let columns: Result<Vec<Expr>> = columns.collect();
    let projected = LogicalPlanBuilder::from(input).project(columns?)?;
    projected.distinct()?.build().map(Transformed::yes)
}

/// `expr` as the value that all of its kind are, where its type has floats.
fn same(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(SameNumber::new().into()));
    if !has_floats(&expr.get_type(schema)?) {
        return Ok(Transformed::no(expr));
    }
    let call = ScalarFunction::new_udf(Arc::clone(&FUNCTION), vec![expr]);
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
}

/// Whether there are floats in values of this type.
pub(crate) fn has_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float32 | DataType::Float64 => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_floats(item.data_type())
        }
        _ => false,
    }
}

/// The function that makes a value the same as all of its kind.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SameNumber {
    signature: Signature,
}

impl SameNumber {
    fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for SameNumber {
    fn name(&self) -> &str {
        "same_number"
    }

    // It stands in no statement.
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args
            .iter()
            .map(|value| value.human_display().to_string())
            .collect())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [of] = take_function_args(self.name(), types)?;
        Ok(of.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [of] = take_function_args(self.name(), args.arg_fields)?;
        Ok(Arc::clone(of))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [values] = take_function_args(self.name(), args.args)?;
        Ok(match values {
            ColumnarValue::Array(values) => ColumnarValue::Array(same_numbers(&values)),
            ColumnarValue::Scalar(value) => {
                let value = same_numbers(&value.to_array()?);
                ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?)
            }
        })
    }
}

/// A column with one zero and one NaN.
fn same_numbers(values: &ArrayRef) -> ArrayRef {
    match values.data_type() {
        DataType::Float32 => floats::<Float32Type>(values, |value| match value {
            value if value.is_nan() => f32::NAN,
            // -0.0 among them.
            0.0 => 0.0,
            value => value,
        }),
        DataType::Float64 => floats::<Float64Type>(values, |value| match value {
            value if value.is_nan() => f64::NAN,
            0.0 => 0.0,
            value => value,
        }),
        of if !has_floats(of) => Arc::clone(values),
        DataType::Struct(fields) => {
            let rows = values.as_struct();
            let columns = rows.columns().iter().map(same_numbers).collect();
            let length = rows.len();
            let rows = StructArray::try_new_with_length(
                fields.clone(),
                columns,
                rows.nulls().cloned(),
                length,
            );
            Arc::new(rows.expect("the columns have the types and lengths that they had"))
        }
        DataType::List(_) => lists::<i32>(values),
        DataType::LargeList(_) => lists::<i64>(values),
        DataType::FixedSizeList(item, size) => {
            let lists = values.as_fixed_size_list();
            let values = same_numbers(lists.values());
            let same = FixedSizeListArray::try_new_with_length(
                Arc::clone(item),
                *size,
                values,
                lists.nulls().cloned(),
                lists.len(),
            );
            Arc::new(same.expect("the values have the type and length that they had"))
        }
        _ => Arc::clone(values),
    }
}

fn floats<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    same: impl Fn(T::Native) -> T::Native,
) -> ArrayRef {
    Arc::new(values.as_primitive::<T>().unary::<_, T>(same))
}

fn lists<O: OffsetSizeTrait>(lists: &ArrayRef) -> ArrayRef {
    let lists = lists.as_list::<O>();
    let (DataType::List(item) | DataType::LargeList(item)) = lists.data_type() else {
        return Arc::new(lists.clone());
    };
    let values = same_numbers(lists.values());
    let nulls = lists.nulls().cloned();
    let same = GenericListArray::try_new(Arc::clone(item), lists.offsets().clone(), values, nulls);
    Arc::new(same.expect("the values have the type and length that they had"))
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// A NaN of each sign, a zero of each sign, and one more number.
    const NUMBERS: &str = "(SELECT column1 AS k, CAST(column2 AS DOUBLE) AS x FROM (VALUES (1, 'NaN'), (2, '0'), (3, '-0'), (4, '1'), (5, NULL)) UNION ALL SELECT 6, -(CAST('NaN' AS DOUBLE))) AS t";

    async fn ask(sql: &str) -> String {
        let builder = SessionStateBuilder::new().with_default_features();
        let builder = builder.with_analyzer_rule(Arc::new(SameNumbers));
        let context = SessionContext::new_with_state(builder.build());
        let sql = sql.replace("{t}", NUMBERS);
        let answer = async { context.sql(&sql).await?.collect().await };
        let rows = answer
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let shown = pretty_format_batches(&rows).unwrap().to_string();
        let rows = shown.lines().skip(3).filter(|line| !line.starts_with('+'));
        rows.map(|row| row.trim_matches(|c| c == '|' || c == ' '))
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[tokio::test]
    async fn there_is_one_zero_and_one_nan_where_values_are_told_apart() {
        for value in [
            "x",
            "[x]",
            "named_struct('x', x, 'y', [x])",
            "[named_struct('x', x)]",
            "CAST(x AS FLOAT)",
        ] {
            for (sql, numbers) in [
                (
                    "SELECT count(*) FROM (SELECT {v} FROM {t} GROUP BY {v})",
                    "4",
                ),
                (
                    "SELECT max(n) FROM (SELECT k > 0, {v}, count(*) AS n FROM {t} GROUP BY 1, 2)",
                    "2",
                ),
                (
                    "SELECT count(*) FROM (SELECT DISTINCT {v} AS v FROM {t})",
                    "4",
                ),
                (
                    "SELECT count(*) FROM (SELECT {v} AS v FROM {t} UNION SELECT {v} FROM {t})",
                    "4",
                ),
                (
                    "SELECT count(*) FROM (SELECT {v} AS v FROM {t} INTERSECT SELECT {v} FROM {t} WHERE k = 6)",
                    "1",
                ),
                (
                    "SELECT count(*) FROM (SELECT {v} AS v FROM {t} WHERE k < 5) a JOIN (SELECT {v} AS w FROM {t} WHERE k IN (3, 6)) b ON a.v = b.w",
                    "3",
                ),
                (
                    "SELECT count(*) FROM (SELECT {v} AS v FROM {t} WHERE k < 5) a JOIN (SELECT {v} AS v FROM {t} WHERE k IN (3, 6)) b USING (v)",
                    "3",
                ),
                (
                    "SELECT sum(CASE WHEN a.v IS NOT DISTINCT FROM b.v THEN 1 ELSE 0 END) FROM (SELECT {v} AS v FROM {t} WHERE k = 1) a CROSS JOIN (SELECT {v} AS v FROM {t} WHERE k = 6) b",
                    "1",
                ),
            ] {
                let sql = sql.replace("{v}", value);
                assert_eq!(ask(&sql).await, numbers, "{sql}");
            }
        }
    }

    #[tokio::test]
    async fn columns_are_called_as_before() {
        for (sql, rows) in [
            (
                "SELECT t.x, sum(k) FROM {t} GROUP BY t.x HAVING t.x > 0.5 AND t.x < 2 ORDER BY t.x",
                "1.0 | 4",
            ),
            (
                "SELECT x + 1 AS y, count(*) FROM {t} WHERE k IN (2, 3) GROUP BY x + 1",
                "1.0 | 2",
            ),
            (
                "SELECT x AS y, sum(k) FROM {t} WHERE k IN (3, 4) GROUP BY y ORDER BY y DESC",
                "1.0 | 4; 0.0 | 3",
            ),
            ("SELECT DISTINCT t.x FROM {t} WHERE k = 3", "0.0"),
            (
                "SELECT x, count(DISTINCT k) FROM {t} WHERE k < 4 GROUP BY x ORDER BY x",
                "0.0 | 2; NaN | 1",
            ),
            ("SELECT x FROM {t} WHERE k = 3", "-0.0"),
            (
                "SELECT count(*), max(n) FROM (SELECT x, y, sum(k) AS n FROM (SELECT *, 1 AS y FROM {t}) WHERE k IN (2, 3) GROUP BY ROLLUP (y), x)",
                "2        | 5",
            ),
        ] {
            assert_eq!(ask(sql).await, rows, "{sql}");
        }
    }
}
