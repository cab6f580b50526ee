// SPDX-License-Identifier: Apache-2.0
use std::collections::HashMap;

use arrow::array::{BooleanArray, Date32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use proptest::prelude::*;

use super::*;

type Row = (Option<i32>, Option<String>, Option<i64>, Option<bool>);

/// Values that are few, and the ends of their types.
fn row() -> impl Strategy<Value = Row> {
    let days = prop_oneof![
        Just(None),
        Just(Some(i32::MIN)),
        Just(Some(-1)),
        Just(Some(0))
    ];
    let texts = proptest::option::of(prop_oneof![Just("a".to_owned()), Just(String::new())]);
    let numbers = prop_oneof![
        Just(None),
        Just(Some(i64::MIN)),
        Just(Some(0)),
        Just(Some(-1))
    ];
    (days, texts, numbers, proptest::option::of(any::<bool>()))
}

/// The columns of rows, `which` of them, and texts in dictionary form if `is_coded`.
fn columns(rows: &[Row], which: &[usize], is_coded: bool) -> Vec<ArrayRef> {
    let texts: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|row| row.1.clone())));
    let form = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let all: [ArrayRef; 4] = [
        Arc::new(Date32Array::from_iter(rows.iter().map(|row| row.0))),
        match is_coded {
            true => cast(&texts, &form).unwrap(),
            false => texts,
        },
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.2))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.3))),
    ];
    which
        .iter()
        .map(|column| Arc::clone(&all[*column]))
        .collect()
}

fn in_words(columns: &[ArrayRef]) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let columns = columns.iter();
    let formatters: Vec<_> = columns
        .clone()
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let rows = columns.clone().next().map_or(0, |column| column.len());
    let row = |row| {
        formatters
            .iter()
            .map(|f| f.value(row).to_string())
            .collect()
    };
    (0..rows).map(row).collect()
}

proptest! {
    /// Groups are numbered as they come, each once, and have the keys that made them.
    #[test]
    fn rows_are_one_group_exactly_if_all_their_keys_are_equal(
        batches in proptest::collection::vec(proptest::collection::vec(row(), 0..30), 1..6),
        coded in proptest::collection::vec(any::<bool>(), 6),
        which in Just(vec![0, 1, 2, 3]).prop_shuffle(),
        keys in 1..5_usize,
    ) {
        let which = &which[..keys];
        let of_none = columns(&[], which, false);
        let fields = of_none.iter().enumerate();
        let fields = fields.map(|(index, column)| {
            Field::new(format!("k{index}"), column.data_type().clone(), true)
        });
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let mut table = codes(&schema).unwrap().unwrap();
        let mut expected: HashMap<Vec<String>, usize> = HashMap::new();
        let mut in_order = Vec::new();
        for (batch, is_coded) in batches.iter().zip(&coded) {
            let columns = columns(batch, which, *is_coded);
            let mut found = Vec::new();
            table.intern(&columns, &mut found).unwrap();
            let rows = in_words(&columns).into_iter().map(|row| {
                let next = expected.len();
                *expected.entry(row.clone()).or_insert_with(|| {
                    in_order.push(row);
                    next
                })
            });
            prop_assert_eq!(found, rows.collect::<Vec<_>>());
        }
        prop_assert_eq!(table.len(), in_order.len());
        if !in_order.is_empty() {
            let keys = table.take_keys().unwrap();
            // They are of the keys' types.
            RecordBatch::try_new(Arc::new(schema), keys.clone()).unwrap();
            prop_assert_eq!(in_words(&keys), in_order);
        }
    }
}
