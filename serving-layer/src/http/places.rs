// SPDX-License-Identifier: Apache-2.0
//! The places of connections, and who gives way when all are taken.
//!
//! ```text
//!  connected ──► Head ──► Answer ◄──► Body      Head, Body: the client is waited for
//!                 ▲         │                   Answer: it waits for us
//!                 └─────────┘
//! ```
//! Purpose: clients that begin a request and go no further, or stay connected and ask nothing, take no place from one that
//! asks, least of all from a probe. Where all places are taken, the connection whose client has been waited for longest is
//! cut off, and its place is free. Collaborators: the server takes places, [`super::connection_io`] notes what is read.
//! Invariants: no connection is cut off for its place while it is answered, nor while its client sends. Non-goals: clients
//! that do not read, which have a patience of their own, and may be cut off for their memory ([`crate::held`]).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::ports::AnswerMemory;

/// A client that has sent something so lately is not cut off for another one.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);
/// How often somebody is looked for who gives way, while nobody does.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a connection that is cut off may take to free its place, before another one is.
const CUT_OFF_WAIT: Duration = Duration::from_millis(5);

/// All places.
pub(super) struct Places {
    slots: Arc<Semaphore>,
    most: usize,
    taken: Mutex<Vec<Weak<Place>>>,
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Place {
    state: Mutex<State>,
    /// Cancelled when the connection is to give way.
    gives_way: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
struct State {
    awaited: Awaited,
    /// When the client sent something last.
    heard_at: Instant,
    /// How many heads have come to their end.
    heads: u64,
}

/// What comes next on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The head of a request.
    Head,
    /// More of a request's body.
    Body,
    /// Our answer.
    Answer,
}

impl Places {
    /// As many places as `most`.
    pub(super) fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            slots: Arc::new(Semaphore::new(most)),
            most,
            taken: Mutex::default(),
        }
    }

    /// Takes a place as soon as one is free, which it is until the permit is dropped.
    pub(super) async fn take(&self) -> (Arc<Place>, OwnedSemaphorePermit) {
        let free = Arc::clone(&self.slots).acquire_owned();
        tokio::pin!(free);
        let permit = loop {
            tokio::select! {
                biased;
                permit = &mut free => break permit.expect("the places are never closed"),
                () = self.make_room() => {}
            }
        };
        let place = Arc::new(Place {
            state: Mutex::new(State {
                awaited: Awaited::Head,
                heard_at: Instant::now(),
                heads: 0,
            }),
            gives_way: CancellationToken::new(),
        });
        let mut taken = self.taken.lock();
        if taken.len() >= self.most.saturating_mul(2) {
            taken.retain(|place| place.strong_count() > 0);
        }
        taken.push(Arc::downgrade(&place));
        (place, permit)
    }

    /// Cuts off the connection whose client has been waited for longest, if that is long, and leaves it some time.
    async fn make_room(&self) {
        let longest = {
            let taken = self.taken.lock();
            let waiting = taken.iter().filter_map(Weak::upgrade);
            let waiting = waiting.filter_map(|place| Some((place.waited_since()?, place)));
            waiting.min_by_key(|(since, _)| *since)
        };
        if let Some((since, place)) = longest
            && since.elapsed() >= GIVES_WAY_AFTER
        {
            place.gives_way.cancel();
            return sleep(CUT_OFF_WAIT).await;
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Place {
    /// Since when the client is waited for; none while it waits for us, or is cut off already.
    fn waited_since(&self) -> Option<Instant> {
        let State {
            awaited, heard_at, ..
        } = *self.state.lock();
        (awaited != Awaited::Answer && !self.gives_way.is_cancelled()).then_some(heard_at)
    }

    /// Until the connection is to give way to another one.
    pub(super) async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }

    /// What comes next.
    pub(super) fn awaited(&self) -> Awaited {
        self.state.lock().awaited
    }

    /// Which head comes next, by its number; none while something else does.
    pub(super) fn next_head(&self) -> Option<u64> {
        let State { awaited, heads, .. } = *self.state.lock();
        (awaited == Awaited::Head).then_some(heads)
    }

    /// Something was read.
    pub(super) fn heard(&self) {
        self.state.lock().heard_at = Instant::now();
    }

    /// A head has come to its end, and the answer begins.
    pub(super) fn begins(&self) {
        self.awaits(Awaited::Answer);
        self.state.lock().heads += 1;
    }

    /// The answer is over.
    pub(super) fn ends(&self) {
        self.awaits(Awaited::Head);
    }

    fn awaits(&self, awaited: Awaited) {
        let mut state = self.state.lock();
        state.awaited = awaited;
        state.heard_at = Instant::now();
    }

    /// Answers a request on this connection.
    pub(super) async fn answer(
        self: Arc<Self>,
        router: Router,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, Infallible> {
        self.begins();
        let request = request.map(|body| {
            Body::new(Asked {
                body,
                place: Arc::clone(&self),
            })
        });
        let mut response = router.oneshot(request).await?;
        if let Some(memory) = response.extensions_mut().remove::<AnswerMemory>() {
            memory.gives_way_by(self.gives_way.clone());
        }
        self.awaits(Awaited::Answer);
        Ok(response.map(|body| Answer { body, place: self }))
    }
}

/// The body of a request: while somebody waits for more of it, the client is waited for. While nobody reads, it may be the
/// client that waits.
struct Asked {
    body: Incoming,
    place: Arc<Place>,
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let awaited = match frame.is_pending() {
            true => Awaited::Body,
            false => Awaited::Answer,
        };
        if self.place.awaited() != awaited {
            self.place.awaits(awaited);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.place.awaited() == Awaited::Body {
            self.place.awaits(Awaited::Answer);
        }
    }
}

/// The body of an answer: once it is gone, the next head is awaited.
pub(super) struct Answer {
    body: Body,
    place: Arc<Place>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.place.ends();
    }
}
