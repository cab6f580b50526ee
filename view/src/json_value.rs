// SPDX-License-Identifier: Apache-2.0
//! Values of columns as JSON: what answers show, and what a diff shows of the same columns.
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

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Number, Value};

use crate::calendar::writable;

/// The options that make arrow's encoders follow the table above.
pub fn options() -> EncoderOptions {
    EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(OurValues))
}

/// The column as arrow's encoders read it right. Dictionaries are unpacked: their values may be null, which those do not see.
///
/// # Errors
/// When a dictionary cannot be unpacked.
pub fn prepared(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Dictionary(_, values) => cast(array, values),
        _ => Ok(Arc::clone(array)),
    }
}

/// An encoder of a prepared column.
///
/// # Errors
/// For a type that JSON cannot hold.
pub fn encoder<'a>(
    field: &'a FieldRef,
    array: &'a dyn Array,
    options: &'a EncoderOptions,
) -> Result<NullableEncoder<'a>, ArrowError> {
    make_encoder(field, array, options)
}

/// The row of `batch` at `row` as an object, its keys in column order. Where a date or time is in no calendar, those of its
/// column are numbers: what is wrong with a row must not hide it.
///
/// # Errors
/// For a type that JSON cannot hold.
pub fn object(batch: &RecordBatch, row: usize) -> Result<Value, ArrowError> {
    let options = options();
    let schema = batch.schema();
    let mut object = Map::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let column = writable(&prepared(&column.slice(row, 1))?)?;
        let value = value(field, &column, &options)?;
        object.insert(field.name().clone(), value);
    }
    Ok(Value::Object(object))
}

/// The one value of a prepared column.
fn value(
    field: &FieldRef,
    column: &ArrayRef,
    options: &EncoderOptions,
) -> Result<Value, ArrowError> {
    let mut encoder = encoder(field, column.as_ref(), options)?;
    if encoder.is_null(0) {
        return Ok(Value::Null);
    }
    // Read back from its text a double may end in another digit.
    if let Some(doubles) = column.as_primitive_opt::<Float64Type>()
        && let Some(number) = Number::from_f64(doubles.value(0))
    {
        return Ok(Value::Number(number));
    }
    let mut text = Vec::new();
    encoder.encode(0, &mut text);
    serde_json::from_slice(&text).map_err(|error| ArrowError::JsonError(error.to_string()))
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

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Decimal128Array, Float64Array, Int64Array};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_an_object_of_exact_values() {
        let total = Decimal128Array::from(vec![0, 12_345_678_901_234_567_890_123_456]);
        let total = total.with_precision_and_scale(38, 2).unwrap();
        let double = f64::from_bits(0x3FD5_5555_5555_5557);
        let batch = RecordBatch::try_from_iter([
            ("total", Arc::new(total) as ArrayRef),
            ("count", Arc::new(Int64Array::from(vec![0, i64::MAX]))),
            ("share", Arc::new(Float64Array::from(vec![0.0, double]))),
            ("ratio", Arc::new(Float64Array::from(vec![0.0, f64::NAN]))),
            ("none", Arc::new(Int64Array::from(vec![Some(0), None]))),
        ])
        .unwrap();
        let shown = object(&batch, 1).unwrap();
        assert_eq!(
            shown,
            json!({
                "total": "123456789012345678901234.56",
                "count": i64::MAX,
                "share": double,
                "ratio": "NaN",
                "none": null,
            })
        );
        let far = Date32Array::from(vec![1, i32::MAX]);
        let batch = RecordBatch::try_from_iter([("day", Arc::new(far) as ArrayRef)]).unwrap();
        assert_eq!(object(&batch, 0).unwrap(), json!({"day": "1970-01-02"}));
        assert_eq!(object(&batch, 1).unwrap(), json!({"day": i32::MAX}));
        let names: Vec<_> = shown.as_object().unwrap().keys().collect();
        assert_eq!(names, ["total", "count", "share", "ratio", "none"]);
    }
}
