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
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
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
    // Before a body it is left out, before a later line of it not: the same line is another body alone.
    if data
        .windows(3)
        .skip(1)
        .any(|three| three == BYTE_ORDER_MARK)
    {
        return;
    }
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

/// A letter lost nothing that mattered: alone it is bad for the same reason. Of a record of CSV with quotes out of place only that it
/// is bad: where it ends is a guess.
fn is_bad_alone(decoder: &Decoder, letter: &DeadLetter) {
    match decoder.decode(letter.format, &letter.bytes, OnError::DeadLetter, "fuzz") {
        Ok(alone) => {
            assert_eq!(alone.events.num_rows(), 0);
            assert_eq!(alone.dead_letters.len(), 1);
            if letter.format != Format::Csv {
                assert_eq!(alone.dead_letters[0].reason, letter.reason);
                assert_eq!(alone.dead_letters[0].bytes, letter.bytes);
            }
        }
        // A JSON element that is no object makes no document either.
        Err(error) => assert_eq!(letter.format, Format::Json, "{error}"),
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
        match decoder.decode(format, &alone, OnError::DeadLetter, "fuzz") {
            Ok(alone) => {
                bad += alone.dead_letters.len();
                events.push(alone.events);
            }
            Err(error) => panic!("an element is no body: {error}: {alone:?}"),
        }
    }
    assert_eq!(bad, whole.dead_letters.len());
    let events = concat_batches(&whole.events.schema(), &events);
    assert_eq!(events.expect("events of one stream"), whole.events);
}
