// SPDX-License-Identifier: Apache-2.0
//! `date_trunc` of all times: DataFusion's own wraps around for columns at the least end of 64 bits, and has no weeks, months
//! and years of times that 64 bits of nanoseconds do not hold, such as those of the year 9999. Of a constant before 1970 it
//! goes up where it goes down of a column: constants take the way of columns here.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, TimeUnit};
use chrono::{Datelike as _, NaiveDate};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::functions::datetime::date_trunc::DateTruncFunc;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature,
};

use crate::calendar::per_second;

const DAY_S: i64 = 86_400;
const YEAR_S: i64 = 366 * DAY_S;

/// DataFusion's function, and the times that it cannot compute.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateTrunc {
    inner: DateTruncFunc,
}

impl DateTrunc {
    pub(super) fn new() -> Self {
        Self {
            inner: DateTruncFunc::new(),
        }
    }
}

impl ScalarUDFImpl for DateTrunc {
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

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ColumnarValue::Scalar(name), times] = args.args.as_slice() else {
            return self.inner.invoke_with_args(args);
        };
        let unit = name.try_as_str().flatten().and_then(Unit::named);
        let (Some(unit), DataType::Timestamp(part, zone)) = (unit, times.data_type()) else {
            return self.inner.invoke_with_args(args);
        };
        let is_constant = matches!(times, ColumnarValue::Scalar(_));
        let times = times.to_array(1)?;
        let in_utc = zone.is_none() || unit.is_the_same_everywhere();
        let truncated = if in_utc && !all_within(&times, part)? {
            truncated(&times, unit, part)?
        } else {
            args.args[1] = ColumnarValue::Array(times);
            self.inner.invoke_with_args(args)?.into_array(1)?
        };
        Ok(match is_constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&truncated, 0)?),
            false => ColumnarValue::Array(truncated),
        })
    }
}

/// What is left of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Microsecond,
    Millisecond,
    /// Several of them: a second, a minute, an hour, a day.
    Seconds(i64),
    Week,
    Month,
    Quarter,
    Year,
}

impl Unit {
    fn named(name: &str) -> Option<Self> {
        Some(match name.to_lowercase().as_str() {
            "microsecond" => Self::Microsecond,
            "millisecond" => Self::Millisecond,
            "second" => Self::Seconds(1),
            "minute" => Self::Seconds(60),
            "hour" => Self::Seconds(3_600),
            "day" => Self::Seconds(DAY_S),
            "week" => Self::Week,
            "month" => Self::Month,
            "quarter" => Self::Quarter,
            "year" => Self::Year,
            _ => return None,
        })
    }

    /// Whether it begins at the same instants in all zones.
    fn is_the_same_everywhere(self) -> bool {
        match self {
            Self::Microsecond | Self::Millisecond => true,
            Self::Seconds(length) => length < 3_600,
            Self::Week | Self::Month | Self::Quarter | Self::Year => false,
        }
    }

    /// The begin of the one that `time` lies in, in parts of a second of which `per_second` make one.
    fn begin(self, time: i64, per_second: i64) -> Option<i64> {
        let length = match self {
            Self::Microsecond => per_second / 1_000_000,
            Self::Millisecond => per_second / 1_000,
            Self::Seconds(length) => length * per_second,
            Self::Week | Self::Month | Self::Quarter | Self::Year => {
                let per_day = DAY_S * per_second;
                let day = i32::try_from(time.div_euclid(per_day)).ok()?;
                let first = self.first_day(NaiveDate::from_epoch_days(day)?)?;
                return i64::from(first.to_epoch_days()).checked_mul(per_day);
            }
        };
        // The parts of some are longer than the unit.
        let length = length.max(1);
        time.checked_sub(time.rem_euclid(length))
    }

    fn first_day(self, day: NaiveDate) -> Option<NaiveDate> {
        let month = match self {
            Self::Week => return day.week(chrono::Weekday::Mon).checked_first_day(),
            Self::Quarter => day.month0() / 3 * 3,
            Self::Year => 0,
            _ => day.month0(),
        };
        day.with_day0(0)?.with_month0(month)
    }
}

/// Whether DataFusion's own computes all of `times`, those included that NULL hides.
fn all_within(times: &ArrayRef, part: TimeUnit) -> Result<bool> {
    let times = cast(times, &DataType::Int64)?;
    let per_second = per_second(part);
    let finer = 1_000_000_000 / per_second;
    let within = i64::MIN / finer + YEAR_S * per_second..=i64::MAX / finer;
    let mut numbers = times.as_primitive::<Int64Type>().values().iter();
    Ok(numbers.all(|time| within.contains(time)))
}

/// What DataFusion's own would make of `times`, were they within.
///
/// # Errors
/// Where such a unit begins before the least time of its type, or outside the calendar.
fn truncated(times: &ArrayRef, unit: Unit, part: TimeUnit) -> Result<ArrayRef> {
    let per_second = per_second(part);
    let numbers = cast(times, &DataType::Int64)?;
    let begin = |time: i64| {
        let begin = unit.begin(time, per_second);
        begin.ok_or_else(|| exec_datafusion_err!("Timestamp {time} out of range"))
    };
    let numbers = numbers.as_primitive::<Int64Type>().iter();
    let begins: Result<Int64Array> = numbers.map(|time| time.map(begin).transpose()).collect();
    Ok(cast(&(Arc::new(begins?) as ArrayRef), times.data_type())?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::values;
    use super::*;

    const UNITS: [&str; 10] = [
        "microsecond",
        "millisecond",
        "second",
        "minute",
        "hour",
        "day",
        "week",
        "month",
        "quarter",
        "year",
    ];
    const PARTS: [TimeUnit; 4] = [
        TimeUnit::Second,
        TimeUnit::Millisecond,
        TimeUnit::Microsecond,
        TimeUnit::Nanosecond,
    ];

    #[test]
    fn what_both_compute_is_the_same() {
        for unit in UNITS {
            for part in PARTS {
                let of = per_second(part);
                let days = [-700_000, -1, 0, 58, 59, 90, 11_323, 40_000];
                let seconds = [0, 1, 59, 3_599, 3_601, DAY_S - 1];
                let most = i64::MAX / 1_000_000_000 - YEAR_S;
                let numbers = days
                    .iter()
                    .flat_map(|day| seconds.map(|second| day * DAY_S + second))
                    .filter(|second| second.abs() < most)
                    .map(|second| second * of + of / 3);
                let numbers = Int64Array::from_iter_values(numbers);
                let times = cast(&numbers, &DataType::Timestamp(part, None)).unwrap();
                assert!(all_within(&times, part).unwrap());
                let ours = truncated(&times, Unit::named(unit).unwrap(), part).unwrap();
                let field = |name: &str, of: &ArrayRef| {
                    Arc::new(arrow::datatypes::Field::new(
                        name,
                        of.data_type().clone(),
                        true,
                    ))
                };
                let theirs = DateTruncFunc::new()
                    .invoke_with_args(ScalarFunctionArgs {
                        args: vec![
                            ColumnarValue::Scalar(ScalarValue::from(unit)),
                            ColumnarValue::Array(Arc::clone(&times)),
                        ],
                        arg_fields: vec![],
                        number_rows: times.len(),
                        return_field: field("begin", &times),
                        config_options: Arc::default(),
                    })
                    .unwrap();
                assert_eq!(
                    &ours,
                    &theirs.into_array(times.len()).unwrap(),
                    "{unit} {part}"
                );
            }
        }
    }

    #[tokio::test]
    async fn far_times_have_a_begin_or_none_but_never_another_one() {
        let far = "(VALUES ('9999-11-30T23:59:59'), (NULL), ('1492-10-12T08:03:00')) AS t";
        for (unit, begins) in [
            ("hour", "9999-11-30T23:00:00  1492-10-12T08:00:00"),
            ("week", "9999-11-29T00:00:00  1492-10-10T00:00:00"),
            ("month", "9999-11-01T00:00:00  1492-10-01T00:00:00"),
            ("quarter", "9999-10-01T00:00:00  1492-10-01T00:00:00"),
            ("year", "9999-01-01T00:00:00  1492-01-01T00:00:00"),
        ] {
            let sql = format!(
                "SELECT date_trunc('{unit}', arrow_cast(column1, 'Timestamp(µs)')) FROM {far}"
            );
            assert_eq!(values(&sql).await.unwrap(), begins, "{unit}");
        }
        for unit in &UNITS[4..] {
            for (part, least) in [("s", i64::MIN), ("µs", i64::MIN), ("ns", i64::MIN + 1)] {
                for times in [format!("{least}"), "n".to_owned()] {
                    let sql = format!(
                        "SELECT date_trunc('{unit}', arrow_cast({times}, 'Timestamp({part})')) FROM (SELECT arrow_cast({least}, 'Int64') AS n UNION ALL SELECT 0)"
                    );
                    let error = values(&sql).await.unwrap_err();
                    assert!(error.contains("outside the calendar"), "{sql}: {error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_constant_before_1970_goes_down_like_a_column() {
        let sql = |time: &str| {
            format!(
                "SELECT date_trunc('millisecond', {time}) FROM (SELECT arrow_cast(-1, 'Timestamp(µs)') AS t)"
            )
        };
        let begin = "1969-12-31T23:59:59.999";
        for time in ["t", "arrow_cast(-1, 'Timestamp(µs)')"] {
            assert_eq!(values(&sql(time)).await.unwrap(), begin);
        }
    }
}
