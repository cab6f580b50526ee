// SPDX-License-Identifier: Apache-2.0
//! Keys of a view to look up, by REST and in SQL.

use arrow::array::{Array as _, RecordBatch};
use arrow::compute::concat_batches;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use dovetail_serving_layer::ports::{Filter, FilterOp};
use dovetail_view::{View, sql_type};

/// Rows of an answer whose keys are looked up.
const ROWS: usize = 3;

/// What a key column is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    column: String,
    sql_type: String,
    /// None for NULL.
    value: Option<String>,
}

impl KeyValue {
    /// As a filter by REST.
    pub fn filter(&self) -> Filter {
        Filter {
            column: self.column.clone(),
            op: match self.value {
                Some(_) => FilterOp::Eq,
                None => FilterOp::IsNull,
            },
            values: self.value.clone().into_iter().collect(),
        }
    }

    fn sql(&self) -> String {
        let Self {
            column,
            sql_type,
            value,
        } = self;
        match value {
            Some(value) => {
                let text = value.replace('\'', "''");
                format!("\"{column}\" = CAST('{text}' AS {sql_type})")
            }
            None => format!("\"{column}\" IS NULL"),
        }
    }
}

/// The keys of some of the `rows` of `view`, spread over them, and keys that are put together of two of these: mostly
/// of no group. None for a view without GROUP BY.
pub fn keys(view: &View, rows: &[RecordBatch]) -> Vec<Vec<KeyValue>> {
    let all = concat_batches(&view.output_schema(), rows).expect("the rows of one answer");
    let count = all.num_rows();
    if view.keys().is_empty() || count == 0 {
        return vec![];
    }
    let step = count.div_ceil(ROWS);
    let mut keys: Vec<Vec<KeyValue>> = (0..count)
        .step_by(step)
        .map(|row| key_of(view, &all, row))
        .collect();
    let (first, last) = (keys[0].clone(), keys[keys.len() - 1].clone());
    let mut mixed = first;
    if let (Some(into), Some(value)) = (mixed.last_mut(), last.last()) {
        *into = value.clone();
    }
    let mut unknown = last;
    for value in &mut unknown {
        // Of most types some value is nowhere in a test.
        let nowhere = match value.sql_type.as_str() {
            "VARCHAR" => "it's none",
            "TIMESTAMP" => "1999-12-31T23:00:00",
            "DATE" => "1999-12-31",
            "INT" | "BIGINT" => "-987654",
            _ => continue,
        };
        value.value = Some(nowhere.to_owned());
    }
    keys.extend([mixed, unknown]);
    keys
}

fn key_of(view: &View, rows: &RecordBatch, row: usize) -> Vec<KeyValue> {
    let value = |index: usize, name: &str| {
        let column = rows.column(index);
        let options = FormatOptions::default();
        let text = ArrayFormatter::try_new(column, &options).expect("keys can be shown");
        KeyValue {
            column: name.to_owned(),
            sql_type: sql_type(column.data_type()).to_string(),
            value: (!column.is_null(row)).then(|| text.value(row).to_string()),
        }
    };
    let keys = view.keys().iter();
    keys.map(|key| value(key.output_index, &key.name)).collect()
}

/// The lookup of `key` in SQL.
pub fn sql(name: &str, key: &[KeyValue]) -> String {
    let holds: Vec<String> = key.iter().map(KeyValue::sql).collect();
    format!("SELECT * FROM {name} WHERE {}", holds.join(" AND "))
}

/// Rows as text.
pub fn shown(rows: &[RecordBatch]) -> String {
    let table = arrow::util::pretty::pretty_format_batches(rows);
    table.expect("rows can be shown").to_string()
}
