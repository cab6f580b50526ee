// SPDX-License-Identifier: Apache-2.0
//! Avro messages straight into columns, guided by the schema that each was written with.
//!
//! Purpose: the writer's schema and the stream's columns make a [`Plan`] once; each message is one walk over it.
//! Messages of several schemas stand side by side in one batch, so an evolved schema costs nothing. Source: the Avro
//! 1.12 specification, "Binary encoding".
//! Invariants: as of every decoder here: a bad message is one fault and is taken back where it stands, no bytes
//! panic, and time and memory are bounded by the message and the budget. `arrow-avro` keeps none of them: an error
//! leaves its columns half filled, and it ends a batch at each change of the schema.
//! Non-goals: container files, defaults of a reader's schema (what a message lacks is null).

mod cursor;
mod plan;
mod schema;

use std::fmt::Write as _;

use super::budget::Budget;
use super::column::{Column, NamedColumn, Row, Values, end_of};
use super::fault::{Outcome, What, fault, worded};
use cursor::Cursor;
pub(super) use plan::Plan;
use plan::{MapPlan, Read, RecordPlan, Step};
use schema::{Schema, Type, TypeId};

/// Deepest nesting of values that no column wants.
const MAX_SKIP_DEPTH: usize = 128;
/// Items without bytes, such as nulls, that a message may claim to hold.
const MAX_EMPTY_ITEMS: usize = 10_000;

impl Plan {
    /// Reads one message, a record, as row `row`, and leaves nothing half there if it is good.
    pub(super) fn read(
        &self,
        message: &[u8],
        columns: &mut Row,
        row: usize,
        budget: &mut Budget,
    ) -> Outcome<()> {
        budget.charge(columns.width())?;
        let mut reader = Reader {
            schema: &self.schema,
            cursor: Cursor::new(message),
            empty_items: 0,
            budget,
        };
        reader.record(&self.record, columns, row)?;
        match reader.cursor.left() {
            0 => Ok(()),
            left => worded(format!(
                "{left} bytes follow the record: it was written with another schema"
            )),
        }
    }
}

struct Reader<'a> {
    schema: &'a Schema,
    cursor: Cursor<'a>,
    /// Items without bytes so far.
    empty_items: usize,
    budget: &'a mut Budget,
}

impl Reader<'_> {
    fn record(&mut self, plan: &RecordPlan, columns: &mut Row, row: usize) -> Outcome<()> {
        if let Some(name) = &plan.unknown {
            return fault(What::Unknown, 0..0).map_err(|f| f.under(name));
        }
        for step in &plan.steps {
            match step {
                Step::Skip(of) => self.skip(*of, 0)?,
                Step::Read { column, read } => self.field(read, &mut columns.columns[*column])?,
            }
        }
        if plan.complete {
            Ok(())
        } else {
            columns.fill(row)
        }
    }

    #[inline]
    fn field(&mut self, read: &Read, named: &mut NamedColumn) -> Outcome<()> {
        self.value(read, &mut named.column, named.nullable)
            .map_err(|f| f.under(&named.name))
    }

    fn value(&mut self, read: &Read, column: &mut Column, nullable: bool) -> Outcome<()> {
        let read = match read {
            Read::Union(branches) => &branches[self.cursor.index(branches.len(), "branches")?],
            other => other,
        };
        match (read, &mut column.values) {
            (Read::Leaf(of), _) => return self.leaf(*of, column, nullable),
            (Read::Record(plan), Values::Struct(row)) => {
                let at = row.len();
                self.record(plan, row, at)?;
            }
            (Read::Array(item), Values::List { offsets, item: to }) => {
                self.items(|reader| {
                    reader.budget.charge(to.width())?;
                    reader.value(item, to, true)
                })
                .map_err(|f| f.under(&"[]".into()))?;
                offsets.push(end_of(to.len()));
            }
            (Read::Map(plan), Values::List { offsets, item: to }) => {
                self.items(|reader| reader.pair(plan, to))
                    .map_err(|f| f.under(&"[]".into()))?;
                offsets.push(end_of(to.len()));
            }
            // The plan was made for these columns, and a union holds no union.
            _ => return worded("a union holds a union".to_owned()),
        }
        column.mark_valid();
        Ok(())
    }

    /// One entry of a map.
    fn pair(&mut self, plan: &MapPlan, to: &mut Column) -> Outcome<()> {
        self.budget.charge(to.width())?;
        let Values::Struct(pair) = &mut to.values else {
            return to.not_of_type("an entry of a map");
        };
        let row = pair.len();
        let key = self.cursor.bytes()?;
        if let Some(at) = plan.key {
            let named = &mut pair.columns[at];
            let put = named.column.put_text(key, "the key of a map");
            put.map_err(|f| f.under(&named.name))?;
        }
        match &plan.value {
            Some((at, read)) => self.field(read, &mut pair.columns[*at])?,
            None => self.skip(plan.values, 0)?,
        }
        if !plan.complete {
            pair.fill(row)?;
        }
        to.mark_valid();
        Ok(())
    }

    /// The items of an array or map, block by block.
    fn items(&mut self, mut item: impl FnMut(&mut Self) -> Outcome<()>) -> Outcome<()> {
        loop {
            let mut count = self.cursor.integer(64)?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The size of the block, for readers that skip it.
                self.cursor.integer(64)?;
                count = count.saturating_neg();
            }
            for _ in 0..count {
                let before = self.cursor.left();
                item(self)?;
                if self.cursor.left() == before {
                    self.empty_items += 1;
                    if self.empty_items > MAX_EMPTY_ITEMS {
                        return worded(format!(
                            "it claims to hold more than {MAX_EMPTY_ITEMS} items without bytes"
                        ));
                    }
                }
            }
        }
    }

    fn leaf(&mut self, of: TypeId, column: &mut Column, nullable: bool) -> Outcome<()> {
        match self.schema.get(of) {
            Type::Null => column.put_null(nullable),
            Type::Boolean => column.put_boolean(self.cursor.boolean()?),
            Type::Integer(bits) => column.put_integer(self.cursor.integer(*bits)?.into()),
            Type::Float => column.put_double(f32::from_le_bytes(self.cursor.array()?).into()),
            Type::Double => column.put_double(f64::from_le_bytes(self.cursor.array()?)),
            Type::Bytes => column.put_text(self.cursor.bytes()?, "bytes"),
            Type::Fixed(size) => column.put_text(self.cursor.take(*size)?, "a fixed"),
            Type::Text => column.put_text(self.cursor.bytes()?, "a string"),
            Type::Enum(symbols) => {
                let symbol = &symbols[self.cursor.index(symbols.len(), "symbols")?];
                column.put_named(symbol, "an enum", self.budget)
            }
            Type::Decimal { scale, size } => {
                let bytes = match size {
                    Some(size) => self.cursor.take(*size)?,
                    None => self.cursor.bytes()?,
                };
                column.put_decimal(unscaled(bytes)?, *scale)
            }
            Type::Date => {
                let days = self.cursor.integer(32)?;
                column.put_date(i32::try_from(days).expect("it has 32 bits"))
            }
            Type::Instant { unit } => column.put_instant(self.cursor.integer(64)?.into(), *unit),
            Type::Uuid => {
                let text = uuid(self.cursor.array()?);
                column.put_named(&text, "a uuid", self.budget)
            }
            Type::Record(_) => column.not_of_type("a record"),
            Type::Array(_) => column.not_of_type("an array"),
            Type::Map(_) => column.not_of_type("a map"),
            Type::Union(_) => worded("a union holds a union".to_owned()),
        }
    }

    /// Passes a value that no column wants.
    fn skip(&mut self, of: TypeId, depth: usize) -> Outcome<()> {
        if depth > MAX_SKIP_DEPTH {
            return fault(What::TooDeep, 0..0);
        }
        let cursor = &mut self.cursor;
        match self.schema.get(of) {
            Type::Null => {}
            Type::Boolean => drop(cursor.boolean()?),
            Type::Integer(bits) => drop(cursor.integer(*bits)?),
            Type::Date => drop(cursor.integer(32)?),
            Type::Instant { .. } => drop(cursor.integer(64)?),
            Type::Float => drop(cursor.take(4)?),
            Type::Double => drop(cursor.take(8)?),
            Type::Uuid => drop(cursor.take(16)?),
            Type::Bytes | Type::Text | Type::Decimal { size: None, .. } => drop(cursor.bytes()?),
            Type::Fixed(size)
            | Type::Decimal {
                size: Some(size), ..
            } => drop(cursor.take(*size)?),
            Type::Enum(symbols) => drop(cursor.index(symbols.len(), "symbols")?),
            Type::Union(branches) => {
                let branch = branches[cursor.index(branches.len(), "branches")?];
                self.skip(branch, depth + 1)?;
            }
            Type::Record(fields) => {
                // Records of records may be many and take no bytes.
                self.budget.charge(1)?;
                for field in fields.iter() {
                    self.skip(field.of, depth + 1)?;
                }
            }
            Type::Array(item) => self.items(|reader| reader.skip(*item, depth + 1))?,
            Type::Map(value) => self.items(|reader| {
                reader.cursor.bytes()?;
                reader.skip(*value, depth + 1)
            })?,
        }
        Ok(())
    }
}

/// A big-endian integer of two's complement.
fn unscaled(bytes: &[u8]) -> Outcome<i128> {
    let negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let fill = if negative { 0xff } else { 0 };
    // Bytes that only repeat the sign may stand before the sixteen that hold it.
    let (sign, low) = bytes.split_at(bytes.len().saturating_sub(16));
    let mut wide = [fill; 16];
    wide[16 - low.len()..].copy_from_slice(low);
    let value = i128::from_be_bytes(wide);
    if sign.iter().any(|byte| *byte != fill) || (value < 0) != negative {
        return worded("a decimal is longer than 38 digits".to_owned());
    }
    Ok(value)
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}
