// SPDX-License-Identifier: Apache-2.0
//! A writer's schema laid against the columns of a stream, once for all of its messages.

use std::sync::Arc;

use dovetail_model::{Column, ColumnType, UnknownColumns};

use super::schema::{Schema, Type, TypeId};

/// How to read the messages of one writer's schema.
#[derive(Debug)]
pub(in crate::decode) struct Plan {
    pub(super) schema: Schema,
    pub(super) record: RecordPlan,
}

/// How to read a record into a row.
#[derive(Debug)]
pub(super) struct RecordPlan {
    pub(super) steps: Vec<Step>,
    /// Whether every column gets a value.
    pub(super) complete: bool,
    /// A field that is not declared, where those are refused.
    pub(super) unknown: Option<Arc<str>>,
}

/// What becomes of the next field.
#[derive(Debug)]
pub(super) enum Step {
    Skip(TypeId),
    Read { column: usize, read: Read },
}

/// How to read a value into a column.
#[derive(Debug)]
pub(super) enum Read {
    /// A value without parts, or one of a type that the column's has nothing in common with.
    Leaf(TypeId),
    Record(RecordPlan),
    Array(Box<Read>),
    Map(Box<MapPlan>),
    Union(Vec<Read>),
}

/// How to read a map into a list of pairs.
#[derive(Debug)]
pub(super) struct MapPlan {
    /// The column `key` of the pairs.
    pub(super) key: Option<usize>,
    /// The column `value`, and how to read into it.
    pub(super) value: Option<(usize, Read)>,
    /// What the values are, where no column wants them.
    pub(super) values: TypeId,
    /// Whether every column of the pairs gets a value.
    pub(super) complete: bool,
}

impl Plan {
    /// # Errors
    /// When the schema is not valid, or no record: why.
    pub(in crate::decode) fn new<'a>(
        text: &'a str,
        references: impl IntoIterator<Item = &'a str>,
        columns: &[Column],
        unknown: UnknownColumns,
    ) -> Result<Self, String> {
        let schema = Schema::parse(text, references)?;
        let record = match schema.get(schema.root) {
            Type::Record(fields) => {
                let compiler = Compiler {
                    schema: &schema,
                    unknown,
                };
                compiler.record(&Arc::clone(fields), columns)
            }
            _ => return Err("it is no record".to_owned()),
        };
        Ok(Self { schema, record })
    }
}

struct Compiler<'a> {
    schema: &'a Schema,
    unknown: UnknownColumns,
}

impl Compiler<'_> {
    fn record(&self, fields: &[super::schema::Field], columns: &[Column]) -> RecordPlan {
        let mut unknown = None;
        let steps = fields.iter().map(|field| {
            let column = columns.iter().position(|c| *c.name == *field.name);
            let Some(column) = column else {
                unknown.get_or_insert_with(|| Arc::clone(&field.name));
                return Step::Skip(field.of);
            };
            Step::Read {
                column,
                read: self.read(field.of, &columns[column].column_type),
            }
        });
        let steps: Vec<Step> = steps.collect();
        let read = steps.iter().filter(|s| matches!(s, Step::Read { .. }));
        RecordPlan {
            complete: read.count() == columns.len(),
            unknown: unknown.filter(|_| self.unknown == UnknownColumns::Reject),
            steps,
        }
    }

    /// Ends for schemas that hold themselves, too: each step goes one level into the columns, or into the branches of a
    /// union, which hold no union.
    fn read(&self, of: TypeId, to: &ColumnType) -> Read {
        match (self.schema.get(of), to) {
            (Type::Union(branches), _) => {
                let is_union = |id: &TypeId| matches!(self.schema.get(*id), Type::Union(_));
                let branches = branches.iter().map(|branch| {
                    if is_union(branch) {
                        Read::Leaf(*branch)
                    } else {
                        self.read(*branch, to)
                    }
                });
                Read::Union(branches.collect())
            }
            (Type::Record(fields), ColumnType::Struct(columns)) => {
                Read::Record(self.record(fields, columns))
            }
            (Type::Array(item), ColumnType::List(to)) => {
                Read::Array(Box::new(self.read(*item, to)))
            }
            (Type::Map(values), ColumnType::List(to)) => match to.as_ref() {
                ColumnType::Struct(pair) => self.map(*values, pair),
                _ => Read::Leaf(of),
            },
            _ => Read::Leaf(of),
        }
    }

    /// A map's pairs are read as records of two fields.
    fn map(&self, values: TypeId, pair: &[Column]) -> Read {
        let place = |name: &str| pair.iter().position(|column| column.name == name);
        let value = place("value").map(|at| (at, self.read(values, &pair[at].column_type)));
        let key = place("key");
        let filled = [key, value.as_ref().map(|(at, _)| *at)];
        Read::Map(Box::new(MapPlan {
            complete: filled.iter().flatten().count() == pair.len(),
            key,
            value,
            values,
        }))
    }
}
