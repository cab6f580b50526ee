// SPDX-License-Identifier: Apache-2.0
//! `to_timestamp` of DOUBLEs that a time in nanoseconds has a place for: DataFusion's own makes the last time there is of
//! larger ones, and 1970 of what is no number.

use arrow::array::AsArray as _;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, exec_err};
use datafusion::functions::datetime::to_timestamp::ToTimestampFunc;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// DataFusion's function, for seconds that it can compute.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ToTimestamp {
    inner: ToTimestampFunc,
}

impl ToTimestamp {
    pub(super) fn new() -> Self {
        Self::with(&ConfigOptions::default())
    }

    fn with(options: &ConfigOptions) -> Self {
        Self {
            inner: ToTimestampFunc::new_with_config(options),
        }
    }
}

impl ScalarUDFImpl for ToTimestamp {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn with_updated_config(&self, options: &ConfigOptions) -> Option<ScalarUDF> {
        Some(Self::with(options).into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(seconds) = args.args.first()
            && seconds.data_type().is_floating()
        {
            check(seconds, args.number_rows)?;
        }
        self.inner.invoke_with_args(args)
    }
}

fn check(seconds: &ColumnarValue, rows: usize) -> Result<()> {
    let rows = match seconds {
        ColumnarValue::Array(_) => rows,
        ColumnarValue::Scalar(_) => 1,
    };
    let seconds = cast(&seconds.to_array(rows)?, &DataType::Float64)?;
    let ends = i64::MIN as f64..i64::MAX as f64;
    let mut seconds = seconds.as_primitive::<Float64Type>().iter().flatten();
    match seconds.find(|seconds| !ends.contains(&(seconds * 1e9))) {
        Some(seconds) => exec_err!(
            "`to_timestamp` makes times in nanoseconds of seconds, which end in 1677 and 2262, and {seconds:?} is none of them: write to_timestamp_seconds(…), which takes others, or leave such rows out"
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::values;

    async fn ask(expression: &str) -> Result<String, String> {
        let sql = format!(
            "SELECT {expression} FROM (VALUES (1.5, 1e300, CAST('NaN' AS DOUBLE)), (NULL, 0.0, 0.0)) AS t (fine, far, none)"
        );
        values(&sql).await
    }

    #[tokio::test]
    async fn a_double_that_is_no_time_is_refused() {
        for (seconds, named) in [
            ("far", "1e300"),
            ("1e300", "1e300"),
            ("-far", "-1e300"),
            ("none", "NaN"),
            ("CAST('-inf' AS DOUBLE)", "-inf"),
            ("CAST(9223372037 AS DOUBLE)", "9223372037.0"),
            ("CAST(1e30 AS FLOAT)", "1.0000000150474662e30"),
        ] {
            let error = ask(&format!("to_timestamp({seconds})")).await.unwrap_err();
            assert!(error.contains(&format!("and {named} is none")), "{error}");
        }
        assert_eq!(
            ask("to_timestamp(fine)").await.unwrap(),
            "1970-01-01T00:00:01.500 "
        );
        for function in [
            "to_timestamp_seconds",
            "to_timestamp_millis",
            "to_timestamp_micros",
            "to_timestamp_nanos",
        ] {
            let error = ask(&format!("{function}(far)")).await.unwrap_err();
            assert!(error.contains("`1e300` does not fit BIGINT"), "{error}");
        }
    }
}
