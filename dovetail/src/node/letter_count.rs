// SPDX-License-Identifier: Apache-2.0
//! How many dead letters of a stream wait for a replay, for whoever shows it: counting them may read the store, and what
//! is shown must not wait for one that does not answer.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::ingest::pending_letters;
use super::open_stream::OpenStream;

/// How long a count holds up who asks: less than Prometheus waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last count of a stream.
#[derive(Debug, Default)]
pub(crate) struct LetterCount {
    known: Mutex<Option<u64>>,
    /// A count that takes longer than one waits for it: none is begun beside it.
    late: Mutex<Option<JoinHandle<()>>>,
}

impl LetterCount {
    /// Counts them, or says what was counted last while the store does not answer; none if that was never.
    pub(crate) async fn of(stream: &Arc<OpenStream>) -> Option<u64> {
        let count = stream.letter_count();
        let is_late = |task: &JoinHandle<()>| !task.is_finished();
        if !count.late.lock().as_ref().is_some_and(is_late) {
            let counted = Arc::clone(stream);
            let mut counting = tokio::spawn(async move {
                if let Ok(page) = pending_letters(&counted, None, 0, &|_| true).await {
                    *counted.letter_count().known.lock() = Some(page.total);
                }
            });
            if tokio::time::timeout(PATIENCE, &mut counting).await.is_err() {
                *count.late.lock() = Some(counting);
            }
        }
        *count.known.lock()
    }
}
