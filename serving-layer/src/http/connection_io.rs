// SPDX-License-Identifier: Apache-2.0
//! A connection that neither waits for ever nor slams the door.
//!
//! A client that begins the head of a request and does not end it would hold its connection for long: it is told so (408)
//! after a while, by hand, since nobody answers a request that there is not. A client that reads nothing of its answer
//! would hold it, and the cut below it, for ever: writes that make no progress fail after a while. A client that is still
//! sending when it is refused would lose the refusal to a reset: before the connection closes, what it sends is read and
//! thrown away, up to 80 MiB (many programs send a body to its end before they read) and two seconds.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use dovetail_model::{Problem, ProblemKind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::places::Place;
use super::problem::problem_text;

/// Most bytes thrown away before closing.
const DRAIN_BYTES: usize = 80 * 1024 * 1024;
/// Longest time that closing takes.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    /// From the first byte of a head to its end.
    pub(super) head: Duration,
    /// While it reads nothing of its answer.
    pub(super) reader: Duration,
}

/// A stream with bounded heads, patient writes and a lingering close.
pub(super) struct ConnectionIo<S> {
    stream: S,
    place: Arc<Place>,
    waits: Waits,
    /// Runs while a head is on its way, whose number it has: it may have come to its end, and been answered, without a look
    /// at this in between. One that began to come before that has the time of an idle connection.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    /// Runs while a write waits.
    alarm: Option<Pin<Box<Sleep>>>,
    closing: Option<Closing>,
}

/// Our side is closed; the client's may still send.
struct Closing {
    deadline: Pin<Box<Sleep>>,
    drained: usize,
}

impl<S> ConnectionIo<S> {
    /// Guards `stream`, the connection at `place`.
    pub(super) fn new(stream: S, place: Arc<Place>, waits: Waits) -> Self {
        Self {
            stream,
            place,
            waits,
            head: None,
            alarm: None,
            closing: None,
        }
    }

    /// What a write came to, unless it has waited too long.
    fn guarded<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.alarm = None;
            return written;
        }
        let patience = self.waits.reader;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(alarm.as_mut().poll(cx));
        let message = "the client reads nothing of its answer";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

/// What a client gets whose head did not come to an end.
fn head_timed_out(patience: Duration) -> Vec<u8> {
    let detail = format!(
        "the head of the request did not come to its end within {} ms",
        patience.as_millis()
    );
    let body = problem_text(Problem::new(ProblemKind::Timeout, detail));
    let head = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

impl<S: AsyncRead + AsyncWrite + Unpin> ConnectionIo<S> {
    /// Ends the connection once the head that is on its way has taken too long.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some((_, head)) = &mut self.head else {
            return Poll::Pending;
        };
        ready!(head.as_mut().poll(cx));
        // As much of it as the kernel takes at once: it is short, and nothing else was written since the last answer.
        let answer = head_timed_out(self.waits.head);
        let _ = Pin::new(&mut self.stream).poll_write(cx, &answer);
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        let message = "the head of a request did not come to its end";
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, message))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ConnectionIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let has_come = buffer.filled().len() > before;
        if has_come {
            this.place.heard();
        }
        let next = this.place.next_head();
        this.head.take_if(|(head, _)| Some(*head) != next);
        let Some(next) = next else {
            return read;
        };
        if has_come && this.head.is_none() {
            this.head = Some((next, Box::pin(sleep(this.waits.head))));
        }
        match this.poll_head(cx) {
            Poll::Ready(late) => Poll::Ready(Err(late)),
            Poll::Pending => read,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ConnectionIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.guarded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.guarded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.guarded(cx, flushed)
    }

    /// Says that no more will come, then hears the client out.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            stream, closing, ..
        } = &mut *self;
        let closing = match closing {
            Some(closing) => closing,
            None => {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                closing.insert(Closing {
                    deadline: Box::pin(sleep(DRAIN_TIME)),
                    drained: 0,
                })
            }
        };
        let mut space = [0; 16 * 1024];
        while closing.drained < DRAIN_BYTES {
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => break,
                Poll::Ready(Ok(())) => closing.drained += buffer.filled().len(),
                // The client is gone: it hears nothing more anyway.
                Poll::Ready(Err(_)) => break,
                Poll::Pending => {
                    ready!(closing.deadline.as_mut().poll(cx));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::super::places::Places;
    use super::*;

    /// Nobody need read while an answer is made.
    #[tokio::test]
    async fn a_head_that_came_to_its_end_is_not_waited_for() {
        let (place, _permit) = Places::new(1).take().await;
        let waits = Waits {
            head: Duration::from_millis(20),
            reader: Duration::from_secs(60),
        };
        let (mut client, server) = duplex(1024);
        let mut connection = ConnectionIo::new(server, Arc::clone(&place), waits);
        let mut bytes = [0; 64];
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            assert!(connection.read(&mut bytes).await.unwrap() > 0);
            place.begins();
            place.ends();
            // The client keeps the connection, and comes back.
            assert!(connection.read(&mut bytes).now_or_never().is_none());
            sleep(2 * waits.head).await;
            assert!(connection.read(&mut bytes).now_or_never().is_none());
        }
        client.write_all(b"GET").await.unwrap();
        assert_eq!(connection.read(&mut bytes).await.unwrap(), 3);
        let late = connection.read(&mut bytes).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
