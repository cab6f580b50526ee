// SPDX-License-Identifier: Apache-2.0
//! Streams the sample in, fast at first. The rest is held back for the recompute and the promote: each has a
//! reserve of its own that only flows while it lasts, slower the less is left, and never to the last event.
//!
//! ```text
//! 0 ────── fill ──────┤──── compute ────┤─── promote ───┤ total
//!       full speed      while it runs     until it is seen, then the rest at full speed
//! ```
//! So events arrive during both however fast or slow the machine is: the feed waits for the batch layer,
//! the batch layer never for a clock.

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
/// While a reserve flows, this share of what is left of it goes out …
const PACED_SHARE: usize = 256;
/// … after each pause.
const PACED_PAUSE: Duration = Duration::from_millis(50);

/// What the events that arrive now are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Something to recompute.
    Fill,
    /// Arrive while the recompute runs.
    Compute,
    /// Arrive while it is promoted.
    Promote,
    /// The rest.
    Rest,
}

/// How many events each stage may have sent at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// The end of [`Stage::Fill`].
    pub(super) fill: usize,
    /// The end of [`Stage::Compute`].
    pub(super) compute: usize,
    /// All.
    pub(super) total: usize,
}

impl Marks {
    /// How many events the next request takes; none: wait for the next stage.
    fn next_len(&self, sent: usize, stage: Stage) -> usize {
        let (end, paced) = match stage {
            Stage::Fill => (self.fill, false),
            // What is left of the fill first, at full speed.
            Stage::Compute if sent < self.fill => (self.fill, false),
            Stage::Compute => (self.compute, true),
            // One event at least is for after the promote.
            Stage::Promote => (self.total.saturating_sub(1), true),
            Stage::Rest => (self.total, false),
        };
        let left = end.saturating_sub(sent);
        let most = if paced {
            left.div_ceil(PACED_SHARE)
        } else {
            left
        };
        most.min(EVENTS_PER_REQUEST)
    }
}

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
    marks: Marks,
    progress: watch::Sender<Fed>,
    stage: watch::Receiver<Stage>,
}

/// The other end of a feed.
pub(super) struct FeedControl {
    progress: watch::Receiver<Fed>,
    stage: watch::Sender<Stage>,
}

/// A feed with its reserves, and its control.
pub(super) fn feed(client: Client, marks: Marks) -> (Feed, FeedControl) {
    let (progress, fed) = watch::channel(Fed::default());
    let (enter, stage) = watch::channel(Stage::Fill);
    let sender = Sender::new(client, "flights", OnError::Reject, RetryPolicy::default());
    let feed = Feed {
        sender,
        marks,
        progress,
        stage,
    };
    let control = FeedControl {
        progress: fed,
        stage: enter,
    };
    (feed, control)
}

impl Feed {
    /// Sends until all is sent.
    pub(super) async fn run(mut self, sample: &Sample, bar: &ProgressBar) -> Result<(), CliError> {
        let identity = Identity::unique();
        let mut sent = 0;
        let mut index = 0;
        while sent < self.marks.total {
            let end = sent + self.next_len(sent, bar).await?;
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

    /// How many events go next, once some may; the bar says why it stands or crawls.
    async fn next_len(&mut self, sent: usize, bar: &ProgressBar) -> Result<usize, CliError> {
        loop {
            let stage = *self.stage.borrow_and_update();
            let len = self.marks.next_len(sent, stage);
            let changed = self.stage.changed();
            let closed = match (stage, len) {
                (_, 0) => {
                    bar.set_message("held back until the batch layer is there");
                    changed.await.is_err()
                }
                (Stage::Compute | Stage::Promote, _) if sent >= self.marks.fill => {
                    bar.set_message("paced, so that events arrive all along");
                    match tokio::time::timeout(PACED_PAUSE, changed).await {
                        Ok(changed) => changed.is_err(),
                        Err(_pause_is_over) => return Ok(len),
                    }
                }
                _ => {
                    bar.set_message("");
                    return Ok(len);
                }
            };
            if closed {
                return Err(CliError::Failed("the demo has stopped".to_owned()));
            }
        }
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

    /// What the events are for from now on.
    pub(super) fn enter(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks {
        fill: 65_000,
        compute: 85_000,
        total: 100_000,
    };

    /// Where `requests` requests in a stage end.
    fn after(requests: usize, mut sent: usize, stage: Stage) -> usize {
        for _ in 0..requests {
            sent += MARKS.next_len(sent, stage);
        }
        sent
    }

    #[test]
    fn no_stage_takes_what_is_held_back_for_a_later_one() {
        const FOREVER: usize = 100_000;
        assert_eq!(after(FOREVER, 0, Stage::Fill), 65_000);
        assert_eq!(after(FOREVER, 0, Stage::Compute), 85_000);
        assert_eq!(after(FOREVER, 0, Stage::Promote), 99_999);
        assert_eq!(after(FOREVER, 0, Stage::Rest), 100_000);
    }

    #[test]
    fn a_reserve_flows_for_a_while() {
        // Half a minute of pauses.
        let compute = after(600, 65_000, Stage::Compute);
        assert!((80_000..85_000).contains(&compute), "{compute}");
        let promote = after(600, 65_000, Stage::Promote);
        assert!((85_000..99_999).contains(&promote), "{promote}");
        assert_eq!(MARKS.next_len(0, Stage::Fill), EVENTS_PER_REQUEST);
        assert_eq!(MARKS.next_len(99_999, Stage::Rest), 1);
    }
}
