// SPDX-License-Identifier: Apache-2.0
//! Values apart from any encoding: what the decoder and the reference must agree on.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use chrono::{DateTime, Days, NaiveDate};
use dovetail_model::{Column, ColumnType};

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Boolean(bool),
    /// INT, BIGINT; DATE in days; TIMESTAMP in microseconds; DECIMAL without its point.
    Integer(i128),
    /// Bits, so that NaN equals itself and -0 differs from 0.
    Double(u64),
    Text(String),
    Struct(Vec<Cell>),
    List(Vec<Cell>),
}

impl Cell {
    pub(super) fn double(value: f64) -> Self {
        let value = if value.is_nan() { f64::NAN } else { value };
        Self::Double(value.to_bits())
    }
}

/// All rows of a batch.
pub(super) fn rows_of(batch: &RecordBatch) -> Vec<Vec<Cell>> {
    (0..batch.num_rows())
        .map(|row| batch.columns().iter().map(|c| cell(c, row)).collect())
        .collect()
}

fn cell(array: &ArrayRef, row: usize) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match array.data_type() {
        DataType::Boolean => Cell::Boolean(array.as_boolean().value(row)),
        DataType::Int32 => Cell::Integer(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Cell::Integer(array.as_primitive::<Int64Type>().value(row).into()),
        DataType::Float64 => Cell::double(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            Cell::Integer(array.as_primitive::<Decimal128Type>().value(row))
        }
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::Date32 => Cell::Integer(array.as_primitive::<Date32Type>().value(row).into()),
        DataType::Timestamp(..) => {
            let array = array.as_primitive::<TimestampMicrosecondType>();
            Cell::Integer(array.value(row).into())
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns();
            Cell::Struct(columns.iter().map(|c| cell(c, row)).collect())
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            Cell::List((0..items.len()).map(|i| cell(&items, i)).collect())
        }
        other => panic!("no column is {other}"),
    }
}

/// A row as compact JSON; null fields are written, or left out if `sparse`.
pub(super) fn to_json(columns: &[Column], cells: &[Cell], sparse: bool) -> String {
    let members: Vec<String> = columns
        .iter()
        .zip(cells)
        .filter(|(_, cell)| !sparse || **cell != Cell::Null)
        .map(|(column, cell)| {
            let name = serde_json::to_string(&column.name).unwrap();
            format!("{name}:{}", json_value(&column.column_type, cell, sparse))
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

fn json_value(column_type: &ColumnType, cell: &Cell, sparse: bool) -> String {
    match (column_type, cell) {
        (_, Cell::Null) => "null".to_owned(),
        (ColumnType::Struct(columns), Cell::Struct(cells)) => to_json(columns, cells, sparse),
        (ColumnType::List(item), Cell::List(cells)) => {
            let items: Vec<_> = cells.iter().map(|c| json_value(item, c, sparse)).collect();
            format!("[{}]", items.join(","))
        }
        (ColumnType::Varchar | ColumnType::Date | ColumnType::Timestamp, cell) => {
            serde_json::to_string(&plain(column_type, cell)).unwrap()
        }
        (ColumnType::Double, Cell::Double(bits)) if !f64::from_bits(*bits).is_finite() => {
            serde_json::to_string(&plain(column_type, cell)).unwrap()
        }
        (column_type, cell) => plain(column_type, cell),
    }
}

/// A row as a CSV record, quoted only where it must be.
pub(super) fn to_csv(columns: &[Column], cells: &[Cell]) -> String {
    let values: Vec<String> = columns
        .iter()
        .zip(cells)
        .map(|(column, cell)| match cell {
            Cell::Null => String::new(),
            Cell::Struct(_) | Cell::List(_) => {
                csv_quoted(&json_value(&column.column_type, cell, false))
            }
            cell => {
                let text = plain(&column.column_type, cell);
                let must = text.is_empty() || text.contains(['"', ',', '\n', '\r']);
                if must { csv_quoted(&text) } else { text }
            }
        })
        .collect();
    values.join(",")
}

pub(super) fn csv_quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A plain value as text.
fn plain(column_type: &ColumnType, cell: &Cell) -> String {
    match (column_type, cell) {
        (_, Cell::Boolean(value)) => value.to_string(),
        (_, Cell::Text(text)) => text.clone(),
        (_, Cell::Double(bits)) => match f64::from_bits(*bits) {
            f64::INFINITY => "Infinity".to_owned(),
            f64::NEG_INFINITY => "-Infinity".to_owned(),
            value if value.is_nan() => "NaN".to_owned(),
            value => format!("{value:?}"),
        },
        (ColumnType::Decimal(_, scale), Cell::Integer(value)) => {
            let scale = usize::try_from(*scale).unwrap();
            let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let sign = if *value < 0 { "-" } else { "" };
            let point = if scale > 0 { "." } else { "" };
            format!("{sign}{whole}{point}{fraction}")
        }
        (ColumnType::Date, Cell::Integer(days)) => {
            // From the first day on, so that only additions are needed.
            let first = NaiveDate::from_ymd_opt(0, 1, 1).unwrap();
            let days = u64::try_from(days + 719_528).unwrap();
            (first + Days::new(days)).format("%Y-%m-%d").to_string()
        }
        (ColumnType::Timestamp, Cell::Integer(us)) => {
            let time = DateTime::from_timestamp_micros(i64::try_from(*us).unwrap()).unwrap();
            time.naive_utc().format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
        }
        (_, Cell::Integer(value)) => value.to_string(),
        (column_type, cell) => panic!("{cell:?} is no {column_type}"),
    }
}
