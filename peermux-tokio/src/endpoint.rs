//! Endpoints: one port, many peers, one connection with each of them, and several protocols on it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use peermux_core::driver::Driver;
use peermux_core::endpoint::{self, Decision, EndpointLimits, Link, Next, RegisterError, Serving, Want};
use tokio::net::{TcpListener, ToSocketAddrs, lookup_host};
use tokio::task::JoinHandle;

use crate::listener::invalid;
use crate::signal::Signal;
use crate::transport::Clock;
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
        drop(self.shared.links.drain());
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
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn bind(address: impl ToSocketAddrs, keys: impl Into<ResponderKeys>, config: Config) -> io::Result<Self> {
        let keys = keys.into();
        Self::over(TcpListener::bind(address).await?, move || keys.clone(), config, EndpointLimits::default(), |_| true)
    }

    /// Listens on a socket that is bound. `keys` gives the keys of each connection, so that they can change; this side dials as the holder of the current one. Connections
    /// that dialers have made to the previous key live beside those of the current one. `accept` decides about each peer, whoever dialled, if [`Config::ask`] is set: it returns a `bool` or an [`Approval`].
    ///
    /// # Errors
    /// As for [`Endpoint::bind`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime, in which the endpoint's tasks run.
    pub fn over<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        limits: EndpointLimits,
        accept: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        config.check().map_err(invalid)?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            links: endpoint::Endpoint::new(limits),
            keys: Box::new(keys),
            config: Arc::new(config),
            decide: Box::new(move |peer| accept(peer).into()),
            clock: Clock::start(),
        });
        let accepting = tokio::spawn(incoming::accept_all(socket, shared.clone()));
        Ok(Self { handle: Arc::new(Handle { address, shared, accepting }) })
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
    ///
    /// # Cancel safety
    /// Dropping the future gives the dial up, unless somebody else waits for it.
    pub async fn connect(&self, address: impl ToSocketAddrs, peer: PublicKey) -> io::Result<Connection> {
        let shared = &self.handle.shared;
        if let Some(connection) = self.connection(&peer) {
            connection.trace().shared();
            return Ok(connection);
        }
        let mut want = shared.links.want(self.public_key(), peer, lookup_host(address).await?.collect());
        loop {
            match shared.next(&mut want).await {
                Next::Found(connection) => return Ok(connection),
                Next::Failed(error) => return Err(error),
                Next::Dial(dialing) => drop(tokio::spawn(outgoing::dial(dialing, shared.clone()))),
                Next::Wait(_) => {}
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
        let streams = self.handle.shared.links.register(protocol)?;
        Ok(Acceptor { streams, signal: Arc::default() })
    }

    /// Accepts and dials no more, drains all connections, and waits until all of their streams are done and they are closed. Streams that wait for an acceptor are
    /// still given to it.
    ///
    /// # Cancel safety
    /// The endpoint drains even if the future is dropped after its first poll.
    pub async fn drain(&self) {
        self.handle.accepting.abort();
        let drained = self.handle.shared.links.drain();
        poll_fn(|cx| drained.poll(cx.waker())).await;
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
    /// Where tasks wait for a stream.
    signal: Arc<Signal>,
}

impl Acceptor {
    /// The next stream that names the protocol, and the connection that it came on, which says who the peer is and opens streams to it. `None` once the endpoint has
    /// drained. Several tasks may wait at once; each stream goes to one of them.
    ///
    /// # Cancel safety
    /// No stream is lost when the future is dropped.
    pub async fn accept(&self) -> Option<(Stream, Connection)> {
        let (stream, connection) = self.signal.wait(|waker| self.streams.poll_accept(waker)).await?;
        connection.trace().stream_accepted(&stream);
        Some((Stream::new(stream, connection.transport()), connection))
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

impl Shared {
    /// What there is to do for somebody who wants a connection, when it is not to wait any more.
    async fn next(&self, want: &mut Want<Connection>) -> Next<Connection> {
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        poll_fn(|cx| {
            loop {
                let now = self.clock.now();
                match want.next(now, cx.waker()) {
                    Next::Wait(None) => return Poll::Pending,
                    Next::Wait(Some(until)) => {
                        timer.as_mut().reset(tokio::time::Instant::now() + until.saturating_since(now));
                        ready!(timer.as_mut().poll(cx));
                    }
                    next => return Poll::Ready(next),
                }
            }
        })
        .await
    }
}

/// Gives the peer's streams to the acceptors, until the connection is closed.
async fn serve(mut serving: Serving<Connection>, clock: Clock) {
    poll_fn(|cx| serving.poll(clock.now(), cx.waker())).await;
}
