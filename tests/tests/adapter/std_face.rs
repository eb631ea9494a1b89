//! The std adapter.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use peermux_core::code::ErrorCode;
use peermux_core::error::{ConnectionError, OpenError};
use peermux_core::wire::Priority;

use peermux_core::{Config, ConnectionStats, ExpectedPeer, StreamStats};
use peermux_std::{Connection, Listener, Stream};
use peermux_tests::{initiator_key, responder_key};

use super::{Connected, Duplex, Face, Listening};

pub struct Std;

impl Face for Std {
    type Listener = Listener;
    type Connection = Connection;

    fn listen(socket: TcpListener, config: Config) -> Listener {
        Listener::from_listener(socket, || responder_key().into(), config, |_| true)
            .expect("the configuration is valid")
    }

    fn dial(socket: TcpStream, remote: ExpectedPeer, config: Config) -> io::Result<Connection> {
        peermux_std::connect_socket(socket, initiator_key(), remote, config, |_| false)
    }
}

impl Listening for Listener {
    type Connection = Connection;

    fn outcome(&self) -> Result<Connection, (Option<SocketAddr>, io::Error)> {
        self.next_outcome().expect("it listens").map_err(|error| (error.peer, error.error))
    }
}

impl Connected for Connection {
    type Stream = Stream;

    fn open_stream(&self, protocol: Option<&str>, priority: Priority) -> Result<Stream, OpenError> {
        self.open_stream(protocol, priority)
    }

    fn accept_stream(&self) -> Result<Stream, ConnectionError> {
        self.accept_stream()
    }

    fn close(&self, code: u64, reason: &str) {
        self.close(code, reason);
        self.transport_closed();
    }

    fn drain(&self) {
        self.drain();
        self.transport_closed();
    }

    fn closed(&self) -> ConnectionError {
        self.closed()
    }

    fn close_reason(&self) -> Option<ConnectionError> {
        self.close_reason()
    }

    fn is_draining(&self) -> bool {
        self.driver().with(|connection| connection.is_draining())
    }

    fn has_incoming(&self) -> bool {
        self.driver().with(|connection| connection.has_incoming())
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [self.local_addr(), self.remote_addr()]
    }

    fn channel_binding(&self) -> [u8; 64] {
        self.channel_binding()
    }

    fn attestation(&self) -> Result<Option<Bytes>, ConnectionError> {
        self.attestation()
    }

    fn exported(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut out = [0; 32];
        self.export_keying_material(label, b"context", &mut out)?;
        Some(out)
    }

    fn stats(&self) -> ConnectionStats {
        self.stats()
    }

    fn rtt(&self) -> Duration {
        self.rtt()
    }
}

impl Duplex for Stream {
    type Reading = Stream;
    type Writing = Stream;

    fn protocol(&self) -> String {
        self.protocol().unwrap_or_default().to_string()
    }

    fn id(&self) -> Option<u64> {
        self.id()
    }

    fn is_early(&self) -> bool {
        self.is_early()
    }

    fn stats(&self) -> Option<StreamStats> {
        self.stats()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn reset(&mut self, code: u64) {
        Self::reset(self, ErrorCode::Application(code));
    }

    fn stop(&mut self, code: u64) {
        Self::stop(self, ErrorCode::Application(code));
    }

    fn refuse(self, code: u64) {
        self.refuse(ErrorCode::Application(code));
    }

    fn stopped(&self) -> Result<Option<ErrorCode>, ConnectionError> {
        self.stopped()
    }

    fn halves(self) -> (Stream, Stream) {
        (self.try_clone().expect("it cannot fail"), self)
    }

    fn finish_half(half: &mut Stream) -> io::Result<()> {
        half.finish()
    }
}
