// SPDX-License-Identifier: Apache-2.0
use arrow::array::{BinaryArray, Float64Array, StringArray};

use super::*;

fn one(batches: &[ArrayRef]) -> OneSketch {
    let mut sketch = OneSketch::default();
    for batch in batches {
        sketch.update_batch(std::slice::from_ref(batch)).unwrap();
    }
    sketch
}

fn count(sketch: &mut OneSketch) -> i64 {
    match sketch.evaluate().unwrap() {
        ScalarValue::Int64(Some(count)) => count,
        other => panic!("a count is a BIGINT, not {other}"),
    }
}

fn state(sketch: &mut OneSketch) -> Vec<u8> {
    match sketch.state().unwrap().pop().unwrap() {
        ScalarValue::Binary(state) => state.unwrap_or_default(),
        other => panic!("a state is binary, not {other}"),
    }
}

fn numbers(range: std::ops::Range<i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(range))
}

#[test]
fn few_values_are_counted_almost_exactly_in_few_bytes() {
    for n in [0, 1, 7, 8, 100, 300] {
        let mut sketch = one(&[numbers(0..n)]);
        assert!((count(&mut sketch) - n).abs() <= 1, "{n} values");
        let bytes = state(&mut sketch).len() as i64;
        assert!(bytes <= 12 + 4 * n, "{bytes} bytes for {n} values");
    }
}

#[test]
fn many_values_are_counted_within_three_standard_errors_in_two_kilobytes() {
    for n in [1_000, 10_000, 200_000] {
        let mut sketch = one(&[numbers(0..n)]);
        let error = (count(&mut sketch) - n).abs() as f64 / n as f64;
        assert!(
            error <= 3.0 * APPROX_DISTINCT_RELATIVE_ERROR,
            "{error} for {n} values"
        );
        assert!(state(&mut sketch).len() <= 2_200);
    }
}

#[test]
fn the_count_is_a_function_of_the_set_of_values() {
    for n in [5_i64, 200, 500, 5_000, 50_000] {
        let expected = count(&mut one(&[numbers(0..n)]));
        let reversed: ArrayRef = Arc::new(Int64Array::from_iter_values((0..n).rev()));
        assert_eq!(count(&mut one(&[reversed, numbers(0..n / 2)])), expected);
        for parts in [2, 3, 17] {
            let step = (n / parts).max(1);
            let mut merged = OneSketch::default();
            for from in (0..n).step_by(step as usize) {
                // Overlapping parts: what two sketches share counts once.
                let mut part = one(&[numbers((from - step / 2).max(0)..(from + step).min(n))]);
                let state: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&state(&mut part)]));
                merged.merge_batch(&[state]).unwrap();
            }
            assert_eq!(count(&mut merged), expected, "{n} values in {parts} parts");
        }
    }
}

#[test]
fn nulls_do_not_count_and_equal_values_count_once() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![
        Some(0.0),
        Some(-0.0),
        Some(f64::NAN),
        Some(-f64::NAN),
        None,
        Some(1.5),
    ]));
    assert_eq!(count(&mut one(&[floats])), 3);
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None, Some("a"), Some("")]));
    assert_eq!(count(&mut one(&[texts])), 2);
}

#[test]
fn a_damaged_state_is_an_error() {
    let damaged: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"no sketch"]));
    assert!(OneSketch::default().merge_batch(&[damaged]).is_err());
}
