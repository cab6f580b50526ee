// SPDX-License-Identifier: Apache-2.0
//! Merging small segments, without changing content or order.
//!
//! Purpose: archiving every few seconds makes many small files; readers want few large ones. A merged segment
//! covers the joined span of its parts and holds the same events in the same order; the commit says that no data
//! has changed. Invariants: only neighbours in the chain merge; the parts stay on the store for those who
//! still read them, until [`RawLog::vacuum`]. The rewriting holds up nobody: only the commit takes the
//! writer's lock.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use datafusion::physical_plan::execute_stream;
use deltalake_core::kernel::Action;
use dovetail_model::{Offset, Span, StreamSchema};
use futures::{StreamExt, stream};

use super::delta::DeltaCommit;
use super::log::{segment_of, writer_options};
use super::nonce::nonce;
use super::scan::ranges;
use super::{MAX_TRIES, RawError, RawLog, RawScan, RawSnapshot, Segment};
use crate::parquet_files::{WrittenFile, write_parquet};

/// When segments are merged.
#[derive(Debug, Clone, Copy)]
pub struct Compaction {
    /// No merged file grows beyond this. Default 256 MiB.
    pub target_bytes: u64,
    /// Merge at least this many neighbours at once: fewer make more passes over the same events. Default 8.
    pub min_files: usize,
}

impl Default for Compaction {
    fn default() -> Self {
        Self {
            target_bytes: 256 * 1024 * 1024,
            min_files: 8,
        }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Files that were merged, of events and of dead letters.
    pub files: usize,
    /// Files that hold their rows now.
    pub into: usize,
}

impl RawLog {
    /// Merges runs of small neighbouring segments, and the files of the dead letters.
    ///
    /// # Errors
    /// The store's; what was merged before the error stays merged, and nothing is lost.
    pub async fn compact(&self, compaction: Compaction) -> Result<Compacted, RawError> {
        let _one_at_a_time = self.upkeep.lock().await;
        let mut done = Compacted::default();
        let base = self.snapshot();
        for run in choose(&base.segments, compaction) {
            let parts = &base.segments[run];
            let (merged, file) = self.merge(&base, parts).await?;
            self.replace(parts, merged, &file, &base.schema).await?;
            done.files += parts.len();
            done.into += 1;
        }
        let letters = self.dead.lock().await.compact(compaction.min_files).await?;
        if letters > 0 {
            done.files += letters;
            done.into += 1;
        }
        Ok(done)
    }

    async fn merge(
        &self,
        base: &RawSnapshot,
        parts: &[Arc<Segment>],
    ) -> Result<(Segment, WrittenFile), RawError> {
        let failed = RawError::data(&base.root);
        let span = joined(parts);
        // One stream partition after the other, which is the order inside a segment.
        let mut streams = Vec::new();
        for (partition, range) in ranges(&span) {
            let to = span.from().clone().with(partition, Offset(range.end));
            let only = Span::new(span.from().clone(), to).expect("one partition moved forward");
            let plan = base.scan(RawScan::of(only))?;
            let events = execute_stream(plan, Arc::clone(&self.access.context));
            streams.push(events.map_err(&failed)?);
        }
        let events = stream::iter(streams).flatten();
        let store = Arc::clone(&self.access.store);
        let path = self.events.data_path(&format!("{}.parquet", nonce()));
        let schema = Arc::clone(&base.events);
        let file = write_parquet(store, path, schema, &writer_options(), events)
            .await
            .map_err(&failed)?;
        let expected: u64 = parts.iter().map(|part| part.rows).sum();
        if file.rows != expected {
            return Err(RawError::Hole {
                table: base.root.clone(),
                reason: format!(
                    "the segments of `{span}` hold {} rows, not {expected}",
                    file.rows
                ),
            });
        }
        Ok((segment_of(&file, span, &base.schema), file))
    }

    async fn replace(
        &self,
        parts: &[Arc<Segment>],
        merged: Segment,
        file: &WrittenFile,
        written_as: &StreamSchema,
    ) -> Result<(), RawError> {
        let mut writer = self.writer.lock().await;
        let merged = Arc::new(merged);
        let nonce = nonce();
        for _ in 0..MAX_TRIES {
            let base = self.fresh(&mut writer).await?;
            let start = base
                .segments
                .iter()
                .position(|segment| *segment == parts[0]);
            let held = start.map(|start| start..start + parts.len());
            let held = held.filter(|held| base.segments.get(held.clone()) == Some(parts));
            let Some(held) = held else {
                // Another process has merged them; our file is an orphan.
                return Ok(());
            };
            let now_ms = self.access.clock.now().timestamp_millis();
            let removes = parts
                .iter()
                .map(|part| Action::Remove(part.to_remove(now_ms)));
            let add = merged.to_add(file, &written_as.events(), false, now_ms);
            let commit = DeltaCommit {
                operation: "OPTIMIZE",
                actions: removes.chain([Action::Add(add)]).collect(),
                transactions: Vec::new(),
                info: HashMap::new(),
                nonce: nonce.clone(),
            };
            let mut segments = base.segments.clone();
            segments.splice(held, [Arc::clone(&merged)]);
            let schema = base.schema.clone();
            if self
                .commit(&mut writer, &base, commit, schema, segments)
                .await?
                .is_some()
            {
                return Ok(());
            }
        }
        Err(self.contended())
    }
}

fn joined(parts: &[Arc<Segment>]) -> Span {
    let (first, last) = (&parts[0].span, &parts[parts.len() - 1].span);
    Span::new(first.from().clone(), last.to().clone()).expect("neighbours in the chain")
}

/// Runs of neighbours worth merging: many, and none larger than all the others of its run together. So whenever
/// an event is rewritten its file at least doubles, and it is rewritten a logarithmic number of times.
fn choose(segments: &[Arc<Segment>], compaction: Compaction) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < segments.len() {
        let run = start..balanced_end(segments, start, compaction.target_bytes);
        if run.len() >= compaction.min_files.max(2) {
            start = run.end;
            runs.push(run);
        } else {
            start += 1;
        }
    }
    runs
}

/// Where the longest balanced run from `start` on ends; at `start` when there is none.
fn balanced_end(segments: &[Arc<Segment>], start: usize, target_bytes: u64) -> usize {
    let mut end = start;
    let mut total = 0;
    while end < segments.len() && total + segments[end].bytes <= target_bytes {
        total += segments[end].bytes;
        end += 1;
    }
    // Leave out the largest and all behind it until the others outweigh what is the largest then.
    while let Some(largest) = (start..end).max_by_key(|index| segments[*index].bytes) {
        if segments[largest].bytes.saturating_mul(2) <= total {
            return end;
        }
        total = segments[start..largest].iter().map(|s| s.bytes).sum();
        end = largest;
    }
    start
}

#[cfg(test)]
mod tests {
    use dovetail_model::{Offset, Position};
    use object_store::path::Path;

    use super::*;

    fn chosen(sizes: &[u64], target_bytes: u64) -> Vec<(usize, usize)> {
        let segments = sizes.iter().enumerate().map(|(index, bytes)| {
            let at = |o: usize| Position::single(Offset(o as u64));
            Arc::new(Segment {
                path: Path::from(format!("{index}.parquet")),
                rows: 1,
                bytes: *bytes,
                decoded_bytes: None,
                span: Span::new(at(index), at(index + 1)).unwrap(),
                event_time: None,
                arrived: None,
            })
        });
        let compaction = Compaction {
            target_bytes,
            min_files: 3,
        };
        let runs = choose(&segments.collect::<Vec<_>>(), compaction);
        runs.into_iter().map(|run| (run.start, run.end)).collect()
    }

    #[test]
    fn small_neighbours_merge_up_to_the_target() {
        assert_eq!(chosen(&[1, 1, 1, 1], 100), [(0, 4)]);
        assert_eq!(chosen(&[1, 1, 1, 1, 1, 1], 3), [(0, 3), (3, 6)]);
        assert!(chosen(&[1, 1], 100).is_empty());
        assert!(chosen(&[], 100).is_empty());
    }

    #[test]
    fn a_large_file_waits_until_its_neighbours_outweigh_it() {
        assert_eq!(chosen(&[50, 1, 1, 1], 100), [(1, 4)]);
        assert_eq!(chosen(&[3, 1, 1, 1], 100), [(0, 4)]);
        assert_eq!(chosen(&[200, 1, 1, 1, 200], 100), [(1, 4)]);
        assert_eq!(chosen(&[1, 1, 1, 50, 1], 100), [(0, 3)]);
    }
}
