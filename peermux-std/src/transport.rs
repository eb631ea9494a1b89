//! What a connection runs over: TCP, a Unix socket, or anything else that reads and writes.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::Waker;

use mio::event::Source;
use peermux_core::driver::{self, Addresses, ReadBuffer, Ready};
use peermux_core::socket;

use crate::Stream;
use crate::bridge::Bridge;
use crate::worker::{Direction, Readiness, Watched, Worker};

/// What a connection runs over.
///
/// A [`TcpStream`] and, on Unix, a [`UnixStream`] convert into a transport, and so does a [`Stream`]
/// of another connection. [`Transport::from_source`] takes what can be polled, such as a TLS session
/// over a socket of the crate `mio`, and [`Transport::from_pair`] a reader and a writer that block.
pub struct Transport(Box<Open>);

/// Prepares a transport, and has the worker watch it for readiness.
type Open = dyn FnOnce(&Worker) -> io::Result<Io> + Send;

impl Transport {
    /// Uses a source of events of the crate `mio` that reads and writes without blocking: a call that
    /// would block returns [`io::ErrorKind::WouldBlock`], and an event follows when it may be tried
    /// again. `flush` must pass on what the source holds back. An event in either direction has both
    /// directions tried, so `source` can be a TLS session.
    ///
    /// When the connection is over, `source` is dropped: its peer sees the end then, and not before.
    pub fn from_source(source: impl Source + Read + Write + Send + 'static) -> Self {
        Self::new(move |worker| {
            let source = Watched::entangled(worker, Box::new(source) as Box<dyn Pollable>)?;
            Ok(Io { readiness: source.readiness().clone(), duplex: Box::new(Polled(source)) })
        })
    }

    /// Uses a reader and a writer that may block, such as two pipes.
    ///
    /// Two threads serve them, and at most 64 KiB wait in each direction. An end or an error of `read`
    /// is that of the transport. `write` is flushed whenever nothing more waits to be written, and is
    /// dropped when nothing follows, so that its peer sees the end. When the connection is over, the
    /// thread that reads ends with the call of `read` that it is in.
    ///
    /// # Errors
    /// Returns the system's error if it has no thread to give.
    pub fn from_pair(read: impl Read + Send + 'static, write: impl Write + Send + 'static) -> io::Result<Self> {
        let readiness = Arc::default();
        let bridge = Bridge::start(read, write, &readiness)?;
        Ok(Self::new(move |_| Ok(Io { readiness, duplex: Box::new(bridge) })))
    }

    fn new(open: impl FnOnce(&Worker) -> io::Result<Io> + Send + 'static) -> Self {
        Self(Box::new(open))
    }

    /// Takes a socket that was just accepted.
    pub(crate) fn accepted(socket: mio::net::TcpStream) -> Self {
        Self::new(|worker| Self::connected(Watched::socket(worker, socket)?).open(worker))
    }

    /// Takes a socket that was just connected.
    pub(crate) fn connected(socket: Watched<mio::net::TcpStream>) -> Self {
        Self::new(|_| {
            socket.set_nodelay(true)?;
            Ok(Io { readiness: socket.readiness().clone(), duplex: Box::new(socket) })
        })
    }

    pub(crate) fn open(self, worker: &Worker) -> io::Result<Io> {
        (self.0)(worker)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// The transport uses the socket alone: other handles to it must not be used any more.
impl From<TcpStream> for Transport {
    fn from(tcp: TcpStream) -> Self {
        Self::new(|worker| {
            tcp.set_nonblocking(true)?;
            Self::accepted(mio::net::TcpStream::from_std(tcp)).open(worker)
        })
    }
}

/// The transport uses the socket alone: other handles to it must not be used any more.
#[cfg(unix)]
impl From<UnixStream> for Transport {
    fn from(unix: UnixStream) -> Self {
        Self::new(|worker| {
            unix.set_nonblocking(true)?;
            let unix = Watched::socket(worker, mio::net::UnixStream::from_std(unix))?;
            Ok(Io { readiness: unix.readiness().clone(), duplex: Box::new(unix) })
        })
    }
}

/// The transport is as by [`Transport::from_pair`], and shuts the stream down at its end.
impl From<Stream> for Transport {
    fn from(stream: Stream) -> Self {
        Self::new(|worker| Self::from_pair(stream.try_clone()?, Finishing(stream))?.open(worker))
    }
}

/// The sending half of a stream, which ends when it is dropped instead of being reset.
struct Finishing(Stream);

impl Drop for Finishing {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }
}

impl Write for Finishing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What [`Transport::from_source`] takes.
trait Pollable: Source + Read + Write + Send {}

impl<T: Source + Read + Write + Send> Pollable for T {}

/// What is read and written without blocking. Reads and writes also return whether the next one may
/// succeed at once.
pub(crate) trait Duplex: Send {
    fn read(&mut self, buffer: &mut ReadBuffer) -> io::Result<(usize, bool)>;
    fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<(usize, bool)>;
    /// Passes on what is held back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Ends the direction to the peer.
    fn shutdown(&mut self) -> io::Result<()>;
    fn is_writable(&self) -> bool {
        true
    }
    /// Returns the socket, if its options are those of TCP.
    fn tcp(&self) -> Option<&mio::net::TcpStream> {
        None
    }
}

/// Implements [`Duplex`] for a socket of Unix. A call that moves less than it could says that the next
/// one would block: an end is reported by an event.
#[cfg(unix)]
macro_rules! socket {
    ($socket:ty, $tcp:expr) => {
        impl Duplex for Watched<$socket> {
            fn read(&mut self, buffer: &mut ReadBuffer) -> io::Result<(usize, bool)> {
                socket::read(&**self, buffer)
            }

            fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<(usize, bool)> {
                let len = socket::write(&**self, bytes, more)?;
                Ok((len, len == bytes.len()))
            }

            fn shutdown(&mut self) -> io::Result<()> {
                socket::shutdown(&**self)
            }

            fn is_writable(&self) -> bool {
                socket::is_writable(&**self)
            }

            fn tcp(&self) -> Option<&mio::net::TcpStream> {
                let tcp: fn(&$socket) -> Option<&mio::net::TcpStream> = $tcp;
                tcp(self)
            }
        }
    };
}

#[cfg(unix)]
socket!(mio::net::TcpStream, |tcp| Some(tcp));
#[cfg(unix)]
socket!(mio::net::UnixStream, |_| None);

#[cfg(not(unix))]
impl Duplex for Watched<mio::net::TcpStream> {
    fn read(&mut self, buffer: &mut ReadBuffer) -> io::Result<(usize, bool)> {
        read_into(buffer, &mut **self)
    }

    fn write(&mut self, bytes: &[u8], _: bool) -> io::Result<(usize, bool)> {
        Ok(((**self).write(bytes)?, true))
    }

    fn shutdown(&mut self) -> io::Result<()> {
        socket::shutdown(&**self)
    }

    fn tcp(&self) -> Option<&mio::net::TcpStream> {
        Some(self)
    }
}

/// What [`Transport::from_source`] was given.
struct Polled(Watched<Box<dyn Pollable>>);

impl Duplex for Polled {
    fn read(&mut self, buffer: &mut ReadBuffer) -> io::Result<(usize, bool)> {
        read_into(buffer, &mut **self.0)
    }

    fn write(&mut self, bytes: &[u8], _: bool) -> io::Result<(usize, bool)> {
        Ok((self.0.write(bytes)?, true))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    fn shutdown(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads into `buffer`, by a `reader` that needs memory that is initialised.
pub(crate) fn read_into(buffer: &mut ReadBuffer, reader: &mut (impl Read + ?Sized)) -> io::Result<(usize, bool)> {
    buffer.room_in_vec(|vec| {
        let before = vec.len();
        vec.resize(vec.capacity(), 0);
        let read = reader.read(&mut vec[before..]);
        vec.truncate(before + read.as_ref().copied().unwrap_or(0));
        Ok((read?, true))
    })
}

/// A transport that is watched.
pub(crate) struct Io {
    duplex: Box<dyn Duplex>,
    readiness: Arc<Readiness>,
}

impl Io {
    pub(crate) fn addresses(&self) -> Addresses {
        let tcp = self.duplex.tcp();
        Addresses { local: tcp.and_then(|tcp| tcp.local_addr().ok()), remote: tcp.and_then(|tcp| tcp.peer_addr().ok()) }
    }
}

impl driver::Transport for Io {
    fn try_read(&mut self, buffer: &mut ReadBuffer) -> io::Result<usize> {
        self.readiness.try_io(Direction::Read, || self.duplex.read(buffer))
    }

    fn try_write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        self.readiness.try_io(Direction::Write, || self.duplex.write(bytes, more))
    }

    fn try_flush(&mut self) -> io::Result<()> {
        self.readiness.try_io(Direction::Write, || Ok((self.duplex.flush()?, true)))
    }

    fn try_shutdown(&mut self) -> io::Result<()> {
        self.readiness.try_io(Direction::Write, || Ok((self.duplex.shutdown()?, true)))
    }

    fn poll_ready(&mut self, waker: &Waker, read: bool, write: bool) -> io::Result<Ready> {
        Ok(self.readiness.poll(waker, read, write))
    }

    fn is_writable(&mut self) -> bool {
        // What was reported may be old: a record would be made too early then.
        let look = || if self.duplex.is_writable() { Ok(((), true)) } else { Err(io::ErrorKind::WouldBlock.into()) };
        self.readiness.try_io(Direction::Write, look).is_ok()
    }

    fn set_unsent_limit(&mut self, bytes: usize) -> io::Result<()> {
        self.duplex.tcp().map_or(Ok(()), |tcp| socket::set_unsent_limit(tcp, bytes))
    }

    fn has_short_packets(&self) -> bool {
        self.duplex.tcp().is_some_and(socket::has_short_packets)
    }

    fn set_corked(&mut self, corked: bool) -> io::Result<()> {
        self.duplex.tcp().map_or(Ok(()), |tcp| socket::set_corked(tcp, corked))
    }
}
