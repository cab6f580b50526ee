// SPDX-License-Identifier: Apache-2.0
//! The numbers of parameters, with all digits that JSON gives them.

use std::collections::BTreeMap;

use datafusion::common::ScalarValue;
use datafusion::common::metadata::{FieldMetadata, ScalarAndMetadata};

use super::written::lacks_digits;

/// The mark of a parameter with more digits than a DOUBLE has: its text.
const DIGITS: &str = "dovetail.digits";

/// The text of a parameter that is marked.
pub(super) fn digits_of_parameter(metadata: Option<&FieldMetadata>) -> Option<&str> {
    Some(metadata?.inner().get(DIGITS)?.as_str())
}

/// A number as JSON writes it, as a value of SQL: BIGINT where it is one, DOUBLE otherwise, with the digits that a DOUBLE
/// lacks at hand for [`ExactNumbers`](super::ExactNumbers). Nothing if it is none, or no DOUBLE is as large.
pub fn number_of_json(text: &str) -> Option<ScalarAndMetadata> {
    if let Ok(whole) = text.parse() {
        return Some(ScalarValue::Int64(Some(whole)).into());
    }
    if let Ok(whole) = text.parse() {
        return Some(ScalarValue::UInt64(Some(whole)).into());
    }
    let double: f64 = text.parse().ok()?;
    if !double.is_finite() {
        return None;
    }
    let digits = lacks_digits(text)
        .then(|| FieldMetadata::new(BTreeMap::from([(DIGITS.to_owned(), text.to_owned())])));
    Some(ScalarAndMetadata::new(
        ScalarValue::Float64(Some(double)),
        digits,
    ))
}
