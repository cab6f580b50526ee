// SPDX-License-Identifier: Apache-2.0
//! ISO 8601 dates and timestamps, to days and microseconds since the Unix epoch.

/// Why a text is not a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotATime {
    /// Not of the form, or a date or time that does not exist.
    Malformed,
    /// Digits that are not zero lie behind the microsecond.
    TooFine,
}

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// Reads `2001-12-31` as days; years 0000 to 9999.
pub(super) fn parse_date(text: &[u8]) -> Option<i32> {
    match text {
        [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] => {
            let year = two(*y1, *y2)? * 100 + two(*y3, *y4)?;
            days(year, two(*m1, *m2)?, two(*d1, *d2)?)
        }
        _ => None,
    }
}

/// Reads `2001-12-31T23:59:59.999999+01:00` as microseconds UTC. Without an offset it is UTC already. A
/// space may stand for the `T`; fraction, seconds and the whole time may be left out; digits behind the
/// sixth must be zero.
pub(super) fn parse_timestamp(text: &[u8]) -> Result<i64, NotATime> {
    let malformed = NotATime::Malformed;
    let (date, rest) = text.split_at_checked(10).ok_or(malformed)?;
    let day_us = i64::from(parse_date(date).ok_or(malformed)?) * DAY_US;
    let [b'T' | b't' | b' ', time @ ..] = rest else {
        return if rest.is_empty() {
            Ok(day_us)
        } else {
            Err(malformed)
        };
    };
    let (minute_us, rest) = match time {
        [h1, h2, b':', m1, m2, rest @ ..] => {
            let hour = below(two(*h1, *h2), 24).ok_or(malformed)?;
            let minute = below(two(*m1, *m2), 60).ok_or(malformed)?;
            (i64::from(hour * 60 + minute) * 60 * SECOND_US, rest)
        }
        _ => return Err(malformed),
    };
    let (second_us, rest) = match rest {
        [b':', s1, s2, rest @ ..] => {
            let second = below(two(*s1, *s2), 60).ok_or(malformed)?;
            let (fraction, rest) = parse_fraction(rest)?;
            (i64::from(second) * SECOND_US + fraction, rest)
        }
        rest => (0, rest),
    };
    let offset_us = parse_offset(rest).ok_or(malformed)?;
    Ok(day_us + minute_us + second_us - offset_us)
}

/// Reads `.123456`, if it is there: microseconds and what follows.
fn parse_fraction(text: &[u8]) -> Result<(i64, &[u8]), NotATime> {
    let [b'.' | b',', rest @ ..] = text else {
        return Ok((0, text));
    };
    let length = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (digits, rest) = rest.split_at(length);
    if digits.is_empty() {
        return Err(NotATime::Malformed);
    }
    let (kept, beyond) = digits.split_at(length.min(6));
    if beyond.iter().any(|b| *b != b'0') {
        return Err(NotATime::TooFine);
    }
    let value = kept
        .iter()
        .fold(0_i64, |value, b| value * 10 + i64::from(b - b'0'));
    let scale = [SECOND_US, 100_000, 10_000, 1_000, 100, 10, 1];
    Ok((value * scale[kept.len()], rest))
}

/// Reads nothing, `Z`, `+01`, `+01:30` or `+0130`: microseconds ahead of UTC.
fn parse_offset(text: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match text {
        [] | [b'Z' | b'z'] => return Some(0),
        [sign, h1, h2] => (sign, two(*h1, *h2), Some(0)),
        [sign, h1, h2, b':', m1, m2] | [sign, h1, h2, m1, m2] => {
            (sign, two(*h1, *h2), two(*m1, *m2))
        }
        _ => return None,
    };
    let sign = match sign {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let minutes = i64::from(below(hours, 24)? * 60 + below(minutes, 60)?);
    Some(sign * minutes * 60 * SECOND_US)
}

fn two(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u32::from(tens) * 10 + u32::from(ones))
}

fn below(value: Option<u32>, limit: u32) -> Option<u32> {
    value.filter(|value| *value < limit)
}

/// Days since the Unix epoch, after Howard Hinnant's `days_from_civil`.
fn days(year: u32, month: u32, day: u32) -> Option<i32> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let longest = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => return None,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    let (year, month, day) = (year as i32, month as i32, day as i32);
    // Years from March on, 400 at a time; shifted so that year 0 has a March before it.
    let year = if month <= 2 { year - 1 } else { year } + 400;
    let era = year / 400;
    let of_era = year % 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468 - 146_097)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Datelike, NaiveDate};
    use proptest::prelude::*;

    fn timestamp(text: &str) -> Result<i64, NotATime> {
        parse_timestamp(text.as_bytes())
    }

    fn check_day(date: NaiveDate) {
        let text = format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day());
        let expected = date.to_epoch_days();
        assert_eq!(parse_date(text.as_bytes()), Some(expected), "{text}");
    }

    #[test]
    fn every_day_of_a_cycle_and_every_month_of_ten_thousand_years() {
        // The calendar repeats every 400 years.
        let first = NaiveDate::from_ymd_opt(1800, 1, 1).unwrap();
        first.iter_days().take(146_097).for_each(check_day);
        for month in 0..120_000 {
            let first = NaiveDate::from_ymd_opt(month / 12, month as u32 % 12 + 1, 1).unwrap();
            check_day(first);
            if month > 0 {
                check_day(first.pred_opt().unwrap());
            }
        }
    }

    #[test]
    fn the_forms_of_a_timestamp() {
        let t = 978_311_045_000_000; // 2001-01-01T01:04:05Z
        for (text, expected) in [
            ("2001-01-01T01:04:05", t),
            ("2001-01-01 01:04:05", t),
            ("2001-01-01T01:04:05Z", t),
            ("2001-01-01t01:04:05z", t),
            ("2001-01-01T02:04:05+01:00", t),
            ("2001-01-01T02:34:05+0130", t),
            ("2000-12-31T23:04:05-02", t),
            ("2001-01-01T01:04:05.5", t + 500_000),
            ("2001-01-01T01:04:05.123456", t + 123_456),
            ("2001-01-01T01:04:05.123456000Z", t + 123_456),
            ("2001-01-01T01:04", t - 5_000_000),
            ("2001-01-01", t - 3_845_000_000),
            ("1969-12-31T23:59:59.999999", -1),
        ] {
            assert_eq!(timestamp(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_timestamp() {
        for text in [
            "",
            "2001",
            "2001-1-1",
            "2001-02-29",
            "2001-13-01",
            "2001-00-01",
            "2001-01-00",
            "2001-01-01T",
            "2001-01-01T24:00:00",
            "2001-01-01T00:60:00",
            "2001-01-01T00:00:60",
            "2001-01-01T00:00:00.",
            "2001-01-01T00:00:00+24:00",
            "2001-01-01T00:00:00 UTC",
            "2001-01-01T00:00:00Zx",
            "12001-01-01T00:00:00",
            "2001-01-01x00:00:00",
            "２001-01-01",
        ] {
            assert_eq!(timestamp(text), Err(NotATime::Malformed), "{text}");
        }
        let fine = timestamp("2001-01-01T00:00:00.0000001");
        assert_eq!(fine, Err(NotATime::TooFine));
    }

    proptest! {
        #[test]
        fn what_chrono_writes_is_read(
            us in -62_135_596_800_000_000_i64..253_402_300_799_999_999,
        ) {
            let text = DateTime::from_timestamp_micros(us).unwrap().to_rfc3339();
            prop_assert_eq!(timestamp(&text), Ok(us));
        }

        #[test]
        fn no_text_panics(text in "[0-9TZ:. +-]{0,40}") {
            let _ = timestamp(&text);
        }
    }
}
