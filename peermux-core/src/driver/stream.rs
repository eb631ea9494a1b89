//! Streams, as tasks and threads hold them.

use alloc::sync::Arc;
use core::task::{Poll, Waker};

use bytes::Bytes;

use super::Driver;
use crate::code::ErrorCode;
use crate::error::{ConnectionError, ReadError, WriteError};
use crate::id::StreamId;
use crate::stats::StreamStats;
use crate::wire::Priority;

/// A stream that the application holds. Dropping it lets go of it: see [`Connection::release`](crate::Connection::release).
pub struct Stream {
    pub(super) driver: Arc<Driver>,
    pub(super) id: StreamId,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _former = self.driver.with(|connection| {
            let former = connection.take_wakers(self.id);
            connection.release(self.id);
            former
        });
    }
}

fn pending<T, E>(result: Result<T, E>, is_blocked: impl FnOnce(&E) -> bool) -> Poll<Result<T, E>> {
    match result {
        Err(error) if is_blocked(&error) => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl Stream {
    /// The stream's id in its connection.
    pub const fn id(&self) -> StreamId {
        self.id
    }

    /// The connection that the stream belongs to.
    pub const fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// As [`RecvStream::read`](crate::RecvStream::read); `waker` is woken when there is something.
    pub fn poll_read(&self, waker: &Waker, out: &mut [u8]) -> Poll<Result<usize, ReadError>> {
        self.poll_recv(waker, |recv| recv.read(out))
    }

    /// As [`RecvStream::read_chunk`](crate::RecvStream::read_chunk); `waker` is woken when there is something.
    pub fn poll_read_chunk(&self, waker: &Waker, max: usize) -> Poll<Result<Option<Bytes>, ReadError>> {
        self.poll_recv(waker, |recv| recv.read_chunk(max))
    }

    fn poll_recv<T>(
        &self,
        waker: &Waker,
        act: impl FnOnce(&mut crate::RecvStream<'_>) -> Result<T, ReadError>,
    ) -> Poll<Result<T, ReadError>> {
        let mut former = None;
        // `former` is dropped when the lock is gone.
        self.driver.with(|connection| {
            let mut recv = connection.recv_stream(self.id);
            let result = pending(act(&mut recv), |error| *error == ReadError::Blocked);
            if result.is_pending() {
                former = recv.register(waker);
            }
            result
        })
    }

    /// As [`SendStream::write`](crate::SendStream::write); `waker` is woken when there is room.
    pub fn poll_write(&self, waker: &Waker, bytes: &[u8]) -> Poll<Result<usize, WriteError>> {
        self.poll_send(waker, |send| send.write(bytes))
    }

    /// As [`SendStream::write_chunk`](crate::SendStream::write_chunk); `waker` is woken when there is room.
    pub fn poll_write_chunk(&self, waker: &Waker, chunk: &mut Bytes) -> Poll<Result<usize, WriteError>> {
        self.poll_send(waker, |send| send.write_chunk(chunk))
    }

    fn poll_send<T>(
        &self,
        waker: &Waker,
        act: impl FnOnce(&mut crate::SendStream<'_>) -> Result<T, WriteError>,
    ) -> Poll<Result<T, WriteError>> {
        let mut former = None;
        // As in `poll_recv`.
        self.driver.with(|connection| {
            let mut send = connection.send_stream(self.id);
            let result = pending(act(&mut send), |error| *error == WriteError::Blocked);
            if result.is_pending() {
                former = send.register(waker);
            }
            result
        })
    }

    /// Ready once all that was written is with the transport; `waker` is woken then.
    pub fn poll_flush(&self, waker: &Waker) -> Poll<Result<(), WriteError>> {
        self.poll_send(waker, |send| match send.is_flushed() {
            Ok(true) => Ok(()),
            Ok(false) => Err(WriteError::Blocked),
            Err(error) => Err(error),
        })
    }

    /// Finishes the sending half; ready once FIN is with the transport.
    pub fn poll_finish(&self, waker: &Waker) -> Poll<Result<(), WriteError>> {
        self.poll_send(waker, |send| {
            send.finish()?;
            match send.is_flushed() {
                Ok(true) => Ok(()),
                Ok(false) => Err(WriteError::Blocked),
                Err(error) => Err(error),
            }
        })
    }

    /// Ready once the sending half has ended: see [`SendStream::stopped`](crate::SendStream::stopped). `waker` is woken then; only the last one is kept.
    ///
    /// # Errors
    /// Returns the [`ConnectionError`] if the connection ended before the half did.
    pub fn poll_stopped(&self, waker: &Waker) -> Poll<Result<Option<ErrorCode>, ConnectionError>> {
        let mut former = None;
        // As in `poll_recv`.
        self.driver.with(|connection| {
            let mut send = connection.send_stream(self.id);
            match send.stopped() {
                Ok(code) => Poll::Ready(Ok(code)),
                Err(WriteError::Connection(error)) => Poll::Ready(Err(error)),
                Err(WriteError::Blocked) => {
                    former = send.register_stopped(waker);
                    Poll::Pending
                }
                // The stream was refused here.
                Err(_) => Poll::Ready(Ok(None)),
            }
        })
    }

    /// The protocol that the opener named, if it did.
    pub fn protocol(&self) -> Option<Arc<str>> {
        self.driver.lock().connection.recv_stream(self.id).protocol()
    }

    /// The stream's id on the wire: see [`RecvStream::wire_id`](crate::RecvStream::wire_id).
    pub fn wire_id(&self) -> Option<u64> {
        self.driver.lock().connection.recv_stream(self.id).wire_id()
    }

    /// What the stream has done so far: see [`Connection::stream_stats`](crate::Connection::stream_stats).
    pub fn stats(&self) -> Option<StreamStats> {
        self.driver.lock().connection.stream_stats(self.id)
    }

    /// Whether the stream's data may be delivered more than once: see [`RecvStream::is_early`](crate::RecvStream::is_early).
    pub fn is_early(&self) -> bool {
        self.driver.lock().connection.recv_stream(self.id).is_early()
    }

    /// The priority that this side sends with.
    pub fn priority(&self) -> Priority {
        self.driver.lock().connection.recv_stream(self.id).priority().unwrap_or_default()
    }

    /// Gives the sending half up: see [`SendStream::reset`](crate::SendStream::reset).
    pub fn reset(&self, code: ErrorCode) {
        self.driver.with(|connection| connection.send_stream(self.id).reset(code));
    }

    /// Stops reading: see [`RecvStream::stop`](crate::RecvStream::stop).
    pub fn stop(&self, code: ErrorCode) {
        self.driver.with(|connection| connection.recv_stream(self.id).stop(code));
    }

    /// Refuses a stream of the peer: see [`Connection::refuse`](crate::Connection::refuse).
    pub fn refuse(&self, code: ErrorCode) {
        let _former = self.driver.with(|connection| {
            let former = connection.take_wakers(self.id);
            connection.refuse(self.id, code);
            former
        });
    }

    /// The sending half is dropped: resets it unless it was finished.
    pub fn drop_sending_half(&self) {
        self.driver.with(|connection| connection.send_stream(self.id).cancel());
    }

    /// The receiving half is dropped: nothing more is wanted.
    pub fn drop_receiving_half(&self) {
        self.stop(ErrorCode::CANCELLED);
    }
}
