// SPDX-License-Identifier: Apache-2.0
//! A base generation, with some groups merged, added, replaced or removed: only the files that hold such
//! groups are rewritten.

use std::sync::Arc;

use arrow::array::RecordBatch;
use dovetail_model::{Position, Span};
use dovetail_seam::Generation;
use dovetail_view::Run;

use super::key_set::KeySet;
use super::states::SortedStates;
use super::writer::GenerationWriter;
use super::{Computed, Job};
use crate::BatchError;

/// Groups that are merged at a time, or a few batches more: enough that a merge is worth its start, and little memory.
const MERGE_ROWS: usize = 8 * 1024;

/// Merges `states` into the files of `base`, from which the groups in `drop` are taken first.
///
/// States between two files go to the later one; states behind the last file go to the last one. However many there
/// are, they are merged as they come: what is held is a batch of each side and what the writer holds.
pub(crate) async fn rewrite(
    job: &Job,
    base: &Generation,
    mut states: SortedStates,
    drop: &KeySet,
) -> Result<Computed, BatchError> {
    let mut writer = GenerationWriter::new(job);
    let files = &base.manifest().files;
    for (index, file) in files.iter().enumerate() {
        let first = unhex(&file.first_key)?;
        let last = unhex(&file.last_key)?;
        let is_last = index + 1 == files.len();
        let through = (!is_last).then_some(last.as_slice());
        if !states.meets(through).await? && !drop.meets(&first, &last) {
            writer.keep(file.clone()).await?;
            continue;
        }
        let kept = SortedStates::of_file(base, file, &job.task)?.dropping(drop);
        merge(job, kept, &mut states, through, &mut writer).await?;
    }
    if files.is_empty() {
        while let Some(batch) = states.next().await? {
            writer.push(&batch).await?;
        }
    }
    writer.finish().await
}

/// Merges all of `kept`, and what `incoming` holds up to `through`, into the writer.
async fn merge(
    job: &Job,
    mut kept: SortedStates,
    incoming: &mut SortedStates,
    through: Option<&[u8]>,
    writer: &mut GenerationWriter<'_>,
) -> Result<(), BatchError> {
    let mut both = Both::default();
    loop {
        // Up to the smaller of the two, both sides are known whole.
        let known = match (
            kept.last_through(None).await?,
            incoming.last_through(through).await?,
        ) {
            (None, None) => break,
            (Some(one), None) | (None, Some(one)) => one,
            (Some(one), Some(other)) => one.min(other),
        };
        both.kept.extend(kept.take_through(&known));
        both.incoming.extend(incoming.take_through(&known));
        if both.rows() >= MERGE_ROWS {
            both.push(job, writer).await?;
        }
    }
    both.push(job, writer).await
}

/// States of the same range of keys from both sides, each sorted and unique in itself.
#[derive(Default)]
struct Both {
    kept: Vec<RecordBatch>,
    incoming: Vec<RecordBatch>,
}

impl Both {
    fn rows(&self) -> usize {
        let batches = self.kept.iter().chain(&self.incoming);
        batches.map(RecordBatch::num_rows).sum()
    }

    /// Hands them on merged, and is empty again.
    async fn push(
        &mut self,
        job: &Job,
        writer: &mut GenerationWriter<'_>,
    ) -> Result<(), BatchError> {
        let (kept, incoming) = (
            std::mem::take(&mut self.kept),
            std::mem::take(&mut self.incoming),
        );
        if kept.is_empty() || incoming.is_empty() {
            for batch in kept.iter().chain(&incoming) {
                writer.push(batch).await?;
            }
            return Ok(());
        }
        // Spans order the two sides; what they cover was checked when the states were read.
        let here = || Span::up_to(Position::zero());
        let side = |states| Arc::new(Run::from_sorted(&job.view, here(), states));
        let merged = job.view.merge(&[side(kept), side(incoming)])?;
        for batch in merged.states() {
            writer.push(batch).await?;
        }
        Ok(())
    }
}

fn unhex(text: &str) -> Result<Vec<u8>, BatchError> {
    dovetail_model::unhex(text)
        .ok_or_else(|| BatchError::Refused(format!("`{text}` in a manifest is not a key")))
}
