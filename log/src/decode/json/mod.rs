// SPDX-License-Identifier: Apache-2.0
//! JSON text straight into columns, in one pass, guided by the declared types.
//!
//! Strict where general readers are lenient: the grammar is RFC 8259 to the letter, only a DECIMAL is read
//! from quotes too, integers and decimals never pass through a float, a field may come once. There is one
//! decoder for good and bad events alike, so nothing can be accepted on one path and refused on another.

mod escape;
mod skip;

use std::ops::Range;

use dovetail_model::UnknownColumns;

use super::budget::Budget;
use super::column::{
    Column, Row, Values, end_of, epoch_scale, fitted, fitted_decimal, fitted_instant,
};
use super::fault::{Kind, Outcome, What, excerpt, fault};
use super::number::{Decimal, JsonNumber, Unfit};
use super::text::string_stop;
use super::time::{NotATime, parse_date, parse_timestamp};
use escape::unescape;

/// A reader of JSON values at some place of a text.
pub(super) struct JsonReader<'a> {
    text: &'a [u8],
    pos: usize,
    unknown: UnknownColumns,
    /// Unescaped text that goes no further than a key or a time.
    scratch: Vec<u8>,
}

impl<'a> JsonReader<'a> {
    pub(super) fn new(text: &'a [u8], unknown: UnknownColumns) -> Self {
        Self {
            text,
            pos: 0,
            unknown,
            scratch: Vec::new(),
        }
    }

    /// Goes on in another text.
    pub(super) fn reset(&mut self, text: &'a [u8], pos: usize) {
        self.text = text;
        self.pos = pos;
    }

    pub(super) fn position(&self) -> usize {
        self.pos
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.pos).copied()
    }

    #[inline]
    pub(super) fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.pos += 1;
        }
    }

    /// Takes `byte` if it is next.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    /// A fault of the grammar here.
    #[cold]
    pub(super) fn expected<T>(&self, what: &'static str) -> Outcome<T> {
        let rest = self.text.get(self.pos..).unwrap_or_default();
        // The whole character, so that the message can quote it.
        let length = rest
            .utf8_chunks()
            .next()
            .and_then(|chunk| chunk.valid().chars().next())
            .map_or(1, char::len_utf8);
        fault(
            What::Expected(what),
            self.pos..self.pos + length.min(rest.len()),
        )
    }

    /// Reads one event, an object, as row `row` of `columns`, and leaves nothing half there if it is good.
    pub(super) fn event(
        &mut self,
        columns: &mut Row,
        row: usize,
        budget: &mut Budget,
    ) -> Outcome<()> {
        if self.peek() != Some(b'{') {
            return self.expected("a JSON object");
        }
        budget.charge(columns.width())?;
        self.object(columns, row, budget)
    }

    /// Reads one value, all there is in the text, into `column`.
    pub(super) fn whole_value(
        &mut self,
        column: &mut Column,
        nullable: bool,
        budget: &mut Budget,
    ) -> Outcome<()> {
        self.skip_space();
        self.value(column, nullable, budget)?;
        self.skip_space();
        if self.pos < self.text.len() {
            return self.expected("nothing more");
        }
        Ok(())
    }

    fn object(&mut self, columns: &mut Row, row: usize, budget: &mut Budget) -> Outcome<()> {
        self.pos += 1;
        self.skip_space();
        let mut filled = 0;
        if !self.take(b'}') {
            let mut guess = 0;
            loop {
                if let Some(index) = self.key(columns, guess)? {
                    let named = &mut columns.columns[index];
                    let read = if named.column.len() == row {
                        self.skip_space();
                        self.value(&mut named.column, named.nullable, budget)
                    } else {
                        fault(What::Twice, self.pos..self.pos)
                    };
                    read.map_err(|f| f.under(&named.name))?;
                    filled += 1;
                    guess = index + 1;
                } else {
                    self.skip_space();
                    self.skip_value(0)?;
                }
                self.skip_space();
                if self.take(b',') {
                    self.skip_space();
                } else if self.take(b'}') {
                    break;
                } else {
                    return self.expected("`,` or `}`");
                }
            }
        }
        if filled < columns.columns.len() {
            columns.fill(row)?;
        }
        Ok(())
    }

    /// Reads a key and its colon: the column of that name, or none if it is to be left out.
    #[inline]
    fn key(&mut self, columns: &Row, guess: usize) -> Outcome<Option<usize>> {
        // Events of one source mostly have the same fields in the same order and no spaces.
        if let Some(named) = columns.columns.get(guess)
            && let Some(key) = &named.compact_key
            && self.text[self.pos..].starts_with(key)
        {
            self.pos += key.len();
            return Ok(Some(guess));
        }
        self.any_key(columns, guess)
    }

    fn any_key(&mut self, columns: &Row, guess: usize) -> Outcome<Option<usize>> {
        if self.peek() != Some(b'"') {
            return self.expected("a field name in quotes");
        }
        let (at, escaped) = self.string()?;
        let refuse_unknown = self.unknown == UnknownColumns::Reject;
        let name = self.unescaped(at.clone(), escaped)?;
        let found = columns.find(name, guess);
        if found.is_none() && refuse_unknown {
            let name = excerpt(name);
            return fault(What::Unknown, at).map_err(|f| f.under(&name.into()));
        }
        self.skip_space();
        if !self.take(b':') {
            return self.expected("`:`");
        }
        Ok(found)
    }

    /// Reads a value into `column`.
    fn value(&mut self, column: &mut Column, nullable: bool, budget: &mut Budget) -> Outcome<()> {
        if self.peek() == Some(b'n') {
            let start = self.pos;
            self.literal(b"null")?;
            if !nullable {
                return fault(What::Null, start..self.pos);
            }
            column.push_null();
            return Ok(());
        }
        let kind = column.kind();
        match &mut column.values {
            Values::Boolean(values) => match self.peek() {
                Some(b't') => self.literal(b"true").map(|()| values.append(true))?,
                Some(b'f') => self.literal(b"false").map(|()| values.append(false))?,
                _ => return self.not_a(kind),
            },
            Values::Int(values) => values.push(self.integer(kind)?),
            Values::BigInt(values) => values.push(self.integer(kind)?),
            Values::Double(values) => values.push(self.double()?),
            Values::Decimal {
                values,
                precision,
                scale,
            } => values.push(self.decimal(*precision, *scale)?),
            Values::Varchar { offsets, bytes } => {
                self.varchar(bytes)?;
                offsets.push(end_of(bytes.len()));
            }
            Values::Date(values) => {
                let at = self.short_text(kind)?;
                let date = parse_date(self.short(&at));
                values.push(date.map_or_else(|| fault(What::NotA(kind), at.0), Ok)?);
            }
            Values::Timestamp { values, epoch } => values.push(match (*epoch, self.peek()) {
                (Some(unit), Some(b'-' | b'0'..=b'9')) => {
                    self.scaled(kind, epoch_scale(unit), fitted_instant)?
                }
                _ => self.timestamp()?,
            }),
            Values::Struct(row) => {
                if self.peek() != Some(b'{') {
                    return self.not_a(kind);
                }
                let rows = column_len(row);
                self.object(row, rows, budget)?;
            }
            Values::List { offsets, item } => {
                if self.peek() != Some(b'[') {
                    return self.not_a(kind);
                }
                self.list(item, budget).map_err(|f| f.under(&"[]".into()))?;
                offsets.push(end_of(item.len()));
            }
        }
        column.mark_valid();
        Ok(())
    }

    fn list(&mut self, item: &mut Column, budget: &mut Budget) -> Outcome<()> {
        self.pos += 1;
        self.skip_space();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            budget.charge(item.width())?;
            self.value(item, true, budget)?;
            self.skip_space();
            if self.take(b',') {
                self.skip_space();
            } else if self.take(b']') {
                return Ok(());
            } else {
                return self.expected("`,` or `]`");
            }
        }
    }

    #[inline]
    fn number(&mut self, kind: Kind) -> Outcome<JsonNumber> {
        match JsonNumber::scan(self.text, self.pos) {
            Some(number) => Ok(number),
            None => self.not_a(kind),
        }
    }

    #[inline]
    fn integer<T: TryFrom<i64> + TryFrom<i128>>(&mut self, kind: Kind) -> Outcome<T> {
        let number = self.number(kind)?;
        let start = self.pos;
        if let Some(value) = number.small_integer() {
            self.pos = number.end;
            return match T::try_from(value) {
                Ok(value) => Ok(value),
                Err(_) => fault(What::OutOfRange(kind), start..number.end),
            };
        }
        self.scaled(kind, 0, |scaled| fitted(scaled, kind))
    }

    /// A number times `10^scale`, exactly, as far as it `fits`.
    fn scaled<T>(
        &mut self,
        kind: Kind,
        scale: i32,
        fits: impl FnOnce(Result<i128, Unfit>) -> Result<T, What>,
    ) -> Outcome<T> {
        let number = self.number(kind)?;
        let start = self.pos;
        self.pos = number.end;
        fits(number.scaled(self.text, start, scale)).or_else(|what| fault(what, start..number.end))
    }

    fn double(&mut self) -> Outcome<f64> {
        if self.peek() == Some(b'"') {
            return self.named_double();
        }
        let number = self.number(Kind::Double)?;
        let start = self.pos;
        self.pos = number.end;
        let value = number.float(self.text, start);
        if value.is_finite() {
            Ok(value)
        } else {
            fault(What::OutOfRange(Kind::Double), start..number.end)
        }
    }

    /// JSON has no numbers for these; the names are those of the protobuf and XML Schema mappings.
    fn named_double(&mut self) -> Outcome<f64> {
        let at = self.short_text(Kind::Double)?;
        match self.short(&at) {
            b"NaN" => Ok(f64::NAN),
            b"Infinity" => Ok(f64::INFINITY),
            b"-Infinity" => Ok(f64::NEG_INFINITY),
            _ => fault(What::NotA(Kind::Double), at.0),
        }
    }

    fn decimal(&mut self, precision: u8, scale: i8) -> Outcome<i128> {
        let kind = Kind::Decimal(precision, scale);
        let (at, scaled) = if self.peek() == Some(b'"') {
            let at = self.short_text(kind)?;
            let number = Decimal::scan(self.short(&at));
            (at.0, number.map(|n| n.scaled(scale.into())))
        } else {
            let number = self.number(kind)?;
            let start = self.pos;
            self.pos = number.end;
            let scaled = number.scaled(self.text, start, scale.into());
            (start..number.end, Some(scaled))
        };
        match scaled {
            None => fault(What::NotA(kind), at),
            Some(scaled) => {
                fitted_decimal(scaled, precision, scale).or_else(|what| fault(what, at))
            }
        }
    }

    fn timestamp(&mut self) -> Outcome<i64> {
        let kind = Kind::Timestamp;
        let at = self.short_text(kind)?;
        match parse_timestamp(self.short(&at)) {
            Ok(us) => Ok(us),
            Err(NotATime::Malformed) => fault(What::NotA(kind), at.0),
            Err(NotATime::TooFine) => fault(What::Inexact(kind), at.0),
        }
    }

    #[inline]
    fn varchar(&mut self, out: &mut Vec<u8>) -> Outcome<()> {
        if self.peek() != Some(b'"') {
            return self.not_a(Kind::Varchar);
        }
        let (at, escaped) = self.string()?;
        if escaped {
            return unescape(self.text, at, out);
        }
        out.extend_from_slice(&self.text[at]);
        Ok(())
    }

    /// Reads a string that a value of `kind` is written as: where it stands, quotes included, and whether
    /// it had to be unescaped.
    fn short_text(&mut self, kind: Kind) -> Outcome<(Range<usize>, bool)> {
        if self.peek() != Some(b'"') {
            return self.not_a(kind);
        }
        let (at, escaped) = self.string()?;
        let quoted = at.start - 1..at.end + 1;
        self.unescaped(at, escaped)?;
        Ok((quoted, escaped))
    }

    /// The text of such a string.
    fn short(&self, (quoted, escaped): &(Range<usize>, bool)) -> &[u8] {
        if *escaped {
            &self.scratch
        } else {
            &self.text[quoted.start + 1..quoted.end - 1]
        }
    }

    fn unescaped(&mut self, at: Range<usize>, escaped: bool) -> Outcome<&[u8]> {
        if !escaped {
            return Ok(&self.text[at]);
        }
        self.scratch.clear();
        unescape(self.text, at, &mut self.scratch)?;
        Ok(&self.scratch)
    }

    /// Passes a string: what is between the quotes, and whether there are escapes in it (not checked yet).
    #[inline]
    fn string(&mut self) -> Outcome<(Range<usize>, bool)> {
        let start = self.pos + 1;
        let mut escaped = false;
        let mut at = start;
        loop {
            at = string_stop(self.text, at);
            match self.text.get(at) {
                Some(b'"') => {
                    self.pos = at + 1;
                    return Ok((start..at, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                Some(_) => {
                    let how = "is a control character inside a string; escape it";
                    return fault(What::Malformed(how), at..at + 1);
                }
                None => {
                    let end = self.text.len();
                    return fault(What::Expected("the closing quote of a string"), end..end);
                }
            }
        }
    }

    #[inline]
    fn literal(&mut self, word: &'static [u8]) -> Outcome<()> {
        if self.text[self.pos..].starts_with(word) {
            self.pos += word.len();
            return Ok(());
        }
        self.expected("a JSON value")
    }

    /// A value that is not of the type, or no value at all.
    #[cold]
    fn not_a<T>(&mut self, kind: Kind) -> Outcome<T> {
        let start = self.pos;
        self.skip_value(0)?;
        fault(What::NotA(kind), start..self.pos)
    }
}

/// The rows of a struct that are complete: those of its column, which is marked only afterwards.
fn column_len(row: &Row) -> usize {
    row.columns.first().map_or(0, |named| named.column.len())
}
