// SPDX-License-Identifier: Apache-2.0
//! Whole numbers that the type that they are to have does not hold. `+`, `-` and `*` have words of their own.

use arrow::datatypes::DataType;

use crate::sql_type;

/// The number or the calculation, its type, and a type that holds it.
pub(super) fn no_such_integer(text: &str) -> Option<String> {
    of_cast(text)
        .or_else(|| of_magnitude(text))
        .or_else(|| of_operator(text))
        .or_else(|| of_function(text))
}

/// `Can't cast value 1e300 to type Int64`, of a DECIMAL `value of 513 is out of range Int64`.
fn of_cast(text: &str) -> Option<String> {
    let of_number = || {
        text.strip_prefix("Can't cast value ")?
            .split_once(" to type ")
    };
    let of_decimal = || {
        text.strip_prefix("value of ")?
            .split_once(" is out of range ")
    };
    let (value, data_type) = of_number().or_else(of_decimal)?;
    let data_type = integer(data_type)?;
    let named = sql_type(&data_type);
    let number: f64 = value.parse().ok()?;
    if !number.is_finite() {
        return Some(format!(
            "`{value}` is no {named}, which it is cast to: leave such rows out, or keep the DOUBLE"
        ));
    }
    let wider = match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 if is_bigint(value, number) => "BIGINT",
        _ if number.abs() < 1e38 => "DECIMAL(38, 0)",
        _ => {
            return Some(format!(
                "`{value}` does not fit {named}, which it is cast to: write CAST(… AS DOUBLE)"
            ));
        }
    };
    Some(format!(
        "`{value}` does not fit {named}, which it is cast to: write CAST(… AS {wider}), or CAST(… AS DOUBLE)"
    ))
}

/// `Int64Array overflow on abs(-9223372036854775808)`
fn of_magnitude(text: &str) -> Option<String> {
    let (array, call) = text.split_once("Array overflow on ")?;
    Some(passed(call, &integer(array)?))
}

/// `Overflow happened on: - -9223372036854775808`, or `-9223372036854775808 / -1`: of the least number of its type alone, and
/// of no DECIMAL.
fn of_operator(text: &str) -> Option<String> {
    let (_, operation) = text.split_once("Overflow happened on: ")?;
    let (number, shown) = match operation.strip_prefix("- ") {
        Some(number) => (number, format!("-({number})")),
        None => {
            let divided = operation.strip_suffix(" / -1");
            let number = divided.or_else(|| operation.strip_suffix(" % -1"))?;
            (number, operation.to_owned())
        }
    };
    let data_type = match number.parse::<i64>().ok()? {
        i64::MIN => DataType::Int64,
        least if least == i64::from(i32::MIN) => DataType::Int32,
        _ => return None,
    };
    Some(passed(&shown, &data_type))
}

/// `Overflow happened on FACTORIAL(30)`, `Signed integer overflow in LCM(1, 2)`: functions of BIGINTs alone.
fn of_function(text: &str) -> Option<String> {
    let said = ["Overflow happened on ", "Signed integer overflow in "];
    let call = said.iter().find_map(|said| text.strip_prefix(said))?;
    let call = call.to_lowercase();
    Some(format!(
        "`{call}` does not fit BIGINT, which is all that it computes: leave such rows out"
    ))
}

fn passed(calculation: &str, data_type: &DataType) -> String {
    let wider = match data_type {
        DataType::Int64 | DataType::UInt64 => "DECIMAL(38, 0)",
        _ => "BIGINT",
    };
    format!(
        "`{calculation}` does not fit {}: compute with CAST(… AS {wider}), or with CAST(… AS DOUBLE)",
        sql_type(data_type)
    )
}

fn integer(name: &str) -> Option<DataType> {
    let data_type: DataType = name.parse().ok()?;
    data_type.is_integer().then_some(data_type)
}

fn is_bigint(value: &str, number: f64) -> bool {
    value.parse::<i64>().is_ok() || (-(2_f64.powi(63))..2_f64.powi(63)).contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_no_integer_is_says_its_type_and_the_way_out() {
        for (said, words) in [
            (
                "Can't cast value 9223372036854775807 to type Int32",
                "`9223372036854775807` does not fit INT, which it is cast to: write CAST(… AS BIGINT), or CAST(… AS DOUBLE)",
            ),
            (
                "Can't cast value 3000000000.0 to type Int32",
                "`3000000000.0` does not fit INT, which it is cast to: write CAST(… AS BIGINT), or CAST(… AS DOUBLE)",
            ),
            (
                "Can't cast value 1e20 to type Int64",
                "`1e20` does not fit BIGINT, which it is cast to: write CAST(… AS DECIMAL(38, 0)), or CAST(… AS DOUBLE)",
            ),
            (
                "Can't cast value 1e300 to type Int64",
                "`1e300` does not fit BIGINT, which it is cast to: write CAST(… AS DOUBLE)",
            ),
            (
                "Can't cast value NaN to type Int64",
                "`NaN` is no BIGINT, which it is cast to: leave such rows out, or keep the DOUBLE",
            ),
            (
                "value of 99999999999999999999 is out of range Int64",
                "`99999999999999999999` does not fit BIGINT, which it is cast to: write CAST(… AS DECIMAL(38, 0)), or CAST(… AS DOUBLE)",
            ),
            (
                "Int64Array overflow on abs(-9223372036854775808)",
                "`abs(-9223372036854775808)` does not fit BIGINT: compute with CAST(… AS DECIMAL(38, 0)), or with CAST(… AS DOUBLE)",
            ),
            (
                "Arithmetic overflow: Overflow happened on: - -9223372036854775808",
                "`-(-9223372036854775808)` does not fit BIGINT: compute with CAST(… AS DECIMAL(38, 0)), or with CAST(… AS DOUBLE)",
            ),
            (
                "Overflow happened on: -2147483648 / -1",
                "`-2147483648 / -1` does not fit INT: compute with CAST(… AS BIGINT), or with CAST(… AS DOUBLE)",
            ),
            (
                "Overflow happened on FACTORIAL(30)",
                "`factorial(30)` does not fit BIGINT, which is all that it computes: leave such rows out",
            ),
        ] {
            assert_eq!(no_such_integer(said).as_deref(), Some(words));
        }
        for other in [
            "Overflow happened on: 12 * 34",
            "Overflow happened on: - 12",
            "Can't cast value x to type Int64",
            "Can't cast value 1 to type Float64",
            "Cannot cast to Decimal128(10, 2). Overflowing on 1e300",
        ] {
            assert_eq!(no_such_integer(other), None, "{other}");
        }
    }
}
