//! Endpoints: one port, many peers, one connection with each of them, and several protocols on it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use peermux_core::driver::Driver;
use peermux_core::endpoint::{
    self, Decision, Dialing, Drained, EndpointLimits, Link, Next, Place, RegisterError, Serving,
};

use crate::connection::Started;
use crate::listener::{Door, PAUSE, bind};
use crate::reach::reach;
use crate::signal::Signal;
use crate::task::Clock;
use crate::transport::Transport;
use crate::worker::{Worker, sleep};
use crate::{
    Approval, Config, Connection, ConnectionError, Identity, PeerInfo, PublicKey, Remote, ResponderKeys, Stream,
};

/// One listening port, and at most one connection with each peer, whichever side dialled it, for all
/// protocols of an application (section 16 of the specification).
///
/// If two sides dial each other at once, or one dials again because the other has not yet noticed that
/// a connection is dead, one of the connections drains: what is open on it may finish, and new streams
/// use the other one. A handle to the connection that drains then returns
/// [`OpenError::Draining`](crate::OpenError::Draining), and [`Endpoint::connect`] returns the other
/// connection. Streams that crossed the decision were not processed and can be opened again: they end
/// with [`Code::REFUSED`](crate::Code::REFUSED), and [`is_retryable`](crate::is_retryable) returns `true`.
///
/// The endpoint holds its connections, so a connection stays when its handles are dropped. It ends when
/// a side drains or closes it, or when the peer is silent for too long. Clones are handles to the same
/// endpoint. When the last one is dropped, the endpoint drains as by [`Endpoint::drain`], but does not
/// wait for its peers. Early data is refused, and is sent again.
///
/// One thread, `peermux-endpoint`, accepts, dials and runs handshakes, however many peers there are. It
/// calls the callbacks of [`Endpoint::from_listener`]; while they run, nothing else of this endpoint is
/// accepted or dialled, and data of connections flows all the same. The thread ends with the last
/// connection after the endpoint has drained.
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
/// let connection = renter.connect(host.local_addr()?, host.public_key())?;
/// let mut stream = connection.open_stream(Some("example/echo"), Priority::default())?;
/// stream.write_all(b"hello")?;
/// stream.shutdown(Shutdown::Write)?;
/// let mut answer = Vec::new();
/// stream.read_to_end(&mut answer)?;
/// assert_eq!(answer, b"hello");
/// drop(stream);
/// // All finishes, and the listener of the protocol returns that nothing more comes.
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
    address: Option<SocketAddr>,
    /// `None` if the endpoint only dials.
    door: Option<Arc<Door>>,
    shared: Arc<Shared>,
}

impl Handle {
    /// Begins to drain. The port is free when this returns.
    fn drain(&self) -> Drained<Connection> {
        if let Some(door) = &self.door {
            door.close();
        }
        let drained = self.shared.links.drain();
        self.shared.worker.finish();
        drained
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.drain());
    }
}

/// What the handles and the tasks of an endpoint share.
struct Shared {
    keys: Box<dyn Fn() -> ResponderKeys + Send + Sync>,
    config: Arc<Config>,
    approve: Box<dyn Fn(&PeerInfo) -> Approval + Send + Sync>,
    clock: Clock,
    links: Arc<endpoint::Endpoint<Connection>>,
    worker: Worker,
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
    /// Returns the error of the socket, the system's if it has no thread to give, or one that holds a
    /// [`ConfigError`](crate::ConfigError).
    pub fn bind(address: impl ToSocketAddrs, keys: impl Into<ResponderKeys>, config: Config) -> io::Result<Self> {
        let keys = keys.into();
        Self::new(Some(bind(address)?), move || keys.clone(), config, EndpointLimits::default(), |_| true)
    }

    /// Listens on a socket that is bound. `keys` returns the keys of each connection, so that they can
    /// change; this side dials as the holder of the current key. Connections to the previous key live
    /// beside those to the current one. `approve` decides about each peer, whichever side dialled, if
    /// [`Config::ask`] is set: it returns a `bool` or an [`Approval`].
    ///
    /// # Errors
    /// See [`Endpoint::bind`].
    pub fn from_listener<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        limits: EndpointLimits,
        approve: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::new(Some(socket), keys, config, limits, approve)
    }

    /// Creates an endpoint that only dials. Everything else is as for [`Endpoint::from_listener`].
    ///
    /// # Errors
    /// Returns an error that holds a [`ConfigError`](crate::ConfigError), or the system's if it has no
    /// thread to give.
    pub fn dialer<A: Into<Approval>>(
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        limits: EndpointLimits,
        approve: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::new(None, keys, config, limits, approve)
    }

    fn new<A: Into<Approval>>(
        socket: Option<TcpListener>,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        limits: EndpointLimits,
        approve: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        config.check()?;
        let address = socket.as_ref().map(TcpListener::local_addr).transpose()?;
        let worker = Worker::start("peermux-endpoint")?;
        let shared = Arc::new(Shared {
            links: endpoint::Endpoint::new(limits),
            keys: Box::new(keys),
            config: Arc::new(config),
            approve: Box::new(move |peer| approve(peer).into()),
            clock: Clock::start(),
            worker: worker.clone(),
        });
        let mut handle = Handle { address, door: None, shared };
        if let Some(socket) = socket {
            let door = Door::new(&worker, socket)?;
            handle.door = Some(door.clone());
            worker.spawn(Box::pin(handle.shared.clone().accept_all(door)));
        }
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Returns the address that this listens on.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] if the endpoint only dials.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.handle.address.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "endpoint only dials"))
    }

    /// Returns the current key, by which peers know this endpoint.
    pub fn public_key(&self) -> PublicKey {
        (self.handle.shared.keys)().current.public_key()
    }

    /// Returns the connection to `peer`. Reuses an existing connection, whichever side dialled it;
    /// otherwise dials `address`. Concurrent calls for one peer share a dial unless they name other
    /// addresses, and the first connection is for all of them. If `address` names several addresses,
    /// they are tried as by [`connect`](crate::connect()).
    ///
    /// A peer that has drained this side off, because it has another connection with the holder of this
    /// endpoint's key, is dialled after 15 s at the earliest, and later if that happens again, up to
    /// 10 min. Until then this waits.
    ///
    /// # Errors
    /// Returns an error that holds a [`ConnectError`](crate::ConnectError), with all addresses that were
    /// tried, or a [`ConnectionError`]: see [`io::Error::get_ref`]. Returns
    /// [`io::ErrorKind::InvalidInput`] if `peer` is this endpoint's own key, and
    /// [`io::ErrorKind::NotConnected`] if the endpoint drains.
    pub fn connect(&self, address: impl ToSocketAddrs, peer: PublicKey) -> io::Result<Connection> {
        self.connect_until(address, peer, None)
    }

    /// Connects as [`Endpoint::connect`], and waits for `timeout` at most, beyond the time that it takes
    /// to look `address` up. The dial is aborted then, unless another call waits for it.
    ///
    /// # Errors
    /// See [`Endpoint::connect`]. Returns [`io::ErrorKind::TimedOut`] if the timeout expires.
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
                Next::Dial(dialing) => shared.worker.spawn(Box::pin(shared.clone().dial(dialing))),
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

    /// Returns the connection to `peer`, if there is one that takes new streams.
    pub fn connection(&self, peer: &PublicKey) -> Option<Connection> {
        let shared = &self.handle.shared;
        shared.links.connection(shared.clock.now(), peer)
    }

    /// Returns the connections that take new streams: one for each peer, and those with anonymous peers.
    pub fn connections(&self) -> Vec<Connection> {
        self.handle.shared.links.peers()
    }

    /// Takes the streams that name `protocol`, on all connections, or those that name none if it is empty.
    /// Streams that name a protocol without a listener are refused with
    /// [`Code::UNKNOWN_PROTOCOL`](crate::Code::UNKNOWN_PROTOCOL).
    ///
    /// A slow protocol delays no other one: of each connection at most
    /// [`EndpointLimits::queued_streams`] wait for it, and more are refused with
    /// [`Code::REFUSED`](crate::Code::REFUSED), so that they can be opened again. Connections take turns:
    /// a peer that opens many streams delays only itself.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register(&self, protocol: &str) -> Result<ProtocolListener, RegisterError> {
        Ok(ProtocolListener { streams: self.handle.shared.links.register(protocol)?, signal: Arc::default() })
    }

    /// Accepts and dials no more, drains all connections, and waits until all of their streams have ended
    /// and they are closed. Streams that wait for a [`ProtocolListener`] are still given to it. The port
    /// is free as soon as this begins.
    pub fn drain(&self) {
        let drained = self.handle.drain();
        Arc::<Signal>::default().wait_for(|waker| drained.poll(waker));
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, key) = (self.handle.address, self.public_key());
        f.debug_struct("Endpoint").field("address", &address).field("key", &key).finish_non_exhaustive()
    }
}

/// Takes the streams of one protocol. When it is dropped, those that wait are refused, and the protocol
/// is unknown.
pub struct ProtocolListener {
    streams: endpoint::Acceptor<Connection>,
    /// Where threads wait for a stream.
    signal: Arc<Signal>,
}

impl ProtocolListener {
    /// Waits for the next stream that names the protocol. Returns also its connection, which says who the
    /// peer is and opens streams to it. Returns `None` once the endpoint has drained. Several threads may
    /// wait at once; each stream goes to one of them.
    pub fn accept(&self) -> Option<(Stream, Connection)> {
        let (stream, connection) = self.signal.wait_for(|waker| self.streams.poll_accept(waker))?;
        connection.trace().stream_accepted(&stream);
        Some((Stream::new(stream, connection.shared()), connection))
    }

    /// Returns the protocol's name.
    pub fn protocol(&self) -> &str {
        self.streams.protocol()
    }
}

impl fmt::Debug for ProtocolListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtocolListener").field("protocol", &self.protocol()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Accepts dialers while there is room.
    async fn accept_all(self: Arc<Self>, door: Arc<Door>) {
        while poll_fn(|cx| self.links.poll_room(cx.waker())).await {
            match door.accept().await {
                // The socket of a dialer that gets no place is closed here.
                Some(Ok((socket, peer))) => {
                    if let Some(place) = self.links.place(peer.ip()) {
                        self.worker.spawn(Box::pin(self.clone().accept(socket, place)));
                    }
                }
                // What is wrong with one dialer's socket, or with the system, may be better for the next.
                Some(Err(_)) => sleep(PAUSE).await,
                None => return,
            }
        }
    }

    /// Runs a handshake, and gives its place back when the peer is confirmed, or when the socket is closed,
    /// which takes a while (section 13.1 of the specification). Then serves the connection.
    async fn accept(self: Arc<Self>, socket: TcpStream, place: Place<Connection>) {
        // An error is between that dialer and its socket.
        let started = Started::responder(Transport::accepted(socket), (self.keys)(), self.config.clone());
        let Ok(started) = started else { return };
        place.begin(started.driver());
        let mut waiter = started.driver().waiter();
        match started.establish(&self.approve).await {
            Ok(connection) => self.serve(self.links.adopt(self.clock.now(), &connection, Some(place))).await,
            Err(_) => {
                place.failed();
                poll_fn(|cx| waiter.poll_closed(cx.waker())).await;
            }
        }
    }

    /// Dials until no call waits for the connection any more, and then serves it.
    async fn dial(self: Arc<Self>, dialing: Dialing<Connection>) {
        let started = {
            let mut reach = pin!(reach(dialing.addresses(), self.config.connect_timeout));
            poll_fn(|cx| match dialing.poll_unwanted(cx.waker()) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => reach.as_mut().poll(cx).map(Some),
            })
            .await
        };
        let Some(socket) = started else { return };
        let (identity, remote) = (Identity::Known((self.keys)().current), Remote::Key(dialing.peer()));
        let started = socket
            .and_then(|socket| Started::initiator(Transport::connected(socket), identity, remote, self.config.clone()));
        let result = match started {
            Ok(started) => {
                dialing.begin(started.driver());
                started.establish(&self.approve).await.map_err(ConnectionError::into_dial_error)
            }
            Err(error) => Err(error),
        };
        if let Some(serving) = dialing.finish(self.clock.now(), result) {
            self.serve(serving).await;
        }
    }

    /// Gives the peer's streams to the listeners of their protocols, until the connection is closed.
    async fn serve(&self, mut serving: Serving<Connection>) {
        poll_fn(|cx| serving.poll(self.clock.now(), cx.waker())).await;
    }
}
