// SPDX-License-Identifier: Apache-2.0
//! Operators that are given what they do not take.

use super::functions::is_number;
use super::typed::with_sql_types;

/// What stands before two types and the operator between them, what cannot be done with these, and the way out.
const OPERATIONS: [(&str, &str, &str); 4] = [
    (
        "Cannot infer common argument type for comparison operation ",
        "cannot compare",
        "give both one type with CAST(… AS …)",
    ),
    (
        "Cannot infer common string type for string concat operation ",
        "cannot join",
        "make texts of them with CAST(… AS VARCHAR)",
    ),
    (
        "Cannot infer common argument type for logical boolean operation ",
        "cannot compute",
        "both sides must be BOOLEAN, such as a comparison",
    ),
    (
        "Cannot infer common argument type for regex operation ",
        "cannot match",
        "make texts of them with CAST(… AS VARCHAR)",
    ),
];

/// `… INT + VARCHAR …`, with a cast that would do.
pub(super) fn incompatible(text: &str) -> Option<String> {
    arithmetic(text).or_else(|| pattern(text)).or_else(|| {
        OPERATIONS.iter().find_map(|(prefix, cannot, way_out)| {
            let operation = with_sql_types(text.strip_prefix(prefix)?);
            Some(format!("{cannot} {operation}: {way_out}"))
        })
    })
}

fn arithmetic(text: &str) -> Option<String> {
    let operation = text
        .strip_prefix("Cannot coerce arithmetic expression ")?
        .strip_suffix(" to valid types")?;
    let operation = with_sql_types(operation);
    let (op, (left, right)) = ["+", "-", "*", "/", "%"]
        .into_iter()
        .find_map(|op| Some((op, operation.split_once(&format!(" {op} "))?)))?;
    let way_out = cast(left, op, right).or_else(|| cast(right, op, left));
    let way_out =
        way_out.unwrap_or_else(|| "give both a type that it takes with CAST(… AS …)".to_owned());
    Some(format!("cannot compute {operation}: {way_out}"))
}

/// What to write instead of `other`, beside `one`.
fn cast(one: &str, op: &str, other: &str) -> Option<String> {
    let time = one == "DATE" || one.starts_with("TIMESTAMP");
    match (one, other) {
        ("VARCHAR", "VARCHAR") => {
            let join = if op == "+" {
                "; texts are joined with ||"
            } else {
                ""
            };
            Some(format!("cast both, as in CAST(… AS DOUBLE){join}"))
        }
        (one, "VARCHAR") if is_number(one) => {
            Some(format!("cast the VARCHAR, as in CAST(… AS {one})"))
        }
        (one, "BOOLEAN") if is_number(one) => {
            Some("cast the BOOLEAN, as in CAST(… AS INT)".to_owned())
        }
        (_, other) if time && (op == "+" || op == "-") && is_number(other) => {
            Some(format!("write how long, as in … {op} INTERVAL '1' DAY"))
        }
        _ => None,
    }
}

/// `There isn't a common type to coerce INT and VARCHAR in LIKE expression`.
fn pattern(text: &str) -> Option<String> {
    let rest = text.strip_prefix("There isn't a common type to coerce ")?;
    let (types, rest) = rest.rsplit_once(" in ")?;
    let operator = rest.strip_suffix(" expression")?;
    let types = with_sql_types(types);
    Some(format!(
        "{operator} takes no {types}: make texts of them with CAST(… AS VARCHAR)"
    ))
}
