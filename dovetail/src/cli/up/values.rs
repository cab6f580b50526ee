// SPDX-License-Identifier: Apache-2.0
//! How values of settings read: addresses, sizes, durations, counts. Each error says what is expected, with an example.

use std::net::SocketAddr;
use std::time::Duration;

use humantime::format_duration;

/// A mebibyte.
pub(super) const MIB: usize = 1024 * 1024;
/// A gibibyte.
pub(super) const GIB: usize = 1024 * MIB;

/// Reads an address to listen on: an IP address, or `localhost`, and a port.
pub(in crate::cli) fn address(text: &str) -> Result<SocketAddr, String> {
    let by_number = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    by_number
        .parse()
        .map_err(|_| "it is an IP address and a port, such as 127.0.0.1:8080".to_owned())
}

/// Reads an amount of memory or disk from `least` to `most` bytes: a whole number and its unit.
pub(super) fn size(
    least: usize,
    most: usize,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let units = [("MiB", MIB), ("GiB", GIB)];
        let found = units.iter().find_map(|(unit, bytes)| {
            let number = whole(text.strip_suffix(unit)?.trim_end())?;
            Some(number.saturating_mul(*bytes))
        });
        match found {
            None => Err("it is a whole number of MiB or GiB, such as 512MiB".to_owned()),
            Some(bytes) if bytes < least => Err(format!("at least {}", shown(least))),
            Some(bytes) if bytes > most => Err(format!("at most {}", shown(most))),
            Some(bytes) => Ok(bytes),
        }
    }
}

/// A bound of sizes as a setting writes it.
fn shown(bytes: usize) -> String {
    match bytes {
        GIB.. if bytes.is_multiple_of(GIB) => format!("{}GiB", bytes / GIB),
        _ => format!("{}MiB", bytes / MIB),
    }
}

/// Reads a time from `least` to `most`: whole numbers and their units.
pub(in crate::cli) fn duration(
    least: Duration,
    most: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| match humantime::parse_duration(text) {
        Err(_) => Err("it is a time with its unit, such as 30s, 5m or 24h".to_owned()),
        Ok(time) if time < least => Err(format!("at least {}", format_duration(least))),
        Ok(time) if time > most => Err(format!("at most {}", format_duration(most))),
        Ok(time) => Ok(time),
    }
}

/// Reads a whole number from 1 to `most`.
pub(super) fn count(
    most: usize,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = whole(text).filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| format!("it is a whole number from 1 to {most}"))
    }
}

/// A number of digits alone, without a sign. One that is larger than all bounds is the largest there is.
fn whole(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_numbers_or_localhost() {
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        assert_eq!(address("localhost:0"), Ok(local));
        assert_eq!(address("127.0.0.1:0"), Ok(local));
        assert!(address("[::1]:8080").is_ok());
        for wrong in ["localhost", ":8080", "example.org:80", "8080"] {
            assert!(address(wrong).unwrap_err().contains("such as"), "{wrong}");
        }
    }

    #[test]
    fn a_size_has_a_unit_and_is_within_its_bounds() {
        let size = size(64 * MIB, 1024 * MIB);
        assert_eq!(size("512MiB"), Ok(512 * MIB));
        assert_eq!(size("1 GiB"), Ok(1024 * MIB));
        for wrong in ["512", "1TB", "-1MiB", "+512MiB", "1.5GiB", "GiB", ""] {
            assert!(size(wrong).unwrap_err().contains("such as"), "{wrong}");
        }
        assert_eq!(size("63MiB"), Err("at least 64MiB".to_owned()));
        for more in [
            "1025MiB",
            "2GiB",
            "99999999999999GiB",
            "99999999999999999999MiB",
        ] {
            assert_eq!(size(more), Err("at most 1GiB".to_owned()));
        }
    }

    #[test]
    fn a_time_has_a_unit_and_is_within_its_bounds() {
        let time = duration(Duration::from_secs(1), Duration::from_secs(3600));
        assert_eq!(time("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(time("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["5", "soon", "-1s", ""] {
            assert!(time(wrong).unwrap_err().contains("such as"), "{wrong}");
        }
        assert_eq!(time("999ms"), Err("at least 1s".to_owned()));
        assert_eq!(time("61m"), Err("at most 1h".to_owned()));
    }

    #[test]
    fn a_count_is_within_its_bounds() {
        let count = count(100);
        assert_eq!(count("1"), Ok(1));
        assert_eq!(count("100"), Ok(100));
        for wrong in ["0", "101", "99999999999999999999", "x", "+5", "-5", ""] {
            let expected = "it is a whole number from 1 to 100".to_owned();
            assert_eq!(count(wrong), Err(expected), "{wrong}");
        }
    }
}
