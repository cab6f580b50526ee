// SPDX-License-Identifier: Apache-2.0
//! Functions that are not there, and functions that do not take what they are given.

use datafusion::common::utils::datafusion_strsim::levenshtein;
use datafusion::execution::FunctionRegistry as _;
use datafusion::logical_expr::Volatility;

use super::typed::{split_list, with_sql_types};
use crate::UNBOUNDED_FUNCTIONS;
use crate::aggregates;
use crate::engine::session;

/// Whether a view may call the function of this name.
pub(crate) fn allowed_in_views(name: &str) -> bool {
    let state = session();
    match state.udf(name) {
        Ok(function) => function.signature().volatility == Volatility::Immutable,
        Err(_) => state
            .udaf(name)
            .is_ok_and(|function| aggregates::precision(function.name()).is_some()),
    }
}

/// `Invalid function 'x'.\nDid you mean 'y'?`; what is proposed instead is ours to say.
pub(super) fn unknown_function(text: &str, allowed: impl Fn(&str) -> bool) -> Option<String> {
    let (name, _) = text.strip_prefix("Invalid function '")?.split_once('\'')?;
    Some(match nearest(name, allowed) {
        Some(near) => format!("there is no function `{name}`: did you mean `{near}`?"),
        None => format!(
            "there is no function `{name}`: docs/sql.md lists the aggregates, https://datafusion.apache.org/user-guide/sql/scalar_functions.html the others"
        ),
    })
}

/// The function that was probably meant: a slip or an abbreviation away. Letters are left out more often than
/// mistaken for others, and aggregates are what views are made of: `cnt` is `count`, not `cot`.
fn nearest(name: &str, allowed: impl Fn(&str) -> bool) -> Option<String> {
    let state = session();
    let aggregates = state.aggregate_functions().keys().map(|n| (false, n));
    let scalars = state.scalar_functions().keys().map(|n| (true, n));
    aggregates
        .chain(scalars)
        .filter(|(_, near)| levenshtein(name, near) <= typos(name) || abbreviates(name, near))
        .filter(|(_, near)| !UNBOUNDED_FUNCTIONS.contains(&near.as_str()) && allowed(near))
        .map(|(scalar, near)| (edits(name, near), scalar, near))
        .min()
        .map(|(_, _, near)| near.clone())
}

/// So many wrong letters still look like a slip.
fn typos(name: &str) -> usize {
    if name.len() < 6 { 1 } else { 2 }
}

/// Whether `short` is `long` with some letters inside left out, fewer than it has.
fn abbreviates(short: &str, long: &str) -> bool {
    let ends = |name: &str| (name.chars().next(), name.chars().last());
    short.len() > 1
        && (short.len() + 1..2 * short.len()).contains(&long.len())
        && ends(short) == ends(long)
        && edits(short, long) == long.len() - short.len()
}

/// How many letters are to be added or taken away to make one name of the other.
fn edits(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, b) in other.bytes().enumerate() {
            let shortest = if a == b {
                diagonal
            } else {
                row[at].min(row[at + 1]) + 1
            };
            diagonal = std::mem::replace(&mut row[at + 1], shortest);
        }
    }
    row[other.len()]
}

/// `… No function matches the given name and argument types 'f(A, B)'. … Candidate functions: …`
pub(super) fn mismatch(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("No function matches the given name and argument types '")?;
    let (call, rest) = rest.split_once("'. You might need to add explicit type casts")?;
    let (name, given) = call.strip_suffix(')')?.split_once('(')?;
    let mut takes: Vec<Vec<String>> = Vec::new();
    for line in rest.lines() {
        let arguments = line
            .trim()
            .strip_prefix(name)
            .and_then(|l| l.strip_prefix('('))
            .and_then(|l| l.strip_suffix(')'));
        let Some(arguments) = arguments else { continue };
        let arguments: Option<Vec<String>> = split_list(arguments).into_iter().map(taken).collect();
        if let Some(arguments) = arguments
            && !takes.contains(&arguments)
        {
            takes.push(arguments);
        }
    }
    Some(takes_no(name, given, &takes))
}

/// `Failed to coerce arguments to satisfy a call to 'f' function: coercion from A, B to the signature ArraySignature(…) failed`
pub(super) fn uncoerced(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Failed to coerce arguments to satisfy a call to '")?;
    let (name, rest) = rest.split_once("' function: coercion from ")?;
    let (given, signature) = rest.split_once(" to the signature ")?;
    let takes = signature.strip_prefix("ArraySignature(");
    let takes = takes.and_then(|takes| takes.split_once(')'));
    let takes = takes.map(|(takes, _)| split_list(takes).into_iter().map(taken).collect());
    let takes: Vec<Vec<String>> = takes.flatten().into_iter().collect();
    Some(takes_no(name, given, &takes))
}

/// That a function takes none of what it is given, what it takes, and a call that would do.
fn takes_no(name: &str, given: &str, takes: &[Vec<String>]) -> String {
    let given: Vec<String> = split_list(given).into_iter().map(with_sql_types).collect();
    let single = takes.iter().all(|arguments| arguments.len() == 1);
    let list = |types: &[String]| match types {
        [one] if single => one.clone(),
        types => format!("({})", types.join(", ")),
    };
    let mut said = match given.as_slice() {
        [] => format!("`{name}` needs arguments"),
        given => format!("`{name}` takes no {}", list(given)),
    };
    if let Some((last, first)) = takes.split_last() {
        let first: Vec<String> = first.iter().map(|t| list(t)).collect();
        let or = if first.is_empty() { "" } else { " or " };
        said.push_str(&format!(
            ": it takes {}{or}{}",
            first.join(", "),
            list(last)
        ));
    }
    if let Some(cast) = advice(name, &given, takes) {
        said.push_str(&format!("; cast the argument, as in {cast}"));
    }
    said
}

/// `AvgAccumulator for (Null --> Float64)`, `[return_type] SUM not supported for Null`: an aggregate of a bare NULL.
pub(super) fn null_argument(text: &str) -> Option<String> {
    let name = match text.split_once("Accumulator for (Null --> ") {
        Some((name, _)) => name.trim_end_matches("Groups"),
        None => text
            .strip_prefix("[return_type] ")?
            .strip_suffix(" not supported for Null")?,
    };
    Some(format!(
        "`{}` takes no NULL that has no type: write CAST(NULL AS DOUBLE)",
        name.to_lowercase()
    ))
}

/// A call that would do, if a cast can make one: the first argument that is of another type than any it takes.
fn advice(name: &str, given: &[String], takes: &[Vec<String>]) -> Option<String> {
    if let Some(cast) = element_advice(name, given, takes) {
        return Some(cast);
    }
    let like = |t: &&Vec<String>| t.len() == given.len();
    let target = takes
        .iter()
        .rfind(|t| like(t) && t.iter().any(|t| t == "DOUBLE"))
        .or_else(|| takes.iter().find(like))?;
    let castable = given.iter().zip(target).all(|(g, t)| casts(g, t));
    if given.is_empty() || !castable {
        return None;
    }
    let arguments: Vec<String> = given
        .iter()
        .zip(target)
        .map(|(given, target)| match target.as_str() {
            target if given == target || (is_number(given) && is_number(target)) => "…".to_owned(),
            "a number" => "CAST(… AS DOUBLE)".to_owned(),
            target => format!("CAST(… AS {target})"),
        })
        .collect();
    Some(format!("{name}({})", arguments.join(", ")))
}

/// The same of a function of a list and elements: each is to have the type of those in the list.
fn element_advice(name: &str, given: &[String], takes: &[Vec<String>]) -> Option<String> {
    let of_list = given.first()?.strip_prefix("LIST<")?.strip_suffix('>')?;
    let target = takes.iter().find(|takes| takes.len() == given.len())?;
    let arguments = given.iter().zip(target).map(|(given, target)| {
        if target != "element" || given == of_list {
            return Some("…".to_owned());
        }
        casts(given, of_list).then(|| format!("CAST(… AS {of_list})"))
    });
    let arguments = arguments.collect::<Option<Vec<_>>>()?;
    let is_cast = arguments.iter().any(|argument| argument != "…");
    is_cast.then(|| format!("{name}({})", arguments.join(", ")))
}

pub(super) fn is_number(sql_type: &str) -> bool {
    ["INT", "BIGINT", "DOUBLE", "a number"].contains(&sql_type) || sql_type.starts_with("DECIMAL")
}

/// Whether a value of one type can be cast to the other.
fn casts(given: &str, target: &str) -> bool {
    let scalar = is_number(given) || ["VARCHAR", "BOOLEAN"].contains(&given);
    let to_scalar = is_number(target) || target == "BOOLEAN";
    given == target
        || (scalar && to_scalar)
        || (given == "VARCHAR" && !target.contains('<'))
        || (target == "VARCHAR" && !given.contains('<'))
}

/// A type of a signature, in SQL's words; none for those that no column and no expression of ours has.
fn taken(argument: &str) -> Option<String> {
    // Named parameters: `y: Float64`.
    let plain = !argument.contains(['(', '"']);
    let argument = match argument.split_once(": ") {
        Some((_, named)) if plain => named,
        _ => argument,
    };
    Some(match argument {
        "Duration" | "UInt8" | "UInt16" | "UInt32" | "UInt64" | "Interval" | "Time" | "Float32"
        | "Int8" | "Int16" | "LargeUtf8" | "Utf8View" => return None,
        "Decimal" => "DECIMAL".to_owned(),
        "Float" => "DOUBLE".to_owned(),
        "Integer" => "BIGINT".to_owned(),
        "String" => "VARCHAR".to_owned(),
        "Timestamp" => "TIMESTAMP".to_owned(),
        "Date" => "DATE".to_owned(),
        text if text.starts_with("Numeric") => "a number".to_owned(),
        text => with_sql_types(text),
    })
}
