// SPDX-License-Identifier: Apache-2.0
//! Groups told apart by numbers: each key of an event becomes a code of 64 bits, a group is a few of them.
//!
//! ```text
//!   origin (dictionary)  hour                    codes             group
//!   'SFO' ─ once for each dictionary ─► 17 ┐
//!           2001-01-01T08:00 ─ its bits ───┴─► [17, no NULLs, 978336000000000] ─► 41
//! ```
//!
//! Purpose: DataFusion's table of several keys compares each key by its type and copies texts, row by row. A number is
//! its own code here; any other value gets one from DataFusion's table of that one key, and of a column in dictionary
//! form each dictionary is looked up once. Invariants: two rows are one group exactly if DataFusion's table of a
//! single key says so of each key. Non-goals: more keys than [`MOST_KEYS`]; giving out part of the groups.

use std::hash::{BuildHasher as _, RandomState};
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, UInt64Array, make_array, new_null_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::table::GroupTable;
use crate::places::Places;

/// Views of more keys than this have a table of DataFusion's.
const MOST_KEYS: usize = 4;

const UPPER_HALF: u64 = !(u32::MAX as u64);
/// Rows that are looked for at once.
const AT_ONCE: usize = 256;

/// Whether there is a table for so many keys.
pub(super) fn is_for(keys: usize) -> bool {
    (1..=MOST_KEYS).contains(&keys)
}

/// A table for keys of these types; None of no keys, or of too many.
pub(super) fn codes(keys: &Schema) -> Result<Option<Box<dyn GroupTable>>> {
    if !is_for(keys.fields().len()) {
        return Ok(None);
    }
    let keys = keys.fields().iter().map(|f| KeyCodes::new(f));
    let keys = keys.collect::<Result<Vec<_>>>()?;
    let nulls = Nulls::beside(&keys);
    Ok(Some(match keys.len().max(nulls.word + 1) {
        1 => Box::new(Codes::<1>::new(keys, nulls)),
        2 => Box::new(Codes::<2>::new(keys, nulls)),
        3 => Box::new(Codes::<3>::new(keys, nulls)),
        4 => Box::new(Codes::<4>::new(keys, nulls)),
        _ => Box::new(Codes::<5>::new(keys, nulls)),
    }))
}

/// Groups of so many words: one for each key, and perhaps one that says which are NULL.
struct Codes<const WORDS: usize> {
    keys: Vec<KeyCodes>,
    nulls: Nulls,
    places: Places,
    groups: Vec<[u64; WORDS]>,
    hashes: Hashes,
    /// Of the rows that are looked for.
    rows: Vec<[u64; WORDS]>,
}

/// Where the bits are that say which keys are NULL.
#[derive(Debug, Clone, Copy)]
struct Nulls {
    word: usize,
    /// Of the first key's bit.
    shift: u32,
}

impl Nulls {
    /// In the upper half of the word of a key that needs the lower one alone, if there is such a key; else in a word
    /// behind the keys.
    fn beside(keys: &[KeyCodes]) -> Self {
        match keys.iter().position(KeyCodes::is_half) {
            Some(word) => Self { word, shift: 32 },
            None => Self {
                word: keys.len(),
                shift: 0,
            },
        }
    }

    fn bit(self, key: usize) -> u64 {
        1 << (self.shift + key as u32)
    }
}

/// The codes of one key.
enum KeyCodes {
    /// Its own bits, of a type of so many bytes. NULL is told by its bit.
    Bits { data_type: DataType, bytes: usize },
    /// The number of its group in a table of this key alone; NULL is one of the groups.
    Numbered {
        table: Box<dyn GroupValues>,
        /// The dictionary that was looked up last.
        dictionary: Option<Dictionary>,
    },
}

/// The codes of a dictionary's values.
struct Dictionary {
    values: ArrayData,
    codes: Vec<u64>,
    null: u64,
}

/// Hashes that nobody outside can aim at: numbers are often chosen by those who send events.
struct Hashes {
    seed: u64,
}

impl Hashes {
    fn new() -> Self {
        let seed = RandomState::new().hash_one(0_u64) | 1;
        Self { seed }
    }

    /// By multiplying to 128 bits and folding the halves, word by word.
    fn of<const WORDS: usize>(&self, words: &[u64; WORDS]) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        words.iter().fold(self.seed, |hash, word| {
            let product = u128::from(hash ^ word) * u128::from(ODD ^ self.seed.rotate_left(32));
            product as u64 ^ (product >> 64) as u64 ^ hash.rotate_left(23)
        })
    }
}

impl<const WORDS: usize> Codes<WORDS> {
    fn new(keys: Vec<KeyCodes>, nulls: Nulls) -> Self {
        Self {
            keys,
            nulls,
            places: Places::with_room_for(0),
            groups: Vec::new(),
            hashes: Hashes::new(),
            rows: Vec::new(),
        }
    }
}

impl<const WORDS: usize> GroupTable for Codes<WORDS> {
    fn intern(&mut self, keys: &[ArrayRef], group_of_row: &mut Vec<usize>) -> Result<()> {
        let rows = keys.first().map_or(0, |key| key.len());
        self.rows.clear();
        self.rows.resize(rows, [0; WORDS]);
        for (index, (codes, key)) in self.keys.iter_mut().zip(keys).enumerate() {
            codes.write(key, &mut self.rows, index, self.nulls)?;
        }
        let Self {
            places,
            groups,
            hashes,
            ..
        } = self;
        places.make_room(rows, |row| hashes.of(&groups[row]));
        group_of_row.clear();
        group_of_row.reserve(rows);
        for rows in self.rows.chunks(AT_ONCE) {
            let mut of_rows = [0; AT_ONCE];
            let of_rows = &mut of_rows[..rows.len()];
            for (hash, words) in of_rows.iter_mut().zip(rows) {
                *hash = hashes.of(words);
            }
            places.fetch(of_rows);
            group_of_row.extend(of_rows.iter().zip(rows).map(|(hash, words)| {
                let group = places.find_or_add(*hash, |group| groups[group] == *words);
                if group == groups.len() {
                    groups.push(*words);
                }
                group
            }));
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.groups.len()
    }

    fn bytes(&self) -> usize {
        let words = self.groups.capacity() + self.rows.capacity();
        let keys = self.keys.iter().map(KeyCodes::bytes).sum::<usize>();
        self.places.bytes() + words * size_of::<[u64; WORDS]>() + keys
    }

    fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        self.places = Places::with_room_for(0);
        let groups = std::mem::take(&mut self.groups);
        let nulls = self.nulls;
        let keys = self.keys.iter_mut().enumerate();
        keys.map(|(index, key)| {
            let codes = groups.iter().map(|words| words[index]);
            let is_null = |group: usize| groups[group][nulls.word] & nulls.bit(index) != 0;
            key.take_values(codes, is_null)
        })
        .collect()
    }
}

impl KeyCodes {
    fn new(key: &Field) -> Result<Self> {
        let data_type = key.data_type();
        let is_bits =
            data_type.is_integer() || (data_type.is_temporal() && !is_interval(data_type));
        if let (true, Some(bytes @ (1 | 2 | 4 | 8))) = (is_bits, data_type.primitive_width()) {
            return Ok(Self::Bits {
                data_type: data_type.clone(),
                bytes,
            });
        }
        let schema = Arc::new(Schema::new(vec![key.clone()]));
        Ok(Self::Numbered {
            table: new_group_values(schema, &GroupOrdering::None)?,
            dictionary: None,
        })
    }

    /// Whether codes are of 32 bits at most: a process has no more groups than that.
    fn is_half(&self) -> bool {
        match self {
            Self::Bits { bytes, .. } => *bytes < 8,
            Self::Numbered { .. } => true,
        }
    }

    /// Writes the code of each row of `column`, key `index`, into its place in `rows`.
    fn write<const WORDS: usize>(
        &mut self,
        column: &ArrayRef,
        rows: &mut [[u64; WORDS]],
        index: usize,
        nulls: Nulls,
    ) -> Result<()> {
        match self {
            Self::Bits { bytes, .. } => {
                let data = column.to_data();
                match bytes {
                    1 => put(data.buffer::<u8>(0), rows, index),
                    2 => put(data.buffer::<u16>(0), rows, index),
                    4 => put(data.buffer::<u32>(0), rows, index),
                    _ => put(data.buffer::<u64>(0), rows, index),
                }
                if let Some(valid) = data.nulls() {
                    let words = rows.iter_mut().zip(valid);
                    for (words, _) in words.filter(|(_, is_valid)| !is_valid) {
                        // What is there may be anything.
                        let upper = words[index] & UPPER_HALF;
                        words[index] = if nulls.word == index { upper } else { 0 };
                        words[nulls.word] |= nulls.bit(index);
                    }
                }
            }
            Self::Numbered { table, dictionary } => {
                if let Some(column) = column.as_dictionary_opt::<Int32Type>() {
                    let dictionary = Dictionary::of(column.values(), dictionary, table)?;
                    let keys = column.keys();
                    match keys.nulls() {
                        None => {
                            for (words, key) in rows.iter_mut().zip(keys.values()) {
                                words[index] |= dictionary.codes[*key as usize];
                            }
                        }
                        Some(_) => {
                            for (words, key) in rows.iter_mut().zip(keys) {
                                let code = key.map(|key| dictionary.codes[key as usize]);
                                words[index] |= code.unwrap_or(dictionary.null);
                            }
                        }
                    }
                } else {
                    let mut codes = Vec::new();
                    table.intern(std::slice::from_ref(column), &mut codes)?;
                    for (words, code) in rows.iter_mut().zip(codes) {
                        words[index] |= code as u64;
                    }
                }
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Bits { .. } => 0,
            Self::Numbered { table, dictionary } => {
                let codes = dictionary.as_ref().map_or(0, |d| d.codes.capacity());
                table.size() + codes * size_of::<u64>()
            }
        }
    }

    /// The values that groups have these codes of; no code is known any more behind it.
    fn take_values(
        &mut self,
        codes: impl ExactSizeIterator<Item = u64>,
        is_null: impl Fn(usize) -> bool,
    ) -> Result<ArrayRef> {
        match self {
            Self::Bits { data_type, bytes } => {
                let rows = codes.len();
                // The cast keeps the lower bytes, which are the value.
                let values = match bytes {
                    1 => Buffer::from_vec(codes.map(|code| code as u8).collect()),
                    2 => Buffer::from_vec(codes.map(|code| code as u16).collect()),
                    4 => Buffer::from_vec(codes.map(|code| code as u32).collect()),
                    _ => Buffer::from_vec(codes.collect::<Vec<u64>>()),
                };
                let nulls = NullBuffer::new(BooleanBuffer::collect_bool(rows, |row| !is_null(row)));
                let data = ArrayData::builder(data_type.clone())
                    .len(rows)
                    .add_buffer(values)
                    .nulls((nulls.null_count() > 0).then_some(nulls));
                Ok(make_array(data.build()?))
            }
            Self::Numbered { table, dictionary } => {
                *dictionary = None;
                let values = match table.is_empty() {
                    true => vec![],
                    false => table.emit(EmitTo::All)?,
                };
                let [values] = &values[..] else {
                    return internal_err!("{} columns of one key", values.len());
                };
                // Without the bits that say what is NULL.
                let codes = codes.map(|code| code & !UPPER_HALF);
                Ok(take(values, &UInt64Array::from_iter_values(codes), None)?)
            }
        }
    }
}

impl Dictionary {
    /// That of these values: the one `at_hand` if it is the same.
    fn of<'a>(
        values: &ArrayRef,
        at_hand: &'a mut Option<Self>,
        table: &mut Box<dyn GroupValues>,
    ) -> Result<&'a Self> {
        let data = values.to_data();
        let known = at_hand.take().filter(|known| known.values.ptr_eq(&data));
        let dictionary = match known {
            Some(known) => known,
            None => {
                let mut codes = Vec::new();
                let null = new_null_array(values.data_type(), 1);
                table.intern(&[null], &mut codes)?;
                let null = codes[0] as u64;
                table.intern(std::slice::from_ref(values), &mut codes)?;
                Self {
                    values: data,
                    codes: codes.into_iter().map(|code| code as u64).collect(),
                    null,
                }
            }
        };
        Ok(at_hand.insert(dictionary))
    }
}

/// Writes the bits of values into their places, which are zero but for the bits that say what is NULL.
fn put<T: Copy + Into<u64>, const WORDS: usize>(
    values: &[T],
    rows: &mut [[u64; WORDS]],
    index: usize,
) {
    for (words, value) in rows.iter_mut().zip(values) {
        words[index] |= (*value).into();
    }
}

fn is_interval(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(_))
}

#[cfg(test)]
mod tests;
