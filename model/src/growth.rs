// SPDX-License-Identifier: Apache-2.0
//! How a stream's schema may change under its events.
//!
//! Purpose: one rule for the catalog, `ALTER STREAM` and `plan`. Invariants: events of the old schema are events
//! of the new one, with NULL where they have no value; no position, no event time and no value that was read
//! before changes. Non-goals: what views make of the change (the node asks the view compiler).

use crate::{Column, StreamSchema};

/// What one schema has more than another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaGrowth {
    /// Nullable columns at the end.
    pub added: Vec<Column>,
    /// Columns that were NOT NULL and may be NULL now.
    pub relaxed: Vec<String>,
}

impl SchemaGrowth {
    /// Whether the two are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.relaxed.is_empty()
    }
}

impl StreamSchema {
    /// What `next` has more than `self`, if a stream with events can become that.
    ///
    /// # Errors
    /// A clause that names the first difference that events stand against, such as "column `x` is INT and would
    /// be BIGINT".
    pub fn growth_to(&self, next: &StreamSchema) -> Result<SchemaGrowth, String> {
        next.check()?;
        let mut growth = SchemaGrowth::default();
        for (index, old) in self.columns.iter().enumerate() {
            let Some(new) = next.columns.get(index) else {
                return Err(format!("column `{}` would be gone", old.name));
            };
            self.check_column(old, new)?;
            if new.nullable && !old.nullable {
                growth.relaxed.push(new.name.clone());
            }
        }
        for new in &next.columns[self.columns.len()..] {
            if !new.nullable {
                return Err(format!(
                    "column `{}` would be new and NOT NULL, but the events before it have no value for it",
                    new.name
                ));
            }
            growth.added.push(new.clone());
        }
        if self.event_time != next.event_time {
            return Err("its event time would change".to_owned());
        }
        if self.unknown_columns != next.unknown_columns {
            return Err("its `unknown_columns` would change".to_owned());
        }
        Ok(growth)
    }

    fn check_column(&self, old: &Column, new: &Column) -> Result<(), String> {
        let name = &old.name;
        if new.name != *name {
            return Err(format!(
                "column `{}` would stand where `{name}` does: new columns go to the end",
                new.name
            ));
        }
        if new.column_type != old.column_type {
            return Err(format!(
                "column `{name}` is {} and would be {}",
                old.column_type, new.column_type
            ));
        }
        if old.nullable && !new.nullable {
            return Err(format!(
                "column `{name}` may be NULL and would be NOT NULL, which events before may not be"
            ));
        }
        let is_time = self.event_time.as_ref().is_some_and(|t| t.column == *name);
        if is_time && new.nullable != old.nullable {
            return Err(format!(
                "column `{name}` is the event time and would lose its NOT NULL"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnType, EventTime, UnknownColumns};

    fn column(name: &str, column_type: ColumnType, nullable: bool) -> Column {
        Column {
            name: name.to_owned(),
            column_type,
            nullable,
        }
    }

    fn old() -> StreamSchema {
        StreamSchema {
            columns: vec![
                column("at", ColumnType::Timestamp, false),
                column("a", ColumnType::Int, false),
                column("b", ColumnType::Int, true),
            ],
            event_time: Some(EventTime {
                column: "at".to_owned(),
                epoch: None,
            }),
            unknown_columns: UnknownColumns::Ignore,
        }
    }

    fn changed(change: impl FnOnce(&mut StreamSchema)) -> Result<SchemaGrowth, String> {
        let mut next = old();
        change(&mut next);
        old().growth_to(&next)
    }

    #[test]
    fn what_may_change_is_told_apart() {
        assert_eq!(changed(|_| {}), Ok(SchemaGrowth::default()));
        let note = column("note", ColumnType::Varchar, true);
        let growth = changed(|s| {
            s.columns[1].nullable = true;
            s.columns.push(note.clone());
        });
        let expected = SchemaGrowth {
            added: vec![note],
            relaxed: vec!["a".to_owned()],
        };
        assert_eq!(growth, Ok(expected));
    }

    #[test]
    fn what_may_not_change_is_named() {
        type Change = fn(&mut StreamSchema);
        let cases: [(Change, &str); 11] = [
            (|s| s.columns.truncate(2), "column `b` would be gone"),
            (
                |s| {
                    let new = column("c", ColumnType::Int, true);
                    s.columns.insert(1, new);
                },
                "column `c` would stand where `a` does",
            ),
            (
                |s| s.columns[2].column_type = ColumnType::BigInt,
                "column `b` is INT and would be BIGINT",
            ),
            (
                |s| s.columns[2].nullable = false,
                "column `b` may be NULL and would be NOT NULL",
            ),
            (
                |s| s.columns[0].nullable = true,
                "column `at` is the event time",
            ),
            (
                |s| s.columns.push(column("c", ColumnType::Int, false)),
                "column `c` would be new and NOT NULL",
            ),
            (
                |s| s.columns.push(column("A", ColumnType::Int, true)),
                "column `A` is declared twice",
            ),
            (
                |s| s.columns.push(column("_offset", ColumnType::Int, true)),
                "kept for system columns",
            ),
            (|s| s.event_time = None, "event time would change"),
            (
                |s| s.unknown_columns = UnknownColumns::Reject,
                "`unknown_columns` would change",
            ),
            (|s| s.columns.swap(1, 2), "column `b` would stand where `a`"),
        ];
        for (change, part) in cases {
            let reason = changed(change).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        }
    }
}
