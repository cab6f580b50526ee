// SPDX-License-Identifier: Apache-2.0
//! Times as the API writes them.

use chrono::DateTime;

/// Microseconds since the Unix epoch as ISO 8601 in UTC without a zone, with a fraction only where there
/// is one: `2001-01-01T00:00:00`, `2001-01-01T00:00:00.250`. Out of range it is the number itself.
pub fn iso_us(us: i64) -> String {
    match DateTime::from_timestamp_micros(us) {
        Some(at) => at.naive_utc().format("%Y-%m-%dT%H:%M:%S%.f").to_string(),
        None => us.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_only_where_there_is_one() {
        assert_eq!(iso_us(978_307_200_000_000), "2001-01-01T00:00:00");
        assert_eq!(iso_us(978_307_200_250_000), "2001-01-01T00:00:00.250");
        assert_eq!(iso_us(-1), "1969-12-31T23:59:59.999999");
        assert_eq!(iso_us(i64::MAX), i64::MAX.to_string());
    }
}
