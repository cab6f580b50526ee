// SPDX-License-Identifier: Apache-2.0
//! Which event an error is about.

use std::fmt;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use dovetail_model::{OFFSET, PARTITION};
use serde::{Deserialize, Serialize};

/// Where an event stands in its stream, as `_partition` and `_offset` say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPlace {
    /// `_partition`.
    pub partition: i32,
    /// `_offset`.
    pub offset: i64,
}

impl EventPlace {
    /// That of the event in a row of `events`; none where they do not say it.
    pub(crate) fn of(events: &RecordBatch, row: usize) -> Option<Self> {
        let partitions = events.column_by_name(PARTITION)?;
        let offsets = events.column_by_name(OFFSET)?;
        Some(Self {
            partition: partitions.as_primitive_opt::<Int32Type>()?.value(row),
            offset: offsets.as_primitive_opt::<Int64Type>()?.value(row),
        })
    }
}

impl fmt::Display for EventPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, offset } = self;
        write!(f, "the event at partition {partition}, offset {offset}")
    }
}
