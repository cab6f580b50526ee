// SPDX-License-Identifier: Apache-2.0
//! How long an answer is waited for: until its time is up, or until the server ends.
//!
//! The engine is not asked to agree: it may hold its thread for seconds. Whoever waits here lets go of the answer, which
//! cancels the work.

use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use dovetail_model::{Problem, ProblemKind};
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::ports::Limits;
use crate::problem::problem_of;

/// A port answers its own timeout, since it knows what it waited for. This long after it we stop waiting.
const GRACE: Duration = Duration::from_millis(500);
/// When a client may ask a server again that is shutting down: about what a restart takes.
const RETRY_AFTER_S: u64 = 5;

/// The patience with one question.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    timeout: Duration,
    deadline: Instant,
    /// Cancelled when the server waits for no query any more.
    closing: CancellationToken,
}

impl Patience {
    pub(super) fn new(limits: &Limits, closing: CancellationToken) -> Self {
        Self {
            timeout: limits.timeout,
            deadline: limits.deadline,
            closing,
        }
    }

    /// Waits for a port until shortly past the deadline.
    ///
    /// # Errors
    /// The port's; `Timeout`; `Unavailable` when the server ends.
    pub(super) async fn port<T>(
        &self,
        answer: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        self.wait_until(self.deadline + GRACE, answer).await?
    }

    /// Waits for the next rows, or the end of them.
    ///
    /// # Errors
    /// The engine's; `Timeout`; `Unavailable` when the server ends.
    pub(super) async fn next_batch(
        &self,
        batches: &mut SendableRecordBatchStream,
    ) -> Result<Option<RecordBatch>, Problem> {
        let next = self.wait_until(self.deadline, batches.next()).await?;
        next.transpose().map_err(|error| problem_of(&error))
    }

    /// Refuses to go on once the server ends, although there may be more to send.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.closing.is_cancelled() {
            return Err(shutting_down());
        }
        Ok(())
    }

    /// What is there already is taken in any case: a change that was made must be answered as made.
    async fn wait_until<T>(
        &self,
        deadline: Instant,
        answer: impl Future<Output = T>,
    ) -> Result<T, Problem> {
        tokio::select! {
            biased;
            answer = timeout_at(deadline, answer) => answer.map_err(|_| self.timed_out()),
            () = self.closing.cancelled() => Err(shutting_down()),
        }
    }

    fn timed_out(&self) -> Problem {
        let detail = format!(
            "the answer took longer than {} ms: raise `timeout_ms`, or ask for less",
            self.timeout.as_millis()
        );
        Problem::new(ProblemKind::Timeout, detail)
    }
}

fn shutting_down() -> Problem {
    let detail =
        "the server is shutting down, and the query did not end in time; ask again once it is back";
    Problem::new(ProblemKind::Unavailable, detail).with("retry_after_s", RETRY_AFTER_S)
}
