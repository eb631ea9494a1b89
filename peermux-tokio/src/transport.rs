//! A connection's socket, and the steps of reading and writing.
//!
//! The connection's task takes these steps, and so does whoever would wait for the connection otherwise: a task that reads or writes much does all that there is to do in one go,
//! and nobody has to be woken for it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::BufMut;
use peermux_core::driver::{AfterSend, Driver, ReadBuffer, WakeWriter, WriteAction, WriteBuffer};
use peermux_core::time::Instant;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::handover::{Handover, Helper, Work};

/// The clock of a connection: the time since it began.
#[derive(Clone, Copy)]
pub(crate) struct Clock(tokio::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    pub(crate) fn now(self) -> Instant {
        Instant::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// `None` is later than this clock can tell.
    pub(crate) fn at(self, moment: Instant) -> Option<tokio::time::Instant> {
        self.0.checked_add(moment.saturating_since(Instant::ZERO))
    }
}

/// Milliseconds since 1970; 0 before that.
pub(crate) fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The addresses of a socket.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

impl Addresses {
    pub(crate) fn of(socket: &TcpStream) -> Self {
        // A socket that the peer has reset already has no address. Its handshake fails, so that no handle tells this one.
        let known = |address: io::Result<_>| address.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        Self { local: known(socket.local_addr()), peer: known(socket.peer_addr()) }
    }
}

/// What the connection's task and all of its streams share.
pub(crate) struct Transport {
    driver: Arc<Driver>,
    clock: Clock,
    io: Handover<Io>,
    addresses: Addresses,
    /// The last read took all that it had room for: the next one may find more at once.
    has_input: AtomicBool,
    /// The connection has many streams: see [`WriteBuffer::is_crowded`].
    crowded: AtomicBool,
}

/// Both directions. One at a time is at work here: the connection's task, or somebody who would wait for it.
#[derive(Default)]
pub(crate) struct Io {
    /// While the connection's task runs.
    socket: Option<Arc<TcpStream>>,
    input: ReadBuffer,
    output: WriteBuffer,
    /// So much of the output is written.
    written: usize,
    /// What to do when all of it is.
    then: Option<AfterSend>,
    /// The socket took no more, and the connection's task has not heard from it since.
    blocked: bool,
    /// As the socket was told.
    unsent: usize,
    short_segments: bool,
    /// Segments that are not full wait for more.
    corked: bool,
    /// What another than the connection's task has met.
    error: Option<io::Error>,
}

/// What a step of reading has found.
pub(crate) enum Receives {
    Bytes(usize),
    Nothing,
    /// The peer sends nothing more.
    End,
}

/// What a step of writing has done.
pub(crate) enum Sends {
    /// So many bytes were written, and there may be more to do.
    Bytes(usize),
    /// So many bytes were written, and there is nothing to do before the driver wakes its writer, or the timer goes off.
    Idle(usize, Option<Instant>),
    /// The socket takes no more.
    Blocked,
    /// As [`WriteAction::HalfClose`].
    HalfClose(Option<Instant>),
    /// Nothing is to be sent or received any more.
    Over,
}

impl Transport {
    pub(crate) fn new(driver: Arc<Driver>, clock: Clock, addresses: Addresses) -> Arc<Self> {
        Arc::new(Self {
            driver,
            clock,
            io: Handover::default(),
            addresses,
            has_input: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
        })
    }

    pub(crate) const fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    pub(crate) const fn clock(&self) -> Clock {
        self.clock
    }

    /// The connection's task begins.
    pub(crate) fn begin(&self, socket: &Arc<TcpStream>) {
        let mut io = self.io.lock();
        io.short_segments = has_short_segments(socket);
        io.socket = Some(socket.clone());
    }

    /// The connection's task is over: nobody else keeps the socket open.
    pub(crate) fn end(&self) {
        *self.io.lock() = Io::default();
        self.io.leave();
    }

    /// The addresses of the socket.
    pub(crate) const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// For the connection's task. Returns `None` if a helper is at work, which wakes the task when it leaves.
    pub(crate) fn enter(&self, waker: &Waker) -> Option<MutexGuard<'_, Io>> {
        self.io.enter(waker)
    }

    /// More can be read at once.
    pub(crate) fn has_input(&self) -> bool {
        self.has_input.load(Relaxed)
    }

    /// See [`WriteBuffer::is_crowded`].
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded.load(Relaxed)
    }

    /// For somebody who would wait otherwise.
    pub(crate) const fn help(&self) -> Help<'_> {
        Help { transport: self, helper: self.io.help(), moved: 0 }
    }
}

/// Somebody who does the work of the connection's task, step by step.
pub(crate) struct Help<'a> {
    transport: &'a Transport,
    helper: Helper<'a, Io>,
    moved: usize,
}

impl Help<'_> {
    /// Bytes after which the connection's task goes on: other tasks have their turn then.
    const MOST: usize = 1 << 20;

    /// Reads a record and sends some, as far as that is possible now and nobody else is at work. Whether anything moved. What goes wrong is left to the connection's task.
    pub(crate) fn step(&mut self) -> bool {
        let Some(mut io) = self.helper.enter() else { return false };
        let had_to_wait = io.blocked || io.error.is_some();
        let moved = if self.moved < Self::MOST { io.step(self.transport) } else { Ok(0) };
        let moved = moved.unwrap_or_else(|error| {
            io.error = Some(error);
            0
        });
        self.moved += moved;
        // The connection's task hears from the socket.
        if self.moved >= Self::MOST || !had_to_wait && (io.blocked || io.error.is_some()) {
            self.helper.call();
        }
        moved > 0
    }
}

impl Work for Io {
    fn panicked(&mut self) {
        (self.input, self.output, self.written, self.then) = Default::default();
        self.error = Some(io::Error::other("a task panicked while it sent or received"));
    }
}

impl Io {
    /// How many bytes were moved.
    fn step(&mut self, transport: &Transport) -> io::Result<usize> {
        let now = transport.clock.now();
        let received = match self.receive(transport, now, WakeWriter::Yes)? {
            Receives::Bytes(len) => len,
            Receives::Nothing | Receives::End => 0,
        };
        let sent = match self.send(transport, now, None)? {
            Sends::Bytes(len) | Sends::Idle(len, _) => len,
            Sends::Blocked | Sends::HalfClose(_) | Sends::Over => 0,
        };
        Ok(received + sent)
    }

    /// What another than the connection's task has met.
    pub(crate) fn take_error(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// Reads on after a failure: the peer may have said why, before it went.
    pub(crate) fn drain(&mut self, transport: &Transport, now: Instant) {
        while matches!(self.receive(transport, now, WakeWriter::No), Ok(Receives::Bytes(_))) {}
    }

    /// Reads what is there, up to a record.
    pub(crate) fn receive(
        &mut self,
        transport: &Transport,
        now: Instant,
        wake_writer: WakeWriter,
    ) -> io::Result<Receives> {
        let Some(socket) = self.socket.as_ref().filter(|_| self.error.is_none()) else { return Ok(Receives::Nothing) };
        let mut read = None;
        let result = socket.try_io(Interest::READABLE, || {
            let mut room = self.input.room();
            let wanted = room.remaining_mut();
            let len = socket.try_read_buf(&mut room)?;
            read = Some((len, len == wanted));
            if 0 < len && len < wanted { all_was_moved() } else { Ok(()) }
        });
        transport.has_input.store(matches!(read, Some((_, true))), Relaxed);
        match read {
            Some((0, _)) => Ok(Receives::End),
            Some((len, _)) => {
                transport.driver.handle_input(now, &mut self.input, wake_writer);
                Ok(Receives::Bytes(len))
            }
            None => {
                self.release_input();
                match result {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                    _ => Ok(Receives::Nothing),
                }
            }
        }
    }

    /// Writes what there is to send. What goes into a record is decided when the socket can take it. The connection's task gives its waker, for when there is more.
    pub(crate) fn send(&mut self, transport: &Transport, now: Instant, waker: Option<&Waker>) -> io::Result<Sends> {
        let Some(socket) = self.socket.as_ref().filter(|_| self.error.is_none()) else {
            return Ok(Sends::Idle(0, None));
        };
        if self.blocked {
            return Ok(Sends::Blocked);
        }
        if self.written == self.output.bytes().len() {
            if self.then == Some(AfterSend::PollAgain) && !takes_more(socket) {
                self.blocked = true;
                return Ok(Sends::Blocked);
            }
            let pump = match waker {
                Some(waker) => transport.driver.poll_transmit(now, &mut self.output, waker),
                None => match transport.driver.transmit_records(now, &mut self.output) {
                    Some(true) => WriteAction::Send(AfterSend::PollAgain),
                    // The connection's task will ask.
                    Some(false) => WriteAction::Send(AfterSend::Idle(None)),
                    None => WriteAction::Wait(None),
                },
            };
            transport.crowded.store(self.output.is_crowded(), Relaxed);
            match pump {
                WriteAction::Send(then) => {
                    (self.written, self.then) = (0, Some(then));
                    let corked = self.short_segments && self.output.fills_packets();
                    if std::mem::replace(&mut self.corked, corked) != corked {
                        cork(socket, corked)?;
                    }
                }
                WriteAction::Wait(timer) => {
                    self.rest()?;
                    return Ok(Sends::Idle(0, timer));
                }
                WriteAction::HalfClose(timer) => {
                    self.rest()?;
                    return Ok(Sends::HalfClose(timer));
                }
                WriteAction::Close => {
                    self.socket = None;
                    return Ok(Sends::Over);
                }
            }
            if self.unsent != self.output.unsent_limit() {
                self.unsent = self.output.unsent_limit();
                limit_unsent(socket, self.unsent)?;
            }
        }
        let rest = &self.output.bytes()[self.written..];
        let whole = rest.len();
        let len = write(socket, rest, self.then == Some(AfterSend::PollAgain) && self.short_segments)?;
        match len {
            Some(0) if whole > 0 => return Err(io::ErrorKind::WriteZero.into()),
            Some(len) => self.written += len,
            None => {}
        }
        if len != Some(whole) {
            self.blocked = true;
            // Until the rest is written, there may be something else: the driver is asked again.
            self.then = self.then.filter(|then| *then == AfterSend::PollAgain);
            return Ok(len.map_or(Sends::Blocked, Sends::Bytes));
        }
        if let Some(AfterSend::Idle(timer)) = self.then {
            self.rest()?;
            return Ok(Sends::Idle(whole, timer));
        }
        Ok(Sends::Bytes(whole))
    }

    /// There is nothing to send: no buffer is held, and nothing waits for more.
    fn rest(&mut self) -> io::Result<()> {
        let holds = self.corked || (self.then == Some(AfterSend::PollAgain) && self.short_segments);
        (self.output, self.written, self.then) = (WriteBuffer::default(), 0, None);
        self.corked = false;
        match &self.socket {
            Some(socket) if holds => cork(socket, false),
            _ => Ok(()),
        }
    }

    /// No buffer is held while nothing arrives.
    pub(crate) fn release_input(&mut self) {
        self.input.release();
    }

    /// Ready if the socket takes more again, which it did not; the connection's task is woken when it does.
    pub(crate) fn poll_unblocked(&mut self, cx: &mut Context<'_>, socket: &TcpStream) -> Poll<io::Result<()>> {
        if !self.blocked {
            return Poll::Pending;
        }
        ready!(socket.poll_write_ready(cx))?;
        self.blocked = false;
        Poll::Ready(Ok(()))
    }
}

/// What a system call says that moved less than it could: it need not be tried again before the system says so. Where sockets tell only of changes, that is how all was moved.
#[cfg(unix)]
fn all_was_moved() -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

#[cfg(not(unix))]
fn all_was_moved() -> io::Result<()> {
    Ok(())
}

/// Sets how many bytes may wait in the kernel before the socket is not writable any more, so that what is urgent does not wait behind them.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios"))]
fn limit_unsent(socket: &TcpStream, bytes: usize) -> io::Result<()> {
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(u32::try_from(bytes).unwrap_or(u32::MAX))
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios")))]
fn limit_unsent(_: &TcpStream, _: usize) -> io::Result<()> {
    Ok(())
}

/// Whether the socket takes more now. Tokio believes so until a write has failed; then a record would have been made too early.
#[cfg(unix)]
fn takes_more(socket: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let look = || match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&Timespec::default())) {
        Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    };
    socket.try_io(Interest::WRITABLE, look).is_ok()
}

#[cfg(not(unix))]
fn takes_more(_: &TcpStream) -> bool {
    true
}

/// Whether a segment is much shorter than what may wait unsent. One that is not, as on the loopback interface, must not wait to be filled: the socket would
/// not say meanwhile that it takes more.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_short_segments(socket: &TcpStream) -> bool {
    socket2::SockRef::from(socket).tcp_mss().is_ok_and(|len| len <= 4096)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn has_short_segments(_: &TcpStream) -> bool {
    false
}

/// Sets whether segments that are not full wait until they are. MSG_MORE makes them wait only for the next acknowledgement.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn cork(socket: &TcpStream, on: bool) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_cork(socket, on)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn cork(_: &TcpStream, _: bool) -> io::Result<()> {
    Ok(())
}

/// Writes; `None` if the socket takes nothing now. If there is `more`, what does not fill a segment waits for it, as it would in a stream that is not cut into records.
fn write(socket: &TcpStream, bytes: &[u8], more: bool) -> io::Result<Option<usize>> {
    let mut written = None;
    let result = socket.try_io(Interest::WRITABLE, || {
        let len = write_some(socket, bytes, more)?;
        written = Some(len);
        if 0 < len && len < bytes.len() { all_was_moved() } else { Ok(()) }
    });
    match result {
        Err(error) if written.is_none() && error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(written),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn write_some(socket: &TcpStream, bytes: &[u8], more: bool) -> io::Result<usize> {
    use rustix::net::{SendFlags, send};

    let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
    Ok(rustix::io::retry_on_intr(|| send(socket, bytes, flags))?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn write_some(socket: &TcpStream, bytes: &[u8], _: bool) -> io::Result<usize> {
    socket.try_write(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// As when an early stream is flushed by another task while the connection's task begins.
    #[test]
    fn a_helper_wakes_the_task_that_has_found_it_at_work_in_its_first_poll() {
        let (clock, address) = (Clock::start(), SocketAddr::from(([127, 0, 0, 1], 1)));
        let key = peermux_core::crypto::StaticSecret::from_bytes(&[1; 32]);
        let remote = peermux_core::ExpectedPeer::Any;
        let connection = peermux_core::Connection::initiator(
            Arc::default(),
            key.into(),
            remote,
            clock.now(),
            &mut getrandom::SysRng,
        );
        let transport = Transport::new(
            Driver::new(connection.expect("the configuration is valid")),
            clock,
            Addresses { local: address, peer: address },
        );
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let help = transport.help();
        let work = help.helper.enter().expect("nobody else is at work");
        assert!(transport.enter(&count.clone().into()).is_none(), "the helper is at work");
        drop(work);
        assert_eq!(count.0.load(SeqCst), 0);
        drop(help);
        assert_eq!(count.0.load(SeqCst), 1);
    }
}
