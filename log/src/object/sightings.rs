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
        let mut seen = Sightings::default();
        let mut due = |unnamed: &[&str], now| {
            let unnamed = unnamed.iter().map(|name| Path::from(*name));
            let due = seen.due(unnamed, at(now), hour);
            due.into_iter().map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(due(&["a"], 0), [""; 0]);
        assert_eq!(due(&["a", "b"], 59), [""; 0]);
        assert_eq!(due(&["a", "b"], 60), ["a"]);
        // It was named for a while.
        assert_eq!(due(&["b"], 61), [""; 0]);
        assert_eq!(due(&["a", "b"], 119), ["b"]);
        // The clock was set back.
        assert_eq!(due(&["a", "b"], 1), [""; 0]);
    }
}
