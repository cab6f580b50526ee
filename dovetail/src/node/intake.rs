// SPDX-License-Identifier: Apache-2.0
//! How far a start has come: the events that the speed layer takes in again before it listens.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use tracing::info;

/// How often a start says how far it has come.
const SAY_EVERY: Duration = Duration::from_secs(3);

/// Events, dead letters among them, that one stream takes in: for each view those between its generation and the raw
/// log's end, which are counted when all of them are in, and once those of the log's tail, which goes through all views
/// together.
#[derive(Debug, Default)]
pub(super) struct Intake {
    taken: AtomicU64,
    total: AtomicU64,
}

impl Intake {
    /// So many more are to be taken in.
    pub(super) fn expect(&self, events: u64) {
        self.total.fetch_add(events, Ordering::Relaxed);
    }

    /// So many more are taken in.
    pub(super) fn took(&self, events: u64) {
        self.taken.fetch_add(events, Ordering::Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total.load(Ordering::Relaxed) == 0
    }

    /// Logs from time to time how far it has come, until the handle is dropped. From a task of its own: the work may
    /// keep its thread for long.
    pub(super) fn reported(self: &Arc<Self>, stream: &str) -> AbortOnDropHandle<()> {
        let stream = stream.to_owned();
        self.said(SAY_EVERY, move |intake| {
            info!(%stream, "taking in the events behind the last generation: {intake}");
        })
    }

    fn said(
        self: &Arc<Self>,
        every: Duration,
        say: impl Fn(&Self) + Send + 'static,
    ) -> AbortOnDropHandle<()> {
        let intake = Arc::clone(self);
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if !intake.is_empty() {
                    say(&intake);
                }
            }
        }))
    }
}

impl fmt::Display for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: &AtomicU64| grouped(number.load(Ordering::Relaxed));
        write!(f, "{} of {}", count(&self.taken), count(&self.total))
    }
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_start_says_how_far_it_has_come_until_it_is_through() {
        let intake = Arc::new(Intake::default());
        let (said, mut heard) = mpsc::unbounded_channel();
        let reporting = intake.said(Duration::from_millis(1), move |intake| {
            let _ = said.send(intake.to_string());
        });
        intake.expect(1_000_000);
        intake.expect(500_000);
        let mut next = async || heard.recv().await.unwrap();
        assert_eq!(next().await, "0 of 1,500,000");
        intake.took(1_200_034);
        while next().await != "1,200,034 of 1,500,000" {}
        drop(reporting);
        // The sender goes with the task: a report that never ended would keep this waiting.
        while heard.recv().await.is_some() {}
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
