//! Connections.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peermux_core::driver::{Driver, Handle, Link, Setup};
use peermux_core::trace::Trace;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};

use crate::reach::reach;
use crate::stream::Stream;
use crate::task;
use crate::transport::{Clock, Shared, Transport};
use crate::{
    Approval, Code, Config, ConnectionError, Identity, OpenError, PeerInfo, Priority, PublicKey, Remote, Stats,
};

/// A connection to a peer. Clones are handles to the same one. When the last handle is dropped the connection drains: what is open on it goes on, and it closes
/// with the last stream. Streams that the peer has opened and that were not accepted are refused.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
    shared: Shared,
}

/// Dials `address` as `identity`, and expects `remote`.
///
/// If `address` names several addresses, they are tried as RFC 8305 says: one more every 250 ms, or as soon as an attempt has failed, with families in turns. The first that answers
/// is taken. Each attempt may take [`Config::connect_timeout`]. Then this waits for the handshake, 15 s at most, and for the decision of the peer's application if there is one, 18 s
/// more at most. Looking a name up has no limit here.
///
/// # Errors
/// Returns an error that holds a [`ConnectError`](crate::ConnectError), with all addresses that were tried, a [`ConnectionError`] or a [`ConfigError`](crate::ConfigError): see
/// [`io::Error::get_ref`]. If a field of `config` is out of range, nobody is dialled. A peer that the application must approve ([`Remote::Ask`], [`Config::ask`]) is refused: use
/// [`connect_with`].
///
/// # Cancel safety
/// If the future is dropped, the handshake is aborted and the socket is closed.
pub async fn connect(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
) -> io::Result<Connection> {
    connect_with(address, identity, remote, config, |_| false).await
}

/// Dials as [`connect`], and calls `approve` if `config` or `remote` says that the application must approve the peer. `approve` returns a `bool` or an [`Approval`].
///
/// # Errors
/// See [`connect`].
///
/// # Cancel safety
/// If the future is dropped, the handshake is aborted and the socket is closed.
pub async fn connect_with<A: Into<Approval>>(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    approve: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    Connecting::new(address, identity, remote, config).await?.handshake(approve).await
}

/// Connects as [`connect_with`], over a transport that is connected: a TCP or Unix socket, or anything else that reads and writes, such as a TLS session, one end of
/// [`tokio::io::duplex`], or a [`Stream`] of another connection. TCP and Unix sockets have the full speed also if they come here.
///
/// ```
/// # use peermux_tokio::{Config, Priority, Remote, StaticSecret, accept_socket, connect_socket};
/// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (near, far) = tokio::io::duplex(64 * 1024);
/// let host_key = StaticSecret::from_bytes(&[1; 32]);
/// let host = host_key.public_key();
/// let (dialed, accepted) = tokio::try_join!(
///     connect_socket(near, StaticSecret::from_bytes(&[2; 32]), Remote::Key(host), Config::default(), |_| true),
///     accept_socket(far, host_key, Config::default(), |_| true),
/// )?;
/// let mut request = dialed.open_stream(None, Priority::default())?;
/// request.write_all(b"hello").await?;
/// let mut hello = [0; 5];
/// accepted.accept_stream().await?.read_exact(&mut hello).await?;
/// assert_eq!(&hello, b"hello");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// See [`connect`].
///
/// # Cancel safety
/// If the future is dropped, the handshake is aborted and the transport is dropped.
pub async fn connect_socket<A: Into<Approval>>(
    transport: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    approve: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    Connecting::from_socket(transport, identity, remote, config)?.handshake(approve).await
}

/// A connection that is about to begin, to which early data can be given before it does.
///
/// If [`Config::early_data`] is set and the responder's key is known, what is written to streams of [`Connecting::open_early`] travels with the first flight. A host that accepts
/// early data then answers in one round trip. Otherwise the data is sent again by itself.
///
/// If this is dropped, or the future of [`Connecting::handshake`], its early streams end with an error.
pub struct Connecting {
    setup: Setup,
    shared: Shared,
    transport: Option<Transport>,
}

impl Connecting {
    /// Connects a socket to `address`. Nothing is sent yet.
    ///
    /// # Errors
    /// See [`connect`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the socket is closed.
    pub async fn new(
        address: impl ToSocketAddrs,
        identity: impl Into<Identity>,
        remote: Remote,
        config: Config,
    ) -> io::Result<Self> {
        let identity = identity.into();
        config.check()?;
        let addresses: Vec<_> = lookup_host(address).await?.collect();
        Self::from_socket(reach(&addresses, config.connect_timeout).await?, identity, remote, config)
    }

    /// Uses a transport that is connected: see [`connect_socket`]. Nothing is sent yet.
    ///
    /// # Errors
    /// See [`connect`].
    pub fn from_socket(
        transport: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        identity: impl Into<Identity>,
        remote: Remote,
        config: Config,
    ) -> io::Result<Self> {
        Self::create(Transport::new(transport)?, identity.into(), remote, Arc::new(config))
    }

    pub(crate) fn dialed(
        socket: TcpStream,
        identity: Identity,
        remote: Remote,
        config: Arc<Config>,
    ) -> io::Result<Self> {
        Self::create(Transport::new(socket)?, identity, remote, config)
    }

    fn create(transport: Transport, identity: Identity, remote: Remote, config: Arc<Config>) -> io::Result<Self> {
        let clock = Clock::start();
        let (addresses, now) = (transport.addresses(None), clock.with_wall_clock());
        let setup = Setup::initiator(config, identity, remote, addresses, now, &mut getrandom::SysRng)?;
        let shared = Shared { link: Link::new(setup.driver().clone()), clock };
        Ok(Self { setup, shared, transport: Some(transport) })
    }

    pub(crate) const fn driver(&self) -> &Arc<Driver> {
        self.setup.driver()
    }

    /// Opens a stream that may travel as early data: its first bytes, up to 1136 with all that is early, if they are written before [`Connecting::handshake`]. See
    /// [`peermux_core::Connection::open_early`] for what early data lacks.
    ///
    /// Nothing is sent before [`Connecting::handshake`] is polled: do not wait before that for more than 2048 bytes to be written, for a flush, or for an answer.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_early(&self, protocol: Option<&str>, priority: Priority) -> Result<Stream, OpenError> {
        let stream = self.driver().open_early(protocol, priority)?;
        self.setup.trace().opened(&stream);
        Ok(Stream::new(stream, &self.shared))
    }

    /// Begins, and waits for the handshake. Calls `approve` if the configuration or `remote` says that the application must approve the peer. An answer to early data can come
    /// before.
    ///
    /// # Errors
    /// See [`connect`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the handshake is aborted and the transport is closed.
    pub async fn handshake<A: Into<Approval>>(mut self, approve: impl FnMut(&PeerInfo) -> A) -> io::Result<Connection> {
        if let Some(transport) = self.transport.take() {
            start(&self.setup, &self.shared, transport)?;
        }
        establish(&self.setup, &self.shared, approve).await.map_err(ConnectionError::into_dial_error)
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        // After the handshake has begun, its own future closes the connection.
        if self.transport.is_some() {
            self.driver().with(|connection| connection.close(Code::CANCELLED, ""));
        }
    }
}

/// Starts the task of a connection.
pub(crate) fn start(setup: &Setup, shared: &Shared, transport: Transport) -> io::Result<()> {
    setup.trace().start(setup.driver(), || {
        task::start(shared, transport);
        Ok(())
    })
}

/// Waits for the handshake and the decision about the peer.
pub(crate) async fn establish<A: Into<Approval>>(
    setup: &Setup,
    shared: &Shared,
    approve: impl FnMut(&PeerInfo) -> A,
) -> Result<Connection, ConnectionError> {
    Ok(Connection::new(setup, shared, handshake(setup, false, approve).await?))
}

/// Waits for the handshake and the decision about the peer, or, if `early`, until early data was accepted.
pub(crate) async fn handshake<A: Into<Approval>>(
    setup: &Setup,
    early: bool,
    mut approve: impl FnMut(&PeerInfo) -> A,
) -> Result<PeerInfo, ConnectionError> {
    let mut handshake = setup.handshake(early);
    poll_fn(|cx| handshake.poll(cx.waker(), &mut approve)).await
}

impl Connection {
    pub(crate) fn new(setup: &Setup, shared: &Shared, peer: PeerInfo) -> Self {
        Self { handle: Arc::new(setup.handle(peer)), shared: shared.clone() }
    }

    pub(crate) const fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn trace(&self) -> &Trace {
        self.handle.trace()
    }

    /// Opens a stream that speaks `protocol`, a name of 1 to 64 bytes of printable ASCII without space, or that names none.
    ///
    /// This does not wait: the peer learns of the stream with the first bytes that are written to it, or when it is read, flushed or shut down.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_stream(&self, protocol: Option<&str>, priority: Priority) -> Result<Stream, OpenError> {
        let stream = self.driver().open(protocol, priority)?;
        self.trace().opened(&stream);
        Ok(Stream::new(stream, &self.shared))
    }

    /// Waits for the next stream that the peer opens. Several tasks may wait at once; each stream goes to one of them.
    ///
    /// # Errors
    /// Returns why the connection ended, once all streams that were opened before are accepted.
    ///
    /// # Cancel safety
    /// This method is cancel safe: no stream is lost if the future is dropped.
    pub async fn accept_stream(&self) -> Result<Stream, ConnectionError> {
        let mut waiter = self.driver().waiter();
        let stream = poll_fn(|cx| waiter.poll_accept(cx.waker())).await?;
        self.trace().stream_accepted(&stream);
        Ok(Stream::new(stream, &self.shared))
    }

    /// Waits until the peer has proved its key and is accepted. That is so from the beginning, except for a connection whose early data was accepted: it exists before, with the key that
    /// the peer claims, and only its early streams can be read and answered.
    ///
    /// # Errors
    /// Returns why the connection ended instead.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn handshake_confirmed(&self) -> Result<PeerInfo, ConnectionError> {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_confirmed(cx.waker())).await
    }

    /// Waits for the peer's attestation: one of at most 112 bytes is in [`PeerInfo::attestation`] from the beginning, and a longer one comes in one of the peer's first 16 records.
    /// Returns `None` once the peer has sent none and can send none any more, which takes 16 records. Nobody has verified it: see [`peermux_core::attestation`].
    ///
    /// # Errors
    /// Returns why the connection ended before.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn attestation(&self) -> Result<Option<Bytes>, ConnectionError> {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_attestation(cx.waker())).await
    }

    /// Waits until the connection has ended, and returns why.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn closed(&self) -> ConnectionError {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_ended(cx.waker())).await
    }

    /// Waits until nothing is to be sent or received any more, and the transport has this side's last record. A program that ends right after [`Connection::close`] or
    /// [`Connection::drain`] waits for this first. After the connection has ended this takes 3 s at most.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn transport_closed(&self) {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_closed(cx.waker())).await;
    }
}

peermux_core::connection_methods!(Connection);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}
