// SPDX-License-Identifier: Apache-2.0
//! Committed batches on their way from the log to the accumulator, bounded in number and in bytes.
//!
//! Invariant: nothing is dropped; whoever commits waits instead. A batch larger than the bound waits for an empty queue
//! and passes alone.

use std::sync::Arc;
use std::time::Instant;

use dovetail_log::CommittedBatch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The end of a log.
#[derive(Debug, Clone)]
pub struct BatchSender {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    max_bytes: u32,
}

/// The end of an accumulator.
#[derive(Debug)]
pub struct BatchReceiver(mpsc::Receiver<Queued>);

/// A batch that takes its room until this is dropped.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) batch: Arc<CommittedBatch>,
    /// When it was durable.
    pub(crate) since: Instant,
    _room: OwnedSemaphorePermit,
}

/// A queue of at most `max_batches` and at most `max_bytes`, the batch that is being accumulated among the bytes.
pub fn batch_queue(max_batches: usize, max_bytes: u32) -> (BatchSender, BatchReceiver) {
    let (queue, receiver) = mpsc::channel(max_batches);
    let sender = BatchSender {
        queue,
        room: Arc::new(Semaphore::new(max_bytes as usize)),
        max_bytes,
    };
    (sender, BatchReceiver(receiver))
}

impl BatchSender {
    /// Waits for room and hands `batch` over. False when nobody takes it any more.
    pub async fn send(&self, batch: Arc<CommittedBatch>) -> bool {
        let since = Instant::now();
        let bytes = u32::try_from(batch.bytes()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes.min(self.max_bytes));
        let _room = room.await.expect("the semaphore is never closed");
        let queued = Queued {
            batch,
            since,
            _room,
        };
        self.queue.send(queued).await.is_ok()
    }

    /// The same from a thread of its own.
    pub fn blocking_send(&self, batch: Arc<CommittedBatch>) -> bool {
        futures::executor::block_on(self.send(batch))
    }
}

impl BatchReceiver {
    /// The next batch; None when there is none and every sender is gone.
    pub(crate) fn blocking_recv(&mut self) -> Option<Queued> {
        self.0.blocking_recv()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use dovetail_model::{Offset, Position, Span};
    use futures::FutureExt as _;

    use super::*;

    fn batch(rows: usize) -> Arc<CommittedBatch> {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![7; rows]));
        let end = Position::single(Offset(rows as u64));
        Arc::new(CommittedBatch {
            span: Span::up_to(end),
            arrived_at_us: 0,
            events: RecordBatch::try_from_iter([("n", column)]).unwrap(),
            dead_letters: vec![],
            replayed: vec![],
        })
    }

    #[test]
    fn batches_wait_for_room_in_bytes_and_in_number() {
        let (sender, mut receiver) = batch_queue(3, 1000);
        let sent = |rows| sender.send(batch(rows)).now_or_never();
        assert_eq!(batch(50).bytes(), 400);
        assert_eq!((sent(50), sent(50)), (Some(true), Some(true)));
        assert_eq!(sent(50), None, "1200 bytes are too many");
        let first = receiver.blocking_recv().unwrap();
        assert_eq!(sent(50), None, "it is still being accumulated");
        drop(first);
        assert_eq!(sent(50), Some(true));
        drop(receiver.blocking_recv());
        drop(receiver.blocking_recv());

        // A whole queue's worth and more passes alone.
        assert_eq!(sent(1), Some(true));
        assert_eq!(sent(5000), None);
        drop(receiver.blocking_recv());
        assert_eq!(sent(5000), Some(true));
        assert_eq!(sent(1), None);
        let large = receiver.blocking_recv().unwrap();
        assert_eq!(large.batch.events.num_rows(), 5000);
        drop(large);

        assert_eq!(
            (sent(1), sent(1), sent(1)),
            (Some(true), Some(true), Some(true))
        );
        assert_eq!(sent(1), None, "four are too many");
        drop(receiver);
        assert_eq!(sent(1), Some(false));
        assert!(!sender.blocking_send(batch(1)));
    }
}
