//! Accepting connections.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use peermux_core::StrikeRegister;
use peermux_core::driver::Driver;
use peermux_core::trace::Trace;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet, coop};

use crate::connection::{Connection, establish};
use crate::pump;
use crate::signal::Signal;
use crate::transport::{Addresses, Clock, Transport, unix_millis};
use crate::{Approval, Config, PeerInfo, ResponderKeys, StaticSecret};

/// Handshakes that may be under way at once; more dialers wait in the kernel's queue.
const HANDSHAKES: usize = 1024;

/// Outcomes that the application has not yet taken.
const READY: usize = 64;

/// How long to wait when the system has no socket to give, as when all file descriptors are in use.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// First flights with early data that are remembered, within 120 s; about 10 MB. What comes beyond is refused, and goes again.
const FIRST_FLIGHTS: usize = 1 << 16;

type Decide = dyn Fn(&PeerInfo) -> Approval + Send + Sync;

/// Listens for peers. Their handshakes run side by side, so that a silent one holds nobody up.
pub struct Listener {
    address: SocketAddr,
    outcomes: Mutex<mpsc::Receiver<Result<Connection, AcceptError>>>,
    /// Where tasks wait for an outcome.
    signal: Arc<Signal>,
    accepting: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
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
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn bind(address: impl ToSocketAddrs, key: StaticSecret, config: Config) -> io::Result<Self> {
        let keys = move || ResponderKeys::from(key.clone());
        Self::over(TcpListener::bind(address).await?, keys, config, |_| true)
    }

    /// Listens on a socket that is bound. `keys` gives the keys of each connection, so that they can change; `accept` decides about each peer if
    /// [`Config::ask`] is set: it returns a `bool` or an [`Approval`].
    ///
    /// # Errors
    /// As for [`Listener::bind`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime, in which the listener's task runs.
    pub fn over<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        accept: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let register = config.early_data.then(|| StrikeRegister::new(FIRST_FLIGHTS, unix_millis()));
        Self::with_register(socket, keys, config, register.map(|register| Arc::new(Mutex::new(register))), accept)
    }

    /// As [`Listener::over`], with a strike register of the application's: one that several listeners of a key share, or one
    /// [for a new key](StrikeRegister::for_new_key). Without one, early data is refused and goes again.
    ///
    /// # Errors
    /// As for [`Listener::bind`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime, in which the listener's task runs.
    pub fn with_register<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        register: Option<Arc<Mutex<StrikeRegister>>>,
        accept: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        config.check().map_err(invalid)?;
        let address = socket.local_addr()?;
        let (outcome, outcomes) = mpsc::channel(READY);
        let shared =
            Arc::new(Shared { config: Arc::new(config), decide: Box::new(move |peer| accept(peer).into()), register });
        let accepting = tokio::spawn(accept_all(socket, keys, shared, outcome));
        Ok(Self { address, outcomes: Mutex::new(outcomes), signal: Arc::default(), accepting })
    }

    /// The address that this listens on.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection. Dialers that fail are passed over: see [`Listener::next`].
    ///
    /// # Errors
    /// Only if the task that accepts is gone, as when the runtime shuts down or after a panic of `keys`.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<Connection> {
        loop {
            match self.next().await {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(_)) => {}
                None => return Err(io::Error::other("the listener's task has ended")),
            }
        }
    }

    /// What became of the next one who dialled; `None` if the task that accepts is gone, as when the runtime shuts down or after a panic of `keys`.
    ///
    /// # Cancel safety
    /// No outcome is lost when the future is dropped.
    pub async fn next(&self) -> Option<Result<Connection, AcceptError>> {
        // What the channel asks of Tokio's budget would wake all who wait.
        let poll = |waker: &Waker| {
            let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            pin!(coop::unconstrained(poll_fn(|cx| outcomes.poll_recv(cx)))).poll(&mut Context::from_waker(waker))
        };
        self.signal.wait(poll).await
    }
}

async fn accept_all(
    socket: TcpListener,
    keys: impl Fn() -> ResponderKeys,
    shared: Arc<Shared>,
    outcome: mpsc::Sender<Result<Connection, AcceptError>>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // What is wrong with one dialer's socket, or with the system, may be better for the next.
                if outcome.send(Err(AcceptError { peer: None, error })).await.is_err() {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let handshake = handshake(stream, peer, keys(), shared.clone(), outcome.clone());
        handshakes.spawn(async move {
            handshake.await;
            drop(place);
        });
    }
}

/// What all connections of a listener share.
struct Shared {
    config: Arc<Config>,
    decide: Box<Decide>,
    register: Option<Arc<Mutex<StrikeRegister>>>,
}

/// Runs a handshake, and is over when its outcome is taken; and where that is a failure, when the socket is closed, which takes a while
/// ([spec](peermux_core::spec) section 13.1). So there are never more sockets without a peer, and connections that nobody has taken, than places.
async fn handshake(
    socket: TcpStream,
    peer: SocketAddr,
    keys: ResponderKeys,
    shared: Arc<Shared>,
    outcome: mpsc::Sender<Result<Connection, AcceptError>>,
) {
    let failed = |error| AcceptError { peer: Some(peer), error };
    let (transport, trace) = match start(socket, keys, shared.config.clone(), shared.register.clone()) {
        Ok(started) => started,
        Err(error) => {
            let _ = outcome.send(Err(failed(error))).await;
            return;
        }
    };
    let driver = transport.driver();
    match establish(driver, &shared.decide, true, &trace).await {
        Ok(peer) => {
            if !driver.look(peermux_core::Connection::is_established) {
                // Early data was accepted; the decision about the peer comes later.
                let (driver, trace) = (driver.clone(), trace.clone());
                tokio::spawn(async move { establish(&driver, &shared.decide, false, &trace).await });
            }
            let _ = outcome.send(Ok(Connection::new(transport, peer, trace))).await;
        }
        Err(error) => {
            let _ = outcome.send(Err(failed(error.into()))).await;
            let mut waiter = driver.waiter();
            poll_fn(|cx| waiter.poll_closed(cx.waker())).await;
        }
    }
}

/// Begins a handshake as the one who was dialled.
pub(crate) fn start(
    socket: TcpStream,
    keys: ResponderKeys,
    config: Arc<Config>,
    register: Option<Arc<Mutex<StrikeRegister>>>,
) -> io::Result<(Arc<Transport>, Trace)> {
    let trace = Trace::accepted(socket.peer_addr().ok());
    let clock = Clock::start();
    let mut connection =
        peermux_core::Connection::responder(config, keys, clock.now(), &mut getrandom::SysRng).map_err(invalid)?;
    connection.set_wall_clock(clock.now(), unix_millis());
    let transport = Transport::new(Driver::with_register(connection, register), clock, Addresses::of(&socket));
    trace.start(transport.driver(), || pump::start(socket, &transport))?;
    Ok((transport, trace))
}

/// Accepts one peer over a socket that was just accepted, as the holder of `keys`. `accept` decides about the peer if [`Config::ask`] is set. Early data is
/// refused, since a single connection has nobody to remember what was seen: it goes again by itself.
///
/// # Errors
/// The error of the socket, or one that holds a [`ConnectionError`](crate::ConnectionError) or a [`ConfigError`](crate::ConfigError).
///
/// # Cancel safety
/// Dropping the future gives the connection up.
pub async fn accept_over<A: Into<Approval>>(
    socket: TcpStream,
    keys: impl Into<ResponderKeys>,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    let (transport, trace) = start(socket, keys.into(), Arc::new(config), None)?;
    let peer = establish(transport.driver(), accept, false, &trace).await?;
    Ok(Connection::new(transport, peer, trace))
}

pub(crate) fn invalid(error: crate::ConfigError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
