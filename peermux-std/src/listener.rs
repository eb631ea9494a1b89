//! Accepting connections.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use mio::net::TcpStream;
use peermux_core::driver::AcceptError;
use peermux_core::socket;

use crate::connection::{Connection, Started};
use crate::signal::Signal;
use crate::transport::Transport;
use crate::worker::{Direction, Watched, Worker, lock, sleep};
use crate::{Approval, Config, PeerInfo, ResponderKeys, StaticSecret};

/// Handshakes that may be under way, and outcomes that wait for the application. More dialers wait in
/// the kernel's queue.
const HANDSHAKES: usize = 1024;

/// How long to wait if the system has no socket to give, as when all descriptors are in use.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

type Outcome = Result<Connection, AcceptError>;

/// Listens for peers. Handshakes run side by side in one thread, `peermux-accept`, so a silent peer
/// does not block the others.
pub struct Listener {
    address: SocketAddr,
    door: Arc<Door>,
    outcomes: Arc<Outcomes>,
    worker: Worker,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

impl Listener {
    /// Listens on `address` as the holder of `key`, and accepts every peer that completes the handshake.
    ///
    /// # Errors
    /// Returns the error of the socket, the system's if it has no thread to give, or one that holds a
    /// [`ConfigError`](crate::ConfigError).
    pub fn bind(address: impl ToSocketAddrs, key: StaticSecret, config: Config) -> io::Result<Self> {
        let keys = move || ResponderKeys::from(key.clone());
        Self::from_listener(bind(address)?, keys, config, |_| true)
    }

    /// Listens on a socket that is bound. `keys` returns the keys of each connection, so that they can
    /// change. `approve` decides about each peer if [`Config::ask`] is set: it returns a `bool` or an
    /// [`Approval`]. Both are called in the listener's thread: while they run, other dialers of this
    /// listener wait, and connections do not.
    ///
    /// # Errors
    /// See [`Listener::bind`].
    pub fn from_listener<A: Into<Approval>>(
        socket: TcpListener,
        keys: impl Fn() -> ResponderKeys + Send + Sync + 'static,
        config: Config,
        approve: impl Fn(&PeerInfo) -> A + Send + Sync + 'static,
    ) -> io::Result<Self> {
        config.check()?;
        let address = socket.local_addr()?;
        let worker = Worker::start("peermux-accept")?;
        let (door, outcomes) = (Door::new(&worker, socket)?, Arc::<Outcomes>::default());
        let approve = move |peer: &PeerInfo| approve(peer).into();
        let incoming = Incoming { outcomes: outcomes.clone(), keys, config: Arc::new(config), approve };
        worker.spawn(Box::pin(accept_all(door.clone(), Arc::new(incoming), worker.clone())));
        Ok(Self { address, door, outcomes, worker })
    }

    /// Returns the address that this listens on.
    ///
    /// # Errors
    /// This never fails; listeners of other adapters may have no address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    /// Waits for the next connection. Dialers that fail are passed over: see [`Listener::next_outcome`].
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::NotConnected`] if the listener is closed.
    pub fn accept(&self) -> io::Result<Connection> {
        loop {
            match self.next_outcome() {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(_)) => {}
                None => return Err(io::Error::new(io::ErrorKind::NotConnected, "listener is closed")),
            }
        }
    }

    /// Waits for the outcome of the next dialer. Returns `None` if the listener is closed. Several
    /// threads may wait at once; each outcome goes to one of them.
    pub fn next_outcome(&self) -> Option<Outcome> {
        self.outcomes.signal.wait_for(|_| self.outcomes.take())
    }

    /// Stops listening. Handshakes that are under way are aborted, connections that wait for
    /// [`Listener::accept`] are dropped, and threads that wait there get an error. Connections that were
    /// accepted go on. The port is free when this returns. Dropping the listener does the same.
    pub fn close(&self) {
        self.door.close();
        self.worker.stop();
        self.outcomes.close();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Binds the first of the addresses that can be bound.
pub(crate) fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "name has no address");
    for address in address.to_socket_addrs()? {
        match socket::listen(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A listening socket, which any thread can close.
pub(crate) struct Door(Mutex<Option<Watched<mio::net::TcpListener>>>);

impl Door {
    pub(crate) fn new(worker: &Worker, socket: TcpListener) -> io::Result<Arc<Self>> {
        socket.set_nonblocking(true)?;
        let socket = Watched::listener(worker, mio::net::TcpListener::from_std(socket))?;
        Ok(Arc::new(Self(Mutex::new(Some(socket)))))
    }

    /// Waits for the next dialer. Returns `None` once this is closed.
    pub(crate) async fn accept(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        poll_fn(|cx| {
            let door = lock(&self.0);
            let Some(socket) = &*door else { return Poll::Ready(None) };
            let ready = socket.readiness();
            while ready.poll(cx.waker(), true, false).read {
                match ready.try_io(Direction::Read, || Ok((socket.accept()?, true))) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(Some(result)),
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Closes the socket.
    pub(crate) fn close(&self) {
        let closed = lock(&self.0).take();
        let readiness = closed.as_ref().map(|closed| closed.readiness().clone());
        drop(closed);
        readiness.into_iter().for_each(|readiness| readiness.report(Direction::Read));
    }
}

/// What all handshakes of a listener share.
struct Incoming<K, F> {
    outcomes: Arc<Outcomes>,
    keys: K,
    config: Arc<Config>,
    approve: F,
}

/// Accepts dialers while there are permits.
async fn accept_all<K, F>(door: Arc<Door>, incoming: Arc<Incoming<K, F>>, worker: Worker)
where
    K: Fn() -> ResponderKeys + Send + Sync + 'static,
    F: Fn(&PeerInfo) -> Approval + Send + Sync + 'static,
{
    loop {
        let permit = incoming.outcomes.permit().await;
        match door.accept().await {
            Some(Ok((socket, remote))) => worker.spawn(Box::pin(shake_hands(incoming.clone(), socket, remote, permit))),
            // What is wrong with one dialer's socket, or with the system, may be better for the next.
            Some(Err(error)) => {
                incoming.outcomes.push(Err(AcceptError { remote: None, error }), permit);
                sleep(PAUSE).await;
            }
            None => return,
        }
    }
}

/// Runs a handshake. The permit is given back when the outcome is taken, and after a failure not before
/// the socket is closed, which takes a while (section 13.1 of the specification). So there are never
/// more sockets without a peer, and outcomes that nobody has taken, than permits.
async fn shake_hands<K, F>(incoming: Arc<Incoming<K, F>>, socket: TcpStream, remote: SocketAddr, permit: Arc<Permit>)
where
    K: Fn() -> ResponderKeys,
    F: Fn(&PeerInfo) -> Approval,
{
    let Incoming { outcomes, keys, config, approve } = &*incoming;
    let failed = |error| Err(AcceptError { remote: Some(remote), error });
    let started = match Started::responder(Transport::accepted(socket), keys(), config.clone()) {
        Ok(started) => started,
        Err(error) => return outcomes.push(failed(error), permit),
    };
    let mut waiter = started.driver().waiter();
    match started.establish(approve).await {
        Ok(connection) => outcomes.push(Ok(connection), permit),
        Err(error) => {
            outcomes.push(failed(error.into()), permit.clone());
            poll_fn(|cx| waiter.poll_closed(cx.waker())).await;
            drop(permit);
        }
    }
}

/// Outcomes that wait for the application, and the permits for more.
struct Outcomes {
    state: Mutex<State>,
    /// Where threads wait for an outcome.
    signal: Arc<Signal>,
}

struct State {
    queue: VecDeque<(Outcome, Arc<Permit>)>,
    /// Permits that can be given.
    permits: usize,
    /// The task that accepts, while it waits for a permit.
    accepting: Option<Waker>,
    closed: bool,
}

impl Default for Outcomes {
    fn default() -> Self {
        let state = State { queue: VecDeque::new(), permits: HANDSHAKES, accepting: None, closed: false };
        Self { state: Mutex::new(state), signal: Arc::default() }
    }
}

/// The right to a handshake, which is given back when this is dropped.
struct Permit(Arc<Outcomes>);

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.permits += 1;
        let accepting = state.accepting.take();
        drop(state);
        accepting.into_iter().for_each(Waker::wake);
    }
}

impl Outcomes {
    async fn permit(self: &Arc<Self>) -> Arc<Permit> {
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.permits > 0 {
                state.permits -= 1;
                return Poll::Ready(Arc::new(Permit(self.clone())));
            }
            state.accepting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn push(&self, outcome: Outcome, permit: Arc<Permit>) {
        let mut state = lock(&self.state);
        if state.closed {
            drop(state);
            return drop((outcome, permit));
        }
        state.queue.push_back((outcome, permit));
        drop(state);
        self.signal.notify();
    }

    fn take(&self) -> Poll<Option<Outcome>> {
        let mut state = lock(&self.state);
        let next = state.queue.pop_front();
        let is_over = next.is_none() && state.closed;
        drop(state);
        match next {
            Some((outcome, _permit)) => Poll::Ready(Some(outcome)),
            None if is_over => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let queue = take(&mut state.queue);
        drop(state);
        drop(queue);
        self.signal.notify();
    }
}
