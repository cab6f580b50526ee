// SPDX-License-Identifier: Apache-2.0
//! Volumes of a stream as options of a view: `recompute_after_events` and `recompute_after_bytes`.

use dovetail_model::{Problem, digits};

use super::options::OptionValue;

const MIB: u64 = 1 << 20;

/// Largest first.
const UNITS: [(&str, u64); 3] = [("TiB", MIB << 20), ("GiB", MIB << 10), ("MiB", MIB)];

/// A number of events, at least one.
pub(super) fn parse_events(option: &OptionValue) -> Result<u64, Problem> {
    let text = option.number()?;
    let events = digits(text).filter(|events| *events > 0);
    events.ok_or_else(|| {
        option.problem(format!(
            "`recompute_after_events` cannot be '{text}': write a whole number of events from 1, such as 1000000"
        ))
    })
}

/// A size such as `512MiB` or `10 GiB`, in bytes.
pub(super) fn parse_bytes(option: &OptionValue) -> Result<u64, Problem> {
    let text = option.number()?;
    bytes_of(text).ok_or_else(|| {
        option.problem(format!(
            "`recompute_after_bytes` cannot be '{text}': write a whole number from 1 and its unit, such as '512MiB', '10 GiB' or '1 TiB'"
        ))
    })
}

fn bytes_of(text: &str) -> Option<u64> {
    let (count, unit) = UNITS.iter().find_map(|(name, bytes)| {
        let count = text.trim().strip_suffix(name)?.trim_end();
        Some((digits::<u64>(count)?, bytes))
    })?;
    count.checked_mul(*unit).filter(|bytes| *bytes > 0)
}

/// A size in the largest unit that holds it whole.
pub fn render_bytes(bytes: u64) -> String {
    let whole = UNITS.iter().find(|(_, unit)| bytes.is_multiple_of(*unit));
    match whole {
        Some((name, unit)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}
