// SPDX-License-Identifier: Apache-2.0
//! Numbers as they are written: their digits, not the nearest DOUBLE.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, i256};
use datafusion::common::ScalarValue;

/// A decimal number of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: String,
    /// Of ten, that `digits` as a whole number are multiplied with.
    exponent: i64,
}

impl Written {
    /// Of `12`, `-4.48`, `.5`, `1e-7`; nothing of another text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let significant = digits.trim_end_matches('0');
        let zeros = digits.len() - significant.len();
        let significant = significant.trim_start_matches('0');
        if significant.is_empty() {
            return Some(Self::zero());
        }
        Some(Self {
            negative,
            digits: significant.to_owned(),
            exponent: i64::from(exponent) - i64::try_from(fraction.len()).ok()?
                + i64::try_from(zeros).ok()?,
        })
    }

    fn zero() -> Self {
        Self {
            negative: false,
            digits: String::new(),
            exponent: 0,
        }
    }

    /// The shortest number that is nearest to this DOUBLE: what was written, if that has at most 15 digits
    /// (`DBL_DIG` of C's `float.h`). Nothing of an infinity or NaN.
    pub(super) fn shortest(number: f64) -> Option<Self> {
        number
            .is_finite()
            .then(|| Self::parse(&format!("{number:e}")))?
    }

    pub(super) fn negated(mut self) -> Self {
        self.negative = !self.negative && !self.digits.is_empty();
        self
    }

    /// Whether it is the shortest of the numbers that are nearest to their DOUBLE, and comes back from it.
    pub(super) fn is_of_double(&self) -> bool {
        let sign = if self.negative { "-" } else { "" };
        let digits = if self.digits.is_empty() {
            "0"
        } else {
            &self.digits
        };
        let double = format!("{sign}{digits}e{}", self.exponent).parse();
        let shortest = double.ok().and_then(Self::shortest);
        shortest.is_some_and(|shortest| shortest == *self)
    }

    /// Digits before and behind the point.
    pub(super) fn places(&self) -> (usize, usize) {
        let digits = i64::try_from(self.digits.len()).unwrap_or(i64::MAX);
        let before = digits.saturating_add(self.exponent);
        let count = |places: i64| usize::try_from(places.max(0)).unwrap_or(usize::MAX);
        (count(before), count(self.exponent.saturating_neg()))
    }

    /// The number, or another one in its place among those with so many digits before and behind the point: above and below
    /// the same of them, and equal to none.
    pub(super) fn among(&self, (before, behind): (usize, usize)) -> Self {
        let own = self.places();
        let (digits, exponent) = if own.0 > before {
            ("1".to_owned(), i64::try_from(before))
        } else if own.1 > behind {
            let kept = self.digits.len().saturating_sub(own.1 - behind);
            let exponent = i64::try_from(behind).map(|behind| -behind - 1);
            (format!("{}5", &self.digits[..kept]), exponent)
        } else {
            return self.clone();
        };
        Self {
            negative: self.negative,
            digits,
            exponent: exponent.unwrap_or_default(),
        }
    }

    /// The same number as a DECIMAL with so many digits before and behind the point, none of which may be missing.
    pub(super) fn decimal(&self, (before, behind): (usize, usize)) -> Option<ScalarValue> {
        let least = self.places();
        if least.0 > before || least.1 > behind {
            return None;
        }
        let data_type = decimal_type((before, behind))?;
        let zeros = usize::try_from(i64::try_from(behind).ok()? + self.exponent).ok()?;
        let sign = if self.negative { "-" } else { "" };
        let digits = match self.digits.as_str() {
            "" => "0".to_owned(),
            digits => format!("{sign}{digits}{}", "0".repeat(zeros)),
        };
        match data_type {
            DataType::Decimal128(precision, scale) => Some(ScalarValue::Decimal128(
                Some(digits.parse().ok()?),
                precision,
                scale,
            )),
            DataType::Decimal256(precision, scale) => {
                let value = i256::from_string(&digits)?;
                Some(ScalarValue::Decimal256(Some(value), precision, scale))
            }
            _ => None,
        }
    }
}

/// Whether the DOUBLE of this text, which is no BIGINT, lacks some of its digits.
pub(super) fn lacks_digits(text: &str) -> bool {
    Written::parse(text).is_some_and(|written| !written.is_of_double())
}

/// The DECIMAL with so many digits before and behind the point; nothing if that is more than 76.
pub(super) fn decimal_type((before, behind): (usize, usize)) -> Option<DataType> {
    let precision = u8::try_from(before.checked_add(behind)?.max(1)).ok()?;
    let scale = i8::try_from(behind).ok()?;
    if precision <= DECIMAL128_MAX_PRECISION {
        Some(DataType::Decimal128(precision, scale))
    } else if precision <= DECIMAL256_MAX_PRECISION {
        Some(DataType::Decimal256(precision, scale))
    } else {
        None
    }
}

/// The DECIMAL of alternatives with so many digits before and behind the point: as DataFusion has it for `coalesce`, what is
/// more than 38 is taken from those before the point. A value that needs them is an error.
pub(super) fn alternatives_type((before, behind): (usize, usize)) -> Option<DataType> {
    let most = usize::from(DECIMAL128_MAX_PRECISION);
    decimal_type((before.min(most.checked_sub(behind)?), behind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str, places: (usize, usize)) -> Option<String> {
        let written = Written::parse(text).unwrap_or_else(|| panic!("{text} is a number"));
        written.decimal(places).map(|value| value.to_string())
    }

    #[test]
    fn a_number_has_the_digits_that_are_written() {
        for (text, places, shown) in [
            ("4.48", (8, 2), Some("4.48")),
            ("-4.480", (1, 3), Some("-4.480")),
            (".5", (0, 1), Some("0.5")),
            ("5.", (1, 0), Some("5")),
            ("1e3", (4, 0), Some("1000")),
            ("12.5E-1", (1, 2), Some("1.25")),
            ("0.000", (1, 1), Some("0.0")),
            ("-0", (1, 0), Some("0")),
            ("4.48", (8, 1), None),
            ("448", (2, 9), None),
            ("1e300", (400, 0), None),
        ] {
            assert_eq!(decimal(text, places).as_deref(), shown, "{text}");
        }
        let past = "12345678901234567890123456789012345678901";
        assert_eq!(decimal(past, (41, 1)), Some(format!("{past}.0")));
        for text in [
            "", "-", ".", "e5", "1e", "1.2.3", "0x1", "NaN", "1 ", "--1", "١",
        ] {
            assert_eq!(Written::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_number_that_is_out_of_sight_is_where_it_was() {
        for (text, same) in [
            ("4.48", "4.48"),
            ("4.4801", "4.485"),
            ("-0.00000001", "-0.005"),
            ("100", "100"),
            ("-123456789e300", "-100"),
            ("99.999999", "99.995"),
        ] {
            let among = Written::parse(text).map(|written| written.among((2, 2)));
            assert_eq!(among, Written::parse(same), "{text}");
        }
    }

    proptest! {
        #[test]
        fn up_to_fifteen_digits_come_back_from_a_double(digits in 0_u64..1_000_000_000_000_000, exponent in -40_i32..40) {
            let text = format!("{digits}e{exponent}");
            let double: f64 = text.parse().expect("it is a number");
            prop_assert_eq!(Written::shortest(double), Written::parse(&text));
        }
    }
}
