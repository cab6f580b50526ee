// SPDX-License-Identifier: Apache-2.0
//! The messages of a `.proto` file laid against the columns of a stream, once for all records.

use std::collections::HashMap;
use std::sync::Arc;

use dovetail_model::{Column, ColumnType, UnknownColumns};
use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};

use super::compile::compile;
use crate::decode::registered::RegisteredSchema;

/// How to read the records of one schema: a plan for each message of its file, by where that is declared.
#[derive(Debug)]
pub(in crate::decode) struct Plan {
    pub(super) messages: HashMap<Box<[u32]>, MessagePlan>,
}

/// How to read a message into a row.
#[derive(Debug)]
pub(super) struct MessagePlan {
    /// The fields that columns want, one slot each.
    pub(super) fields: Vec<FieldPlan>,
    /// What becomes of a field, by its number, in order.
    pub(super) places: Vec<(u32, Place)>,
    /// Whether every column gets a value.
    pub(super) complete: bool,
    /// A field that is not declared, where those are refused.
    pub(super) unknown: Option<Arc<str>>,
}

/// Where a field's value goes.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) slot: Option<usize>,
    /// The slots of the others of its `oneof`, of which only the last one that is set counts.
    pub(super) clears: Box<[usize]>,
}

/// How to read a field into a column.
#[derive(Debug)]
pub(super) struct FieldPlan {
    pub(super) column: usize,
    pub(super) many: Many,
    /// What a field that is not there means.
    pub(super) absent: Absent,
    pub(super) read: Read,
}

/// How often a field comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Many {
    One,
    List,
    Map,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    Null,
    /// Zero, empty, false: a field of proto3 that does not tell.
    Default,
    /// The message is not valid.
    Invalid,
}

/// How to read a value.
#[derive(Debug)]
pub(super) enum Read {
    Scalar(Scalar),
    Message(MessagePlan),
    /// `google.protobuf.Timestamp` as a TIMESTAMP.
    Timestamp,
    /// `google.protobuf.Int64Value` and its like as the scalar in it.
    Wrapper(Scalar),
    /// Values of a type that the column's has nothing in common with.
    Unfit(&'static str),
}

/// A scalar type.
#[derive(Debug, Clone)]
pub(super) enum Scalar {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    Float,
    Double,
    String,
    Bytes,
    Enum(Arc<HashMap<i32, String>>),
}

impl Plan {
    /// # Errors
    /// When the schema is not valid: why.
    pub(in crate::decode) fn new(
        schema: &RegisteredSchema,
        columns: &[Column],
        unknown: UnknownColumns,
    ) -> Result<Self, String> {
        let file = compile(schema)?;
        let mut messages = HashMap::new();
        let mut open: Vec<(Vec<u32>, MessageDescriptor)> = numbered(&[], file.messages());
        while let Some((path, message)) = open.pop() {
            open.extend(numbered(&path, message.child_messages()));
            messages.insert(path.into(), MessagePlan::new(&message, columns, unknown));
        }
        Ok(Self { messages })
    }
}

/// Messages with the indices that lead to them.
fn numbered(
    parent: &[u32],
    messages: impl Iterator<Item = MessageDescriptor>,
) -> Vec<(Vec<u32>, MessageDescriptor)> {
    (0..)
        .zip(messages)
        .map(|(index, message)| ([parent, &[index]].concat(), message))
        .collect()
}

impl MessagePlan {
    /// Ends for messages that hold themselves, too: each step goes one level into the columns.
    fn new(message: &MessageDescriptor, columns: &[Column], unknown: UnknownColumns) -> Self {
        let mut fields = Vec::new();
        let mut undeclared = None;
        let mut slots: HashMap<u32, usize> = HashMap::new();
        for field in message.fields() {
            let column = columns
                .iter()
                .position(|column| column.name == field.name());
            let Some(column) = column else {
                undeclared.get_or_insert_with(|| field.name().into());
                continue;
            };
            slots.insert(field.number(), fields.len());
            let to = &columns[column].column_type;
            fields.push(FieldPlan::new(&field, column, to, unknown));
        }
        let place = |field: FieldDescriptor| {
            let number = field.number();
            let siblings = field.containing_oneof();
            let siblings = siblings.iter().flat_map(|oneof| oneof.fields());
            let siblings = siblings.filter(|sibling| sibling.number() != number);
            let clears = siblings.filter_map(|sibling| slots.get(&sibling.number()).copied());
            let place = Place {
                slot: slots.get(&number).copied(),
                clears: clears.collect(),
            };
            (number, place)
        };
        let mut places: Vec<(u32, Place)> = message.fields().map(place).collect();
        places.retain(|(_, place)| place.slot.is_some() || !place.clears.is_empty());
        places.sort_by_key(|(number, _)| *number);
        Self {
            complete: fields.len() == columns.len(),
            fields,
            places,
            unknown: undeclared.filter(|_| unknown == UnknownColumns::Reject),
        }
    }

    /// Where a field's value goes; none if no column wants it. `guess` is where the last one went, counted on.
    #[inline]
    pub(super) fn place(&self, number: u32, guess: usize) -> Option<(usize, &Place)> {
        if let Some((known, place)) = self.places.get(guess)
            && *known == number
        {
            return Some((guess, place));
        }
        let at = self
            .places
            .binary_search_by_key(&number, |(known, _)| *known);
        at.ok().map(|at| (at, &self.places[at].1))
    }
}

impl FieldPlan {
    fn new(
        field: &FieldDescriptor,
        column: usize,
        to: &ColumnType,
        unknown: UnknownColumns,
    ) -> Self {
        let many = match field {
            field if field.is_map() => Many::Map,
            field if field.is_list() => Many::List,
            _ => Many::One,
        };
        let absent = match field.cardinality() {
            Cardinality::Required => Absent::Invalid,
            _ if field.supports_presence() => Absent::Null,
            _ => Absent::Default,
        };
        let mut read = match (many, to) {
            (Many::One, to) => Read::new(&field.kind(), to, unknown),
            (_, ColumnType::List(item)) => Read::new(&field.kind(), item, unknown),
            (Many::List, _) => Read::Unfit("a repeated field"),
            (Many::Map, _) => Read::Unfit("a map"),
        };
        if let (Many::Map, Read::Message(entry)) = (many, &mut read) {
            // An entry without a key or value has the default of its type.
            for field in &mut entry.fields {
                field.absent = Absent::Default;
            }
        }
        Self {
            column,
            many,
            absent,
            read,
        }
    }
}

impl Read {
    fn new(kind: &Kind, to: &ColumnType, unknown: UnknownColumns) -> Self {
        let Kind::Message(message) = kind else {
            return match scalar(kind) {
                Some(scalar) => Self::Scalar(scalar),
                None => Self::Unfit("a value of an unknown kind"),
            };
        };
        match (message.full_name(), to) {
            (_, ColumnType::Struct(columns)) => {
                Self::Message(MessagePlan::new(message, columns, unknown))
            }
            ("google.protobuf.Timestamp", _) => Self::Timestamp,
            (name, _) if WRAPPERS.contains(&name) => {
                let value = message.get_field_by_name("value");
                match value.and_then(|value| scalar(&value.kind())) {
                    Some(scalar) => Self::Wrapper(scalar),
                    None => Self::Unfit("a wrapper without a value"),
                }
            }
            _ => Self::Unfit("a message"),
        }
    }
}

const WRAPPERS: [&str; 9] = [
    "google.protobuf.DoubleValue",
    "google.protobuf.FloatValue",
    "google.protobuf.Int64Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.Int32Value",
    "google.protobuf.UInt32Value",
    "google.protobuf.BoolValue",
    "google.protobuf.StringValue",
    "google.protobuf.BytesValue",
];

/// None for a message.
fn scalar(kind: &Kind) -> Option<Scalar> {
    Some(match kind {
        Kind::Int32 => Scalar::Int32,
        Kind::Int64 => Scalar::Int64,
        Kind::Uint32 => Scalar::Uint32,
        Kind::Uint64 => Scalar::Uint64,
        Kind::Sint32 => Scalar::Sint32,
        Kind::Sint64 => Scalar::Sint64,
        Kind::Fixed32 => Scalar::Fixed32,
        Kind::Fixed64 => Scalar::Fixed64,
        Kind::Sfixed32 => Scalar::Sfixed32,
        Kind::Sfixed64 => Scalar::Sfixed64,
        Kind::Bool => Scalar::Bool,
        Kind::Float => Scalar::Float,
        Kind::Double => Scalar::Double,
        Kind::String => Scalar::String,
        Kind::Bytes => Scalar::Bytes,
        Kind::Enum(of) => {
            let mut names = HashMap::new();
            for value in of.values() {
                // Of several names of a number the first counts.
                names
                    .entry(value.number())
                    .or_insert_with(|| value.name().to_owned());
            }
            Scalar::Enum(Arc::new(names))
        }
        Kind::Message(_) => return None,
    })
}
