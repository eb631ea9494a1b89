//! The two loops between a socket and a [`Driver`].

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use peermux_core::driver::{Driver, Pump, ReadBuffer, WriteBuffer};
use peermux_core::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::trace::instrument;

/// How long a writer waits for a socket that takes nothing before it looks whether the connection has ended or has a new timer meanwhile.
const STALL: Duration = Duration::from_secs(1);

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

/// Sets what a connection needs of its socket.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)
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

/// Starts the loops of a connection over `socket`.
pub(crate) fn start(socket: TcpStream, driver: &Arc<Driver>, clock: Clock) -> io::Result<()> {
    prepare(&socket)?;
    let (reader, writer) = socket.into_split();
    tokio::spawn(instrument(read(reader, Shared::new(driver.clone(), clock))));
    tokio::spawn(instrument(write(writer, Shared::new(driver.clone(), clock))));
    Ok(())
}

/// What both loops need. A loop that is dropped before its end, as when its runtime shuts down, ends the connection: others may wait for it in
/// other runtimes.
struct Shared {
    driver: Arc<Driver>,
    clock: Clock,
    over: bool,
}

impl Shared {
    const fn new(driver: Arc<Driver>, clock: Clock) -> Self {
        Self { driver, clock, over: false }
    }

    fn fail(&self, error: &io::Error) {
        self.driver.handle_transport_error(self.clock.now(), &error.to_string());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.over {
            self.driver.handle_transport_error(self.clock.now(), "the runtime of the connection has shut down");
        }
    }
}

async fn read(mut socket: OwnedReadHalf, mut shared: Shared) {
    read_all(&mut socket, &shared.driver, shared.clock).await.unwrap_or_else(|error| shared.fail(&error));
    shared.over = true;
}

async fn read_all(socket: &mut OwnedReadHalf, driver: &Arc<Driver>, clock: Clock) -> io::Result<()> {
    let mut buffer = ReadBuffer::default();
    let mut waiter = driver.waiter();
    let mut closed = pin!(poll_fn(|cx| waiter.poll_closed(cx.waker())));
    let mut turn = Turn::default();
    loop {
        buffer.release();
        tokio::select! {
            biased;
            readable = socket.readable() => readable?,
            () = &mut closed => return Ok(()),
        }
        match read_some(socket, &mut buffer).await {
            Some(Ok(0)) => {
                driver.handle_eof(clock.now());
                return Ok(());
            }
            Some(Ok(len)) => {
                driver.handle_input(clock.now(), &mut buffer);
                turn.used(len).await;
            }
            Some(Err(error)) if retry(&error) => {}
            Some(Err(error)) => return Err(error),
            None => {}
        }
    }
}

/// How much a loop has done since it let others run.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    /// Bytes after which the others have their turn: so what was read is taken, and what was sent is filled up again, while it is still in the processor's cache.
    const LEN: usize = 128 * 1024;

    async fn used(&mut self, bytes: usize) {
        self.0 += bytes;
        if self.0 >= Self::LEN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Reads what is there, without waiting. Unlike `try_read`, it remembers when that was all.
async fn read_some(socket: &mut OwnedReadHalf, buffer: &mut ReadBuffer) -> Option<io::Result<usize>> {
    let mut room = buffer.room();
    let mut read = pin!(socket.read_buf(&mut room));
    poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn write(mut socket: OwnedWriteHalf, mut shared: Shared) {
    write_all(&mut socket, &shared.driver, shared.clock).await.unwrap_or_else(|error| shared.fail(&error));
    shared.over = true;
}

async fn write_all(socket: &mut OwnedWriteHalf, driver: &Driver, clock: Clock) -> io::Result<()> {
    let (mut half_closed, mut unsent) = (false, 0);
    let mut alarm = pin!(tokio::time::sleep_until(clock.0));
    loop {
        let timer = match send(socket, driver, clock, &mut unsent).await? {
            Pump::Send { .. } => continue,
            Pump::Wait(timer) => timer,
            Pump::HalfClose(timer) => {
                if !std::mem::replace(&mut half_closed, true) {
                    let _ = socket.shutdown().await;
                }
                timer
            }
            Pump::Close => return Ok(()),
        };
        // Timers move on with whatever is sent and received. So an alarm that goes off too early is left alone, and set anew only then.
        let deadline = timer.and_then(|timer| clock.at(timer));
        if let Some(deadline) = deadline
            && (alarm.is_elapsed() || deadline < alarm.deadline())
        {
            alarm.as_mut().reset(deadline);
        }
        // The wait was registered by `send`; being woken, by that or by the alarm, ends it.
        let mut waits = true;
        poll_fn(|cx| match std::mem::replace(&mut waits, false) {
            true if deadline.is_some() => alarm.as_mut().poll(cx),
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
        if timer.is_some_and(|timer| clock.now() >= timer) {
            driver.handle_timeout(clock.now());
        }
    }
}

/// Sends records until there are no more. What goes into each is decided when the socket can take it.
async fn send(socket: &OwnedWriteHalf, driver: &Driver, clock: Clock, unsent: &mut usize) -> io::Result<Pump> {
    let mut buffer = WriteBuffer::default();
    let mut turn = Turn::default();
    loop {
        let pump = poll_fn(|cx| Poll::Ready(driver.poll_transmit(clock.now(), &mut buffer, cx.waker()))).await;
        let Pump::Send { more } = pump else { return Ok(pump) };
        if *unsent != buffer.unsent_limit() {
            *unsent = buffer.unsent_limit();
            limit_unsent(socket.as_ref(), *unsent)?;
        }
        if !write_records(socket, buffer.bytes(), driver, clock).await? {
            return Ok(Pump::Close);
        }
        turn.used(buffer.bytes().len()).await;
        // An error of the socket shows when it is written to.
        if more && !takes_more(socket.as_ref()) && !writable(socket, driver, clock).await? {
            return Ok(Pump::Close);
        }
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

/// Writes all of `bytes`; false if the connection has ended before the socket took them.
async fn write_records(socket: &OwnedWriteHalf, mut bytes: &[u8], driver: &Driver, clock: Clock) -> io::Result<bool> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if retry(&error) => {
                if !writable(socket, driver, clock).await? {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Waits until the socket takes more, and minds the connection's timers meanwhile; false if the connection has ended.
async fn writable(socket: &OwnedWriteHalf, driver: &Driver, clock: Clock) -> io::Result<bool> {
    loop {
        tokio::select! {
            biased;
            writable = socket.writable() => return writable.map(|()| true),
            () = stall(driver, clock) => {}
        }
        if driver.is_closed() {
            return Ok(false);
        }
    }
}

/// Waits for the next timer, at most for [`STALL`].
async fn stall(driver: &Driver, clock: Clock) {
    let timer = driver.with(|connection| connection.poll_timeout());
    let now = clock.now();
    let left = timer.map_or(STALL, |timer| timer.saturating_since(now));
    if left.is_zero() {
        driver.handle_timeout(now);
    } else {
        tokio::time::sleep(left.min(STALL)).await;
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
