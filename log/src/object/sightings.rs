// SPDX-License-Identifier: Apache-2.0
//! How long files have been there that nothing names.
//!
//! A store says when each of its objects was written, but by its own clock: one that is an hour behind ours would make
//! a file that is being written look an hour old. So a file's age counts from when this process saw it first, and by
//! the clock that is asked again later. What a crash left is deleted that much later after a restart, never earlier.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use object_store::path::Path;

/// When each was seen first.
#[derive(Debug, Default)]
pub struct Sightings(HashMap<Path, DateTime<Utc>>);

impl Sightings {
    /// Those of `unnamed`, which is everything that nothing names at `now`, that have been so for at least `grace`.
    /// Whatever is not among them any more is forgotten.
    pub fn due(
        &mut self,
        unnamed: impl IntoIterator<Item = Path>,
        now: DateTime<Utc>,
        grace: TimeDelta,
    ) -> Vec<Path> {
        let mut seen = HashMap::new();
        for path in unnamed {
            let since = self.0.get(&path).copied().unwrap_or(now);
            seen.insert(path, since);
        }
        self.0 = seen;
        let due = self.0.iter().filter(|(_, since)| now - **since >= grace);
        due.map(|(path, _)| path.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_counts_from_the_first_sight_without_a_gap() {
        let at = |minutes| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        let hour = TimeDelta::hours(1);
        let [a, b] = ["a", "b"].map(Path::from);
        let mut seen = Sightings::default();
        assert_eq!(seen.due([a.clone()], at(0), hour), []);
        assert_eq!(seen.due([a.clone(), b.clone()], at(59), hour), []);
        assert_eq!(seen.due([a.clone(), b.clone()], at(60), hour), [a.clone()]);
        // It was named for a while.
        assert_eq!(seen.due([b.clone()], at(61), hour), []);
        assert_eq!(seen.due([a.clone(), b.clone()], at(119), hour), [b.clone()]);
        // The clock was set back.
        assert_eq!(seen.due([a, b], at(1), hour), []);
    }
}
