// SPDX-License-Identifier: Apache-2.0
//! Bodies of appends: refused or taken alike in every way that they can come in.

use arrow::compute::concat_batches;
use bytes::Bytes;
use dovetail_log::decode::{DecodeError, Decoded, Decoder, OnError, elements, infer};
use dovetail_log::{DeadLetter, Format};
use dovetail_model::UnknownColumns;

use crate::schema::every_type;

/// Little, so that a bomb goes off early.
const MAX_DECODED_BYTES: usize = 16 << 20;
/// So many elements are decoded one by one.
const MAX_ELEMENTS: usize = 64;

pub(crate) fn ndjson(data: &[u8]) {
    in_every_way(Format::Ndjson, data);
}

pub(crate) fn json(data: &[u8]) {
    in_every_way(Format::Json, data);
}

pub(crate) fn csv(data: &[u8]) {
    in_every_way(Format::Csv, data);
}

pub(crate) fn arrow(data: &[u8]) {
    in_every_way(Format::Arrow, data);
}

/// A schema that is proposed for a body is one that a stream can have.
pub(crate) fn infer_schema(data: &[u8]) {
    for format in [Format::Ndjson, Format::Json, Format::Csv, Format::Arrow] {
        if let Ok(schema) = infer(format, data, "events") {
            schema.check().expect("a proposed schema can be declared");
        }
    }
}

fn in_every_way(format: Format, data: &[u8]) {
    for unknown in [UnknownColumns::Ignore, UnknownColumns::Reject] {
        let decoder = Decoder::new(&every_type(unknown)).with_max_decoded_bytes(MAX_DECODED_BYTES);
        let body = Bytes::copy_from_slice(data);
        let decode = |on_error| decoder.decode(format, &body, on_error, "fuzz");
        let kept = decode(OnError::DeadLetter);
        agree(&kept, &decode(OnError::Reject));
        if let Ok(kept) = &kept {
            kept.dead_letters
                .iter()
                .take(MAX_ELEMENTS)
                .for_each(|letter| is_bad_alone(&decoder, letter));
            element_by_element(&decoder, format, &body, kept);
        }
    }
}

/// Whoever refuses bad events says of the first what whoever keeps them as letters says of it.
fn agree(kept: &Result<Decoded, DecodeError>, refused: &Result<Decoded, DecodeError>) {
    match (kept, refused) {
        (Ok(kept), Ok(refused)) => {
            assert!(kept.dead_letters.is_empty(), "a bad event is not refused");
            assert_eq!(kept.events, refused.events);
        }
        (
            Ok(kept),
            Err(DecodeError::Events {
                place,
                column,
                reason,
                bad,
            }),
        ) => {
            let first = &kept.dead_letters[0];
            assert_eq!(
                (place.line, column, reason),
                (first.line, &first.column, &first.reason)
            );
            assert_eq!(*bad, kept.dead_letters.len() as u64);
        }
        // Bad events before a fault of the whole body.
        (Err(_), Err(_)) => {}
        (kept, refused) => panic!("kept: {kept:?}\nrefused: {refused:?}"),
    }
}

/// A letter lost nothing that mattered: alone it is bad for the same reason.
fn is_bad_alone(decoder: &Decoder, letter: &DeadLetter) {
    let said = match &letter.column {
        Some(column) => format!("column `{column}`: {}", letter.reason),
        None => letter.reason.clone(),
    };
    assert_eq!(decoder.decode_letter(letter), Err(said), "{letter:?}");
}

fn letter(format: Format, bytes: Bytes) -> DeadLetter {
    DeadLetter {
        bytes,
        format,
        reason: String::new(),
        line: None,
        column: None,
        origin: "fuzz".to_owned(),
        envelope: None,
    }
}

/// The whole body is the elements of it, one after the other.
fn element_by_element(decoder: &Decoder, format: Format, body: &Bytes, whole: &Decoded) {
    let Ok(Some(elements)) = elements(format, body) else {
        return;
    };
    if elements.len() > MAX_ELEMENTS {
        return;
    }
    let (mut events, mut bad) = (vec![], 0);
    for element in elements {
        let alone = body.slice(element.range);
        let alone = match format {
            Format::Json => [b"[", &alone[..], b"]"].concat().into(),
            _ => alone,
        };
        match decoder.decode_letter(&letter(format, alone)) {
            Ok(event) => {
                assert_eq!(event.num_rows(), 1, "an element is one event");
                events.push(event);
            }
            Err(_) => bad += 1,
        }
    }
    assert_eq!(bad, whole.dead_letters.len());
    let events = concat_batches(&whole.events.schema(), &events);
    assert_eq!(events.expect("events of one stream"), whole.events);
}
