// SPDX-License-Identifier: Apache-2.0
//! Arrow IPC streams. Columns match by name and are cast where nothing is lost.
//!
//! `arrow-ipc` checks the values it reads, but trusts the frame around them: it panics on types that it
//! does not know, allocates what a compressed buffer claims to hold, and validates a dictionary again for
//! every batch. So the frame is checked here first, and what is left of its panics becomes an error.

use std::panic::AssertUnwindSafe;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::{Buffer as BufferRange, MessageHeader, root_as_message};
use bytes::Bytes;
use dovetail_model::StreamSchema;

use super::DecodeError;
use super::convert::Converter;
use super::guard::guarded;
use super::sink::Sink;

/// What an Arrow file begins with, and no stream can.
const FILE_MAGIC: &[u8] = b"ARROW1";
/// Marks the length of a message behind it.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Bytes of dictionaries that are checked again, in all. About a second.
const MAX_DICTIONARY_WORK: usize = 4 << 30;
/// Most columns, nested ones too.
const MAX_FIELDS: usize = 10_000;
/// What a message must be aligned to.
const ALIGNMENT: usize = 8;

/// Decodes all batches of the stream into one.
pub(super) fn decode(
    body: &Bytes,
    schema: &StreamSchema,
    declared: &SchemaRef,
    sink: &mut Sink<'_>,
) -> Result<RecordBatch, DecodeError> {
    if body.is_empty() {
        let reason = "the body is empty; an Arrow stream starts with a schema";
        return Err(DecodeError::body(reason));
    }
    if body.starts_with(FILE_MAGIC) {
        let reason = "the body is an Arrow file, and an Arrow stream is read here: write it with a stream writer (`pyarrow.ipc.new_stream`), or send it by `dovetail ingest`";
        return Err(DecodeError::body(reason));
    }
    let mut buffer = if body.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        Buffer::from(body.clone())
    } else {
        Buffer::from_slice_ref(body.as_ref())
    };
    check_frame(&buffer)?;
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    let mut converter: Option<Converter<'_>> = None;
    while let Some(batch) = next_batch(&mut decoder, &mut buffer)? {
        if converter.is_none() {
            converter = Some(Converter::new(schema, &batch.schema())?);
        }
        if let Some(converter) = &mut converter {
            batches.push(converter.convert(&batch, declared, sink)?);
        }
    }
    if converter.is_none() {
        // A schema without batches must fit all the same.
        let found = decoder.schema().ok_or_else(cut_off)?;
        Converter::new(schema, &found)?;
    }
    match &mut batches[..] {
        [batch] => Ok(batch.clone()),
        batches => concat_batches(declared, &*batches).map_err(|error| invalid(&error)),
    }
}

fn next_batch(
    decoder: &mut StreamDecoder,
    buffer: &mut Buffer,
) -> Result<Option<RecordBatch>, DecodeError> {
    // The decoder is not used again after a panic.
    let decoded = guarded(AssertUnwindSafe(|| decoder.decode(buffer)));
    match decoded {
        Some(batch) => batch.map_err(|error| invalid(&error)),
        None => Err(DecodeError::body(
            "the Arrow stream is damaged, or uses types that are not read here",
        )),
    }
}

fn invalid(error: &ArrowError) -> DecodeError {
    DecodeError::body(format!("the Arrow stream is not valid: {error}"))
}

fn damaged(how: &str) -> DecodeError {
    DecodeError::body(format!("the Arrow stream is damaged: {how}"))
}

fn cut_off() -> DecodeError {
    DecodeError::body("the Arrow stream is cut off; it must end with an end-of-stream marker")
}

/// Walks over all messages: whole, in their bounds, of kinds that are read here, at a bounded cost.
fn check_frame(body: &[u8]) -> Result<(), DecodeError> {
    let mut rest = body;
    let mut dictionaries = 0_usize;
    let mut work = 0_usize;
    loop {
        let Some(metadata) = next_metadata(&mut rest)? else {
            return if rest.is_empty() {
                Ok(())
            } else {
                Err(damaged("bytes follow its end"))
            };
        };
        let message = root_as_message(metadata)
            .map_err(|error| damaged(&format!("a message has no valid header: {error}")))?;
        let length =
            usize::try_from(message.bodyLength()).map_err(|_| damaged("a negative length"))?;
        if length > rest.len() {
            return Err(cut_off());
        }
        rest = &rest[length..];
        let batch = match message.header_type() {
            MessageHeader::Schema => {
                check_schema(message.header_as_schema())?;
                None
            }
            MessageHeader::RecordBatch => {
                work = work.saturating_add(dictionaries);
                message.header_as_record_batch()
            }
            MessageHeader::DictionaryBatch => {
                dictionaries = dictionaries.saturating_add(length);
                let dictionary = message.header_as_dictionary_batch();
                if dictionary.is_some_and(|d| d.isDelta()) {
                    return Err(unsupported("delta dictionaries"));
                }
                Some(
                    dictionary
                        .and_then(|d| d.data())
                        .ok_or_else(|| damaged("a dictionary without values"))?,
                )
            }
            _ => return Err(damaged("a message of an unknown kind")),
        };
        if let Some(batch) = batch {
            check_batch(&batch, length)?;
        }
        if work > MAX_DICTIONARY_WORK {
            return Err(DecodeError::too_large(
                "the Arrow stream has too many batches for dictionaries of that size; write larger batches",
            ));
        }
    }
}

/// Takes the next message's metadata off `rest`; none at the end-of-stream marker.
pub(super) fn next_metadata<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, DecodeError> {
    if rest.starts_with(&CONTINUATION) {
        *rest = &rest[4..];
    }
    let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
    let length = u32::from_le_bytes(*length) as usize;
    *rest = behind;
    if length == 0 {
        return Ok(None);
    }
    let (metadata, behind) = behind.split_at_checked(length).ok_or_else(cut_off)?;
    *rest = behind;
    Ok(Some(metadata))
}

fn check_schema(schema: Option<arrow::ipc::Schema<'_>>) -> Result<(), DecodeError> {
    let fields = schema
        .and_then(|schema| schema.fields())
        .ok_or_else(|| damaged("a schema without fields"))?;
    let mut count = 0_usize;
    let mut open: Vec<_> = fields.iter().collect();
    while let Some(field) = open.pop() {
        count += 1;
        if count > MAX_FIELDS {
            return Err(DecodeError::too_large(format!(
                "the Arrow schema has more than {MAX_FIELDS} columns"
            )));
        }
        // A value of such a type cannot even be shown.
        if let Some(decimal) = field.type_as_decimal()
            && (decimal.precision() < 1 || decimal.scale() > decimal.precision())
        {
            return Err(damaged(&format!(
                "a decimal of {} digits, {} of them behind the point",
                decimal.precision(),
                decimal.scale()
            )));
        }
        open.extend(field.children().into_iter().flatten());
    }
    Ok(())
}

fn check_batch(batch: &arrow::ipc::RecordBatch<'_>, body: usize) -> Result<(), DecodeError> {
    if batch.compression().is_some() {
        return Err(unsupported("compressed record batches"));
    }
    let mut nodes = batch.nodes().into_iter().flatten();
    if batch.length() < 0 || nodes.any(|node| node.length() < 0 || node.null_count() < 0) {
        return Err(damaged("a negative length"));
    }
    // No writer lets buffers overlap; a reader that allowed it would check the same bytes without end.
    let mut total = 0_usize;
    for buffer in batch.buffers().into_iter().flatten() {
        let length = range_within(buffer, body).ok_or_else(|| damaged("a buffer out of bounds"))?;
        total = total.saturating_add(length);
    }
    if total > body {
        return Err(damaged("buffers overlap"));
    }
    Ok(())
}

/// The length of a buffer that lies within its body.
fn range_within(buffer: &BufferRange, body: usize) -> Option<usize> {
    let offset = usize::try_from(buffer.offset()).ok()?;
    let length = usize::try_from(buffer.length()).ok()?;
    (offset.checked_add(length)? <= body).then_some(length)
}

fn unsupported(what: &str) -> DecodeError {
    DecodeError::UnsupportedMedia {
        reason: format!(
            "{what} are not read: write the Arrow stream plain, and compress the body with `Content-Encoding: zstd`"
        ),
    }
}
