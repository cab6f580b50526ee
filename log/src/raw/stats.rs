// SPDX-License-Identifier: Apache-2.0
//! A file's statistics in Delta's JSON, so that other engines can skip files.

use arrow::datatypes::Schema;
use chrono::{DateTime, NaiveDate, TimeDelta};
use datafusion::scalar::ScalarValue;
use serde_json::{Map, Value, json};

use crate::parquet_files::WrittenFile;

/// The `stats` of an `Add`: rows, and null counts and bounds of the top-level columns for which Delta has a
/// notation. Decimals are written digit by digit: a JSON value type would round them.
pub(super) fn delta_stats(file: &WrittenFile, schema: &Schema) -> String {
    let mut min = Vec::new();
    let mut max = Vec::new();
    let mut nulls = Map::new();
    for (field, stats) in schema.fields().iter().zip(&file.columns) {
        if !field.data_type().is_nested() {
            nulls.insert(field.name().clone(), json!(stats.null_count));
        }
        let low = stats.min.as_ref().and_then(literal);
        let high = stats.max.as_ref().and_then(literal);
        if let (Some(low), Some(high)) = (low, high) {
            let name = Value::from(field.name().as_str());
            min.push(format!("{name}:{low}"));
            max.push(format!("{name}:{high}"));
        }
    }
    format!(
        r#"{{"numRecords":{},"minValues":{{{}}},"maxValues":{{{}}},"nullCount":{}}}"#,
        file.rows,
        min.join(","),
        max.join(","),
        Value::Object(nulls),
    )
}

/// A bound as JSON, where Delta compares values of that type.
fn literal(value: &ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Int32(Some(v)) => Some(v.to_string()),
        ScalarValue::Int64(Some(v)) => Some(v.to_string()),
        ScalarValue::Utf8(Some(v)) => Some(Value::from(v.as_str()).to_string()),
        ScalarValue::Date32(Some(days)) => {
            let date =
                NaiveDate::default().checked_add_signed(TimeDelta::days(i64::from(*days)))?;
            Some(format!("\"{}\"", date.format("%Y-%m-%d")))
        }
        ScalarValue::TimestampMicrosecond(Some(us), None) => {
            let at = DateTime::from_timestamp_micros(*us)?;
            Some(format!("\"{}\"", at.format("%Y-%m-%dT%H:%M:%S%.6f")))
        }
        ScalarValue::Decimal128(Some(v), _, scale) => {
            Some(decimal(*v, usize::from(scale.unsigned_abs())))
        }
        _ => None,
    }
}

/// `-1234` at scale 2 is `-12.34`.
fn decimal(value: i128, scale: usize) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_written_as_delta_reads_them() {
        let cases = [
            (ScalarValue::Int64(Some(-7)), Some("-7")),
            (ScalarValue::Utf8(Some("a\"b".into())), Some(r#""a\"b""#)),
            (ScalarValue::Date32(Some(-1)), Some("\"1969-12-31\"")),
            (
                ScalarValue::TimestampMicrosecond(Some(-1), None),
                Some("\"1969-12-31T23:59:59.999999\""),
            ),
            (ScalarValue::Decimal128(Some(-5), 10, 2), Some("-0.05")),
            (
                ScalarValue::Decimal128(Some(10_i128.pow(37) + 1), 38, 0),
                Some("10000000000000000000000000000000000001"),
            ),
            (ScalarValue::Boolean(Some(true)), None),
            (ScalarValue::Float64(Some(1.0)), None),
        ];
        for (value, json) in cases {
            assert_eq!(literal(&value).as_deref(), json, "{value:?}");
        }
    }
}
