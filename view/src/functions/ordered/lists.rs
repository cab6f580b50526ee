// SPDX-License-Identifier: Apache-2.0
//! The values of all groups, each with its places in the order.

use std::cmp::Ordering;
use std::mem::take;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DynComparator, ListArray, StructArray, UInt32Array,
    make_comparator, new_empty_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, interleave, take as take_rows};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::error::ArrowError;
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::EmitTo;

use crate::state::bytes_of_column;

/// What a sort takes for each value beside copies of the columns: its chunk and row as an entry (8 bytes) and as
/// `interleave` wants them (16 bytes), and its number (4 bytes).
const SORT_BYTES_PER_VALUE: usize = 28;

/// A group, or a chunk, and a row of a chunk.
type Entry = (u32, u32);

/// Rows of one batch. The value comes first, then its places.
#[derive(Debug)]
struct Chunk {
    columns: Vec<ArrayRef>,
    rows: Vec<Entry>,
}

/// The lists of groups `0..groups`.
#[derive(Debug)]
pub(super) struct OrderedLists {
    value: DataType,
    places: Vec<FieldRef>,
    options: Vec<SortOptions>,
    skips_nulls: bool,
    groups: usize,
    chunks: Vec<Chunk>,
    values: usize,
    column_bytes: usize,
}

/// The lists of some groups, in order.
pub(super) struct Sorted {
    /// Where the list of each group begins in `values`, and where the last ends.
    pub(super) offsets: OffsetBuffer<i32>,
    /// Which groups have values.
    nulls: Option<NullBuffer>,
    pub(super) values: ArrayRef,
    /// As long as `values`, not in order yet: only states need them.
    places: Vec<ArrayRef>,
    /// Which of the places comes when.
    order: UInt32Array,
}

impl OrderedLists {
    pub(super) fn new(
        value: DataType,
        places: Vec<(FieldRef, SortOptions)>,
        skips_nulls: bool,
    ) -> Self {
        let (places, options) = places.into_iter().unzip();
        Self {
            value,
            places,
            options,
            skips_nulls,
            groups: 0,
            chunks: Vec::new(),
            values: 0,
            column_bytes: 0,
        }
    }

    /// The names and types of places.
    pub(super) fn places(&self) -> &[FieldRef] {
        &self.places
    }

    /// There are at least so many groups.
    pub(super) fn reach(&mut self, groups: usize) {
        self.groups = self.groups.max(groups);
    }

    /// An empty one of the same call.
    pub(super) fn another(&self) -> Self {
        let places = self.places.iter().cloned().zip(self.options.clone());
        Self::new(self.value.clone(), places.collect(), self.skips_nulls)
    }

    /// Takes in the rows of a batch that pass `filter`: row `i` belongs to group `groups[i]`.
    pub(super) fn push(
        &mut self,
        value: &ArrayRef,
        places: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.groups = total_groups;
        let nulls = self.skips_nulls.then(|| value.logical_nulls()).flatten();
        let is_in = |row: usize| {
            filter.is_none_or(|f| f.is_valid(row) && f.value(row))
                && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
        };
        let rows = groups.iter().enumerate().filter(|(row, _)| is_in(*row));
        let rows = rows.map(|(row, group)| entry(*group, row)).collect();
        let columns = [value].into_iter().chain(places).cloned().collect();
        self.hold(columns, rows)
    }

    /// Takes in lists and their places: row `i` is of group `groups[i]`.
    pub(super) fn merge(
        &mut self,
        lists: &ListArray,
        places: &ListArray,
        groups: &[usize],
        total_groups: usize,
    ) -> Result<()> {
        self.groups = total_groups;
        let mut rows = Vec::new();
        let mut aligned = true;
        let [(first, values), (first_place, place_rows)] = [lists, places].map(referred);
        for (row, group) in groups.iter().enumerate() {
            if lists.is_null(row) {
                continue;
            }
            let length = lists.value_length(row);
            if length != places.value_length(row) {
                return internal_err!("a state has a list of {length} values, but other places");
            }
            let [from, place] = [
                lists.value_offsets()[row] - first,
                places.value_offsets()[row] - first_place,
            ];
            aligned &= from == place;
            rows.extend((from..from + length).map(|value| entry(*group, value as usize)));
        }
        if !aligned {
            // Behind a list that is NULL may be values that nobody sees. A copy has none.
            let seen: Vec<usize> = (0..lists.len())
                .filter(|row| lists.is_valid(*row))
                .collect();
            let groups: Vec<usize> = seen.iter().map(|row| groups[*row]).collect();
            let seen = UInt32Array::from_iter_values(seen.into_iter().map(as_u32));
            let [lists, places] = [
                take_rows(lists, &seen, None)?,
                take_rows(places, &seen, None)?,
            ];
            return self.merge(lists.as_list(), places.as_list(), &groups, total_groups);
        }
        let places = place_rows.as_struct().columns().iter().cloned();
        self.hold([values].into_iter().chain(places).collect(), rows)
    }

    fn hold(&mut self, mut columns: Vec<ArrayRef>, mut rows: Vec<Entry>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        // Few rows shall not keep a large batch alive. Of lists in lists, a slice does not know its size.
        if rows.len() * 2 < columns[0].len() || columns.iter().any(|c| c.data_type().is_nested()) {
            let kept = UInt32Array::from_iter_values(rows.iter().map(|(_, row)| *row));
            for column in &mut columns {
                *column = take_rows(column, &kept, None)?;
            }
            for (place, (_, row)) in rows.iter_mut().enumerate() {
                *row = as_u32(place);
            }
        }
        rows.shrink_to_fit();
        self.values += rows.len();
        self.column_bytes += columns.iter().map(bytes_of_column).sum::<usize>();
        self.chunks.push(Chunk { columns, rows });
        Ok(())
    }

    /// Takes the lists of the first groups, each in order. The others move up.
    pub(super) fn take_sorted(&mut self, emit_to: EmitTo) -> Result<Sorted> {
        let taken = match emit_to {
            EmitTo::All => self.groups,
            EmitTo::First(groups) => groups,
        };
        let sorted = self.sorted(taken)?;
        match emit_to {
            EmitTo::All => *self = self.another(),
            EmitTo::First(_) => self.drop_first(taken)?,
        }
        Ok(sorted)
    }

    fn sorted(&self, groups: usize) -> Result<Sorted> {
        let (lengths, found) = self.by_group(groups);
        let total = found.len();
        let nulls: NullBuffer = lengths.iter().map(|length| *length > 0).collect();
        // Checked before anything is made of it.
        if i32::try_from(total).is_err() {
            return Err(ArrowError::OffsetOverflowError(total).into());
        }
        let offsets = OffsetBuffer::from_lengths(lengths);
        let at = positions(&found);
        let places: Result<Vec<ArrayRef>> = (0..self.places.len())
            .map(|place| self.gather(place + 1, self.places[place].data_type(), &at))
            .collect();
        drop(at);
        let places = places?;
        let order = self.order(&offsets, &places)?;
        let at = positions(order.values().iter().map(|value| &found[*value as usize]));
        drop(found);
        Ok(Sorted {
            offsets,
            nulls: (nulls.null_count() > 0).then_some(nulls),
            values: self.gather(0, &self.value, &at)?,
            places,
            order,
        })
    }

    /// How many values each group has, and their chunks and rows, group after group, in the order they came.
    fn by_group(&self, groups: usize) -> (Vec<usize>, Vec<Entry>) {
        let entries = || {
            let chunks = self.chunks.iter().enumerate();
            let entries = chunks.flat_map(|(chunk, c)| c.rows.iter().map(move |e| (chunk, *e)));
            entries.filter(|(_, (group, _))| (*group as usize) < groups)
        };
        let mut lengths = vec![0; groups];
        for (_, (group, _)) in entries() {
            lengths[group as usize] += 1;
        }
        let mut next: Vec<usize> = lengths
            .iter()
            .scan(0, |end, length| {
                let start = *end;
                *end += length;
                Some(start)
            })
            .collect();
        let mut found = vec![(0, 0); lengths.iter().sum()];
        for (chunk, (group, row)) in entries() {
            let next = &mut next[group as usize];
            found[*next] = (as_u32(chunk), row);
            *next += 1;
        }
        (lengths, found)
    }

    fn gather(&self, column: usize, r#type: &DataType, at: &[(usize, usize)]) -> Result<ArrayRef> {
        if at.is_empty() {
            return Ok(new_empty_array(r#type));
        }
        let chunks = self.chunks.iter().map(|c| c.columns[column].as_ref());
        Ok(interleave(&chunks.collect::<Vec<_>>(), at)?)
    }

    /// Which value comes when: a permutation within each list. What is equal stays in the order it came.
    fn order(&self, lists: &OffsetBuffer<i32>, places: &[ArrayRef]) -> Result<UInt32Array> {
        let comparators = places.iter().zip(&self.options);
        let comparators: Vec<DynComparator> = comparators
            .map(|(place, options)| make_comparator(place, place, *options))
            .collect::<Result<_, _>>()?;
        let compare = |a: &u32, b: &u32| {
            let unequal = comparators
                .iter()
                .map(|compare| compare(*a as usize, *b as usize))
                .find(|order| order.is_ne());
            unequal.unwrap_or(Ordering::Equal)
        };
        let end = lists[lists.len() - 1];
        let mut order: Vec<u32> = (0..end.cast_unsigned()).collect();
        for list in lists.windows(2) {
            order[list[0] as usize..list[1] as usize].sort_by(compare);
        }
        Ok(order.into())
    }

    fn drop_first(&mut self, groups: usize) -> Result<()> {
        let left = self.groups - groups;
        let chunks = take(&mut self.chunks);
        *self = self.another();
        self.groups = left;
        for mut chunk in chunks {
            chunk.rows.retain(|(group, _)| *group as usize >= groups);
            for (group, _) in &mut chunk.rows {
                *group -= as_u32(groups);
            }
            self.hold(chunk.columns, chunk.rows)?;
        }
        Ok(())
    }

    /// Bytes that the values take, and that taking them in order will take.
    pub(super) fn bytes(&self) -> usize {
        let held = self.column_bytes + self.values * size_of::<Entry>();
        let sorting = self.column_bytes + self.values * SORT_BYTES_PER_VALUE;
        held + sorting + self.chunks.capacity() * size_of::<Chunk>()
    }
}

impl Sorted {
    /// The lists.
    pub(super) fn lists(&self) -> ListArray {
        list_array(&self.values, self.offsets.clone(), self.nulls.clone())
    }

    /// The lists, and the places of the values of each, as long as the list. `fields` are those of the places.
    pub(super) fn into_states(self, fields: &[FieldRef]) -> Result<Vec<ArrayRef>> {
        let lists = self.lists();
        let fields: Fields = fields.to_vec().into();
        let places = self.places.into_iter();
        let places: Result<Vec<ArrayRef>, ArrowError> =
            places.map(|p| take_rows(&p, &self.order, None)).collect();
        let places = StructArray::try_new_with_length(fields, places?, None, self.values.len())?;
        let places: ArrayRef = Arc::new(places);
        let places = list_array(&places, self.offsets, None);
        Ok(vec![Arc::new(lists), Arc::new(places)])
    }
}

/// Chunks and rows as `interleave` wants them.
fn positions<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<(usize, usize)> {
    let entries = entries.into_iter();
    entries
        .map(|(chunk, row)| (*chunk as usize, *row as usize))
        .collect()
}

/// The values that the rows of a list refer to, and where they begin.
fn referred(lists: &ListArray) -> (i32, ArrayRef) {
    let offsets = lists.value_offsets();
    let [first, end] = [offsets[0], offsets[lists.len()]];
    let values = lists.values().slice(first as usize, (end - first) as usize);
    (first, values)
}

fn list_array(
    values: &ArrayRef,
    offsets: OffsetBuffer<i32>,
    nulls: Option<NullBuffer>,
) -> ListArray {
    let item = Field::new_list_field(values.data_type().clone(), true);
    ListArray::new(Arc::new(item), offsets, Arc::clone(values), nulls)
}

fn entry(group: usize, row: usize) -> Entry {
    (as_u32(group), as_u32(row))
}

/// Groups and rows of a batch: Arrow counts rows of a list in 31 bits.
fn as_u32(count: usize) -> u32 {
    u32::try_from(count).expect("a batch has fewer than 2^32 rows and groups")
}
