// SPDX-License-Identifier: Apache-2.0
//! What an event of a stream looks like, in SQL's words and in Arrow's.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// System column: the event's partition, an `INT`.
pub const PARTITION: &str = "_partition";
/// System column: the event's offset, a `BIGINT`.
pub const OFFSET: &str = "_offset";
/// System column: when the event was committed, microseconds UTC.
pub const ARRIVED_AT: &str = "_arrived_at";
/// Computed column of a stream read as a table: whether an exclusion in force matches the event.
pub const EXCLUDED: &str = "_excluded";
/// All of them; none is in `SELECT *`, none may be declared.
pub const SYSTEM_COLUMNS: [&str; 4] = [PARTITION, OFFSET, ARRIVED_AT, EXCLUDED];
/// Longest name of a stream, view or column.
pub const MAX_NAME_BYTES: usize = 63;

/// A name that cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` cannot be a name: {reason}")]
pub struct NameError {
    name: String,
    reason: &'static str,
}

/// Checks the name of a stream or view: `[a-z_][a-z0-9_]*`, at most [`MAX_NAME_BYTES`]. Such a name needs
/// no quotes in SQL and no escape in a URL, and can never be a path.
///
/// # Errors
/// With the offending name and what a name may be.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let first_ok = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest_ok = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if first_ok && rest_ok && name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    let reason = "use 1 to 63 characters from a-z, 0-9 and _, not starting with a digit";
    Err(NameError {
        name: name.chars().take(100).collect(),
        reason,
    })
}

/// The type of a column, as SQL names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// `BOOLEAN`
    Boolean,
    /// `INT`: 32 bits
    Int,
    /// `BIGINT`: 64 bits
    BigInt,
    /// `DOUBLE`: 64-bit float
    Double,
    /// `DECIMAL(precision, scale)`, precision 1 to 38
    Decimal(u8, i8),
    /// `VARCHAR`: UTF-8
    Varchar,
    /// `DATE`
    Date,
    /// `TIMESTAMP`: microseconds, UTC, without zone
    Timestamp,
    /// `STRUCT<name type, …>`
    Struct(Vec<Column>),
    /// `LIST<type>`; its items may be null
    List(Box<ColumnType>),
}

impl ColumnType {
    /// The Arrow type of the column in memory.
    pub fn to_arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale),
            Self::Varchar => DataType::Utf8,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Struct(fields) => {
                DataType::Struct(fields.iter().map(Column::to_arrow).collect::<Fields>())
            }
            Self::List(item) => {
                DataType::List(Arc::new(Field::new("element", item.to_arrow(), true)))
            }
        }
    }
}

/// As SQL writes it, and as `CREATE STREAM` reads it back.
impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("BOOLEAN"),
            Self::Int => f.write_str("INT"),
            Self::BigInt => f.write_str("BIGINT"),
            Self::Double => f.write_str("DOUBLE"),
            Self::Decimal(precision, scale) => write!(f, "DECIMAL({precision}, {scale})"),
            Self::Varchar => f.write_str("VARCHAR"),
            Self::Date => f.write_str("DATE"),
            Self::Timestamp => f.write_str("TIMESTAMP"),
            Self::Struct(fields) => {
                f.write_str("STRUCT<")?;
                for (index, field) in fields.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{field}")?;
                }
                f.write_str(">")
            }
            Self::List(item) => write!(f, "LIST<{item}>"),
        }
    }
}

/// One declared column.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// Its name: unique, not a system column, not empty.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Whether a value may be missing; `NOT NULL` says no.
    pub nullable: bool,
}

impl Column {
    /// The Arrow field of the column in memory.
    pub fn to_arrow(&self) -> Field {
        Field::new(&self.name, self.column_type.to_arrow(), self.nullable)
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = check_name(&self.name).is_ok();
        let name = if plain {
            self.name.clone()
        } else {
            format!("\"{}\"", self.name.replace('"', "\"\""))
        };
        write!(
            f,
            "{name} {}{}",
            self.column_type,
            if self.nullable { "" } else { " NOT NULL" }
        )
    }
}

/// The unit of an event time that arrives as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EpochUnit {
    /// Seconds since the Unix epoch.
    #[serde(rename = "s")]
    Second,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millisecond,
    /// Microseconds.
    #[serde(rename = "us")]
    Microsecond,
    /// Nanoseconds; digits behind the microsecond must be zero.
    #[serde(rename = "ns")]
    Nanosecond,
}

/// Which column says when an event happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EventTime {
    /// A `TIMESTAMP` or `DATE` column of the stream.
    pub column: String,
    /// Set when it arrives as a number of this unit; text is ISO 8601 in any case.
    pub epoch: Option<EpochUnit>,
}

/// What to do with a field of an event that the stream does not declare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownColumns {
    /// Leave it out.
    #[default]
    Ignore,
    /// The event cannot be decoded.
    Reject,
}

/// The declared shape of a stream's events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamSchema {
    /// The declared columns, in order; at least one.
    pub columns: Vec<Column>,
    /// Which of them is the event time, if any.
    pub event_time: Option<EventTime>,
    /// What to do with fields that are not declared.
    #[serde(default)]
    pub unknown_columns: UnknownColumns,
}

impl StreamSchema {
    /// The declared columns as an Arrow schema, without the system columns: what a client sends.
    pub fn declared(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.columns
                .iter()
                .map(Column::to_arrow)
                .collect::<Vec<_>>(),
        ))
    }

    /// The declared columns and behind them `_partition Int32`, `_offset Int64`, `_arrived_at
    /// Timestamp(us)`, none null: the schema of every batch of events in memory.
    pub fn events(&self) -> SchemaRef {
        let mut fields: Vec<Field> = self.columns.iter().map(Column::to_arrow).collect();
        fields.push(Field::new(PARTITION, DataType::Int32, false));
        fields.push(Field::new(OFFSET, DataType::Int64, false));
        fields.push(Field::new(
            ARRIVED_AT,
            DataType::Timestamp(TimeUnit::Microsecond, None),
            false,
        ));
        Arc::new(Schema::new(fields))
    }

    /// Checks that there are not more columns than a stream may get. Those that are declared already are not asked.
    ///
    /// # Errors
    /// A sentence with both numbers and the way out.
    pub fn check_width(&self) -> Result<(), String> {
        match width(&self.columns) {
            ..=MAX_COLUMNS => Ok(()),
            more => Err(format!(
                "a stream has at most {MAX_COLUMNS} columns, fields of STRUCTs among them, and these are {more}: leave out what nothing reads, or keep groups of values as LIST"
            )),
        }
    }

    /// Checks names, types and the event time.
    ///
    /// # Errors
    /// A sentence that names the column and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.columns.is_empty() {
            return Err("a stream needs at least one column".to_owned());
        }
        check_columns(&self.columns, "")?;
        let Some(event_time) = &self.event_time else {
            return Ok(());
        };
        let column = self
            .columns
            .iter()
            .find(|c| c.name == event_time.column)
            .ok_or_else(|| {
                format!(
                    "event_time names `{}`, which is not a column",
                    event_time.column
                )
            })?;
        if !matches!(column.column_type, ColumnType::Timestamp | ColumnType::Date) {
            return Err(format!(
                "event_time column `{}` is {}, it must be TIMESTAMP or DATE; for epoch numbers declare TIMESTAMP and event_time_unit",
                column.name, column.column_type
            ));
        }
        if event_time.epoch.is_some() && column.column_type != ColumnType::Timestamp {
            return Err(format!(
                "event_time_unit needs a TIMESTAMP, but `{}` is {}",
                column.name, column.column_type
            ));
        }
        Ok(())
    }
}

/// Most columns of a stream, each field of a STRUCT being one. Each costs with every batch and every query: the engine
/// takes seconds to plan an aggregation over some thousands.
pub const MAX_COLUMNS: usize = 1000;

fn width(columns: &[Column]) -> usize {
    fn inner(column_type: &ColumnType) -> usize {
        match column_type {
            ColumnType::Struct(fields) => width(fields),
            ColumnType::List(item) => inner(item),
            _ => 0,
        }
    }
    columns.iter().map(|c| 1 + inner(&c.column_type)).sum()
}

/// Deepest nesting of STRUCT and LIST.
const MAX_DEPTH: usize = 16;

fn check_columns(columns: &[Column], path: &str) -> Result<(), String> {
    let mut seen = std::collections::HashSet::new();
    for column in columns {
        let name = format!("{path}{}", column.name);
        if column.name.is_empty()
            || column.name.len() > MAX_NAME_BYTES
            || column.name.chars().any(char::is_control)
        {
            return Err(format!(
                "`{name}` cannot be a column name: use 1 to {MAX_NAME_BYTES} bytes without control characters"
            ));
        }
        if path.is_empty() && column.name.starts_with('_') {
            return Err(format!(
                "column `{name}` starts with `_`, which is kept for system columns"
            ));
        }
        if !seen.insert(column.name.to_lowercase()) {
            return Err(format!("column `{name}` is declared twice"));
        }
        check_type(&column.column_type, &name, 0)?;
    }
    Ok(())
}

fn check_type(column_type: &ColumnType, name: &str, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!(
            "column `{name}` is nested deeper than {MAX_DEPTH} levels"
        ));
    }
    match column_type {
        ColumnType::Decimal(precision, scale) => {
            let scale_ok = u8::try_from(*scale).is_ok_and(|scale| scale <= *precision);
            if !(1..=38).contains(precision) || !scale_ok {
                return Err(format!(
                    "column `{name}`: DECIMAL({precision}, {scale}) needs 1 <= precision <= 38 and 0 <= scale <= precision"
                ));
            }
            Ok(())
        }
        ColumnType::Struct(fields) if fields.is_empty() => {
            Err(format!("column `{name}`: a STRUCT needs a field"))
        }
        ColumnType::Struct(fields) => {
            check_columns(fields, &format!("{name}."))?;
            fields.iter().try_for_each(|f| {
                check_type(&f.column_type, &format!("{name}.{}", f.name), depth + 1)
            })
        }
        ColumnType::List(item) => check_type(item, name, depth + 1),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, column_type: ColumnType) -> Column {
        Column {
            name: name.to_owned(),
            column_type,
            nullable: true,
        }
    }

    fn schema(columns: Vec<Column>) -> StreamSchema {
        StreamSchema {
            columns,
            event_time: None,
            unknown_columns: UnknownColumns::Ignore,
        }
    }

    #[test]
    fn a_name_is_never_a_path_or_sql() {
        for bad in [
            "",
            "../x",
            "a b",
            "x;drop",
            "1a",
            "Aa",
            "ä",
            &"a".repeat(64),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("airport_delays2").is_ok());
    }

    #[test]
    fn schemas_that_cannot_be_are_named() {
        let cases = [
            (schema(vec![]), "at least one"),
            (schema(vec![column("_offset", ColumnType::Int)]), "system"),
            (
                schema(vec![
                    column("a", ColumnType::Int),
                    column("A", ColumnType::Int),
                ]),
                "twice",
            ),
            (
                schema(vec![column("d", ColumnType::Decimal(39, 0))]),
                "DECIMAL(39, 0)",
            ),
            (
                schema(vec![column("s", ColumnType::Struct(vec![]))]),
                "needs a field",
            ),
        ];
        for (schema, part) in cases {
            let error = schema.check().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_stream_is_only_so_wide() {
        let columns = |n: usize| (0..n).map(|i| column(&format!("c{i}"), ColumnType::Int));
        let columns = |n: usize| columns(n).collect::<Vec<_>>();
        assert_eq!(schema(columns(1000)).check_width(), Ok(()));
        let error = schema(columns(1001)).check_width().unwrap_err();
        assert!(
            error.contains("at most 1000") && error.contains("1001"),
            "{error}"
        );
        let nested = ColumnType::List(Box::new(ColumnType::Struct(columns(1000))));
        let error = schema(vec![column("s", nested)]).check_width().unwrap_err();
        assert!(error.contains("1001"), "{error}");
    }

    #[test]
    fn the_event_time_is_a_time() {
        let mut s = schema(vec![column("t", ColumnType::BigInt)]);
        s.event_time = Some(EventTime {
            column: "t".to_owned(),
            epoch: None,
        });
        assert!(s.check().unwrap_err().contains("must be TIMESTAMP"));
        s.columns[0].column_type = ColumnType::Timestamp;
        assert_eq!(s.check(), Ok(()));
    }

    #[test]
    fn nested_types_read_as_sql() {
        let t = ColumnType::List(Box::new(ColumnType::Struct(vec![column(
            "a",
            ColumnType::Decimal(10, 2),
        )])));
        assert_eq!(t.to_string(), "LIST<STRUCT<a DECIMAL(10, 2)>>");
    }
}
