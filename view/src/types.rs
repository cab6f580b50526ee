// SPDX-License-Identifier: Apache-2.0
//! Arrow types under the names that SQL gives them.

use arrow::datatypes::DataType;
use dovetail_model::{Column, ColumnType};

/// The SQL name of an Arrow type. Types that `CREATE STREAM` knows read as it writes them; others, which
/// only a query can produce, read as SQL elsewhere does (`SMALLINT`, `TIMESTAMP WITH TIME ZONE`), and the
/// unsigned ones as `BIGINT UNSIGNED`.
pub fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INT UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float16 | DataType::Float32 => "REAL".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTEA".to_owned(),
        DataType::FixedSizeBinary(_) => "BYTEA".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".to_owned(),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Null => "NULL".to_owned(),
        DataType::Dictionary(_, values) => sql_type(values),
        DataType::RunEndEncoded(_, values) => sql_type(values.data_type()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => format!(
                "MAP<{}, {}>",
                sql_type(fields[0].data_type()),
                sql_type(fields[1].data_type())
            ),
            _ => "MAP".to_owned(),
        },
        DataType::Union(_, _) => "UNION".to_owned(),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|f| format!("{} {}", quoted(f.name()), sql_type(f.data_type())))
                .collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("LIST<{}>", sql_type(item.data_type())),
        DataType::Boolean => ColumnType::Boolean.to_string(),
        DataType::Int32 => ColumnType::Int.to_string(),
        DataType::Int64 => ColumnType::BigInt.to_string(),
        DataType::Float64 => ColumnType::Double.to_string(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => {
            ColumnType::Decimal(*precision, *scale).to_string()
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            ColumnType::Varchar.to_string()
        }
        DataType::Date32 | DataType::Date64 => ColumnType::Date.to_string(),
        DataType::Timestamp(_, None) => ColumnType::Timestamp.to_string(),
    }
}

/// A column's name as a declaration writes it: quoted when it must be.
fn quoted(name: &str) -> String {
    let column = Column {
        name: name.to_owned(),
        column_type: ColumnType::Int,
        nullable: true,
    };
    let mut text = column.to_string();
    text.truncate(text.len() - " INT".len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_read_as_they_were_declared() {
        let nested = ColumnType::List(Box::new(ColumnType::Struct(vec![Column {
            name: "a b".to_owned(),
            column_type: ColumnType::Decimal(10, 2),
            nullable: true,
        }])));
        for declared in [
            ColumnType::Boolean,
            ColumnType::Int,
            ColumnType::BigInt,
            ColumnType::Double,
            ColumnType::Varchar,
            ColumnType::Date,
            ColumnType::Timestamp,
            nested,
        ] {
            assert_eq!(sql_type(&declared.to_arrow()), declared.to_string());
        }
    }
}
