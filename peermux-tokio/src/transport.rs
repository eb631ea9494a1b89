//! What a connection runs over: TCP, a Unix socket, or anything else that reads and writes.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BufMut;
use peermux_core::driver::{self, Addresses, Link, Now, ReadBuffer, Ready};
use peermux_core::socket;
use peermux_core::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// The clock of a connection: the time since the connection began.
#[derive(Clone, Copy)]
pub(crate) struct Clock(tokio::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    pub(crate) fn now(self) -> Instant {
        Instant::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Returns `None` if the moment is later than this clock can represent.
    pub(crate) fn at(self, moment: Instant) -> Option<tokio::time::Instant> {
        self.0.checked_add(moment.saturating_since(Instant::ZERO))
    }

    /// The time for a connection that is created now.
    pub(crate) fn with_wall_clock(self) -> Now {
        Now { instant: self.now(), unix_millis: unix_millis() }
    }
}

/// Returns the milliseconds since 1970, or 0 before that.
pub(crate) fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What the handles, the streams and the task of a connection share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) link: Arc<Link<Transport>>,
    pub(crate) clock: Clock,
}

/// A transport of any type.
///
/// TCP and Unix sockets go their own way, because they can say what they are ready for without being read from or written to.
pub(crate) enum Transport {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    Other(Box<Polled<dyn ReadWrite>>),
}

/// What [`Transport::new`] takes.
pub(crate) trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ReadWrite for T {}

/// A transport that registers a waker only when it is read from or written to. Whoever does that, the waker is the owner's.
pub(crate) struct Polled<T: ?Sized> {
    waker: Waker,
    /// The last write, flush or shutdown has registered the waker, which was not woken since.
    write_waits: bool,
    read_waits: bool,
    io: T,
}

/// Returns `value` as a `U`, if that is what it is.
fn downcast<T: 'static, U: 'static>(value: T) -> Result<U, T> {
    let mut value = Some(value);
    match (&mut value as &mut dyn Any).downcast_mut::<Option<U>>().and_then(Option::take) {
        Some(same) => Ok(same),
        None => Err(value.expect("it was not taken")),
    }
}

impl Transport {
    /// Takes `io`, in the best way that its type allows.
    pub(crate) fn new<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: T) -> io::Result<Self> {
        let io = match downcast::<T, TcpStream>(io) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok(Self::Tcp(tcp));
            }
            Err(io) => io,
        };
        #[cfg(unix)]
        let io = match downcast::<T, UnixStream>(io) {
            Ok(unix) => return Ok(Self::Unix(unix)),
            Err(io) => io,
        };
        Ok(Self::Other(Box::new(Polled { waker: Waker::noop().clone(), write_waits: false, read_waits: false, io })))
    }

    /// Returns the addresses. `remote` is the peer's, if it is known already.
    pub(crate) fn addresses(&self, remote: Option<SocketAddr>) -> Addresses {
        match self {
            Self::Tcp(tcp) => {
                Addresses { local: tcp.local_addr().ok(), remote: remote.or_else(|| tcp.peer_addr().ok()) }
            }
            _ => Addresses::default(),
        }
    }
}

/// What Tokio's sockets have in common.
trait Socket: socket::AsSocket {
    fn try_io<R>(&self, interest: Interest, act: impl FnOnce() -> io::Result<R>) -> io::Result<R>;
    fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize>;
    #[cfg(not(unix))]
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! socket {
    ($($socket:ty),*) => {$(
        impl Socket for $socket {
            fn try_io<R>(&self, interest: Interest, act: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, act)
            }

            fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
                self.try_read_buf(buffer)
            }

            #[cfg(not(unix))]
            fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
                self.try_write(bytes)
            }

            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }
        }
    )*};
}

socket!(TcpStream);
#[cfg(unix)]
socket!(UnixStream);

/// Calls `act`, which returns how many bytes it moved and how many it could have moved. If those are fewer, the socket need not be tried again before the system says so: where
/// sockets report changes only, a short read or write says that all was moved.
fn try_io(
    socket: &impl Socket,
    interest: Interest,
    act: impl FnOnce() -> io::Result<(usize, usize)>,
) -> io::Result<usize> {
    let mut moved = None;
    let result = socket.try_io(interest, || {
        let (len, wanted) = act()?;
        moved = Some(len);
        if cfg!(unix) && 0 < len && len < wanted { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    moved.map_or_else(|| result.and(Err(io::ErrorKind::WouldBlock.into())), Ok)
}

fn read(socket: &impl Socket, buffer: &mut ReadBuffer) -> io::Result<usize> {
    try_io(socket, Interest::READABLE, || {
        let mut room = buffer.room();
        let wanted = room.remaining_mut();
        Ok((socket.try_read_buf(&mut room)?, wanted))
    })
}

fn write(socket: &impl Socket, bytes: &[u8], more: bool) -> io::Result<usize> {
    #[cfg(unix)]
    let write = || socket::write(socket, bytes, more);
    #[cfg(not(unix))]
    let write = || {
        let _ = more;
        socket.try_write(bytes)
    };
    try_io(socket, Interest::WRITABLE, || Ok((write()?, bytes.len())))
}

/// Tokio believes that a socket takes more until a write has failed; then a record would have been made too early.
fn is_writable(socket: &impl Socket) -> bool {
    #[cfg(unix)]
    let look = || if socket::is_writable(socket) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
    #[cfg(not(unix))]
    let look = || Ok(());
    socket.try_io(Interest::WRITABLE, look).is_ok()
}

fn poll_ready(socket: &impl Socket, waker: &Waker, read: bool, write: bool) -> io::Result<Ready> {
    let cx = &mut Context::from_waker(waker);
    let is_ready = |poll: Poll<io::Result<()>>| match poll {
        Poll::Ready(result) => result.map(|()| true),
        Poll::Pending => Ok(false),
    };
    Ok(Ready {
        read: read && is_ready(socket.poll_read_ready(cx))?,
        write: write && is_ready(socket.poll_write_ready(cx))?,
    })
}

/// A poll's result, as that of a call that does not block. `waits` tells whether the waker is registered.
fn unblocked<T>(poll: Poll<io::Result<T>>, waits: &mut bool) -> io::Result<T> {
    *waits = poll.is_pending();
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Polled<dyn ReadWrite> {
    fn try_read(&mut self, buffer: &mut ReadBuffer) -> io::Result<usize> {
        let Self { waker, read_waits, io, .. } = self;
        let cx = &mut Context::from_waker(waker);
        buffer.room_in_vec(|vec| {
            let before = vec.len();
            vec.resize(vec.capacity(), 0);
            let mut room = ReadBuf::new(&mut vec[before..]);
            let read = unblocked(Pin::new(io).poll_read(cx, &mut room), read_waits);
            let len = room.filled().len();
            vec.truncate(before + len);
            read.map(|()| len)
        })
    }

    fn try_io<R>(
        &mut self,
        act: impl FnOnce(Pin<&mut dyn ReadWrite>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> io::Result<R> {
        let Self { waker, write_waits, io, .. } = self;
        unblocked(act(Pin::new(io), &mut Context::from_waker(waker)), write_waits)
    }

    fn poll_ready(&mut self, waker: &Waker, read: bool, write: bool) -> Ready {
        if self.waker.will_wake(waker) {
            return Ready { read: read && !self.read_waits, write: write && !self.write_waits };
        }
        // Both are tried again, with this waker.
        self.waker.clone_from(waker);
        Ready { read, write }
    }
}

/// Calls `$call` on the socket that `$transport` is, or else `$other`.
macro_rules! on_socket {
    ($transport:expr, $socket:ident => $call:expr, $polled:ident => $other:expr) => {
        match $transport {
            Transport::Tcp($socket) => $call,
            #[cfg(unix)]
            Transport::Unix($socket) => $call,
            Transport::Other($polled) => $other,
        }
    };
}

impl driver::Transport for Transport {
    fn try_read(&mut self, buffer: &mut ReadBuffer) -> io::Result<usize> {
        on_socket!(self, socket => read(socket, buffer), polled => polled.try_read(buffer))
    }

    fn try_write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        on_socket!(self, socket => write(socket, bytes, more), polled => polled.try_io(|io, cx| io.poll_write(cx, bytes)))
    }

    fn try_flush(&mut self) -> io::Result<()> {
        on_socket!(self, _socket => Ok(()), polled => polled.try_io(|io, cx| io.poll_flush(cx)))
    }

    fn try_shutdown(&mut self) -> io::Result<()> {
        on_socket!(self, socket => socket::shutdown(socket), polled => polled.try_io(|io, cx| io.poll_shutdown(cx)))
    }

    fn woken(&mut self) {
        if let Self::Other(polled) = self {
            (polled.read_waits, polled.write_waits) = (false, false);
        }
    }

    fn poll_ready(&mut self, waker: &Waker, read: bool, write: bool) -> io::Result<Ready> {
        on_socket!(
            self,
            socket => poll_ready(socket, waker, read, write),
            polled => Ok(polled.poll_ready(waker, read, write))
        )
    }

    fn is_writable(&mut self) -> bool {
        on_socket!(self, socket => is_writable(socket), _polled => true)
    }

    fn set_unsent_limit(&mut self, bytes: usize) -> io::Result<()> {
        if let Self::Tcp(tcp) = self { socket::set_unsent_limit(tcp, bytes) } else { Ok(()) }
    }

    fn has_short_packets(&self) -> bool {
        matches!(self, Self::Tcp(tcp) if socket::has_short_packets(tcp))
    }

    fn set_corked(&mut self, corked: bool) -> io::Result<()> {
        if let Self::Tcp(tcp) = self { socket::set_corked(tcp, corked) } else { Ok(()) }
    }
}
