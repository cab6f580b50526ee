// SPDX-License-Identifier: Apache-2.0
//! Protobuf messages straight into columns, guided by the schema that each was written with.
//!
//! Purpose: the `.proto` text of a registry and the stream's columns make a [`Plan`] once. Fields of a message come in
//! any order and more than once, columns take each value once: so a message is first passed over, what columns want
//! of it is remembered where it stands, and then read, column by column.
//! Source: the encoding guide of Protocol Buffers. A message that is there several times is the same as its parts one
//! behind the other; of a scalar, and of a `oneof`, the last counts.
//! Invariants: as of every decoder here: a bad message is one fault and is taken back where it stands, no bytes panic,
//! and time and memory are bounded by the message and the budget.
//! Non-goals: extensions; `Any` is a message of a URL and bytes.

mod compile;
mod plan;
mod wire;

use std::collections::HashMap;

use dovetail_model::EpochUnit;

use super::budget::Budget;
use super::column::{Column, Row, Values, end_of};
use super::fault::{Outcome, What, fault, worded};
use super::unread::zigzag;
pub(super) use plan::Plan;
use plan::{Absent, FieldPlan, Many, MessagePlan, Read, Scalar};
use wire::{Raw, Wire};

/// Deepest nesting of a message's declaration.
const MAX_PATH: usize = 32;

impl Plan {
    /// Reads one message, which says first which of its file it is, as row `row`, and leaves nothing half there if it
    /// is good.
    pub(super) fn read(
        &self,
        message: &[u8],
        columns: &mut Row,
        row: usize,
        budget: &mut Budget,
    ) -> Outcome<()> {
        let mut wire = Wire::new(message);
        let (path, length) = path(&mut wire)?;
        let path = &path[..length];
        let Some(plan) = self.messages.get(path) else {
            return worded(format!("its schema has no message number {path:?}"));
        };
        budget.charge(columns.width())?;
        let mut reader = Reader { budget };
        reader.message(plan, &[Raw::Bytes(wire.rest())], columns, row)
    }
}

/// The indices that lead to the message's declaration; one zero byte stands for the first.
fn path(wire: &mut Wire<'_>) -> Outcome<([u32; MAX_PATH], usize)> {
    let mut path = [0; MAX_PATH];
    let count = zigzag(wire.varint()?);
    if count == 0 {
        return Ok((path, 1));
    }
    let length = usize::try_from(count).unwrap_or(usize::MAX);
    let Some(indices) = path.get_mut(..length) else {
        return worded(format!("`{count}` is no number of indices to a message"));
    };
    for index in indices {
        let found = zigzag(wire.varint()?);
        match u32::try_from(found) {
            Ok(found) => *index = found,
            Err(_) => return worded(format!("`{found}` is no index of a message")),
        }
    }
    Ok((path, length))
}

/// What a message has of a field.
#[derive(Clone)]
enum Slot<'a> {
    Empty,
    One(Raw<'a>),
    Many(Vec<Raw<'a>>),
}

impl<'a> Slot<'a> {
    fn values(&self) -> &[Raw<'a>] {
        match self {
            Self::Empty => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn push(&mut self, raw: Raw<'a>) {
        match self {
            Self::Empty => *self = Self::One(raw),
            Self::One(one) => *self = Self::Many(vec![*one, raw]),
            Self::Many(many) => many.push(raw),
        }
    }
}

struct Reader<'b> {
    budget: &'b mut Budget,
}

impl Reader<'_> {
    /// Reads a message, given in parts, as row `row`.
    fn message(
        &mut self,
        plan: &MessagePlan,
        parts: &[Raw<'_>],
        columns: &mut Row,
        row: usize,
    ) -> Outcome<()> {
        if let Some(name) = &plan.unknown {
            return fault(What::Unknown, 0..0).map_err(|f| f.under(name));
        }
        let mut slots = vec![Slot::Empty; plan.fields.len()];
        for part in parts {
            plan.scan(*part, &mut slots)?;
        }
        for (field, slot) in plan.fields.iter().zip(&slots) {
            let named = &mut columns.columns[field.column];
            self.field(field, slot.values(), &mut named.column, named.nullable)
                .map_err(|f| f.under(&named.name))?;
        }
        if plan.complete {
            Ok(())
        } else {
            columns.fill(row)
        }
    }

    fn field(
        &mut self,
        field: &FieldPlan,
        raws: &[Raw<'_>],
        column: &mut Column,
        nullable: bool,
    ) -> Outcome<()> {
        match (field.many, field.absent) {
            (Many::One, Absent::Null) if raws.is_empty() => column.put_null(nullable),
            (Many::One, Absent::Invalid) if raws.is_empty() => {
                worded("the message lacks it, and its schema requires it".to_owned())
            }
            (Many::One, _) => self.value(&field.read, raws, column),
            (Many::List, _) => self.items(&field.read, raws.iter().copied(), column),
            (Many::Map, _) => {
                let last = last_entries(raws)?;
                let entries = raws.iter().copied().zip(&last);
                let entries = entries.filter_map(|(raw, last)| last.then_some(raw));
                self.items(&field.read, entries, column)
            }
        }
    }

    fn items<'a>(
        &mut self,
        read: &Read,
        raws: impl Iterator<Item = Raw<'a>>,
        column: &mut Column,
    ) -> Outcome<()> {
        if let Read::Unfit(what) = read
            && !matches!(column.values, Values::List { .. })
        {
            return column.not_of_type(what);
        }
        let Values::List { offsets, item } = &mut column.values else {
            return column.not_of_type("a repeated field");
        };
        let mut put = |raw| {
            self.budget.charge(item.width())?;
            self.value(read, &[raw], item)
        };
        for raw in raws {
            let put = match (read, raw) {
                (Read::Scalar(scalar), Raw::Bytes(packed)) if scalar.is_packed_in_bytes() => {
                    scalar.unpack(packed, &mut put)
                }
                _ => put(raw),
            };
            put.map_err(|f| f.under(&"[]".into()))?;
        }
        offsets.push(end_of(item.len()));
        column.mark_valid();
        Ok(())
    }

    /// One value, out of all that the message has of it; what is not there has its type's default.
    fn value(&mut self, read: &Read, raws: &[Raw<'_>], column: &mut Column) -> Outcome<()> {
        match read {
            Read::Scalar(scalar) => self.scalar(scalar, raws.last().copied(), column),
            Read::Message(plan) => {
                let Values::Struct(row) = &mut column.values else {
                    return column.not_of_type("a message");
                };
                let at = row.len();
                self.message(plan, raws, row, at)?;
                column.mark_valid();
                Ok(())
            }
            Read::Timestamp => column.put_instant(nanoseconds(raws)?, EpochUnit::Nanosecond),
            Read::Wrapper(scalar) => self.scalar(scalar, last_of(1, raws)?, column),
            Read::Unfit(what) => column.not_of_type(what),
        }
    }

    fn scalar(&mut self, of: &Scalar, raw: Option<Raw<'_>>, column: &mut Column) -> Outcome<()> {
        let raw = raw.unwrap_or_else(|| of.default_value());
        match (of, raw) {
            // The low bits of what may be written longer.
            (Scalar::Int32, Raw::Varint(v)) => column.put_integer((v as i32).into()),
            (Scalar::Int64, Raw::Varint(v)) => column.put_integer(v.cast_signed().into()),
            (Scalar::Uint32, Raw::Varint(v)) => column.put_integer((v as u32).into()),
            (Scalar::Uint64, Raw::Varint(v)) => column.put_integer(v.into()),
            (Scalar::Sint32, Raw::Varint(v)) => {
                column.put_integer(zigzag((v as u32).into()).into())
            }
            (Scalar::Sint64, Raw::Varint(v)) => column.put_integer(zigzag(v).into()),
            (Scalar::Fixed32, Raw::Fixed32(v)) => column.put_integer(v.into()),
            (Scalar::Fixed64, Raw::Fixed64(v)) => column.put_integer(v.into()),
            (Scalar::Sfixed32, Raw::Fixed32(v)) => column.put_integer(v.cast_signed().into()),
            (Scalar::Sfixed64, Raw::Fixed64(v)) => column.put_integer(v.cast_signed().into()),
            (Scalar::Bool, Raw::Varint(v)) => column.put_boolean(v != 0),
            (Scalar::Float, Raw::Fixed32(v)) => column.put_double(f32::from_bits(v).into()),
            (Scalar::Double, Raw::Fixed64(v)) => column.put_double(f64::from_bits(v)),
            (Scalar::String, Raw::Bytes(text)) => column.put_text(text, "a string"),
            (Scalar::Bytes, Raw::Bytes(text)) => column.put_text(text, "bytes"),
            (Scalar::Enum(names), Raw::Varint(v)) => self.symbol(names, v as i32, column),
            _ => other_kind(),
        }
    }

    /// A value of an enum: its name, or its number where the column holds numbers.
    fn symbol(
        &mut self,
        names: &HashMap<i32, String>,
        number: i32,
        column: &mut Column,
    ) -> Outcome<()> {
        if matches!(column.values, Values::Int(_) | Values::BigInt(_)) {
            return column.put_integer(number.into());
        }
        match names.get(&number) {
            Some(name) => column.put_named(name, "an enum", self.budget),
            None => worded(format!("`{number}` is no value of its enum")),
        }
    }
}

impl MessagePlan {
    /// Remembers what columns want of a message.
    fn scan<'a>(&self, message: Raw<'a>, slots: &mut [Slot<'a>]) -> Outcome<()> {
        let (Raw::Bytes(bytes) | Raw::Group(bytes)) = message else {
            return other_kind();
        };
        let mut wire = Wire::new(bytes);
        let mut guess = 0;
        while !wire.is_empty() {
            let (number, raw) = wire.field()?;
            let Some((at, place)) = self.place(number, guess) else {
                continue;
            };
            guess = at + 1;
            for other in &place.clears {
                slots[*other] = Slot::Empty;
            }
            if let Some(slot) = place.slot {
                match self.fields[slot].is_last_of_many() {
                    true => slots[slot] = Slot::One(raw),
                    false => slots[slot].push(raw),
                }
            }
        }
        Ok(())
    }
}

impl FieldPlan {
    /// Whether of several values the last one counts alone.
    fn is_last_of_many(&self) -> bool {
        self.many == Many::One && matches!(self.read, Read::Scalar(_) | Read::Unfit(_))
    }
}

impl Scalar {
    fn default_value(&self) -> Raw<'static> {
        match self {
            Self::Fixed32 | Self::Sfixed32 | Self::Float => Raw::Fixed32(0),
            Self::Fixed64 | Self::Sfixed64 | Self::Double => Raw::Fixed64(0),
            Self::String | Self::Bytes => Raw::Bytes(&[]),
            _ => Raw::Varint(0),
        }
    }

    /// Whether bytes are several values of it.
    fn is_packed_in_bytes(&self) -> bool {
        !matches!(self, Self::String | Self::Bytes)
    }

    /// Values of it one behind the other.
    fn unpack<'a>(
        &self,
        packed: &'a [u8],
        put: &mut impl FnMut(Raw<'a>) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut wire = Wire::new(packed);
        while !wire.is_empty() {
            put(match self.default_value() {
                Raw::Fixed32(_) => Raw::Fixed32(u32::from_le_bytes(wire.array()?)),
                Raw::Fixed64(_) => Raw::Fixed64(u64::from_le_bytes(wire.array()?)),
                _ => Raw::Varint(wire.varint()?),
            })?;
        }
        Ok(())
    }
}

/// The last value of field `number` in the parts of a message.
fn last_of<'a>(number: u32, parts: &[Raw<'a>]) -> Outcome<Option<Raw<'a>>> {
    let mut last = None;
    for part in parts {
        let (Raw::Bytes(bytes) | Raw::Group(bytes)) = part else {
            return other_kind();
        };
        let mut wire = Wire::new(bytes);
        while !wire.is_empty() {
            let (found, raw) = wire.field()?;
            if found == number {
                last = Some(raw);
            }
        }
    }
    Ok(last)
}

/// Which entries of a map count: of several with the same key the last.
fn last_entries(entries: &[Raw<'_>]) -> Outcome<Vec<bool>> {
    let mut last = HashMap::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        last.insert(last_of(1, &[*entry])?, at);
    }
    let mut counts = vec![false; entries.len()];
    for at in last.into_values() {
        counts[at] = true;
    }
    Ok(counts)
}

/// Nanoseconds since the Unix epoch out of the seconds and nanoseconds of a `google.protobuf.Timestamp`.
fn nanoseconds(parts: &[Raw<'_>]) -> Outcome<i128> {
    let integer = |number| match last_of(number, parts)? {
        None => Ok(0),
        Some(Raw::Varint(value)) => Ok(value.cast_signed()),
        Some(_) => other_kind(),
    };
    let (seconds, nanos) = (integer(1)?, integer(2)?);
    if !(0..1_000_000_000).contains(&nanos) {
        return worded(format!("`{nanos}` are no nanoseconds of a second"));
    }
    Ok(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

#[cold]
fn other_kind<T>() -> Outcome<T> {
    worded("it has another kind of value: written with another schema".to_owned())
}
