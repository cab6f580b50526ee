// SPDX-License-Identifier: Apache-2.0
//! Values of formats that have types of their own, into columns where nothing of them is lost: the same casts as of
//! Arrow columns, one value at a time.

use std::fmt::Display;

use dovetail_model::{EpochUnit, calendar_days};

use super::budget::Budget;
use super::column::{CALENDAR_US, Column, Values, end_of, epoch_scale, fitted_decimal};
use super::fault::{Kind, Outcome, What, excerpt, fault, out_of_range, worded};
use super::number::Unfit;

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

impl Column {
    /// Null, where the column may be null.
    pub(super) fn put_null(&mut self, nullable: bool) -> Outcome<()> {
        if !nullable {
            return fault(What::Null, 0..0);
        }
        self.push_null();
        Ok(())
    }

    pub(super) fn put_boolean(&mut self, value: bool) -> Outcome<()> {
        let Values::Boolean(values) = &mut self.values else {
            return self.not_of_type("a boolean");
        };
        values.append(value);
        self.mark_valid();
        Ok(())
    }

    /// Any integer of up to 64 bits, with a sign or without.
    #[inline]
    pub(super) fn put_integer(&mut self, value: i128) -> Outcome<()> {
        let put = match &mut self.values {
            Values::Int(values) => i32::try_from(value).map(|v| values.push(v)).is_ok(),
            Values::BigInt(values) => i64::try_from(value).map(|v| values.push(v)).is_ok(),
            Values::Double(values) => {
                let float = value as f64;
                let exact = float as i128 == value;
                if exact {
                    values.push(float);
                }
                exact
            }
            Values::Decimal {
                values,
                precision,
                scale,
            } => push_decimal(values, *precision, *scale, value, 0),
            Values::Timestamp {
                values,
                epoch: Some(unit),
            } => push_instant(values, value, *unit)?,
            Values::Timestamp { epoch: None, .. } => {
                return worded(
                    "an integer cannot be read as a TIMESTAMP without loss; declare an event_time_unit for it"
                        .to_owned(),
                );
            }
            _ => return self.not_of_type("an integer"),
        };
        self.put(put, value)
    }

    pub(super) fn put_double(&mut self, value: f64) -> Outcome<()> {
        // 2^63 itself is the first that does not fit; NaN and infinities have no zero fraction.
        let whole = || {
            let fits = value.fract() == 0.0 && (-(2_f64.powi(63))..2_f64.powi(63)).contains(&value);
            fits.then_some(value as i64)
        };
        let put = match &mut self.values {
            Values::Double(values) => {
                values.push(value);
                true
            }
            Values::Int(values) => whole()
                .and_then(|v| i32::try_from(v).ok())
                .map(|v| values.push(v))
                .is_some(),
            Values::BigInt(values) => whole().map(|v| values.push(v)).is_some(),
            _ => return self.not_of_type("a floating-point number"),
        };
        self.put(put, value)
    }

    /// Text, which must be UTF-8; `what` names the type that it has in its format.
    #[inline]
    pub(super) fn put_text(&mut self, text: &[u8], what: &'static str) -> Outcome<()> {
        let Values::Varchar { offsets, bytes } = &mut self.values else {
            return self.not_of_type(what);
        };
        if let Err(error) = std::str::from_utf8(text) {
            let (at, text) = (error.valid_up_to() + 1, excerpt(text));
            return worded(format!("`{text}` is not valid UTF-8, from byte {at} on"));
        }
        bytes.extend_from_slice(text);
        offsets.push(end_of(bytes.len()));
        self.mark_valid();
        Ok(())
    }

    /// Text that the message only refers to: it may be longer than the message.
    pub(super) fn put_named(
        &mut self,
        text: &str,
        what: &'static str,
        budget: &mut Budget,
    ) -> Outcome<()> {
        budget.charge(text.len())?;
        self.put_text(text.as_bytes(), what)
    }

    /// `unscaled / 10^scale`
    pub(super) fn put_decimal(&mut self, unscaled: i128, scale: u8) -> Outcome<()> {
        let Values::Decimal {
            values,
            precision,
            scale: to,
        } = &mut self.values
        else {
            return self.not_of_type("a decimal");
        };
        let put = push_decimal(values, *precision, *to, unscaled, scale);
        self.put(put, format_args!("{unscaled}e-{scale}"))
    }

    /// Days since the Unix epoch.
    pub(super) fn put_date(&mut self, days: i32) -> Outcome<()> {
        let has_date = calendar_days().contains(&days);
        match &mut self.values {
            Values::Date(values) if has_date => values.push(days),
            Values::Timestamp { values, .. } if has_date => values.push(i64::from(days) * DAY_US),
            Values::Date(_) | Values::Timestamp { .. } => {
                return worded(out_of_range(&days, self.kind()));
            }
            _ => return self.not_of_type("a date"),
        }
        self.mark_valid();
        Ok(())
    }

    /// So many units since the Unix epoch.
    #[inline]
    pub(super) fn put_instant(&mut self, value: i128, unit: EpochUnit) -> Outcome<()> {
        let Values::Timestamp { values, .. } = &mut self.values else {
            return self.not_of_type("a timestamp");
        };
        let put = push_instant(values, value, unit)?;
        self.put(put, value)
    }

    /// Counts a value that was pushed, or says which one did not fit.
    #[inline]
    fn put(&mut self, pushed: bool, value: impl Display) -> Outcome<()> {
        if pushed {
            self.mark_valid();
            return Ok(());
        }
        let kind = self.kind();
        worded(format!(
            "`{value}` cannot be {} {kind} without loss",
            kind.article()
        ))
    }

    /// A fault of a value whose type no value of the column's has.
    #[cold]
    pub(super) fn not_of_type<T>(&self, what: &str) -> Outcome<T> {
        let kind = self.kind();
        worded(format!(
            "{what} cannot be read as {} {kind} without loss",
            kind.article()
        ))
    }
}

/// Whether the value has the digits, and no others.
fn push_decimal(values: &mut Vec<i128>, precision: u8, to: i8, value: i128, from: u8) -> bool {
    let shift = i32::from(to) - i32::from(from);
    let factor = 10_i128.checked_pow(shift.unsigned_abs());
    let scaled = match factor {
        _ if value == 0 => Ok(0),
        None if shift >= 0 => Err(Unfit::TooLarge),
        None => Err(Unfit::Inexact),
        Some(factor) if shift >= 0 => value.checked_mul(factor).ok_or(Unfit::TooLarge),
        Some(factor) if value % factor == 0 => Ok(value / factor),
        Some(_) => Err(Unfit::Inexact),
    };
    let fitted = fitted_decimal(scaled, precision, to);
    fitted.map(|value| values.push(value)).is_ok()
}

/// Whether the value has no part finer than a microsecond.
///
/// # Errors
/// Where the calendar does not have it.
#[inline]
fn push_instant(values: &mut Vec<i64>, value: i128, unit: EpochUnit) -> Outcome<bool> {
    let micros = match epoch_scale(unit) {
        up @ 0.. => value.checked_mul(10_i128.pow(up.unsigned_abs())),
        down => {
            let factor = 10_i128.pow(down.unsigned_abs());
            if value % factor != 0 {
                return Ok(false);
            }
            Some(value / factor)
        }
    };
    let micros = micros.and_then(|micros| i64::try_from(micros).ok());
    let Some(micros) = micros.filter(|micros| CALENDAR_US.contains(micros)) else {
        return worded(out_of_range(&value, Kind::Timestamp));
    };
    values.push(micros);
    Ok(true)
}
