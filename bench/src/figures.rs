// SPDX-License-Identifier: Apache-2.0
//! Settings of a benchmark, and what it measured.

use anyhow::{Context as _, Result};

/// A number from the environment, or `default`.
///
/// # Errors
/// Where the variable is not a number.
pub fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name}=`{text}` is not a number")),
        Err(_) => Ok(default),
    }
}

/// Measurements of one thing.
#[derive(Debug, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// One more.
    pub fn push(&mut self, figure: f64) {
        let at = self.0.partition_point(|smaller| *smaller <= figure);
        self.0.insert(at, figure);
    }

    /// All of another measurement.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
        self.0.sort_by(f64::total_cmp);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one at this share of their order, such as 0.99; not a number if there are none.
    #[must_use]
    pub fn at(&self, quantile: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let at = (last as f64 * quantile).round() as usize;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    /// The median.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut all = Self(figures.into_iter().collect());
        all.0.sort_by(f64::total_cmp);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::Figures;

    #[test]
    fn the_median_is_the_middle_of_the_sorted_values() {
        assert_eq!(Figures::from_iter([3.0, 1.0, 2.0]).median(), 2.0);
        assert!(Figures::default().median().is_nan());
    }

    #[test]
    fn what_comes_in_any_order_is_sorted() {
        let mut figures = Figures::default();
        for figure in [3.0, 1.0, 2.0, 5.0] {
            figures.push(figure);
        }
        assert_eq!([0.0, 0.99].map(|at| figures.at(at)), [1.0, 5.0]);
    }
}
