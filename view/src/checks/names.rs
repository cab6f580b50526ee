// SPDX-License-Identifier: Apache-2.0
//! The names of a view's outputs.

use std::collections::HashSet;

use datafusion::sql::sqlparser::ast::{Expr, Function, Ident, ObjectNamePart, Select, SelectItem};

use super::normalized;
use crate::ViewError;

/// Prefix of state columns in files and in memory.
pub(crate) const STATE_PREFIX: &str = "_state";
/// Characters that Delta readers refuse in a column name.
const NOT_IN_DELTA: &str = " ,;{}()\n\t=";

/// Gives every item of the select list its name, as Postgres would: a column its own, a function the
/// function's, made unique by `_1`, `_2`, …
pub(super) fn name_outputs(select: &mut Select) -> Result<(), ViewError> {
    let mut taken = HashSet::new();
    for item in &select.projection {
        if let SelectItem::ExprWithAlias { alias, .. } = item {
            claim(&mut taken, &normalized(alias))?;
        } else if let SelectItem::UnnamedExpr(expr) = item
            && let Some(name) = column_name(expr)
        {
            claim(&mut taken, &name)?;
        }
    }
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else {
            continue;
        };
        let name = match column_name(expr) {
            Some(name) => name,
            None => unique(&mut taken, &output_name(expr)?),
        };
        *item = SelectItem::ExprWithAlias {
            expr: expr.clone(),
            alias: Ident::with_quote('"', name),
        };
    }
    Ok(())
}

fn claim(taken: &mut HashSet<String>, name: &str) -> Result<(), ViewError> {
    if name.is_empty() || name.contains(|c: char| c.is_control() || NOT_IN_DELTA.contains(c)) {
        return Err(ViewError::refused(
            name,
            "such a column name cannot be stored: use letters, digits and _",
        ));
    }
    if name.to_lowercase().starts_with(STATE_PREFIX) {
        return Err(ViewError::refused(
            name,
            format!(
                "names that start with `{STATE_PREFIX}` are kept for states: use another after AS"
            ),
        ));
    }
    if !taken.insert(name.to_lowercase()) {
        return Err(ViewError::refused(
            name,
            "two outputs have this name: give one of them another with AS",
        ));
    }
    Ok(())
}

/// The name of a plain column, qualified or not.
pub(super) fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(normalized(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(normalized),
        Expr::Nested(inner) => column_name(inner),
        _ => None,
    }
}

/// The name a function is called by.
pub(super) fn function_name(function: &Function) -> Option<String> {
    match function.name.0.as_slice() {
        [ObjectNamePart::Identifier(ident)] => Some(normalized(ident)),
        _ => None,
    }
}

/// The name that an expression without one gets: its function's.
fn output_name(expr: &Expr) -> Result<String, ViewError> {
    let name = match expr {
        Expr::Function(function) => function_name(function),
        Expr::Nested(inner) => return output_name(inner),
        _ => None,
    };
    name.ok_or_else(|| ViewError::refused(expr, "give it a name with AS"))
}

fn unique(taken: &mut HashSet<String>, base: &str) -> String {
    let mut name = base.to_owned();
    let mut count = 0;
    while !taken.insert(name.to_lowercase()) {
        count += 1;
        name = format!("{base}_{count}");
    }
    name
}
