//! What a connection runs over: TCP, a Unix socket, anything else that can be polled, or a pair of a reader and a writer.

use std::io::{self, Read, Write};
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;
use std::task::Waker;
use std::time::Instant;

use mio::event::Source;
use peermux_core::driver::{self, Addresses, Link, Now, ReadBuffer, Ready};
use peermux_core::socket;
use peermux_core::time::Instant as Moment;

use crate::pair::Pair;
use crate::worker::{Context, Readiness, Step, Worker};

/// The clock of a connection: the time since the connection began.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Moment {
        Moment::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Returns `None` if the moment is later than this clock can represent.
    pub(crate) fn at(self, moment: Moment) -> Option<Instant> {
        self.0.checked_add(moment.saturating_since(Moment::ZERO))
    }

    /// The time for a connection that is created now.
    pub(crate) fn with_wall_clock(self) -> Now {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Now { instant: self.now(), unix_millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// What the handles and the streams of a connection share with the thread that serves its transport.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) link: Arc<Link<Transport>>,
    pub(crate) clock: Clock,
}

impl Shared {
    /// Starts to read from `transport` and to write to it.
    ///
    /// # Errors
    /// Returns the system's error if it has no thread to give, or if the transport cannot be polled.
    pub(crate) fn start(&self, mut transport: Transport) -> io::Result<()> {
        let Self { link, clock } = self.clone();
        let task = Task { link, clock };
        let run = move |context: &Context<'_>| task.run(context.waker);
        let waker = Worker::of_sockets()?.spawn(transport.readiness.clone(), transport.kind.source(), run)?;
        self.link.begin(transport);
        waker.wake();
        Ok(())
    }
}

/// The task of a connection: it runs the link. If it is dropped before its end, as by a panic, the connection fails.
struct Task {
    link: Arc<Link<Transport>>,
    clock: Clock,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.link.end(self.clock.now(), "the thread of the connection panicked");
    }
}

impl Task {
    fn run(&self, waker: &Waker) -> Step {
        loop {
            match self.link.poll(waker, || self.clock.now()) {
                driver::Turn::Over => return Step::Done,
                driver::Turn::Yield => return Step::Again,
                driver::Turn::Wait(Some(timer)) if timer <= self.clock.now() => {
                    self.link.handle_timeout(self.clock.now());
                }
                driver::Turn::Wait(timer) => return Step::Wait(timer.and_then(|timer| self.clock.at(timer))),
            }
        }
    }
}

/// What a connection runs over: see [`IntoTransport`] for what converts into it.
pub struct Transport {
    kind: Kind,
    readiness: Arc<Readiness>,
}

enum Kind {
    Tcp(mio::net::TcpStream),
    #[cfg(unix)]
    Unix(mio::net::UnixStream),
    Polled(Box<dyn Polled>),
    Pair(Pair),
}

/// What [`Transport::from_source`] takes.
trait Polled: Source + Read + Write + Send {}

impl<T: Source + Read + Write + Send> Polled for T {}

/// What becomes a [`Transport`]: sockets of the standard library, which are not used otherwise from then on, and a `Transport` itself.
pub trait IntoTransport {
    /// Converts this into a transport.
    ///
    /// # Errors
    /// Returns the error of the socket.
    fn into_transport(self) -> io::Result<Transport>;
}

impl IntoTransport for Transport {
    fn into_transport(self) -> io::Result<Transport> {
        Ok(self)
    }
}

impl IntoTransport for TcpStream {
    fn into_transport(self) -> io::Result<Transport> {
        self.set_nonblocking(true)?;
        Transport::from_tcp(mio::net::TcpStream::from_std(self))
    }
}

#[cfg(unix)]
impl IntoTransport for UnixStream {
    fn into_transport(self) -> io::Result<Transport> {
        self.set_nonblocking(true)?;
        Ok(Transport::new(Kind::Unix(mio::net::UnixStream::from_std(self))))
    }
}

impl Transport {
    fn new(kind: Kind) -> Self {
        Self { kind, readiness: Arc::default() }
    }

    pub(crate) fn from_tcp(socket: mio::net::TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self::new(Kind::Tcp(socket)))
    }

    /// Uses anything that can be polled, and that never blocks in [`Read::read`] and [`Write::write`]: these return [`io::ErrorKind::WouldBlock`] instead. The end of the connection
    /// drops it, so that the peer sees its end.
    pub fn from_source(source: impl Source + Read + Write + Send + 'static) -> Self {
        Self::new(Kind::Polled(Box::new(source)))
    }

    /// Uses a reader and a writer that may block, such as a pair of pipes or two handles to a TLS session. Two threads serve them for as long as the connection lasts; the one that reads ends
    /// with the read that it is in.
    ///
    /// # Errors
    /// Returns the system's error if it has no thread to give.
    pub fn from_pair(read: impl Read + Send + 'static, write: impl Write + Send + 'static) -> io::Result<Self> {
        Ok(Self::new(Kind::Pair(Pair::start(read, write)?)))
    }

    pub(crate) fn addresses(&self) -> Addresses {
        match &self.kind {
            Kind::Tcp(tcp) => Addresses { local: tcp.local_addr().ok(), remote: tcp.peer_addr().ok() },
            _ => Addresses::default(),
        }
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.kind {
            Kind::Tcp(_) => "Tcp",
            #[cfg(unix)]
            Kind::Unix(_) => "Unix",
            Kind::Polled(_) => "Source",
            Kind::Pair(_) => "Pair",
        };
        write!(f, "Transport::{kind}")
    }
}

impl Kind {
    fn source(&mut self) -> Option<&mut dyn Source> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            #[cfg(unix)]
            Self::Unix(unix) => Some(unix),
            Self::Polled(polled) => Some(polled),
            Self::Pair(_) => None,
        }
    }
}

/// Reads into `buffer` by `read`, which wants memory that is initialised.
fn read_into(buffer: &mut ReadBuffer, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
    buffer.room_in_vec(|vec| {
        let before = vec.len();
        vec.resize(vec.capacity(), 0);
        let read = read(&mut vec[before..]);
        vec.truncate(before + read.as_ref().copied().unwrap_or(0));
        read
    })
}

/// Calls `$tcp` for sockets on systems where their options and flags are known, and `$other` where they are read and written as files are.
macro_rules! on_socket {
    ($kind:expr, $socket:ident => $native:expr, $stream:ident => $portable:expr, $pair:ident => $other:expr) => {
        match $kind {
            #[cfg(unix)]
            Kind::Tcp($socket) => $native,
            #[cfg(unix)]
            Kind::Unix($socket) => $native,
            #[cfg(not(unix))]
            Kind::Tcp($stream) => $portable,
            Kind::Polled($stream) => $portable,
            Kind::Pair($pair) => $other,
        }
    };
}

impl driver::Transport for Transport {
    fn try_read(&mut self, buffer: &mut ReadBuffer) -> io::Result<usize> {
        // Before the socket is looked at: what arrives behind that sets it again.
        self.readiness.read.store(false, std::sync::atomic::Ordering::Release);
        on_socket!(
            &mut self.kind,
            socket => socket::read(socket, buffer),
            stream => read_into(buffer, |room| stream.read(room)),
            pair => read_into(buffer, |room| pair.read(room))
        )
    }

    fn try_write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        self.readiness.write.store(false, std::sync::atomic::Ordering::Release);
        on_socket!(
            &mut self.kind,
            socket => socket::write(socket, bytes, more),
            stream => { let _ = more; stream.write(bytes) },
            pair => pair.write(bytes)
        )
    }

    fn try_flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Polled(polled) => {
                self.readiness.write.store(false, std::sync::atomic::Ordering::Release);
                polled.flush()
            }
            Kind::Pair(pair) => pair.flush(),
            _ => Ok(()),
        }
    }

    fn try_shutdown(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Tcp(tcp) => tcp.shutdown(std::net::Shutdown::Write),
            #[cfg(unix)]
            Kind::Unix(unix) => unix.shutdown(std::net::Shutdown::Write),
            // It has no half-close: its end is the end of both directions.
            Kind::Polled(_) => Ok(()),
            Kind::Pair(pair) => {
                pair.shutdown();
                Ok(())
            }
        }
    }

    fn poll_ready(&mut self, waker: &Waker, read: bool, write: bool) -> io::Result<Ready> {
        if let Kind::Pair(pair) = &mut self.kind {
            return Ok(pair.poll_ready(waker, read, write));
        }
        let take = |flag: &std::sync::atomic::AtomicBool| flag.swap(false, AcqRel);
        Ok(Ready { read: read && take(&self.readiness.read), write: write && take(&self.readiness.write) })
    }

    fn is_writable(&mut self) -> bool {
        #[cfg(unix)]
        match &self.kind {
            Kind::Tcp(tcp) => {
                self.readiness.write.store(false, std::sync::atomic::Ordering::Release);
                return socket::is_writable(tcp);
            }
            Kind::Unix(unix) => {
                self.readiness.write.store(false, std::sync::atomic::Ordering::Release);
                return socket::is_writable(unix);
            }
            _ => {}
        }
        true
    }

    fn set_unsent_limit(&mut self, bytes: usize) -> io::Result<()> {
        if let Kind::Tcp(tcp) = &self.kind { socket::set_unsent_limit(tcp, bytes) } else { Ok(()) }
    }

    fn has_short_packets(&self) -> bool {
        matches!(&self.kind, Kind::Tcp(tcp) if socket::has_short_packets(tcp))
    }

    fn set_corked(&mut self, corked: bool) -> io::Result<()> {
        if let Kind::Tcp(tcp) = &self.kind { socket::set_corked(tcp, corked) } else { Ok(()) }
    }
}
