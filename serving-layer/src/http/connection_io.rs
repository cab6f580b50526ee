// SPDX-License-Identifier: Apache-2.0
//! A connection that neither waits for ever nor slams the door.
//!
//! A client that reads nothing of its answer would hold it, and the cut below it, for ever: writes that
//! make no progress fail after a while. A client that is still sending when it is refused would lose the
//! refusal to a reset: before the connection closes, what it sends is read and thrown away, up to 80 MiB (many
//! programs send a body to its end before they read) and two seconds.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Most bytes thrown away before closing.
const DRAIN_BYTES: usize = 80 * 1024 * 1024;
/// Longest time that closing takes.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A stream with patient writes and a lingering close.
pub(super) struct ConnectionIo<S> {
    stream: S,
    stall_timeout: Duration,
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
    /// Guards `stream`; a write may wait for `stall_timeout`.
    pub(super) fn new(stream: S, stall_timeout: Duration) -> Self {
        Self {
            stream,
            stall_timeout,
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
        let patience = self.stall_timeout;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(alarm.as_mut().poll(cx));
        let message = "the client reads nothing of its answer";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ConnectionIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
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
