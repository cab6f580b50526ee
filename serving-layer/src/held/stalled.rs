// SPDX-License-Identifier: Apache-2.0
//! Readers that take nothing of their answers, and who of them gives way to answers that wait for room.
//!
//! Purpose: a few clients that read a byte a second do not keep everybody else from their answers. Where an answer
//! waits for room, the reader that has asked for nothing for longest, if that is long, is cut off: it sees that
//! its answer is broken. Collaborators: [`crate::http`] says when a reader is handed something and when it asks for more,
//! and how it is cut off. Invariants: nobody is cut off while nothing waits, nor whose next rows are being made, nor whose
//! answer holds nothing of what is waited for. Non-goals: readers that are slow and read, which have their time; those
//! that stall while there is room, which the connection cuts off.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{AHEAD_BYTES, AnswerMemory, KIB, One, SMALL_BYTES};

/// How often somebody is looked for who gives way, while nobody does.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a connection that is cut off may take to free its memory, before another one is.
const CUT_OFF_WAIT: Duration = Duration::from_millis(20);

/// Those of all answers that are on their way.
#[derive(Debug, Default)]
pub(super) struct Readers {
    reading: Mutex<Vec<Weak<One>>>,
}

/// That of one answer.
#[derive(Debug, Default)]
pub(super) struct Reader(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since when it has not asked for more.
    idle_since: Option<Instant>,
    cut_off: Option<CancellationToken>,
}

impl Readers {
    /// Cuts off the readers that have stalled for `long`, the longest first, of answers that hold `what` is wanted, as long
    /// as somebody waits for this. The first of those who want it is `looking`.
    pub(super) async fn make_room(
        &self,
        long: Duration,
        looking: &tokio::sync::Mutex<()>,
        what: impl Fn(&One) -> bool,
    ) -> Infallible {
        let _looking = looking.lock().await;
        loop {
            let longest = {
                let reading = self.reading.lock();
                let reading = reading.iter().filter_map(Weak::upgrade);
                let reading = reading.filter(|one| what(one));
                let stalled = reading.filter_map(|one| Some((one.stalled_since()?, one)));
                stalled.min_by_key(|(since, _)| *since)
            };
            match longest {
                Some((since, one)) if since.elapsed() >= long => {
                    one.reader.cut_off();
                    sleep(CUT_OFF_WAIT).await;
                }
                _ => sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl Reader {
    fn cut_off(&self) {
        if let Some(cut_off) = self.0.lock().cut_off.take() {
            cut_off.cancel();
        }
    }
}

impl One {
    /// Since when its reader has not asked for more; none for one who cannot give way any more.
    fn stalled_since(&self) -> Option<Instant> {
        let State {
            idle_since,
            cut_off,
        } = &*self.reader.0.lock();
        cut_off.as_ref()?;
        *idle_since
    }

    /// Whether it holds more of the share than next to nothing.
    pub(super) fn holds_room(&self) -> bool {
        let ahead = AHEAD_BYTES / KIB - self.ahead.available_permits();
        self.group.initialized() || ahead > SMALL_BYTES / KIB
    }
}

impl AnswerMemory {
    /// The reader is handed a part of the answer, and has not asked for more.
    pub(crate) fn handed(&self) {
        self.idle_since(Some(Instant::now()));
    }

    /// The reader asks for more.
    pub(crate) fn asked(&self) {
        self.idle_since(None);
    }

    fn idle_since(&self, since: Option<Instant>) {
        if let Some(one) = &self.0 {
            one.reader.0.lock().idle_since = since;
        }
    }

    /// The reader can be cut off by `cut_off`.
    pub(crate) fn gives_way_by(&self, cut_off: CancellationToken) {
        let Some(one) = &self.0 else {
            return;
        };
        one.reader.0.lock().cut_off = Some(cut_off);
        let mut reading = one.share.readers.reading.lock();
        reading.retain(|other| other.strong_count() > 0);
        reading.push(Arc::downgrade(one));
    }
}
