// SPDX-License-Identifier: Apache-2.0
//! The calendar: which days and instants have a date that can be written.
//!
//! A DATE or TIMESTAMP is a number of days or of a second's parts since 1970-01-01, and most such numbers lie in no year
//! that anybody writes.

use std::ops::RangeInclusive;

use chrono::{Datelike as _, NaiveDate};

const FIRST_DAY: i32 = NaiveDate::MIN.to_epoch_days();
const LAST_DAY: i32 = NaiveDate::MAX.to_epoch_days();
const DAY_S: i128 = 86_400;

/// The days since 1970-01-01 that have a date.
pub const fn calendar_days() -> RangeInclusive<i32> {
    FIRST_DAY..=LAST_DAY
}

/// The instants that have a date, in parts of a second of which `per_second` make one, since 1970-01-01T00:00:00 UTC.
pub const fn calendar_instants(per_second: i64) -> RangeInclusive<i64> {
    let per_day = DAY_S * per_second as i128;
    let first = FIRST_DAY as i128 * per_day;
    let last = (LAST_DAY as i128 + 1) * per_day - 1;
    saturated(first)..=saturated(last)
}

/// The years that the calendar has, first and last.
pub fn calendar_years() -> (i32, i32) {
    (NaiveDate::MIN.year(), NaiveDate::MAX.year())
}

const fn saturated(value: i128) -> i64 {
    if value < i64::MIN as i128 {
        i64::MIN
    } else if value > i64::MAX as i128 {
        i64::MAX
    } else {
        value as i64
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn the_first_and_the_last_instant_have_a_date_and_their_neighbours_have_none() {
        let date = |per_second, instant| match per_second {
            1 => DateTime::from_timestamp(instant, 0),
            1_000 => DateTime::from_timestamp_millis(instant),
            _ => DateTime::from_timestamp_micros(instant),
        };
        for per_second in [1, 1_000, 1_000_000] {
            let (first, last) = calendar_instants(per_second).into_inner();
            let has_date = |instant| date(per_second, instant).is_some();
            assert!(has_date(first) && has_date(last));
            assert!(!has_date(first - 1) && !has_date(last + 1));
        }
        assert_eq!(calendar_instants(1_000_000_000), i64::MIN..=i64::MAX);
        let (first, last) = calendar_days().into_inner();
        assert!(NaiveDate::from_epoch_days(first).is_some_and(|d| d.pred_opt().is_none()));
        assert!(NaiveDate::from_epoch_days(last).is_some_and(|d| d.succ_opt().is_none()));
    }
}
