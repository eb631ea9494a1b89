//! Streams.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peermux_core::driver::{self, Link};

use crate::signal::Signal;
use crate::task;
use crate::transport::Io;
use crate::{Code, ConnectionError, Priority, ReadError, StreamStats, WriteError};

/// A stream of a connection: [`Read`] and [`Write`], also as `&Stream`, so that threads can share it.
///
/// [`Stream::shutdown`] finishes the sending half and waits until its end is with the transport. `flush` waits until
/// everything that was written is with the transport. Dropping a stream, or the last of its clones, resets it unless it
/// was shut down: the peer never takes that for its end.
///
/// A read or write that fails, or whose timeout expires, has taken nothing. Errors of [`Read`] and [`Write`] hold a
/// [`ReadError`] or [`WriteError`]: see [`io::Error::get_ref`].
pub struct Stream {
    shared: Arc<Shared>,
}

struct Shared {
    stream: driver::Stream,
    io: task::Shared,
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
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "timeout must not be zero: use `None` for no timeout",
            ));
        }
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
        Ok(())
    }
}

impl Shared {
    /// Waits for `act`, for as long as `half` may wait, and then returns `late`. As long as `may_help`,
    /// this thread first does the work of the thread that serves the transport.
    fn block_on<T, E>(
        &self,
        half: &Half,
        late: E,
        may_help: impl Fn(&Link<Io>) -> bool,
        mut act: impl FnMut(&driver::Stream, &Waker) -> Poll<Result<T, E>>,
    ) -> Result<T, E> {
        let task::Shared { link, clock } = &self.io;
        // A timeout beyond the end of time is none.
        let deadline = half.timeout().and_then(|timeout| Instant::now().checked_add(timeout));
        let mut helper = None;
        let help = || {
            let moved = may_help(link) && helper.get_or_insert_with(|| link.help()).step(clock.now());
            if !moved {
                // It leaves before this thread waits.
                helper = None;
            }
            moved
        };
        half.signal.block_on(deadline, help, |waker| act(&self.stream, waker)).unwrap_or(Err(late))
    }

    /// A thread that waits for an answer sends what it has asked, without a switch between threads. If
    /// many streams may be about to write, their bytes share a record instead.
    fn read<T>(&self, act: impl FnMut(&driver::Stream, &Waker) -> Poll<Result<T, ReadError>>) -> Result<T, ReadError> {
        self.block_on(&self.read, ReadError::Blocked, |link| link.has_input() || !link.is_crowded(), act)
    }

    /// One thread fills the buffer while another one seals and sends: that is faster than to take turns.
    fn write<T>(
        &self,
        act: impl FnMut(&driver::Stream, &Waker) -> Poll<Result<T, WriteError>>,
    ) -> Result<T, WriteError> {
        self.block_on(&self.write, WriteError::Blocked, |_| false, act)
    }

    fn flush(
        &self,
        act: impl FnMut(&driver::Stream, &Waker) -> Poll<Result<(), WriteError>>,
    ) -> Result<(), WriteError> {
        self.block_on(&self.write, WriteError::Blocked, |link| !link.is_crowded(), act)
    }
}

impl Stream {
    pub(crate) fn new(stream: driver::Stream, io: &task::Shared) -> Self {
        let (read, write) = (Half::default(), Half::default());
        Self { shared: Arc::new(Shared { stream, io: io.clone(), read, write, stopped: Arc::default() }) }
    }

    /// Returns another handle to the same stream, with the same timeouts.
    ///
    /// # Errors
    /// This never fails. The signature is that of [`TcpStream::try_clone`](std::net::TcpStream::try_clone).
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { shared: self.shared.clone() })
    }

    /// Returns the protocol that the opener named, if it did.
    pub fn protocol(&self) -> Option<Arc<str>> {
        self.shared.stream.protocol()
    }

    /// Returns the stream's id on the wire, by which both sides know it. Returns `None` as long as the stream was opened
    /// here and its OPEN was not sent.
    pub fn id(&self) -> Option<u64> {
        self.shared.stream.wire_id()
    }

    /// Returns what the stream has done so far, and what it holds now. Returns `None` if it was
    /// [refused](Stream::refuse).
    pub fn stats(&self) -> Option<StreamStats> {
        self.shared.stream.stats()
    }

    /// Returns `true` if the stream's data was, or could have been, in a first flight: then it may be delivered more than
    /// once.
    pub fn is_early(&self) -> bool {
        self.shared.stream.is_early()
    }

    /// Waits until the sending half has ended. Returns the peer's code if the peer wants no more of it, and `None` if this
    /// side finished or reset it. Several threads may wait at once. Timeouts do not apply.
    ///
    /// # Errors
    /// Returns the [`ConnectionError`] if the connection ended before the half did.
    pub fn stopped(&self) -> Result<Option<Code>, ConnectionError> {
        self.shared.stopped.wait_for(|waker| self.shared.stream.poll_stopped(waker))
    }

    /// Returns the priority that this side sends with.
    pub fn priority(&self) -> Priority {
        self.shared.stream.priority()
    }

    /// Sets how long a read waits at most. By default there is no limit. Reads that are under way keep the timeout that
    /// they began with.
    ///
    /// If the timeout expires, a read fails with [`ReadError::Blocked`], as an [`io::Error`] with
    /// [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if `timeout` is zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.shared.read.set_timeout(timeout)
    }

    /// Sets how long a write, a flush or the shutdown of the sending half waits at most. By default there is no limit.
    /// Calls that are under way keep the timeout that they began with.
    ///
    /// If the timeout expires, a write fails with [`WriteError::Blocked`], as an [`io::Error`] with
    /// [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if `timeout` is zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.shared.write.set_timeout(timeout)
    }

    /// Returns how long a read waits at most.
    pub fn read_timeout(&self) -> Option<Duration> {
        self.shared.read.timeout()
    }

    /// Returns how long a write waits at most.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.shared.write.timeout()
    }

    /// Ends one half of the stream or both. A second call changes nothing.
    ///
    /// [`Shutdown::Write`] finishes the sending half: the peer reads to its end. This waits until the end is with the
    /// transport. [`Shutdown::Read`] asks the peer to stop sending, and wakes threads that read.
    ///
    /// # Errors
    /// Returns a [`WriteError`] of the sending half. If it is [`WriteError::Blocked`], the end follows all the same.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.stop(Code::CANCELLED);
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.shared.flush(driver::Stream::poll_finish)?;
        }
        Ok(())
    }

    /// Waits for the next bytes, and returns at most `max` of them without a copy. Returns `None` at the end of the stream.
    ///
    /// # Errors
    /// See [`ReadError`]. Returns [`ReadError::Blocked`] if the read timeout expires.
    pub fn read_chunk(&self, max: usize) -> Result<Option<Bytes>, ReadError> {
        self.shared.read(|stream, waker| stream.poll_read_chunk(waker, max))
    }

    /// Queues all of `chunk` without a copy, and waits for room as often as needed. What was queued is removed from
    /// `chunk`: after an error the rest is still there.
    ///
    /// # Errors
    /// See [`WriteError`]. Returns [`WriteError::Blocked`] if there is no room until the write timeout expires.
    pub fn write_chunk(&self, chunk: &mut Bytes) -> Result<(), WriteError> {
        while !chunk.is_empty() {
            self.shared.write(|stream, waker| stream.poll_write_chunk(waker, chunk))?;
        }
        Ok(())
    }

    /// Asks the peer to stop sending, and drops what is unread. `code` says why. Threads that read are woken.
    pub fn stop(&self, code: Code) {
        self.shared.stream.stop(code);
        self.shared.read.signal.notify();
    }

    /// Resets the sending half: what is queued is dropped, and the peer learns `code`. Threads that write are woken.
    pub fn reset(&self, code: Code) {
        self.shared.stream.reset(code);
        self.shared.write.signal.notify();
    }

    /// Asks the peer to send with `priority`.
    pub fn request_priority(&self, priority: Priority) {
        let stream = &self.shared.stream;
        stream.driver().with(|connection| connection.recv(stream.id()).request_priority(priority));
    }

    /// Sends with `priority` from now on.
    pub fn set_priority(&self, priority: Priority) {
        let stream = &self.shared.stream;
        stream.driver().with(|connection| connection.send(stream.id()).set_priority(priority));
    }

    /// Refuses a stream of the peer: both halves end with `code`.
    pub fn refuse(self, code: Code) {
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
        Ok(self.shared.read(|stream, waker| stream.poll_read(waker, out))?)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        Ok(self.shared.write(|stream, waker| stream.poll_write(waker, bytes))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.shared.flush(driver::Stream::poll_flush)?)
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
