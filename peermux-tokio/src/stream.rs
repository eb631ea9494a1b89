//! Streams and their halves.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use peermux_core::driver;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use crate::signal::Signal;
use crate::transport::Transport;
use crate::{ConnectionError, ErrorCode, Priority, ReadError, StreamStats, WriteError};

/// A stream of a connection: [`AsyncRead`] and [`AsyncWrite`].
///
/// `shutdown` finishes the sending half and waits until that is with the transport; `flush` waits until all that was written is. Dropping a stream
/// that was not shut down resets it: the peer never takes that for its end. What is with the transport stands in a record, and the system may not have it yet: before a program or its
/// runtime ends, it closes or drains the connection and waits for [`Connection::transport_closed`](crate::Connection::transport_closed).
///
/// Reads and writes are cancel safe: a future that is dropped has taken nothing.
///
/// To join a stream with a socket use [`relay`](crate::relay()) rather than [`tokio::io::copy_bidirectional`], which gives up an answer if the peer stops the request.
#[derive(Debug)]
pub struct Stream {
    read: ReadHalf,
    write: WriteHalf,
}

/// The receiving half of a stream. Dropping it tells the peer that nothing more is wanted.
pub struct ReadHalf {
    shared: Arc<Shared>,
}

/// The sending half of a stream. Dropping it resets it unless it was shut down.
pub struct WriteHalf {
    shared: Arc<Shared>,
}

/// What both halves hold.
struct Shared {
    stream: driver::Stream,
    transport: Arc<Transport>,
    /// Where tasks wait for the end of the sending half, once one does.
    stopped: OnceLock<Arc<Signal>>,
}

impl Shared {
    async fn stopped(self: Arc<Self>) -> Result<Option<ErrorCode>, ConnectionError> {
        self.stopped.get_or_init(Arc::default).wait(|waker| self.stream.poll_stopped(waker)).await
    }

    /// As `act` says. Whoever would have to wait, as long as `may_help`, takes the steps of the connection's task instead.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        may_help: impl Fn(&Transport) -> bool,
        mut act: impl FnMut(&driver::Stream, &Waker) -> Poll<T>,
    ) -> Poll<T> {
        let mut help = None;
        while may_help(&self.transport) {
            // Nobody has to be woken for what this task does itself.
            if let Poll::Ready(ready) = act(&self.stream, Waker::noop()) {
                return Poll::Ready(ready);
            }
            let budget = ready!(coop::poll_proceed(cx));
            if !help.get_or_insert_with(|| self.transport.help()).step() {
                break;
            }
            budget.made_progress();
        }
        act(&self.stream, cx.waker())
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.shared.stream.drop_receiving_half();
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.shared.stream.drop_sending_half();
    }
}

/// What a stream and each of its halves say of it.
macro_rules! views {
    ($($part:ty: $($shared:ident).+;)*) => {$(
        impl $part {
            /// Returns the stream's id on the wire, which both sides know it by. Returns `None` as long as the stream was opened here and its OPEN was not sent.
            pub fn id(&self) -> Option<u64> {
                self.$($shared).+.stream.wire_id()
            }

            /// Returns what the stream has done so far, and what it holds now. Returns `None` if it was [refused](Stream::refuse).
            pub fn stats(&self) -> Option<StreamStats> {
                self.$($shared).+.stream.stats()
            }

            /// Returns `true` if the stream's data was, or could have been, in a first flight: then it may be delivered more than once.
            pub fn is_early(&self) -> bool {
                self.$($shared).+.stream.is_early()
            }
        }
    )*};
}

views! {
    Stream: read.shared;
    ReadHalf: shared;
    WriteHalf: shared;
}

impl Stream {
    pub(crate) fn new(stream: driver::Stream, transport: &Arc<Transport>) -> Self {
        let shared = Arc::new(Shared { stream, transport: transport.clone(), stopped: OnceLock::new() });
        Self { read: ReadHalf { shared: shared.clone() }, write: WriteHalf { shared } }
    }

    /// Splits the stream into halves that can live in different tasks.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }

    /// Reunites the halves of one stream.
    ///
    /// # Errors
    /// Returns both halves if they are not of one stream.
    pub fn reunite(read: ReadHalf, write: WriteHalf) -> Result<Self, (ReadHalf, WriteHalf)> {
        if Arc::ptr_eq(&read.shared, &write.shared) { Ok(Self { read, write }) } else { Err((read, write)) }
    }

    /// The protocol that the opener named, if it did.
    pub fn protocol(&self) -> Option<Arc<str>> {
        self.read.shared.stream.protocol()
    }

    /// Waits until the sending half has ended. Returns the peer's code if the peer wants no more of it, and `None` if this side finished or reset it. The future does not
    /// borrow the stream, which can be written to meanwhile; any number of them may wait.
    ///
    /// # Errors
    /// Returns the [`ConnectionError`] if the connection ended before the half did.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub fn stopped(&self) -> impl Future<Output = Result<Option<ErrorCode>, ConnectionError>> + Send + use<> {
        self.read.shared.clone().stopped()
    }

    /// The priority that this side sends with.
    pub fn priority(&self) -> Priority {
        self.read.shared.stream.priority()
    }

    /// The receiving half.
    pub const fn read_half(&mut self) -> &mut ReadHalf {
        &mut self.read
    }

    /// The sending half.
    pub const fn write_half(&mut self) -> &mut WriteHalf {
        &mut self.write
    }

    /// Refuses a stream of the peer: both halves end with `code`.
    pub fn refuse(self, code: ErrorCode) {
        self.read.shared.stream.refuse(code);
    }
}

impl ReadHalf {
    /// The next bytes, at most `max`, without a copy; `None` at the end of the stream.
    ///
    /// # Errors
    /// See [`ReadError`]; it is never [`ReadError::Blocked`].
    ///
    /// # Cancel safety
    /// No byte is lost when the future is dropped.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, ReadError> {
        poll_fn(|cx| self.shared.poll(cx, Transport::has_input, |stream, waker| stream.poll_read_chunk(waker, max)))
            .await
    }

    /// Tells the peer that nothing more is wanted, and why.
    pub fn stop(&mut self, code: ErrorCode) {
        self.shared.stream.stop(code);
    }

    /// Asks the peer to send with `priority`.
    pub fn request_priority(&mut self, priority: Priority) {
        let id = self.shared.stream.id();
        self.shared.stream.driver().with(|connection| connection.recv_stream(id).request_priority(priority));
    }
}

impl WriteHalf {
    /// Waits until the sending half has ended. Returns the peer's code if the peer wants no more of it, and `None` if this side finished or reset it. The future does not
    /// borrow the stream, which can be written to meanwhile; any number of them may wait.
    ///
    /// # Errors
    /// Returns the [`ConnectionError`] if the connection ended before the half did.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub fn stopped(&self) -> impl Future<Output = Result<Option<ErrorCode>, ConnectionError>> + Send + use<> {
        self.shared.clone().stopped()
    }

    /// Queues all of `chunk` without a copy, as room comes up.
    ///
    /// # Errors
    /// See [`WriteError`]; it is never [`WriteError::Blocked`].
    ///
    /// # Cancel safety
    /// What was queued is removed from `chunk`, so what is left of it was not.
    pub async fn write_chunk(&mut self, chunk: &mut Bytes) -> Result<(), WriteError> {
        while !chunk.is_empty() {
            poll_fn(|cx| self.shared.poll(cx, |_| true, |stream, waker| stream.poll_write_chunk(waker, chunk))).await?;
        }
        Ok(())
    }

    /// Gives this half up: what is queued is dropped, and the peer learns `code`.
    pub fn reset(&mut self, code: ErrorCode) {
        self.shared.stream.reset(code);
    }

    /// Sends with `priority` from now on.
    pub fn set_priority(&mut self, priority: Priority) {
        let id = self.shared.stream.id();
        self.shared.stream.driver().with(|connection| connection.send_stream(id).set_priority(priority));
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let room = out.initialize_unfilled();
        let read = ready!(self.shared.poll(cx, Transport::has_input, |stream, waker| stream.poll_read(waker, room)))?;
        out.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.shared.poll(cx, |_| true, |stream, waker| stream.poll_write(waker, bytes)).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll(cx, |transport| !transport.is_crowded(), driver::Stream::poll_flush).map_err(Into::into)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.poll(cx, |transport| !transport.is_crowded(), driver::Stream::poll_finish).map_err(Into::into)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, out)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadHalf({:?})", self.shared.stream.id())
    }
}

impl std::fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WriteHalf({:?})", self.shared.stream.id())
    }
}
