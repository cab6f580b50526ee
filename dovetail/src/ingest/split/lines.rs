// SPDX-License-Identifier: Apache-2.0
//! A record per line: NDJSON.

use super::{Cut, Scanner};

/// Needs no state: a JSON text holds no line end within a string.
pub(super) struct LineScanner;

impl Scanner for LineScanner {
    fn preamble(&mut self, _bytes: &[u8]) -> Result<Option<Cut>, &'static str> {
        Ok(Some(Cut { end: 0, resume: 0 }))
    }

    fn next_cut(&mut self, bytes: &[u8]) -> Option<Cut> {
        let end = bytes.iter().position(|byte| *byte == b'\n')? + 1;
        Some(Cut { end, resume: end })
    }

    fn rest_is_record(&self) -> Result<bool, &'static str> {
        Ok(true)
    }
}
