// SPDX-License-Identifier: Apache-2.0
//! A base generation, with some groups merged, added, replaced or removed: only the files that hold such
//! groups are rewritten.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::error::DataFusionError;
use dovetail_model::{DataFile, Position, Span};
use dovetail_seam::{FileColumns, Generation};
use dovetail_view::Run;
use futures::StreamExt as _;
use std::sync::Arc;

use super::key_set::KeySet;
use super::states::SortedStates;
use super::writer::GenerationWriter;
use super::{Computed, Job};
use crate::BatchError;

/// Merges `states` into the files of `base`, from which the groups in `drop` are taken first.
///
/// States between two files go to the later one; states behind the last file go to the last one.
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
        let incoming = states
            .take_through((!is_last).then_some(last.as_slice()))
            .await?;
        if incoming.is_empty() && !drop.meets(&first, &last) {
            writer.keep(file.clone()).await?;
            continue;
        }
        let kept = read_states(job, base, file, drop).await?;
        for batch in merged(job, kept, incoming)? {
            writer.push(&batch).await?;
        }
    }
    if files.is_empty() {
        while let Some(batch) = states.next().await? {
            writer.push(&batch).await?;
        }
    }
    writer.finish().await
}

async fn read_states(
    job: &Job,
    base: &Generation,
    file: &DataFile,
    drop: &KeySet,
) -> Result<Vec<RecordBatch>, BatchError> {
    let plan = base.scan(std::slice::from_ref(file), &FileColumns::All, None, 1)?;
    let mut stream = plan.execute(0, Arc::clone(&job.task))?;
    let mut kept = vec![];
    while let Some(batch) = stream.next().await {
        let states = job.view.states_of_file(&batch?)?;
        let keys = job.view.encode_keys(&states)?;
        let keep: BooleanArray = keys
            .iter()
            .map(|key| Some(!drop.contains(key.as_ref())))
            .collect();
        kept.push(filter_record_batch(&states, &keep).map_err(DataFusionError::from)?);
    }
    Ok(kept)
}

/// Both sides sorted and unique in themselves; the result is, too.
fn merged(
    job: &Job,
    kept: Vec<RecordBatch>,
    incoming: Vec<RecordBatch>,
) -> Result<Vec<RecordBatch>, BatchError> {
    // Spans order the two sides; what they cover was checked when the states were read.
    let here = || Span::up_to(Position::zero());
    let kept = Arc::new(Run::from_sorted(&job.view, here(), kept));
    let incoming = Arc::new(Run::from_sorted(&job.view, here(), incoming));
    Ok(job.view.merge(&[kept, incoming])?.states().to_vec())
}

fn unhex(text: &str) -> Result<Vec<u8>, BatchError> {
    dovetail_model::unhex(text)
        .ok_or_else(|| BatchError::Refused(format!("`{text}` in a manifest is not a key")))
}
