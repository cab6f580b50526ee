// SPDX-License-Identifier: Apache-2.0
//! The committed batches that are not archived yet.

use std::sync::Arc;

use dovetail_log::CommittedBatch;
use dovetail_model::Position;

/// Batches per chunk: a push copies at most one chunk of pointers and the list of chunks.
const CHUNK: usize = 64;

/// An ordered list of batches that is cheap to copy with one more at its end.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    chunks: Vec<Arc<Vec<Arc<CommittedBatch>>>>,
    rows: usize,
    bytes: usize,
}

impl Tail {
    /// The batches, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CommittedBatch>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many events they hold.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of their columns in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same list with `batch` at its end.
    pub(crate) fn push(&mut self, batch: Arc<CommittedBatch>) {
        self.rows += batch.events.num_rows();
        self.bytes += batch.bytes();
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => Arc::make_mut(last).push(batch),
            _ => self.chunks.push(Arc::new(vec![batch])),
        }
    }

    /// The list without the batches that `archived` covers. Batches are archived whole.
    pub(crate) fn behind(&self, archived: &Position) -> Self {
        let mut rest = Self::default();
        for batch in self
            .iter()
            .filter(|batch| !archived.covers(batch.span.to()))
        {
            rest.push(Arc::clone(batch));
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use arrow::datatypes::Schema;
    use dovetail_model::{Offset, PartitionId, Span};

    use super::*;

    fn batch(first: u64, next: u64) -> Arc<CommittedBatch> {
        let at = |offset| Position::single(Offset(offset));
        Arc::new(CommittedBatch {
            span: Span::new(at(first), at(next)).unwrap(),
            arrived_at_us: 0,
            events: RecordBatch::new_empty(Arc::new(Schema::empty())),
            dead_letters: vec![],
            replayed: vec![],
        })
    }

    fn first_of(batch: &Arc<CommittedBatch>) -> u64 {
        batch.span.from().get(PartitionId(0)).0
    }

    #[test]
    fn a_push_leaves_older_copies_as_they_were() {
        let mut tail = Tail::default();
        for offset in 0..200 {
            let before = tail.clone();
            tail.push(batch(offset, offset + 1));
            assert_eq!(before.iter().count() as u64, offset);
        }
        let firsts: Vec<u64> = tail.iter().map(first_of).collect();
        assert_eq!(firsts, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn archiving_takes_whole_batches_from_the_front() {
        let mut tail = Tail::default();
        for offset in 0..100 {
            tail.push(batch(offset * 10, offset * 10 + 10));
        }
        let rest = tail.behind(&Position::single(Offset(700)));
        assert_eq!(rest.iter().next().map(first_of), Some(700));
        assert_eq!(rest.iter().count(), 30);
        assert!(rest.behind(&Position::single(Offset(1000))).is_empty());
    }
}
