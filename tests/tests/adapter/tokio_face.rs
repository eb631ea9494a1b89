//! The Tokio adapter: each call blocks on a runtime that all tests share.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use peermux_core::code::ErrorCode;
use peermux_core::error::{ConnectionError, OpenError};
use peermux_core::wire::Priority;

use peermux_core::{Config, ConnectionStats, ExpectedPeer, StreamStats};
use peermux_tests::{initiator_key, responder_key};
use peermux_tokio::{Connection, Listener, ReadHalf, Stream, WriteHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use super::{Connected, Duplex, Face, Listening};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts"));

pub fn wait<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

pub struct Tokio;

impl Face for Tokio {
    type Listener = Arc<Listener>;
    type Connection = Connection;

    fn listen(socket: TcpListener, config: Config) -> Arc<Listener> {
        let _guard = RUNTIME.enter();
        socket.set_nonblocking(true).expect("a socket");
        let socket = tokio::net::TcpListener::from_std(socket).expect("a socket that does not block");
        let listener = Listener::from_listener(socket, || responder_key().into(), config, |_| true);
        Arc::new(listener.expect("the configuration is valid"))
    }

    fn dial(socket: TcpStream, remote: ExpectedPeer, config: Config) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        wait(async {
            let socket = tokio::net::TcpStream::from_std(socket)?;
            peermux_tokio::connect_socket(socket, initiator_key(), remote, config, |_| false).await
        })
    }
}

impl Listening for Arc<Listener> {
    type Connection = Connection;

    fn outcome(&self) -> Result<Connection, (Option<SocketAddr>, io::Error)> {
        wait(self.next_outcome()).expect("it listens").map_err(|error| (error.peer, error.error))
    }
}

impl Connected for Connection {
    type Stream = Blocking<Stream>;

    fn open_stream(&self, protocol: Option<&str>, priority: Priority) -> Result<Blocking<Stream>, OpenError> {
        self.open_stream(protocol, priority).map(Blocking)
    }

    fn accept_stream(&self) -> Result<Blocking<Stream>, ConnectionError> {
        wait(self.accept_stream()).map(Blocking)
    }

    fn close(&self, code: u64, reason: &str) {
        self.close(code, reason);
        wait(self.transport_closed());
    }

    fn drain(&self) {
        self.drain();
        wait(self.transport_closed());
    }

    fn closed(&self) -> ConnectionError {
        wait(self.closed())
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
        wait(self.attestation())
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

pub struct Blocking<T>(pub T);

impl<T: AsyncReadExt + Unpin> Read for Blocking<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        wait(self.0.read(out))
    }
}

impl<T: AsyncWriteExt + Unpin> Write for Blocking<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        wait(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        wait(self.0.flush())
    }
}

impl Duplex for Blocking<Stream> {
    type Reading = Blocking<ReadHalf>;
    type Writing = Blocking<WriteHalf>;

    fn protocol(&self) -> String {
        self.0.protocol().unwrap_or_default().to_string()
    }

    fn id(&self) -> Option<u64> {
        self.0.id()
    }

    fn is_early(&self) -> bool {
        self.0.is_early()
    }

    fn stats(&self) -> Option<StreamStats> {
        self.0.stats()
    }

    fn finish(&mut self) -> io::Result<()> {
        wait(self.0.shutdown())
    }

    fn reset(&mut self, code: u64) {
        self.0.write_half().reset(ErrorCode::Application(code));
    }

    fn stop(&mut self, code: u64) {
        self.0.read_half().stop(ErrorCode::Application(code));
    }

    fn refuse(self, code: u64) {
        self.0.refuse(ErrorCode::Application(code));
    }

    fn stopped(&self) -> Result<Option<ErrorCode>, ConnectionError> {
        wait(self.0.stopped())
    }

    fn halves(self) -> (Blocking<ReadHalf>, Blocking<WriteHalf>) {
        let (read, write) = self.0.into_split();
        (Blocking(read), Blocking(write))
    }

    fn finish_half(half: &mut Blocking<WriteHalf>) -> io::Result<()> {
        wait(half.0.shutdown())
    }
}
