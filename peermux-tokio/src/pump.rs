//! The task between a socket and a [`Driver`].
//!
//! One task reads and writes: what arrives is often answered at once, by credit or by the application, and two tasks would wake each other for it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use peermux_core::driver::{self, Driver, ReadBuffer, Waiter, WriteBuffer};
use peermux_core::time::Instant;
use peermux_core::trace::instrument;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Bytes after which other tasks have their turn: so what was read is taken, and what was sent is filled up again, while it is still in the
/// processor's cache.
const TURN: usize = 64 * 1024;

/// When the alarm is set to go off first, at the latest: each time that it is set to go off before all others, Tokio wakes the thread that waits for the system. So a connection
/// that ends soon does not set it twice, for its handshake and for its end.
const FIRST_ALARM: Duration = Duration::from_secs(2);

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
    fn at(self, moment: Instant) -> Option<tokio::time::Instant> {
        self.0.checked_add(moment.saturating_since(Instant::ZERO))
    }
}

/// Milliseconds since 1970; 0 before that.
pub(crate) fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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

/// Starts the task of a connection over `socket`.
pub(crate) fn start(socket: TcpStream, driver: &Arc<Driver>, clock: Clock) -> io::Result<()> {
    socket.set_nodelay(true)?;
    tokio::spawn(instrument(Pump::new(socket, driver.clone(), clock).run()));
    Ok(())
}

/// What a connection's task holds. One that is dropped before its end, as when its runtime shuts down, ends the connection: others may wait for
/// it in other runtimes.
struct Pump {
    socket: TcpStream,
    driver: Arc<Driver>,
    clock: Clock,
    input: ReadBuffer,
    /// The peer sends nothing more.
    at_end: bool,
    /// Nothing can be sent any more.
    failed: bool,
    output: WriteBuffer,
    /// So much of the output is written; and something else waits behind it.
    written: usize,
    more: bool,
    /// As the socket was told.
    unsent: usize,
    short_segments: bool,
    half_closed: bool,
    /// Others have their turn before this one goes on, since many may be about to write.
    crowded: bool,
    over: bool,
}

/// What the sending side of a socket does.
enum Sends {
    /// So many bytes were written.
    Bytes(usize),
    /// It waits to be woken by the driver, at the latest until the timer.
    Idle(Option<Instant>),
    /// It waits for the socket to take more.
    Blocked,
    /// Nothing is to be sent or received any more.
    Over,
}

impl Drop for Pump {
    fn drop(&mut self) {
        if !self.over {
            self.driver.handle_transport_error(self.clock.now(), "the runtime of the connection has shut down");
        }
    }
}

impl Pump {
    fn new(socket: TcpStream, driver: Arc<Driver>, clock: Clock) -> Self {
        Self {
            short_segments: has_short_segments(&socket),
            socket,
            driver,
            clock,
            input: ReadBuffer::default(),
            at_end: false,
            failed: false,
            output: WriteBuffer::default(),
            written: 0,
            more: false,
            unsent: 0,
            half_closed: false,
            over: false,
            crowded: false,
        }
    }

    async fn run(mut self) {
        let mut alarm = pin!(tokio::time::sleep_until(self.clock.0));
        let mut closed = self.driver.waiter();
        if let Err(error) = poll_fn(|cx| self.poll(cx, alarm.as_mut(), &mut closed)).await {
            self.driver.handle_transport_error(self.clock.now(), &error.to_string());
        }
        self.over = true;
    }

    /// Ready once the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>, mut alarm: Pin<&mut Sleep>, closed: &mut Waiter) -> Poll<io::Result<()>> {
        // Of many who write, those that are about to come into the same record: twice as many streams come and go with that.
        if std::mem::take(&mut self.crowded) {
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        let mut turn = 0;
        loop {
            // Reading first: once the driver has the waker, nothing that this task does itself must wake it.
            let received = self.receive(cx)?;
            let sends = self.send(cx).inspect_err(|_| {
                // The peer may have said why, before it went.
                self.failed = true;
                while self.receive(cx).is_ok_and(|len| len > 0) {}
            });
            let (sent, timer) = match sends? {
                Sends::Bytes(sent) => (sent, None),
                Sends::Idle(timer) => (0, timer),
                Sends::Blocked if closed.poll_closed(cx.waker()).is_ready() => return Poll::Ready(Ok(())),
                Sends::Blocked => (0, self.driver.with(|connection| connection.poll_timeout())),
                Sends::Over => return Poll::Ready(Ok(())),
            };
            if received + sent > 0 {
                turn += received + sent;
                if turn < TURN {
                    continue;
                }
                // Goes on when the others have had their turn.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
            // Nothing moves. No buffer is held meanwhile.
            self.input.release();
            if !self.alarm_rings(cx, alarm.as_mut(), timer) {
                return Poll::Pending;
            }
            self.driver.handle_timeout(self.clock.now());
        }
    }

    /// Whether it is time for `timer`. Timers move on with whatever is sent and received; so an alarm that is set too early is left alone, and set
    /// anew when it goes off.
    fn alarm_rings(&self, cx: &mut Context<'_>, mut alarm: Pin<&mut Sleep>, timer: Option<Instant>) -> bool {
        let Some(timer) = timer else { return false };
        let Some(deadline) = self.clock.at(timer) else { return false };
        if alarm.deadline() == self.clock.0 {
            alarm.as_mut().reset(deadline.min(self.clock.0 + FIRST_ALARM));
        } else if deadline < alarm.deadline() {
            alarm.as_mut().reset(deadline);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if self.clock.now() >= timer {
                return true;
            }
            alarm.as_mut().reset(deadline);
        }
        false
    }

    /// Reads what is there, up to a record; returns how many bytes it was.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<usize> {
        if self.at_end {
            return Ok(0);
        }
        match self.socket.poll_read_ready(cx) {
            Poll::Pending => return Ok(0),
            Poll::Ready(ready) => ready?,
        }
        let mut room = self.input.room();
        // Unlike `try_read`, this remembers when it was all that was there.
        let read = pin!(self.socket.read_buf(&mut room)).poll(cx)?;
        match read {
            Poll::Pending => Ok(0),
            Poll::Ready(0) => {
                self.at_end = true;
                if !self.failed {
                    self.driver.handle_eof(self.clock.now());
                }
                Ok(0)
            }
            Poll::Ready(len) => {
                self.driver.handle_input(self.clock.now(), &mut self.input, driver::Writes::Caller);
                Ok(len)
            }
        }
    }

    /// Writes what there is to send. What goes into a record is decided when the socket can take it.
    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<Sends> {
        if self.written == self.output.bytes().len() {
            if self.more && !takes_more(&self.socket) && self.socket.poll_write_ready(cx)?.is_pending() {
                return Ok(Sends::Blocked);
            }
            match self.driver.poll_transmit(self.clock.now(), &mut self.output, cx.waker()) {
                driver::Pump::Send { more } => (self.written, self.more) = (0, more),
                driver::Pump::Wait(timer) => return Ok(self.idle(timer)),
                driver::Pump::HalfClose(timer) => {
                    if !std::mem::replace(&mut self.half_closed, true) {
                        // It is done at once. An error says that the socket has ended already.
                        let _ = Pin::new(&mut self.socket).poll_shutdown(cx);
                    }
                    return Ok(self.idle(timer));
                }
                driver::Pump::Close => return Ok(Sends::Over),
            }
            if self.unsent != self.output.unsent_limit() {
                self.unsent = self.output.unsent_limit();
                limit_unsent(&self.socket, self.unsent)?;
            }
        }
        let rest = &self.output.bytes()[self.written..];
        match write(&mut self.socket, cx, rest, self.more && self.short_segments)? {
            Poll::Pending => Ok(Sends::Blocked),
            Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(len) => {
                self.written += len;
                Ok(Sends::Bytes(len))
            }
        }
    }

    fn idle(&mut self, timer: Option<Instant>) -> Sends {
        self.crowded = self.output.is_crowded();
        (self.output, self.written, self.more) = (WriteBuffer::default(), 0, false);
        Sends::Idle(timer)
    }
}

/// Whether the socket takes more now. Tokio believes so until a write has failed; then a record would have been made too early.
#[cfg(unix)]
fn takes_more(socket: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let look = || match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&Timespec::default())) {
        Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    };
    socket.try_io(tokio::io::Interest::WRITABLE, look).is_ok()
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

/// Writes. If there is `more`, what does not fill a segment waits for it, as it would in a stream that is not cut into records.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn write(socket: &mut TcpStream, cx: &mut Context<'_>, bytes: &[u8], more: bool) -> Poll<io::Result<usize>> {
    use rustix::net::{SendFlags, send};

    if !more {
        return Pin::new(socket).poll_write(cx, bytes);
    }
    loop {
        match socket.poll_write_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        match socket.try_io(tokio::io::Interest::WRITABLE, || Ok(send(&*socket, bytes, flags)?)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn write(socket: &mut TcpStream, cx: &mut Context<'_>, bytes: &[u8], _: bool) -> Poll<io::Result<usize>> {
    Pin::new(socket).poll_write(cx, bytes)
}
