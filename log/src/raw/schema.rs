// SPDX-License-Identifier: Apache-2.0
//! Whether a table's columns can hold a stream's events, and what is missing.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};

/// How a table's schema relates to a stream's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The table has every column.
    Fits,
    /// The stream has nullable columns that the table lacks, or that are NOT NULL there: evolve the table.
    Lacks,
}

/// Compares `table` with the events schema of a stream. Columns of the table that the stream does not know
/// must be nullable: they are written as null and never read. A column that may be null in the table and not in
/// the stream fits: the table may be ahead of the stream, and no null was written.
///
/// # Errors
/// A sentence that names the column in the way.
pub(super) fn fit(table: &Schema, events: &Schema) -> Result<Fit, String> {
    let mut fit = Fit::Fits;
    for field in events.fields() {
        match table.column_with_name(field.name()) {
            Some((_, held)) => {
                same_type(held, field)?;
                if field.is_nullable() && !held.is_nullable() {
                    fit = Fit::Lacks;
                }
            }
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

/// `table` with the columns of `events` that it lacks, before the system columns. What may be null there stays so.
pub(super) fn union(table: &Schema, events: &Schema) -> Schema {
    let unknown = table
        .fields()
        .iter()
        .filter(|field| events.column_with_name(field.name()).is_none());
    let known = events.fields().iter().map(|field| {
        let held = table.column_with_name(field.name());
        let nullable = field.is_nullable() || held.is_some_and(|(_, held)| held.is_nullable());
        Arc::new(field.as_ref().clone().with_nullable(nullable))
    });
    Schema::new(known.chain(unknown.cloned()).collect::<Vec<_>>())
}

fn same_type(held: &Field, declared: &Field) -> Result<(), String> {
    if strip(held.data_type()) == strip(declared.data_type()) {
        return Ok(());
    }
    Err(format!(
        "column `{}` is stored as {} and declared as {}",
        declared.name(),
        held.data_type(),
        declared.data_type()
    ))
}

/// The type without the metadata of its fields, which says nothing about values.
fn strip(data_type: &DataType) -> DataType {
    let plain =
        |field: &Field| Field::new(field.name(), strip(field.data_type()), field.is_nullable());
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| plain(f)).collect()),
        DataType::List(item) => DataType::List(Arc::new(plain(item))),
        other => other.clone(),
    }
}
