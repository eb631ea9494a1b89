//! Connections from their first byte to their handle, for all adapters.

use alloc::sync::Arc;
use core::fmt;
use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::io;
use std::sync::Mutex;

use rand_core::TryCryptoRng;

use super::{Driver, Progress, Waiter};
use crate::approval::Approval;
use crate::code::{Code, ProtocolCode};
use crate::config::{Config, ConfigError, Identity, Remote, ResponderKeys};
use crate::connection::{Connection, PeerInfo};
use crate::early::StrikeRegister;
use crate::error::ConnectionError;
use crate::time::Instant;
use crate::trace::Trace;

/// The addresses of a connection's transport, if it has any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The address on this side.
    pub local: Option<SocketAddr>,
    /// The address of the peer.
    pub remote: Option<SocketAddr>,
}

/// The time when a connection is created.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the adapter's clock.
    pub instant: Instant,
    /// In milliseconds since 1970.
    pub unix_millis: u64,
}

/// A connection that is not yet established.
#[derive(Clone)]
pub struct Setup {
    driver: Arc<Driver>,
    trace: Trace,
    addresses: Addresses,
}

impl Setup {
    /// Creates the connection of a dialer. Nothing is sent yet.
    ///
    /// # Errors
    /// Returns [`ConfigError`] as an [`io::Error`] if `config` cannot be used.
    pub fn initiator(
        config: Arc<Config>,
        identity: Identity,
        remote: Remote,
        addresses: Addresses,
        now: Now,
        rng: &mut impl TryCryptoRng,
    ) -> io::Result<Self> {
        let connection = Connection::initiator(config, identity, remote, now.instant, rng)?;
        Ok(Self::new(connection, None, Trace::dialing(addresses.remote), addresses, now))
    }

    /// Creates the connection of a listener. It accepts the early data of first flights that `register` has not seen.
    ///
    /// # Errors
    /// As for [`Setup::initiator`].
    pub fn responder(
        config: Arc<Config>,
        keys: ResponderKeys,
        register: Option<Arc<Mutex<StrikeRegister>>>,
        addresses: Addresses,
        now: Now,
        rng: &mut impl TryCryptoRng,
    ) -> io::Result<Self> {
        let connection = Connection::responder(config, keys, now.instant, rng)?;
        Ok(Self::new(connection, register, Trace::accepted(addresses.remote), addresses, now))
    }

    fn new(
        mut connection: Connection,
        register: Option<Arc<Mutex<StrikeRegister>>>,
        trace: Trace,
        addresses: Addresses,
        now: Now,
    ) -> Self {
        connection.set_wall_clock(now.instant, now.unix_millis);
        Self { driver: Driver::with_register(connection, register), trace, addresses }
    }

    /// Returns the connection's driver.
    pub const fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Returns the connection's trace.
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Returns the addresses of the transport.
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Returns the handshake, to be polled. If `early`, it is done already when early data was accepted.
    pub fn handshake(&self, early: bool) -> Handshake {
        Handshake { setup: self.clone(), waiter: self.driver.waiter(), early, over: false }
    }

    /// Returns the handle of the connection, once the handshake has said who `peer` is. When it is dropped, the connection drains: there is one.
    pub fn handle(&self, peer: PeerInfo) -> Handle {
        Handle { setup: self.clone(), peer }
    }
}

/// A handshake, and the decision about the peer. If it is dropped before it is done, the connection is closed.
pub struct Handshake {
    setup: Setup,
    waiter: Waiter,
    early: bool,
    over: bool,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if !self.over {
            self.setup.driver.with(|connection| connection.close(Code::CANCELLED, ""));
        }
    }
}

impl Handshake {
    /// Ready once the peer has proved its key and is accepted. `approve` is called if the application must decide about the peer; `waker` is woken when there is more to do.
    ///
    /// # Errors
    /// Returns why the connection ended.
    pub fn poll<A: Into<Approval>>(
        &mut self,
        waker: &Waker,
        mut approve: impl FnMut(&PeerInfo) -> A,
    ) -> Poll<Result<PeerInfo, ConnectionError>> {
        loop {
            let Poll::Ready(progress) = self.waiter.poll_progress(waker) else { return Poll::Pending };
            let result = match progress {
                Ok(Progress::Claimed(peer)) if self.early => {
                    self.setup.trace.early_accepted(&peer);
                    Ok(peer)
                }
                Ok(Progress::Claimed(_)) => continue,
                Ok(Progress::Ask(peer)) => {
                    let approval = approve(&peer).into();
                    self.setup.driver.with(|connection| connection.decide_peer(&approval));
                    continue;
                }
                Ok(Progress::Established(peer)) => Ok(peer),
                Err(error) => Err(error),
            };
            self.over = true;
            self.setup.trace.look();
            return Poll::Ready(result);
        }
    }
}

/// What all clones of an adapter's `Connection` share. When it is dropped, the connection drains.
pub struct Handle {
    setup: Setup,
    peer: PeerInfo,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.trace().drains(self.driver());
        // Streams that are held go on, and what was finished is sent.
        self.driver().with(|connection| {
            connection.drain(ProtocolCode::GOING_AWAY);
            // Nobody is left to accept these, and the connection would wait for them.
            while let Some(id) = connection.accept() {
                connection.refuse(id, Code::REFUSED);
            }
        });
    }
}

impl Handle {
    /// Returns the connection's driver.
    pub const fn driver(&self) -> &Arc<Driver> {
        &self.setup.driver
    }

    /// Returns the connection's trace.
    pub const fn trace(&self) -> &Trace {
        &self.setup.trace
    }

    /// Returns the addresses of the transport.
    pub const fn addresses(&self) -> Addresses {
        self.setup.addresses
    }

    /// Returns what the handshake proved of the peer.
    pub const fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// Drains the connection: see [`Connection::drain`](crate::Connection::drain).
    pub fn drain(&self) {
        self.trace().drains(self.driver());
        self.driver().with(|connection| connection.drain(ProtocolCode::GOING_AWAY));
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("remote", &self.setup.addresses.remote)
            .finish_non_exhaustive()
    }
}

/// Why a listener did not get a connection.
#[derive(Debug)]
pub struct AcceptError {
    /// The address of the dialer; `None` if there is none, or if the listening socket itself failed.
    pub remote: Option<SocketAddr>,
    /// The error of the socket, or one that holds a [`ConnectionError`]: see [`io::Error::get_ref`].
    pub error: io::Error,
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remote {
            Some(remote) => write!(f, "{remote}: {}", self.error),
            None => fmt::Display::fmt(&self.error, f),
        }
    }
}

impl std::error::Error for AcceptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<ConfigError> for io::Error {
    fn from(error: ConfigError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}
