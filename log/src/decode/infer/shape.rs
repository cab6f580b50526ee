// SPDX-License-Identifier: Apache-2.0
//! What the values of a column have in common.

use std::collections::HashMap;

use dovetail_model::{Column, ColumnType};
use serde_json::{Map, Value};

use crate::decode::number::JsonNumber;
use crate::decode::time::{parse_date, parse_timestamp};

/// The narrowest description of some values.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Null,
    Boolean,
    Integer,
    /// An integer past 64 bits.
    Large,
    Float,
    Date,
    Timestamp,
    Text,
    Object(Fields),
    List(Box<Shape>),
}

/// The fields of some objects.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fields {
    /// In the order in which they were first seen.
    fields: Vec<Member>,
    places: HashMap<String, usize>,
    /// How many objects.
    rows: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Member {
    name: String,
    shape: Shape,
    /// How many objects had a value for it.
    present: u64,
}

/// Two values of one column that no type holds together.
#[derive(Debug)]
pub(super) struct Conflict {
    pub(super) column: String,
    pub(super) before: &'static str,
    pub(super) found: &'static str,
}

impl Shape {
    fn of_json(value: &Value) -> Result<Self, Conflict> {
        Ok(match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if number.is_i64() => Self::Integer,
            Value::Number(number) if number.is_u64() => Self::Large,
            Value::Number(_) => Self::Float,
            Value::String(text) => Self::of_string(text.as_bytes()),
            Value::Array(items) => {
                let mut shape = Self::Null;
                for item in items {
                    shape = shape
                        .join(Self::of_json(item)?)
                        .map_err(|c| c.under("[]"))?;
                }
                Self::List(Box::new(shape))
            }
            Value::Object(members) => {
                let mut fields = Fields::default();
                fields.add_object(members)?;
                Self::Object(fields)
            }
        })
    }

    fn of_string(text: &[u8]) -> Self {
        if parse_date(text).is_some() {
            Self::Date
        } else if parse_timestamp(text).is_ok() {
            Self::Timestamp
        } else {
            Self::Text
        }
    }

    /// The shape of a CSV value.
    pub(super) fn of_text(text: &[u8], quoted: bool) -> Self {
        if text.is_empty() {
            return if quoted { Self::Text } else { Self::Null };
        }
        if text.eq_ignore_ascii_case(b"true") || text.eq_ignore_ascii_case(b"false") {
            return Self::Boolean;
        }
        let Some(number) = JsonNumber::scan(text, 0).filter(|n| n.end == text.len()) else {
            return Self::of_string(text);
        };
        match number.scaled(text, 0, 0) {
            // `1e3` and `1.0` are whole, but whoever writes so has fractions elsewhere.
            _ if text.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) => Self::Float,
            Ok(value) if i64::try_from(value).is_ok() => Self::Integer,
            // So many digits are a name, not a quantity.
            _ => Self::Text,
        }
    }

    /// The shape that holds both.
    fn join(self, other: Self) -> Result<Self, Conflict> {
        use Shape::{Date, Float, Integer, Large, List, Null, Object, Text, Timestamp};
        Ok(match (self, other) {
            (a, b) if a == b => a,
            (Null, shape) | (shape, Null) => shape,
            (Integer, Large) | (Large, Integer) => Large,
            (Integer | Large | Float, Integer | Large | Float) => Float,
            (Date, Timestamp) | (Timestamp, Date) => Timestamp,
            (Date | Timestamp | Text, Date | Timestamp | Text) => Text,
            (List(a), List(b)) => List(Box::new(a.join(*b).map_err(|c| c.under("[]"))?)),
            (Object(a), Object(b)) => Object(a.join(b)?),
            (a, b) => {
                return Err(Conflict {
                    column: String::new(),
                    before: a.name(),
                    found: b.name(),
                });
            }
        })
    }

    /// The same for CSV, where everything is text in the end.
    fn join_text(self, other: Self) -> Self {
        self.join(other).unwrap_or(Self::Text)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a BOOLEAN",
            Self::Integer | Self::Large | Self::Float => "a number",
            Self::Date => "a DATE",
            Self::Timestamp => "a TIMESTAMP",
            Self::Text => "a VARCHAR",
            Self::Object(_) => "a STRUCT",
            Self::List(_) => "a LIST",
        }
    }

    /// None for an object without fields.
    fn into_type(self) -> Option<ColumnType> {
        Some(match self {
            Self::Boolean => ColumnType::Boolean,
            Self::Integer => ColumnType::BigInt,
            Self::Large => ColumnType::Decimal(38, 0),
            Self::Float => ColumnType::Double,
            Self::Date => ColumnType::Date,
            Self::Timestamp => ColumnType::Timestamp,
            // Where nothing was ever seen, text holds whatever comes most often.
            Self::Null | Self::Text => ColumnType::Varchar,
            Self::Object(fields) => {
                let columns = fields.into_columns();
                if columns.is_empty() {
                    return None;
                }
                ColumnType::Struct(columns)
            }
            Self::List(item) => ColumnType::List(Box::new(item.into_type()?)),
        })
    }
}

impl Conflict {
    fn under(mut self, name: &str) -> Self {
        self.column = match self.column.as_str() {
            "" => name.to_owned(),
            inner if inner.starts_with('[') => format!("{name}{inner}"),
            inner => format!("{name}.{inner}"),
        };
        self
    }
}

impl Fields {
    /// How many objects there were.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn add_object(&mut self, members: &Map<String, Value>) -> Result<(), Conflict> {
        self.rows += 1;
        for (name, value) in members {
            let shape = Shape::of_json(value).map_err(|c| c.under(name))?;
            let present = u64::from(shape != Shape::Null);
            let member = self.member(name);
            let before = std::mem::replace(&mut member.shape, Shape::Null);
            member.shape = before.join(shape).map_err(|c| c.under(name))?;
            member.present += present;
        }
        Ok(())
    }

    pub(super) fn add_record(&mut self, names: &[String], shapes: impl Iterator<Item = Shape>) {
        self.rows += 1;
        for (name, shape) in names.iter().zip(shapes) {
            let member = self.member(name);
            member.present += u64::from(shape != Shape::Null);
            let before = std::mem::replace(&mut member.shape, Shape::Null);
            member.shape = before.join_text(shape);
        }
    }

    fn member(&mut self, name: &str) -> &mut Member {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.places.insert(name.to_owned(), self.fields.len());
                self.fields.push(Member {
                    name: name.to_owned(),
                    shape: Shape::Null,
                    present: 0,
                });
                self.fields.len() - 1
            }
        };
        &mut self.fields[place]
    }

    fn join(mut self, other: Self) -> Result<Self, Conflict> {
        self.rows += other.rows;
        for Member {
            name,
            shape,
            present,
        } in other.fields
        {
            let member = self.member(&name);
            member.present += present;
            let before = std::mem::replace(&mut member.shape, Shape::Null);
            member.shape = before.join(shape).map_err(|c| c.under(&name))?;
        }
        Ok(self)
    }

    pub(super) fn into_columns(self) -> Vec<Column> {
        let rows = self.rows;
        self.fields
            .into_iter()
            .filter_map(|member| {
                Some(Column {
                    name: member.name,
                    column_type: member.shape.into_type()?,
                    nullable: member.present < rows,
                })
            })
            .collect()
    }
}
