//! Endpoints: one port, many peers, one connection with each of them, and several protocols on it.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use peermux_core::error::Side;
use peermux_core::{PeerTable, Role, Verdict};
use tokio::net::{TcpListener, ToSocketAddrs, lookup_host};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::pump::Clock;
use crate::{Code, Config, Connection, ConnectionError, PeerInfo, ProtocolCode, PublicKey, StaticSecret, Stream};

mod incoming;
mod outgoing;

use incoming::Places;
use outgoing::{Dial, Outcome};

/// How much an [`Endpoint`] takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLimits {
    /// Accepted sockets at once whose peer is not confirmed, or whose handshake failed and which are not closed yet; more dialers wait in the kernel's queue.
    /// 1024 by default.
    pub unconfirmed: usize,
    /// Those of them from one IPv4 address, or one IPv6 network of 64 bits. The socket of a dialer beyond that is closed at once. 16 by default.
    pub unconfirmed_per_address: usize,
    /// Streams of one protocol that wait for [`Acceptor::accept`]; those beyond are refused with REFUSED. 128 by default; at least 1.
    pub queued_streams: usize,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self { unconfirmed: 1024, unconfirmed_per_address: 16, queued_streams: 128 }
    }
}

/// One listening port, and at most one connection with each peer, whoever dialled it, for all protocols of an application
/// (`docs/spec.md` section 16).
///
/// Where two sides dial each other at once, or one dials again because the other does not know yet that a connection is dead, one of the connections drains:
/// what is open on it may finish, and new streams go on the other one. A handle of that connection then says [`OpenError::Draining`](crate::OpenError::Draining),
/// and [`Endpoint::connect`] gives the other one. Streams that crossed the decision were not processed and can be opened again: they end with
/// [`Code::REFUSED`], or with an orderly end of the connection before anything was answered.
///
/// The endpoint holds its connections, so one stays when its handles are dropped; it ends when a side drains or closes it, or is not heard of any more. Clones are handles to the same endpoint; when
/// the last one is dropped it drains, as by [`Endpoint::drain`]. Early data is refused, and comes again by itself.
#[derive(Clone)]
pub struct Endpoint {
    handle: Arc<Handle>,
}

struct Handle {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.begin_drain();
    }
}

type Decide = dyn Fn(&PeerInfo) -> bool + Send + Sync;

/// What the handles and the tasks of an endpoint share.
struct Shared {
    key: StaticSecret,
    config: Config,
    limits: EndpointLimits,
    decide: Box<Decide>,
    places: Places,
    clock: Clock,
    state: Mutex<State>,
    /// A connection has come or gone.
    changed: Notify,
}

struct State {
    table: PeerTable<u64>,
    /// Those that are not closed, by what the table knows them by.
    connections: HashMap<u64, Connection>,
    next: u64,
    dials: HashMap<PublicKey, Dial>,
    protocols: HashMap<Box<str>, mpsc::Sender<(Stream, Connection)>>,
    drains: bool,
}

/// What there is to do for somebody who wants a connection.
enum Next {
    Found(Connection),
    Wait(tokio::time::Instant),
    Join(Arc<[SocketAddr]>, watch::Receiver<Option<Outcome>>),
    Drains,
}

impl Endpoint {
    /// Listens on `address` as the holder of `key`, and accepts every peer that completes the handshake.
    ///
    /// # Errors
    /// The error of the socket; or that of a field of `config`, as a [`ConfigError`](crate::ConfigError).
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn bind(address: impl ToSocketAddrs, key: StaticSecret, config: Config) -> io::Result<Self> {
        Self::over(TcpListener::bind(address).await?, key, config, EndpointLimits::default(), |_| true)
    }

    /// Listens on a socket that is bound. `accept` is asked about each peer, whoever dialled, if [`Config::ask`] is set. To be called in a runtime.
    ///
    /// # Errors
    /// As for [`Endpoint::bind`].
    pub fn over(
        socket: TcpListener,
        key: StaticSecret,
        config: Config,
        limits: EndpointLimits,
        accept: impl Fn(&PeerInfo) -> bool + Send + Sync + 'static,
    ) -> io::Result<Self> {
        config.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let address = socket.local_addr()?;
        let state = State {
            table: PeerTable::new(key.public_key()),
            connections: HashMap::new(),
            next: 0,
            dials: HashMap::new(),
            protocols: HashMap::new(),
            drains: false,
        };
        let shared = Arc::new(Shared {
            key,
            config,
            limits,
            decide: Box::new(accept),
            places: Places::default(),
            clock: Clock::start(),
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        let accepting = tokio::spawn(incoming::accept_all(socket, shared.clone()));
        Ok(Self { handle: Arc::new(Handle { address, shared, accepting }) })
    }

    /// The address that this listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.address
    }

    /// The key that peers know this endpoint by.
    pub fn public_key(&self) -> PublicKey {
        self.handle.shared.key.public_key()
    }

    /// The connection with the holder of `peer`: the one that there is, whoever dialled it, or one that is dialled at `address`. Those who want the same peer at the same time share a
    /// dial.
    ///
    /// A peer that has drained this side off, since it has another connection with the holder of this endpoint's key, is dialled after 15 s at the earliest, and later if that happens again, up to 10 min.
    /// Until then this waits.
    ///
    /// # Errors
    /// The error of the socket, or one that holds a [`ConnectionError`] (see [`io::Error::get_ref`]). [`io::ErrorKind::InvalidInput`] if `peer` is this
    /// endpoint's own key; [`io::ErrorKind::NotConnected`] if it drains.
    ///
    /// # Cancel safety
    /// Dropping the future gives the dial up, unless somebody else waits for it.
    pub async fn connect(&self, address: impl ToSocketAddrs, peer: PublicKey) -> io::Result<Connection> {
        let shared = &self.handle.shared;
        if peer == self.public_key() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is the endpoint's own key"));
        }
        if let Some(connection) = self.connection(&peer) {
            return Ok(connection);
        }
        let addresses: Arc<[SocketAddr]> = lookup_host(address).await?.collect();
        loop {
            let mut changed = pin!(shared.changed.notified());
            changed.as_mut().enable();
            let (dialled, mut outcome) = match shared.next(peer, &addresses) {
                Next::Found(connection) => return Ok(connection),
                Next::Drains => {
                    return Err(io::Error::new(io::ErrorKind::NotConnected, "the endpoint drains"));
                }
                Next::Wait(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        () = changed => {}
                    }
                    continue;
                }
                Next::Join(dialled, outcome) => (dialled, outcome),
            };
            let outcome = match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => None,
            };
            match outcome {
                Some(Ok(connection)) => {
                    // If this side was drained off it, there may be another one later. If it has ended meanwhile, it tells why.
                    let waits = shared.lock().table.not_before(&peer).is_some_and(|until| shared.clock.now() < until);
                    if !waits {
                        return Ok(self.connection(&peer).unwrap_or(connection));
                    }
                }
                // Somebody else dialled, and knew another address.
                Some(Err(_)) if dialled != addresses => {}
                Some(Err(error)) => return Err(copy(&error)),
                None => {
                    return Err(io::Error::other("the dial has ended by a panic, or with the runtime that it ran in"));
                }
            }
        }
    }

    /// The connection with the holder of `peer`, if there is one that takes new streams.
    pub fn connection(&self, peer: &PublicKey) -> Option<Connection> {
        let shared = &self.handle.shared;
        shared.current(&mut shared.lock(), peer)
    }

    /// The connections that take new streams: one for each peer, and those with anonymous ones. Whom each is with, [`Connection::peer`] says.
    pub fn peers(&self) -> Vec<Connection> {
        let state = self.handle.shared.lock();
        let named = state.table.peers().map(|(_, id)| id);
        let ids = named.chain(state.table.anonymous());
        ids.filter_map(|id| state.connections.get(&id))
            .filter(|connection| takes_streams(connection))
            .cloned()
            .collect()
    }

    /// Takes the streams that name `protocol`, on whichever connection; those that name none if it is empty. Streams that name a protocol
    /// without an acceptor are refused with [`Code::UNKNOWN_PROTOCOL`].
    ///
    /// An acceptor that is slow delays no other one: at most [`EndpointLimits::queued_streams`] wait for it, and more are refused with
    /// [`Code::REFUSED`], so that they can be opened again.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register(&self, protocol: &str) -> Result<Acceptor, RegisterError> {
        if protocol.len() > 64 || !protocol.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(RegisterError::Name);
        }
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        if state.protocols.get(protocol).is_some_and(|acceptor| !acceptor.is_closed()) {
            return Err(RegisterError::Taken);
        }
        let (sender, streams) = mpsc::channel(shared.limits.queued_streams.max(1));
        // Of an endpoint that drains there will be no streams: the acceptor says so.
        if !state.drains {
            state.protocols.insert(protocol.into(), sender);
        }
        Ok(Acceptor { protocol: protocol.into(), streams: tokio::sync::Mutex::new(streams) })
    }

    /// Accepts and dials no more, drains all connections, and waits until all of their streams are done and they are closed. Streams that wait for an acceptor are
    /// still given to it.
    ///
    /// # Cancel safety
    /// The endpoint drains even if the future is dropped after its first poll.
    pub async fn drain(&self) {
        self.handle.accepting.abort();
        let shared = &self.handle.shared;
        shared.begin_drain();
        loop {
            let mut changed = pin!(shared.changed.notified());
            changed.as_mut().enable();
            if shared.lock().connections.is_empty() {
                return;
            }
            changed.await;
        }
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
    protocol: Box<str>,
    streams: tokio::sync::Mutex<mpsc::Receiver<(Stream, Connection)>>,
}

impl Acceptor {
    /// The next stream that names the protocol, and the connection that it came on, which says who the peer is and opens streams to it. `None` once the endpoint has
    /// drained. Several tasks may wait at once; each stream goes to one of them.
    ///
    /// # Cancel safety
    /// No stream is lost when the future is dropped.
    pub async fn accept(&self) -> Option<(Stream, Connection)> {
        self.streams.lock().await.recv().await
    }

    /// The protocol's name.
    pub fn protocol(&self) -> &str {
        &self.protocol
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        let streams = self.streams.get_mut();
        streams.close();
        while let Ok((stream, _)) = streams.try_recv() {
            stream.refuse(Code::REFUSED);
        }
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

/// Why a protocol could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The name is longer than 64 bytes, or not printable ASCII without space.
    Name,
    /// There is an acceptor for it already.
    Taken,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a protocol's name is at most 64 bytes of printable ASCII without space",
            Self::Taken => "there is an acceptor for this protocol already",
        })
    }
}

impl std::error::Error for RegisterError {}

/// The same error for another one who waited.
fn copy(error: &io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ConnectionError>());
    match (error.raw_os_error(), inner) {
        (Some(code), _) => io::Error::from_raw_os_error(code),
        (_, Some(inner)) => inner.clone().into(),
        _ => io::Error::new(error.kind(), error.to_string()),
    }
}

fn takes_streams(connection: &Connection) -> bool {
    connection.driver().with(|connection| connection.is_established() && !connection.is_draining())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection with `peer` that takes new streams.
    fn current(&self, state: &mut State, peer: &PublicKey) -> Option<Connection> {
        loop {
            let id = state.table.current(peer)?;
            if state.connections.get(&id).is_some_and(takes_streams) {
                return state.connections.get(&id).cloned();
            }
            self.update(state, id);
        }
    }

    /// Tells the table what has become of a connection, as soon as it matters: its own task may be late.
    fn update(&self, state: &mut State, id: u64) {
        let now = self.clock.now();
        let Some(connection) = state.connections.get(&id) else {
            return state.table.closed(now, id, &ConnectionError::Truncated);
        };
        let drained = connection.driver().waiter().poll_drained(Waker::noop());
        let (error, drains) =
            connection.driver().with(|connection| (connection.error().cloned(), connection.is_draining()));
        let close = match drained {
            Poll::Ready(code) => state.table.draining(now, id, Side::Peer, code),
            Poll::Pending if drains => state.table.draining(now, id, Side::Local, ProtocolCode::GOING_AWAY),
            Poll::Pending => None,
        };
        if let Some(error) = error {
            state.table.closed(now, id, &error);
        }
        state.close(close);
    }

    fn next(self: &Arc<Self>, peer: PublicKey, addresses: &Arc<[SocketAddr]>) -> Next {
        let mut state = self.lock();
        if state.drains {
            return Next::Drains;
        }
        if let Some(connection) = self.current(&mut state, &peer) {
            return Next::Found(connection);
        }
        // One that nobody waits for is being given up, and may lead nowhere.
        if let Some(dial) = state.dials.get(&peer).filter(|dial| dial.outcome.receiver_count() > 0) {
            return Next::Join(dial.addresses.clone(), dial.outcome.subscribe());
        }
        let now = self.clock.now();
        if let Some(until) = state.table.not_before(&peer).filter(|until| now < *until) {
            return Next::Wait(tokio::time::Instant::now() + until.saturating_since(now));
        }
        let (outcome, receiver) = watch::channel(None);
        let dial = Dial { addresses: addresses.clone(), outcome: Arc::new(outcome) };
        state.dials.insert(peer, dial.clone());
        tokio::spawn(self.clone().dial(peer, dial));
        Next::Join(addresses.clone(), receiver)
    }

    /// Takes a connection whose peer is confirmed, and does what the table says.
    fn adopt(self: &Arc<Self>, connection: Connection, role: Role) {
        let mut state = self.lock();
        if state.drains {
            return drain(&connection, ProtocolCode::GOING_AWAY);
        }
        let peer = connection.peer();
        // One that has ended, or drains, is no duplicate.
        self.current(&mut state, &peer.key);
        let id = state.next;
        state.next += 1;
        let verdict = state.table.confirmed(self.clock.now(), id, peer, role);
        state.connections.insert(id, connection.clone());
        match verdict {
            Verdict::Keep => {}
            Verdict::UntilTold { close } => state.close(close),
            Verdict::Drain { drain: loser, close } => {
                if let Some(loser) = state.connections.get(&loser) {
                    drain(loser, ProtocolCode::DUPLICATE);
                }
                state.close(close);
            }
        }
        // Whoever waits for a dial to this peer needs it no more.
        if let Some(dial) = state.dials.get(&peer.key).filter(|_| role == Role::Responder) {
            dial.outcome.send_replace(Some(Ok(connection.clone())));
        }
        drop(state);
        self.changed.notify_waiters();
        tokio::spawn(self.clone().serve(id, connection));
    }

    /// Gives the peer's streams to the acceptors, until the connection is closed.
    async fn serve(self: Arc<Self>, id: u64, connection: Connection) {
        let driver = connection.driver();
        let (mut streams, mut drained, mut closed) = (driver.waiter(), driver.waiter(), driver.waiter());
        let mut told = false;
        loop {
            tokio::task::coop::consume_budget().await;
            tokio::select! {
                // An end that comes with DRAIN is one of a connection that was drained.
                biased;
                _ = poll_fn(|cx| drained.poll_drained(cx.waker())), if !told => {
                    told = true;
                    self.update(&mut self.lock(), id);
                    self.changed.notify_waiters();
                }
                stream = poll_fn(|cx| streams.poll_accept(cx.waker())) => match stream {
                    Ok(stream) => self.dispatch(Stream::new(stream), &connection),
                    Err(_) => break,
                },
            }
        }
        self.update(&mut self.lock(), id);
        self.changed.notify_waiters();
        poll_fn(|cx| closed.poll_closed(cx.waker())).await;
        let mut state = self.lock();
        state.connections.remove(&id);
        state.forget_acceptors();
        drop(state);
        self.changed.notify_waiters();
    }

    fn dispatch(&self, stream: Stream, connection: &Connection) {
        let name = stream.protocol();
        let acceptor = self.lock().protocols.get(name.as_deref().unwrap_or_default()).cloned();
        let Some(acceptor) = acceptor else { return stream.refuse(Code::UNKNOWN_PROTOCOL) };
        match acceptor.try_send((stream, connection.clone())) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full((stream, _))) => stream.refuse(Code::REFUSED),
            Err(mpsc::error::TrySendError::Closed((stream, _))) => stream.refuse(Code::UNKNOWN_PROTOCOL),
        }
    }

    fn begin_drain(&self) {
        let mut state = self.lock();
        state.drains = true;
        state.connections.values().for_each(|connection| drain(connection, ProtocolCode::GOING_AWAY));
        state.forget_acceptors();
        drop(state);
        self.changed.notify_waiters();
    }
}

impl State {
    fn close(&self, id: Option<u64>) {
        if let Some(connection) = id.and_then(|id| self.connections.get(&id)) {
            let code = Code::Protocol(ProtocolCode::DUPLICATE);
            connection.driver().with(|connection| connection.close(code, ""));
        }
    }

    /// Forgets a dial, unless another one has taken its place.
    fn forget(&mut self, peer: PublicKey, dial: &Dial) {
        if self.dials.get(&peer).is_some_and(|known| Arc::ptr_eq(&known.outcome, &dial.outcome)) {
            self.dials.remove(&peer);
        }
    }

    /// When everything has drained, acceptors wait for nothing.
    fn forget_acceptors(&mut self) {
        if self.drains && self.connections.is_empty() {
            self.protocols.clear();
        }
    }
}

fn drain(connection: &Connection, code: ProtocolCode) {
    connection.driver().with(|connection| connection.drain(code));
}
