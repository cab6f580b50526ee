// SPDX-License-Identifier: Apache-2.0
//! Dates and times that the calendar or their type has no place for, where something was to be computed of them.

use dovetail_model::calendar_years;

/// What stands before a number that has no date, and what behind it.
const NUMBERS: [(&str, &str); 5] = [
    ("Failed to convert ", " to temporal for "),
    ("Failed to convert ", " to datetime for "),
    ("Cannot convert arrow_array::types::", " to datetime"),
    ("Failed to create naive time with arrow_array::types::", ""),
    ("Timestamp ", " out of range"),
];

/// The same of a number that a finer unit has no place for.
const FINER: (&str, &str) = (
    "Cannot cast ",
    ": converted value exceeds the representable i64 range",
);

/// What begins the errors of adding an interval to a date or time.
const INTERVALS: [&str; 2] = ["Timestamp out of range", "Date arithmetic overflow: "];

/// What was to be computed, and the way out.
pub(super) fn outside_calendar(text: &str) -> Option<String> {
    if let Some(number) = number_between(text, &FINER) {
        return Some(format!(
            "a date or time whose number is {number} is compared or computed with one in nanoseconds, which has no place for it: those end in 1677 and 2262; cast that one, as in CAST(now() AS TIMESTAMP), or leave such rows out"
        ));
    }
    let what = if INTERVALS.iter().any(|said| text.starts_with(said)) {
        "a date or time and an interval lead".to_owned()
    } else {
        let number = NUMBERS.iter().find_map(|ends| number_between(text, ends))?;
        format!("a date or time whose number is {number} lies")
    };
    let (first, last) = calendar_years();
    Some(format!(
        "{what} outside the calendar, which has the years {first} to {last}, or outside its type: leave such rows out, or compute with the number that CAST(… AS BIGINT) makes of it"
    ))
}

/// A text that is no date or time, and what one is.
pub(super) fn no_such_time(text: &str) -> Option<String> {
    const OUT: &str = "leave such rows out";
    let day = text.strip_prefix("Cannot cast string '").and_then(|rest| {
        let (day, of) = rest.rsplit_once("' to value of ")?;
        of.starts_with("Date").then_some(day)
    });
    if let Some(day) = day {
        let what = match is_written_as_day(day) {
            true => "no day of the calendar",
            false => "no DATE, which is written as in '2024-02-29'",
        };
        return Some(format!(
            "`'{day}'` is {what}: {OUT}, or write TRY_CAST(… AS DATE), which is NULL there"
        ));
    }
    let rest = text.strip_prefix("Error parsing timestamp from '")?;
    let (time, why) = rest.rsplit_once("': ")?;
    let day = time.get(..10).is_some_and(is_written_as_day);
    let what = match why {
        "error parsing date" if day => "on no day of the calendar",
        "error parsing time" if day => "at no time of a day",
        _ => "no TIMESTAMP, which is written as in '2024-02-29T12:30:00'",
    };
    Some(format!(
        "`'{time}'` is {what}: {OUT}, or write TRY_CAST(… AS TIMESTAMP), which is NULL there"
    ))
}

/// Whether it has the form of a day, such as `2024-02-30`.
fn is_written_as_day(text: &str) -> bool {
    let form = text.bytes().map(|byte| match byte {
        b'0'..=b'9' => b'0',
        other => other,
    });
    form.eq(*b"0000-00-00")
}

fn number_between(text: &str, (before, behind): &(&str, &str)) -> Option<i64> {
    let rest = text.strip_prefix(before)?;
    let (said, _) = match *behind {
        "" => (rest, ""),
        behind => rest.split_once(behind)?,
    };
    // `Date32 value 2147483647 to Timestamp(ns)`, `TimestampSecondType 2147483647`.
    said.split(' ').find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_time_is_said_with_what_it_is() {
        for (said, words) in [
            (
                "Cannot cast string '2024-02-30' to value of Date32 type",
                "`'2024-02-30'` is no day of the calendar: leave such rows out, or write TRY_CAST(… AS DATE), which is NULL there",
            ),
            (
                "Cannot cast string 'it's' to value of Date32 type",
                "`'it's'` is no DATE, which is written as in '2024-02-29': leave such rows out",
            ),
            (
                "Error parsing timestamp from '2024-02-30T00:00:00': error parsing date",
                "`'2024-02-30T00:00:00'` is on no day of the calendar: leave such rows out, or write TRY_CAST(… AS TIMESTAMP)",
            ),
            (
                "Error parsing timestamp from '2024-02-03T25:00:00': error parsing time",
                "`'2024-02-03T25:00:00'` is at no time of a day: ",
            ),
            (
                "Error parsing timestamp from 'yesterday': timestamp must contain at least 10 characters",
                "`'yesterday'` is no TIMESTAMP, which is written as in '2024-02-29T12:30:00': ",
            ),
        ] {
            let text = no_such_time(said).unwrap();
            assert!(text.starts_with(words), "{text}");
        }
        assert_eq!(
            no_such_time("Cannot cast string 'x' to value of Int32 type"),
            None
        );
    }

    #[test]
    fn what_has_no_date_is_said_with_its_number() {
        for said in [
            "Failed to convert 2147483647 to temporal for Date32",
            "Failed to convert 2147483647 to datetime for Timestamp(s)",
            "Cannot convert arrow_array::types::TimestampSecondType 2147483647 to datetime",
            "Failed to create naive time with arrow_array::types::TimestampSecondType 2147483647",
            "Timestamp 2147483647 out of range",
            "Timestamp 2147483647 out of range after truncating to year",
        ] {
            assert_eq!(
                outside_calendar(said).as_deref(),
                Some(
                    "a date or time whose number is 2147483647 lies outside the calendar, which has the years -262143 to 262142, or outside its type: leave such rows out, or compute with the number that CAST(… AS BIGINT) makes of it"
                ),
                "{said}"
            );
        }
        let finer = "Cannot cast Date32 value 2147483647 to Timestamp(ns): converted value exceeds the representable i64 range";
        let words = outside_calendar(finer).unwrap();
        assert!(words.starts_with("a date or time whose number is 2147483647 is compared"));
        for said in [
            "Timestamp out of range",
            "Date arithmetic overflow: 11324 + IntervalMonthDayNano { months: 3600000, days: 0, nanoseconds: 0 }",
        ] {
            let words = outside_calendar(said).unwrap();
            assert!(words.starts_with("a date or time and an interval lead outside"));
        }
        for other in [
            "Timestamp of nothing",
            "Failed to convert x to temporal for Date32",
        ] {
            assert_eq!(outside_calendar(other), None, "{other}");
        }
    }
}
