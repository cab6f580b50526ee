// SPDX-License-Identifier: Apache-2.0
//! Where a page of rows ended, as an opaque text.

use arrow::array::{Array, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use dovetail_model::Problem;
use dovetail_view::calendar;
use serde::{Deserialize, Serialize};

use crate::ports::Page;
use crate::problem::unwritable;

/// The last row of a page: the values it is sorted by. Travels as hex of JSON, so that it needs no escape in a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    #[serde(rename = "f")]
    fingerprint: String,
    #[serde(rename = "v")]
    values: Vec<Option<String>>,
}

impl Cursor {
    /// The cursor behind `row` of `batch`.
    pub(crate) fn behind(page: &Page, batch: &RecordBatch, row: usize) -> Result<Self, Problem> {
        let options = FormatOptions::default();
        let text = |column: &usize| {
            let array = batch.column(*column);
            if array.is_null(row) {
                return Ok(None);
            }
            calendar::check(batch.schema_ref().field(*column), &array.slice(row, 1))
                .map_err(unwritable)?;
            let formatter = ArrayFormatter::try_new(array, &options).map_err(Problem::internal)?;
            let text = formatter.value(row).try_to_string();
            text.map(Some).map_err(Problem::internal)
        };
        Ok(Self {
            fingerprint: page.fingerprint.clone(),
            values: page
                .order
                .iter()
                .map(text)
                .collect::<Result<_, Problem>>()?,
        })
    }

    /// Reads a cursor back.
    ///
    /// # Errors
    /// `Invalid` when it is not a cursor, or one of another request.
    pub(super) fn parse(text: &str, fingerprint: &str, columns: usize) -> Result<Self, Problem> {
        let cursor = unhex(text)
            .and_then(|json| serde_json::from_slice::<Self>(&json).ok())
            .ok_or_else(|| {
                Problem::invalid(
                    "`cursor` is not one that a page gave: leave it out to start again",
                )
            })?;
        if cursor.fingerprint != fingerprint || cursor.values.len() != columns {
            let detail = "`cursor` belongs to another view, filter or order: keep them as they were, or leave it out to start again";
            return Err(Problem::invalid(detail));
        }
        Ok(cursor)
    }

    pub(super) fn values(&self) -> &[Option<String>] {
        &self.values
    }

    /// The text that clients hand back.
    pub(crate) fn encode(&self) -> String {
        use std::fmt::Write as _;

        let json = serde_json::to_vec(self).unwrap_or_default();
        json.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}
