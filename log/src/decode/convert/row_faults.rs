// SPDX-License-Identifier: Apache-2.0
//! Which rows of a batch are bad, and why; also rows seen from inside structs and lists.

use arrow::array::BooleanArray;
use arrow::buffer::NullBuffer;

use crate::decode::fault::Described;

/// The row of a batch that a nested value belongs to.
pub(super) enum Rows<'a> {
    /// Values of a top-level column are rows.
    Top,
    /// Fields of a struct; where it is null they do not count.
    Struct {
        parent: &'a Rows<'a>,
        nulls: Option<&'a NullBuffer>,
    },
    /// Items of a list, with none between or behind the lists.
    List {
        parent: &'a Rows<'a>,
        offsets: &'a [i32],
    },
}

impl Rows<'_> {
    /// None if the value at `index` belongs to no row.
    pub(super) fn of(&self, index: usize) -> Option<usize> {
        match self {
            Self::Top => Some(index),
            Self::Struct { parent, nulls } => {
                let visible = nulls.is_none_or(|nulls| nulls.is_valid(index));
                visible.then(|| parent.of(index)).flatten()
            }
            Self::List { parent, offsets } => {
                let at = i32::try_from(index).ok()?;
                // The last list that starts at or before the item.
                let starts = offsets.partition_point(|start| *start <= at);
                parent.of(starts.checked_sub(1)?)
            }
        }
    }
}

/// The bad rows of one batch.
pub(super) struct RowFaults {
    rows: usize,
    keeps_all: bool,
    /// Empty as long as no row is bad.
    bad: Vec<bool>,
    /// Descriptions: of every bad row, or only of the first one.
    described: Vec<(usize, Described)>,
}

impl RowFaults {
    pub(super) fn new(rows: usize, keeps_all: bool) -> Self {
        Self {
            rows,
            keeps_all,
            bad: Vec::new(),
            described: Vec::new(),
        }
    }

    /// Notes that `row` is bad. What that takes in memory, in bytes.
    pub(super) fn note(&mut self, row: usize, describe: impl FnOnce() -> Described) -> usize {
        if self.bad.is_empty() {
            self.bad = vec![false; self.rows];
        }
        let known = std::mem::replace(&mut self.bad[row], true);
        let first = self.described.first().is_none_or(|(first, _)| row < *first);
        if (self.keeps_all && known) || (!self.keeps_all && !first) {
            return 0;
        }
        let described = describe();
        let bytes = size_of::<(usize, Described)>()
            + described.reason.len()
            + described.column.as_ref().map_or(0, String::len);
        if self.keeps_all {
            self.described.push((row, described));
        } else {
            self.described = vec![(row, described)];
        }
        bytes
    }

    /// Which rows are good; none if all are.
    pub(super) fn good_rows(&self) -> Option<BooleanArray> {
        let good = || self.bad.iter().map(|bad| Some(!bad)).collect();
        (!self.bad.is_empty()).then(good)
    }

    /// Every bad row in order, with its description if it was kept.
    pub(super) fn into_described(mut self) -> impl Iterator<Item = (usize, Option<Described>)> {
        self.described.sort_by_key(|(row, _)| *row);
        let mut described = self.described.into_iter().peekable();
        self.bad
            .into_iter()
            .enumerate()
            .filter_map(|(row, bad)| bad.then_some(row))
            .map(move |row| {
                let own = described.next_if(|(at, _)| *at == row);
                (row, own.map(|(_, described)| described))
            })
    }
}
