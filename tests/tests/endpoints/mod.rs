//! The endpoints of both adapters behind one blocking face.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "as the module adapter")]

pub mod scenarios;
pub mod script;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use peermux_core::crypto::{PublicKey, StaticSecret};
use peermux_core::driver::Driver;
use peermux_core::endpoint::{EndpointLimits, RegisterError};
use peermux_core::{Config, ExpectedPeer, Identity, ResponderKeys};

use crate::adapter::tokio_face::{Blocking, wait};
use crate::adapter::{Connected, Duplex};

/// An endpoint of one adapter.
pub trait Node: Clone + Send + Sync + 'static {
    type Connection: Link;
    type ProtocolListener: Accepting<Connection = Self::Connection>;

    fn from_listener(
        socket: TcpListener,
        keys: impl Into<ResponderKeys>,
        config: Config,
        limits: EndpointLimits,
        accepts: bool,
    ) -> io::Result<Self>;
    /// Dials without an endpoint, and as nobody.
    fn dial_anonymously(address: SocketAddr, peer: PublicKey) -> io::Result<Self::Connection>;
    fn address(&self) -> SocketAddr;
    fn key(&self) -> PublicKey;
    fn connect(&self, address: SocketAddr, peer: PublicKey) -> io::Result<Self::Connection>;
    /// `None` if that takes longer than `timeout`.
    fn connect_within(
        &self,
        address: SocketAddr,
        peer: PublicKey,
        timeout: Duration,
    ) -> Option<io::Result<Self::Connection>>;
    fn connection(&self, peer: &PublicKey) -> Option<Self::Connection>;
    fn connections(&self) -> Vec<Self::Connection>;
    fn register(&self, protocol: &str) -> Result<Self::ProtocolListener, RegisterError>;
    /// Drains, and waits until that is done.
    fn drain(&self);
}

pub trait Link: Connected {
    fn driver(&self) -> &Arc<Driver>;

    /// What both sides of a connection know it by.
    fn binding(&self) -> [u8; 64] {
        self.driver().with(|connection| *connection.channel_binding().expect("it is established"))
    }

    fn peer_key(&self) -> PublicKey {
        self.driver().with(|connection| connection.peer().expect("it is established").key)
    }
}

pub trait Accepting: Send + Sync + 'static {
    type Connection: Link;

    fn accept(&self) -> Option<(<Self::Connection as Connected>::Stream, Self::Connection)>;
    fn protocol(&self) -> String;
}

impl Node for peermux_std::Endpoint {
    type Connection = peermux_std::Connection;
    type ProtocolListener = peermux_std::ProtocolListener;

    fn from_listener(
        socket: TcpListener,
        keys: impl Into<ResponderKeys>,
        config: Config,
        limits: EndpointLimits,
        accepts: bool,
    ) -> io::Result<Self> {
        let keys = keys.into();
        Self::from_listener(socket, move || keys.clone(), config, limits, move |_| accepts)
    }

    fn dial_anonymously(address: SocketAddr, peer: PublicKey) -> io::Result<Self::Connection> {
        peermux_std::connect(address, Identity::Anonymous, ExpectedPeer::Key(peer), Config::default())
    }

    fn address(&self) -> SocketAddr {
        self.local_addr()
    }

    fn key(&self) -> PublicKey {
        self.public_key()
    }

    fn connect(&self, address: SocketAddr, peer: PublicKey) -> io::Result<Self::Connection> {
        self.connect(address, peer)
    }

    fn connect_within(
        &self,
        address: SocketAddr,
        peer: PublicKey,
        timeout: Duration,
    ) -> Option<io::Result<Self::Connection>> {
        match self.connect_timeout(address, peer, timeout) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && error.to_string().contains("in time") => None,
            result => Some(result),
        }
    }

    fn connection(&self, peer: &PublicKey) -> Option<Self::Connection> {
        self.connection(peer)
    }

    fn connections(&self) -> Vec<Self::Connection> {
        self.connections()
    }

    fn register(&self, protocol: &str) -> Result<Self::ProtocolListener, RegisterError> {
        self.register(protocol)
    }

    fn drain(&self) {
        self.drain();
        self.wait_idle();
    }
}

impl Link for peermux_std::Connection {
    fn driver(&self) -> &Arc<Driver> {
        self.driver()
    }
}

impl Accepting for peermux_std::ProtocolListener {
    type Connection = peermux_std::Connection;

    fn accept(&self) -> Option<(peermux_std::Stream, peermux_std::Connection)> {
        self.accept()
    }

    fn protocol(&self) -> String {
        self.protocol().into()
    }
}

impl Node for peermux_tokio::Endpoint {
    type Connection = peermux_tokio::Connection;
    type ProtocolListener = peermux_tokio::ProtocolListener;

    fn from_listener(
        socket: TcpListener,
        keys: impl Into<ResponderKeys>,
        config: Config,
        limits: EndpointLimits,
        accepts: bool,
    ) -> io::Result<Self> {
        let keys = keys.into();
        socket.set_nonblocking(true)?;
        wait(async {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            Self::from_listener(socket, move || keys.clone(), config, limits, move |_| accepts)
        })
    }

    fn dial_anonymously(address: SocketAddr, peer: PublicKey) -> io::Result<Self::Connection> {
        wait(peermux_tokio::connect(address, Identity::Anonymous, ExpectedPeer::Key(peer), Config::default()))
    }

    fn address(&self) -> SocketAddr {
        self.local_addr()
    }

    fn key(&self) -> PublicKey {
        self.public_key()
    }

    fn connect(&self, address: SocketAddr, peer: PublicKey) -> io::Result<Self::Connection> {
        wait(self.connect(address, peer))
    }

    fn connect_within(
        &self,
        address: SocketAddr,
        peer: PublicKey,
        timeout: Duration,
    ) -> Option<io::Result<Self::Connection>> {
        wait(async { tokio::time::timeout(timeout, self.connect(address, peer)).await.ok() })
    }

    fn connection(&self, peer: &PublicKey) -> Option<Self::Connection> {
        self.connection(peer)
    }

    fn connections(&self) -> Vec<Self::Connection> {
        self.connections()
    }

    fn register(&self, protocol: &str) -> Result<Self::ProtocolListener, RegisterError> {
        self.register(protocol)
    }

    fn drain(&self) {
        self.drain();
        wait(self.wait_idle());
    }
}

impl Link for peermux_tokio::Connection {
    fn driver(&self) -> &Arc<Driver> {
        self.driver()
    }
}

impl Accepting for peermux_tokio::ProtocolListener {
    type Connection = peermux_tokio::Connection;

    fn accept(&self) -> Option<(Blocking<peermux_tokio::Stream>, peermux_tokio::Connection)> {
        wait(self.accept()).map(|(stream, connection)| (Blocking(stream), connection))
    }

    fn protocol(&self) -> String {
        self.protocol().into()
    }
}

/// The stream of a node.
pub type StreamOf<N> = <<N as Node>::Connection as Connected>::Stream;

/// Reads to the end.
pub fn heard(stream: &mut impl Duplex) -> io::Result<Vec<u8>> {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).map(|_| heard)
}

pub fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("loopback listens")
}

pub fn limited<N: Node>(key: StaticSecret, limits: EndpointLimits) -> N {
    N::from_listener(loopback(), key, Config::default(), limits, true).expect("it is valid")
}

pub fn bind<N: Node>(key: StaticSecret) -> N {
    limited(key, EndpointLimits::default())
}
