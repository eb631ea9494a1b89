//! Streams.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use peermux_core::driver;

use crate::signal::Signal;
use crate::{ConnectionError, ErrorCode, Priority, ReadError, StreamStats, WriteError};

/// A stream of a connection: [`Read`] and [`Write`], also as `&Stream`, so that threads can share it.
///
/// [`Stream::shutdown`] finishes the sending half and waits until that is with the transport; `flush` waits until all that was written is. Dropping a
/// stream, or the last of its clones, resets it if it was not shut down: the peer never takes that for its end.
///
/// A read or write that fails, or whose time is over, has taken nothing. Errors of [`Read`] and [`Write`] hold a [`ReadError`] or [`WriteError`]: see
/// [`io::Error::get_ref`].
pub struct Stream {
    shared: Arc<Shared>,
}

struct Shared {
    stream: driver::Stream,
    read: Half,
    write: Half,
    /// Where threads wait for the end of the sending half.
    stopped: Arc<Signal>,
}

/// Where the threads wait that use a half, and how long.
#[derive(Default)]
struct Half {
    signal: Arc<Signal>,
    timeout: Mutex<Option<Duration>>,
}

impl Half {
    fn timeout(&self) -> Option<Duration> {
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout == Some(Duration::ZERO) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a timeout of zero"));
        }
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
        Ok(())
    }

    /// `late` is what to say when the time is over.
    fn block_on<T, E>(&self, late: E, poll: impl FnMut(&Waker) -> Poll<Result<T, E>>) -> Result<T, E> {
        self.signal.block_on(self.timeout(), poll).unwrap_or(Err(late))
    }
}

impl Stream {
    pub(crate) fn new(stream: driver::Stream) -> Self {
        let (read, write) = (Half::default(), Half::default());
        Self { shared: Arc::new(Shared { stream, read, write, stopped: Arc::default() }) }
    }

    /// Another handle to the same stream, with the same timeouts.
    ///
    /// # Errors
    /// None; it can fail for [`TcpStream`](std::net::TcpStream), whose place this takes.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { shared: self.shared.clone() })
    }

    /// The protocol that the opener named, if it did.
    pub fn protocol(&self) -> Option<Arc<str>> {
        self.shared.stream.protocol()
    }

    /// Returns the stream's id on the wire, which both sides know it by. Returns `None` as long as the stream was opened here and its OPEN was not sent.
    pub fn id(&self) -> Option<u64> {
        self.shared.stream.wire_id()
    }

    /// Returns what the stream has done so far, and what it holds now. Returns `None` if it was [refused](Stream::refuse).
    pub fn stats(&self) -> Option<StreamStats> {
        self.shared.stream.stats()
    }

    /// Returns `true` if the stream's data was, or could have been, in a first flight: then it may be delivered more than once.
    pub fn is_early(&self) -> bool {
        self.shared.stream.is_early()
    }

    /// Waits until the sending half has ended. Returns the peer's code if the peer wants no more of it, and `None` if this side finished or reset it. Several threads
    /// may wait at once. Timeouts do not apply.
    ///
    /// # Errors
    /// Returns the [`ConnectionError`] if the connection ended before the half did.
    pub fn stopped(&self) -> Result<Option<ErrorCode>, ConnectionError> {
        self.shared.stopped.block_on_forever(|waker| self.shared.stream.poll_stopped(waker))
    }

    /// The priority that this side sends with.
    pub fn priority(&self) -> Priority {
        self.shared.stream.priority()
    }

    /// How long a read waits at most; without end by default. Reads that are under way keep what they began with.
    ///
    /// When the time is over, a read fails with [`ReadError::Blocked`], as an [`io::Error`] with [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.shared.read.set_timeout(timeout)
    }

    /// How long a write, a flush or the shutdown of the sending half waits at most; without end by default. Those that are under way keep what
    /// they began with.
    ///
    /// When the time is over, a write fails with [`WriteError::Blocked`], as an [`io::Error`] with [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.shared.write.set_timeout(timeout)
    }

    /// How long a read waits at most.
    pub fn read_timeout(&self) -> Option<Duration> {
        self.shared.read.timeout()
    }

    /// How long a write waits at most.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.shared.write.timeout()
    }

    /// Ends halves of the stream. Doing it again changes nothing.
    ///
    /// [`Shutdown::Write`] finishes the sending half: the peer reads to its end. It waits until that is with the transport. [`Shutdown::Read`] tells
    /// the peer that nothing more is wanted, and wakes threads that read.
    ///
    /// # Errors
    /// Of the sending half only: a [`WriteError`]. If it is [`WriteError::Blocked`] the end follows all the same.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.stop(ErrorCode::CANCELLED);
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.shared.write.block_on(WriteError::Blocked, |waker| self.shared.stream.poll_finish(waker))?;
        }
        Ok(())
    }

    /// The next bytes, at most `max`, without a copy; `None` at the end of the stream.
    ///
    /// # Errors
    /// See [`ReadError`]; it is [`ReadError::Blocked`] if the read timeout passes.
    pub fn read_chunk(&self, max: usize) -> Result<Option<Bytes>, ReadError> {
        self.shared.read.block_on(ReadError::Blocked, |waker| self.shared.stream.poll_read_chunk(waker, max))
    }

    /// Queues all of `chunk` without a copy, as room comes up. What was queued is removed from `chunk`, so what an error leaves of it was not.
    ///
    /// # Errors
    /// See [`WriteError`]; it is [`WriteError::Blocked`] if there is no room for as long as the write timeout.
    pub fn write_chunk(&self, chunk: &mut Bytes) -> Result<(), WriteError> {
        while !chunk.is_empty() {
            self.shared
                .write
                .block_on(WriteError::Blocked, |waker| self.shared.stream.poll_write_chunk(waker, chunk))?;
        }
        Ok(())
    }

    /// Tells the peer that nothing more is wanted, and why. Threads that read are woken.
    pub fn stop(&self, code: ErrorCode) {
        self.shared.stream.stop(code);
        self.shared.read.signal.notify();
    }

    /// Gives the sending half up: what is queued is dropped, and the peer learns `code`. Threads that write are woken.
    pub fn reset(&self, code: ErrorCode) {
        self.shared.stream.reset(code);
        self.shared.write.signal.notify();
    }

    /// Asks the peer to send with `priority`.
    pub fn request_priority(&self, priority: Priority) {
        let stream = &self.shared.stream;
        stream.driver().with(|connection| connection.recv_stream(stream.id()).request_priority(priority));
    }

    /// Sends with `priority` from now on.
    pub fn set_priority(&self, priority: Priority) {
        let stream = &self.shared.stream;
        stream.driver().with(|connection| connection.send_stream(stream.id()).set_priority(priority));
    }

    /// Refuses a stream of the peer: both halves end with `code`.
    pub fn refuse(self, code: ErrorCode) {
        self.shared.stream.refuse(code);
        self.shared.stopped.notify();
        self.shared.read.signal.notify();
        self.shared.write.signal.notify();
    }
}

impl Read for &Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let shared = &self.shared;
        Ok(shared.read.block_on(ReadError::Blocked, |waker| shared.stream.poll_read(waker, out))?)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let shared = &self.shared;
        Ok(shared.write.block_on(WriteError::Blocked, |waker| shared.stream.poll_write(waker, bytes))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        let shared = &self.shared;
        Ok(shared.write.block_on(WriteError::Blocked, |waker| shared.stream.poll_flush(waker))?)
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        (&*self).read(out)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?})", self.shared.stream.id())
    }
}
