// SPDX-License-Identifier: Apache-2.0
//! Which functions make more than they are given, and how much at most.
//!
//! A nested call gets what the inner one made. So a function is harmless only if its result has a fixed size, or is a part of
//! one argument: even `upper` with `translate` around it, again and again, doubles a text.

use super::sizes::{OFFSET, Size};

/// The most bytes that the result of a row has, of the sizes of its arguments.
pub(super) type Bound = fn(&[Size]) -> usize;

/// Functions that are bounded. Whoever adds one shows by a property that its bound is none too small.
pub(super) const BOUNDED: &[(&str, Bound)] = &[
    ("concat", all),
    ("concat_ws", separated),
    ("replace", replaced),
    ("regexp_replace", replaced_by_pattern),
    ("regexp_match", captured),
    ("translate", by_letters),
    ("upper", by_letters),
    ("lower", by_letters),
    ("initcap", by_letters),
    ("encode", encoded),
    ("overlay", all),
    ("to_char", formatted),
    ("string_to_array", split),
    ("array_to_string", listed),
    ("array_append", all),
    ("array_prepend", all),
    ("array_concat", all),
    ("array_union", all),
    ("make_array", all),
    ("array_replace", replaced_elements),
    ("array_replace_n", replaced_elements),
    ("array_replace_all", replaced_elements),
    ("arrays_zip", zipped),
    ("map", all),
    ("map_entries", all),
    ("struct", all),
    ("named_struct", all),
];

/// Functions that make a value of the type that a text names.
pub(super) const CASTS: [&str; 4] = [
    "arrow_cast",
    "arrow_try_cast",
    "cast_to_type",
    "try_cast_to_type",
];

/// Of `||`.
pub(super) const JOINED: Bound = all;

/// A number or a time as text: a DOUBLE may have 309 digits before the point.
const WRITTEN: usize = 400;

/// What the longest item of a format, of two bytes, writes, for each of its bytes.
const FORMATTED: usize = 32;

/// What a place takes that is filled up with NULL.
const PADDING: usize = 64;

/// The bound of a function by its name, if it has one.
pub(super) fn bound_of(name: &str) -> Option<Bound> {
    let named = BOUNDED.iter().find(|(bounded, _)| *bounded == name);
    named.map(|(_, bound)| *bound)
}

fn bytes(args: &[Size], place: usize) -> usize {
    args.get(place).map_or(0, |size| size.bytes)
}

/// The length of a text, or more. Its letters are not more than that.
fn length(args: &[Size], place: usize) -> usize {
    bytes(args, place).saturating_sub(OFFSET)
}

/// The elements of a list at every depth, lists of lists among them, or more.
fn elements(args: &[Size], place: usize) -> usize {
    args.get(place)
        .map_or(0, |size| size.values.saturating_add(size.bytes / OFFSET))
}

fn times(number: usize, bytes: usize) -> usize {
    number.saturating_mul(bytes)
}

fn sum(parts: impl IntoIterator<Item = usize>) -> usize {
    parts.into_iter().fold(0, usize::saturating_add)
}

fn all(args: &[Size]) -> usize {
    let own = (args.len() + 1) * OFFSET;
    sum(args.iter().map(|size| size.bytes).chain([own]))
}

/// Lists among the arguments give each of their elements.
fn separated(args: &[Size]) -> usize {
    let values = sum((1..args.len()).map(|place| elements(args, place)));
    sum([all(args), times(values, bytes(args, 0))])
}

/// An empty text is found before each letter and at the end.
fn replaced(args: &[Size]) -> usize {
    // At least so long: a key of a dictionary counts once more.
    let found = length(args, 1).saturating_sub(OFFSET).max(1);
    let places = length(args, 0) / found + 1;
    sum([bytes(args, 0), times(places, length(args, 2))])
}

/// Matches share no letter, so what is taken from them by one reference is not longer than the text, and two bytes of the
/// replacement are the shortest reference. Without flags there is one match.
fn replaced_by_pattern(args: &[Size]) -> usize {
    let (text, with) = (length(args, 0), length(args, 2));
    let matches = if args.len() > 3 { text + 1 } else { 1 };
    sum([bytes(args, 0), times(matches, with), times(text, with)])
}

/// Each parenthesis may capture all of the text.
fn captured(args: &[Size]) -> usize {
    times(length(args, 1) + 2, bytes(args, 0) + OFFSET)
}

/// A letter becomes four bytes at most by `translate`; by its upper or lower case, three times its bytes.
fn by_letters(args: &[Size]) -> usize {
    times(4, length(args, 0)).saturating_add(OFFSET)
}

fn encoded(args: &[Size]) -> usize {
    times(2, bytes(args, 0)).saturating_add(OFFSET)
}

fn formatted(args: &[Size]) -> usize {
    times(FORMATTED, bytes(args, 1)).saturating_add(WRITTEN)
}

fn split(args: &[Size]) -> usize {
    let elements = length(args, 0) + 2;
    let instead_of_null = bytes(args, 0);
    sum([times(elements, OFFSET), instead_of_null, OFFSET])
}

fn listed(args: &[Size]) -> usize {
    let each = sum([bytes(args, 1), bytes(args, 2), WRITTEN]);
    sum([bytes(args, 0), times(elements(args, 0), each), OFFSET])
}

fn replaced_elements(args: &[Size]) -> usize {
    sum([all(args), times(elements(args, 0), bytes(args, 2))])
}

fn zipped(args: &[Size]) -> usize {
    let longest = (0..args.len()).map(|place| elements(args, place)).max();
    let padding = times(longest.unwrap_or(0), args.len() * PADDING);
    sum([all(args), padding])
}
