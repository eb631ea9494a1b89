//! The task of a connection: it reads and writes, unless somebody else does, and minds the timers.
//!
//! One task reads and writes at a time: what arrives is often answered at once, by credit or by the application, and two tasks would wake each other for it.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use peermux_core::driver::{Waiter, WakeWriter};
use peermux_core::error::TransportError;
use peermux_core::time::Instant;
use peermux_core::trace::instrument;
use tokio::net::TcpStream;
use tokio::task::coop;
use tokio::time::Sleep;

use crate::transport::{Clock, Io, Receives, Sends, Transport};

/// Bytes after which other tasks have their turn: so what was read is taken, and what was sent is filled up again, while it is still in the
/// processor's cache.
const TURN: usize = 64 * 1024;

/// Starts the task of a connection over `socket`.
pub(crate) fn start(socket: TcpStream, transport: &Arc<Transport>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = Arc::new(socket);
    transport.begin(&socket);
    let pump =
        Pump { socket, transport: transport.clone(), at_end: false, half_closed: false, crowded: false, over: false };
    tokio::spawn(instrument(pump.run()));
    Ok(())
}

/// When the alarm is set to go off first, at the latest: each time that it is set to go off before all others, Tokio wakes the thread that waits for the system. So a connection
/// that ends soon does not set it twice, for its handshake and for its end.
const FIRST_ALARM: Duration = Duration::from_secs(2);

/// What a connection's task holds. One that is dropped before its end, as when its runtime shuts down, ends the connection: others may wait for
/// it in other runtimes.
struct Pump {
    socket: Arc<TcpStream>,
    transport: Arc<Transport>,
    /// The peer sends nothing more.
    at_end: bool,
    half_closed: bool,
    /// Others have their turn before this one goes on, since many may be about to write.
    crowded: bool,
    over: bool,
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.transport.end();
        if !self.over {
            self.fail("the runtime of the connection has shut down");
        }
    }
}

/// The alarm clock of the task.
struct Alarm<'a> {
    sleep: Pin<&'a mut Sleep>,
    /// It is set for the first time.
    is_new: bool,
    /// It will wake the task.
    is_set: bool,
}

impl Pump {
    async fn run(mut self) {
        let mut alarm =
            Alarm { sleep: pin!(tokio::time::sleep_until(tokio::time::Instant::now())), is_new: true, is_set: false };
        let mut closed = self.transport.driver().waiter();
        if let Err(error) = poll_fn(|cx| self.poll(cx, &mut alarm, &mut closed)).await {
            self.fail(&error);
        }
        self.over = true;
    }

    fn fail(&self, error: impl Into<TransportError>) {
        self.transport.driver().handle_transport_error(self.transport.clock().now(), error);
    }

    /// Ready once the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm<'_>, closed: &mut Waiter) -> Poll<io::Result<()>> {
        // Of many who write, those that are about to come into the same record: twice as many streams come and go with that.
        if std::mem::take(&mut self.crowded) {
            return give_way(cx);
        }
        let transport = self.transport.clone();
        let Some(mut io) = transport.enter(cx.waker()) else { return Poll::Pending };
        if let Err(error) = io.take_error() {
            io.drain(&transport, transport.clock().now());
            return Poll::Ready(Err(error));
        }
        let mut turn = 0;
        loop {
            let now = transport.clock().now();
            // Reading first: once the driver has the waker, nothing that this task does itself must wake it.
            let received = self.receive(&mut io, now)?;
            let sends = match io.send(&transport, now, Some(cx.waker())) {
                Ok(sends) => sends,
                Err(error) => {
                    io.drain(&transport, now);
                    return Poll::Ready(Err(error));
                }
            };
            let (sent, timer) = match sends {
                Sends::Bytes(sent) => (sent, None),
                Sends::Idle(sent, timer) => {
                    self.crowded = transport.is_crowded();
                    (sent, Some(timer))
                }
                Sends::HalfClose(timer) => {
                    self.half_close();
                    (0, Some(timer))
                }
                Sends::Blocked => (0, Some(self.blocked(cx, closed, now)?)),
                Sends::Over => return Poll::Ready(Ok(())),
            };
            turn += received + sent;
            if turn >= TURN {
                return give_way(cx);
            }
            let Some(timer) = timer else { continue };
            if transport.has_input() || self.poll_socket(&mut io, cx)?.is_ready() {
                continue;
            }
            // Nothing moves.
            io.release_input();
            if !timer.is_some_and(|timer| alarm.rings(cx, transport.clock(), timer)) {
                return Poll::Pending;
            }
            transport.driver().handle_timeout(transport.clock().now());
        }
    }

    /// The socket takes no more. What was begun leaves whole, and CLOSE behind it, also if the connection has ended meanwhile; but not for ever. The next timer.
    fn blocked(&self, cx: &Context<'_>, closed: &mut Waiter, now: Instant) -> io::Result<Option<Instant>> {
        let driver = self.transport.driver();
        // Others may end it.
        let _ = closed.poll_transport_closed(cx.waker());
        match driver.write_deadline(now) {
            None => Ok(driver.poll_timeout()),
            Some(deadline) if now >= deadline => Err(io::ErrorKind::TimedOut.into()),
            deadline => Ok(deadline),
        }
    }

    /// Reads what is there, up to a record; returns how many bytes it was.
    fn receive(&mut self, io: &mut Io, now: Instant) -> io::Result<usize> {
        if self.at_end {
            return Ok(0);
        }
        match io.receive(&self.transport, now, WakeWriter::No)? {
            Receives::Bytes(len) => return Ok(len),
            Receives::Nothing => {}
            Receives::End => {
                self.at_end = true;
                self.transport.driver().handle_eof(now);
            }
        }
        Ok(0)
    }

    /// Ready if the socket has something to read, or takes something again that it did not take. The task is woken when it does.
    fn poll_socket(&self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.at_end && self.socket.poll_read_ready(cx)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        io.poll_unblocked(cx, &self.socket)
    }

    fn half_close(&mut self) {
        if !std::mem::replace(&mut self.half_closed, true) {
            // An error says that the socket has ended already.
            let _ = socket2::SockRef::from(&*self.socket).shutdown(Shutdown::Write);
        }
    }
}

/// The task goes on when the others have had their turn.
fn give_way<T>(cx: &mut Context<'_>) -> Poll<T> {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}

impl Alarm<'_> {
    /// Whether it is time for `timer`; if not, the task is woken when it is. Timers move on with whatever is sent and received; so an alarm that is set too early is left alone, and set
    /// anew when it goes off.
    fn rings(&mut self, cx: &mut Context<'_>, clock: Clock, timer: Instant) -> bool {
        let Some(deadline) = clock.at(timer) else { return false };
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
            self.is_set = false;
        }
        if self.is_set && !self.sleep.is_elapsed() {
            return false;
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if clock.now() >= timer {
                return true;
            }
            let first = if std::mem::take(&mut self.is_new) { self.sleep.deadline() + FIRST_ALARM } else { deadline };
            self.sleep.as_mut().reset(deadline.min(first));
        }
        // Out of budget, Tokio has not looked at it.
        self.is_set = coop::has_budget_remaining();
        false
    }
}
