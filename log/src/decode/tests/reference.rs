// SPDX-License-Identifier: Apache-2.0
//! A second decoder for the tests: slow, plain, and built on other libraries (serde_json, chrono, the
//! standard library's numbers), so that the two can only agree by being right.

use std::fmt;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use dovetail_model::{Column, ColumnType, EpochUnit, StreamSchema, UnknownColumns};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cells::Cell;

/// The members of an object in order, none left out.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The event in a line of JSON; none if it is bad.
pub(super) fn json_event(schema: &StreamSchema, line: &str) -> Option<Vec<Cell>> {
    let epoch = schema.event_time.as_ref();
    let epoch = epoch.and_then(|e| Some((e.column.as_str(), e.epoch?)));
    object(&schema.columns, line, schema.unknown_columns, epoch)
}

fn object(
    columns: &[Column],
    text: &str,
    unknown: UnknownColumns,
    epoch: Option<(&str, EpochUnit)>,
) -> Option<Vec<Cell>> {
    let Members(members) = serde_json::from_str(text).ok()?;
    let known = |name: &str| columns.iter().any(|c| c.name == name);
    for (index, (name, value)) in members.iter().enumerate() {
        let again = members[..index].iter().any(|(before, _)| before == name);
        if known(name) && again || !known(name) && unknown == UnknownColumns::Reject {
            return None;
        }
        // A raw value is not checked for its strings' escapes: a full parse is.
        serde_json::from_str::<serde_json::Value>(value.get())
            .or_else(|e| {
                if e.to_string().contains("number out of range") {
                    Ok(0.into())
                } else {
                    Err(e)
                }
            })
            .ok()?;
    }
    let mut cells = Vec::new();
    for column in columns {
        let value = members.iter().find(|(name, _)| *name == column.name);
        let unit = epoch.and_then(|(name, unit)| (name == column.name).then_some(unit));
        let cell = match value {
            None => Cell::Null,
            Some((_, value)) => json_cell(&column.column_type, value.get(), unknown, unit)?,
        };
        if cell == Cell::Null && !column.nullable {
            return None;
        }
        cells.push(cell);
    }
    Some(cells)
}

fn json_cell(
    column_type: &ColumnType,
    text: &str,
    unknown: UnknownColumns,
    epoch: Option<EpochUnit>,
) -> Option<Cell> {
    if text == "null" {
        return Some(Cell::Null);
    }
    let string = || serde_json::from_str::<String>(text).ok();
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    match column_type {
        ColumnType::Boolean => text.parse().ok().map(Cell::Boolean),
        ColumnType::Int if is_number => integer(text, i32::MIN.into(), i32::MAX.into()),
        ColumnType::BigInt if is_number => integer(text, i64::MIN.into(), i64::MAX.into()),
        ColumnType::Int | ColumnType::BigInt => None,
        ColumnType::Double if is_number => {
            let value: f64 = text.parse().ok()?;
            value.is_finite().then(|| Cell::double(value))
        }
        ColumnType::Double => match string()?.as_str() {
            "NaN" => Some(Cell::double(f64::NAN)),
            "Infinity" => Some(Cell::double(f64::INFINITY)),
            "-Infinity" => Some(Cell::double(f64::NEG_INFINITY)),
            _ => None,
        },
        ColumnType::Decimal(precision, scale) => {
            let text = if is_number {
                text.to_owned()
            } else {
                string()?
            };
            decimal(&text, *precision, *scale)
        }
        ColumnType::Varchar => string().map(Cell::Text),
        ColumnType::Date => date(&string()?).map(Cell::Integer),
        ColumnType::Timestamp if is_number => epoch_number(text, epoch?),
        ColumnType::Timestamp => timestamp(&string()?).map(Cell::Integer),
        ColumnType::Struct(columns) => object(columns, text, unknown, None).map(Cell::Struct),
        ColumnType::List(item) => {
            let items: Vec<Box<RawValue>> = serde_json::from_str(text).ok()?;
            let cells = items
                .iter()
                .map(|i| json_cell(item, i.get(), unknown, None));
            cells.collect::<Option<_>>().map(Cell::List)
        }
    }
}

/// A CSV value; none if it is bad.
pub(super) fn csv_cell(
    column_type: &ColumnType,
    text: &str,
    quoted: bool,
    unknown: UnknownColumns,
    epoch: Option<EpochUnit>,
) -> Option<Cell> {
    if text.is_empty() && !(quoted && *column_type == ColumnType::Varchar) {
        return Some(Cell::Null);
    }
    match column_type {
        ColumnType::Boolean => text.to_lowercase().parse().ok().map(Cell::Boolean),
        ColumnType::Int => integer(text, i32::MIN.into(), i32::MAX.into()),
        ColumnType::BigInt => integer(text, i64::MIN.into(), i64::MAX.into()),
        ColumnType::Double => {
            let value: f64 = text.parse().ok()?;
            let overflow = value.is_infinite() && text.contains(|c: char| c.is_ascii_digit());
            (!overflow).then(|| Cell::double(value))
        }
        ColumnType::Decimal(precision, scale) => decimal(text, *precision, *scale),
        ColumnType::Varchar => Some(Cell::Text(text.to_owned())),
        ColumnType::Date => date(text).map(Cell::Integer),
        ColumnType::Timestamp => match epoch {
            Some(unit) if timestamp(text).is_none() => epoch_number(text, unit),
            _ => timestamp(text).map(Cell::Integer),
        },
        ColumnType::Struct(_) | ColumnType::List(_) => {
            serde_json::from_str::<&RawValue>(text).ok()?;
            json_cell(column_type, text.trim(), unknown, None)
        }
    }
}

fn integer(text: &str, least: i128, most: i128) -> Option<Cell> {
    let value = exact(text, 0)?;
    (least..=most)
        .contains(&value)
        .then_some(Cell::Integer(value))
}

fn decimal(text: &str, precision: u8, scale: i8) -> Option<Cell> {
    let value = exact(text, scale.into())?;
    (value.abs() < 10_i128.pow(precision.into())).then_some(Cell::Integer(value))
}

fn epoch_number(text: &str, unit: EpochUnit) -> Option<Cell> {
    let scale = match unit {
        EpochUnit::Second => 6,
        EpochUnit::Millisecond => 3,
        EpochUnit::Microsecond => 0,
        EpochUnit::Nanosecond => -3,
    };
    let value = exact(text, scale)?;
    let micros = i64::try_from(value).ok()?;
    chrono::DateTime::from_timestamp_micros(micros).map(|_| Cell::Integer(value))
}

/// A decimal number times `10^scale` by moving the point in its text.
fn exact(text: &str, scale: i32) -> Option<i128> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if digits.bytes().all(|b| b == b'0') {
        return Some(0);
    }
    let point = i32::try_from(whole.len()).unwrap() + exponent.clamp(-10_000, 10_000) + scale;
    let point = usize::try_from(point).unwrap_or(0);
    // A point before the first digit: then every digit but zeros is lost.
    let before = i32::try_from(whole.len()).unwrap() + exponent.clamp(-10_000, 10_000) + scale < 0;
    let padded = format!("{digits:0<width$}", width = point.max(digits.len()));
    let (kept, lost) = padded.split_at(point);
    if before || lost.bytes().any(|b| b != b'0') {
        return None;
    }
    let kept = kept.trim_start_matches('0');
    if kept.is_empty() {
        return Some(0);
    }
    kept.parse::<i128>().ok().map(|value| sign * value)
}

fn date(text: &str) -> Option<i128> {
    let shaped = text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| {
            if i == 4 || i == 7 {
                b == b'-'
            } else {
                b.is_ascii_digit()
            }
        });
    if !shaped {
        return None;
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    let epoch = NaiveDate::from_ymd_opt(1970, 1, 1)?;
    Some((date - epoch).num_days().into())
}

fn timestamp(text: &str) -> Option<i128> {
    let days = date(text.get(..10)?)?;
    let rest = &text[10..];
    if rest.is_empty() {
        return Some(days * 86_400_000_000);
    }
    let rest = rest.strip_prefix(['T', ' '])?;
    let zone_at = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let (clock, fraction) = match time.split_once('.') {
        Some((clock, fraction)) => (clock, Some(fraction)),
        None => (time, None),
    };
    let shaped = |format| NaiveTime::parse_from_str(clock, format).ok();
    let time = match (clock.len(), fraction) {
        (8, _) if !clock.ends_with("60") => shaped("%H:%M:%S")?,
        (5, None) => shaped("%H:%M")?,
        _ => return None,
    };
    let fraction = match fraction {
        None => 0,
        Some(f) if !f.is_empty() && f.bytes().all(|b| b.is_ascii_digit()) => {
            let nanos: i128 = format!("{f:0<9}").get(..9)?.parse().ok()?;
            let beyond = f.get(9..).is_some_and(|b| b.bytes().any(|b| b != b'0'));
            if nanos % 1000 != 0 || beyond {
                return None;
            }
            nanos / 1000
        }
        Some(_) => return None,
    };
    let offset_minutes = match zone {
        "" | "Z" => 0,
        zone => {
            let digits = zone[1..].replace(':', "");
            let padded = format!("{digits:0<4}");
            let shaped = matches!((zone.len(), zone.find(':')), (3 | 5, None) | (6, Some(3)));
            let valid = shaped && digits.bytes().all(|b| b.is_ascii_digit());
            let hours: i128 = padded.get(..2).filter(|_| valid)?.parse().ok()?;
            let minutes: i128 = padded.get(2..4)?.parse().ok()?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if zone.starts_with('-') { -1 } else { 1 }
        }
    };
    let midnight = NaiveDateTime::new(NaiveDate::from_ymd_opt(1970, 1, 1)?, time);
    let of_day = i128::from(midnight.and_utc().timestamp_micros());
    Some(days * 86_400_000_000 + of_day + fraction - offset_minutes * 60_000_000)
}
