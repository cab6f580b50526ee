// SPDX-License-Identifier: Apache-2.0
//! Asks the demo's questions in a loop and checks every answer, while the batch layer moves underneath.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::question::Question;

/// Pause between two rounds, so that the demo's questions do not crowd out its events.
const PAUSE: Duration = Duration::from_millis(20);

/// A running loop.
pub(super) struct Watch {
    stop: CancellationToken,
    task: JoinHandle<Result<u64, String>>,
}

impl Watch {
    /// Starts to ask.
    pub(super) fn start(question: Question) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(watch(question, stop.clone()));
        Self { stop, task }
    }

    /// Ends the loop after the round it is in: how many answers were checked, or which one was wrong.
    pub(super) async fn stop(self) -> Result<u64, String> {
        self.stop.cancel();
        self.task.await.map_err(|e| e.to_string())?
    }
}

async fn watch(question: Question, stop: CancellationToken) -> Result<u64, String> {
    let mut checked = 0;
    let mut last_count = 0;
    loop {
        let answer = question.ask().await;
        question.check(&answer.map_err(|e| format!("a question failed: {e}"))?)?;
        let count = question.witness(None).await?;
        if count < last_count {
            return Err(format!(
                "an answer went back: from {last_count} events to {count}"
            ));
        }
        last_count = count;
        checked += 2;
        tokio::select! {
            () = stop.cancelled() => return Ok(checked),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}
