//! Connections.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peermux_core::driver::{Driver, Progress};
use peermux_core::trace::Trace;

use crate::listener::invalid;
use crate::pump::{self, Clock};
use crate::reach::reach;
use crate::signal::Signal;
use crate::stream::Stream;
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
    driver: Arc<Driver>,
    peer: PeerInfo,
    addresses: Addresses,
    /// Where threads wait that use this handle.
    signal: Arc<Signal>,
    trace: Trace,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.trace.drains(&self.driver);
        // Streams that are held go on, and what was finished is sent.
        self.driver.with(|connection| {
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
pub fn connect(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
) -> io::Result<Connection> {
    connect_with(address, identity, remote, config, |_| false)
}

/// As [`connect`]; `accept` decides about the peer where the configuration or `remote` says so: it returns a `bool` or an [`Approval`].
///
/// # Errors
/// As for [`connect`].
pub fn connect_with<A: Into<Approval>>(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    config.check().map_err(invalid)?;
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    // Nothing stops it, so there is a socket or an error.
    let socket = reach(&addresses, config.connect_timeout, None)?.ok_or(io::ErrorKind::Interrupted)?;
    connect_over(socket, identity, remote, config, accept)
}

/// As [`connect_with`], over a socket that was just connected.
///
/// # Errors
/// As for [`connect`].
pub fn connect_over<A: Into<Approval>>(
    socket: TcpStream,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> A,
) -> io::Result<Connection> {
    establish(begin(socket, identity.into(), remote, Arc::new(config))?, accept)
        .map_err(ConnectionError::into_dial_error)
}

/// The addresses of a socket.
#[derive(Clone, Copy)]
struct Addresses {
    local: SocketAddr,
    peer: SocketAddr,
}

/// A connection whose handshake is under way.
pub(crate) struct Started {
    pub(crate) driver: Arc<Driver>,
    trace: Trace,
    addresses: Addresses,
}

impl Started {
    /// Starts the threads of `connection` over `socket`.
    pub(crate) fn new(
        socket: TcpStream,
        connection: peermux_core::Connection,
        clock: Clock,
        trace: impl FnOnce(Option<SocketAddr>) -> Trace,
    ) -> io::Result<Self> {
        // A socket that the peer has reset already has no address. Its handshake fails, so there will be no handle to tell it.
        let peer = socket.peer_addr().ok();
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let addresses = Addresses { local: socket.local_addr()?, peer: peer.unwrap_or(unknown) };
        let (driver, trace) = (Driver::new(connection), trace(peer));
        trace.start(&driver, || pump::start(socket, &driver, clock))?;
        Ok(Self { driver, trace, addresses })
    }
}

/// Begins a handshake as the one who dialled.
pub(crate) fn begin(socket: TcpStream, identity: Identity, remote: Remote, config: Arc<Config>) -> io::Result<Started> {
    let clock = Clock::start();
    let connection = peermux_core::Connection::initiator(config, identity, remote, clock.now(), &mut getrandom::SysRng)
        .map_err(invalid)?;
    Started::new(socket, connection, clock, Trace::dialing)
}

/// Waits for the handshake and the decision about the peer.
pub(crate) fn establish<A: Into<Approval>>(
    Started { driver, trace, addresses }: Started,
    mut accept: impl FnMut(&PeerInfo) -> A,
) -> Result<Connection, ConnectionError> {
    let signal = Arc::<Signal>::default();
    let mut waiter = driver.waiter();
    loop {
        match signal.block_on_forever(|waker| waiter.poll_progress(waker))? {
            // Early data is not accepted here: there is no strike register.
            Progress::Claimed(_) => {}
            Progress::Ask(peer) => {
                // If `accept` panics, nobody is left to decide.
                let mut abandon = Abandon(Some(&driver));
                let approval = accept(&peer).into();
                abandon.0 = None;
                driver.with(|connection| connection.decide_peer(&approval));
            }
            Progress::Established(peer) => {
                trace.look();
                let handle = Handle { driver, peer, addresses, signal, trace };
                return Ok(Connection { handle: Arc::new(handle) });
            }
        }
    }
}

/// Gives the connection up unless it is disarmed.
struct Abandon<'a>(Option<&'a Driver>);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(driver) = self.0 {
            driver.with(|connection| connection.close(Code::CANCELLED, ""));
        }
    }
}

impl Connection {
    /// Opens a stream that speaks `protocol`, a name of 1 to 64 bytes of printable ASCII without space; an empty one names none.
    ///
    /// Nothing waits: the peer learns of the stream with the first bytes that are written to it, or when it is read, flushed or shut down.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, protocol: &str, priority: Priority) -> Result<Stream, OpenError> {
        let protocol = (!protocol.is_empty()).then_some(protocol);
        let stream = self.handle.driver.open(protocol, priority)?;
        self.handle.trace.opened(&stream);
        Ok(Stream::new(stream))
    }

    /// The next stream that the peer opened. Several threads may wait at once; each stream goes to one of them.
    ///
    /// # Errors
    /// Why the connection ended, once all streams that were opened before are accepted.
    pub fn accept(&self) -> Result<Stream, ConnectionError> {
        let mut waiter = self.handle.driver.waiter();
        let stream = self.handle.signal.block_on_forever(|waker| waiter.poll_accept(waker))?;
        self.handle.trace.stream_accepted(&stream);
        Ok(Stream::new(stream))
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.handle.trace
    }

    /// Returns the socket's address on this side.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.addresses.local
    }

    /// Returns the socket's address on the peer's side.
    pub fn peer_addr(&self) -> SocketAddr {
        self.handle.addresses.peer
    }

    /// Returns what the connection has done so far, and what it holds now.
    pub fn stats(&self) -> Stats {
        self.handle.driver.look(peermux_core::Connection::stats)
    }

    /// Returns the round trip time, smoothed; zero before the first measurement.
    pub fn round_trip(&self) -> Duration {
        self.handle.driver.look(peermux_core::Connection::round_trip)
    }

    /// Fills `out` with keying material for the application, in the shape of RFC 5705: both sides get the same bytes for the same `label` and `context`
    /// ([spec](peermux_core::spec) section 5). Returns `None` if `label` is longer than 255 bytes, or if `out` is empty or longer than 16,320.
    pub fn export(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
        self.handle.driver.look(|connection| connection.export(label, context, out))
    }

    /// Returns the channel binding: the handshake's hash, the same on both sides, and of no other connection.
    pub fn channel_binding(&self) -> [u8; 64] {
        self.handle.driver.channel_binding()
    }

    /// What the handshake proved of the peer.
    pub fn peer(&self) -> &PeerInfo {
        &self.handle.peer
    }

    /// The peer's static key.
    pub fn peer_key(&self) -> PublicKey {
        self.handle.peer.key
    }

    /// Waits for the peer's attestation: one of at most 112 bytes is in [`PeerInfo::attestation`] from the beginning, and a longer one comes in one of the peer's first 16 records. Returns
    /// `None` once the peer has sent none and can send none any more, which takes 16 records. Nobody has verified it: see [`peermux_core::attestation`].
    ///
    /// # Errors
    /// Why the connection ended before.
    pub fn attestation(&self) -> Result<Option<Bytes>, ConnectionError> {
        let mut waiter = self.handle.driver.waiter();
        self.handle.signal.block_on_forever(|waker| waiter.poll_attestation(waker))
    }

    /// Closes the connection with a code of the application's and a reason of at most 256 bytes, and waits until the peer knows, or 3 s have
    /// passed. What is queued is dropped: use [`Connection::drain`] to let it finish.
    pub fn close(&self, code: u64, reason: &str) {
        self.handle.driver.with(|connection| connection.close(Code::Application(code), reason));
        self.closed();
    }

    /// Opens no more streams, asks the peer to open none, and closes once all that are open are done and dropped. The streams that the
    /// peer has opened are among these, so accept them to the last.
    pub fn drain(&self) {
        self.handle.trace.drains(&self.handle.driver);
        self.handle.driver.with(|connection| connection.drain(ProtocolCode::GOING_AWAY));
        self.closed();
    }

    /// Waits until the connection has ended, and says why.
    pub fn ended(&self) -> ConnectionError {
        let mut waiter = self.handle.driver.waiter();
        self.handle.signal.block_on_forever(|waker| waiter.poll_ended(waker))
    }

    fn closed(&self) {
        let mut waiter = self.handle.driver.waiter();
        self.handle.signal.block_on_forever(|waker| waiter.poll_closed(waker));
    }

    /// Why the connection ended, if it has.
    pub fn error(&self) -> Option<ConnectionError> {
        self.handle.driver.look(|connection| connection.error().cloned())
    }

    /// The shared state machine, for all that this adapter does not show.
    pub fn driver(&self) -> &Arc<Driver> {
        &self.handle.driver
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.handle.peer).finish_non_exhaustive()
    }
}
