// SPDX-License-Identifier: Apache-2.0
//! Changes of a stream's schema, and whether the views of the stream stay what they are.
//!
//! A view's SELECT is compiled anew at every start, so a new column must not take over a name that the SELECT uses
//! for something else (`date_trunc('hour', at) AS hour … GROUP BY hour` reads a column `hour` once there is one),
//! and a column that it reads must not become nullable: its states were made without NULLs.

use std::collections::{BTreeMap, BTreeSet};

use dovetail_model::{
    CatalogState, Column, MAX_COLUMNS, Problem, SchemaGrowth, StreamSchema, StreamState, ViewState,
};
use dovetail_serving_layer::sql::{AddColumn, AlterStream};
use dovetail_view::View;

/// `schema` after `alter`.
pub(super) fn altered(schema: &StreamSchema, alter: &AlterStream) -> Result<StreamSchema, Problem> {
    let mut next = schema.clone();
    for name in &alter.drop_not_null {
        let column = next.columns.iter_mut().find(|c| c.name == *name);
        let column = column.ok_or_else(|| Problem::not_found("column", name))?;
        column.nullable = true;
    }
    for add in &alter.add {
        let there = next.columns.iter().any(|c| c.name == add.column.name);
        match (there, add.if_not_exists) {
            (false, _) if next.columns.len() <= MAX_COLUMNS => {
                next.columns.push(add.column.clone());
            }
            // One too many is enough to know.
            (false, _) => break,
            (true, true) => {}
            (true, false) => {
                return Err(Problem::conflict(format!(
                    "column `{}` is there already; ADD COLUMN IF NOT EXISTS leaves it as it is",
                    add.column.name
                )));
            }
        }
    }
    if !alter.add.is_empty() {
        next.check_width().map_err(Problem::invalid)?;
    }
    Ok(next)
}

/// The statement that makes a stream grow so.
pub(super) fn statement(name: &str, growth: SchemaGrowth) -> AlterStream {
    AlterStream {
        name: name.to_owned(),
        add: growth.added.into_iter().map(added).collect(),
        drop_not_null: growth.relaxed,
    }
}

fn added(column: Column) -> AddColumn {
    AddColumn {
        column,
        if_not_exists: false,
    }
}

/// What `plan` says of it.
pub(super) fn details(growth: &SchemaGrowth) -> Vec<String> {
    let added = growth.added.iter().map(|column| format!("+ {column}"));
    let relaxed = growth.relaxed.iter();
    let relaxed = relaxed.map(|name| format!("{}: NOT NULL -> NULL", quoted(name)));
    added.chain(relaxed).collect()
}

/// What `stream` has to grow by to get the schema `next`.
///
/// # Errors
/// A conflict that names the first difference and the way out.
pub(super) fn growth(stream: &StreamState, next: &StreamSchema) -> Result<SchemaGrowth, Problem> {
    let def = &stream.def;
    def.schema.growth_to(next).map_err(|reason| {
        Problem::conflict(format!(
            "the schema of stream `{}` cannot change so, as its events stay: {reason}; columns that may be NULL can be added at the end and NOT NULL can be dropped, for anything else declare a new stream",
            def.name
        ))
    })
}

/// Refuses a change under which a view of the stream, in any of its definitions that can still be read, would be
/// another one.
pub(super) fn check_views(
    state: &CatalogState,
    stream: &StreamState,
    growth: &SchemaGrowth,
) -> Result<(), Problem> {
    for added in &growth.added {
        let changed = changed_views(state, stream, |schema| schema.columns.push(added.clone()));
        if !changed.is_empty() {
            return Err(refused(
                &changed,
                format!(
                    "uses the name `{}` for something else, which a column of that name would take over; give the column another name, or drop the view first",
                    added.name
                ),
            ));
        }
    }
    for name in &growth.relaxed {
        let relax = |column: &mut Column| column.nullable |= column.name == *name;
        let changed = changed_views(state, stream, |schema| {
            schema.columns.iter_mut().for_each(relax);
        });
        if !changed.is_empty() {
            return Err(refused(
                &changed,
                format!(
                    "reads column `{name}` and was computed for values that are never NULL; drop the view, alter the stream, and create the view again"
                ),
            ));
        }
    }
    Ok(())
}

fn refused(views: &BTreeSet<&str>, why: String) -> Problem {
    let names: Vec<String> = views.iter().map(|name| format!("`{name}`")).collect();
    Problem::conflict(format!("view {} {why}", names.join(", ")))
        .with("views", views.iter().copied().collect::<Vec<_>>())
}

/// The stream's views that would not compile to the same after `change`.
fn changed_views<'a>(
    state: &'a CatalogState,
    stream: &'a StreamState,
    change: impl FnOnce(&mut StreamSchema),
) -> BTreeSet<&'a str> {
    let before = &stream.def.schema;
    let mut after = before.clone();
    change(&mut after);
    let hash = |schema: &StreamSchema, sql: &str| {
        let schemas = BTreeMap::from([(stream.def.name.clone(), schema.clone())]);
        let view = View::compile(sql, &schemas).ok()?;
        Some(view.definition_hash().to_owned())
    };
    let mut changed = BTreeSet::new();
    for view in state.views_of(&stream.def.id) {
        let same = |sql: &&str| hash(before, sql) == hash(&after, sql);
        if !selects(view).iter().all(same) {
            changed.insert(view.def.name.as_str());
        }
    }
    changed
}

/// Every SELECT of the view that may be compiled again.
fn selects(view: &ViewState) -> BTreeSet<&str> {
    let defs = [Some(&view.def), view.pending.as_ref()].into_iter();
    let defs = defs.flatten().map(|def| def.sql.as_str());
    let generations = view.generations.values();
    defs.chain(generations.map(|manifest| manifest.sql.as_str()))
        .collect()
}

fn quoted(name: &str) -> String {
    if dovetail_model::check_name(name).is_ok() {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}
