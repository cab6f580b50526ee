// SPDX-License-Identifier: Apache-2.0
//! Arrow's types in a text, under the names that SQL gives them.

use arrow::datatypes::DataType;

use crate::sql_type;

/// `text` with every type of Arrow's under its SQL name, and `Int64(1)` as `1`. What stands in quotes stays as it
/// is: it is the user's.
pub(crate) fn with_sql_types(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let opens_word = !out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let taken = if opens_word && (next == '\'' || next == '"') {
            let end = rest[1..].find(next).map_or(rest.len(), |end| end + 2);
            out.push_str(&rest[..end]);
            end
        } else if opens_word && next.is_ascii_uppercase() {
            let word = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            typed(rest, word, &mut out)
        } else {
            out.push(next);
            next.len_utf8()
        };
        rest = &rest[taken..];
    }
    out
}

/// Writes what `text` begins with, a word of `word` bytes, as SQL. Returns how many bytes it was.
fn typed(text: &str, word: usize, out: &mut String) -> usize {
    let arguments = arguments_end(&text[word..]).map(|end| word + end);
    if let Some(end) = arguments
        && let Some(data_type) = data_type(&text[..end])
    {
        out.push_str(&sql_type(&data_type));
        return end;
    }
    match (data_type(&text[..word]), arguments) {
        // A literal: `Int64(1)`, `Utf8("a")`.
        (Some(_), Some(end)) => {
            let value = &text[word + 1..end - 1];
            match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
                Some(string) => out.push_str(&format!("'{string}'")),
                None => out.push_str(value),
            }
            end
        }
        (Some(data_type), None) => {
            out.push_str(&sql_type(&data_type));
            word
        }
        // `a Decimal128 of precision 3`.
        (None, None) if is_decimal(&text[..word]) => {
            out.push_str("DECIMAL");
            word
        }
        (None, _) => {
            out.push_str(&text[..word]);
            word
        }
    }
}

/// The type that a text names in Arrow's words; none if it may be a word of the sentence.
fn data_type(text: &str) -> Option<DataType> {
    const WORDS: [&str; 6] = ["Null", "Binary", "Date", "Struct", "List", "Map"];
    if WORDS.contains(&text) {
        return None;
    }
    text.parse().ok()
}

fn is_decimal(word: &str) -> bool {
    ["Decimal32", "Decimal64", "Decimal128", "Decimal256"].contains(&word)
}

/// Where the parenthesis closes that `text` opens with.
fn arguments_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        if depth == 0 {
            return None;
        }
    }
    None
}

/// The parts of a list in Arrow's words, cut at the commas between them.
pub(super) fn split_list(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth, mut quoted) = (0, 0_usize, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' | '[' if !quoted => depth += 1,
            ')' | ']' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_sql_and_the_users_own_words_stay() {
        for (text, expected) in [
            (
                "Utf8 + Struct(\"a\": non-null Int32, \"b\": List(Int64, field: 'element'))",
                "VARCHAR + STRUCT<a INT, b LIST<BIGINT>>",
            ),
            ("to Timestamp(µs) and Float64.", "to TIMESTAMP and DOUBLE."),
            (
                "string 'Utf8' in column \"Int32\"",
                "string 'Utf8' in column \"Int32\"",
            ),
            ("count(Int64(1)), sum(Utf8(\"x\"))", "count(1), sum('x')"),
            ("Decimal128(10, 2)", "DECIMAL(10, 2)"),
            (
                "The Struct isn't a List of MyInt32",
                "The Struct isn't a List of MyInt32",
            ),
            ("", ""),
        ] {
            assert_eq!(with_sql_types(text), expected);
        }
    }

    #[test]
    fn lists_are_cut_between_types() {
        let text = "Utf8, Struct(\"a, b\": Int32, \"c\": Int64), Int32";
        let parts = ["Utf8", "Struct(\"a, b\": Int32, \"c\": Int64)", "Int32"];
        assert_eq!(split_list(text), parts);
        assert!(split_list("").is_empty());
    }
}
