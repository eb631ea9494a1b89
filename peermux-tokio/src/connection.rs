//! Connections.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peermux_core::driver::{Driver, Progress};
use peermux_core::trace::Trace;
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};

use crate::listener::invalid;
use crate::pump;
use crate::reach::reach;
use crate::stream::Stream;
use crate::transport::{Addresses, Clock, Transport, unix_millis};
use crate::{
    Approval, Config, ConnectionError, ConnectionStats, ErrorCode, ExpectedPeer, Identity, OpenError, PeerInfo,
    Priority, ProtocolErrorCode, PublicKey,
};

/// A connection to a peer. Clones are handles to the same one. When the last handle is dropped the connection drains: what is open on it goes on, and it closes
/// with the last stream. Streams that the peer has opened and that were not accepted are refused.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

struct Handle {
    transport: Arc<Transport>,
    peer: PeerInfo,
    trace: Trace,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let driver = self.transport.driver();
        self.trace.on_drain(driver);
        // Streams that are held go on, and what was finished is sent.
        driver.with(|connection| {
            connection.drain(ProtocolErrorCode::GOING_AWAY);
            // Nobody is left to accept these, and the connection would wait for them.
            while let Some(id) = connection.accept_stream() {
                connection.refuse(id, ErrorCode::REFUSED);
            }
        });
    }
}

/// Dials `address`, as `identity`, for the peer that is `expected`.
///
/// If `address` names several, they are tried as RFC 8305 says: one more every 250 ms, or as soon as an attempt has failed, with families in turns. The first that answers is
/// taken. Each attempt may take [`Config::connect_timeout`]. Then this waits for the handshake, 15 s at most, and for the decision of the peer's application if that is asked, 18 s more at most. Looking a name up has no limit here.
///
/// # Errors
/// One that holds a [`ConnectError`](crate::ConnectError), with all addresses that were tried, a [`ConnectionError`] or a [`ConfigError`](crate::ConfigError): see
/// [`io::Error::get_ref`]. If a field of `config` is out of range, nobody is dialled. Peers that are to be asked about ([`ExpectedPeer::Approve`], [`Config::approve_peers`]) are refused: use [`connect_with`].
///
/// # Cancel safety
/// Dropping the future gives the connection up.
pub async fn connect(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    expected: ExpectedPeer,
    config: Config,
) -> io::Result<Connection> {
    connect_with(address, identity, expected, config, |_| false).await
}

/// As [`connect`]; `accept` decides about the peer where the configuration or `expected` says so: it returns a `bool` or an [`Approval`].
///
/// # Errors
/// As for [`connect`].
///
/// # Cancel safety
/// Dropping the future gives the connection up.
pub async fn connect_with<A: Into<Approval>>(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    expected: ExpectedPeer,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    let identity = identity.into();
    connect_socket(socket(address, &config).await?, identity, expected, config, accept).await
}

/// Connects to `address`, if `config` can be used.
async fn socket(address: impl ToSocketAddrs, config: &Config) -> io::Result<TcpStream> {
    config.check().map_err(invalid)?;
    let addresses: Vec<_> = lookup_host(address).await?.collect();
    reach(&addresses, config.connect_timeout).await
}

/// As [`connect_with`], over a socket that was just connected.
///
/// # Errors
/// As for [`connect`].
///
/// # Cancel safety
/// Dropping the future gives the connection up.
pub async fn connect_socket<A: Into<Approval>>(
    socket: TcpStream,
    identity: impl Into<Identity>,
    expected: ExpectedPeer,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    Connecting::from_socket(socket, identity, expected, config)?.handshake(accept).await
}

/// A connection that is about to begin, to which early data can be given before it does.
///
/// Where [`Config::early_data`] is set and the responder's key is known, what is written to streams of [`Connecting::open_early`] travels with the first flight, so that a host that
/// accepts early data answers in one round trip. Where it does not, the data goes again by itself.
///
/// If it is dropped, or the future of [`Connecting::handshake`], its early streams end with an error.
pub struct Connecting {
    transport: Arc<Transport>,
    socket: TcpStream,
    trace: Trace,
    abandon: Abandon,
}

impl Connecting {
    /// Connects to `address`; nothing is sent yet.
    ///
    /// # Errors
    /// As for [`connect`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn new(
        address: impl ToSocketAddrs,
        identity: impl Into<Identity>,
        expected: ExpectedPeer,
        config: Config,
    ) -> io::Result<Self> {
        let identity = identity.into();
        Self::from_socket(socket(address, &config).await?, identity, expected, config)
    }

    /// Uses a socket that was just connected; nothing is sent yet.
    ///
    /// # Errors
    /// As for [`connect`].
    pub fn from_socket(
        socket: TcpStream,
        identity: impl Into<Identity>,
        expected: ExpectedPeer,
        config: Config,
    ) -> io::Result<Self> {
        let (transport, trace) = prepare(&socket, identity.into(), expected, Arc::new(config))?;
        let abandon = Abandon(Some(transport.driver().clone()));
        Ok(Self { transport, socket, trace, abandon })
    }

    /// Opens a stream that may travel as early data: its first bytes, up to 1136 with all that is early, if they are written before
    /// [`Connecting::handshake`]. See [`peermux_core::Connection::open_early`] for what early data lacks.
    ///
    /// Nothing is sent before [`Connecting::handshake`] is polled: do not wait before that for more than 2048 bytes to be written, for a flush, or for an
    /// answer.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_early(&self, protocol: Option<&str>, priority: Priority) -> Result<Stream, OpenError> {
        let stream = self.transport.driver().open_early(protocol, priority)?;
        self.trace.on_stream_opened(&stream);
        Ok(Stream::new(stream, &self.transport))
    }

    /// Begins, and waits for the handshake; `accept` is asked about the peer where the configuration or `expected` says so. An answer to early data can come before.
    ///
    /// # Errors
    /// As for [`connect`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn handshake<A: Into<Approval>>(self, accept: impl FnMut(&PeerInfo) -> A) -> io::Result<Connection> {
        let Self { transport, socket, trace, mut abandon } = self;
        trace.start(transport.driver(), || pump::start(socket, &transport))?;
        let peer =
            establish(transport.driver(), accept, false, &trace).await.map_err(ConnectionError::into_dial_error)?;
        abandon.0 = None;
        Ok(Connection::new(transport, peer, trace))
    }
}

/// The connection of the one who has dialled; nothing is sent yet.
pub(crate) fn prepare(
    socket: &TcpStream,
    identity: Identity,
    expected: ExpectedPeer,
    config: Arc<Config>,
) -> io::Result<(Arc<Transport>, Trace)> {
    let clock = Clock::start();
    let mut rng = getrandom::SysRng;
    let mut connection =
        peermux_core::Connection::initiator(config, identity, expected, clock.now(), &mut rng).map_err(invalid)?;
    connection.set_wall_clock(clock.now(), unix_millis());
    Ok((Transport::new(Driver::new(connection), clock, Addresses::of(socket)), Trace::dialing(socket.peer_addr().ok())))
}

/// Gives the connection up unless it is disarmed.
struct Abandon(Option<Arc<Driver>>);

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some(driver) = self.0.take() {
            driver.with(|connection| connection.close(ErrorCode::CANCELLED, ""));
        }
    }
}

/// Waits for the handshake and the decision about the peer, or, if `early`, until early data was accepted.
pub(crate) async fn establish<A: Into<Approval>>(
    driver: &Arc<Driver>,
    mut accept: impl FnMut(&PeerInfo) -> A,
    early: bool,
    trace: &Trace,
) -> Result<PeerInfo, ConnectionError> {
    let mut abandon = Abandon(Some(driver.clone()));
    let mut waiter = driver.waiter();
    let result = loop {
        match poll_fn(|cx| waiter.poll_handshake(cx.waker())).await {
            Ok(Progress::Claimed(peer)) if early => {
                trace.on_early_accepted(&peer);
                break Ok(peer);
            }
            Ok(Progress::Claimed(_)) => {}
            Ok(Progress::ApprovePeer(peer)) => {
                let approval = accept(&peer).into();
                driver.with(|connection| connection.decide_peer(&approval));
            }
            Ok(Progress::Established(peer)) => break Ok(peer),
            Err(error) => break Err(error),
        }
    };
    abandon.0 = None;
    trace.flush();
    result
}

impl Connection {
    pub(crate) fn new(transport: Arc<Transport>, peer: PeerInfo, trace: Trace) -> Self {
        Self { handle: Arc::new(Handle { transport, peer, trace }) }
    }

    pub(crate) fn transport(&self) -> &Arc<Transport> {
        &self.handle.transport
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.handle.trace
    }

    /// Opens a stream that speaks `protocol`, a name of 1 to 64 bytes of printable ASCII without space, or that names none.
    ///
    /// Nothing waits: the peer learns of the stream with the first bytes that are written to it, or when it is read, flushed or shut down.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_stream(&self, protocol: Option<&str>, priority: Priority) -> Result<Stream, OpenError> {
        let stream = self.driver().open_stream(protocol, priority)?;
        self.handle.trace.on_stream_opened(&stream);
        Ok(Stream::new(stream, self.transport()))
    }

    /// The next stream that the peer opened. Several tasks may wait at once; each stream goes to one of them.
    ///
    /// # Errors
    /// Why the connection ended, once all streams that were opened before are accepted.
    ///
    /// # Cancel safety
    /// No stream is lost when the future is dropped.
    pub async fn accept_stream(&self) -> Result<Stream, ConnectionError> {
        let mut waiter = self.driver().waiter();
        let stream = poll_fn(|cx| waiter.poll_accept(cx.waker())).await?;
        self.handle.trace.on_stream_accepted(&stream);
        Ok(Stream::new(stream, self.transport()))
    }

    /// Waits until the peer has proved its key. That is so from the beginning, except for a connection whose early data was accepted: it is there before, with
    /// what the peer claims, and only its early streams can be read and answered.
    ///
    /// # Errors
    /// Why the connection ended instead.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn handshake_confirmed(&self) -> Result<PeerInfo, ConnectionError> {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_confirmed(cx.waker())).await
    }

    /// Returns the socket's address on this side.
    pub fn local_addr(&self) -> SocketAddr {
        self.transport().addresses().local
    }

    /// Returns the socket's address on the peer's side.
    pub fn remote_addr(&self) -> SocketAddr {
        self.transport().addresses().peer
    }

    /// Returns what the connection has done so far, and what it holds now.
    pub fn stats(&self) -> ConnectionStats {
        self.driver().look(peermux_core::Connection::stats)
    }

    /// Returns the round trip time, smoothed; zero before the first measurement.
    pub fn rtt(&self) -> Duration {
        self.driver().look(peermux_core::Connection::rtt)
    }

    /// Waits for the peer's attestation: one of at most 112 bytes is in [`PeerInfo::attestation`] from the beginning, and a longer one comes in one of the peer's first 16 records. Returns
    /// `None` once the peer has sent none and can send none any more, which takes 16 records. Nobody has verified it: see [`peermux_core::attestation`].
    ///
    /// # Errors
    /// Why the connection ended before.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn attestation(&self) -> Result<Option<Bytes>, ConnectionError> {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_attestation(cx.waker())).await
    }

    /// Fills `out` with keying material for the application, in the shape of RFC 5705: both sides get the same bytes for the same `label` and `context`
    /// (`docs/spec.md` section 5). Returns `None` if `label` is longer than 255 bytes, or if `out` is empty or longer than 16,320.
    pub fn export_keying_material(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
        self.driver().look(|connection| connection.export_keying_material(label, context, out))
    }

    /// Returns the channel binding: the handshake's hash, the same on both sides, and of no other connection.
    pub fn channel_binding(&self) -> [u8; 64] {
        self.driver().channel_binding()
    }

    /// What the handshake proved of the peer; or what it claims, see [`Connection::handshake_confirmed`].
    pub fn peer(&self) -> &PeerInfo {
        &self.handle.peer
    }

    /// The peer's static key.
    pub fn peer_key(&self) -> PublicKey {
        self.handle.peer.key
    }

    /// Closes the connection with a code of the application's and a reason of at most 256 bytes. What is queued is dropped: use [`Connection::drain`]
    /// to let it finish.
    ///
    /// Returns at once, and the connection has ended for this side. The connection's task sends CLOSE after that: a program that exits, or a runtime that
    /// shuts down, waits for [`Connection::transport_closed`] first.
    pub fn close(&self, code: u64, reason: &str) {
        self.driver().with(|connection| connection.close(ErrorCode::Application(code), reason));
    }

    /// Opens no more streams, asks the peer to open none, and closes once all that are open are done and dropped. The streams that the
    /// peer has opened are among these, so accept them to the last.
    ///
    /// Returns at once. [`Connection::closed`] waits until the connection has drained:
    ///
    /// ```
    /// # async fn drain(connection: peermux_tokio::Connection) {
    /// connection.drain();
    /// connection.closed().await;
    /// # }
    /// ```
    pub fn drain(&self) {
        self.handle.trace.on_drain(self.driver());
        self.driver().with(|connection| connection.drain(ProtocolErrorCode::GOING_AWAY));
    }

    /// Waits until the connection has ended for the application, and returns the reason. The transport may still have something to send and to receive: see
    /// [`Connection::transport_closed`].
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn closed(&self) -> ConnectionError {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_close_reason(cx.waker())).await
    }

    /// Waits until the transport has this side's last record, and nothing is to be sent or received any more: as a rule the peer knows then that the connection
    /// is closed. After [`Connection::close`] that takes 3 s at most, or a little more.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn transport_closed(&self) {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_transport_closed(cx.waker())).await;
    }

    /// Returns why the connection ended, if it has.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.driver().look(|connection| connection.close_reason().cloned())
    }

    /// The shared state machine, for all that this adapter does not show.
    pub fn driver(&self) -> &Arc<Driver> {
        self.handle.transport.driver()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.handle.peer).finish_non_exhaustive()
    }
}
