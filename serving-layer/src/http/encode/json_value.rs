// SPDX-License-Identifier: Apache-2.0
//! Values of columns as JSON.
//!
//! ```text
//! BOOLEAN           true
//! INT, BIGINT       number, exact
//! DOUBLE            number; "NaN", "Infinity", "-Infinity" as text, since JSON has no number for them
//! DECIMAL           text, exact: "12.50"
//! VARCHAR           text
//! DATE, TIMESTAMP   text: "2001-01-01", "2001-01-01T00:00:00", a fraction only where there is one
//! STRUCT, LIST      object with every field, array
//! binary            text, hex
//! ```

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// The options that make arrow's encoders follow the table above.
pub(super) fn options() -> EncoderOptions {
    EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(OurValues))
}

/// The column as arrow's encoders read it right. Dictionaries are unpacked: their values may be null, which those do not see.
pub(super) fn prepared(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Dictionary(_, values) => cast(array, values),
        _ => Ok(Arc::clone(array)),
    }
}

/// An encoder of a prepared column.
pub(super) fn encoder<'a>(
    field: &'a FieldRef,
    array: &'a dyn Array,
    options: &'a EncoderOptions,
) -> Result<NullableEncoder<'a>, ArrowError> {
    make_encoder(field, array, options)
}

/// Where our values differ from arrow's.
#[derive(Debug)]
struct OurValues;

impl EncoderFactory for OurValues {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Decimal32(_, _)
            | DataType::Decimal64(_, _)
            | DataType::Decimal128(_, _)
            | DataType::Decimal256(_, _) => Box::new(QuotedText(ArrayFormatter::try_new(
                array,
                &FormatOptions::default(),
            )?)),
            // Arrow writes null for what JSON has no number for. Most columns have none of it and keep its fast path.
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>().values();
                if values.iter().all(|v| v.is_finite()) {
                    return Ok(None);
                }
                Box::new(WideFloat(|row| values[row]))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>().values();
                if values.iter().all(|v| v.is_finite()) {
                    return Ok(None);
                }
                Box::new(WideFloat(|row| f64::from(values[row])))
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// Text that needs no escape, in quotes.
struct QuotedText<'a>(ArrayFormatter<'a>);

impl Encoder for QuotedText<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        let _ = write!(out, "\"{}\"", self.0.value(row));
    }
}

/// Floats, some of them not finite.
struct WideFloat<F>(F);

impl<F: Fn(usize) -> f64> Encoder for WideFloat<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = (self.0)(row);
        let text: &[u8] = if value.is_finite() {
            // Writing to a vector cannot fail.
            let _ = serde_json::to_writer(&mut *out, &value);
            return;
        } else if value.is_nan() {
            b"\"NaN\""
        } else if value > 0.0 {
            b"\"Infinity\""
        } else {
            b"\"-Infinity\""
        };
        out.extend_from_slice(text);
    }
}
