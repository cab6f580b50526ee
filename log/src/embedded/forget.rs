// SPDX-License-Identifier: Apache-2.0
//! Forgetting what is archived.
//!
//! ```text
//! keys file (names the first retained segment) -> durable -> segments below it are deleted
//! ```
//! The `keys` file is the decision: an open deletes what a crash left below it, and misses what is gone
//! at or behind it.

use std::sync::Arc;

use dovetail_model::Offset;

use super::error::LogError;
use super::keys::KeysFile;
use super::log::Shared;
use super::recovery::KEYS_FILE;
use super::segment::{Segment, publish};

impl Shared {
    /// See [`super::EmbeddedLog::forget`].
    pub(super) fn forget(&self, archived: Offset) -> Result<Offset, LogError> {
        let _one = self.forgetting.lock();
        let durable = self.durable();
        if archived > durable {
            return Err(LogError::ForgetBeyond { archived, durable });
        }
        let (doomed, retained) = self.divide(archived);
        if doomed.is_empty() {
            return Ok(retained.header.first);
        }
        // All live keys up to there: those of earlier files too, which this one replaces. Whatever was
        // committed without taking an offset at the edge is in either place or in both, which is harmless.
        let keys = self.keys.lock().up_to(retained.header.first);
        let file = KeysFile {
            first_segment: retained.sequence,
            keys,
        };
        publish(self.disk.as_ref(), KEYS_FILE, &file.encode())
            .map_err(LogError::io("write", KEYS_FILE))?;
        self.segments.lock().drain(..doomed.len());
        for segment in &doomed {
            self.disk
                .remove(&segment.name)
                .map_err(LogError::io("remove", &segment.name))?;
        }
        self.disk.sync_dir().map_err(LogError::io("sync", "."))?;
        Ok(retained.header.first)
    }

    /// The segments wholly below `archived`, and the first one behind them.
    fn divide(&self, archived: Offset) -> (Vec<Arc<Segment>>, Arc<Segment>) {
        let segments = self.segments.lock();
        let successors = segments.iter().skip(1);
        let count = successors
            .take_while(|segment| segment.header.first <= archived)
            .count();
        let doomed = segments.iter().take(count).cloned().collect();
        (doomed, Arc::clone(&segments[count]))
    }
}
