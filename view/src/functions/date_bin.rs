// SPDX-License-Identifier: Apache-2.0
//! `date_bin` of all times: DataFusion's own works in nanoseconds, and is NULL for times that 64 bits of them do not hold,
//! so that their events would be in the group of those without a time.

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::functions::datetime::date_bin::DateBinFunc;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature};

use crate::calendar::per_second;

const DAY_NS: i128 = 86_400_000_000_000;

/// DataFusion's function, and what it leaves out.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateBin {
    inner: DateBinFunc,
}

impl DateBin {
    pub(super) fn new() -> Self {
        Self {
            inner: DateBinFunc::new(),
        }
    }
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let given = args.args.clone();
        let binned = self.inner.invoke_with_args(args)?;
        if is_null_of_all(&given) {
            return Ok(binned);
        }
        let (times, bins) = (given[1].to_array(rows)?, binned.to_array(rows)?);
        if bins.null_count() == times.null_count() {
            return Ok(binned);
        }
        Ok(ColumnarValue::Array(completed(&given, &times, &bins)?))
    }
}

/// Whether the stride or the origin is NULL, and so is every bin.
fn is_null_of_all(args: &[ColumnarValue]) -> bool {
    let is_null = |arg: &ColumnarValue| match arg {
        ColumnarValue::Scalar(value) => value.is_null(),
        ColumnarValue::Array(values) => values.null_count() > 0,
    };
    args.len() < 2 || is_null(&args[0]) || args.get(2).is_some_and(is_null)
}

/// `bins` with those of `times` that have none yet: the last multiple of the stride from the origin on, as theirs.
fn completed(args: &[ColumnarValue], times: &ArrayRef, bins: &ArrayRef) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, _) = times.data_type() else {
        return exec_err!("`date_bin` has no bin for a time of a day");
    };
    let Some((stride, origin)) = stride_of(&args[0]).zip(origin_of(args.get(2))) else {
        return exec_err!(
            "`date_bin` by months, or by a column, takes times from 1677-09-21 to 2262-04-11 alone: use date_trunc, which takes all, or leave other rows out"
        );
    };
    let part = nanoseconds(*unit);
    let numbers = |array: &ArrayRef| cast(array, &DataType::Int64);
    let (times, known) = (numbers(times)?, numbers(bins)?);
    let (times, known) = (
        times.as_primitive::<Int64Type>(),
        known.as_primitive::<Int64Type>(),
    );
    let bin = |time: i64| {
        let since = i128::from(time) * part - origin;
        let bin = since.div_euclid(stride) * stride + origin;
        i64::try_from(bin.div_euclid(part)).ok()
    };
    let all = times
        .iter()
        .zip(known)
        .map(|(time, known)| known.or_else(|| bin(time?)));
    let all: Int64Array = all.collect();
    if all.null_count() > times.null_count() {
        return exec_err!(
            "`date_bin` has no bin for a time: it begins outside of what a TIMESTAMP holds"
        );
    }
    Ok(cast(&all, bins.data_type())?)
}

/// A constant stride in nanoseconds, unless it has months.
fn stride_of(stride: &ColumnarValue) -> Option<i128> {
    let ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(stride))) = stride else {
        return None;
    };
    let length = i128::from(stride.days) * DAY_NS + i128::from(stride.nanoseconds);
    (stride.months == 0 && length > 0).then_some(length)
}

/// A constant origin in nanoseconds since 1970.
fn origin_of(origin: Option<&ColumnarValue>) -> Option<i128> {
    let Some(origin) = origin else {
        return Some(0);
    };
    let ColumnarValue::Scalar(origin) = origin else {
        return None;
    };
    let (number, unit) = match origin {
        ScalarValue::TimestampSecond(number, _) => (number, TimeUnit::Second),
        ScalarValue::TimestampMillisecond(number, _) => (number, TimeUnit::Millisecond),
        ScalarValue::TimestampMicrosecond(number, _) => (number, TimeUnit::Microsecond),
        ScalarValue::TimestampNanosecond(number, _) => (number, TimeUnit::Nanosecond),
        _ => return None,
    };
    number.map(|number| i128::from(number) * nanoseconds(unit))
}

fn nanoseconds(unit: TimeUnit) -> i128 {
    i128::from(1_000_000_000 / per_second(unit))
}

#[cfg(test)]
mod tests {
    use super::super::testing::values;

    async fn ask(stride: &str, times: &str) -> Result<String, String> {
        let sql = format!(
            "SELECT date_bin({stride}, arrow_cast(column1, 'Timestamp(µs)')) FROM (VALUES {times}) AS t"
        );
        values(&sql).await
    }

    #[tokio::test]
    async fn times_that_nanoseconds_do_not_hold_have_bins_like_all() {
        let times =
            "('2026-01-01T00:07:01'), (NULL), ('9999-12-31T23:59:59'), ('1492-10-12T08:03:00')";
        assert_eq!(
            ask("INTERVAL '5 minutes'", times).await.unwrap(),
            "2026-01-01T00:05:00  9999-12-31T23:55:00 1492-10-12T08:00:00"
        );
        assert_eq!(
            ask("INTERVAL '1 day'", times).await.unwrap(),
            "2026-01-01T00:00:00  9999-12-31T00:00:00 1492-10-12T00:00:00"
        );
        let error = ask("INTERVAL '1 month'", times).await.unwrap_err();
        assert!(error.contains("use date_trunc"), "{error}");
        assert_eq!(
            ask("INTERVAL '1 month'", "('2026-01-17T00:07:01')")
                .await
                .unwrap(),
            "2026-01-01T00:00:00"
        );
    }
}
