// SPDX-License-Identifier: Apache-2.0
use proptest::prelude::*;

use super::*;

/// Splits `input`, read in pieces that end where `reads` says.
fn split(
    framing: Framing,
    target: usize,
    max: usize,
    input: &[u8],
    reads: &[usize],
) -> Result<Vec<Part>, SplitError> {
    let mut splitter = Splitter::new(framing, target, max);
    let mut parts = Vec::new();
    let mut rest = input;
    for read in reads {
        let (piece, behind) = rest.split_at((*read).min(rest.len()));
        splitter.push(piece, &mut parts)?;
        rest = behind;
    }
    splitter.push(rest, &mut parts)?;
    splitter.finish(&mut parts)?;
    Ok(parts)
}

fn texts(parts: &[Part]) -> Vec<&str> {
    parts
        .iter()
        .map(|part| std::str::from_utf8(&part.bytes).unwrap())
        .collect()
}

#[test]
fn csv_parts_repeat_the_header_and_keep_line_numbers() {
    let input = b"a,b\r\n1,\"x\r\ny\"\r\n2,z\r\n3,\"q\"\"\n\"\r\n4,5";
    let parts = split(Framing::Csv, 14, 100, input, &[]).unwrap();
    assert_eq!(
        texts(&parts),
        [
            "a,b\r\n1,\"x\r\ny\"\r\n",
            "a,b\r\n2,z\r\n3,\"q\"\"\n\"\r\n",
            "a,b\r\n4,5"
        ]
    );
    // Line 2 of each body is the first record: lines 2, 4 and 7 of the input.
    let shifts: Vec<u64> = parts.iter().map(|part| part.line_shift).collect();
    assert_eq!(shifts, [0, 2, 5]);
}

#[test]
fn empty_lines_before_the_header_are_not_taken_for_it() {
    let parts = split(Framing::Csv, 5, 100, b"\n\r\na,b\n1,2\n3,4\n", &[1, 1, 2]).unwrap();
    assert_eq!(texts(&parts), ["a,b\n1,2\n", "a,b\n3,4\n"]);
    assert_eq!((parts[0].line_shift, parts[1].line_shift), (2, 3));
}

#[test]
fn json_parts_are_arrays() {
    let input = b" \n[ {\"a\": [1, 2]},\n\"],\\\"\", 3 ]\n";
    let parts = split(Framing::JsonArray, 4, 100, input, &[3, 1, 9]).unwrap();
    assert_eq!(
        texts(&parts),
        ["[ {\"a\": [1, 2]}]", "[\n\"],\\\"\"]", "[ 3 ]"]
    );
    let shifts: Vec<u64> = parts.iter().map(|part| part.line_shift).collect();
    assert_eq!(shifts, [1, 1, 2]);
}

#[test]
fn nothing_is_sent_for_input_without_records() {
    for (framing, input) in [
        (Framing::Lines, ""),
        (Framing::Lines, "\n \n"),
        (Framing::Csv, ""),
        (Framing::Csv, "a,b"),
        (Framing::Csv, "a,b\n\n"),
        (Framing::JsonArray, "[]"),
        (Framing::JsonArray, "\u{feff} [ \n ] \n"),
    ] {
        let parts = split(framing, 1, 100, input.as_bytes(), &[]).unwrap();
        assert_eq!(texts(&parts), Vec::<&str>::new(), "{input:?}");
    }
}

#[test]
fn what_is_no_array_is_refused_with_its_line() {
    for (input, line, reason) in [
        ("", 1, "has no JSON array"),
        ("\n{\"a\": 1}", 2, "starts with `[`"),
        ("[1,\n2", 2, "ends before the `]`"),
        ("[\"]", 1, "ends before the `]`"),
        ("[1]\n[2]", 2, "behind the `]`"),
    ] {
        let error = split(Framing::JsonArray, 100, 100, input.as_bytes(), &[]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("line {line}: ")) && text.contains(reason),
            "{input:?}: {text}"
        );
    }
}

#[test]
fn a_record_larger_than_a_body_is_named_by_its_line() {
    let error = split(Framing::Lines, 4, 8, b"1\n2\n123456789\n3\n", &[]).unwrap_err();
    assert_eq!(error, SplitError::TooLarge { line: 3, max: 8 });
    // Also when its end has not been read: memory stays bounded.
    let mut splitter = Splitter::new(Framing::Csv, 4, 16);
    let error = splitter
        .push(b"a\n\"000000000000000000000", &mut Vec::new())
        .unwrap_err();
    assert_eq!(error, SplitError::TooLarge { line: 2, max: 16 });
}

#[test]
fn a_record_that_does_not_fit_in_with_the_others_goes_alone() {
    let parts = split(Framing::Lines, 7, 8, b"1\n2\n1234567\n3\n", &[]).unwrap();
    assert_eq!(texts(&parts), ["1\n2\n", "1234567\n", "3\n"]);
    let parts = split(Framing::Lines, 7, 8, b"1\n2\n12345678", &[]).unwrap();
    assert_eq!(texts(&parts), ["1\n2\n", "12345678"]);
}

#[test]
fn a_pause_sends_whole_records_only() {
    let mut splitter = Splitter::new(Framing::Lines, 100, 100);
    let mut parts = Vec::new();
    splitter.push(b"1\n2\n3", &mut parts).unwrap();
    assert!(parts.is_empty());
    assert_eq!(splitter.flush().unwrap().bytes, "1\n2\n");
    assert_eq!(splitter.flush(), None);
    splitter.push(b"4\n", &mut parts).unwrap();
    splitter.finish(&mut parts).unwrap();
    assert_eq!(texts(&parts), ["34\n"]);
}

fn csv_field() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]{0,6}",
        // Quotes where RFC 4180 has none: both readers must take them alike.
        "[a-z]{1,3}\"[a-z]{0,2}",
        "\"[a-z\n]{0,3}\"[a-z]{0,2}",
        "[a-z,\r\n\"]{0,6}".prop_map(|text| format!("\"{}\"", text.replace('"', "\"\""))),
    ]
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(serde_json::Value::from),
        "[\\[\\]{},:\"\\\\ a\n]{0,8}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map("[a-z\"\\]]{1,3}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Lines: the parts are the input, cut behind line ends.
    #[test]
    fn line_parts_concatenate_to_the_input(
        lines in prop::collection::vec("[a-z]{1,12}", 1..40),
        ends_with_newline: bool,
        target in 1usize..40,
        reads in prop::collection::vec(0usize..30, 0..30),
    ) {
        let mut input = lines.join("\n");
        if ends_with_newline {
            input.push('\n');
        }
        let parts = split(Framing::Lines, target, 64, input.as_bytes(), &reads).unwrap();
        prop_assert_eq!(texts(&parts).concat(), input.clone());
        for part in &parts[..parts.len() - 1] {
            prop_assert!(part.bytes.ends_with(b"\n") && part.bytes.len() >= target);
        }
        // Reading in other pieces cuts in the same places.
        prop_assert_eq!(split(Framing::Lines, target, 64, input.as_bytes(), &[]).unwrap(), parts);
    }

    /// CSV: whatever is quoted, the parts' records are the input's records, each part under the header.
    #[test]
    fn csv_parts_hold_the_records_of_the_input(
        rows in prop::collection::vec(prop::collection::vec(csv_field(), 3), 1..30),
        line_end in prop_oneof![Just("\n"), Just("\r\n")],
        target in 1usize..80,
        reads in prop::collection::vec(0usize..40, 0..30),
    ) {
        // A record of three fields is never blank, so records can be counted by a reader.
        let header = format!("\"a,\nb\",c,d{line_end}");
        let records: String = rows.iter().map(|row| row.join(",") + line_end).collect();
        let input = format!("{header}{records}");
        let parts = split(Framing::Csv, target, 256, input.as_bytes(), &reads).unwrap();
        let mut joined = String::new();
        for text in texts(&parts) {
            let body = text.strip_prefix(&header);
            prop_assert!(body.is_some(), "no header: {:?}", text);
            joined.push_str(body.unwrap());
            prop_assert_eq!(csv_rows(text), csv_rows(&header) + csv_rows(body.unwrap()));
        }
        prop_assert_eq!(joined, records);
        prop_assert_eq!(split(Framing::Csv, target, 256, input.as_bytes(), &[]).unwrap(), parts);
    }

    /// JSON: the elements of the parts are the elements of the input.
    #[test]
    fn json_parts_hold_the_elements_of_the_input(
        values in prop::collection::vec(json_value(), 0..20),
        pretty: bool,
        target in 1usize..80,
        reads in prop::collection::vec(0usize..40, 0..30),
    ) {
        let input = if pretty {
            serde_json::to_vec_pretty(&values).unwrap()
        } else {
            serde_json::to_vec(&values).unwrap()
        };
        let parts = split(Framing::JsonArray, target, 4096, &input, &reads).unwrap();
        let mut elements = Vec::new();
        for part in &parts {
            let part: Vec<serde_json::Value> = serde_json::from_slice(&part.bytes).unwrap();
            prop_assert!(!part.is_empty());
            elements.extend(part);
        }
        prop_assert_eq!(elements, values);
        prop_assert_eq!(split(Framing::JsonArray, target, 4096, &input, &[]).unwrap(), parts);
    }
}

/// How many records arrow's reader, which the server decodes with, sees in `text`.
fn csv_rows(text: &str) -> usize {
    let (schema, rows) = arrow::csv::reader::Format::default()
        .infer_schema(text.as_bytes(), None)
        .unwrap();
    assert_eq!(schema.fields().len(), 3);
    rows
}
