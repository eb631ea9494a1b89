//! A stream's two halves, as the application sees them.

use alloc::sync::Arc;
use core::task::Waker;

use bytes::Bytes;

use super::{Connection, PeerApproval};
use crate::code::ErrorCode;
use crate::error::{BlockedOn, ReadError, WriteError};
use crate::id::StreamId;
use crate::wire::Priority;

/// The sending half of a stream.
pub struct SendStream<'a> {
    connection: &'a mut Connection,
    id: StreamId,
}

/// The receiving half of a stream.
pub struct RecvStream<'a> {
    connection: &'a mut Connection,
    id: StreamId,
}

impl<'a> SendStream<'a> {
    pub(super) const fn new(connection: &'a mut Connection, id: StreamId) -> Self {
        Self { connection, id }
    }

    /// Queues the front of `bytes` and returns how many were taken: at least one, unless `bytes` is empty.
    ///
    /// # Errors
    /// [`WriteError::Blocked`] if there is no room; nothing was taken then, and [`Event::Writable`](super::Event::Writable) or the registered
    /// waker tells when there is.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        self.connection.mux.write(self.id, bytes)
    }

    /// Queues the front of `chunk` without a copy, removes it from `chunk`, and returns how many bytes were taken.
    ///
    /// # Errors
    /// As for [`SendStream::write`].
    pub fn write_chunk(&mut self, chunk: &mut Bytes) -> Result<usize, WriteError> {
        self.connection.mux.write_chunk(self.id, chunk)
    }

    /// Ends this half once all that is queued is sent: FIN. Doing it again changes nothing.
    ///
    /// Succeeds after the peer's STOP as well, if everything that was written had been sent before: nothing was lost. What the peer has read, only its
    /// answer can tell. [`SendStream::stopped`] says whether the peer sent STOP.
    ///
    /// # Errors
    /// Returns [`WriteError::Stopped`] if the peer's STOP made this side drop bytes that were written, or if the stream was refused before its OPEN was sent.
    /// Returns [`WriteError::Closed`] if this half was reset here, and [`WriteError::Connection`] if the connection has ended.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        self.connection.mux.finish(self.id)
    }

    /// Whether all that was written stands in records that were taken by [`Connection::poll_transmit`], FIN included if it was asked for.
    /// If not, [`Event::Writable`](super::Event::Writable) or the registered waker tells when.
    ///
    /// # Errors
    /// Returns [`WriteError`] as [`SendStream::finish`] does: after the peer's STOP only if bytes that were written were dropped.
    pub fn is_flushed(&mut self) -> Result<bool, WriteError> {
        self.connection.mux.is_flushed(self.id)
    }

    /// Gives this half up: what is queued is dropped, and the peer's application learns `code`. Does nothing if this half has ended.
    pub fn reset(&mut self, code: ErrorCode) {
        self.connection.mux.reset(self.id, code);
    }

    /// The application lets go of this half: what it has not finished is reset with CANCELLED; what it has finished is still sent.
    pub fn cancel(&mut self) {
        self.connection.mux.cancel(self.id);
    }

    /// Sends on this stream with `priority` from now on, whatever the peer asks for.
    pub fn set_priority(&mut self, priority: Priority) {
        self.connection.mux.set_priority(self.id, priority);
    }

    /// What this half waits for; `None` if the application let go of the stream.
    pub fn blocked_on(&mut self) -> Option<BlockedOn> {
        let may_send = self.connection.decision == PeerApproval::Accepted;
        self.connection.mux.blocked_on(self.id, may_send)
    }

    /// Registers `waker` to be woken once, instead of an event, when this half is told of something. Returns the waker that it replaces, if it is another
    /// one: a caller that holds a lock should drop it after that, since a waker may be the last to hold its task.
    pub fn register(&mut self, waker: &Waker) -> Option<Waker> {
        self.connection.mux.register_writer(self.id, waker)
    }

    /// Returns how this half ended: `Some` with the code if the peer sent STOP, `None` if this side finished it (FIN was sent) or reset it.
    ///
    /// # Errors
    /// Returns [`WriteError::Blocked`] if the half has not ended: [`Event::Stopped`](super::Event::Stopped), or the waker of
    /// [`SendStream::register_stopped`], reports the end. Returns [`WriteError::Connection`] if the connection ended before the half did.
    pub fn stopped(&mut self) -> Result<Option<ErrorCode>, WriteError> {
        self.connection.mux.stopped(self.id)
    }

    /// Registers `waker` to be woken once, instead of an event, when this half ends. Returns the waker that it replaces, as [`SendStream::register`] does.
    pub fn register_stopped(&mut self, waker: &Waker) -> Option<Waker> {
        self.connection.mux.register_stopped(self.id, waker)
    }
}

impl<'a> RecvStream<'a> {
    pub(super) const fn new(connection: &'a mut Connection, id: StreamId) -> Self {
        Self { connection, id }
    }

    /// Moves what there is into `out` and returns its length; 0 at the end of the stream, or if `out` is empty.
    ///
    /// # Errors
    /// [`ReadError::Blocked`] if there is nothing yet: [`Event::Readable`](super::Event::Readable) or the registered waker tells when there is.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, ReadError> {
        self.connection.mux.read(self.id, out)
    }

    /// Takes what there is, up to `max` bytes, without a copy; `None` at the end of the stream.
    ///
    /// # Errors
    /// As for [`RecvStream::read`].
    pub fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, ReadError> {
        self.connection.mux.read_chunk(self.id, max)
    }

    /// Bytes that can be read now.
    pub fn readable_len(&self) -> usize {
        self.connection.mux.readable_len(self.id)
    }

    /// Says that this side does not want what the peer sends on this stream. What is unread is dropped.
    pub fn stop(&mut self, code: ErrorCode) {
        self.connection.mux.stop(self.id, code);
    }

    /// Asks the peer to send on this stream with `priority`.
    pub fn request_priority(&mut self, priority: Priority) {
        self.connection.mux.request_priority(self.id, priority);
    }

    /// The protocol that the opener named, if it did.
    pub fn protocol(&self) -> Option<Arc<str>> {
        self.connection.mux.protocol(self.id)
    }

    /// The priority that this side sends with.
    pub fn priority(&self) -> Option<Priority> {
        self.connection.mux.priority(self.id)
    }

    /// Whether the data of this stream may be delivered more than once: whether it is one of [`Connection::open_early`](super::Connection::open_early), or, at the responder,
    /// came as early data or could have come so before, since it stood in the initiator's second flight after early data that was refused. A copy of early data is delivered when an attacker on the path lets it
    /// arrive before the original; or when this side's strike register does not know it.
    pub fn is_early(&self) -> bool {
        self.connection.mux.is_early(self.id).unwrap_or(false)
    }

    /// The id on the wire, once OPEN was written or received.
    pub fn wire_id(&self) -> Option<u64> {
        self.connection.mux.wire_id(self.id)
    }

    /// Registers `waker` to be woken once, instead of an event, when this half is told of something. Returns the waker that it replaces, as
    /// [`SendStream::register`] does.
    pub fn register(&mut self, waker: &Waker) -> Option<Waker> {
        self.connection.mux.register_reader(self.id, waker)
    }
}
