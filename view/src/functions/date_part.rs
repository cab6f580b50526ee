// SPDX-License-Identifier: Apache-2.0
//! `date_part`, and `EXTRACT`, of days and times that the calendar has: DataFusion's own is NULL for others, also where it says
//! that there is none. `EXTRACT` is planned as its own, whatever is registered, and becomes ours in analysis.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, exec_err};
use datafusion::functions::datetime::date_part;
use datafusion::functions::datetime::date_part::DatePartFunc;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::calendar::first_unwritable;

/// DataFusion's function, for times that it can compute.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DatePart {
    inner: DatePartFunc,
}

impl DatePart {
    pub(super) fn new() -> Self {
        Self {
            inner: DatePartFunc::new(),
        }
    }
}

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> Result<PreimageResult> {
        self.inner.preimage(args, literal, info)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // Seconds since 1970 need no calendar.
        let needs_a_date = args.return_field.data_type() != &DataType::Float64;
        if needs_a_date
            && let Some(times) = args.args.get(1)
            && let DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) = times.data_type()
        {
            let rows = match times {
                ColumnarValue::Array(times) => times.len(),
                ColumnarValue::Scalar(_) => 1,
            };
            if let Some((number, data_type)) = first_unwritable(&times.to_array(rows)?) {
                return exec_err!("Failed to convert {number} to temporal for {data_type}");
            }
        }
        self.inner.invoke_with_args(args)
    }
}

/// Puts `function`, which is ours, in the place of DataFusion's own.
#[derive(Debug)]
pub(super) struct Extracted {
    pub(super) function: Arc<ScalarUDF>,
}

impl FunctionRewrite for Extracted {
    fn name(&self) -> &str {
        "extracted"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::ScalarFunction(mut call) if Arc::ptr_eq(&call.func, &date_part()) => {
                call.func = Arc::clone(&self.function);
                Transformed::yes(Expr::ScalarFunction(call))
            }
            expr => Transformed::no(expr),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::values;

    async fn ask(expression: &str, days: &str) -> Result<String, String> {
        let sql = format!(
            "SELECT {expression} FROM (SELECT CAST(column1 AS DATE) AS day FROM (VALUES {days}) AS t)"
        );
        values(&sql).await
    }

    #[tokio::test]
    async fn a_day_outside_the_calendar_has_no_part() {
        for expression in [
            "date_part('year', day)",
            "EXTRACT(dow FROM day)",
            "datepart('nanosecond', day)",
            "date_part('month', CAST(2147483647 AS DATE))",
            "date_part('hour', arrow_cast(9223372036854775807, 'Timestamp(µs)'))",
        ] {
            let error = ask(expression, "(0), (NULL), (2147483647)").await;
            let error = error.unwrap_err();
            assert!(
                error.contains("lies outside the calendar"),
                "{expression}: {error}"
            );
        }
        assert_eq!(
            ask("date_part('epoch', day)", "(1), (2147483647)")
                .await
                .unwrap(),
            "86400.0 185542587100800.0"
        );
        assert_eq!(
            ask("EXTRACT(year FROM day)", "(0), (NULL), (11322)")
                .await
                .unwrap(),
            "1970  2000"
        );
    }
}
