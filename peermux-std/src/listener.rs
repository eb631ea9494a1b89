//! Accepting connections.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use peermux_core::driver::AcceptError;

use crate::connection::{Connection, Started};
use crate::transport::Transport;
use crate::worker::{Context, Queue, Readiness, Step, Worker};
use crate::{Approval, Config, PeerInfo, ResponderKeys, StaticSecret};

/// Handshakes that may be under way at once, and outcomes that the application has not yet taken; more dialers wait in
/// the kernel's queue.
const HANDSHAKES: usize = 1024;

/// How long to wait when the system has no socket to give, as when all file descriptors are in use.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

type Outcome = Result<Connection, AcceptError>;

/// Listens for peers. Handshakes run side by side in one thread, so a silent peer does not block the others.
pub struct Listener {
    address: SocketAddr,
    outcomes: Arc<Outcomes>,
    /// `None` once the listener is closed.
    worker: Mutex<Option<Worker>>,
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

    /// Listens on a socket that is bound. `keys` returns the keys of each connection, so that they can change.
    /// `approve` decides about each peer if [`Config::ask`] is set: it returns a `bool` or an [`Approval`]. Both are
    /// called in the listener's thread. While they run, other dialers of this listener wait, and connections do not.
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
        socket.set_nonblocking(true)?;
        let mut socket = mio::net::TcpListener::from_std(socket);
        let address = socket.local_addr()?;
        let outcomes = Arc::<Outcomes>::default();
        let worker = Worker::start("peermux-accept")?;
        let queue = worker.queue().clone();
        let (ended, readiness) = (CloseOnDrop(outcomes.clone()), Arc::<Readiness>::default());
        let (config, approve) = (Arc::new(config), Arc::new(move |peer: &PeerInfo| approve(peer).into()));
        // The socket is registered before the task owns it.
        let accepting = Arc::new(Mutex::new(None::<mio::net::TcpListener>));
        let run = {
            let accepting = accepting.clone();
            move |context: &Context<'_>| {
                let Some(socket) = &*accepting.lock().unwrap_or_else(PoisonError::into_inner) else {
                    return Step::Wait(None);
                };
                accept_all(socket, context, &ended.0, |socket, remote, permit| {
                    let transport = Transport::from_tcp(socket)?;
                    let started = Started::responder(transport, keys(), config.clone())?;
                    shake_hands(&queue, started, remote, approve.clone(), permit, ended.0.clone())
                })
            }
        };
        let waker = worker.queue().spawn(readiness, Some(&mut socket), run)?;
        *accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        waker.wake();
        Ok(Self { address, outcomes, worker: Mutex::new(Some(worker)) })
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
    /// Returns an error only if the listener is closed, or after a panic of `keys`.
    pub fn accept(&self) -> io::Result<Connection> {
        loop {
            match self.next_outcome() {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(_)) => {}
                None => return Err(io::Error::new(io::ErrorKind::NotConnected, "the listener is closed")),
            }
        }
    }

    /// Waits for the outcome of the next dialer. Returns `None` if the listener is closed. Several threads may wait at
    /// once; each outcome goes to one of them.
    pub fn next_outcome(&self) -> Option<Outcome> {
        self.outcomes.take()
    }

    /// Stops listening: handshakes that are under way are aborted, and threads that wait in [`Listener::accept`] get an
    /// error. Connections that were accepted go on. Dropping the listener does the same.
    pub fn close(&self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(worker);
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
        match peermux_core::socket::listen(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Accepts dialers while there are permits, and gives each to `start`.
fn accept_all(
    socket: &mio::net::TcpListener,
    context: &Context<'_>,
    outcomes: &Arc<Outcomes>,
    mut start: impl FnMut(mio::net::TcpStream, SocketAddr, Permit) -> io::Result<()>,
) -> Step {
    loop {
        let Some(permit) = outcomes.permit(context.waker) else { return Step::Wait(None) };
        let (remote, result) = match socket.accept() {
            Ok((socket, remote)) => (Some(remote), start(socket, remote, permit)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Wait(None),
            Err(error) => (None, Err(error)),
        };
        if let Err(error) = result {
            outcomes.push(Err(AcceptError { remote, error }), None);
            // What is wrong with one dialer's socket, or with the system, may be better for the next.
            return Step::Wait(Instant::now().checked_add(PAUSE));
        }
    }
}

/// Runs a handshake in a task of `queue`. The permit goes with the outcome; after a failure it is given back when the
/// socket is closed, which takes a while (section 13.1 of the specification). So there are never more sockets without a
/// peer than permits.
fn shake_hands(
    queue: &Arc<Queue>,
    started: Started,
    remote: SocketAddr,
    approve: Arc<impl Fn(&PeerInfo) -> Approval + Send + Sync + 'static>,
    permit: Permit,
    outcomes: Arc<Outcomes>,
) -> io::Result<()> {
    let (mut handshake, mut closed) = (Some(started.setup.handshake(false)), started.setup.driver().waiter());
    let mut permit = Some(permit);
    let run = move |context: &Context<'_>| {
        if let Some(shaking) = &mut handshake {
            match shaking.poll(context.waker, |peer| approve(peer)) {
                std::task::Poll::Pending => return Step::Wait(None),
                std::task::Poll::Ready(Ok(peer)) => {
                    outcomes.push(Ok(started.connection(peer)), permit.take());
                    return Step::Done;
                }
                std::task::Poll::Ready(Err(error)) => {
                    handshake = None;
                    outcomes.push(Err(AcceptError { remote: Some(remote), error: error.into() }), None);
                }
            }
        }
        if closed.poll_closed(context.waker).is_ready() { Step::Done } else { Step::Wait(None) }
    };
    queue.spawn(Arc::default(), None, run)?.wake();
    Ok(())
}

/// Outcomes that the application has not yet taken, and permits for more.
#[derive(Default)]
struct Outcomes {
    queue: Mutex<Taken>,
    changed: Condvar,
    /// Permits that are not given back.
    permits: AtomicUsize,
    /// The task that accepts, while it waits for a permit.
    accepting: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct Taken {
    outcomes: VecDeque<(Outcome, Option<Permit>)>,
    closed: bool,
}

/// The right to a handshake, given back when this is dropped, even by a panic of the application's decision.
struct Permit(Arc<Outcomes>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.permits.fetch_sub(1, SeqCst);
        let accepting = self.0.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(accepting) = accepting {
            accepting.wake();
        }
    }
}

/// Tells those who wait for an outcome that there will be none.
struct CloseOnDrop(Arc<Outcomes>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Outcomes {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a permit. If there is none, `waker` is woken when there is.
    fn permit(self: &Arc<Self>, waker: &Waker) -> Option<Permit> {
        let try_take = || {
            let one_more = |taken| (taken < HANDSHAKES).then_some(taken + 1);
            self.permits.fetch_update(SeqCst, Relaxed, one_more).is_ok().then(|| Permit(self.clone()))
        };
        try_take().or_else(|| {
            let former = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).replace(waker.clone());
            drop(former);
            // One may have been given back meanwhile.
            try_take()
        })
    }

    fn push(&self, outcome: Outcome, permit: Option<Permit>) {
        let mut queue = self.lock();
        // Failures of the system have no permit: one more of those is not kept, if nobody takes them.
        if permit.is_some() || queue.outcomes.len() < 2 * HANDSHAKES {
            queue.outcomes.push_back((outcome, permit));
        }
        drop(queue);
        self.changed.notify_one();
    }

    fn take(&self) -> Option<Outcome> {
        let mut queue = self.lock();
        loop {
            if let Some((outcome, permit)) = queue.outcomes.pop_front() {
                drop(queue);
                drop(permit);
                return Some(outcome);
            }
            if queue.closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        let outcomes = {
            let mut queue = self.lock();
            queue.closed = true;
            std::mem::take(&mut queue.outcomes)
        };
        self.changed.notify_all();
        drop(outcomes);
    }
}
