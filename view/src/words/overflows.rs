// SPDX-License-Identifier: Apache-2.0
//! Numbers that do not fit the DECIMAL that they are to be.

use super::typed::with_sql_types;

/// What does not fit, and a type that may hold it. Arrow names neither the expression nor, of a DECIMAL that is cast or computed
/// with, where the point is.
pub(super) fn does_not_fit(text: &str) -> Option<String> {
    of_cast(text)
        .or_else(|| of_value(text))
        .or_else(|| of_arithmetic(text))
}

/// `Cannot cast to Decimal128(5, 2). Overflowing on 123456`: of a DOUBLE the number, of a DECIMAL its digits.
fn of_cast(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Cannot cast to ")?;
    let (data_type, value) = rest.split_once(". Overflowing on ")?;
    let (precision, scale) = parts_of_decimal(data_type)?;
    let value = match value.contains(['e', '.']) {
        true => format!("`{value}`"),
        false => format!("a number with the digits {value}"),
    };
    Some(format!(
        "{value} does not fit {}, which it is cast to: {}",
        with_sql_types(data_type),
        way_out(precision, scale)
    ))
}

/// `1234.56 is too large to store in a Decimal128 of precision 5. Max is 999.99`
fn of_value(text: &str) -> Option<String> {
    let (value, rest) = ["large", "small"]
        .iter()
        .find_map(|size| text.split_once(&format!(" is too {size} to store in a Decimal")))?;
    let value = value.rsplit(' ').next()?;
    let (_, rest) = rest.split_once(" of precision ")?;
    let precision = rest.split('.').next()?.parse().ok()?;
    let scale = value.split_once('.').map_or(0, |(_, behind)| behind.len());
    Some(format!(
        "`{value}` does not fit DECIMAL({precision}, {scale}): {}",
        way_out(precision, scale)
    ))
}

/// `Overflow happened on: 123 * 456`, each a DECIMAL's digits: other numbers are computed by functions of our own.
fn of_arithmetic(text: &str) -> Option<String> {
    let (_, digits) = text.split_once("Overflow happened on: ")?;
    Some(format!(
        "a calculation with DECIMALs does not fit the most digits that its type has (of the numbers with the digits {digits}): compute with CAST(… AS DECIMAL(50, …)), as an expression has room for 76 digits, or with CAST(… AS DOUBLE)"
    ))
}

/// The numbers in `Decimal128(5, 2)`.
fn parts_of_decimal(data_type: &str) -> Option<(usize, usize)> {
    let (_, parts) = data_type.strip_prefix("Decimal")?.split_once('(')?;
    let (precision, scale) = parts.strip_suffix(')')?.split_once(", ")?;
    Some((precision.parse().ok()?, scale.parse().ok()?))
}

fn way_out(precision: usize, scale: usize) -> String {
    let wider = match precision {
        ..38 => 38,
        _ => 76,
    };
    if precision == wider {
        return "leave it fewer digits behind the point, or write CAST(… AS DOUBLE)".to_owned();
    }
    format!("write CAST(… AS DECIMAL({wider}, {scale})), or CAST(… AS DOUBLE)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named_with_a_way_out() {
        for (said, words) in [
            (
                "Cannot cast to Decimal128(10, 2). Overflowing on 1e300",
                "`1e300` does not fit DECIMAL(10, 2), which it is cast to: write CAST(… AS DECIMAL(38, 2)), or CAST(… AS DOUBLE)",
            ),
            (
                "Cannot cast to Decimal128(38, 38). Overflowing on 170141183460469231731687303715884105727",
                "a number with the digits 170141183460469231731687303715884105727 does not fit DECIMAL(38, 38), which it is cast to: write CAST(… AS DECIMAL(76, 38)), or CAST(… AS DOUBLE)",
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
            "Divide by zero error",
        ] {
            assert_eq!(does_not_fit(other), None, "{other}");
        }
    }
}
