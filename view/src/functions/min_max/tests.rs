// SPDX-License-Identifier: Apache-2.0
use arrow::array::Float64Array;
use proptest::prelude::*;

use super::*;

fn value() -> impl Strategy<Value = Option<f64>> {
    let odd = [
        0.0,
        -0.0,
        1.5,
        f64::NAN,
        -f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
    ];
    proptest::option::of(proptest::sample::select(odd.to_vec()))
}

/// The best value, by the accumulator of many groups and by that of one.
fn best(keep: Ordering, values: &[Option<f64>]) -> (Option<u64>, Option<u64>) {
    let array: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
    let mut many = Many::<Float64Type>::new(keep);
    many.update_batch(&[Arc::clone(&array)], &vec![0; values.len()], None, 1)
        .unwrap();
    let many = many.evaluate(EmitTo::All).unwrap();
    let many = many.as_primitive::<Float64Type>().iter().next().flatten();
    let mut one = One::<Float64Type>::new(keep);
    one.update_batch(&[array]).unwrap();
    (many.map(f64::to_bits), one.best.map(f64::to_bits))
}

proptest! {
    #[test]
    fn the_best_value_does_not_depend_on_the_order(values in proptest::collection::vec(value(), 0..8)) {
        for keep in [Ordering::Less, Ordering::Greater] {
            let (many, one) = best(keep, &values);
            prop_assert_eq!(many, one);
            let mut sorted = values.clone();
            sorted.sort_by_key(|v| v.map(f64::to_bits));
            prop_assert_eq!(best(keep, &sorted).0, many);
        }
    }
}

#[test]
fn nan_is_the_greatest_and_infinities_are_values() {
    let of = |keep, values: &[f64]| {
        let values: Vec<Option<f64>> = values.iter().copied().map(Some).collect();
        f64::from_bits(best(keep, &values).0.unwrap())
    };
    assert!(of(Ordering::Greater, &[f64::NAN, f64::INFINITY]).is_nan());
    assert_eq!(of(Ordering::Less, &[f64::NAN, 1.0]), 1.0);
    assert_eq!(of(Ordering::Less, &[f64::INFINITY]), f64::INFINITY);
    assert_eq!(
        of(Ordering::Greater, &[f64::NEG_INFINITY]),
        f64::NEG_INFINITY
    );
}
