// SPDX-License-Identifier: Apache-2.0
//! Decisions drawn from a list of numbers, so that a failing case shrinks by shrinking numbers.

/// A list of numbers, read one after the other; zeros when it runs out.
#[derive(Debug, Clone)]
pub(crate) struct Draw {
    numbers: std::vec::IntoIter<u16>,
}

impl Draw {
    pub(crate) fn new(numbers: Vec<u16>) -> Self {
        Self {
            numbers: numbers.into_iter(),
        }
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.numbers.next().unwrap_or(0)) % bound
    }

    /// One of `choices`.
    pub(crate) fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// True one time in `n`.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}
