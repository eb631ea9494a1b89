//! Connections.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;

use peermux_core::driver::{Driver, Progress};
use peermux_core::trace::Trace;

use crate::listener::invalid;
use crate::pump::{self, Clock};
use crate::reach::{CONNECT_LIMIT, reach};
use crate::signal::Signal;
use crate::stream::Stream;
use crate::{Code, Config, ConnectionError, Identity, OpenError, PeerInfo, Priority, ProtocolCode, PublicKey, Remote};

/// A connection to a peer. Clones are handles to the same one; when the last handle and the last stream are dropped, it closes.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

struct Handle {
    driver: Arc<Driver>,
    peer: PeerInfo,
    /// Where threads wait that use this handle.
    signal: Arc<Signal>,
    trace: Trace,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.trace.drains(&self.driver);
        // What streams have finished is still sent; streams that are still held end with the connection.
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
/// Waits for the handshake, for which the peer has 15 s.
///
/// # Errors
/// The error of the socket, or one that holds a [`ConnectionError`] or a [`ConfigError`](crate::ConfigError): see
/// [`io::Error::get_ref`]. Peers that are to be asked about ([`Remote::Ask`], [`Config::ask`]) are refused: use [`connect_with`].
pub fn connect(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
) -> io::Result<Connection> {
    connect_with(address, identity, remote, config, |_| false)
}

/// As [`connect`]; `accept` is asked about the peer where the configuration or `remote` says so.
///
/// # Errors
/// As for [`connect`].
pub fn connect_with(
    address: impl ToSocketAddrs,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> bool,
) -> io::Result<Connection> {
    config.check().map_err(invalid)?;
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    // Nothing stops it, so there is a socket or an error.
    let socket = reach(&addresses, CONNECT_LIMIT, None)?.ok_or(io::ErrorKind::Interrupted)?;
    connect_over(socket, identity, remote, config, accept)
}

/// As [`connect_with`], over a socket that was just connected.
///
/// # Errors
/// As for [`connect`].
pub fn connect_over(
    socket: TcpStream,
    identity: impl Into<Identity>,
    remote: Remote,
    config: Config,
    accept: impl FnMut(&PeerInfo) -> bool,
) -> io::Result<Connection> {
    Ok(establish(begin(socket, identity.into(), remote, Arc::new(config))?, accept)?)
}

/// Begins a handshake as the one who dialled.
pub(crate) fn begin(
    socket: TcpStream,
    identity: Identity,
    remote: Remote,
    config: Arc<Config>,
) -> io::Result<(Arc<Driver>, Trace)> {
    let (clock, trace) = (Clock::start(), Trace::dialing(socket.peer_addr().ok()));
    let connection = peermux_core::Connection::initiator(config, identity, remote, clock.now(), &mut getrandom::SysRng)
        .map_err(invalid)?;
    let driver = Driver::new(connection);
    trace.start(&driver, || pump::start(socket, &driver, clock))?;
    Ok((driver, trace))
}

/// Waits for the handshake and the decision about the peer.
pub(crate) fn establish(
    (driver, trace): (Arc<Driver>, Trace),
    mut accept: impl FnMut(&PeerInfo) -> bool,
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
                let accepted = accept(&peer);
                abandon.0 = None;
                driver.with(|connection| match accepted {
                    true => connection.accept_peer(),
                    false => connection.refuse_peer(Code::REFUSED, ""),
                });
            }
            Progress::Established(peer) => {
                trace.look();
                return Ok(Connection { handle: Arc::new(Handle { driver, peer, signal, trace }) });
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

    /// What the handshake proved of the peer.
    pub fn peer(&self) -> &PeerInfo {
        &self.handle.peer
    }

    /// The peer's static key.
    pub fn peer_key(&self) -> PublicKey {
        self.handle.peer.key
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
        self.handle.driver.with(|connection| connection.error().cloned())
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
