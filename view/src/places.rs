// SPDX-License-Identifier: Apache-2.0
//! Where the rows of a table are found by their hashes.
//!
//! A table with open addressing: a place holds a part of the hash and the row, so that a row that is not there is
//! mostly told by one look, without reading rows. What a row is, and when two are equal, is its user's business.

use std::hint::black_box;
use std::mem::size_of;

/// Place of no row.
const EMPTY: u64 = 0;
/// Fewer are not worth growing from.
const FEWEST: usize = 64;

/// Rows by hash. Rows are numbered from 0 in the order in which they come, and never go.
#[derive(Debug)]
pub(crate) struct Places {
    /// Of each row the upper half of its hash, and in the lower half one more than its number. A power of two of
    /// them, at least twice as many as rows.
    places: Vec<u64>,
    rows: usize,
}

impl Places {
    /// Of no rows, with room for so many before it grows.
    pub(crate) fn with_room_for(rows: usize) -> Self {
        Self {
            places: vec![EMPTY; (rows * 2).next_power_of_two().max(FEWEST)],
            rows: 0,
        }
    }

    /// Memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<u64>()
    }

    /// Rows whose hash may be this one.
    pub(crate) fn candidates(&self, hash: u64) -> impl Iterator<Item = usize> {
        let mask = self.places.len() - 1;
        let mut at = place(hash, mask);
        std::iter::from_fn(move || {
            loop {
                let held = self.places[at];
                if held == EMPTY {
                    return None;
                }
                at = (at + 1) & mask;
                if tag(held) == tag(hash) {
                    return Some(row(held));
                }
            }
        })
    }

    /// The row with this hash that `is_it` says it is; if there is none, the next row has it now. Before, there must be
    /// [room](Self::make_room) for one more.
    pub(crate) fn find_or_add(&mut self, hash: u64, is_it: impl Fn(usize) -> bool) -> usize {
        let mask = self.places.len() - 1;
        let mut at = place(hash, mask);
        loop {
            let held = self.places[at];
            if held == EMPTY {
                self.rows += 1;
                self.places[at] = tag(hash) | self.rows as u64;
                return self.rows - 1;
            }
            if tag(held) == tag(hash) && is_it(row(held)) {
                return row(held);
            }
            at = (at + 1) & mask;
        }
    }

    /// Looks at where these hashes lead, for nothing but to have it at hand: of many looks at once the memory's answers
    /// overlap, where each search would wait for its own.
    pub(crate) fn fetch(&self, hashes: &[u64]) {
        let mask = self.places.len() - 1;
        let looks = hashes.iter().map(|hash| self.places[place(*hash, mask)]);
        black_box(looks.fold(0, |all, held| all ^ held));
    }

    /// Adds a row that is equal to none so far.
    pub(crate) fn add(&mut self, hash: u64) {
        self.find_or_add(hash, |_| false);
    }

    /// Makes room for so many more rows; `hash` is the hash of a row that is there.
    pub(crate) fn make_room(&mut self, more: usize, hash: impl Fn(usize) -> u64) {
        if (self.rows + more) * 2 <= self.places.len() {
            return;
        }
        let mut larger = Self::with_room_for(self.rows + more);
        (0..self.rows).for_each(|row| larger.add(hash(row)));
        *self = larger;
    }
}

fn tag(hash: u64) -> u64 {
    hash & !u64::from(u32::MAX)
}

fn row(held: u64) -> usize {
    (held & u64::from(u32::MAX)) as usize - 1
}

/// Where the search for a hash begins: by the half that is not the tag.
fn place(hash: u64, mask: usize) -> usize {
    hash as usize & u32::MAX as usize & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_hash_are_told_apart_and_found_again_behind_growth() {
        // Few hashes, so that every search goes past rows of others.
        let hash = |value: usize| ((value as u64 % 7) << 32) | (value as u64 % 3);
        let mut places = Places::with_room_for(0);
        for value in 0..1000 {
            places.make_room(1, hash);
            assert_eq!(places.find_or_add(hash(value), |row| row == value), value);
        }
        assert_eq!(places.rows, 1000);
        for value in 0..1000 {
            assert!(places.candidates(hash(value)).any(|row| row == value));
            assert_eq!(places.find_or_add(hash(value), |row| row == value), value);
        }
        assert_eq!(places.rows, 1000);
        assert_eq!(places.candidates(1 << 40).count(), 0);
    }
}
