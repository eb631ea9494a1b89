//! Endpoints: one port, many peers, one connection with each of them, and several protocols on it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use peermux_core::driver::{Driver, Handshake, Waiter};
use peermux_core::endpoint::{
    self, Decision, Dialing, Drained, EndpointLimits, Link, Next, Place, RegisterError, Serving,
};

use crate::connection::Started;
use crate::listener::{PAUSE, bind};
use crate::reach::{Reach, Reached};
use crate::signal::{Promise, Signal};
use crate::transport::{Clock, Transport};
use crate::worker::{Context, Queue, Step, Worker};
use crate::{
    Approval, Config, Connection, ConnectionError, Identity, PeerInfo, PublicKey, Remote, ResponderKeys, Stream,
};

/// One listening port, and at most one connection with each peer, whoever dialled it, for all protocols of an application
/// (`docs/spec.md` section 16).
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
/// An endpoint has one thread, `peermux-endpoint`. It accepts, runs handshakes and dials, calls `keys` and `approve`,
/// and hands streams to their protocols; it ends with the endpoint's last connection. The transports of all connections
/// of the process are served by one more, `peermux-sockets`. Neither waits for a peer.
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
    address: Option<SocketAddr>,
    shared: Arc<Shared>,
    /// The task that accepts.
    accepting: Option<Accepting>,
    /// `None` once the endpoint drains.
    worker: Mutex<Option<Worker>>,
}

/// The task that accepts, and what says that its socket is closed.
struct Accepting {
    waker: Waker,
    closed: Arc<Promise<()>>,
}

impl Handle {
    fn drain(&self) -> Drained<Connection> {
        let drained = self.shared.links.drain();
        if let Some(worker) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let is_current = worker.is_current();
            worker.detach();
            if let Some(Accepting { waker, closed }) = &self.accepting {
                waker.wake_by_ref();
                // A callback runs on the thread that would close it.
                if !is_current {
                    closed.wait();
                }
            }
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

/// What the handles and the tasks of an endpoint share.
struct Shared {
    keys: Box<Keys>,
    config: Arc<Config>,
    decide: Box<Decide>,
    clock: Clock,
    links: Arc<endpoint::Endpoint<Connection>>,
    queue: Arc<Queue>,
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
        Self::create(Some(bind(address)?), move || keys.clone(), config, EndpointLimits::default(), |_| true)
    }

    /// Listens on a socket that is bound. `keys` gives the keys of each connection, so that they can change; this side dials as the holder of the current one. Connections
    /// that dialers have made to the previous key live beside those of the current one. `accept` decides about each peer, whoever dialled, if [`Config::ask`] is set: it returns a `bool` or an [`Approval`].
    ///
    /// # Errors
    /// As for [`Endpoint::bind`].
    pub fn from_listener<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        limits: EndpointLimits,
        accept: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::create(Some(socket), keys, config, limits, accept)
    }

    /// Creates an endpoint that only dials. Otherwise it is as one [from a listener](Endpoint::from_listener).
    ///
    /// # Errors
    /// Returns an error that holds a [`ConfigError`](crate::ConfigError), or the system's if it has no thread to give.
    pub fn dialer<A: Into<Approval>>(
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        limits: EndpointLimits,
        approve: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::create(None, keys, config, limits, approve)
    }

    fn create<A: Into<Approval>>(
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
            decide: Box::new(move |peer| approve(peer).into()),
            clock: Clock::start(),
            queue: worker.queue().clone(),
        });
        let accepting = socket.map(|socket| shared.start_accepting(socket)).transpose()?;
        Ok(Self { handle: Arc::new(Handle { address, shared, accepting, worker: Mutex::new(Some(worker)) }) })
    }

    /// Returns the address that this listens on.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] for an endpoint that only dials.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.handle.address.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the endpoint only dials"))
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
                Next::Dial(dialing) => shared.dial(dialing)?,
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
    pub fn connections(&self) -> Vec<Connection> {
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
    pub fn register(&self, protocol: &str) -> Result<ProtocolListener, RegisterError> {
        Ok(ProtocolListener { streams: self.handle.shared.links.register(protocol)?, signal: Arc::default() })
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
        let (address, key) = (self.handle.address, self.public_key());
        f.debug_struct("Endpoint").field("address", &address).field("key", &key).finish_non_exhaustive()
    }
}

/// Takes the streams of one protocol. When it is dropped, those that wait are refused, and the protocol is unknown.
pub struct ProtocolListener {
    streams: endpoint::Acceptor<Connection>,
    /// Where those wait that accept.
    signal: Arc<Signal>,
}

impl ProtocolListener {
    /// The next stream that names the protocol, and the connection that it came on, which says who the peer is and opens streams to it. `None` once the endpoint has
    /// drained. Several threads may wait at once; each stream goes to one of them.
    pub fn accept(&self) -> Option<(Stream, Connection)> {
        let (stream, connection) = self.signal.block_on_forever(|waker| self.streams.poll_accept(waker))?;
        connection.trace().stream_accepted(&stream);
        Some((Stream::new(stream, connection.shared()), connection))
    }

    /// The protocol's name.
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
    /// Starts the task that accepts dialers.
    fn start_accepting(self: &Arc<Self>, socket: TcpListener) -> io::Result<Accepting> {
        socket.set_nonblocking(true)?;
        let mut socket = mio::net::TcpListener::from_std(socket);
        let closed = Arc::<Promise<()>>::default();
        let accepting = Arc::new(Mutex::new(None));
        let (shared, end) = (self.clone(), KeepOnDrop(closed.clone()));
        let run = {
            let accepting = accepting.clone();
            move |context: &Context<'_>| {
                let _ = &end;
                let mut socket = accepting.lock().unwrap_or_else(PoisonError::into_inner);
                match &*socket {
                    Some(listening) => {
                        let step = shared.accept_all(listening, context);
                        if matches!(step, Step::Done) {
                            *socket = None;
                        }
                        step
                    }
                    None => Step::Wait(None),
                }
            }
        };
        let waker = self.queue.spawn(Arc::default(), Some(&mut socket), run)?;
        *accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        waker.wake_by_ref();
        Ok(Accepting { waker, closed })
    }

    /// Accepts dialers while there is room.
    fn accept_all(self: &Arc<Self>, socket: &mio::net::TcpListener, context: &Context<'_>) -> Step {
        loop {
            match self.links.poll_room(context.waker) {
                Poll::Pending => return Step::Wait(None),
                Poll::Ready(false) => return Step::Done,
                Poll::Ready(true) => {}
            }
            let started = match socket.accept() {
                // The socket of one who gets no place is closed here.
                Ok((socket, peer)) => match self.links.place(peer.ip()) {
                    Some(place) => self.accept(socket, place),
                    None => Ok(()),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Wait(None),
                Err(error) => Err(error),
            };
            if started.is_err() {
                // What is wrong with one dialer's socket, or with the system, may be better for the next.
                return Step::Wait(Instant::now().checked_add(PAUSE));
            }
        }
    }

    /// Starts the task of a connection that was accepted.
    fn accept(self: &Arc<Self>, socket: mio::net::TcpStream, place: Place<Connection>) -> io::Result<()> {
        let started = Started::responder(Transport::from_tcp(socket)?, (self.keys)(), self.config.clone())?;
        place.begin(started.setup.driver());
        let handshake = started.setup.handshake(false);
        self.spawn(Life::Handshake { started, handshake, from: From::Place(place) })
    }

    /// Starts the task of a dial, and then of its connection.
    fn dial(self: &Arc<Self>, dialing: Dialing<Connection>) -> io::Result<()> {
        let reach = Reach::new(dialing.addresses(), self.config.connect_timeout);
        self.spawn(Life::Reach { reach, dialing })
    }

    fn spawn(self: &Arc<Self>, life: Life) -> io::Result<()> {
        let (shared, mut life) = (self.clone(), Some(life));
        let run = move |context: &Context<'_>| {
            loop {
                match life.take().map_or(Turn::Done, |life| shared.step(life, context)) {
                    Turn::Next(next) => life = Some(next),
                    Turn::Wait(same, until) => {
                        life = Some(same);
                        return Step::Wait(until);
                    }
                    Turn::Done => return Step::Done,
                }
            }
        };
        self.queue.spawn(Arc::default(), None, run)?.wake();
        Ok(())
    }

    /// One step in the life of a connection.
    fn step(&self, life: Life, context: &Context<'_>) -> Turn {
        let waker = context.waker;
        match life {
            Life::Reach { mut reach, dialing } => {
                if dialing.poll_unwanted(waker).is_ready() {
                    return Turn::Done;
                }
                let socket = match reach.poll(context) {
                    Reached::Wait(until) => return Turn::Wait(Life::Reach { reach, dialing }, until),
                    Reached::Connected(socket) => self.greet(socket, &dialing),
                    Reached::Failed(error) => Err(error),
                };
                match socket {
                    Ok(started) => {
                        let handshake = started.setup.handshake(false);
                        Turn::Next(Life::Handshake { started, handshake, from: From::Dialing(dialing) })
                    }
                    Err(error) => self.serve(dialing.finish(self.clock.now(), Err(error))),
                }
            }
            Life::Handshake { started, mut handshake, from } => {
                let Poll::Ready(result) = handshake.poll(waker, |peer| (self.decide)(peer)) else {
                    return Turn::Wait(Life::Handshake { started, handshake, from }, None);
                };
                let now = self.clock.now();
                match (result.map(|peer| started.connection(peer)), from) {
                    (result, From::Dialing(dialing)) => {
                        self.serve(dialing.finish(now, result.map_err(ConnectionError::into_dial_error)))
                    }
                    (Ok(connection), From::Place(place)) => {
                        Turn::Next(Life::Serve(self.links.adopt(now, &connection, Some(place))))
                    }
                    // An error is between that dialer and its socket.
                    (Err(_), From::Place(place)) => {
                        place.failed();
                        Turn::Next(Life::Close(started.setup.driver().waiter(), place))
                    }
                }
            }
            Life::Serve(mut serving) => match serving.poll(self.clock.now(), waker) {
                Poll::Ready(()) => Turn::Done,
                Poll::Pending => Turn::Wait(Life::Serve(serving), None),
            },
            Life::Close(mut waiter, place) => match waiter.poll_closed(waker) {
                Poll::Ready(()) => Turn::Done,
                Poll::Pending => Turn::Wait(Life::Close(waiter, place), None),
            },
        }
    }

    fn serve(&self, serving: Option<Serving<Connection>>) -> Turn {
        serving.map_or(Turn::Done, |serving| Turn::Next(Life::Serve(serving)))
    }

    fn greet(&self, socket: mio::net::TcpStream, dialing: &Dialing<Connection>) -> io::Result<Started> {
        let (identity, remote) = (Identity::Known((self.keys)().current), Remote::Key(dialing.peer()));
        let transport = Transport::from_tcp(socket)?;
        Started::initiator(transport, identity, remote, self.config.clone(), |driver| dialing.begin(driver))
    }
}

/// The life of a connection of an endpoint.
enum Life {
    Reach {
        reach: Reach,
        dialing: Dialing<Connection>,
    },
    Handshake {
        started: Started,
        handshake: Handshake,
        from: From,
    },
    Serve(Serving<Connection>),
    /// The handshake has failed. The place stays taken until the socket is closed.
    Close(Waiter, Place<Connection>),
}

enum From {
    Dialing(Dialing<Connection>),
    Place(Place<Connection>),
}

enum Turn {
    Next(Life),
    Wait(Life, Option<Instant>),
    Done,
}

/// Says that the accepting socket is closed.
struct KeepOnDrop(Arc<Promise<()>>);

impl Drop for KeepOnDrop {
    fn drop(&mut self) {
        self.0.keep(());
    }
}
