//! Connections.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peermux_core::driver::{Driver, Handle, Link, Setup};
use peermux_core::trace::Trace;

use crate::reach::{Reach, Reached};
use crate::signal::{Promise, Signal};
use crate::stream::Stream;
use crate::transport::{Clock, IntoTransport, Shared, Transport};
use crate::worker::{Context, Step, Worker};
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
    let socket = Arc::<Promise<io::Result<mio::net::TcpStream>>>::default();
    let (mut reach, reached) = (Reach::new(&addresses, config.connect_timeout), socket.clone());
    let run = move |context: &Context<'_>| {
        reached.keep(match reach.poll(context) {
            Reached::Connected(socket) => Ok(socket),
            Reached::Failed(error) => Err(error),
            Reached::Wait(until) => return Step::Wait(until),
        });
        Step::Done
    };
    Worker::of_sockets()?.spawn(Arc::default(), None, run)?.wake();
    initiate(Transport::from_tcp(socket.wait()?)?, identity.into(), remote, config, approve)
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
    transport: impl IntoTransport,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    approve: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    initiate(transport.into_transport()?, identity.into(), remote, config, approve)
}

/// Accepts one peer over a transport that is connected, as the holder of `keys`: see [`connect_socket`]. `approve`
/// decides about the peer if [`Config::ask`] is set.
///
/// # Errors
/// Returns the error of the transport, or one that holds a [`ConnectionError`] or a
/// [`ConfigError`](crate::ConfigError).
pub fn accept_socket<A: Into<Approval>>(
    transport: impl IntoTransport,
    keys: impl Into<ResponderKeys>,
    config: Config,
    approve: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    Ok(Started::responder(transport.into_transport()?, keys.into(), Arc::new(config))?.establish(approve)?)
}

fn initiate<A: Into<Approval>>(
    transport: Transport,
    identity: Identity,
    remote: Remote,
    config: Config,
    approve: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    let started = Started::initiator(transport, identity, remote, Arc::new(config), |_| {})?;
    started.establish(approve).map_err(ConnectionError::into_dial_error)
}

/// A connection whose handshake is under way.
pub(crate) struct Started {
    pub(crate) setup: Setup,
    shared: Shared,
}

impl Started {
    /// Begins a handshake as the initiator. `begin` is given the driver before anything is sent.
    pub(crate) fn initiator(
        transport: Transport,
        identity: Identity,
        remote: Remote,
        config: Arc<Config>,
        begin: impl FnOnce(&Arc<Driver>),
    ) -> io::Result<Self> {
        let clock = Clock::start();
        let (addresses, now) = (transport.addresses(), clock.with_wall_clock());
        let setup = Setup::initiator(config, identity, remote, addresses, now, &mut getrandom::SysRng)?;
        begin(setup.driver());
        Self::start(setup, transport, clock)
    }

    /// Begins a handshake as the responder.
    pub(crate) fn responder(transport: Transport, keys: ResponderKeys, config: Arc<Config>) -> io::Result<Self> {
        let clock = Clock::start();
        let (addresses, now) = (transport.addresses(), clock.with_wall_clock());
        let setup = Setup::responder(config, keys, None, addresses, now, &mut getrandom::SysRng)?;
        Self::start(setup, transport, clock)
    }

    fn start(setup: Setup, transport: Transport, clock: Clock) -> io::Result<Self> {
        let shared = Shared { link: Link::new(setup.driver().clone()), clock };
        setup.trace().start(setup.driver(), || shared.start(transport))?;
        Ok(Self { setup, shared })
    }

    /// Waits for the handshake and the decision about the peer.
    fn establish<A: Into<Approval>>(
        &self,
        mut approve: impl FnMut(&PeerInfo) -> A,
    ) -> Result<Connection, ConnectionError> {
        let mut handshake = self.setup.handshake(false);
        let peer = Arc::<Signal>::default().block_on_forever(|waker| handshake.poll(waker, &mut approve))?;
        Ok(self.connection(peer))
    }

    /// Returns the handle, once the handshake has said who `peer` is.
    pub(crate) fn connection(&self, peer: PeerInfo) -> Connection {
        let handle = Arc::new(self.setup.handle(peer));
        Connection { handle, shared: self.shared.clone(), signal: Arc::default() }
    }
}

impl Connection {
    pub(crate) const fn shared(&self) -> &Shared {
        &self.shared
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
        let mut waiter = self.driver().waiter();
        let stream = self.signal.block_on_forever(|waker| waiter.poll_accept(waker))?;
        self.trace().stream_accepted(&stream);
        Ok(Stream::new(stream, &self.shared))
    }

    /// Waits until the peer has proved its key and is accepted. Here that is so from the beginning.
    ///
    /// # Errors
    /// Returns why the connection ended instead.
    pub fn handshake_confirmed(&self) -> Result<PeerInfo, ConnectionError> {
        let mut waiter = self.driver().waiter();
        self.signal.block_on_forever(|waker| waiter.poll_confirmed(waker))
    }

    /// Waits for the peer's attestation: one of at most 112 bytes is in [`PeerInfo::attestation`] from the beginning,
    /// and a longer one comes in one of the peer's first 16 records. Returns `None` once the peer has sent none and can
    /// send none any more, which takes 16 records. Nobody has verified it: see [`peermux_core::attestation`].
    ///
    /// # Errors
    /// Returns why the connection ended before.
    pub fn attestation(&self) -> Result<Option<Bytes>, ConnectionError> {
        let mut waiter = self.driver().waiter();
        self.signal.block_on_forever(|waker| waiter.poll_attestation(waker))
    }

    /// Waits until the connection has ended, and returns why.
    pub fn closed(&self) -> ConnectionError {
        let mut waiter = self.driver().waiter();
        self.signal.block_on_forever(|waker| waiter.poll_ended(waker))
    }

    /// Waits until nothing is to be sent or received any more, and the transport has this side's last record. A program
    /// that ends right after [`Connection::close`] or [`Connection::drain`] waits for this first. After the connection
    /// has ended this takes 3 s at most.
    pub fn transport_closed(&self) {
        let mut waiter = self.driver().waiter();
        self.signal.block_on_forever(|waker| waiter.poll_closed(waker));
    }
}

peermux_core::connection_methods!(Connection);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}
