//! The two threads between a socket and a [`Driver`].

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use peermux_core::driver::{AfterSend, Driver, ReadBuffer, WakeWriter, WriteAction, WriteBuffer};
use peermux_core::time::Instant as Moment;
use peermux_core::trace::in_span;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::signal::Signal;

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

/// How long a writer waits for a socket that takes nothing before it looks whether the connection has ended or has a new timer meanwhile.
const STALL: Duration = Duration::from_secs(1);

/// The clock of a connection: the time since it began.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Moment {
        Moment::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// `None` is later than this clock can tell.
    fn at(self, moment: Moment) -> Option<Instant> {
        self.0.checked_add(moment.saturating_since(Moment::ZERO))
    }
}

/// Sets what a connection needs of its socket.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    // The threads wait in `poll`, where the writer has its timers and the reader needs no buffer.
    socket.set_nonblocking(true)
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

/// Starts the threads of a connection over `socket`.
pub(crate) fn start(socket: TcpStream, driver: &Arc<Driver>, clock: Clock) -> io::Result<()> {
    prepare(&socket)?;
    let short_segments = has_short_segments(&socket);
    let pump = Arc::new(Loops { socket, short_segments, driver: driver.clone(), clock, signal: Arc::default() });
    let reader = pump.clone();
    thread::Builder::new().name("peermux-read".into()).spawn(in_span(move || reader.guard().read()))?;
    let writer = pump.clone();
    if let Err(error) =
        thread::Builder::new().name("peermux-write".into()).spawn(in_span(move || writer.guard().write()))
    {
        pump.fail(&error);
        return Err(error);
    }
    Ok(())
}

struct Loops {
    socket: TcpStream,
    short_segments: bool,
    driver: Arc<Driver>,
    clock: Clock,
    /// Where the writer waits for something to do.
    signal: Arc<Signal>,
}

/// Ends the connection if its thread panics, so that nobody waits for a thread that is gone.
struct Guard<'a>(&'a Loops);

impl std::ops::Deref for Guard<'_> {
    type Target = Loops;

    fn deref(&self) -> &Loops {
        self.0
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(&io::Error::other("a thread of the connection panicked"));
        }
    }
}

impl Loops {
    const fn guard(&self) -> Guard<'_> {
        Guard(self)
    }

    fn fail(&self, error: &io::Error) {
        self.driver.handle_transport_error(self.clock.now(), error);
        self.end();
    }

    /// Wakes whichever thread waits for the socket.
    fn end(&self) {
        // An error says that the socket has ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn read(&self) {
        let mut buffer = ReadBuffer::default();
        loop {
            buffer.release();
            let arrived = match self.wait_for(PollFlags::IN, None).and_then(|_| self.receive(&mut buffer)) {
                Ok(arrived) => arrived,
                Err(error) if retry(&error) => continue,
                Err(error) => return self.fail(&error),
            };
            match arrived {
                true => self.driver.handle_input(self.clock.now(), &mut buffer, WakeWriter::Yes),
                false => self.driver.handle_eof(self.clock.now()),
            }
            // The writer ends the connection, when the socket has all that was begun.
            if self.driver.is_closed() || !arrived {
                return;
            }
        }
    }

    /// Reads what has arrived; whether it was anything.
    fn receive(&self, buffer: &mut ReadBuffer) -> io::Result<bool> {
        buffer.room_in_vec(|room| {
            let before = room.len();
            recv(&self.socket, spare_capacity(room), RecvFlags::empty())?;
            Ok(room.len() > before)
        })
    }

    fn write(&self) {
        let (mut half_closed, mut unsent) = (false, 0);
        loop {
            let seen = self.signal.seen();
            let timer = match self.send(&mut unsent) {
                Ok(WriteAction::Send(_)) => continue,
                Ok(WriteAction::Wait(timer)) => timer,
                Ok(WriteAction::HalfClose(timer)) => {
                    if !std::mem::replace(&mut half_closed, true) {
                        let _ = self.socket.shutdown(Shutdown::Write);
                    }
                    timer
                }
                Ok(WriteAction::Close) => return self.end(),
                Err(error) => return self.fail(&error),
            };
            if !self.signal.wait(seen, timer.and_then(|timer| self.clock.at(timer))) {
                self.driver.handle_timeout(self.clock.now());
            }
        }
    }

    /// Sends records until there are no more.
    fn send(&self, unsent: &mut usize) -> io::Result<WriteAction> {
        let mut holds = false;
        let pump = self.send_all(unsent, &mut holds)?;
        if holds {
            cork(&self.socket, false)?;
        }
        Ok(pump)
    }

    /// What goes into each record is decided when the socket can take it. `holds` says whether the socket holds something back for more.
    fn send_all(&self, unsent: &mut usize, holds: &mut bool) -> io::Result<WriteAction> {
        let waker = self.signal.waker();
        let mut buffer = WriteBuffer::default();
        let mut corked = false;
        loop {
            let pump = self.driver.poll_transmit(self.clock.now(), &mut buffer, &waker);
            let WriteAction::Send(then) = pump else { return Ok(pump) };
            let more = then == AfterSend::PollAgain;
            let full = self.short_segments && buffer.fills_packets();
            if std::mem::replace(&mut corked, full) != full {
                cork(&self.socket, full)?;
            }
            *holds = more && self.short_segments;
            if *unsent != buffer.unsent_limit() {
                *unsent = buffer.unsent_limit();
                limit_unsent(&self.socket, *unsent)?;
            }
            self.write_all(buffer.bytes(), more && self.short_segments)?;
            if more {
                self.wait_writable()?;
            }
            if let AfterSend::Idle(timer) = then {
                return Ok(WriteAction::Wait(timer));
            }
        }
    }

    /// Writes `bytes`, also if the connection has ended meanwhile: what was begun leaves whole, and CLOSE behind it. If there is `more`, what does not fill a segment waits for it, as it would
    /// in a stream that is not cut into records.
    fn write_all(&self, mut bytes: &[u8], more: bool) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let flags = {
            let _ = more;
            SendFlags::empty()
        };
        while !bytes.is_empty() {
            match send(&self.socket, bytes, flags).map_err(io::Error::from) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if retry(&error) => self.wait_writable()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the socket takes more, and minds the connection's timers meanwhile. Once the connection has ended, an error if that takes too long.
    fn wait_writable(&self) -> io::Result<()> {
        let mut slice = Duration::ZERO;
        while !self.wait_for(PollFlags::OUT, Some(slice))? {
            let now = self.clock.now();
            if self.driver.write_deadline(now).is_some_and(|deadline| now >= deadline) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timer = self.driver.poll_timeout();
            let left = timer.map_or(STALL, |timer| timer.saturating_since(now));
            if left.is_zero() {
                self.driver.handle_timeout(now);
            }
            slice = left.min(STALL);
        }
        Ok(())
    }

    /// Waits for the socket to be ready, or to have ended or failed, which shows when it is used; false if that takes longer than `timeout`.
    fn wait_for(&self, flags: PollFlags, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(&self.socket, flags)], timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
