// SPDX-License-Identifier: Apache-2.0
//! The ends of a result: what of the wide numbers fits it; and the name of the call, for when one does not.

use arrow::array::ArrowNativeTypeOp;
use arrow::datatypes::DataType;

use super::Wide;

/// The least and the greatest number that a type holds, as totals of type `S`.
#[derive(Debug)]
pub(in crate::functions) struct Ends<S: Wide> {
    least: S::Native,
    greatest: S::Native,
}

impl<S: Wide> Ends<S> {
    /// Those of BIGINT [UNSIGNED], durations and DECIMALs.
    pub(in crate::functions) fn of(result: &DataType) -> Self {
        let (least, greatest) = match result {
            DataType::UInt64 => (S::Native::from(0), S::Native::from(i128::from(u64::MAX))),
            DataType::Decimal32(precision, _)
            | DataType::Decimal64(precision, _)
            | DataType::Decimal128(precision, _)
            | DataType::Decimal256(precision, _) => {
                let greatest = S::MAX_FOR_EACH_PRECISION[usize::from(*precision)];
                (greatest.neg_wrapping(), greatest)
            }
            // BIGINT and durations.
            _ => (
                S::Native::from(i128::from(i64::MIN)),
                S::Native::from(i128::from(i64::MAX)),
            ),
        };
        Self { least, greatest }
    }

    pub(in crate::functions) fn hold(&self, number: S::Native) -> bool {
        self.least <= number && number <= self.greatest
    }
}

/// `sum(x)` of `sum(x) FILTER (WHERE …)` and of what a window adds.
pub(in crate::functions) fn call(name: &str) -> &str {
    let mut open = 0_usize;
    let end = name.find(|c| {
        open += usize::from(c == '(');
        c == ')' && {
            open = open.saturating_sub(1);
            open == 0
        }
    });
    end.map_or(name, |end| &name[..=end])
}
