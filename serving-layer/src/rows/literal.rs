// SPDX-License-Identifier: Apache-2.0
//! Text of a query string as a value of a column's type.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::ScalarValue;
use dovetail_model::Problem;

use crate::sql::sql_type;

/// `text` as a value of `field`'s type, without losing anything of it.
///
/// # Errors
/// `Invalid` naming the text, the column and its type.
pub(super) fn literal(field: &Field, text: &str) -> Result<ScalarValue, Problem> {
    let data_type = field.data_type();
    let refuse = |why: &str| {
        let shown: String = text.chars().take(100).collect();
        let data_type = sql_type(data_type);
        // INT, INTERVAL.
        let n = if data_type.starts_with('I') { "n" } else { "" };
        let detail = format!(
            "`{shown}` is not a{n} {data_type}, as column `{}` is{why}",
            field.name()
        );
        Problem::invalid(detail).with("column", field.name().as_str())
    };
    if let Some(digits) = fraction_digits(data_type)
        && significant_fraction(text) > digits
    {
        return Err(refuse(&format!(
            ": it has more than {digits} digits behind the point"
        )));
    }
    // Arrow reads a date off the front of a time, which would turn `>=` into something else.
    if matches!(data_type, DataType::Date32 | DataType::Date64) && text.trim().contains(['T', ' '])
    {
        return Err(refuse(hint(data_type)));
    }
    let text_array: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let value =
        cast_with_options(&text_array, data_type, &options).map_err(|_| refuse(hint(data_type)))?;
    if value.is_null(0) {
        return Err(refuse(hint(data_type)));
    }
    ScalarValue::try_from_array(&value, 0).map_err(|_| refuse(""))
}

/// Digits behind the point that the type keeps, where a cast would silently round the rest away.
fn fraction_digits(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => Some(usize::try_from(*scale).unwrap_or(0)),
        DataType::Timestamp(TimeUnit::Second, _) => Some(0),
        DataType::Timestamp(TimeUnit::Millisecond, _) => Some(3),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Some(6),
        _ => None,
    }
}

fn significant_fraction(text: &str) -> usize {
    let Some((_, behind)) = text.split_once('.') else {
        return 0;
    };
    let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
    behind[..digits].trim_end_matches('0').len()
}

fn hint(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Timestamp(_, _) => ": write `2001-01-01T00:00:00`",
        DataType::Date32 | DataType::Date64 => ": write `2001-01-01`",
        DataType::Boolean => ": write `true` or `false`",
        _ => "",
    }
}
