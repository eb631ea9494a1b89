//! The two loops between a socket and a [`Driver`].

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use peermux_core::MAX_INPUT_BUFFER;
use peermux_core::driver::{Driver, Pump};
use peermux_core::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The largest record, in bytes.
const LARGEST: usize = 16 * 1408;

/// Bytes that may wait in the kernel before the socket is not writable any more: about one record, so that what is urgent does not
/// wait behind more than that.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios"))]
const NOT_SENT_LOW_WATER: u32 = 16 * 1024;

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

    fn at(self, moment: Instant) -> tokio::time::Instant {
        self.0 + moment.saturating_since(Instant::ZERO)
    }
}

/// Milliseconds since 1970; 0 before that.
pub(crate) fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Sets what a connection needs of its socket.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios"))]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(NOT_SENT_LOW_WATER)?;
    Ok(())
}

/// Starts the loops of a connection over `socket`.
pub(crate) fn start(socket: TcpStream, driver: &Arc<Driver>, clock: Clock) -> io::Result<()> {
    prepare(&socket)?;
    let (reader, writer) = socket.into_split();
    tokio::spawn(read(reader, driver.clone(), clock));
    tokio::spawn(write(writer, driver.clone(), clock));
    Ok(())
}

async fn read(socket: OwnedReadHalf, driver: Arc<Driver>, clock: Clock) {
    let mut buffer = BytesMut::new();
    let mut closed = std::pin::pin!(poll_fn(|cx| driver.poll_closed(cx.waker())));
    loop {
        // No buffer is held while there is nothing to read.
        if buffer.is_empty() {
            buffer = BytesMut::new();
        }
        let readable = tokio::select! {
            biased;
            readable = socket.readable() => readable,
            () = &mut closed => return,
        };
        let result = readable.and_then(|()| {
            buffer.reserve(MAX_INPUT_BUFFER - buffer.len());
            socket.try_read_buf(&mut buffer)
        });
        match result {
            Ok(0) => return driver.handle_eof(clock.now()),
            Ok(_) => driver.handle_input(clock.now(), &mut buffer),
            Err(error) if retry(&error) => {}
            Err(error) => return driver.handle_transport_error(clock.now(), &error.to_string()),
        }
    }
}

async fn write(mut socket: OwnedWriteHalf, driver: Arc<Driver>, clock: Clock) {
    let mut half_closed = false;
    loop {
        let pump = match send(&socket, &driver, clock).await {
            Ok(pump) => pump,
            Err(error) => return driver.handle_transport_error(clock.now(), &error.to_string()),
        };
        let timer = match pump {
            Pump::Send(_) => continue,
            Pump::Wait(timer) => timer,
            Pump::HalfClose(timer) => {
                if !std::mem::replace(&mut half_closed, true) {
                    let _ = socket.shutdown().await;
                }
                timer
            }
            Pump::Close => return,
        };
        // The wait was registered by `send`; being woken, or the timer, ends it.
        let mut first = true;
        let woken = poll_fn(|_| if std::mem::replace(&mut first, false) { Poll::Pending } else { Poll::Ready(()) });
        match timer {
            Some(timer) => {
                if tokio::time::timeout_at(clock.at(timer), woken).await.is_err() {
                    driver.handle_timeout(clock.now());
                }
            }
            None => woken.await,
        }
    }
}

/// Sends records until there are no more. What goes into each is decided when the socket can take it.
async fn send(socket: &OwnedWriteHalf, driver: &Driver, clock: Clock) -> io::Result<Pump> {
    let mut buffer = Vec::new();
    loop {
        if driver.wants_transmit() {
            // An error of the socket shows when it is written to.
            socket.writable().await?;
            buffer.resize(LARGEST, 0);
        }
        let pump = poll_fn(|cx| Poll::Ready(driver.poll_transmit(clock.now(), &mut buffer, cx.waker()))).await;
        match pump {
            Ok(Pump::Send(len)) => write_all(socket, &buffer[..len]).await?,
            Ok(pump) => return Ok(pump),
            // Something came up since it was asked whether there was anything.
            Err(_) => {}
        }
    }
}

async fn write_all(socket: &OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if retry(&error) => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
