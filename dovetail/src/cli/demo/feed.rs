// SPDX-License-Identifier: Apache-2.0
//! Streams the sample in, fast at first. From its brake on it slows down more and more without ever
//! running dry, so that events still arrive when the recompute is promoted, however long that takes.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::sync::watch;

use super::sample::Sample;
use crate::cli::CliError;
use crate::client::{Client, RetryPolicy};
use crate::ingest::{Identity, OnError, Sender};
use dovetail_log::Format;

/// Events in one request.
const EVENTS_PER_REQUEST: usize = 4000;
/// Behind the brake, this share of what is left goes out …
const BRAKED_SHARE: usize = 256;
/// … after each pause.
const BRAKED_PAUSE: Duration = Duration::from_millis(50);

/// How far the feed has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Fed {
    /// Events that are acknowledged.
    pub(super) events: usize,
    /// The position behind them.
    pub(super) position: String,
}

/// Sends the whole sample to `flights`.
pub(super) struct Feed {
    sender: Sender,
    brake_at: usize,
    progress: watch::Sender<Fed>,
    released: watch::Receiver<bool>,
}

/// The other end of a feed.
pub(super) struct FeedControl {
    progress: watch::Receiver<Fed>,
    release: watch::Sender<bool>,
}

/// A feed that brakes at the event number `brake_at`, and its control.
pub(super) fn feed(client: Client, brake_at: usize) -> (Feed, FeedControl) {
    let (progress, fed) = watch::channel(Fed::default());
    let (release, released) = watch::channel(false);
    let sender = Sender::new(client, "flights", OnError::Reject, RetryPolicy::default());
    let feed = Feed {
        sender,
        brake_at,
        progress,
        released,
    };
    let control = FeedControl {
        progress: fed,
        release,
    };
    (feed, control)
}

/// How many events the next request takes.
fn next_len(sent: usize, total: usize, brake_at: usize, released: bool) -> usize {
    let left = total - sent;
    if released || sent < brake_at {
        EVENTS_PER_REQUEST.min(left)
    } else {
        (left / BRAKED_SHARE).clamp(1, EVENTS_PER_REQUEST)
    }
}

impl Feed {
    /// Sends until all is sent.
    pub(super) async fn run(mut self, sample: &Sample, bar: &ProgressBar) -> Result<(), CliError> {
        let identity = Identity::unique();
        let mut sent = 0;
        let mut index = 0;
        while sent < sample.rows() {
            let released = *self.released.borrow();
            if sent >= self.brake_at && !released {
                // Either is a reason to go on; a closed channel releases for good.
                let _ = tokio::time::timeout(BRAKED_PAUSE, self.released.changed()).await;
            }
            let end = sent + next_len(sent, sample.rows(), self.brake_at, released);
            let body = sample
                .ndjson(sent..end)
                .map_err(|e| CliError::Failed(format!("cannot write the sample as JSON: {e}")))?;
            let key = identity.key(self.sender.stream(), index);
            let ack = self
                .sender
                .send(body, Format::Ndjson, &key, &|_, _| {})
                .await?;
            sent = end;
            index += 1;
            bar.set_position(sent as u64);
            self.progress.send_replace(Fed {
                events: sent,
                position: ack.position,
            });
        }
        Ok(())
    }
}

impl FeedControl {
    /// How far the feed is.
    pub(super) fn fed(&self) -> Fed {
        self.progress.borrow().clone()
    }

    /// Waits until that many events are acknowledged.
    pub(super) async fn reaches(&mut self, events: usize) -> Result<Fed, CliError> {
        let reached = self.progress.wait_for(|fed| fed.events >= events).await;
        reached
            .map(|fed| fed.clone())
            .map_err(|_| CliError::Failed("the feed has stopped".to_owned()))
    }

    /// Lets go of the brake.
    pub(super) fn release(&self) {
        self.release.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_braked_feed_does_not_run_dry() {
        let total = 100_000;
        let mut sent = 65_000;
        // Half a minute of pauses.
        for _ in 0..600 {
            let len = next_len(sent, total, 65_000, false);
            assert!(len >= 1);
            sent += len;
        }
        assert!(sent < total, "{sent}");
        assert_eq!(next_len(0, total, 65_000, false), EVENTS_PER_REQUEST);
        assert_eq!(next_len(99_999, total, 65_000, true), 1);
    }
}
