// SPDX-License-Identifier: Apache-2.0
//! The states of runs that follow one another, where one has far more groups than the others together: as after a while of
//! merging, when a little has come since. They are found among its groups, and nothing is hashed or put in order.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array, make_comparator};
use arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};

use crate::common_keys::ORDER;
use crate::replaced;
use crate::state::{batch, key_arrays};
use crate::{CommonKeys, Run, View, ViewError};

/// The others have one group for so many of the largest one, at most.
const FEW: usize = 4;
/// And for so many, one that is new to it.
const FEW_NEW: usize = 16;

impl View {
    /// The states of runs that follow one another, merged as [`Self::merge`] does and in sort-key order.
    ///
    /// # Errors
    /// When a run does not start where the one before it ends, or states cannot be merged.
    pub fn merge_in_order(&self, adjacent: &[Arc<Run>]) -> Result<RecordBatch, ViewError> {
        let schema = self.state_schema();
        if adjacent.is_empty() {
            return Ok(RecordBatch::new_empty(schema));
        }
        if let Some(states) = self.merge_into_largest(adjacent)? {
            return Ok(states);
        }
        let merged = self.merge(adjacent)?;
        Ok(concat_batches(&schema, merged.states())?)
    }

    /// None when it is none of the cases that this is cheaper for.
    fn merge_into_largest(&self, runs: &[Arc<Run>]) -> Result<Option<RecordBatch>, ViewError> {
        let largest = (0..runs.len()).max_by_key(|run| runs[*run].rows());
        let Some(largest) = largest.filter(|_| self.has_flat_keys()) else {
            return Ok(None);
        };
        let rows: usize = runs.iter().map(|run| run.rows()).sum();
        if (rows - runs[largest].rows()) * FEW > runs[largest].rows() {
            return Ok(None);
        }
        let schema = self.state_schema();
        let mut states = concat_batches(&schema, runs[largest].states())?;
        let (before, behind) = (&runs[..largest], &runs[largest + 1..]);
        for (few, are_earlier) in [(before, true), (behind, false)] {
            if few.is_empty() {
                continue;
            }
            let few = concat_batches(&schema, self.merge(few)?.states())?;
            let Some(merged) = self.merge_few(&states, &few, are_earlier)? else {
                return Ok(None);
            };
            states = merged;
        }
        Ok(Some(states))
    }

    fn has_flat_keys(&self) -> bool {
        let (keys, schema) = (self.keys().len(), self.state_schema());
        let mut fields = schema.fields()[..keys].iter();
        keys > 0 && fields.all(|field| !field.data_type().is_nested())
    }

    /// `many` with `few` merged into them; both are in sort-key order, each key once, as what comes of it is. None when too
    /// many groups are new.
    fn merge_few(
        &self,
        many: &RecordBatch,
        few: &RecordBatch,
        are_earlier: bool,
    ) -> Result<Option<RecordBatch>, ViewError> {
        let CommonKeys { pairs, .. } = self.common_keys(many, few)?;
        let new = few.num_rows() - pairs.len();
        if new * FEW_NEW > many.num_rows() {
            return Ok(None);
        }
        let rows = |of: fn(&(usize, usize)) -> usize| -> UInt32Array {
            pairs.iter().map(|pair| of(pair) as u32).collect()
        };
        let of_many = take_record_batch(many, &rows(|pair| pair.0))?;
        let of_few = take_record_batch(few, &rows(|pair| pair.1))?;
        let (earlier, later) = match are_earlier {
            true => (of_few, of_many),
            false => (of_many, of_few),
        };
        let measured: Vec<usize> = (self.keys().len()..later.num_columns()).collect();
        let same = (0..later.num_rows()).collect();
        let both = self.merge_with(&earlier, &[(later.project(&measured)?, same)])?;

        if new == 0 {
            let pairs: Vec<(usize, usize)> = (pairs.iter().map(|pair| pair.0)).zip(0..).collect();
            let (schema, mut columns, rows) = many.clone().into_parts();
            for index in measured {
                columns[index] = replaced(Arc::clone(&columns[index]), both.column(index), &pairs)?;
            }
            return Ok(Some(batch(&schema, columns, rows)?));
        }
        // Which batch a row is from, and which row of that.
        let mut places: Vec<(usize, usize)> = (0..many.num_rows()).map(|row| (0, row)).collect();
        let mut is_new = vec![true; few.num_rows()];
        for (row, (of_many, of_few)) in pairs.iter().enumerate() {
            places[*of_many] = (2, row);
            is_new[*of_few] = false;
        }
        let places = self.with_new(&places, many, few, &is_new)?;
        Ok(Some(interleave_record_batch(&[many, few, &both], &places)?))
    }

    /// The `places` of the rows of `many`, with those of `few` that are new between them.
    fn with_new(
        &self,
        places: &[(usize, usize)],
        many: &RecordBatch,
        few: &RecordBatch,
        is_new: &[bool],
    ) -> Result<Vec<(usize, usize)>, ViewError> {
        let columns = |batch| key_arrays(self.sort_key().keys(), self.sort_key().order(), batch);
        let both = columns(many)?.into_iter().zip(columns(few)?);
        let compared = both.map(|(many, few)| make_comparator(&many, &few, ORDER));
        let compared = compared.collect::<Result<Vec<_>, _>>()?;
        let compare = |many: usize, few: usize| {
            let mut orders = compared.iter().map(|column| column(many, few));
            orders
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        };
        let mut all = Vec::with_capacity(places.len() + few.num_rows());
        let mut done = 0;
        for row in (0..few.num_rows()).filter(|row| is_new[*row]) {
            let (mut low, mut high) = (done, places.len());
            while low < high {
                let middle = low.midpoint(high);
                match compare(middle, row) {
                    Ordering::Less => low = middle + 1,
                    _ => high = middle,
                }
            }
            all.extend_from_slice(&places[done..low]);
            all.push((1, row));
            done = low;
        }
        all.extend_from_slice(&places[done..]);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use dovetail_model::{
        Column, ColumnType, Offset, Position, Span, StreamSchema, UnknownColumns,
    };
    use proptest::prelude::*;

    use super::*;

    const SQL: &str = "SELECT n, t, count(*) AS c, sum(n) AS s, avg(v) AS a, min(v) AS low, max(t) AS high, \
                       count(DISTINCT v) AS d, median(v) AS m FROM events GROUP BY t, n";

    fn view() -> View {
        let column = |name: &str, column_type| Column {
            name: name.to_owned(),
            column_type,
            nullable: true,
        };
        let schema = StreamSchema {
            columns: vec![
                column("n", ColumnType::BigInt),
                column("t", ColumnType::Varchar),
                column("v", ColumnType::BigInt),
            ],
            event_time: None,
            unknown_columns: UnknownColumns::Ignore,
        };
        View::compile(SQL, &BTreeMap::from([("events".to_owned(), schema)])).unwrap()
    }

    /// Of events from an offset on.
    fn run(view: &View, from: usize, events: &[(Option<i64>, Option<u8>)]) -> Arc<Run> {
        let texts = events
            .iter()
            .map(|(_, t)| t.map(|t| "text".repeat(t as usize % 4) + &t.to_string()));
        let columns: [(&str, ArrayRef); 3] = [
            (
                "n",
                Arc::new(events.iter().map(|(n, _)| *n).collect::<Int64Array>()),
            ),
            ("t", Arc::new(texts.collect::<StringArray>())),
            (
                "v",
                Arc::new(
                    (0..events.len())
                        .map(|i| (i % 3 > 0).then_some(i as i64))
                        .collect::<Int64Array>(),
                ),
            ),
        ];
        let events = RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, column)| (name, column, true)),
        );
        let events = events.unwrap();
        let at = |offset: usize| Position::single(Offset(offset as u64));
        let span = Span::new(at(from), at(from + events.num_rows())).unwrap();
        Arc::new(view.accumulate(&events, span).unwrap())
    }

    type Events = Vec<(Option<i64>, Option<u8>)>;

    fn events(count: std::ops::Range<usize>) -> impl Strategy<Value = Events> {
        let n = prop_oneof![1 => Just(None), 9 => (-9_i64..9).prop_map(Some)];
        let t = prop_oneof![1 => Just(None), 9 => (0_u8..12).prop_map(Some)];
        prop::collection::vec((n, t), count)
    }

    proptest! {
        /// Whichever run is the largest one, and however much of the others is new to it.
        #[test]
        fn states_are_those_of_a_merge(
            before in prop::collection::vec(events(0..5), 0..3),
            many in events(0..400),
            behind in prop::collection::vec(events(0..5), 0..3),
        ) {
            let view = view();
            let mut runs = vec![];
            let mut at = 0;
            for events in before.iter().chain([&many]).chain(&behind) {
                runs.push(run(&view, at, events));
                at += events.len();
            }
            let merged = view.merge(&runs).unwrap();
            let expected = concat_batches(&view.state_schema(), merged.states()).unwrap();
            let states = view.merge_in_order(&runs).unwrap();
            // Of a state that is a set the order is nobody's business: it is finished.
            let finish = |states: &RecordBatch| view.finisher(&[0, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap().finish_unique(states).unwrap();
            prop_assert_eq!(finish(&states), finish(&expected));
        }
    }

    #[test]
    fn a_few_groups_are_put_between_many() {
        let view = view();
        let many: Events = (0..400)
            .map(|i| (Some(i / 20 * 2), Some((i % 20) as u8)))
            .collect();
        let few = vec![
            (Some(7), Some(3)),
            (Some(-1), None),
            (None, Some(1)),
            (Some(8), Some(4)),
        ];
        let runs = [
            run(&view, 0, &few),
            run(&view, 4, &many),
            run(&view, 404, &few),
        ];
        let states = view
            .merge_into_largest(&runs)
            .unwrap()
            .expect("one is much larger");
        assert_eq!(states.num_rows(), 403);
        assert_eq!(states, view.merge_in_order(&runs).unwrap());
        let other: Events = (0..40).map(|i| (Some(i), Some(200))).collect();
        let runs = [run(&view, 0, &many), run(&view, 400, &other)];
        assert!(
            view.merge_into_largest(&runs).unwrap().is_none(),
            "too many are new"
        );
        assert_eq!(view.merge_in_order(&runs).unwrap().num_rows(), 440);
    }
}
