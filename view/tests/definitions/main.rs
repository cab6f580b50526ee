// SPDX-License-Identifier: Apache-2.0
//! Definitions of views: which are refused and what the refusal says, and what the others become.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod finishing;
mod meaning;
mod refusals;

use std::collections::BTreeMap;

use dovetail_model::{Column, ColumnType, EventTime, StreamSchema, UnknownColumns};

/// A stream of flights, with a nested column.
fn stream() -> StreamSchema {
    let column = |name: &str, column_type| Column {
        name: name.to_owned(),
        column_type,
        nullable: true,
    };
    let point = ColumnType::Struct(vec![column("lat", ColumnType::Double)]);
    StreamSchema {
        columns: vec![
            column("date", ColumnType::Timestamp),
            column("delay", ColumnType::Int),
            column("distance", ColumnType::Int),
            column("origin", ColumnType::Varchar),
            column("place", point),
        ],
        event_time: Some(EventTime {
            column: "date".to_owned(),
            epoch: None,
        }),
        unknown_columns: UnknownColumns::Ignore,
    }
}

/// Two streams alike.
fn streams() -> BTreeMap<String, StreamSchema> {
    BTreeMap::from([
        ("flights".to_owned(), stream()),
        ("airports".to_owned(), stream()),
    ])
}
