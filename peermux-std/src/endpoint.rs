//! Endpoints: one port, many peers, one connection with each of them, and several protocols on it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use peermux_core::driver::Driver;
use peermux_core::endpoint::{self, Decision, Drained, EndpointLimits, Link, Next, RegisterError, Serving};

use crate::listener::{Door, bind, invalid};
use crate::pump::Clock;
use crate::signal::Signal;
use crate::{Approval, Config, Connection, PeerInfo, PublicKey, ResponderKeys, Stream};

mod incoming;
mod outgoing;

/// One listening port, and at most one connection with each peer, whoever dialled it, for all protocols of an application
/// ([spec](peermux_core::spec) section 16).
///
/// Where two sides dial each other at once, or one dials again because the other does not know yet that a connection is dead, one of the connections drains:
/// what is open on it may finish, and new streams go on the other one. A handle of that connection then says [`OpenError::Draining`](crate::OpenError::Draining),
/// and [`Endpoint::connect`] gives the other one. Streams that crossed the decision were not processed and can be opened again: they end with
/// [`Code::REFUSED`](crate::Code::REFUSED), and [`is_retryable`](crate::is_retryable) says so.
///
/// The endpoint holds its connections, so one stays when its handles are dropped; it ends when a side drains or closes it, or is not heard of any more. Clones are handles to the same endpoint; when
/// the last one is dropped it drains, as by [`Endpoint::drain`], but without waiting for its peers. Early data is refused, and comes again by itself.
///
/// # Threads
///
/// | name | how many | until |
/// | --- | --- | --- |
/// | `peermux-accept` | 1 | the endpoint drains |
/// | `peermux-peer` | 1 for each dialer that is not confirmed ([`EndpointLimits::unconfirmed`] at most), each dial that is under way (one for each peer that somebody waits for, and one more for each list of addresses that no other dial of that peer tries), and each connection | the handshake has failed, or the connection is closed |
/// | `peermux-read`, `peermux-write` | 1 each, for each handshake and connection, as without an endpoint | its socket is closed |
///
/// Each of them waits in the kernel, and none by trying again and again. They end by themselves; nobody needs to join them. Applications decide about peers (`accept` of [`Endpoint::over`]) in a thread `peermux-peer`.
///
/// ```
/// # use peermux_std::{Config, Endpoint, Priority, StaticSecret};
/// # use std::io::{Read, Write};
/// # use std::net::Shutdown;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Endpoint::bind("127.0.0.1:0", StaticSecret::from_bytes(&[1; 32]), Config::default())?;
/// let renter = Endpoint::bind("127.0.0.1:0", StaticSecret::from_bytes(&[2; 32]), Config::default())?;
/// let echo = host.register("example/echo")?;
/// let serving = std::thread::spawn(move || {
///     while let Some((mut stream, _connection)) = echo.accept() {
///         let mut request = Vec::new();
///         stream.read_to_end(&mut request).expect("the renter finishes");
///         stream.write_all(&request).expect("the renter reads");
///         stream.shutdown(Shutdown::Write).expect("the renter reads");
///     }
/// });
///
/// let connection = renter.connect(host.local_addr(), host.public_key())?;
/// let mut stream = connection.open("example/echo", Priority::default())?;
/// stream.write_all(b"hello")?;
/// stream.shutdown(Shutdown::Write)?;
/// let mut answer = Vec::new();
/// stream.read_to_end(&mut answer)?;
/// assert_eq!(answer, b"hello");
/// drop(stream);
/// // All finishes, and the acceptor says that nothing more comes.
/// host.drain();
/// serving.join().expect("no panic");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Endpoint {
    handle: Arc<Handle>,
}

struct Handle {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The accepting thread, and what wakes it by being dropped.
    accepting: Mutex<Option<(JoinHandle<()>, io::PipeWriter)>>,
}

impl Handle {
    /// Begins to drain. The port is free when this returns.
    fn drain(&self) -> Drained<Connection> {
        let drained = self.shared.links.drain();
        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((thread, stop)) = accepting {
            drop(stop);
            // It calls nothing of the application's, so it cannot be this thread.
            let _ = thread.join();
        }
        drained
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.drain());
    }
}

type Decide = dyn Fn(&PeerInfo) -> Approval + Send + Sync;
type Keys = dyn Fn() -> ResponderKeys + Send + Sync;

/// What the handles and the threads of an endpoint share.
struct Shared {
    keys: Box<Keys>,
    config: Arc<Config>,
    decide: Box<Decide>,
    clock: Clock,
    links: Arc<endpoint::Endpoint<Connection>>,
}

impl Link for Connection {
    fn driver(&self) -> &Arc<Driver> {
        self.driver()
    }

    fn peer(&self) -> &PeerInfo {
        self.peer()
    }

    fn decided(&self, decision: &Decision) {
        self.trace().decided(decision);
    }
}

impl Endpoint {
    /// Listens on `address` as the holder of `keys`, and accepts every peer that completes the handshake.
    ///
    /// # Errors
    /// The error of the socket; or that of a field of `config`, as a [`ConfigError`](crate::ConfigError).
    pub fn bind(address: impl ToSocketAddrs, keys: impl Into<ResponderKeys>, config: Config) -> io::Result<Self> {
        let keys = keys.into();
        Self::over(bind(address)?, move || keys.clone(), config, EndpointLimits::default(), |_| true)
    }

    /// Listens on a socket that is bound. `keys` gives the keys of each connection, so that they can change; this side dials as the holder of the current one. Connections
    /// that dialers have made to the previous key live beside those of the current one. `accept` decides about each peer, whoever dialled, if [`Config::ask`] is set: it returns a `bool` or an [`Approval`].
    ///
    /// # Errors
    /// As for [`Endpoint::bind`].
    pub fn over<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        limits: EndpointLimits,
        accept: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        config.check().map_err(invalid)?;
        let address = socket.local_addr()?;
        let (door, stop) = Door::new(socket)?;
        let shared = Arc::new(Shared {
            links: endpoint::Endpoint::new(limits),
            keys: Box::new(keys),
            config: Arc::new(config),
            decide: Box::new(move |peer| accept(peer).into()),
            clock: Clock::start(),
        });
        let accepting = shared.clone();
        let thread = thread::Builder::new().name("peermux-accept".into()).spawn(move || accepting.accept_all(&door))?;
        Ok(Self { handle: Arc::new(Handle { address, shared, accepting: Mutex::new(Some((thread, stop))) }) })
    }

    /// The address that this listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.address
    }

    /// The key that peers know this endpoint by: the current one.
    pub fn public_key(&self) -> PublicKey {
        (self.handle.shared.keys)().current.public_key()
    }

    /// The connection with the holder of `peer`: the one that there is, whoever dialled it, or one that is dialled at `address`. Those who want the same peer at the same time share a
    /// dial, unless they name other addresses; the first connection is for all of them. If `address` names several, they are tried as by [`connect`](crate::connect).
    ///
    /// A peer that has drained this side off, since it has another connection with the holder of this endpoint's key, is dialled after 15 s at the earliest, and later if that happens again, up to 10 min.
    /// Until then this waits.
    ///
    /// # Errors
    /// One that holds a [`ConnectError`](crate::ConnectError), with all addresses that were tried, or a [`ConnectionError`](crate::ConnectionError): see [`io::Error::get_ref`]. [`io::ErrorKind::InvalidInput`] if `peer` is this
    /// endpoint's own key; [`io::ErrorKind::NotConnected`] if it drains.
    pub fn connect(&self, address: impl ToSocketAddrs, peer: PublicKey) -> io::Result<Connection> {
        self.connect_until(address, peer, None)
    }

    /// As [`Endpoint::connect`], and waits for `timeout` at most, beyond the time that it takes to look `address` up. The dial is given up then, unless somebody else waits for it.
    ///
    /// # Errors
    /// As for [`Endpoint::connect`]; [`io::ErrorKind::TimedOut`] when the time is over.
    pub fn connect_timeout(
        &self,
        address: impl ToSocketAddrs,
        peer: PublicKey,
        timeout: Duration,
    ) -> io::Result<Connection> {
        self.connect_until(address, peer, Some(timeout))
    }

    fn connect_until(
        &self,
        address: impl ToSocketAddrs,
        peer: PublicKey,
        timeout: Option<Duration>,
    ) -> io::Result<Connection> {
        let shared = &self.handle.shared;
        if let Some(connection) = self.connection(&peer) {
            connection.trace().shared();
            return Ok(connection);
        }
        let mut want = shared.links.want(self.public_key(), peer, address.to_socket_addrs()?.collect());
        // A timeout beyond the end of time is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let signal = Arc::<Signal>::default();
        let waker = signal.waker();
        loop {
            let (seen, now) = (signal.seen(), shared.clock.now());
            match want.next(now, &waker) {
                Next::Found(connection) => return Ok(connection),
                Next::Failed(error) => return Err(error),
                Next::Dial(dialing) => {
                    let shared = shared.clone();
                    spawn(move || shared.dial(dialing))?;
                }
                Next::Wait(until) => {
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "there is no connection in time"));
                    }
                    let pause = until.and_then(|until| Instant::now().checked_add(until.saturating_since(now)));
                    signal.wait(seen, [pause, deadline].into_iter().flatten().min());
                }
            }
        }
    }

    /// The connection with the holder of `peer`, if there is one that takes new streams.
    pub fn connection(&self, peer: &PublicKey) -> Option<Connection> {
        let shared = &self.handle.shared;
        shared.links.connection(shared.clock.now(), peer)
    }

    /// The connections that take new streams: one for each peer, and those with anonymous ones. Whom each is with, [`Connection::peer`] says.
    pub fn peers(&self) -> Vec<Connection> {
        self.handle.shared.links.peers()
    }

    /// Takes the streams that name `protocol`, on whichever connection; those that name none if it is empty. Streams that name a protocol
    /// without an acceptor are refused with [`Code::UNKNOWN_PROTOCOL`](crate::Code::UNKNOWN_PROTOCOL).
    ///
    /// An acceptor that is slow delays no other one: of each connection at most [`EndpointLimits::queued_streams`] wait for it, and more are refused with
    /// [`Code::REFUSED`](crate::Code::REFUSED), so that they can be opened again. Connections take turns, so that a peer that opens many streams delays only itself.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register(&self, protocol: &str) -> Result<Acceptor, RegisterError> {
        Ok(Acceptor { streams: self.handle.shared.links.register(protocol)?, signal: Arc::default() })
    }

    /// Accepts and dials no more, drains all connections, and waits until all of their streams are done and they are closed. Streams that wait for an acceptor are
    /// still given to it. The port is free as soon as this begins.
    pub fn drain(&self) {
        let drained = self.handle.drain();
        Arc::<Signal>::default().block_on_forever(|waker| drained.poll(waker));
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, key) = (self.local_addr(), self.public_key());
        f.debug_struct("Endpoint").field("address", &address).field("key", &key).finish_non_exhaustive()
    }
}

/// Takes the streams of one protocol. When it is dropped, those that wait are refused, and the protocol is unknown.
pub struct Acceptor {
    streams: endpoint::Acceptor<Connection>,
    /// Where those wait that accept.
    signal: Arc<Signal>,
}

impl Acceptor {
    /// The next stream that names the protocol, and the connection that it came on, which says who the peer is and opens streams to it. `None` once the endpoint has
    /// drained. Several threads may wait at once; each stream goes to one of them.
    pub fn accept(&self) -> Option<(Stream, Connection)> {
        let (stream, connection) = self.signal.block_on_forever(|waker| self.streams.poll_accept(waker))?;
        connection.trace().stream_accepted(&stream);
        Some((Stream::new(stream), connection))
    }

    /// The protocol's name.
    pub fn protocol(&self) -> &str {
        self.streams.protocol()
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("protocol", &self.protocol()).finish_non_exhaustive()
    }
}

/// Starts the thread of one peer.
fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("peermux-peer".into()).spawn(run).map(drop)
}

/// Gives the peer's streams to the acceptors, until the connection is closed.
fn serve(mut serving: Serving<Connection>, clock: Clock) {
    Arc::<Signal>::default().block_on_forever(|waker| serving.poll(clock.now(), waker));
}
