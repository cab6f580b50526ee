// SPDX-License-Identifier: Apache-2.0
//! The streams that bytes are decoded for: one column of each type.

use dovetail_model::{Column, ColumnType, EpochUnit, EventTime, StreamSchema, UnknownColumns};

/// A stream with a column of each type. Only its event time must be there.
pub(crate) fn every_type(unknown_columns: UnknownColumns) -> StreamSchema {
    let column = |name: &str, column_type: ColumnType| Column {
        name: name.to_owned(),
        column_type,
        nullable: name != "at",
    };
    let fields = vec![
        column("os", ColumnType::Varchar),
        column("n", ColumnType::List(Box::new(ColumnType::Int))),
    ];
    StreamSchema {
        columns: vec![
            column("at", ColumnType::Timestamp),
            column("b", ColumnType::Boolean),
            column("i", ColumnType::Int),
            column("l", ColumnType::BigInt),
            column("d", ColumnType::Double),
            column("m", ColumnType::Decimal(10, 2)),
            column("t", ColumnType::Varchar),
            column("day", ColumnType::Date),
            column("s", ColumnType::Struct(fields)),
            column("a", ColumnType::List(Box::new(ColumnType::Varchar))),
        ],
        event_time: Some(EventTime {
            column: "at".to_owned(),
            epoch: Some(EpochUnit::Millisecond),
        }),
        unknown_columns,
    }
}
