// SPDX-License-Identifier: Apache-2.0
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray};
use arrow::compute::SortOptions;
use arrow::datatypes::Int64Type;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use proptest::prelude::*;

use super::*;
use crate::functions::testing::{ask, column};

const GROUPS: usize = 4;

fn place(name: &str, descending: bool, nulls_first: bool) -> (FieldRef, SortOptions) {
    let field = Arc::new(Field::new(name, DataType::Int64, true));
    let options = SortOptions {
        descending,
        nulls_first,
    };
    (field, options)
}

/// `array_agg(n ORDER BY a DESC NULLS FIRST, b)`.
fn lists_of_bigints(skips_nulls: bool) -> ManyLists {
    let places = vec![place("a", true, true), place("b", false, false)];
    let lists = OrderedLists::new(DataType::Int64, places, skips_nulls);
    ManyLists::new(lists, Finish::List)
}

#[derive(Debug, Clone)]
struct Event {
    group: usize,
    value: Option<i64>,
    a: Option<i64>,
    /// Unlike all others: the order is total.
    b: i64,
    passes: Option<bool>,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (
        0..GROUPS,
        proptest::option::of(-5..5_i64),
        proptest::option::of(0..3_i64),
        proptest::option::weighted(0.8, proptest::bool::weighted(0.7)),
    );
    proptest::collection::vec(event, 0..40).prop_map(|events| {
        let events = events.into_iter().zip([7, 3, 9, 1].into_iter().cycle());
        let events = events.enumerate();
        events
            .map(|(index, ((group, value, a, passes), lead))| Event {
                group,
                value,
                a,
                b: lead * 1000 + i64::try_from(index).unwrap(),
                passes,
            })
            .collect()
    })
}

fn columns(events: &[Event]) -> (Vec<ArrayRef>, Vec<usize>, BooleanArray) {
    let column = |of: fn(&Event) -> Option<i64>| -> ArrayRef {
        Arc::new(events.iter().map(of).collect::<Int64Array>())
    };
    let columns = vec![column(|e| e.value), column(|e| e.a), column(|e| Some(e.b))];
    let groups = events.iter().map(|e| e.group).collect();
    (columns, groups, events.iter().map(|e| e.passes).collect())
}

type Lists = Vec<Option<Vec<Option<i64>>>>;

fn expected(events: &[Event], filtered: bool, skips_nulls: bool) -> Lists {
    let of_group = |group| {
        let mut events: Vec<&Event> = events
            .iter()
            .filter(|e| e.group == group)
            .filter(|e| !filtered || e.passes == Some(true))
            .filter(|e| !skips_nulls || e.value.is_some())
            .collect();
        // NULL comes first, then the greatest.
        events.sort_by_key(|e| (e.a.is_some(), e.a.map(|a| -a), e.b));
        (!events.is_empty()).then(|| events.iter().map(|e| e.value).collect())
    };
    (0..GROUPS).map(of_group).collect()
}

fn read(lists: &ListArray) -> Lists {
    let list = |list: ArrayRef| list.as_primitive::<Int64Type>().iter().collect();
    lists.iter().map(|l| l.map(list)).collect()
}

proptest! {
    #[test]
    fn lists_do_not_depend_on_how_events_are_cut(
        events in events(),
        cut in 0..40_usize,
        filtered: bool,
        skips_nulls: bool,
    ) {
        let update = |lists: &mut ManyLists, events: &[Event]| {
            let (columns, groups, filter) = columns(events);
            let filter = filtered.then_some(&filter);
            lists.update_batch(&columns, &groups, filter, GROUPS).unwrap();
            (lists.convert_to_state(&columns, filter).unwrap(), groups)
        };
        let mut direct = lists_of_bigints(skips_nulls);
        let (each, groups) = update(&mut direct, &events);
        let mut of_each = lists_of_bigints(skips_nulls);
        of_each.merge_batch(&each, &groups, GROUPS).unwrap();

        let mut merged = lists_of_bigints(skips_nulls);
        let (early, late) = events.split_at(cut.min(events.len()));
        for part in [early, late] {
            let mut states = lists_of_bigints(skips_nulls);
            update(&mut states, part);
            // What is left after a part was given away moves up.
            let first = states.state(EmitTo::First(1)).unwrap();
            merged.merge_batch(&first, &[0], GROUPS).unwrap();
            let rest = states.state(EmitTo::All).unwrap();
            merged.merge_batch(&rest, &[1, 2, 3], GROUPS).unwrap();
        }
        let expected = expected(&events, filtered, skips_nulls);
        for mut lists in [direct, of_each, merged] {
            let found = lists.evaluate(EmitTo::All).unwrap();
            prop_assert_eq!(read(found.as_list()), expected.clone());
        }
    }
}

#[test]
fn a_state_whose_null_lists_hide_values_is_read_as_well() {
    let mut states = lists_of_bigints(false);
    let (columns, _, _) = columns(&[1, 2].map(|b| Event {
        group: 0,
        value: Some(b),
        a: None,
        b,
        passes: None,
    }));
    states.update_batch(&columns, &[0, 1], None, 2).unwrap();
    let state = states.state(EmitTo::All).unwrap();
    let whole: &ListArray = state[0].as_list();
    let nulls = Some(vec![false, true].into());
    let (field, offsets, values, _) = whole.clone().into_parts();
    let hidden = ListArray::new(field, offsets, values, nulls);

    // The places of the hidden list are not there.
    let places: &ListArray = state[1].as_list();
    let (field, _, values, _) = places.clone().into_parts();
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([0, 1]);
    let places = ListArray::new(field, offsets, values.slice(1, 1), None);

    let mut merged = lists_of_bigints(false);
    let columns: [ArrayRef; 2] = [Arc::new(hidden), Arc::new(places)];
    merged.merge_batch(&columns, &[0, 1], 2).unwrap();
    let found = merged.evaluate(EmitTo::All).unwrap();
    assert_eq!(read(found.as_list()), [None, Some(vec![Some(2)])]);
}

#[test]
fn what_is_held_is_counted_and_few_rows_hold_no_batch() {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..8192));
    let columns = vec![values; 3];
    let groups = vec![0; 8192];
    let column_bytes = 8192 * 8 * 3;

    let mut all = lists_of_bigints(false);
    all.update_batch(&columns, &groups, None, 1).unwrap();
    let sorting = column_bytes + 8192 * 28;
    let bytes = column_bytes + 8192 * 8 + sorting;
    assert!(
        (bytes..bytes + 1024).contains(&all.size()),
        "{}",
        all.size()
    );

    let one: BooleanArray = (0..8192).map(|row| Some(row == 100)).collect();
    let mut few = lists_of_bigints(false);
    few.update_batch(&columns, &groups, Some(&one), 1).unwrap();
    assert!(few.size() < 1024, "{}", few.size());

    all.evaluate(EmitTo::All).unwrap();
    assert!(all.size() < 1024, "{}", all.size());
}

#[tokio::test]
async fn it_means_in_queries_what_it_means_in_views() {
    let from = "FROM (VALUES (1, 'b', 2), (1, 'a', 1), (2, NULL, 3), (1, NULL, 0)) AS t(k, v, at)";
    let cases = [
        ("array_agg(v ORDER BY at)", ["[, a, b]", "[]"]),
        ("array_agg(v ORDER BY at DESC)", ["[b, a, ]", "[]"]),
        ("array_agg(v ORDER BY v NULLS FIRST)", ["[, a, b]", "[]"]),
        ("string_agg(v, '-' ORDER BY at DESC)", ["b-a", ""]),
        ("string_agg(v, '' ORDER BY at)", ["ab", ""]),
        ("string_agg(v, NULL ORDER BY at)", ["ab", ""]),
        (
            "array_agg(at ORDER BY v) FILTER (WHERE v <> 'a')",
            ["[2]", ""],
        ),
        ("array_agg(DISTINCT at ORDER BY at)", ["[0, 1, 2]", "[3]"]),
    ];
    for (call, expected) in cases {
        let grouped = format!("SELECT {call} AS x {from} GROUP BY k ORDER BY k");
        assert_eq!(column(&grouped).await, expected, "{call}");
        let whole = format!("SELECT {call} AS x {from} WHERE k = 1");
        assert_eq!(column(&whole).await, [expected[0]], "{call}");
    }
    // Each in its own order, in one statement.
    let both = format!(
        "SELECT string_agg(v, ',' ORDER BY at) || '/' || string_agg(v, ',' ORDER BY at DESC) AS x {from}"
    );
    assert_eq!(column(&both).await, ["a,b/b,a"]);

    let refused = ask(&format!("SELECT string_agg(v, v ORDER BY at) {from}")).await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("a text in quotes"), "{message}");
}
