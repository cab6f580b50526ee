// SPDX-License-Identifier: Apache-2.0
//! Whether a table's columns can hold a stream's events, and what is missing.

use arrow::datatypes::{DataType, Field, Schema};

/// How a table's schema relates to a stream's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The table has every column.
    Fits,
    /// The stream has nullable columns that the table lacks: evolve the table.
    Lacks,
}

/// Compares `table` with the events schema of a stream. Columns of the table that the stream does not know
/// must be nullable: they are written as null and never read.
///
/// # Errors
/// A sentence that names the column in the way.
pub(super) fn fit(table: &Schema, events: &Schema) -> Result<Fit, String> {
    let mut fit = Fit::Fits;
    for field in events.fields() {
        match table.column_with_name(field.name()) {
            Some((_, held)) => same(held, field)?,
            None if field.is_nullable() => fit = Fit::Lacks,
            None => {
                return Err(format!(
                    "column `{}` is NOT NULL, but older events have no value for it; add it as nullable",
                    field.name()
                ));
            }
        }
    }
    for field in table.fields() {
        if events.column_with_name(field.name()).is_none() && !field.is_nullable() {
            return Err(format!(
                "the table has a column `{}` that is NOT NULL and that the stream does not declare",
                field.name()
            ));
        }
    }
    Ok(fit)
}

/// `table` with the columns of `events` that it lacks, before the system columns.
pub(super) fn union(table: &Schema, events: &Schema) -> Schema {
    let unknown = table
        .fields()
        .iter()
        .filter(|field| events.column_with_name(field.name()).is_none());
    Schema::new(
        events
            .fields()
            .iter()
            .chain(unknown)
            .cloned()
            .collect::<Vec<_>>(),
    )
}

fn same(held: &Field, declared: &Field) -> Result<(), String> {
    let same_type = strip(held.data_type()) == strip(declared.data_type());
    if !same_type {
        return Err(format!(
            "column `{}` is stored as {} and declared as {}",
            declared.name(),
            held.data_type(),
            declared.data_type()
        ));
    }
    if held.is_nullable() == declared.is_nullable() {
        return Ok(());
    }
    Err(format!(
        "column `{}` is {} in the table and {} in the stream",
        declared.name(),
        nullability(held),
        nullability(declared)
    ))
}

fn nullability(field: &Field) -> &'static str {
    if field.is_nullable() {
        "nullable"
    } else {
        "NOT NULL"
    }
}

/// The type without the metadata of its fields, which says nothing about values.
fn strip(data_type: &DataType) -> DataType {
    let plain =
        |field: &Field| Field::new(field.name(), strip(field.data_type()), field.is_nullable());
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| plain(f)).collect()),
        DataType::List(item) => DataType::List(std::sync::Arc::new(plain(item))),
        other => other.clone(),
    }
}
