// SPDX-License-Identifier: Apache-2.0
//! One CSV value into its column.

use std::ops::Range;

use dovetail_model::{EpochUnit, UnknownColumns};

use super::records::Value;
use crate::decode::budget::Budget;
use crate::decode::column::{
    Column, NamedColumn, Values, end_of, epoch_scale, fitted, fitted_decimal, fitted_instant,
};
use crate::decode::fault::{Fault, Kind, Outcome, What, fault};
use crate::decode::json::JsonReader;
use crate::decode::number::{Decimal, JsonNumber};
use crate::decode::time::{NotATime, parse_date, parse_timestamp};

/// Reads values; reused for all of a body.
pub(super) struct ValueReader {
    unknown: UnknownColumns,
    /// The text of a value with doubled quotes.
    scratch: Vec<u8>,
}

impl ValueReader {
    pub(super) fn new(unknown: UnknownColumns) -> Self {
        Self {
            unknown,
            scratch: Vec::new(),
        }
    }

    /// Pushes `value` of `record` to its column.
    pub(super) fn read(
        &mut self,
        record: &[u8],
        value: &Value,
        named: &mut NamedColumn,
        budget: &mut Budget,
    ) -> Outcome<()> {
        let column = &mut named.column;
        let text = value.text(record, &mut self.scratch);
        let empty_text = value.quoted && column.kind() == Kind::Varchar;
        let read = if text.is_empty() && !empty_text {
            if named.nullable {
                column.push_null();
                return Ok(());
            }
            fault(What::Empty(column.kind()), value.at.clone())
        } else {
            let at = value.at.clone();
            match column.kind() {
                Kind::Struct | Kind::List => JsonReader::new(text, self.unknown)
                    .whole_value(column, named.nullable, budget)
                    .map_err(|f| f.said(text, at)),
                _ => read_plain(text, at, column),
            }
        };
        read.map_err(|f| f.under(&named.name))
    }
}

fn read_plain(text: &[u8], at: Range<usize>, column: &mut Column) -> Outcome<()> {
    let kind = column.kind();
    let refuse = |what: What| Fault::new(what, at.clone());
    match &mut column.values {
        Values::Boolean(values) => values.append(match text {
            _ if text.eq_ignore_ascii_case(b"true") => true,
            _ if text.eq_ignore_ascii_case(b"false") => false,
            _ => return Err(refuse(What::NotA(kind))),
        }),
        Values::Int(values) => values.push(integer(text, kind).map_err(refuse)?),
        Values::BigInt(values) => values.push(integer(text, kind).map_err(refuse)?),
        Values::Double(values) => values.push(double(text).map_err(refuse)?),
        Values::Decimal {
            values,
            precision,
            scale,
        } => {
            let number = Decimal::scan(text).ok_or(What::NotA(kind));
            let scaled = number.map(|n| n.scaled((*scale).into()));
            let fitted = scaled.and_then(|scaled| fitted_decimal(scaled, *precision, *scale));
            values.push(fitted.map_err(refuse)?);
        }
        Values::Varchar { offsets, bytes } => {
            bytes.extend_from_slice(text);
            offsets.push(end_of(bytes.len()));
        }
        Values::Date(values) => match parse_date(text) {
            Some(date) => values.push(date),
            None => return Err(refuse(What::NotA(kind))),
        },
        Values::Timestamp { values, epoch } => {
            values.push(timestamp(text, *epoch).map_err(refuse)?);
        }
        Values::Struct(_) | Values::List { .. } => return Err(refuse(What::NotA(kind))),
    }
    column.mark_valid();
    Ok(())
}

#[inline]
fn integer<T: TryFrom<i128>>(text: &[u8], kind: Kind) -> Result<T, What> {
    let scaled = match JsonNumber::scan(text, 0).filter(|n| n.end == text.len()) {
        Some(number) => match number.small_integer() {
            Some(value) => Ok(i128::from(value)),
            None => number.scaled(text, 0, 0),
        },
        None => Decimal::scan(text).ok_or(What::NotA(kind))?.scaled(0),
    };
    fitted(scaled, kind)
}

fn double(text: &[u8]) -> Result<f64, What> {
    let value = match JsonNumber::scan(text, 0).filter(|n| n.end == text.len()) {
        Some(number) => number.float(text, 0),
        // `+1`, `.5`, and the names of the values that are not finite.
        None => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
            .ok_or(What::NotA(Kind::Double))?,
    };
    if value.is_infinite() && text.iter().any(u8::is_ascii_digit) {
        return Err(What::OutOfRange(Kind::Double));
    }
    Ok(value)
}

fn timestamp(text: &[u8], epoch: Option<EpochUnit>) -> Result<i64, What> {
    let kind = Kind::Timestamp;
    // ISO text has a dash behind the year, a number none but in front or behind an exponent's e.
    if let Some(unit) = epoch
        && text.get(4) != Some(&b'-')
    {
        let number = Decimal::scan(text).ok_or(What::NotA(kind))?;
        return fitted_instant(number.scaled(epoch_scale(unit)));
    }
    parse_timestamp(text).map_err(|error| match error {
        NotATime::Malformed => What::NotA(kind),
        NotATime::TooFine => What::Inexact(kind),
    })
}
