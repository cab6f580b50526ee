// SPDX-License-Identifier: Apache-2.0
//! Which rows of several sorted batches are of one group.

use arrow::array::UInt64Array;

use crate::keyed::Taken;

/// The groups of several batches that are each in order, each key once.
///
/// DataFusion's accumulators take it that of the groups there are, each has had a row by the end of a batch: a group
/// that only later batches have would count as one that has seen a value. So groups are numbered batch by batch, and
/// put in order behind.
pub(super) struct MergedKeys {
    /// Of each batch, the group of each row, and how many groups there are up to it.
    pub(super) groups: Vec<(Vec<usize>, usize)>,
    /// Of each group, in order, the first batch that has it, and the row there.
    pub(super) firsts: Vec<(usize, usize)>,
    /// The numbers of the groups, in order.
    pub(super) order: UInt64Array,
}

impl MergedKeys {
    pub(super) fn new(sorted: &[Taken]) -> Self {
        let mut rows: Vec<(usize, usize)> = Vec::new();
        for (batch, taken) in sorted.iter().enumerate() {
            rows.extend((0..taken.states().num_rows()).map(|row| (batch, row)));
        }
        let key = |(batch, row): (usize, usize)| sorted[batch].key(row);
        // It finds what is in order already, and merges that. Of equal keys the one of an earlier batch is first.
        rows.sort_by(|a, b| key(*a).cmp(key(*b)));
        let mut firsts: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
        let mut places: Vec<Vec<usize>> = sorted
            .iter()
            .map(|taken| vec![0; taken.states().num_rows()])
            .collect();
        for (batch, row) in rows {
            let last = firsts.last();
            if last.is_none_or(|last| key(*last) != key((batch, row))) {
                firsts.push((batch, row));
            }
            places[batch][row] = firsts.len() - 1;
        }
        let mut so_far = vec![0; sorted.len()];
        firsts.iter().for_each(|(batch, _)| so_far[*batch] += 1);
        let mut next = 0;
        let mut nexts: Vec<usize> = Vec::with_capacity(sorted.len());
        for count in &mut so_far {
            nexts.push(next);
            next += *count;
            *count = next;
        }
        let numbers: Vec<usize> = firsts
            .iter()
            .map(|(batch, _)| {
                nexts[*batch] += 1;
                nexts[*batch] - 1
            })
            .collect();
        for place in places.iter_mut().flatten() {
            *place = numbers[*place];
        }
        Self {
            groups: places.into_iter().zip(so_far).collect(),
            firsts,
            order: UInt64Array::from_iter_values(numbers.into_iter().map(|n| n as u64)),
        }
    }
}
