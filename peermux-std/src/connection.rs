//! Connections.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use peermux_core::driver::{Driver, Handle, Handshake, Setup, Waiter};
use peermux_core::trace::Trace;

use crate::reach::reach;
use crate::signal::{Signal, block_on};
use crate::stream::Stream;
use crate::task::{Clock, Shared, serve};
use crate::transport::Transport;
use crate::worker::{Task, Worker};
use crate::{
    Approval, Code, Config, ConnectionError, Identity, OpenError, PeerInfo, Priority, PublicKey, Remote, ResponderKeys,
    Stats,
};

/// A connection to a peer. Clones are handles to the same connection. When the last handle is dropped, the connection
/// drains: what is open on it goes on, and it closes with the last stream. Streams that the peer has opened and that
/// were not accepted are refused.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
    shared: Shared,
    /// Where threads wait that use this handle.
    signal: Arc<Signal>,
}

/// Dials `address` as `identity`, and expects `remote`.
///
/// If `address` names several addresses, they are tried as RFC 8305 says: one more every 250 ms, or as soon as an
/// attempt has failed, with families in turns. The first that answers is taken. Each attempt may take
/// [`Config::connect_timeout`]. Then this waits for the handshake, 15 s at most, and for the decision of the peer's
/// application if there is one, 18 s more at most. Looking a name up has no limit here.
///
/// # Errors
/// Returns an error that holds a [`ConnectError`](crate::ConnectError), with all addresses that were tried, a
/// [`ConnectionError`] or a [`ConfigError`](crate::ConfigError): see [`io::Error::get_ref`]. If a field of `config` is
/// out of range, nobody is dialled. A peer that the application must approve ([`Remote::Ask`], [`Config::ask`]) is
/// refused: use [`connect_with`].
pub fn connect(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
) -> io::Result<Connection> {
    connect_with(address, identity, remote, config, |_| false)
}

/// Dials as [`connect`], and calls `approve` if `config` or `remote` says that the application must approve the peer.
/// `approve` returns a `bool` or an [`Approval`].
///
/// # Errors
/// See [`connect`].
pub fn connect_with<A: Into<Approval>>(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    approve: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    config.check()?;
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    let socket = block_on(reach(&addresses, config.connect_timeout))?;
    connect_socket(Transport::connected(socket), identity, remote, config, approve)
}

/// Connects as [`connect_with`], over a transport that is connected: a TCP or Unix socket of the standard library, or
/// a [`Transport`] of anything else.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use peermux_std::{Config, Priority, Remote, StaticSecret, Transport, accept_socket, connect_socket};
/// # use std::io::{Read, Write};
/// let (from_host, to_renter) = std::io::pipe()?;
/// let (from_renter, to_host) = std::io::pipe()?;
/// let host_key = StaticSecret::from_bytes(&[1; 32]);
/// let host = host_key.public_key();
///
/// std::thread::spawn(move || {
///     let pipes = Transport::from_pair(from_renter, to_renter).expect("there are threads");
///     let connection = accept_socket(pipes, host_key, Config::default(), |_| true).expect("a renter connects");
///     let mut stream = connection.accept_stream().expect("the renter opens it");
///     stream.write_all(b"hello").expect("the renter reads");
///     stream.shutdown(std::net::Shutdown::Write).expect("the renter reads");
///     connection.closed();
/// });
///
/// let pipes = Transport::from_pair(from_host, to_host)?;
/// let renter_key = StaticSecret::from_bytes(&[2; 32]);
/// let connection = connect_socket(pipes, renter_key, Remote::Key(host), Config::default(), |_| true)?;
/// let mut hello = String::new();
/// connection.open_stream(None, Priority::default())?.read_to_string(&mut hello)?;
/// assert_eq!(hello, "hello");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// See [`connect`].
pub fn connect_socket<A: Into<Approval>>(
    transport: impl Into<Transport>,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    approve: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    let started = Started::initiator(transport.into(), identity.into(), remote, Arc::new(config))?;
    block_on(started.establish(approve)).map_err(ConnectionError::into_dial_error)
}

/// Accepts one peer over a transport that is connected, as the holder of `keys`: see [`connect_socket`]. `approve`
/// decides about the peer if [`Config::ask`] is set.
///
/// # Errors
/// Returns the error of the transport, or one that holds a [`ConnectionError`] or a
/// [`ConfigError`](crate::ConfigError).
pub fn accept_socket<A: Into<Approval>>(
    transport: impl Into<Transport>,
    keys: impl Into<ResponderKeys>,
    config: Config,
    approve: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    let started = Started::responder(transport.into(), keys.into(), Arc::new(config))?;
    Ok(block_on(started.establish(approve))?)
}

/// A connection whose handshake is under way.
pub(crate) struct Started {
    setup: Setup,
    shared: Shared,
    handshake: Handshake,
    serving: Serving,
}

/// The task that serves the transport. Whoever waits for the handshake polls it, as long as that
/// lasts: handshakes delay no connection that is established. When this is dropped, the worker of
/// all transports goes on with the task.
struct Serving {
    task: Option<Task>,
    worker: Worker,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.hand_over();
    }
}

impl Serving {
    fn hand_over(&mut self) {
        self.task.take().into_iter().for_each(|task| self.worker.spawn(task));
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.task.as_mut().is_some_and(|task| task.as_mut().poll(cx).is_ready()) {
            self.task = None;
        }
    }
}

impl Started {
    /// Begins a handshake as the initiator.
    pub(crate) fn initiator(
        transport: Transport,
        identity: Identity,
        remote: Remote,
        config: Arc<Config>,
    ) -> io::Result<Self> {
        Self::new(transport, |addresses, now| {
            Setup::initiator(config, identity, remote, addresses, now, &mut getrandom::SysRng)
        })
    }

    /// Begins a handshake as the responder.
    pub(crate) fn responder(transport: Transport, keys: ResponderKeys, config: Arc<Config>) -> io::Result<Self> {
        Self::new(transport, |addresses, now| {
            Setup::responder(config, keys, None, addresses, now, &mut getrandom::SysRng)
        })
    }

    fn new(
        transport: Transport,
        setup: impl FnOnce(peermux_core::driver::Addresses, peermux_core::driver::Now) -> io::Result<Setup>,
    ) -> io::Result<Self> {
        let (worker, clock) = (Worker::of_transports()?, Clock::start());
        let io = transport.open(&worker)?;
        let setup = setup(io.addresses(), clock.with_wall_clock())?;
        let shared = Shared::new(setup.driver(), clock);
        let mut serving = Serving { task: None, worker };
        setup.trace().start(setup.driver(), || {
            serving.task = Some(serve(&shared, io));
            Ok(())
        })?;
        Ok(Self { handshake: setup.handshake(false), setup, shared, serving })
    }

    pub(crate) const fn driver(&self) -> &Arc<Driver> {
        self.setup.driver()
    }

    /// Waits for the handshake and the decision about the peer.
    pub(crate) async fn establish<A: Into<Approval>>(
        mut self,
        mut approve: impl FnMut(&PeerInfo) -> A,
    ) -> Result<Connection, ConnectionError> {
        let peer = poll_fn(|cx| {
            self.serving.poll(cx);
            let Self { handshake, serving, .. } = &mut self;
            handshake.poll(cx.waker(), |peer| {
                // The application may take its time.
                serving.hand_over();
                approve(peer)
            })
        })
        .await?;
        let handle = Arc::new(self.setup.handle(peer));
        Ok(Connection { handle, shared: self.shared.clone(), signal: Arc::default() })
    }
}

impl Connection {
    pub(crate) const fn shared(&self) -> &Shared {
        &self.shared
    }

    fn wait_for<T>(&self, poll: impl Fn(&mut Waiter, &Waker) -> Poll<T>) -> T {
        let mut waiter = self.driver().waiter();
        self.signal.wait_for(|waker| poll(&mut waiter, waker))
    }

    pub(crate) fn trace(&self) -> &Trace {
        self.handle.trace()
    }

    /// Opens a stream that speaks `protocol`, a name of 1 to 64 bytes of printable ASCII without space, or that names
    /// none.
    ///
    /// This does not wait: the peer learns of the stream with the first bytes that are written to it, or when it is
    /// read, flushed or shut down.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_stream(&self, protocol: Option<&str>, priority: Priority) -> Result<Stream, OpenError> {
        let stream = self.driver().open(protocol, priority)?;
        self.trace().opened(&stream);
        Ok(Stream::new(stream, &self.shared))
    }

    /// Waits for the next stream that the peer opens. Several threads may wait at once; each stream goes to one of
    /// them.
    ///
    /// # Errors
    /// Returns why the connection ended, once all streams that were opened before are accepted.
    pub fn accept_stream(&self) -> Result<Stream, ConnectionError> {
        let stream = self.wait_for(Waiter::poll_accept)?;
        self.trace().stream_accepted(&stream);
        Ok(Stream::new(stream, &self.shared))
    }

    /// Waits until the peer has proved its key and is accepted. Here that is so from the beginning.
    ///
    /// # Errors
    /// Returns why the connection ended instead.
    pub fn handshake_confirmed(&self) -> Result<PeerInfo, ConnectionError> {
        self.wait_for(Waiter::poll_confirmed)
    }

    /// Waits for the peer's attestation: one of at most 112 bytes is in [`PeerInfo::attestation`] from the beginning,
    /// and a longer one comes in one of the peer's first 16 records. Returns `None` once the peer has sent none and can
    /// send none any more, which takes 16 records. Nobody has verified it: see [`peermux_core::attestation`].
    ///
    /// # Errors
    /// Returns why the connection ended before.
    pub fn attestation(&self) -> Result<Option<Bytes>, ConnectionError> {
        self.wait_for(Waiter::poll_attestation)
    }

    /// Waits until the connection has ended, and returns why.
    pub fn closed(&self) -> ConnectionError {
        self.wait_for(Waiter::poll_ended)
    }

    /// Waits until nothing is to be sent or received any more, and the transport has this side's last record. A program
    /// that ends right after [`Connection::close`] or [`Connection::drain`] waits for this first. After the connection
    /// has ended this takes 3 s at most.
    pub fn transport_closed(&self) {
        self.wait_for(Waiter::poll_closed);
    }
}

peermux_core::connection_methods!(Connection);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}
