//! Accepting connections.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use peermux_core::StrikeRegister;
use peermux_core::driver::{AcceptError, Link, Setup};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet, coop};

use crate::connection::{Connection, establish, handshake, start};
use crate::signal::Signal;
use crate::transport::{Clock, Shared, Transport, unix_millis};
use crate::{Approval, Config, PeerInfo, ResponderKeys, StaticSecret};

/// Handshakes that may be under way at once; more dialers wait in the kernel's queue.
const HANDSHAKES: usize = 1024;

/// Outcomes that the application has not yet taken.
const READY: usize = 64;

/// How long to wait when the system has no socket to give, as when all file descriptors are in use.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// First flights with early data that are remembered, within 120 s; about 10 MB. Early data beyond that is refused, and is sent again.
const FIRST_FLIGHTS: usize = 1 << 16;

/// A transport that was accepted, and the peer's address, if it is known.
type Dialer<T> = io::Result<(T, Option<SocketAddr>)>;

type Outcome = Result<Connection, AcceptError>;

/// Listens for peers. Handshakes run side by side, so a silent peer does not block the others.
pub struct Listener {
    address: Option<SocketAddr>,
    outcomes: Mutex<mpsc::Receiver<Outcome>>,
    /// Where tasks wait for an outcome.
    signal: Arc<Signal>,
    accepting: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Listener {
    /// Listens on `address` as the holder of `key`, and accepts every peer that completes the handshake.
    ///
    /// # Errors
    /// Returns the error of the socket, or one that holds a [`ConfigError`](crate::ConfigError).
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing is left behind.
    pub async fn bind(address: impl ToSocketAddrs, key: StaticSecret, config: Config) -> io::Result<Self> {
        let keys = move || ResponderKeys::from(key.clone());
        Self::from_listener(TcpListener::bind(address).await?, keys, config, |_| true)
    }

    /// Listens on a socket that is bound. `keys` returns the keys of each connection, so that they can change. `approve` decides about each peer if [`Config::ask`] is set: it returns
    /// a `bool` or an [`Approval`].
    ///
    /// # Errors
    /// See [`Listener::bind`].
    ///
    /// # Panics
    /// Panics if it is called outside of a Tokio runtime, in which the listener's task runs.
    pub fn from_listener<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        approve: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let register = config.early_data.then(|| StrikeRegister::new(FIRST_FLIGHTS, unix_millis()));
        let register = register.map(|register| Arc::new(Mutex::new(register)));
        Self::with_strike_register(socket, keys, config, register, approve)
    }

    /// Listens as [`Listener::from_listener`], with a strike register of the application: one that several listeners of a key share, or one
    /// [for a new key](StrikeRegister::for_new_key). Without one, early data is refused and is sent again.
    ///
    /// # Errors
    /// See [`Listener::bind`].
    ///
    /// # Panics
    /// Panics if it is called outside of a Tokio runtime, in which the listener's task runs.
    pub fn with_strike_register<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        register: Option<Arc<Mutex<StrikeRegister>>>,
        approve: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let poll = move |cx: &mut Context<'_>| {
            socket.poll_accept(cx).map(|accepted| Some(accepted.map(|(socket, remote)| (socket, Some(remote)))))
        };
        Self::create(Some(address), poll, keys, config, register, approve)
    }

    /// Accepts peers on all transports that `incoming` yields: Unix sockets, TLS sessions, or anything else that reads and writes. An error of `incoming` is an outcome of
    /// [`Listener::next_outcome`], and `incoming` is polled again after 100 ms. When `incoming` ends, so does the listener.
    ///
    /// # Errors
    /// See [`Listener::bind`].
    ///
    /// # Panics
    /// Panics if it is called outside of a Tokio runtime, in which the listener's task runs.
    pub fn from_incoming<T: AsyncRead + AsyncWrite + Send + Unpin + 'static, A: Into<Approval>>(
        incoming: impl Stream<Item = io::Result<T>> + Send + 'static,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        register: Option<Arc<Mutex<StrikeRegister>>>,
        approve: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut incoming = Box::pin(incoming);
        let poll = move |cx: &mut Context<'_>| {
            incoming.as_mut().poll_next(cx).map(|next| next.map(|result| result.map(|transport| (transport, None))))
        };
        Self::create(None, poll, keys, config, register, approve)
    }

    fn create<T: AsyncRead + AsyncWrite + Send + Unpin + 'static, A: Into<Approval>>(
        address: Option<SocketAddr>,
        poll: impl FnMut(&mut Context<'_>) -> Poll<Option<Dialer<T>>> + Send + 'static,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        register: Option<Arc<Mutex<StrikeRegister>>>,
        approve: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        config.check()?;
        let (outcome, outcomes) = mpsc::channel(READY);
        let approve = move |peer: &PeerInfo| approve(peer).into();
        let config = Arc::new(config);
        let common = Arc::new(Common { keys, config, approve, register, outcome });
        let accepting = tokio::spawn(accept_all(poll, common));
        Ok(Self { address, outcomes: Mutex::new(outcomes), signal: Arc::default(), accepting })
    }

    /// Returns the address that this listens on.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::Unsupported`] for a listener [from incoming transports](Listener::from_incoming), which may have no address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address
            .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "incoming transports have no common address"))
    }

    /// Waits for the next connection. Dialers that fail are passed over: see [`Listener::next_outcome`].
    ///
    /// # Errors
    /// Returns an error only if the task that accepts is gone, as when the runtime shuts down, after a panic of `keys`, or when the incoming transports have ended.
    ///
    /// # Cancel safety
    /// This method is cancel safe: no connection is lost if the future is dropped.
    pub async fn accept(&self) -> io::Result<Connection> {
        loop {
            match self.next_outcome().await {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(_)) => {}
                None => return Err(io::Error::other("the listener's task has ended")),
            }
        }
    }

    /// Waits for the outcome of the next dialer. Returns `None` if the task that accepts is gone: see [`Listener::accept`].
    ///
    /// # Cancel safety
    /// This method is cancel safe: no outcome is lost if the future is dropped.
    pub async fn next_outcome(&self) -> Option<Outcome> {
        // What the channel asks of Tokio's budget would wake all who wait.
        let poll = |waker: &Waker| {
            let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            pin!(coop::unconstrained(poll_fn(|cx| outcomes.poll_recv(cx)))).poll(&mut Context::from_waker(waker))
        };
        self.signal.wait(poll).await
    }
}

/// What all connections of a listener share.
struct Common<K, F> {
    keys: K,
    config: Arc<Config>,
    approve: F,
    register: Option<Arc<Mutex<StrikeRegister>>>,
    outcome: mpsc::Sender<Outcome>,
}

/// Accepts the dialers that `poll` yields while there are permits. Returns when there are no more.
async fn accept_all<T, K, F>(
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<Option<Dialer<T>>>,
    common: Arc<Common<K, F>>,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    K: Fn() -> ResponderKeys + Send + Sync + 'static,
    F: Fn(&PeerInfo) -> Approval + Send + Sync + 'static,
{
    let permits = Arc::new(Semaphore::new(HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Some(dialer) = poll_fn(&mut poll).await else { break };
        match dialer {
            Ok((transport, remote)) => {
                let (keys, common) = ((common.keys)(), common.clone());
                handshakes.spawn(async move {
                    common.handshake(transport, remote, keys).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // What is wrong with one dialer's socket, or with the system, may be better for the next.
                if common.outcome.send(Err(AcceptError { remote: None, error })).await.is_err() {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // What has begun goes on.
    while handshakes.join_next().await.is_some() {}
}

impl<K, F> Common<K, F>
where
    K: Send + Sync + 'static,
    F: Fn(&PeerInfo) -> Approval + Send + Sync + 'static,
{
    /// Runs a handshake. Returns when its outcome is taken; if that is a failure, when the transport is closed, which takes a while (section 13.1 of the specification). So there are
    /// never more transports without a peer, and connections that nobody has taken, than permits.
    async fn handshake(
        self: Arc<Self>,
        transport: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        remote: Option<SocketAddr>,
        keys: ResponderKeys,
    ) {
        let started = begin(transport, remote, keys, self.config.clone(), self.register.clone());
        let (setup, shared) = match started {
            Ok(started) => started,
            Err(error) => {
                let _ = self.outcome.send(Err(AcceptError { remote, error })).await;
                return;
            }
        };
        match handshake(&setup, true, &self.approve).await {
            Ok(peer) => {
                let connection = Connection::new(&setup, &shared, peer);
                if !setup.driver().look(peermux_core::Connection::is_established) {
                    // Early data was accepted; the decision about the peer comes later.
                    let common = self.clone();
                    tokio::spawn(async move { handshake(&setup, false, &common.approve).await });
                }
                let _ = self.outcome.send(Ok(connection)).await;
            }
            Err(error) => {
                let failed = AcceptError { remote, error: error.into() };
                let _ = self.outcome.send(Err(failed)).await;
                let mut waiter = setup.driver().waiter();
                poll_fn(|cx| waiter.poll_closed(cx.waker())).await;
            }
        }
    }
}

/// Begins a handshake as the responder.
pub(crate) fn begin(
    transport: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    remote: Option<SocketAddr>,
    keys: ResponderKeys,
    config: Arc<Config>,
    register: Option<Arc<Mutex<StrikeRegister>>>,
) -> io::Result<(Setup, Shared)> {
    let (transport, clock) = (Transport::new(transport)?, Clock::start());
    let (addresses, now) = (transport.addresses(remote), clock.with_wall_clock());
    let setup = Setup::responder(config, keys, register, addresses, now, &mut getrandom::SysRng)?;
    let shared = Shared { link: Link::new(setup.driver().clone()), clock };
    start(&setup, &shared, transport)?;
    Ok((setup, shared))
}

/// Accepts one peer over a transport that is connected, as the holder of `keys`: see [`connect_socket`](crate::connect_socket) for which transports there are. `approve` decides about the
/// peer if [`Config::ask`] is set. Early data is refused, since a single connection cannot remember what was seen: it is sent again.
///
/// # Errors
/// Returns the error of the transport, or one that holds a [`ConnectionError`](crate::ConnectionError) or a [`ConfigError`](crate::ConfigError).
///
/// # Cancel safety
/// If the future is dropped, the handshake is aborted and the transport is closed.
pub async fn accept_socket<A: Into<Approval>>(
    transport: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    keys: impl Into<ResponderKeys>,
    config: Config,
    approve: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    let (setup, shared) = begin(transport, None, keys.into(), Arc::new(config), None)?;
    Ok(establish(&setup, &shared, approve).await?)
}
