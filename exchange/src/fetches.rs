// SPDX-License-Identifier: Apache-2.0
//! What is being fetched from cuts.
//!
//! Purpose: a process that fetches and does not read costs little, and not for long. Its connection asks for no more than
//! it has taken, so a message waits for it, of [`PIECE_BYTES`] at most or one row, and the states and events that the rest
//! is made from. Invariants: so many fetches are under way at once, others wait; when a cut is let go of, so is what is
//! still fetched from it, though nobody asks for the rest: who does then sees that it is broken. Non-goals: how long a cut
//! is held, which the server decides.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use dovetail_model::Problem;
use dovetail_view::bytes_of;
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::states::Messages;
use crate::wire::status_of;

/// Fetches that are under way at once.
const FETCHES: usize = 256;
/// What is encoded at once.
const PIECE_BYTES: usize = 1 << 20;

/// The places of all fetches. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FETCHES)))
    }
}

impl Places {
    /// Waits for a place.
    pub(crate) async fn take(&self) -> OwnedSemaphorePermit {
        let place = Arc::clone(&self.0).acquire_owned().await;
        place.expect("the places are never closed")
    }
}

/// The fetches from one cut; they end with it.
#[derive(Default)]
pub(crate) struct Fetches(Mutex<Vec<Weak<Mutex<Option<UnderWay>>>>>);

struct UnderWay {
    messages: Messages,
    _place: OwnedSemaphorePermit,
}

/// The messages of one fetch.
pub(crate) struct Fetching {
    under_way: Arc<Mutex<Option<UnderWay>>>,
    is_broken: bool,
}

impl Fetches {
    /// `messages` for as long as the cut is held.
    pub(crate) fn begin(&self, messages: Messages, place: OwnedSemaphorePermit) -> Fetching {
        let under_way = UnderWay {
            messages,
            _place: place,
        };
        let under_way = Arc::new(Mutex::new(Some(under_way)));
        let mut all = self.0.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&under_way));
        Fetching {
            under_way,
            is_broken: false,
        }
    }
}

impl Drop for Fetches {
    fn drop(&mut self) {
        for fetching in self.0.lock().iter().filter_map(Weak::upgrade) {
            fetching.lock().take();
        }
    }
}

impl Stream for Fetching {
    type Item = Result<FlightData, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_broken {
            return Poll::Ready(None);
        }
        if let Some(under_way) = &mut *self.under_way.lock() {
            let next = under_way.messages.poll_next_unpin(cx);
            return next.map(|message| message.map(|message| message.map_err(Status::from)));
        }
        self.is_broken = true;
        Poll::Ready(Some(Err(status_of(&let_go()))))
    }
}

/// What somebody hears whose cut is held no more.
pub(crate) fn let_go() -> Problem {
    let detail = "the cut that the question holds was let go of; ask again";
    Problem::new(dovetail_model::ProblemKind::Unavailable, detail).with("retry_after_s", 1)
}

/// `batch` in pieces that are encoded one after the other.
pub(crate) fn pieces(batch: RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let mut rows = batch.num_rows() - from;
        let mut piece = batch.slice(from, rows);
        while rows > 1 && bytes_of(&piece) > PIECE_BYTES {
            rows = rows.div_ceil(2);
            piece = batch.slice(from, rows);
        }
        from += rows;
        (rows > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, StringArray};
    use futures::stream;

    use super::*;

    fn texts(lengths: impl IntoIterator<Item = usize>) -> RecordBatch {
        let texts = lengths.into_iter().map(|length| "x".repeat(length));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        RecordBatch::try_from_iter([("t", texts)]).unwrap()
    }

    #[test]
    fn what_is_encoded_at_once_is_bounded_or_one_row() {
        let wide = 3 * PIECE_BYTES;
        let batch = texts((0..10_000).map(|row| if row == 5000 { wide } else { 1000 }));
        let parts: Vec<RecordBatch> = pieces(batch.clone()).collect();
        for part in &parts {
            assert!(part.num_rows() == 1 || bytes_of(part) <= PIECE_BYTES);
        }
        assert!(parts.len() < 64, "{}", parts.len());
        let whole = arrow::compute::concat_batches(&batch.schema(), &parts).unwrap();
        assert_eq!(whole, batch);
        assert_eq!(pieces(texts([])).count(), 0);
    }

    #[tokio::test]
    async fn a_fetch_that_nobody_reads_ends_with_its_cut() {
        let places = Places(Arc::new(Semaphore::new(1)));
        let fetches = Fetches::default();
        let states = Arc::new(());
        let held = Arc::clone(&states);
        let messages = stream::repeat_with(move || {
            let _held = &held;
            Ok(FlightData::new())
        });
        let mut stalled = fetches.begin(messages.boxed(), places.take().await);
        assert!(stalled.next().await.unwrap().is_ok());
        let mut next = std::pin::pin!(places.take());
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(Arc::strong_count(&states), 2);

        drop(fetches);
        assert_eq!(Arc::strong_count(&states), 1);
        drop(next.await);
        // It is no end.
        let broken = stalled.next().await.unwrap().unwrap_err();
        assert!(broken.message().contains("let go of"), "{broken}");
        assert!(stalled.next().await.is_none());
    }

    #[tokio::test]
    async fn a_fetch_that_is_read_ends_by_itself() {
        let fetches = Fetches::default();
        let messages = stream::iter([Ok(FlightData::new()), Ok(FlightData::new())]);
        let fetching = fetches.begin(messages.boxed(), Places::default().take().await);
        assert_eq!(
            fetching
                .filter(|m| std::future::ready(m.is_ok()))
                .count()
                .await,
            2
        );
    }
}
