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
    Approval, Code, Config, ConnectionError, Identity, OpenError, PeerInfo, Priority, ProtocolCode, PublicKey, Remote,
    Stats,
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
        self.trace.drains(driver);
        // Streams that are held go on, and what was finished is sent.
        driver.with(|connection| {
            connection.drain(ProtocolCode::GOING_AWAY);
            // Nobody is left to accept these, and the connection would wait for them.
            while let Some(id) = connection.accept() {
                connection.refuse(id, Code::REFUSED);
            }
        });
    }
}

/// Dials `address`, as `identity`, for `remote`.
///
/// If `address` names several, they are tried as RFC 8305 says: one more every 250 ms, or as soon as an attempt has failed, with families in turns. The first that answers is
/// taken. Each attempt may take [`Config::connect_timeout`]. Then this waits for the handshake, 15 s at most, and for the decision of the peer's application if that is asked, 18 s more at most. Looking a name up has no limit here.
///
/// # Errors
/// One that holds a [`ConnectError`](crate::ConnectError), with all addresses that were tried, a [`ConnectionError`] or a [`ConfigError`](crate::ConfigError): see
/// [`io::Error::get_ref`]. If a field of `config` is out of range, nobody is dialled. Peers that are to be asked about ([`Remote::Ask`], [`Config::ask`]) are refused: use [`connect_with`].
///
/// # Cancel safety
/// Dropping the future gives the connection up.
pub async fn connect(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
) -> io::Result<Connection> {
    connect_with(address, identity, remote, config, |_| false).await
}

/// As [`connect`]; `accept` decides about the peer where the configuration or `remote` says so: it returns a `bool` or an [`Approval`].
///
/// # Errors
/// As for [`connect`].
///
/// # Cancel safety
/// Dropping the future gives the connection up.
pub async fn connect_with<A: Into<Approval>>(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    let identity = identity.into();
    connect_over(socket(address, &config).await?, identity, remote, config, accept).await
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
pub async fn connect_over<A: Into<Approval>>(
    socket: TcpStream,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    Dialing::over(socket, identity, remote, config)?.establish(accept).await
}

/// A connection that is about to begin, to which early data can be given before it does.
///
/// Where [`Config::early_data`] is set and the responder's key is known, what is written to streams of [`Dialing::open_early`] travels with the first flight, so that a host that
/// accepts early data answers in one round trip. Where it does not, the data goes again by itself.
///
/// If it is dropped, or the future of [`Dialing::establish`], its early streams end with an error.
pub struct Dialing {
    transport: Arc<Transport>,
    socket: TcpStream,
    trace: Trace,
    abandon: Abandon,
}

impl Dialing {
    /// Connects to `address`; nothing is sent yet.
    ///
    /// # Errors
    /// As for [`connect`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn to(
        address: impl ToSocketAddrs,
        identity: impl Into<Identity>,
        remote: Remote,
        config: Config,
    ) -> io::Result<Self> {
        let identity = identity.into();
        Self::over(socket(address, &config).await?, identity, remote, config)
    }

    /// Uses a socket that was just connected; nothing is sent yet.
    ///
    /// # Errors
    /// As for [`connect`].
    pub fn over(socket: TcpStream, identity: impl Into<Identity>, remote: Remote, config: Config) -> io::Result<Self> {
        let (transport, trace) = prepare(&socket, identity.into(), remote, Arc::new(config))?;
        let abandon = Abandon(Some(transport.driver().clone()));
        Ok(Self { transport, socket, trace, abandon })
    }

    /// Opens a stream that may travel as early data: its first bytes, up to 1136 with all that is early, if they are written before
    /// [`Dialing::establish`]. See [`peermux_core::Connection::open_early`] for what early data lacks.
    ///
    /// Nothing is sent before [`Dialing::establish`] is polled: do not wait before that for more than 2048 bytes to be written, for a flush, or for an
    /// answer.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_early(&self, protocol: &str, priority: Priority) -> Result<Stream, OpenError> {
        let protocol = (!protocol.is_empty()).then_some(protocol);
        let stream = self.transport.driver().open_early(protocol, priority)?;
        self.trace.opened(&stream);
        Ok(Stream::new(stream, &self.transport))
    }

    /// Begins, and waits for the handshake; `accept` is asked about the peer where the configuration or `remote` says so. An answer to early data can come before.
    ///
    /// # Errors
    /// As for [`connect`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn establish<A: Into<Approval>>(self, accept: impl FnMut(&PeerInfo) -> A) -> io::Result<Connection> {
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
    remote: Remote,
    config: Arc<Config>,
) -> io::Result<(Arc<Transport>, Trace)> {
    let clock = Clock::start();
    let mut rng = getrandom::SysRng;
    let mut connection =
        peermux_core::Connection::initiator(config, identity, remote, clock.now(), &mut rng).map_err(invalid)?;
    connection.set_wall_clock(clock.now(), unix_millis());
    Ok((Transport::new(Driver::new(connection), clock, Addresses::of(socket)), Trace::dialing(socket.peer_addr().ok())))
}

/// Gives the connection up unless it is disarmed.
struct Abandon(Option<Arc<Driver>>);

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some(driver) = self.0.take() {
            driver.with(|connection| connection.close(Code::CANCELLED, ""));
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
        match poll_fn(|cx| waiter.poll_progress(cx.waker())).await {
            Ok(Progress::Claimed(peer)) if early => {
                trace.early_accepted(&peer);
                break Ok(peer);
            }
            Ok(Progress::Claimed(_)) => {}
            Ok(Progress::Ask(peer)) => {
                let approval = accept(&peer).into();
                driver.with(|connection| connection.decide_peer(&approval));
            }
            Ok(Progress::Established(peer)) => break Ok(peer),
            Err(error) => break Err(error),
        }
    };
    abandon.0 = None;
    trace.look();
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

    /// Opens a stream that speaks `protocol`, a name of 1 to 64 bytes of printable ASCII without space; an empty one names none.
    ///
    /// Nothing waits: the peer learns of the stream with the first bytes that are written to it, or when it is read, flushed or shut down.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, protocol: &str, priority: Priority) -> Result<Stream, OpenError> {
        let protocol = (!protocol.is_empty()).then_some(protocol);
        let stream = self.driver().open(protocol, priority)?;
        self.handle.trace.opened(&stream);
        Ok(Stream::new(stream, self.transport()))
    }

    /// The next stream that the peer opened. Several tasks may wait at once; each stream goes to one of them.
    ///
    /// # Errors
    /// Why the connection ended, once all streams that were opened before are accepted.
    ///
    /// # Cancel safety
    /// No stream is lost when the future is dropped.
    pub async fn accept(&self) -> Result<Stream, ConnectionError> {
        let mut waiter = self.driver().waiter();
        let stream = poll_fn(|cx| waiter.poll_accept(cx.waker())).await?;
        self.handle.trace.stream_accepted(&stream);
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
    pub async fn confirmed(&self) -> Result<PeerInfo, ConnectionError> {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_confirmed(cx.waker())).await
    }

    /// Returns the socket's address on this side.
    pub fn local_addr(&self) -> SocketAddr {
        self.transport().addresses().local
    }

    /// Returns the socket's address on the peer's side.
    pub fn peer_addr(&self) -> SocketAddr {
        self.transport().addresses().peer
    }

    /// Returns what the connection has done so far, and what it holds now.
    pub fn stats(&self) -> Stats {
        self.driver().look(peermux_core::Connection::stats)
    }

    /// Returns the round trip time, smoothed; zero before the first measurement.
    pub fn round_trip(&self) -> Duration {
        self.driver().look(peermux_core::Connection::round_trip)
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
    /// ([spec](peermux_core::spec) section 5). Returns `None` if `label` is longer than 255 bytes, or if `out` is empty or longer than 16,320.
    pub fn export(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
        self.driver().look(|connection| connection.export(label, context, out))
    }

    /// Returns the channel binding: the handshake's hash, the same on both sides, and of no other connection.
    pub fn channel_binding(&self) -> [u8; 64] {
        self.driver().channel_binding()
    }

    /// What the handshake proved of the peer; or what it claims, see [`Connection::confirmed`].
    pub fn peer(&self) -> &PeerInfo {
        &self.handle.peer
    }

    /// The peer's static key.
    pub fn peer_key(&self) -> PublicKey {
        self.handle.peer.key
    }

    /// Closes the connection with a code of the application's and a reason of at most 256 bytes, and waits until the peer knows, or 3 s have
    /// passed. What is queued is dropped: use [`Connection::drain`] to let it finish.
    ///
    /// # Cancel safety
    /// The connection is closed even if the future is dropped after its first poll.
    pub async fn close(&self, code: u64, reason: &str) {
        self.driver().with(|connection| connection.close(Code::Application(code), reason));
        self.closed().await;
    }

    /// Opens no more streams, asks the peer to open none, and closes once all that are open are done and dropped. The streams that the
    /// peer has opened are among these, so accept them to the last.
    ///
    /// # Cancel safety
    /// The connection drains even if the future is dropped after its first poll.
    pub async fn drain(&self) {
        self.handle.trace.drains(self.driver());
        self.driver().with(|connection| connection.drain(ProtocolCode::GOING_AWAY));
        self.closed().await;
    }

    /// Waits until the connection has ended, and says why.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time.
    pub async fn ended(&self) -> ConnectionError {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_ended(cx.waker())).await
    }

    async fn closed(&self) {
        let mut waiter = self.driver().waiter();
        poll_fn(|cx| waiter.poll_closed(cx.waker())).await;
    }

    /// Why the connection ended, if it has.
    pub fn error(&self) -> Option<ConnectionError> {
        self.driver().look(|connection| connection.error().cloned())
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
