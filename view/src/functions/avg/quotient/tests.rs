// SPDX-License-Identifier: Apache-2.0
use std::cmp::Ordering;

use arrow::datatypes::{Decimal128Type, Decimal256Type, i256};
use proptest::prelude::*;

use super::*;

/// Totals and counts of all magnitudes, and those near a power of two, where rounding changes its step.
fn total() -> impl Strategy<Value = i128> {
    let near = (0_u32..127, -2_i128..=2).prop_map(|(bits, by)| (1_i128 << bits) + by);
    let any = (any::<i128>(), 0_u32..127).prop_map(|(total, bits)| total >> bits);
    prop_oneof![near, any].prop_flat_map(|total| prop_oneof![Just(total), Just(-total)])
}

fn count() -> impl Strategy<Value = i64> {
    let any = (1..=i64::MAX, 0_u32..62).prop_map(|(count, bits)| (count >> bits).max(1));
    prop_oneof![1_i64..1000, any]
}

/// `m · 2^e`, `m` odd or 0, of a finite double that is not negative.
fn parts(double: f64) -> (i256, i32) {
    let bits = double.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let exponent = i32::try_from(bits >> 52).unwrap();
    let (mantissa, exponent) = match exponent {
        0 => (fraction, -1074),
        _ => (fraction | 1 << 52, exponent - 1075),
    };
    let zeros = mantissa.trailing_zeros().min(63);
    let exponent = exponent + i32::try_from(zeros).unwrap();
    (i256::from_i128(i128::from(mantissa >> zeros)), exponent)
}

/// How `total / count` compares with the middle of two neighbouring doubles that are not negative.
fn against_middle(total: i128, count: i64, low: f64, high: f64) -> Ordering {
    let ((low, e_low), (high, e_high)) = (parts(low), parts(high));
    let least = e_low.min(e_high);
    let shifted = |number: i256, e: i32| number << u8::try_from(e - least).unwrap();
    // The middle is `sum · 2^(least - 1)`.
    let sum = shifted(low, e_low) + shifted(high, e_high);
    let right = sum * i256::from_i128(i128::from(count));
    let left = i256::from_i128(total);
    let by = least - 1;
    if by < 0 {
        let by = u8::try_from(-by).unwrap();
        (left << by).cmp(&right)
    } else {
        left.cmp(&(right << u8::try_from(by).unwrap()))
    }
}

proptest! {
    #[test]
    fn no_double_lies_nearer(total in total(), count in count()) {
        let found = nearest(total, count);
        prop_assert_eq!(found, -nearest(-total, count));
        let (total, found) = (total.abs(), found.abs());
        prop_assume!(total > 0);
        // Quotients of other sizes leave 256 bits; that of counts near their end with tiny totals.
        prop_assume!(count < 1 << 40 || total > 1 << 40);
        let even = found.to_bits() & 1 == 0;
        let below = against_middle(total, count, found.next_down(), found);
        prop_assert!(below == Ordering::Greater || below == Ordering::Equal && even, "{} is below", found);
        let above = against_middle(total, count, found, found.next_up());
        prop_assert!(above == Ordering::Less || above == Ordering::Equal && even, "{} is above", found);
    }

    #[test]
    fn decimals_are_rounded_half_away_from_zero(total in -(1_i128 << 80)..(1_i128 << 80), count in count(), digits in 0_u32..=4) {
        let more = 10_i128.pow(digits);
        let found = rounded::<Decimal128Type>(total, i128::from(count), more);
        let count = i128::from(count);
        let twice = 2 * total.abs() * more;
        let expected = ((twice + count) / (2 * count)) * total.signum();
        prop_assert_eq!(found, Some(expected));
        let wide = rounded::<Decimal256Type>(total.into(), count.into(), more.into());
        prop_assert_eq!(wide, Some(i256::from_i128(expected)));
    }
}

#[test]
fn halves_at_the_ends_of_doubles_go_to_the_even_one() {
    let step = 1_i128 << 53;
    let many = i128::from(i64::MAX);
    for (total, count, expected) in [
        (step + 1, 1, step),
        (step + 3, 1, step + 4),
        // A little more than the half, by a remainder alone.
        (3 * (step + 1) + 1, 3, step + 2),
        (3 * (step + 1) - 1, 3, step),
        // And by one that is far behind the last digit.
        (many * (step + 1) + 1, i64::MAX, step + 2),
        (many * (step + 1) - 1, i64::MAX, step),
        (i128::MIN, 1, i128::MIN),
    ] {
        assert_eq!(nearest(total, count), expected as f64, "{total} / {count}");
    }
    assert_eq!(nearest(0, 7), 0.0);
    assert_eq!(nearest(0, i64::MAX), 0.0);
    assert_eq!(nearest(1, i64::MAX), 2.0_f64.powi(-63));
}
