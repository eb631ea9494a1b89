//! Accepting connections.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use peermux_core::trace::Trace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::connection::{Connection, Started, establish};
use crate::pump::Clock;
use crate::signal::Signal;
use crate::{Approval, Config, PeerInfo, ResponderKeys, StaticSecret};

/// Handshakes that may be under way at once; more dialers wait in the kernel's queue.
const HANDSHAKES: usize = 256;

/// Outcomes that the application has not yet taken.
const READY: usize = 64;

/// How long to wait when the system has no socket to give, as when all file descriptors are in use, or when all places are taken.
pub(crate) const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

type Outcome = Result<Connection, AcceptError>;

/// Listens for peers. Their handshakes run side by side, so that a silent one holds nobody up.
pub struct Listener {
    address: SocketAddr,
    /// `None` while the listener is dropped.
    outcomes: Option<Mutex<Receiver<Outcome>>>,
    /// The accepting thread, and what wakes it by being dropped.
    accepting: Option<(JoinHandle<()>, io::PipeWriter)>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Whoever has an outcome to tell finds nobody, and gives up.
        self.outcomes = None;
        if let Some((thread, stop)) = self.accepting.take() {
            drop(stop);
            // So that the address is free when this returns. A panic in a decision of the application has been told of already.
            let _ = thread.join();
        }
    }
}

/// Why somebody who dialled did not become a connection.
#[derive(Debug)]
pub struct AcceptError {
    /// Who dialled; `None` if the system had no socket to give.
    pub peer: Option<SocketAddr>,
    /// What went wrong; it holds a [`ConnectionError`](crate::ConnectionError) where the handshake failed.
    pub error: io::Error,
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{peer}: {}", self.error),
            None => fmt::Display::fmt(&self.error, f),
        }
    }
}

impl std::error::Error for AcceptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Listener {
    /// Listens on `address` as the holder of `key`, and accepts every peer that completes the handshake.
    ///
    /// # Errors
    /// The error of the socket; or that of a field of `config`, as a [`ConfigError`](crate::ConfigError).
    pub fn bind(address: impl ToSocketAddrs, key: StaticSecret, config: Config) -> io::Result<Self> {
        let keys = move || ResponderKeys::from(key.clone());
        Self::from_listener(bind(address)?, keys, config, |_| true)
    }

    /// Listens on a socket that is bound. `keys` gives the keys of each connection, so that they can change; `accept` decides about each peer if
    /// [`Config::approve_peers`] is set: it returns a `bool` or an [`Approval`].
    ///
    /// # Errors
    /// As for [`Listener::bind`].
    pub fn from_listener<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        accept: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        config.check().map_err(invalid)?;
        let address = socket.local_addr()?;
        let (door, stopper) = Door::new(socket)?;
        let (outcome, outcomes) = sync_channel(READY);
        let places = Arc::new(AtomicUsize::new(HANDSHAKES));
        let acceptor = AcceptLoop { door, keys, config: Arc::new(config), accept: Arc::new(accept), outcome, places };
        let thread = thread::Builder::new().name("peermux-accept".into()).spawn(move || acceptor.run())?;
        Ok(Self { address, outcomes: Some(Mutex::new(outcomes)), accepting: Some((thread, stopper)) })
    }

    /// The address that this listens on.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Dialers that fail are passed over: see [`Listener::next_outcome`].
    ///
    /// # Errors
    /// Only if the thread that accepts is gone, as after a panic of `keys`.
    pub fn accept(&self) -> io::Result<Connection> {
        loop {
            match self.next_outcome() {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(_)) => {}
                None => return Err(io::Error::other("the listener's thread has ended")),
            }
        }
    }

    /// What became of the next one who dialled; `None` if the thread that accepts is gone. Several threads may wait at once.
    pub fn next_outcome(&self) -> Option<Result<Connection, AcceptError>> {
        self.outcomes.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

/// Dialers that the kernel keeps until they are accepted; [`TcpListener::bind`] has it keep 128, and a burst of more costs some of them a second.
const BACKLOG: i32 = 1024;

/// As [`TcpListener::bind`], with room for [`BACKLOG`] dialers.
pub(crate) fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    for address in address.to_socket_addrs()? {
        match bind_one(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a listener that has ended do not keep the port from the next one.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listening socket, and what ends the wait for somebody who dials.
pub(crate) struct Door {
    socket: TcpListener,
    /// Readable once the writer that came with this is dropped.
    stop: io::PipeReader,
}

impl Door {
    pub(crate) fn new(socket: TcpListener) -> io::Result<(Self, io::PipeWriter)> {
        socket.set_nonblocking(true)?;
        let (stop, stopper) = io::pipe()?;
        Ok((Self { socket, stop }, stopper))
    }

    /// Waits for the next who dials; `None` once the writer is dropped.
    pub(crate) fn next(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        while !self.stops(None) {
            match self.socket.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Some(result),
            }
        }
        None
    }

    /// Waits for somebody who dials, or only for `pause`; true once the writer is dropped.
    pub(crate) fn stops(&self, pause: Option<&Timespec>) -> bool {
        let mut both = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
        let fds = if pause.is_some() { 1 } else { 2 };
        // An error, EINTR as a rule, leaves it to `accept` to find nobody.
        let _ = poll(&mut both[..fds], pause);
        !both[0].revents().is_empty()
    }
}

struct AcceptLoop<K, F> {
    door: Door,
    keys: K,
    config: Arc<Config>,
    accept: Arc<F>,
    outcome: SyncSender<Outcome>,
    /// Handshakes that may still be begun.
    places: Arc<AtomicUsize>,
}

impl<K, F, A> AcceptLoop<K, F>
where
    K: Fn() -> ResponderKeys,
    A: Into<Approval>,
    F: Fn(&PeerInfo) -> A + Send + Sync + 'static,
{
    fn run(&self) {
        while let Some(place) = self.place() {
            let Some(dialer) = self.door.next() else { return };
            let result = match dialer {
                Ok((socket, peer)) => {
                    self.start(socket, peer, place).map_err(|error| AcceptError { peer: Some(peer), error })
                }
                Err(error) => Err(AcceptError { peer: None, error }),
            };
            if let Err(error) = result {
                // What is wrong with one dialer's socket, or with the system, may be better for the next.
                if self.outcome.send(Err(error)).is_err() || self.door.stops(Some(&PAUSE)) {
                    return;
                }
            }
        }
    }

    /// Waits for a place for a handshake; `None` once the listener is dropped.
    fn place(&self) -> Option<Place> {
        while self.places.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(1)).is_err() {
            if self.door.stops(Some(&PAUSE)) {
                return None;
            }
        }
        Some(Place(self.places.clone()))
    }

    /// Starts a handshake.
    fn start(&self, socket: TcpStream, peer: SocketAddr, place: Place) -> io::Result<()> {
        let (keys, config, accept) = ((self.keys)(), self.config.clone(), self.accept.clone());
        let outcome = self.outcome.clone();
        let handshake = move || {
            let started = begin(socket, keys, config);
            let driver = started.as_ref().ok().map(|started| started.driver.clone());
            let result = started.and_then(|started| Ok(establish(started, |peer| accept(peer))?));
            let failed = result.is_err();
            let _ = outcome.send(result.map_err(|error| AcceptError { peer: Some(peer), error }));
            // The place is free when the outcome is taken; and where that is a failure, when its socket is closed, which takes a while
            // (`docs/spec.md` section 13.1). So there are never more sockets without a peer than places.
            if let Some(driver) = driver.filter(|_| failed) {
                let mut waiter = driver.waiter();
                Arc::<Signal>::default().block_on_forever(|waker| waiter.poll_transport_closed(waker));
            }
            drop(place);
        };
        thread::Builder::new().name("peermux-handshake".into()).spawn(handshake)?;
        Ok(())
    }
}

/// A place for a handshake, given back when this is dropped, even by a panic of the application's decision.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Accepts one peer over a socket that was just accepted, as the holder of `keys`. `accept` decides about the peer if [`Config::approve_peers`] is set.
///
/// # Errors
/// The error of the socket, or one that holds a [`ConnectionError`](crate::ConnectionError) or a [`ConfigError`](crate::ConfigError).
pub fn accept_socket<A: Into<Approval>>(
    socket: TcpStream,
    keys: impl Into<ResponderKeys>,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    Ok(establish(begin(socket, keys.into(), Arc::new(config))?, accept)?)
}

/// Begins a handshake as the one who was dialled.
pub(crate) fn begin(socket: TcpStream, keys: ResponderKeys, config: Arc<Config>) -> io::Result<Started> {
    let clock = Clock::start();
    let connection =
        peermux_core::Connection::responder(config, keys, clock.now(), &mut getrandom::SysRng).map_err(invalid)?;
    Started::new(socket, connection, clock, Trace::accepted)
}

pub(crate) fn invalid(error: crate::ConfigError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
